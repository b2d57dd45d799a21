"""Device views on the stand-in for a GPU: the same memory from two processes, in order with launches, and wrong use.

CuPy is fakecupy.py: its arrays are copies of streams at the addresses that hmmemu gives them.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from test_cuda_device import SOURCE, run

import hmmemu as hmm


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="test.cu")


def test_content_both_ways(gpu, cupy, kernels):
    """The CPU, a kernel and CuPy write in turn; an array over three granules, and a view that starts inside of one."""
    space = gpu("delay_us=300")
    x = space.zeros((3, 400_000), np.int32)
    for turn in range(3):
        x += np.arange(400_000, dtype=np.int32)
        run(space, kernels, "add", x, x, x.size, turn)
        expected = 2 * (x.copy() // 2)  # the CPU looks, too
        with space.device_view(x[1:]) as view:
            assert isinstance(view, cupy.ndarray) and view.shape == (2, 400_000) and view.dtype == np.int32
            assert view.strides == x.strides
            expected[1:] = view.get() * 3
            view.set(expected[1:])
        assert np.array_equal(x[1:], expected[1:])
        run(space, kernels, "fill", x, x.size, turn)
        assert (x == turn).all()


def test_the_block_ends_when_cupys_stream_has(gpu, cupy, monkeypatch):
    """The one that was current when it began, and the one that is when it ends."""
    space = gpu()
    x, first, last = space.zeros(1 << 16, np.int32), cupy.Stream(), cupy.Stream()
    monkeypatch.setenv("FAKE_CUDA", "delay_us=500000")  # in this process, from now on
    with cupy.use(first), space.device_view(x) as view:
        view.fill_bytes(1)
        assert not first.done
    assert first.done and (x == 0x01010101).all()
    with cupy.use(first):
        block = space.device_view(x)
        view = block.__enter__()
    with cupy.use(last):
        view.fill_bytes(3)
        block.__exit__(None, None, None)
    assert last.done and (x == 0x03030303).all()


def test_work_that_does_not_end(gpu, cupy, monkeypatch):
    space = gpu()
    x = space.zeros(1 << 12, np.int32)
    monkeypatch.setenv("FAKE_CUDA", "delay_us=800000")
    with pytest.raises(hmm.KernelTimeout, match=r"did not end within 0.05 s"), space.device_view(x) as view:
        space.timeout = 0.05
        view.fill_bytes(2)
    space.timeout = 60
    cupy.cuda.get_current_stream().synchronize()
    with space.device_view(x) as view:  # the space goes on
        assert (view.get() == 0x02020202).all()


def test_work_of_cupys_that_fails(gpu, cupy, kernels, monkeypatch):
    """Without a limit, too: such a stream is never done."""
    space = gpu()
    space.timeout = None
    x = space.zeros(1 << 12, np.int32)
    with pytest.raises(hmm.DeviceError, match="CUDA's result 700"), space.device_view(x):
        monkeypatch.setenv("FAKE_CUDA", "fail=cuStreamQuery:700")
    run(space, kernels, "fill", x, x.size, 5)
    assert (x == 5).all()


def test_launches_before_it_have_ended(gpu, cupy, kernels):
    space = gpu("delay_us=100,kernel_us=300000")
    x, stream = space.zeros(1 << 12, np.int32), hmm.Stream()
    run(space, kernels, "fill", x, x.size, 5, stream=stream)
    assert not stream.done
    with space.device_view(x) as view:
        assert stream.done and (view.get() == 5).all()


def test_launches_within_it(gpu, cupy, kernels):
    """Of other arrays they run; of its pages they are refused, with nothing changed."""
    space = gpu("delay_us=100")
    x, y, z = (space.zeros(1 << 12, np.int32) for _ in range(3))
    y[:] = 3
    with space.device_view(x) as view:
        run(space, kernels, "add", z, y, z.size, 1)
        for arguments in ((x, y), (y, x)):
            with pytest.raises(
                hmm.ViewError, match=r"kernel add \w+ the array .* device view writes pages of it"
            ):
                run(space, kernels, "add", *arguments, x.size, 1)
        with pytest.raises(hmm.ViewError, match=r"device.write writes"):
            space.devices[0].write(x, 1)
        with pytest.raises(hmm.ViewError, match="kernel add reads the array"):
            run(space, kernels, "add", z, y, z.size, 1, reaches=[hmm.In(x)])
        assert not view.get().any()
    assert (z == 4).all()
    with space.device_view(hmm.In(y)) as view:
        run(space, kernels, "add", z, y, z.size, 1)  # both read it
        with pytest.raises(hmm.ViewError, match="device view reads pages"):
            run(space, kernels, "fill", y, y.size, 9)
        assert (view.get() == 3).all()
    assert (z == 8).all()


def test_reading_leaves_the_cpu_its_copies(gpu, cupy):
    space = gpu()
    x = space.ones(1 << 14, np.int32)
    with space.device_view(hmm.In(x)) as view:
        assert set(space.residency(x)) == {"SS"}
        assert x.sum() == x.size and (view.get() == 1).all()
        x[0] = 7  # takes the GPU's right to read; the view keeps what it had
        assert (view.get() == 1).all()
    assert x[0] == 7 and x[1] == 1
    with space.device_view(hmm.In(x)) as view:
        assert view.get()[0] == 7


def test_out_moves_nothing_there(gpu, cupy):
    space = gpu()
    x = space.ones(1 << 14, np.int32)
    with space.device_view(hmm.Out(x)) as view:
        view.set(np.full(x.shape, 6, np.int32))
    assert not any(t["source"] == 0 for t in space.session.counters()["transfers"])
    assert (x == 6).all()


def test_plain_memory_that_is_only_read(gpu, cupy):
    """Other things lie on the pages of such an array: to read it takes nothing from them."""
    space = gpu()
    plain = np.arange(10_001, dtype=np.float64)
    with space.device_view(hmm.In(plain[1:])) as view:
        kept = [object() for _ in range(1000)]
        assert np.array_equal(view.get(), plain[1:]) and len(kept) == 1000
    with pytest.raises(hmm.ArgumentError, match=r"other memory of the program lies.*hmm.asarray"):
        space.device_view(plain)


def test_a_page_that_the_cpu_uses_is_told(gpu, cupy):
    """The thread goes on, and hears of it at the end; all other pages are what CuPy made of them."""
    space = gpu()
    x = space.zeros((4, 1024), np.int32)
    begin = time.monotonic()
    with (
        pytest.raises(
            hmm.ViewError, match=r"1 of 4 pages of the array .* \(the first: page 2\) .*hmm.In\(array\)"
        ),
        space.device_view(x) as view,
    ):
        view.fill_bytes(1)
        cupy.cuda.get_current_stream().synchronize()
        x[2, 5] = 9
        view.fill_bytes(2)
    assert time.monotonic() - begin < 20
    assert (x[[0, 1, 3]] == 0x02020202).all() and x[2, 5] == 9 and x[2, 6] == 0x01010101
    with space.device_view(x) as view:
        assert view.get()[2, 5] == 9


def test_what_failed_in_the_block_is_told_with_it(gpu, cupy):
    space = gpu()
    x = space.zeros(1024, np.int32)
    with pytest.raises(hmm.ViewError) as caught, space.device_view(x):
        raise KeyError(int(x[0]))
    assert isinstance(caught.value.__context__, KeyError)
    with pytest.raises(KeyError), space.device_view(x):
        raise KeyError(1)
    assert not space.views.of(space.devices[0])


def test_the_cpu_uses_other_pages_of_the_same_block(gpu, cupy, kernels):
    """They come at once, and growth of their faults leaves the view's pages where they are."""
    space = gpu()
    x, other = space.zeros(1 << 18, np.int32), space.zeros(1 << 12, np.int32)
    for array in (x, other):
        run(space, kernels, "fill", array, array.size, 3)
    begin = time.monotonic()
    part = x[50 * 1024 : 60 * 1024]
    with space.device_view(part) as view:
        assert (other == 3).all() and (x[: 50 * 1024] == 3).all()
        x[60 * 1024 :] += 1
        view.set(np.full(part.shape, 8, np.int32))
    assert time.monotonic() - begin < 20
    assert (part == 8).all() and x[0] == 3 and x[-1] == 4


def test_another_thread_uses_a_page(gpu, cupy):
    """It may hold what the thread of the view needs to go on, the interpreter for one, so it does not wait either."""
    space = gpu()
    x, seen = space.zeros(1 << 12, np.int32), []
    with pytest.raises(hmm.ViewError, match="1 of 4 pages"), space.device_view(x):
        thread = threading.Thread(target=lambda: seen.append(int(x[-1])))
        thread.start()
        thread.join(20)
    assert seen == [0]


def test_eviction_leaves_views_alone(gpu, cupy, kernels):
    """A device of 8 MiB; a view of 2 MiB; arrays of 3 MiB come and go in the rest."""
    space = gpu("bytes=16777216", device_memory=8 << 20)
    x = space.zeros(1 << 19, np.int32)
    arrays = [space.zeros(3 << 18, np.int32) for _ in range(4)]
    with space.device_view(x) as view:
        view.fill_bytes(5)
        for turn in range(2):
            for number, array in enumerate(arrays):
                run(space, kernels, "fill", array, array.size, 10 * turn + number)
        assert (view.get() == 0x05050505).all()
    assert (x == 0x05050505).all()
    assert all((array == 10 + number).all() for number, array in enumerate(arrays))
    assert space.session.counters()["processors"][1]["evicted_pages"] > 0


def test_memory_of_the_gpu_that_a_view_uses_is_not_given_up(gpu, cupy, kernels):
    """The GPU has 8 MiB, and no limit is set: a reading view keeps its granule though nothing there has rights."""
    space = gpu("bytes=8388608")
    x = space.ones(1 << 19, np.int32)
    with space.device_view(hmm.In(x)) as view:
        x[:] = 2  # the GPU has no right to any page of it
        for turn in range(4):
            y = space.zeros(1 << 19, np.int32)
            run(space, kernels, "fill", y, y.size, turn)
            assert (y == turn).all()
            y[:] = 0
        assert np.isin(view.get(), (1, 2)).all()  # a launch may bring what the CPU wrote, and need not


def test_more_than_the_device_has(gpu, cupy, kernels):
    space = gpu(device_memory=4 << 20)
    x, y = space.ones(4 << 20, np.int32), space.zeros(1 << 19, np.int32)
    with pytest.raises(hmm.OutOfMemoryError, match="take 16,384 KiB"), space.device_view(x):
        pass
    with space.device_view(x[: 1 << 19]), pytest.raises(hmm.OutOfMemoryError):
        run(space, kernels, "fill", x[1 << 20 :], 3 << 20, 1)
    with space.device_view(y) as view:
        view.fill_bytes(1)
    assert (x == 1).all() and (y == 0x01010101).all()


def test_cupy_copies_shared_memory_itself(gpu, cupy, kernels):
    """CUDA reads and writes pages that the GPU has, with locks of its own held: the copies are another process's."""
    space = gpu()
    x, y, z = (space.zeros(1 << 19, np.int32) for _ in range(3))
    for array in (x, z):
        run(space, kernels, "fill", array, array.size, 4)
    with space.device_view(y) as view:
        view.set(x)
        view.get(out=z)
    assert (y == 4).all() and (z == 4).all()
    with space.device_view(y) as view:
        view.fill_bytes(1)
        run(space, kernels, "fill", z, z.size, 5)
        view.get(out=z)
    assert (z == 0x01010101).all()


def test_several_views_at_once(gpu, cupy):
    """Of other arrays, and of the same pages: on one GPU they are the same memory."""
    space = gpu()
    x, y = space.zeros(1 << 12, np.int32), space.zeros(1 << 20, np.int32)
    with (
        space.device_view(x[:2048]) as low,
        space.device_view(x[1024:]) as high,
        space.device_view(y) as other,
    ):
        high.set(np.full(3072, 1, np.int32))
        other.fill_bytes(1)
        low.set(np.full(2048, 2, np.int32))
        assert (high.get() == [2] * 1024 + [1] * 2048).all()
    assert x.sum() == 2 * 2048 + 2048 and (y == 0x01010101).all()
    outer, inner = space.device_view(x), space.device_view(x)
    with outer:
        with inner:
            pass
        assert len(space.views.of(space.devices[0])) == 1
    assert not space.views.of(space.devices[0])


def test_strides_of_either_sign(gpu, cupy):
    space = gpu()
    x = space.zeros((40, 100), np.int16)
    x[:] = np.arange(4000).reshape(40, 100)
    for part in (x.T, x[::-1], x[3:9, ::-2]):
        with space.device_view(part) as view:
            address = view.data.ptr
            assert view.shape == part.shape and view.strides == part.strides
        with space.device_view(x) as whole:
            offset = part.ctypes.data - x.ctypes.data
            assert (address - whole.data.ptr) % (2 << 20) == offset % (2 << 20)
            assert whole.get()[0, 1] == 1


def test_no_elements(gpu, cupy):
    space = gpu()
    with space.device_view(space.zeros((0, 3), np.int32)) as view:
        assert view.shape == (0, 3)


def test_the_interface_of_other_libraries(gpu, cupy):
    space = gpu()
    x = space.zeros(1024, np.float32)
    view = space.device_view(x)
    with pytest.raises(hmm.ViewError, match=r"closed.*within its `with` block"):
        _ = view.__cuda_array_interface__
    with view as array:
        interface = view.__cuda_array_interface__
        assert interface["version"] == 3 and interface["data"] == (array.data.ptr, False)
        assert interface["stream"] == cupy.cuda.get_current_stream().ptr and interface["typestr"] == "<f4"
        with pytest.raises(hmm.ViewError, match="is open already"):
            view.__enter__()
    with view:  # once more
        assert "open" in repr(view) and "CUDA device 0" in repr(view)


def test_memory_stays_mapped_as_long_as_cupy_has_an_array_of_it(gpu, cupy):
    """A kernel that uses an address which is not mapped would end CuPy's context."""
    space = gpu()
    x = space.zeros(1024, np.int32)
    with space.device_view(x) as view:
        view.fill_bytes(1)
    assert (view.get() == 0x01010101).all()  # wrong use, and harmless
    address = view.data.mem.ptr
    del view
    with space.device_view(x) as view:
        pass
    assert _mapped(address) == (view.data.mem.ptr == address)
    del view
    assert not _mapped(address)


def _mapped(address):
    with open("/proc/self/maps") as maps:
        return any(line.startswith(f"{address:x}-") for line in maps)


def test_it_stays_mapped_until_the_gpu_is_done_with_it(gpu, cupy, monkeypatch):
    space = gpu()
    x, stream = space.zeros(1024, np.int32), cupy.Stream()
    with cupy.use(stream), space.device_view(x) as view:
        pass
    monkeypatch.setenv("FAKE_CUDA", "delay_us=200000")
    with cupy.use(stream):
        view.fill_bytes(1)
    assert not stream.done
    del view
    assert stream.done


def test_memory_that_cannot_be_unmapped_stays(gpu, cupy, monkeypatch):
    """As after a kernel of CuPy's that failed; nobody is left to be told."""
    space = gpu()
    x = space.zeros(1024, np.int32)
    with space.device_view(x) as view:
        view.fill_bytes(1)
    address = view.data.mem.ptr
    monkeypatch.setenv("FAKE_CUDA", "fail=cuMemUnmap:1")
    del view
    assert _mapped(address) and (x == 0x01010101).all()


@pytest.mark.parametrize(
    "call",
    ["cuMemAddressReserve:2", "cuMemImportFromShareableHandle:1", "cuMemMap:2", "cuMemSetAccess:1"],
)
def test_a_call_that_fails_is_told_and_nothing_is_left(gpu, cupy, monkeypatch, call):
    space = gpu()
    x = space.ones(3 << 18, np.int32)
    maps = _reserved()
    monkeypatch.setenv("FAKE_CUDA", f"fail={call}")  # in this process; the helper has its own environment
    with (
        pytest.raises(hmm.Error, match=f"cannot .* of GPU 0: {call.split(':')[0]}: ") as caught,
        space.device_view(x),
    ):
        pytest.fail("the body must not run")
    assert isinstance(caught.value, hmm.OutOfMemoryError) == (call.split(":")[1] == "2")
    monkeypatch.setenv("FAKE_CUDA", "")
    assert _reserved() == maps and not space.views.of(space.devices[0])
    assert (x == 1).all()
    with space.device_view(x) as view:
        view.fill_bytes(3)
    assert (x == 0x03030303).all()


def _reserved():
    gc.collect()  # views of earlier tests
    with open("/proc/self/maps") as maps:
        return sum("fake-gpu" in line for line in maps)


def test_memory_that_cannot_be_passed_on(gpu, cupy, kernels):
    """The first export is the keeper's; the helper lives on."""
    space = gpu("fail=cuMemExportToShareableHandle:1:2")
    x = space.ones(1024, np.int32)
    with (
        pytest.raises(
            hmm.DeviceError, match=r"cannot be shared: .*cuMemExportToShareableHandle: invalid argument"
        ),
        space.device_view(x),
    ):
        pytest.fail("the body must not run")
    run(space, kernels, "fill", x, x.size, 3)
    assert (x == 3).all()


def test_no_cupy(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    space = gpu()
    x = space.ones(1024, np.int32)
    with (
        pytest.raises(hmm.UnsupportedError, match="CuPy cannot be used in this process"),
        space.device_view(x),
    ):
        pytest.fail("the body must not run")
    assert (x == 1).all()


def test_a_device_that_dies_meanwhile(gpu, cupy, kernels):
    """By a kernel that fails, which the launch tells, and by a signal, which the view does."""
    space = gpu()
    x, y = space.ones(1 << 19, np.int32), space.zeros(1000, np.int32)
    with (
        pytest.raises(hmm.ViewError, match=r"was started again while a device view .* may be lost"),
        space.device_view(x) as view,
    ):
        view.fill_bytes(1)
        cupy.cuda.get_current_stream().synchronize()
        with pytest.raises(hmm.DeviceError, match="run kernel fail"):
            kernels.get_function("fail")((1,), (1,), (y,), device=space.devices[0])
        assert (view.get() == 0x01010101).all()  # the memory is there as long as somebody has it
    assert (x == 0x01010101).all()  # and was saved
    with pytest.raises(hmm.DeviceError, match=r"signal 9|ended"), space.device_view(x):
        os.kill(space.devices[0].process.pid, signal.SIGKILL)
        time.sleep(0.2)
    with space.device_view(x) as view:
        view.fill_bytes(4)
    assert (x == 0x04040404).all() and not space.views.of(space.devices[0])


def test_a_space_that_is_closed_meanwhile(gpu, cupy):
    space = gpu()
    x = space.ones(1024, np.int32)
    with pytest.raises(hmm.ViewError, match="the address space was closed while"), space.device_view(x):
        space.close()
    assert (x == 1).all()
    with pytest.raises(hmm.SpaceClosedError):
        space.device_view(x)


def test_two_devices(gpu, cupy, kernels):
    """Each with memory of its own, though it is one GPU here: what a view on one uses is out of the other's reach."""
    space = gpu(devices=2)
    first, second = space.devices
    x = space.zeros(1024, np.int32)
    with space.device_view(x, second) as view:
        refused = space.device_view(x, first)
        with pytest.raises(hmm.ViewError, match="in use by a view on CUDA device 1"):
            refused.__enter__()
        view.fill_bytes(2)
    with space.device_view(hmm.In(x), first) as one, space.device_view(hmm.In(x), second) as other:
        assert (one.get() == 0x02020202).all() and (other.get() == 0x02020202).all()
    with space.device_view(x, first) as view:
        view.fill_bytes(3)
    assert (x == 0x03030303).all()
