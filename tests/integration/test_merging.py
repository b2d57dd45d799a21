"""Same-page merging: equal pages share a frame, no store is lost, and the kernel counts less memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from forking import in_child
from merging import PAGE, PAGES, noise, owners

import hmmemu as hmm


@pytest.fixture
def twins(space: hmm.AddressSpace) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of the space with the same content, merged."""
    x, y = space.array(noise(1)), space.array(noise(1))
    assert space.merge(x, y).merged == 2 * PAGES
    return x, y


def test_one_frame_for_two_pages(space: hmm.AddressSpace) -> None:
    x, y = space.array(noise(1)), space.array(noise(1))
    result = space.merge(x, y)
    assert (result.scanned, result.merged, result.sets, result.frames) == (2 * PAGES, 2 * PAGES, PAGES, PAGES)
    assert not result.stopped_by
    size = 2 * PAGES * PAGE
    assert result.pss_before >= size and abs(result.saved - size / 2) < size / 20  # as the kernel counts it
    assert f"{2 * PAGES:,} of {2 * PAGES:,}" in str(result)
    assert np.array_equal(x, noise(1)) and np.array_equal(y, noise(1))
    again = space.merge(x, y)
    assert (again.merged, again.sets, again.frames) == (2 * PAGES, PAGES, PAGES)


def test_the_record_lists_the_owners(space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = twins
    for page in (0, 511, PAGES - 1):
        places = sorted(a.ctypes.data + page * PAGE for a in (x, y))
        assert owners(space, x, page) == owners(space, y, page) == places
    keys = {owner.mapping for owner in space.record(x, 0)}
    assert len(keys) == 2 and all(owner.offset == 3 * PAGE for owner in space.record(x, 3))
    x[0] += 1
    assert owners(space, x, 0) == []
    assert owners(space, y, 0) == [y.ctypes.data]
    with pytest.raises(hmm.RangeError, match="600 pages"):
        space.record(x, PAGES)


def test_a_cpu_store_breaks_one_page(space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = twins
    want = noise(1)
    want[5000] = y[5000] = -1
    assert np.array_equal(y, want) and np.array_equal(x, noise(1))
    broken = 5000 * 4 // PAGE
    held = space.residency(y)
    assert held[broken] == "X-" and (np.delete(held, broken) == "S-").all()
    assert owners(space, y, broken + 1) != []


def test_devices_read_merged_pages(
    space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray], kernels: hmm.RawModule
) -> None:
    x, y = twins
    total = space.zeros(1, np.uint64)
    kernels.get_function("total")((8,), (64,), (x, x.size, total))
    space.synchronize()
    assert total[0] == noise(1).astype(np.uint64).sum()
    assert (space.residency(x) == "SS").all() and len(space.record(x, 7)) == 2
    x[7 * PAGE // 4] = 5  # the break takes the device's copy away
    assert space.residency(x)[7] == "X-"
    out = space.zeros(1, np.int32)
    kernels.get_function("peek")((1,), (1,), (x, 7 * PAGE // 4, out))
    space.synchronize()
    assert out[0] == 5 and y[7 * PAGE // 4] == noise(1)[7 * PAGE // 4]


@pytest.mark.parametrize("copies", [False, True], ids=["at the CPU", "with copies"])
def test_a_device_store_breaks(
    space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray], kernels: hmm.RawModule, copies: bool
) -> None:
    x, y = twins
    if copies:
        space.prefetch(x, space.devices[0], write=False)
        space.prefetch(y, space.devices[0], write=False)
    kernels.get_function("add")((8,), (64,), (y, y.size, 3))
    space.synchronize()
    assert owners(space, y, 0) == [] and len(space.record(x, 0)) == 1
    assert np.array_equal(y, noise(1) + np.int32(3)) and np.array_equal(x, noise(1))


def test_a_system_call_breaks(
    space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    from hmmemu import trackers

    if not trackers.probe(space.tracker).system_calls:
        pytest.skip("this tracker does not catch system calls")
    x, y = twins
    (tmp_path / "data").write_bytes(b"\x07" * (3 * PAGE))
    with (tmp_path / "data").open("rb", buffering=0) as file:
        assert file.readinto(memoryview(y).cast("B")[100 : 100 + 2 * PAGE]) == 2 * PAGE
    want = noise(1)
    want.view(np.uint8)[100 : 100 + 2 * PAGE] = 7
    assert np.array_equal(y, want) and np.array_equal(x, noise(1))


def test_pages_at_a_device_are_merged(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x, y = space.zeros(PAGES * 1024, np.int32), space.zeros(PAGES * 1024, np.int32)
    y[:] = x[:] = noise(2)
    space.devices[0].migrate(x)
    space.prefetch(y, space.devices[0])
    result = space.merge(x, y)
    assert result.merged == 2 * PAGES and (space.residency(x) == "SS").all()
    kernels.get_function("add")((8,), (64,), (x, x.size, 1))
    space.synchronize()
    assert np.array_equal(x, noise(2) + np.int32(1)) and np.array_equal(y, noise(2))


def test_only_equal_pages(space: hmm.AddressSpace) -> None:
    x, y = space.array(noise(1)), space.array(noise(1))
    y[::2048] += 1  # every second page differs, by one number
    result = space.merge(x, y)
    assert result.merged == PAGES and (result.sets, result.frames) == (PAGES // 2, PAGES // 2)
    assert owners(space, x, 0) == [] and len(owners(space, x, 1)) == 2


def test_many_owners(space: hmm.AddressSpace) -> None:
    arrays = [space.array(noise(3, 40)) for _ in range(5)]
    result = space.merge(*arrays)
    assert (result.merged, result.sets, result.frames) == (200, 40, 40)
    assert abs(result.saved - 160 * PAGE) < 20 * PAGE
    for array in arrays:
        array[0] = 0
    assert [owners(space, array, 0) for array in arrays] == [[]] * 5
    assert space.merge(arrays[0]).frames == 39  # nobody is left, and twins are sought in these arrays only
    assert space.merge(*arrays).frames == 40


def test_without_arguments_every_array(space: hmm.AddressSpace) -> None:
    x = space.array(noise(4))
    memory = np.empty(PAGES * PAGE + PAGE, np.uint8)
    y = memory[-memory.ctypes.data % PAGE :][: PAGES * PAGE].view(np.int32)
    y[:] = noise(4)
    space.register(y)
    assert space.merge().merged == 2 * PAGES
    assert owners(space, x, 1) == sorted(a.ctypes.data + PAGE for a in (x, y))  # and they stay so
    assert np.array_equal(y, noise(4))


def test_zeros_need_no_frame(space: hmm.AddressSpace) -> None:
    x = space.ones(PAGES * PAGE, np.uint8)
    x[:] = 0
    result = space.merge(x)
    assert (result.zeros, result.merged, result.frames) == (PAGES, 0, 0)
    assert result.saved > 0.9 * PAGES * PAGE or space.tracker == "signal"
    assert not x.any()
    x[9] = 1
    assert x.sum() == 1


def test_registered_arrays(space: hmm.AddressSpace) -> None:
    x = space.array(noise(4))
    memory = np.empty(PAGES * PAGE + PAGE, np.uint8)
    y = memory[-memory.ctypes.data % PAGE :][: PAGES * PAGE].view(np.int32)  # where a page begins
    y[:] = noise(4)
    assert space.merge(x, y).merged == 2 * PAGES
    y[1] = 2
    want = noise(4)
    want[1] = 2
    assert np.array_equal(y, want) and np.array_equal(x, noise(4))
    space.unregister(y)
    assert space.record(x, 3)[0].address == x.ctypes.data + 3 * PAGE and len(space.record(x, 3)) == 1
    y[2] = 3  # plain memory again
    assert y[2] == 3 and x[2] == noise(4)[2]


def test_fork(space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = twins

    def store_and_look() -> bool:
        x[0] = 1
        return np.array_equal(x[1:], noise(1)[1:]) and np.array_equal(y, noise(1))

    assert in_child(store_and_look) == 0
    assert np.array_equal(x, noise(1)) and np.array_equal(y, noise(1))
    assert space.merge(x, y).merged == 2 * PAGES  # the fork had broken them


def test_the_end(space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = twins
    space.close()
    assert np.array_equal(x, noise(1)) and np.array_equal(y, noise(1))
    x[:], y[:] = 1, 2
    assert (x == 1).all() and (y == 2).all()
    assert "hmmemu-frames" not in Path("/proc/self/maps").read_text() or os.environ.get("PYTEST_XDIST_WORKER")


def test_discard_and_free(space: hmm.AddressSpace, twins: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = twins
    space.discard(x)
    assert not x.any() and np.array_equal(y, noise(1))
    del x
    fresh = space.zeros(PAGES * 1024, np.int32)
    assert not fresh.any() and np.array_equal(y, noise(1))
    space.unmerge(y)
    assert owners(space, y, 0) == [] and np.array_equal(y, noise(1))
    assert space.merge(y).frames == 0


def test_protectors_hear_the_write_and_not_the_merge(space: hmm.AddressSpace) -> None:
    x, y = space.array(noise(8)), space.array(noise(8))
    space.dirty(x)
    frozen = space.snapshot_of(x)
    space.merge(x, y)
    assert space.dirty(x).size == 0 and len(space.record(x, 2)) == 2
    x[2 * 1024] = 5
    assert space.dirty(x).tolist() == [2]
    assert np.array_equal(np.asarray(frozen), noise(8))
