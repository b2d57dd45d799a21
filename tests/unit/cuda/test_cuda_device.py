"""The CUDA device on a GPU that is none: libcuda.cpp has memory, streams and late copies; kernels are compiled for the CPU.

What is real here: the helper process, residency, ordering, eviction, errors. What is not: the GPU, and NVRTC's code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(int* x, const int* y, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] += y[i] + value;
}
extern "C" __global__ void fill(int* x, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] = value;
}
extern "C" __global__ void fail(int* x) { x[0] = 1; assert(x[0] == 2); }
"""


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="test.cu")


def run(space, kernels, name, *args, **options):
    """Launches a kernel whose last two arguments are a length and a value."""
    *arrays, length, value = args
    given = (*arrays, np.int64(length), np.int32(value))
    kernels.get_function(name)((4,), (128,), given, device=space.devices[0], **options)


def test_what_it_says(gpu):
    device = gpu().devices[0]
    assert device.kind == "cuda" and device.name == "CUDA device 0"
    assert 'GPU 0, Fake GPU "0", 1.0 GiB' in repr(device) and "asked for" in repr(device)


def test_a_gpu_that_another_process_had_until_a_moment_ago(gpu, kernels):
    """In compute mode EXCLUSIVE_PROCESS, after a restart for example."""
    space = gpu("delay_us=20,fail=cuDevicePrimaryCtxRetain:46:1:2")
    x = space.zeros(10, np.int32)
    run(space, kernels, "fill", x, 10, 3)
    assert (x == 3).all()


def test_cpu_and_kernels_in_turn(gpu, kernels):
    """Arena and plain memory; what each writes, the other sees. Copies and kernels are late, so a wait left out shows."""
    space = gpu("delay_us=300,kernel_us=5000")
    x, y = space.full(700_001, 1, np.int32), np.arange(700_001, dtype=np.int32)
    expected = x.copy()
    for turn in range(4):
        run(space, kernels, "add", x, y, x.size, turn)
        expected += y + turn
        assert np.array_equal(x, expected)
        x[turn::1000] -= 5
        y[turn::3] = turn
        expected[turn::1000] -= 5
    assert space.devices[0].process.alive


def test_a_page_in_use_is_waited_for(gpu, kernels):
    space = gpu("delay_us=100,kernel_us=1000000")
    x = space.zeros(4096, np.int32)
    stream = hmm.Stream()
    run(space, kernels, "fill", x, x.size, 7, stream=stream)
    time.sleep(0.3)  # it has begun for us; the GPU runs it later
    assert (x == 7).all()  # the page comes home when the kernel has ended, and not before
    stream.synchronize()


def test_a_page_that_the_cpu_takes_before_a_launch_comes_again(gpu, kernels, gate):
    space = gpu(f"delay_us=100,gate={gate}")
    if space.tracker == "async":
        pytest.skip("its stores are noticed when something is launched, and nothing is after them")
    x, stream = space.zeros(1024, np.int32), hmm.Stream()
    between = space.zeros(4 << 20, np.uint8)  # launches use whole blocks of 2 MiB
    y, z = space.ones(1024, np.int32), space.zeros(1024, np.int32)
    run(space, kernels, "fill", x, x.size, 7, stream=stream)
    run(space, kernels, "add", z, y, z.size, 1, stream=stream)  # queued behind it, with its pages there
    time.sleep(0.2)
    z[:] = 100  # no kernel uses it yet
    y[5] = 50
    assert not stream.done
    gate.unlink()
    stream.synchronize()
    expected = np.full(1024, 102)
    expected[5] = 151
    assert np.array_equal(z, expected) and (x == 7).all() and not between.any()


def test_launches_in_a_row(gpu, kernels):
    space = gpu("delay_us=100,kernel_us=20000")
    x, stream = space.zeros(4096, np.int32), hmm.Stream()
    for value in range(5):
        run(space, kernels, "add", x, x, x.size, value, stream=stream)
    stream.synchronize()
    x[5] = 1
    assert x[5] == 1 and (np.delete(x, 5) == 26).all()  # doubled, and the value added, five times


def test_what_kernels_only_read_stays_readable_at_once(gpu, kernels, gate):
    space = gpu(f"delay_us=100,gate={gate}")
    x, y = space.zeros(1024, np.int32), space.ones(1024, np.int32)
    stream = hmm.Stream()
    run(space, kernels, "add", x, y, x.size, 1, stream=stream)
    time.sleep(0.3)  # it has begun for us
    assert y.sum() == 1024
    y[0] = 100  # the kernel keeps its copy
    assert not stream.done
    gate.unlink()
    stream.synchronize()
    assert x[1] == 2


def test_neighbours_on_the_same_page(gpu, kernels):
    """A small array's pages hold other memory, too: nothing of it is lost, and nobody waits for ever."""
    space = gpu()
    memory = space.zeros(1024, np.int32)
    inner = memory[100:200]
    for turn in range(5):
        memory[:100], memory[200:] = turn, -turn
        run(space, kernels, "fill", inner, inner.size, turn + 50)
        assert (memory[:100] == turn).all() and (memory[200:] == -turn).all() and (inner == turn + 50).all()


def test_two_cpu_threads_and_launches(gpu, kernels):
    space = gpu("delay_us=100,kernel_us=3000")
    x, end = space.zeros(1 << 16, np.int32), threading.Event()
    marks = space.zeros((2, 1 << 12), np.int64)

    def write(row):
        while not end.is_set():
            marks[row] += 1

    threads = [threading.Thread(target=write, args=(row,)) for row in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        run(space, kernels, "fill", x, x.size, turn)
        assert (x[:: 1 << 10] == turn).all()
    end.set()
    for thread in threads:
        thread.join(30)
    assert (marks == marks[:, :1]).all() and marks.min() > 0


def test_more_than_the_device_has(gpu, kernels):
    """Arrays of 24 MiB in turn on a device of 8: they make room for each other, and none is wrong."""
    space = gpu("bytes=16777216", device_memory=8 << 20)
    arrays = [space.zeros(1 << 20, np.int32) for _ in range(6)]
    for turn in range(2):
        for number, x in enumerate(arrays):
            run(space, kernels, "fill", x, x.size, 10 * turn + number)
    assert [int(x[0]) for x in arrays] == [10 + n for n in range(6)]
    assert all((x == x[0]).all() for x in arrays)
    assert sum(c["evicted_pages"] for c in space.session.counters()["processors"]) > 0


def test_memory_of_the_gpu_is_given_up_when_it_is_short(gpu, kernels):
    """No limit is set; the GPU itself has 8 MiB. Granules of pages that went home make room."""
    space = gpu("bytes=8388608")
    for turn in range(8):
        x = space.zeros(1 << 19, np.int32)
        run(space, kernels, "fill", x, x.size, turn)
        assert (x == turn).all()
        x[:] = 0


def test_a_launch_that_can_never_fit(gpu, kernels):
    space = gpu(device_memory=4 << 20)
    x = space.zeros(4 << 20, np.int32)
    x[:] = 3
    with pytest.raises(hmm.OutOfMemoryError, match=r"take 16,384 KiB .* has 4,096 KiB: .*launch it on parts"):
        run(space, kernels, "fill", x, x.size, 1)
    assert (x == 3).all()
    run(space, kernels, "fill", x[: 1 << 18], 1 << 18, 1)
    assert x[0] == 1 and x[-1] == 3


def test_a_launch_that_fits_but_for_the_last_page(gpu, kernels):
    """It would wait for pages that are taken away for each other."""
    space = gpu(device_memory=4 << 20)
    x = space.zeros((4 << 18) + 1024, np.int32)
    with pytest.raises(hmm.OutOfMemoryError, match=r"take 4,100 KiB .* has 4,096 KiB: .*launch it on parts"):
        run(space, kernels, "fill", x, x.size, 1)
    run(space, kernels, "fill", x[1024:], 4 << 18, 1)
    assert not x[:1024].any() and (x[1024:] == 1).all()


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        (
            "cuDevicePrimaryCtxRetain:2",
            r"make a context on GPU 0: cuDevicePrimaryCtxRetain: out of memory .*; free memory",
        ),
        (
            "cuMemGetAllocationGranularity:1",
            "ask GPU 0 for its page size: cuMemGetAllocationGranularity: invalid",
        ),
        ("cuStreamCreate:1", "make the stream of kernels: cuStreamCreate"),
        ("cuMemAddressReserve:1", "cannot map .*Input/output error"),
    ],
)
def test_a_gpu_that_cannot_be_opened(gpu, fails, words):
    with pytest.raises(hmm.Error, match=words):
        gpu(f"fail={fails}")


@pytest.mark.parametrize(
    "call",
    [
        "cuMemCreate:1",
        "cuMemMap:1",
        "cuMemSetAccess:1",
        "cuMemcpyHtoDAsync_v2:1",
        "cuLaunchKernel:1",
    ],
)
def test_a_call_that_fails_is_told_and_the_cpu_keeps_its_data(gpu, kernels, call):
    space = gpu(f"fail={call}")
    x = space.full(5000, 4, np.int32)
    with pytest.raises(hmm.Error) as caught:
        run(space, kernels, "add", x, x.copy(), x.size, 1)
    assert call.split(":")[0] in str(caught.value) and "invalid argument" in str(caught.value)
    assert call == "cuLaunchKernel:1" or (x == 4).all()


def test_a_kernel_that_does_not_load(gpu, kernels, tmp_path):
    space = gpu()
    bad = tmp_path / "bad.cuda"
    bad.write_text("hmmemu-cuda 3\nkernel\tk\tk\t8\n\n/nowhere.so")
    with pytest.raises(hmm.DeviceError, match=r"load .*bad.cuda: cuModuleLoadData"):
        space.devices[0].process.load(str(bad))
    for content in (
        "",
        "something else\n\n",
        "hmmemu-cuda 3\nkernel\tk\n\n",
        "hmmemu-cuda 3\nparam\ta\tint\t0\t4\t2\t1\t0\t0\n\n",
    ):
        bad.write_text(content)
        with pytest.raises(hmm.DeviceError, match="is not a kernel module for a GPU: compile it again"):
            space.devices[0].process.load(str(bad))
    x = space.zeros(10, np.int32)
    run(space, kernels, "fill", x, x.size, 2)
    assert (x == 2).all()


def test_a_kernel_that_fails_leaves_the_space_usable(gpu, kernels):
    space = gpu()
    x, kept = space.zeros(1000, np.int32), space.zeros(5000, np.int32)
    run(space, kernels, "fill", kept, kept.size, 5)  # the GPU alone has it
    with pytest.raises(hmm.KernelAssertion, match=r"test\.cu:\d+: fail: .* Assertion `x\[0\] == 2` failed"):
        kernels.get_function("fail")((1,), (1,), (x,), device=space.devices[0])
    assert (kept == 5).all()
    run(space, kernels, "fill", x, x.size, 6)
    assert (x == 6).all()


def test_a_kernel_that_hangs_is_stopped_and_nothing_else_is_lost(gpu, kernels, gate):
    space = gpu(f"delay_us=100,gate={gate}")
    x, kept = space.zeros(1000, np.int32), space.zeros(3 << 20, np.uint8).view(np.int32)
    gate.unlink()
    run(space, kernels, "fill", kept, kept.size, 6)
    gate.touch()
    with pytest.raises(hmm.KernelTimeout):
        stream = hmm.Stream()
        run(space, kernels, "fill", x, x.size, 6, stream=stream)
        stream.synchronize(timeout=0.05)
    assert (kept == 6).all()


def test_what_cannot_be_saved_is_told(gpu, kernels):
    space = gpu("fail=cuMemImportFromShareableHandle:1")
    x, kept = space.zeros(1000, np.int32), space.zeros(5000, np.int32)
    run(space, kernels, "fill", kept, kept.size, 5)
    with pytest.raises(hmm.DeviceError, match=r"What the GPU alone had is lost: .*take over GPU memory"):
        kernels.get_function("fail")((1,), (1,), (x,), device=space.devices[0])


def test_a_process_that_is_killed(gpu, kernels):
    space = gpu()
    x = space.zeros(1000, np.int32)
    run(space, kernels, "fill", x, x.size, 6)
    os.kill(space.devices[0].process.pid, signal.SIGKILL)
    with pytest.raises(hmm.DeviceError):
        for _ in range(2):
            run(space, kernels, "add", space.zeros(10, np.int32), space.zeros(10, np.int32), 10, 0)
    assert (x == 6).all()
    run(space, kernels, "fill", x, x.size, 8)
    assert (x == 8).all()


def test_read_and_write_through_the_device(gpu, kernels):
    space = gpu()
    x = space.zeros(3000, np.int32)
    run(space, kernels, "fill", x, x.size, 1)
    device = space.devices[0]
    assert (device.read(x) == 1).all()
    device.write(x, 2)
    run(space, kernels, "add", x, x, x.size, 1)  # the kernel sees what was written there
    assert (x == 5).all()


def test_beside_an_emulated_device(gpu, kernels):
    """The plainest mix: two spaces."""
    space = gpu()
    with hmm.AddressSpace(device="emulated") as other:
        x, y = space.zeros(100, np.int32), other.zeros(100, np.int32)
        run(space, kernels, "fill", x, 100, 1)
        run(other, kernels, "fill", y, 100, 2)
        assert (x == 1).all() and (y == 2).all()


def test_bytes_that_nobody_wrote_are_zeros(gpu, kernels):
    """A GPU's fresh memory holds whatever it held (0xA5 here)."""
    space = gpu()
    x, y = space.zeros(5000, np.int32), space.empty(5000, np.int32)
    run(space, kernels, "add", x, y, x.size, 0)
    assert not x.any() and not y.any()
    assert ctypes.c_int.from_address(x.ctypes.data).value == 0
