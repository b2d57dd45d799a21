"""What crosses the link of a GPU, counted on the stand-in: content before the launch that needs it, in few copies;
home, what a kernel really changed. Plain copies where kernels, pinned memory or room are missing.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(int* x, const int* y, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] += y[i] + value;
}
extern "C" __global__ void sum_pages(const int* x, int* sums, int pages) {
  for (int p = blockIdx.x * blockDim.x + threadIdx.x; p < pages; p += gridDim.x * blockDim.x) {
    int sum = 0;
    for (int i = 0; i < 1024; i++) sum += x[p * 1024LL + i];
    sums[p] = sum;
  }
}
extern "C" __global__ void poke(int* x, const int* pages, int count, int value) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    x[pages[i] * 1024LL + 5] = value;
}
"""
PAGE = 1024  # ints


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="test_crossings.cu")


def aligned(space, pages):
    """Zeros that begin with a block of 2 MiB, so that no run of pages is cut by chance."""
    memory = space.zeros((pages + 512) * PAGE, np.int32)
    first = -memory.ctypes.data // 4 % (512 * PAGE)
    return memory[first : first + pages * PAGE]


class Crossed:
    """with Crossed(space) as crossed: ...; crossed["pages_home"] is what was counted in between."""

    def __init__(self, space):
        self.device = space.devices[0]

    def __enter__(self):
        self.before = self.device.crossings
        self.after = None
        return self

    def __exit__(self, *_):
        self.after = self.device.crossings

    def __getitem__(self, name):
        return self.after[name] - self.before[name]


def launch(space, kernels, name, *args):
    given = tuple(np.int32(a) if isinstance(a, int) else a for a in args)
    kernels.get_function(name)((4,), (64,), given, device=space.devices[0])


def add(space, kernels, x, y, value, **options):
    args = (x, y, np.int64(x.size), np.int32(value))
    kernels.get_function("add")((4,), (64,), args, device=space.devices[0], **options)


@pytest.mark.parametrize(("count", "copies"), [(1, 1), (100, 1), (511, 1), (512, 2), (1200, 3)])
def test_pages_that_lie_apart_cross_in_few_copies(gpu, kernels, count, copies):
    space = gpu("delay_us=100", policy=hmm.Policy(grow=False))
    x, sums = aligned(space, 3 * count), space.zeros(3 * count, np.int32)
    launch(space, kernels, "sum_pages", x, sums, 3 * count)
    x.reshape(-1, PAGE)[::3, 7] = np.arange(1, count + 1)
    assert not sums.any()
    space.prefetch(sums, space.devices[0])
    with Crossed(space) as crossed:
        launch(space, kernels, "sum_pages", x, sums, 3 * count)
        space.synchronize()
    few = -(-sums.nbytes // 4096) + 1  # pages of sums, side by side
    assert count <= crossed["pages_to_gpu"] <= count + few
    assert crossed["copies_to_gpu"] <= copies + 1
    assert count < 3 or crossed["scattered_pages"] >= count - 1  # one alone needs no kernel
    assert np.array_equal(sums[::3], np.arange(1, count + 1)) and not sums[1::3].any()


def test_a_large_run_is_copied_as_it_is(gpu, kernels):
    space = gpu()
    x, sums = aligned(space, 1024), aligned(space, 1)
    x[:] = 1
    with Crossed(space) as crossed:
        launch(space, kernels, "sum_pages", x, sums, 1024)
        space.synchronize()
    assert crossed["pages_to_gpu"] == 1024 and crossed["scattered_pages"] == 0
    assert crossed["copies_to_gpu"] == 2  # of 2 MiB each
    assert crossed["zeroed_pages"] == 1  # sums
    assert (sums == PAGE).all()


@pytest.mark.parametrize("fails", ["", "fail=cuMemsetD8Async:1"])
def test_pages_that_nobody_touched_do_not_cross(gpu, kernels, fails):
    space = gpu(fails)
    x, sums = aligned(space, 600), aligned(space, 1)
    with Crossed(space) as crossed:
        launch(space, kernels, "sum_pages", x, sums, 600)
        assert not sums.any() and not x.any()
    assert crossed["zeroed_pages"] == (0 if fails else 601)
    assert crossed["pages_to_gpu"] == (601 if fails else 0)


def test_what_the_cpu_takes_back_before_a_launch_does_not_cross(gpu, kernels):
    space = gpu()
    x = aligned(space, 600)
    x[:] = np.arange(x.size)
    with Crossed(space) as crossed:
        space.prefetch(x, space.devices[0])
        assert np.array_equal(x, np.arange(x.size))
        x[::PAGE] += 1
        space.prefetch(x, space.devices[0])
        space.prefetch(x, hmm.cpu)
    assert crossed["pages_to_gpu"] == crossed["pages_home"] == 0
    assert x[PAGE] == PAGE + 1


def test_only_changed_pages_come_home(gpu, kernels):
    space = gpu("delay_us=100")
    x = aligned(space, 1024)
    x[:] = 3
    some = np.arange(0, 1024, 10, dtype=np.int32)
    expected = x.copy()
    launch(space, kernels, "poke", x, some, some.size, 9)
    expected.reshape(-1, PAGE)[some, 5] = 9
    with Crossed(space) as crossed:
        space.prefetch(x, hmm.cpu)
    assert np.array_equal(x, expected)
    assert crossed["pages_home"] == crossed["gathered_pages"] == some.size
    assert crossed["copies_home"] == 2  # one a block
    assert crossed["compared_pages"] == 1024 and crossed["unchanged_pages"] == 1024 - some.size


def test_faults_bring_neighbours_and_only_what_changed(gpu, kernels):
    """No prefetch: the CPU walks over an array, and what grows with each fault comes in one request."""
    space = gpu("delay_us=100")
    x = aligned(space, 512)
    x[:] = 3
    some = np.array([1, 2, 200, 511], np.int32)
    launch(space, kernels, "poke", x, some, some.size, 9)
    before = space.session.counters()["processors"][0]["read_faults"]
    with Crossed(space) as crossed:
        seen = [int(x[page * PAGE + 5]) for page in range(512)]
    faults = space.session.counters()["processors"][0]["read_faults"] - before
    assert seen == [9 if page in some else 3 for page in range(512)]
    assert crossed["pages_home"] == some.size and faults < 20 and crossed["copies_home"] <= some.size


def test_several_launches_before_the_cpu_looks(gpu, kernels):
    """Compared with what the CPU had, not with what the last kernel found; and again after it has been home."""
    space = gpu("delay_us=100")
    x = aligned(space, 256)
    x[:] = 1
    one, two = np.array([10], np.int32), np.array([20], np.int32)
    for value in (5, 6, 7):
        with Crossed(space) as crossed:
            launch(space, kernels, "poke", x, one, 1, value)
            launch(space, kernels, "poke", x, two, 1, -value)
            space.prefetch(x, hmm.cpu)
        assert x[10 * PAGE + 5] == value and x[20 * PAGE + 5] == -value and np.count_nonzero(x != 1) == 2
        assert crossed["pages_home"] == 2
    launch(space, kernels, "poke", x, one, 1, 1)
    launch(space, kernels, "poke", x, two, 1, 1)
    assert (x == 1).all()


def test_reading_home_leaves_the_copy_on_the_gpu(gpu, kernels):
    space = gpu()
    x = aligned(space, 128)
    x[:] = 2
    some = np.arange(128, dtype=np.int32)
    launch(space, kernels, "poke", x, some, 64, 4)
    assert x.sum() == 2 * x.size + 64 * 2
    with Crossed(space) as crossed:
        launch(space, kernels, "poke", x, some, 32, 5)
        space.synchronize()
    if space.tracker != "async":  # whose CPU may have written whatever it can read
        assert crossed["pages_to_gpu"] <= 1  # `some`, which the test itself reads
    with Crossed(space) as crossed:
        assert x.sum() == 2 * x.size + 32 * 3 + 32 * 2
    assert crossed["pages_home"] == 32


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "fail=cuMemHostRegister_v2:1",  # not pinned
        "fail=cuModuleLoadData:200:2:2",  # no page kernels
        "fail=scatter_pages:701",
        "fail=gather_pages:701:2",
        "fail=find_changed_pages:701:2",
        "fail=cuMemcpyDtoDAsync_v2:2",  # no copies to compare with
        "fail=cuMemsetD8Async:1",
        "fail=cuMemGetInfo_v2:1",
        "fail=cuStreamCreate:2:3:9",  # two lanes
        "bytes=14680064",  # no room for shadows, nor, when it is short, for buffers
    ],
)
def test_random_changes_by_both(gpu, kernels, settings):
    """Whatever is missing, what each wrote is what the other sees."""
    space = gpu(f"delay_us=50,{settings}")
    rng = np.random.default_rng(len(settings))
    x, y = aligned(space, 700), space.zeros(700 * PAGE, np.int32)
    model_x, model_y = x.copy(), y.copy()
    for turn in range(6):
        for array, model in ((x, model_x), (y, model_y)):
            pages = rng.permutation(700)[: rng.integers(1, 300)]
            array.reshape(-1, PAGE)[pages, 9] = turn
            model.reshape(-1, PAGE)[pages, 9] = turn
        pages = rng.permutation(700)[: rng.integers(1, 500)].astype(np.int32)
        launch(space, kernels, "poke", x, pages, pages.size, -turn)
        model_x.reshape(-1, PAGE)[pages, 5] = -turn
        if turn % 2:
            begin, end = sorted(rng.integers(0, x.size, 2))
            assert np.array_equal(x[begin:end], model_x[begin:end])
        else:
            add(space, kernels, x, y, 1)
            model_x += model_y + 1
    assert np.array_equal(x, model_x) and np.array_equal(y, model_y)
    assert space.devices[0].process.alive


def test_a_process_that_is_killed_before_its_pages_crossed(gpu, kernels):
    space = gpu("delay_us=100")
    x = aligned(space, 600)
    x[:] = np.arange(x.size)
    some = np.array([3, 400], np.int32)
    launch(space, kernels, "poke", x, some, 2, -1)
    space.synchronize()
    x[700 : PAGE * 100 : PAGE] = 5
    space.prefetch(x, space.devices[0])
    os.kill(space.devices[0].process.pid, signal.SIGKILL)
    expected = np.arange(x.size)
    expected[700 : PAGE * 100 : PAGE] = 5
    expected[[3 * PAGE + 5, 400 * PAGE + 5]] = -1
    with pytest.raises(hmm.DeviceError):
        for _ in range(2):
            launch(space, kernels, "poke", space.zeros(10, np.int32), some, 0, 0)
    assert np.array_equal(x, expected)


def test_a_store_waits_for_what_is_on_its_way(gpu, kernels):
    """Pages that a launch reads are taken back at once; but not while they cross, or the kernel would see zeros."""
    space = gpu("delay_us=30000")
    y, x = aligned(space, 512), aligned(space, 512)
    y[:] = 1
    for _ in range(3):
        stream = hmm.Stream()
        add(space, kernels, x, y, 0, stream=stream)
        time.sleep(0.01)
        space.discard(space.zeros(100, np.int32))
        y[::PAGE] = 1  # as it was: no race, and yet every page is taken
        stream.synchronize()
    assert (x == 3).all()


@pytest.mark.parametrize("lacks", ["compiler", "image"])
def test_without_kernels_pages_cross_run_by_run(gpu, kernels, monkeypatch, lacks):
    def refuse(*_args, **_how):
        raise hmm.UnsupportedError("no NVRTC")

    if lacks == "compiler":
        with monkeypatch.context() as patch:
            patch.setattr("hmmemu.cuda.CudaDevice.compile", refuse)
            space = gpu(policy=hmm.Policy(grow=False))
    else:  # the second module that is loaded
        space = gpu("fail=cuModuleLoadData:200:2:2", policy=hmm.Policy(grow=False))
    x, sums = aligned(space, 100), space.zeros(100, np.int32)
    x.reshape(-1, PAGE)[::5, 3] = 7
    with Crossed(space) as crossed:
        launch(space, kernels, "sum_pages", x, sums, 100)
        assert sums.sum() == 20 * 7 and x.sum() == 20 * 7
    assert crossed["copies_to_gpu"] == crossed["pages_to_gpu"] == 20  # x; nobody had touched the rest
    assert crossed["scattered_pages"] == 0
    why = space.devices[0].why_no_page_kernels
    assert why == "no NVRTC" if lacks == "compiler" else "cuModuleLoadData" in why
