"""Atomics that the link has are done on the CPU's own frame, whatever kind of memory it is, by several devices at once."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from forking import in_child

import hmmemu as hmm
from hmmemu import registry

SOURCE = r"""
extern "C" __global__ void add(unsigned* x, int times) {
  for (int i = 0; i < times; ++i) atomicAdd_system(x + threadIdx.x * 1024, 1u);
}
extern "C" __global__ void most(unsigned* x, unsigned value) { atomicMax_system(x + threadIdx.x * 1024, value); }
extern "C" __global__ void store(unsigned* x, unsigned value) { x[threadIdx.x * 1024 + 1] = value; }
extern "C" __global__ void fail(unsigned* x) { if (atomicAdd_system(x, 1u) != 77u) __trap(); }
"""
PAGES = 4
N = PAGES * 1024
HUGE = 2 << 20
MAP_HUGETLB = 0x40000
F_ADD_SEALS, F_SEAL_FUTURE_WRITE = 1033, 0x10
Make = Callable[[Path], np.ndarray]


def of_memfd(flags: int, size: int) -> np.ndarray:
    fd = os.memfd_create("atomics", flags)
    os.truncate(fd, size)
    memory = mmap.mmap(fd, size)
    os.close(fd)
    return np.frombuffer(memory, np.uint32)


def private_file(folder: Path) -> np.ndarray:
    (folder / "file").write_bytes(bytes(4 * N))
    return np.memmap(folder / "file", np.uint32, "c")


KINDS: dict[str, Make] = {
    "private": lambda _: np.frombuffer(
        mmap.mmap(-1, 4 * N, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint32
    ),
    "private file": private_file,
    "shared": lambda _: np.frombuffer(mmap.mmap(-1, 4 * N), np.uint32),
    "memfd": lambda _: of_memfd(0, 4 * N),
    "file": lambda folder: np.memmap(folder / "file", np.uint32, "w+", shape=N),
    "huge": lambda _: np.frombuffer(mmap.mmap(-1, HUGE, mmap.MAP_SHARED | MAP_HUGETLB), np.uint32)[:N],
    "huge memfd": lambda _: of_memfd(os.MFD_HUGETLB, HUGE)[:N],
}
SHARED = ["shared", "memfd", "file"]


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="atomics_in_place.cu")


@pytest.fixture
def two(request: pytest.FixtureRequest) -> Iterator[hmm.AddressSpace]:
    """A space with two devices; the parameter, if there is one, is the fallback."""
    fallback = getattr(request, "param", "migrate")
    with hmm.AddressSpace(devices=2, timeout=60, fallback=fallback, policy=hmm.Policy(grow=False)) as space:
        yield space


def make(kind: str, request: pytest.FixtureRequest, folder: Path) -> np.ndarray:
    if kind == "shared":
        request.getfixturevalue("map_files")
    if kind.startswith("huge"):
        request.getfixturevalue("huge_pages")
    x = KINDS[kind](folder)
    x[:] = 7
    return x


@pytest.fixture(params=KINDS)
def x(request: pytest.FixtureRequest, tmp_path: Path) -> np.ndarray:
    """Four pages, or a part of a huge one, full of sevens."""
    return make(request.param, request, tmp_path)


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> np.ndarray:
    return make(request.param, request, tmp_path)


def run(module: hmm.RawModule, kernel: str, x: np.ndarray, value: int, device: int = 0) -> None:
    space = hmm.current_space()
    with space.devices[device]:
        module.get_function(kernel)(1, PAGES, (x, np.uint32(value)))
    space.synchronize()


def residency(x: np.ndarray) -> set[str]:
    return {str(code) for code in hmm.current_space().residency(x)}


def test_by_both_devices_and_the_cpu(two: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray) -> None:
    run(module, "add", x, 5)
    assert residency(x) == {"XR-"}
    run(module, "add", x, 5, device=1)
    assert residency(x) == {"XRR"}
    x[::1024] += 1
    run(module, "store", x, 9, device=1)
    two.reset_stats()
    for device in (0, 1):
        run(module, "add", x, 5, device)
    assert list(x[::1024]) == [28] * PAGES and list(x[1::1024]) == [9] * PAGES and x[2] == 7
    stats = two.stats()
    assert not stats.transfers and sum(p.faults for p in stats.processors) == 0


def test_at_the_same_time(two: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray) -> None:
    two.register(x)
    kernel, times, mine = module.get_function("add"), 3000, 60
    for device in two.devices:
        with device:
            stream = hmm.Stream()
        kernel((4,), (PAGES,), (x, np.int32(times)), stream=stream, device=device)
    for _ in range(mine):
        hmm.atomic_add(x, 1024, 1)
    two.synchronize()
    assert list(x[::1024]) == [7 + 8 * times + (mine if page == 1 else 0) for page in range(PAGES)]
    assert residency(x) == {"XRR"}


@pytest.mark.parametrize("two", ["migrate", "exclusive"], indirect=True)
def test_what_the_link_lacks(two: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray) -> None:
    for device in (0, 1):
        run(module, "add", x, 1, device)
    assert residency(x) == {"XRR"}
    alone = two.fallback == hmm.Fallback.EXCLUSIVE
    for turn in range(1, 5):
        device = turn % 2
        run(module, "most", x, 100 * turn, device)
        assert residency(x) == {"-R-" if device == 0 else "--R"} if alone else {"-X-", "--X"}
        assert x[0] == 100 * turn and x[2] == 7
        x[1] = turn
        run(module, "add", x, 1, 1 - device)
    assert list(x[::1024]) == [401] * PAGES and x[1] == 4


def test_everything_else_that_wants_the_pages(
    two: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray
) -> None:
    second = two.devices[1]
    remote = {"XRR"}

    def lend(value: int) -> None:
        before = x[::1024].copy()
        run(module, "add", x, value)
        run(module, "add", x, value, device=1)
        assert residency(x) == remote and (x[::1024] == before + 2 * value).all()

    lend(1)
    assert (second.read(x)[::1024] == 9).all()
    lend(1)
    second.write(x, np.full(N, 20, np.uint32))
    assert (x == 20).all()
    lend(1)
    two.prefetch(x, second)
    assert residency(x) == {"--X"} and (x[::1024] == 22).all()
    lend(1)
    frozen, _ = two.snapshot_of(x), two.dirty(x)
    assert "R" not in "".join(residency(x))
    lend(1)
    assert (np.asarray(frozen)[::1024] == 24).all() and len(two.dirty(x)) == PAGES
    assert in_child(lambda: (x[::1024] == 26).all()) == 0
    lend(1)
    two.unregister(x)
    x[:] = 1  # plain memory
    two.register(x)
    lend(1)
    two.discard(x.base if isinstance(x.base, np.ndarray) else x)  # a huge page as a whole
    assert not x.any()


def test_a_device_that_dies(two: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray) -> None:
    run(module, "add", x, 1)
    run(module, "add", x, 1, device=1)
    with pytest.raises(hmm.KernelError, match="trap"):
        module.get_function("fail")(1, 1, (x,))
    assert x[0] == 10 and list(x[1024::1024]) == [9] * 3
    run(module, "add", x, 1, device=1)
    run(module, "add", x, 1)  # a new process, which knows the object, too
    assert residency(x) == {"XRR"}
    assert x[0] == 12 and list(x[1024::1024]) == [11] * 3


def test_the_end_of_the_space(module: hmm.RawModule, x: np.ndarray) -> None:
    with hmm.AddressSpace(devices=2, timeout=60):
        run(module, "add", x, 1)
        run(module, "add", x, 1, device=1)
    assert list(x[::1024]) == [9] * PAGES
    x[:] = 3
    assert x.sum() == 3 * N


def test_a_full_device_has_nothing_to_evict(module: hmm.RawModule, x: np.ndarray) -> None:
    with hmm.AddressSpace(timeout=60, device_memory=2 * HUGE, policy=hmm.Policy(grow=False)) as space:
        run(module, "add", x, 1)
        other = space.zeros(3 * HUGE // 4, np.uint32)
        other[:] = 1
        space.prefetch(other, space.devices[0])
        assert space.stats().processors[1].evicted_pages
        assert residency(x) == {"XR"}
        run(module, "add", x, 1)
        assert list(x[::1024]) == [9] * PAGES


def test_merged_pages(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for kind in ("private", "shared"):
        x = make(kind, request, tmp_path)
        page_by_page.register(x)
        assert page_by_page.merge(x).merged == PAGES
        run(module, "add", x, 1)
        assert residency(x) == {"XR"}
        assert list(x[::1024]) == [8] * PAGES and x.sum() == 7 * N + PAGES


# ------------------------------------------------------------------------------------- shared with others


def test_other_processes_see_them_at_once(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * N))
    x = np.memmap(path, np.uint32, "r+")
    run(module, "add", x, 5)
    assert residency(x) == {"XR"}
    assert np.fromfile(path, np.uint32)[0] == 5  # nobody flushed or fetched anything
    with path.open("r+b") as file:
        file.write(np.uint32(100).tobytes())
    run(module, "add", x, 5)
    assert x[0] == 105 and residency(x) == {"XR"}


def test_two_mappings_of_the_same_pages(two: hmm.AddressSpace, module: hmm.RawModule, tmp_path: Path) -> None:
    fd = os.memfd_create("views")
    os.truncate(fd, 4 * N)
    a, b = (np.frombuffer(mmap.mmap(fd, 4 * N), np.uint32) for _ in range(2))
    os.close(fd)
    two.register(a), two.register(b)
    for turn in range(4):
        run(module, "add", a, 1)
        run(module, "add", a, 1, device=1)
        assert residency(a) == {"XRR"}
        assert b[0] == 4 * turn + 2
        run(module, "add", b, 2)
        assert residency(b) == {"XR-"} and residency(a) == {"---"}
        assert a[0] == 4 * turn + 4
        a[0] += 0
    two.discard(a)
    assert not b.any()


def test_a_private_mapping_beside_a_shared_one(
    two: hmm.AddressSpace, module: hmm.RawModule, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * N))
    private, shared = np.memmap(path, np.uint32, "c"), np.memmap(path, np.uint32, "r+")
    two.register(private), two.register(shared)
    run(module, "add", private[: N // 2], 0)
    module.get_function("add")(1, 1, (private, np.int32(3)))
    run(module, "add", shared, 5)
    run(module, "add", private, 1, device=1)
    assert list(shared[::1024]) == [5] * PAGES
    assert list(private[::1024])[:1] == [4]
    assert np.fromfile(path, np.uint32)[0] == 5


def test_an_object_out_of_reach_moves(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, shared: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "object_of", lambda mapping: None)
    run(module, "add", shared, 5)
    assert residency(shared) == {"-X"}
    assert list(shared[::1024]) == [12] * PAGES


def test_an_object_that_nobody_may_map_any_more_moves(two: hmm.AddressSpace, module: hmm.RawModule) -> None:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.truncate(fd, 4 * N)
    x = np.frombuffer(mmap.mmap(fd, 4 * N), np.uint32)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
    os.close(fd)
    for turn in range(1, 3):
        for device in (0, 1):
            run(module, "add", x, 5, device)
            assert residency(x) == {("-X-", "--X")[device]}
        assert list(x[::1024]) == [10 * turn] * PAGES


def test_a_truncated_file(page_by_page: hmm.AddressSpace, module: hmm.RawModule, tmp_path: Path) -> None:
    with hmm.SharedFile(tmp_path / "file", "w+", np.uint32, N) as file:
        x = file.array
        run(module, "add", x, 5)
        assert residency(x) == {"XR"}
        file.truncate(2 * 4096)
        assert list(x[: N // 2 : 1024]) == [5, 5]
        file.truncate(4 * N)
        assert list(x[::1024]) == [5, 5, 0, 0]
        run(module, "add", x, 1)
        assert list(x[::1024]) == [6, 6, 1, 1] and residency(x) == {"XR"}


def test_registered_and_unregistered_many_times(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule
) -> None:
    """No descriptor stays behind, here or in the device."""

    def open_files() -> tuple[int, int]:
        gc.collect()  # what tests before have left in cycles
        device = page_by_page.devices[0].process.pid
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{device}/fd"))

    def use() -> None:
        x = of_memfd(0, 4 * N)
        run(module, "add", x, 1)
        assert x[0] == 1 and residency(x) == {"XR"}

    use()
    before = open_files()
    for _ in range(5):
        use()
    assert open_files() == before


def test_threads_of_the_cpu(two: hmm.AddressSpace, module: hmm.RawModule, shared: np.ndarray) -> None:
    """Registered, used and prefetched at once: every addition counts."""
    two.register(shared)

    def work(which: int) -> None:
        for i in range(30):
            hmm.atomic_add(shared, 0, 1)
            if i % 10 == which:
                two.prefetch(shared, two.devices[which % 2])

    kernel = module.get_function("add")
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work, i) for i in range(3)]
        for device in two.devices:
            with device:
                stream = hmm.Stream()
            kernel((4,), (PAGES,), (shared, np.int32(500)), stream=stream, device=device)
        for each in done:
            each.result(60)
    two.synchronize()
    assert shared[0] == 7 + 90 + 4000
