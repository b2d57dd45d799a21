"""Same-page merging: equal pages share a frame, no store is lost, and the kernel counts less memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest
from forking import in_child
from running import run_python

import hmmemu as hmm

PAGE = 4096
PAGES = 600  # more than a block of 512


def noise(seed: int, pages: int = PAGES) -> np.ndarray:
    """Pages no two of which are equal, as int32."""
    return np.random.default_rng(seed).integers(1, 1 << 31, pages * PAGE // 4, np.int32)


@pytest.fixture
def twins(space: hmm.AddressSpace) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of the space with the same content, merged."""
    x, y = space.array(noise(1)), space.array(noise(1))
    assert space.merge(x, y).merged == 2 * PAGES
    return x, y


def owners(space: hmm.AddressSpace, array: np.ndarray, page: int) -> list[int]:
    return [owner.address for owner in space.record(array, page)]


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


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[shared_memory.SharedMemory]:
    memory = shared_memory.SharedMemory(create=True, size=PAGES * PAGE)
    yield memory
    memory.close()
    memory.unlink()


def test_shared_memory(space: hmm.AddressSpace, shared: shared_memory.SharedMemory) -> None:
    x = space.array(noise(5))
    y = np.ndarray(x.shape, x.dtype, shared.buf)
    y[:] = noise(5)
    assert space.merge(x, y).merged == 2 * PAGES
    assert np.array_equal(y, noise(5))
    (own,) = (owner for owner in space.record(y, 3) if owner.address == y.ctypes.data + 3 * PAGE)
    assert own.offset == 3 * PAGE and own.private != 0
    y[3 * 1024] = 77
    y[PAGES * 1024 - 1] = 78

    def others_see_it() -> bool:
        with (Path("/dev/shm") / shared.name).open("rb") as file:
            there = np.frombuffer(file.read(), np.int32)
        return bool(there[3 * 1024] == 77 and there[-1] == 78)

    assert others_see_it() and np.array_equal(x, noise(5))
    assert owners(space, y, 3) == [] and len(owners(space, x, 4)) == 2
    space.unregister(y)
    y[0] = 79
    with (Path("/dev/shm") / shared.name).open("rb") as file:
        assert int.from_bytes(file.read(4), "little") == 79
    del y


def test_shared_memory_at_two_addresses_is_left_alone(
    space: hmm.AddressSpace, shared: shared_memory.SharedMemory
) -> None:
    other = shared_memory.SharedMemory(shared.name)
    x, y = (np.ndarray(PAGES * 1024, np.int32, memory.buf) for memory in (shared, other))
    x[:] = noise(6)
    result = space.merge(x, y)
    assert result.merged == 0 and result.skipped == 2 * PAGES
    del x, y
    other.close()


MODES = ("r+", "c", "r")


@pytest.fixture
def maps(space: hmm.AddressSpace, tmp_path: Path) -> list[np.ndarray]:
    """Copies of the same file, mapped in every mode."""
    for mode in MODES:
        noise(7).tofile(tmp_path / mode)
    try:
        return [space.register(np.memmap(tmp_path / mode, np.int32, mode)) for mode in MODES]
    except hmm.UnsupportedError as error:
        pytest.skip(str(error))


def test_copies_of_a_file_and_what_was_read_from_it(
    space: hmm.AddressSpace, maps: list[np.ndarray], kernels: hmm.RawModule, tmp_path: Path
) -> None:
    x = space.empty(PAGES * 1024, np.int32)
    space.prefetch(x, hmm.cpu)  # for trackers that do not catch system calls
    with (tmp_path / "r").open("rb", buffering=0) as file:
        assert file.readinto(memoryview(x).cast("B")) == PAGES * PAGE
    arrays = [*maps, x]
    result = space.merge(*arrays)
    assert (result.merged, result.frames) == (4 * PAGES, PAGES)
    assert abs(result.saved - 3 * PAGES * PAGE) < PAGES * PAGE / 10
    assert all(np.array_equal(a, noise(7)) for a in arrays)
    assert len(space.record(x, 5)) == 4
    want = [noise(7) for _ in arrays]
    for i in (0, 1, 3):
        arrays[i][i] = want[i][i] = i + 10
        arrays[i][5000 + i] = want[i][5000 + i] = i + 20
    kernels.get_function("add")((1,), (32,), (arrays[0][9000:], 100, 1))
    want[0][9000:9100] += 1
    space.synchronize()
    assert all(np.array_equal(a, w) for a, w in zip(arrays, want, strict=True))
    assert len(space.record(x, 5)) == 4
    maps[0].flush()
    assert np.array_equal(np.fromfile(tmp_path / "r+", np.int32), want[0])  # stores reached the file
    assert np.array_equal(np.fromfile(tmp_path / "c", np.int32), noise(7))  # and these did not


def test_another_writer_of_a_merged_file(
    space: hmm.AddressSpace, maps: list[np.ndarray], kernels: hmm.RawModule, tmp_path: Path
) -> None:
    x = space.array(noise(7))
    assert space.merge(x, *maps).merged == 4 * PAGES
    with (tmp_path / "r").open("r+b", buffering=0) as file:
        file.seek(3 * PAGE)
        file.write(b"\x05\0\0\0")
    out = space.zeros(1, np.int32)
    kernels.get_function("peek")((1,), (1,), (maps[2], 3 * 1024, out))  # noticed at the launch
    space.synchronize()
    want = noise(7)
    want[3 * 1024] = 5
    assert out[0] == 5 and np.array_equal(maps[2], want)
    assert np.array_equal(x, noise(7)) and np.array_equal(maps[0], noise(7))


@pytest.fixture
def file(space: hmm.AddressSpace, tmp_path: Path) -> Iterator[hmm.SharedFile]:
    noise(7).tofile(tmp_path / "shared")
    with hmm.SharedFile(tmp_path / "shared", "r+", np.int32, space=space) as opened:
        yield opened


@pytest.mark.parametrize("copies", [False, True], ids=["at the CPU", "with copies"])
def test_a_write_of_the_file_breaks(
    space: hmm.AddressSpace, file: hmm.SharedFile, tmp_path: Path, copies: bool
) -> None:
    x, y = file.array, space.array(noise(7))
    if copies:
        for array in (x, y):
            space.prefetch(array, space.devices[0], write=False)
    assert space.merge(x, y).merged == 2 * PAGES
    space.dirty(x)
    data = np.arange(1024, dtype=np.int32)
    assert file.pwrite(data, 3 * PAGE + 8) == PAGE  # of two pages
    want = noise(7)
    want[3 * 1024 + 2 :][:1024] = data
    assert space.dirty(x).tolist() == [3, 4]
    assert [len(space.record(x, i)) for i in (2, 3, 4, 5)] == [2, 0, 0, 2]
    assert np.array_equal(x, want) and np.array_equal(y, noise(7))
    assert np.array_equal(space.devices[0].read(x), want)
    assert np.array_equal(np.fromfile(tmp_path / "shared", np.int32), want)


def test_a_merged_file_is_truncated_and_grows(space: hmm.AddressSpace, file: hmm.SharedFile) -> None:
    x, y = file.array, space.array(noise(7))
    assert space.merge(x, y).merged == 2 * PAGES
    file.truncate(5 * PAGE + 8)
    want = noise(7)
    want[5 * 1024 + 2 :] = 0
    assert np.array_equal(x[: 6 * 1024], want[: 6 * 1024]) and np.array_equal(y, noise(7))
    assert len(space.record(x, 4)) == 2 and space.record(x, 5) == space.record(x, 9) == []
    with pytest.raises(hmm.TruncatedError, match="behind the end"):
        for _ in range(1000):
            assert x[9 * 1024] == 0
    file.truncate(PAGES * PAGE)
    assert np.array_equal(x, want)
    y[:] = x
    assert space.merge(x, y).merged >= 12  # pages of zeros that are y's alone go to the zero page
    x[0] = y[4 * 1024] = 1
    assert x[4 * 1024] == want[4 * 1024] and y[0] == want[0]


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


def test_merging_stops_for_mappings(space: hmm.AddressSpace) -> None:
    x, y = space.array(noise(9)), space.array(noise(9))
    x[::2048] += 1  # every second page has no twin: runs of one page, a mapping each
    start = space.merge(space.ones(PAGE, np.uint8)).mappings
    result = space.merge(x, y, max_mappings=start + 100)
    assert result.stopped_by == "vm.max_map_count" and 20 <= result.merged <= 110
    assert result.mappings <= start + 102 and "vm.max_map_count" in str(result)
    rest = space.merge(x, y)
    assert not rest.stopped_by and rest.merged == PAGES
    with pytest.raises(hmm.ArgumentError, match="max_mappings"):
        space.merge(x, max_mappings=0)


AT_THE_LIMIT = """
import ctypes, mmap, numpy as np, hmmemu as hmm
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
limit = int(open("/proc/sys/vm/max_map_count").read())
data = np.random.default_rng(1).integers(0, 256, 600 * 4096, np.uint8)
with hmm.AddressSpace(timeout=60) as space:
    x, y = space.array(data), space.array(data)
    assert space.merge(x, y).merged == 1200
    want = data.copy()
    fill = libc.mmap(None, 4096 * 3 * limit, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0)
    step = 0
    while libc.mprotect(fill + (2 * step + 1) * 4096, 4096, 1) == 0:
        step += 1
    assert ctypes.get_errno() == 12, ctypes.get_errno()
    assert libc.mmap(None, 4096, 0, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0) in (None, 2**64 - 1) or True
    y[300 * 4096] ^= 1
    want[300 * 4096] ^= 1
    for page in range(0, 600, 7):
        y[page * 4096 + 5] ^= 1
        want[page * 4096 + 5] ^= 1
    result = space.merge(x, y)
    assert result.stopped_by == "vm.max_map_count", result
    assert (y == want).all() and (x == data).all()
    assert libc.munmap(ctypes.c_void_p(fill), ctypes.c_size_t(4096 * 3 * limit)) == 0
assert (y == want).all() and (x == data).all()
print("nothing lost", step > 1000)
"""


def test_breaking_at_the_limit_of_mappings() -> None:
    done = run_python(AT_THE_LIMIT, timeout=120)
    assert done.stdout == "nothing lost True\n", done.stderr


def test_two_merges_at_once_take_turns(space: hmm.AddressSpace) -> None:
    x, y = space.array(noise(1)), space.array(noise(1))
    results: list[hmm.MergeResult] = []
    threads = [threading.Thread(target=lambda: results.append(space.merge(x, y))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [r.merged for r in results] == [2 * PAGES] * 3


def test_stores_while_merging(space: hmm.AddressSpace) -> None:
    """Threads write their own numbers, always in pages that want to merge; none may be lost."""
    pages, rounds = 64, 150
    arrays = [space.array(noise(1, pages)) for _ in range(2)]
    stop = threading.Event()
    failures: list[str] = []

    def writer(array: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        mine = array.copy()
        for step in range(rounds * 20):
            i = int(rng.integers(array.size))
            array[i] = mine[i] = step % 3
            j = int(rng.integers(array.size))
            if array[j] != mine[j]:
                failures.append(f"{array[j]} instead of {mine[j]} at {j} after {step} steps")
                break
        if not np.array_equal(array, mine):
            failures.append("the end differs")

    threads = [threading.Thread(target=writer, args=(a, s)) for s, a in enumerate(arrays)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        space.merge(*arrays)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not failures


@pytest.mark.parametrize("seed", range(2))
def test_random_use_against_numpy(seed: int, two_devices: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    space, rng = two_devices, np.random.default_rng(seed)
    pages = int(rng.integers(3, 40))
    contents = [noise(i, pages) for i in range(2)]
    arrays = [space.array(contents[i % 2]) for i in range(4)]
    model = [contents[i % 2].copy() for i in range(4)]
    add = kernels.get_function("add")
    for _ in range(60):
        i, what = int(rng.integers(4)), int(rng.integers(10))
        array, want = arrays[i], model[i]
        if what < 2:
            at = rng.integers(array.size, size=5)
            array[at] = want[at] = int(rng.integers(3))
        elif what < 4:
            space.merge(*arrays)
        elif what == 4:
            with space.devices[int(rng.integers(2))]:
                add((2,), (32,), (array, array.size, 1))
            want += 1
            space.synchronize()
        elif what == 5:
            space.prefetch(array, space.devices[int(rng.integers(2))], write=bool(rng.integers(2)))
        elif what == 6:
            j = int(rng.integers(4))
            array[:], want[:] = arrays[j], model[j]
        elif what == 7:
            space.unmerge(array)
        elif what == 8:
            space.discard(array)
            want[:] = 0
        else:
            begin, end = sorted(rng.integers(array.size, size=2))
            assert np.array_equal(space.devices[0].read(array[begin:end]), want[begin:end])
        j = int(rng.integers(4))
        assert np.array_equal(arrays[j], model[j])
    assert all(np.array_equal(a, m) for a, m in zip(arrays, model, strict=True))


def test_a_small_device_evicts_merged_pages(kernels: hmm.RawModule) -> None:
    pages = 2048  # twice of what the device has room for, in each array
    with hmm.AddressSpace(timeout=60, device_memory=4 << 20) as space:
        x, y = space.array(noise(1, pages)), space.array(noise(1, pages))
        space.merge(x, y)
        total = space.zeros(1, np.uint64)
        for array in (x, y, x):
            kernels.get_function("total")((2,), (64,), (array, array.size, total))
        space.synchronize()
        assert total[0] == 3 * noise(1, pages).astype(np.uint64).sum()
        assert len(space.record(x, 0)) == 2  # evicted were the device's copies
        kernels.get_function("add")((2,), (64,), (y, y.size, 1))
        space.synchronize()
        assert np.array_equal(x, noise(1, pages)) and np.array_equal(y, noise(1, pages) + np.int32(1))
