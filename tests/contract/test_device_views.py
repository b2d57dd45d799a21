"""Device views, on whatever device there is: what the body gets works with NumPy's functions on either kind."""

from __future__ import annotations

import mmap
import threading

import numpy as np
import pytest

import hmmemu as hmm


def test_the_body_works_on_the_array(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x = space.zeros((3, 100_000), np.int32)
    for turn in range(3):
        x += 1
        kernels.get_function("add")((4,), (128,), (x, np.int64(x.size), np.int32(turn)))
        with space.device_view(x[1:]) as view:
            assert view.shape == (2, 100_000) and view.dtype == np.int32 and view.strides == x.strides
            view *= 2
            assert int(np.max(view)) == int(np.min(view))
    assert (x[0] == 6).all() and (x[1:] == 2 * (2 * (2 * 1 + 2) + 3)).all()


def test_it_begins_when_earlier_launches_have_ended(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x, flag, stream = space.zeros(5000, np.int32), space.zeros(1, np.int32), hmm.Stream()
    if space.devices[0].kind == "cuda":
        pytest.skip("the kernel waits for the CPU, which it may do on an emulated device only")
    kernels.get_function("spin")((1,), (1,), (flag,), stream=stream)
    kernels.get_function("fill")((4,), (128,), (x, np.int64(x.size), np.int32(3)), stream=stream)
    assert not stream.done
    timer = threading.Timer(0.1, hmm.atomic_store, (flag, 0, 1))
    timer.start()
    with space.device_view(x) as view:
        assert stream.done and bool((view == 3).all())
    timer.join()


def test_launches_that_get_in_its_way_are_refused(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x, y = space.zeros(5000, np.int32), space.ones(5000, np.int32)
    copy = kernels.get_function("copy")

    def launch(source: np.ndarray, target: np.ndarray) -> None:
        copy((4,), (128,), (source, target, np.int64(5000)))

    with space.device_view(x):
        for arguments in ((x, y), (y, x)):
            with pytest.raises(
                hmm.ViewError, match="a device view writes pages of it: leave its `with` block"
            ):
                launch(*arguments)
        with pytest.raises(hmm.ViewError, match=r"device\.write"):
            space.devices[0].write(x, 1)
    with space.device_view(hmm.In(y)) as view:
        launch(y, x)
        with pytest.raises(hmm.ViewError, match="a device view reads pages of it"):
            launch(x, y)
        assert int(view.sum()) == 5000
    assert (x == 1).all()
    launch(y, x)


def test_in_reads_and_out_forgets(space: hmm.AddressSpace) -> None:
    plain = np.arange(5001, dtype=np.float64)
    with space.device_view(hmm.In(plain[1:])) as view:
        assert float(view.sum()) == plain.sum()  # the CPU may read it, too
        if isinstance(view, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                view[0] = 1
    x = space.ones(8192, np.int32)
    with space.device_view(hmm.Out(x)) as view:
        view[:] = 5
    assert (x == 5).all()


def test_wrong_use(space: hmm.AddressSpace) -> None:
    x = space.zeros(1024, np.int32)
    frozen = x.view()
    frozen.flags.writeable = False
    records = space.zeros(4, np.dtype([("a", "i4"), ("b", "f4")]))
    with hmm.AddressSpace(device="emulated") as other:
        wrong = [
            (lambda: space.device_view([1, 2]), "of a numpy array, not of a list"),
            (lambda: space.device_view(frozen), r"is read-only: pass hmm\.In"),
            (lambda: space.device_view(records), r"CuPy has no type for; .*view\(numpy\.uint8\)"),
            (lambda: space.device_view(x.astype(">i4")), "CuPy has no type for"),
            (lambda: space.device_view(np.ones(7)), r"other memory of the program lies.*hmm\.asarray"),
            (lambda: space.device_view(x, other.devices[0]), "on a device of this space, not on"),
        ]
        for make, words in wrong:
            with pytest.raises(hmm.ArgumentError, match=words):
                make()
    view = space.device_view(x)
    with view, pytest.raises(hmm.ViewError, match="is open already"):
        view.__enter__()
    assert "closed" in repr(view)
    with pytest.raises(hmm.ViewError if space.devices[0].kind == "cuda" else AttributeError):
        _ = view.__cuda_array_interface__


def test_memory_of_its_own_pages(space: hmm.AddressSpace) -> None:
    """A mapping that the program made is nobody else's."""
    with mmap.mmap(-1, 1 << 16) as memory:
        x = np.frombuffer(memory, np.int32)
        with space.device_view(x) as view:
            view += 3
        assert (x == 3).all()
        space.unregister(x)
        del view, x


def test_on_the_current_space(space: hmm.AddressSpace) -> None:
    x = hmm.zeros(100, np.float32)
    with hmm.device_view(x) as view, space.devices[0]:
        view += 1
    assert x.sum() == 100
    space.close()
    with pytest.raises(hmm.SpaceClosedError):
        space.device_view(x)


def test_a_view_of_a_closed_space(space: hmm.AddressSpace) -> None:
    view = space.device_view(space.zeros(100, np.float32))
    space.close()
    with pytest.raises(hmm.SpaceClosedError), view:
        pass
