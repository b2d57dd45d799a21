"""Fixtures for every test: an address space that is closed whatever happens, small kernels, and the trackers.

The tests of coherence run once under each tracker that the library has (`hmmemu.trackers.IMPLEMENTED`); all others
under the one that this machine gets. `pytest --tracker NAME` runs everything under one; "auto" is what a program
gets that asks for none.
"""

from __future__ import annotations

import fcntl
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stand_in

import hmmemu as hmm
from hmmemu import trackers

os.environ.setdefault("HMMEMU_DEVICE", "emulated")
os.environ["PYTHONSAFEPATH"] = "1"  # programs that tests start see the installed package, not the tree

FILL = r"""
extern "C" __global__ void fill(int* x, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] = value;
}
extern "C" __global__ void add(int* x, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] += value;
}
extern "C" __global__ void copy(const int* x, int* y, long long n) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    y[i] = x[i];
}
extern "C" __global__ void total(const int* x, long long n, unsigned long long* sum) {
  unsigned long long mine = 0;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    mine += x[i];
  atomicAdd(sum, mine);
}
extern "C" __global__ void poke(int* x, long long i, int value) { x[i] = value; }
extern "C" __global__ void peek(const int* x, long long i, int* out) { *out = x[i]; }
extern "C" __global__ void spin(volatile int* flag) { while (*flag == 0) { } }
"""


EVERY_TRACKER = (
    "contract/",
    "integration/test_collaboration",
    "integration/test_concurrency",
    "integration/test_files",
    "integration/test_lifetime",
    "integration/test_merging",
    "integration/test_repeated_launches",
    "integration/test_sharing",
    "integration/test_system",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "run under this tracker only, instead of the tests of coherence under each"
    parser.addoption("--tracker", choices=("auto", *trackers.NAMES), help=words)
    words = "spaces on a CUDA device, with a stand-in for the GPU (tests/stand_in.py)"
    parser.addoption("--stand-in", action="store_true", help=words)
    words = "the stand-in for the GPU has none of the CPU's addresses (docs/cuda.md, One address)"
    parser.addoption("--at-a-distance", action="store_true", help=words)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--stand-in"):
        stand_in.install(config.getoption("--at-a-distance"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--stand-in"):
        stand_in.mark(items, stand_in.NOT_FOR_A_GPU, "--stand-in")
    if config.getoption("--at-a-distance"):
        stand_in.mark(items, stand_in.NOT_AT_A_DISTANCE, "--at-a-distance")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    path = metafunc.definition.path.relative_to(Path(__file__).parent).as_posix()
    if path.startswith(EVERY_TRACKER):
        only = metafunc.config.getoption("--tracker")
        metafunc.parametrize("tracker", [only] if only else trackers.IMPLEMENTED, indirect=True)


@pytest.fixture(autouse=True)
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tracker of spaces that the test, or a program that it starts, opens without a choice of its own."""
    name: str | None = getattr(request, "param", None) or request.config.getoption("--tracker")
    if name == "auto":
        monkeypatch.delenv("HMMEMU_TRACKER", raising=False)
    elif name:
        found = trackers.probe(name)
        if not found.usable:
            pytest.skip(f"tracker {name} cannot work here: {found.words}")
        monkeypatch.setenv("HMMEMU_TRACKER", name)
    return os.environ.get("HMMEMU_TRACKER", "auto")


@pytest.fixture
def space() -> Iterator[hmm.AddressSpace]:
    with hmm.AddressSpace(timeout=60) as made:
        yield made


@pytest.fixture
def page_by_page() -> Iterator[hmm.AddressSpace]:
    """A space in which a fault brings one page, for tests that count."""
    with hmm.AddressSpace(timeout=60, policy=hmm.Policy(grow=False)) as made:
        yield made


@pytest.fixture
def two_devices() -> Iterator[hmm.AddressSpace]:
    with hmm.AddressSpace(devices=2, timeout=60, policy=hmm.Policy(grow=False)) as made:
        yield made


@pytest.fixture
def map_files() -> None:
    """/proc/*/map_files, by which alone a device opens memory without name and descriptor; root's: docs/atomics.md."""
    try:
        next(Path("/proc/self/map_files").iterdir()).stat()
    except PermissionError:
        pytest.skip("a device's process cannot open this memory here: its pages move")


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Sixteen huge pages of 2 MiB in the kernel's pool, which is the whole machine's: one test at a time."""
    setting = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not os.access(setting, os.W_OK):
        pytest.skip("huge pages are root's to reserve, or this kernel has none")
    with open(Path(tempfile.gettempdir()) / "hmmemu-test-huge-pages.lock", "w") as lock:
        _lock(lock.fileno(), 100)
        try:
            before = setting.read_text()
            setting.write_text(str(int(before) + 16))
        except OSError:
            pytest.skip("this machine reserves no huge pages")
        try:
            if int(setting.read_text()) < int(before) + 16:
                pytest.skip("no memory for huge pages")
            yield
        finally:
            gc.collect()  # arrays of tests before that hang in cycles
            setting.write_text(before)


def _lock(file: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert time.monotonic() < end, "another test run keeps the pool of huge pages locked"
            time.sleep(0.01)


@pytest.fixture(scope="session")
def kernels() -> hmm.RawModule:
    return hmm.RawModule(FILL, filename="tests/conftest.cu")
