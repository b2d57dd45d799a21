"""Memory that a kernel on a GPU shares with the CPU while it runs: mapped host memory, on the stand-in for libcuda."""

from __future__ import annotations

import subprocess
import threading
import time

import numpy as np
import pytest
from waiting import wait_until

import hmmemu as hmm
from hmmemu.kernels import WORKLOADS

SOURCE = r"""
extern "C" __global__ void count(int* hits, int n) { for (int i = 0; i < n; ++i) atomicAdd_system(hits, 1); }
extern "C" __global__ void lowest(int* low, int n) { for (int i = 0; i < n; ++i) atomicMin_system(low, -i); }
extern "C" __global__ void echo(volatile int* ask, volatile int* answer, int rounds) {
  for (int r = 1; r <= rounds; ++r) {
    while (*ask < r) { }
    __threadfence_system();
    *answer = r;
  }
}
extern "C" __global__ void fill(int* x, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] = value;
}
extern "C" __global__ void total(const int* x, long long n, unsigned long long* sum) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    atomicAdd(sum, x[i]);
}
extern "C" __global__ void many(int* hits, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd_system(&hits[i], i);
}
"""


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="atomics.cu")


def launch(space, kernels, name, *args, grid=(1,), block=(1,), **options):
    kernels.get_function(name)(grid, block, args, device=space.devices[0], **options)


def converse(ask, answer, turn):
    """A round of "echo"."""
    deadline = time.monotonic() + 60
    hmm.atomic_store(ask, 0, turn)
    while hmm.atomic_load(answer, 0) != turn:
        assert time.monotonic() < deadline


def beside(stream, act):
    """How often `act` was done while the stream worked."""
    done = 0
    while not stream.done:
        act()
        done += 1
    return done


def test_counters_from_both_sides(gpu, kernels, gate):
    """The link has the operation: the page stays, and nobody waits for the kernel."""
    space = gpu(f"delay_us=100,gate={gate}")
    hits, stream, own = space.zeros(1, np.int32), hmm.Stream(), 100
    hits[0] = 5
    launch(space, kernels, "count", hits, np.int32(20_000), stream=stream)
    time.sleep(0.02)  # mostly, it has begun for us
    for _ in range(own):
        hmm.atomic_add(hits, 0, 1)
    assert not stream.done
    gate.unlink()
    own += beside(stream, lambda: hmm.atomic_add(hits, 0, 1))
    stream.synchronize()
    assert hits[0] == 20_005 + own
    assert space.residency(hits) == ["XR"]


def test_an_operation_that_the_link_lacks_is_done_on_the_gpu(gpu, kernels, gate, tmp_path):
    """The CPU waits until the kernel has ended; both are right."""
    launched = tmp_path / "launched"
    launched.touch()
    space = gpu(f"delay_us=100,gate={gate},launched={launched}")
    low, stream = space.zeros(1, np.int32), hmm.Stream()
    launch(space, kernels, "lowest", low, np.int32(1000), stream=stream)
    wait_until(lambda: "lowest" in launched.read_text())
    assert not stream.done
    with subprocess.Popen(["sh", "-c", 'sleep 0.2; rm "$0"', str(gate)]):  # while this thread waits
        assert hmm.atomic_min(low, 0, -5) == -999 and stream.done
    assert space.residency(low) == [
        "SS" if space.tracker == "async" else "X-"
    ]  # async: stores are noticed later


@pytest.mark.parametrize("atomics", ["pcie", "none", "all"])
def test_a_kernel_that_waits_for_the_cpu(gpu, kernels, atomics):
    """Loads and stores work on every link."""
    space = gpu(f"delay_us=100,atomics={atomics}")
    ask, answer = space.zeros(1, np.int32), space.zeros(1, np.int32)
    for _ in range(2):  # the second time they are there already
        ask[0] = answer[0] = 0
        stream = hmm.Stream()
        launch(space, kernels, "echo", ask, answer, np.int32(20), stream=stream)
        for turn in range(1, 21):
            converse(ask, answer, turn)
        stream.synchronize()


@pytest.mark.parametrize("connections", ["1", None])
def test_other_pages_come_home_while_a_kernel_waits_that_fills_the_gpu(
    gpu, kernels, monkeypatch, connections
):
    """No other kernel runs beside it, so they cross without; nor do copies stand behind it, whatever the user's
    environment says of connections."""
    if connections:
        monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", connections)
    space = gpu("delay_us=100,full=1")
    x = space.zeros(1 << 20, np.int32)
    for pages in (x, x[:: 2 * 1024]):  # the second time, pages that lie apart are newer on the GPU
        pages[...] = 1
        launch(space, kernels, "fill", x, np.int64(x.size), np.int32(5), grid=(4,), block=(64,))
    ask, answer, stream = space.zeros(1, np.int32), space.zeros(1, np.int32), hmm.Stream()
    launch(space, kernels, "echo", ask, answer, np.int32(2), stream=stream)
    converse(ask, answer, 1)  # it runs
    before = space.devices[0].crossings
    assert (x == 5).all()
    after = space.devices[0].crossings
    assert after["pages_home"] > before["pages_home"] and after["gathered_pages"] == before["gathered_pages"]
    assert not stream.done
    converse(ask, answer, 2)
    stream.synchronize()
    assert not space.devices[0].why_no_page_kernels


def test_pages_go_back_to_the_gpu_and_come_again(gpu, kernels):
    """One block after the other use: shared, the GPU's, shared. Neighbours in the block keep what they hold."""
    space = gpu("delay_us=100")
    hits = space.zeros(5000, np.int32)
    x = space.zeros(60_000, np.int32)  # mostly in the same 2 MiB
    for turn in range(1, 4):
        launch(space, kernels, "fill", x, np.int64(x.size), np.int32(turn), grid=(4,), block=(64,))
        launch(space, kernels, "many", hits, np.int32(hits.size), grid=(80,), block=(64,))
        assert set(space.residency(hits)) == {"XR"}
        launch(space, kernels, "many", hits, np.int32(hits.size), grid=(80,), block=(64,))
        assert np.array_equal(hits, 2 * turn * np.arange(5000)) and (x == turn).all()
        sums = space.zeros(1, np.uint64)
        launch(space, kernels, "total", hits, np.int64(hits.size), sums)
        assert sums[0] == 2 * turn * sum(range(5000))
        launch(space, kernels, "fill", hits, np.int64(hits.size), np.int32(7))
        assert set(space.residency(hits)) == {"-X"}  # a kernel that shares nothing has it as before
        assert (hits == 7).all()
        hits[:] = 2 * turn * np.arange(5000)


def test_what_the_gpu_alone_has_is_in_the_block_that_is_shared(gpu, kernels):
    space = gpu("delay_us=100")
    x, hits = space.zeros(3000, np.int32), space.zeros(1, np.int32)
    y = space.zeros(3000, np.int32)
    for z, value in ((x, 3), (y, 4)):
        launch(space, kernels, "fill", z, np.int64(z.size), np.int32(value))
    assert space.residency(x)[0] == "-X"
    launch(space, kernels, "count", hits, np.int32(3))
    assert space.residency(x)[0] == "-X"  # nothing of theirs moved, to the driver
    sums = space.zeros(1, np.uint64)
    launch(space, kernels, "total", x, np.int64(x.size), sums)
    assert sums[0] == 9000 and (x == 3).all() and (y == 4).all() and hits[0] == 3


def test_the_same_array_shared_and_not(gpu, kernels):
    """Two arguments on one page: it is shared."""
    module = hmm.RawModule(
        'extern "C" __global__ void two(int* hits, int* x) { atomicAdd_system(hits, 1); *x = 5; }'
    )
    space = gpu()
    memory = space.zeros(8, np.int32)
    module.get_function("two")((2,), (4,), (memory[:1], memory[4:]), device=space.devices[0])
    assert memory.tolist() == [8, 0, 0, 0, 5, 0, 0, 0] and space.residency(memory) == ["XR"]


def test_freed_and_unregistered_while_lent(gpu, kernels):
    space = gpu()
    for _ in range(3):
        hits = space.zeros(3000, np.int32)
        launch(space, kernels, "many", hits, np.int32(hits.size), grid=(50,), block=(64,))
        assert np.array_equal(hits, np.arange(3000))
        del hits
        plain = np.zeros(3000, np.int32)
        launch(space, kernels, "many", plain, np.int32(plain.size), grid=(50,), block=(64,))
        assert np.array_equal(plain, np.arange(3000))
        space.unregister(plain)
        plain += 1
        assert plain[5] == 6
    hits = space.zeros(3072, np.int32)  # whole pages
    launch(space, kernels, "many", hits, np.int32(hits.size), grid=(50,), block=(64,))
    space.discard(hits)
    assert not hits.any()
    launch(space, kernels, "many", hits, np.int32(hits.size), grid=(50,), block=(64,))
    assert np.array_equal(hits, np.arange(3072))


def test_two_threads_and_the_kernel(gpu, kernels):
    space = gpu("delay_us=100,kernel_us=50000")
    hits, stream = space.zeros(1, np.int32), hmm.Stream()

    def add():
        for _ in range(5000):
            hmm.atomic_add(hits, 0, 1)

    threads = [threading.Thread(target=add) for _ in range(2)]
    launch(space, kernels, "count", hits, np.int32(50_000), stream=stream)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stream.synchronize()
    assert hits[0] == 60_000


@pytest.mark.parametrize(
    "settings",
    ["fail=cuMemHostRegister_v2:1:1", "fail=cuMemHostGetDevicePointer_v2:1", "otherwise=1"],
)
def test_memory_that_cannot_be_mapped_moves(gpu, kernels, settings):
    space = gpu(settings)
    hits = space.full(1, 3, np.int32)
    for turn in range(1, 3):
        launch(space, kernels, "count", hits, np.int32(5))
        assert space.residency(hits) == ["-X"] and hits[0] == 3 + 5 * turn


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("fail=cuMemHostRegister_v2:1:3:3", "map the CPU's memory for .*: cuMemHostRegister_v2: invalid arg"),
        ("fail=cuMemHostGetDevicePointer_v2:1:3:3", "cuMemHostGetDevicePointer_v2: invalid argument"),
    ],
)
def test_memory_that_cannot_be_mapped_after_all(gpu, kernels, settings, words):
    """It could, when it was lent."""
    space = gpu(settings)
    hits, x = space.full(1, 3, np.int32), space.zeros(1000, np.int32)
    with pytest.raises(hmm.DeviceError, match=words):
        launch(space, kernels, "count", hits, np.int32(5))
    assert hits[0] == 3 and not x.any()


def test_a_gpu_that_dies_with_lent_pages(gpu, kernels):
    space = gpu("fail=cuLaunchKernel:1:3")
    hits, x = space.zeros(1, np.int32), space.zeros(1000, np.int32)
    launch(space, kernels, "count", hits, np.int32(5))
    launch(
        space, kernels, "fill", x, np.int64(x.size), np.int32(2)
    )  # lies in the block that is the CPU's now
    with pytest.raises(hmm.DeviceError, match="cuLaunchKernel"):
        launch(space, kernels, "count", hits, np.int32(5))
    assert hits[0] == 5 and (x == 2).all()


def test_fallbacks_that_no_gpu_has(gpu):
    with pytest.raises(hmm.ArgumentError, match="fallback='silent' is for emulated devices"):
        gpu(fallback="silent")
    assert gpu(fallback="exclusive").fallback == "exclusive"


@pytest.mark.parametrize(
    "name",
    [
        "histogram",
        "shared_histogram",
        "task_queue",
        "compaction",
        "padding",
        "transposition",
        "bfs_switch",
        "sssp",
        "ransac",
    ],
)
def test_workloads(gpu, name):
    outcome = WORKLOADS[name].run(gpu("delay_us=50"), "tiny")
    assert outcome.verified, outcome.mismatch
