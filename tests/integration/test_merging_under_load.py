"""Same-page merging where something is short or busy: mappings, a device's memory, threads that store meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from merging import PAGE, PAGES, noise
from running import run_python

import hmmemu as hmm


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
