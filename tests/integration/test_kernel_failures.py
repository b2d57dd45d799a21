"""Kernels that go wrong: each ends with an error that says where, the program lives on, no data are lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from running import run_python
from waiting import is_gone, wait_until

import hmmemu as hmm
from hmmemu.failure import describe_crash

WILD = r"""
extern "C" __global__ void wild(int* x, long long offset) {
  if (blockIdx.x == 2 && threadIdx.x == 17) x[offset] = 1;
}
extern "C" __global__ void wild_read(const int* x, long long offset, int* out) {
  __shared__ int s;
  if (threadIdx.x == 0) s = x[offset];
  __syncthreads();
  out[threadIdx.x] = s;
}
extern "C" __global__ void endless(volatile int* stop) { while (!*stop) { } }
extern "C" __global__ void checked(const int* x) { assert(x[threadIdx.x] == 0); }
extern "C" __global__ void trap() { __trap(); }
extern "C" __global__ void divide(int* x, int d) { x[0] = 10 / d; }
__device__ int deep(int n, volatile int* x) { int pad[64]; pad[n & 63] = n; *x = pad[n & 63]; return n <= 0 ? pad[0] : deep(n - 1, x) + *x; }
extern "C" __global__ void recurse(int* x) { x[0] = deep(1 << 20, x); }
extern "C" __global__ void add(int* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1;
}
"""


@pytest.fixture(scope="module")
def bad() -> hmm.RawModule:
    return hmm.RawModule(WILD, filename="wild.cu")


def still_works(space: hmm.AddressSpace, bad: hmm.RawModule, x: np.ndarray) -> None:
    before = x.copy()
    bad.get_function("add")(-(-x.size // 256), 256, (x, np.int32(x.size)))
    np.testing.assert_array_equal(x, before + 1)


def test_wild_pointer_names_kernel_block_thread_and_array(
    space: hmm.AddressSpace, bad: hmm.RawModule
) -> None:
    x, kept = space.zeros(1024, np.int32), space.zeros(5000, np.int32)
    space.devices[0].write(kept, 7)  # only the device holds it
    assert set(space.residency(kept)) == {"-X"}
    with pytest.raises(hmm.KernelFault) as caught:
        bad.get_function("wild")(4, 32, (x, 1024 + 100))
    text = str(caught.value)
    address = x.ctypes.data + 4 * 1124
    assert "kernel wild" in text and "block [2,0,0]" in text and "thread [17,0,0]" in text
    assert f"{address:#x}" in text and "write" in text
    assert "it lies 400 bytes behind the end of the array of shape (1024,), dtype int32" in text
    assert (kept == 7).all()
    still_works(space, bad, x)
    still_works(space, bad, kept)
    with pytest.raises(hmm.KernelFault, match="no shared array is anywhere near"):
        bad.get_function("wild")(4, 32, (x, 1 << 40))


@pytest.mark.skipif(not shutil.which("addr2line"), reason="addr2line (binutils) is not installed")
def test_lineinfo_gives_the_source_line(space: hmm.AddressSpace) -> None:
    source = """extern "C" __global__ void k(int* x, long long n) {
  int i = threadIdx.x;
  x[i] = 1;
  x[i + n] = 2;
}"""
    kernel = hmm.RawKernel(source, "k", options=("-lineinfo",), filename="lines.cu")
    with pytest.raises(hmm.KernelFault, match=r"kernel k, .*lines\.cu:4: illegal write"):
        kernel(1, 32, (space.zeros(64, np.int32), 1 << 30))


def test_wild_read_in_a_kernel_with_barriers(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    x, out = space.zeros(4, np.int32), space.zeros(64, np.int32)
    with pytest.raises(hmm.KernelFault, match=r"read .*thread \[0,0,0\]|thread \[0,0,0\].* read"):
        bad.get_function("wild_read")(1, 64, (x, 1 << 40, out))
    still_works(space, bad, x)


def test_freed_memory_is_nobodys(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    x, gone = space.zeros(1024, np.int32), space.zeros(1024, np.int32)
    address = gone.ctypes.data
    del gone
    space.memory.arena.collect()
    with pytest.raises(hmm.KernelFault, match="nobody owns"):
        bad.get_function("wild")(4, 32, (address, 0))
    still_works(space, bad, x)


def test_a_registered_array_that_was_deleted_is_nobodys(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    gone = np.zeros(1 << 20, np.int32)
    space.register(gone)
    address = gone.ctypes.data
    del gone
    with pytest.raises(hmm.KernelFault):
        bad.get_function("wild")(4, 32, (address, 0))


def test_null_pointer(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    with pytest.raises(hmm.KernelFault, match="0x0"):
        bad.get_function("wild")(4, 32, (None, 0))


def test_timeout_stops_a_kernel(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    stop, kept = space.zeros(1, np.int32), space.zeros(5000, np.int32)
    space.devices[0].write(kept, 7)
    stream = hmm.Stream()
    bad.get_function("endless")(1, 1, (stop,), stream=stream)
    begin = time.monotonic()
    with pytest.raises(hmm.KernelTimeout, match=r"0\.3 s"):
        space.synchronize(timeout=0.3)
    assert time.monotonic() - begin < 20
    assert (kept == 7).all()
    still_works(space, bad, kept)


def test_launches_behind_a_failed_one_fail_with_it(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    x = space.zeros(64, np.int32)
    first, second = hmm.Stream(), hmm.Stream()
    stop = space.zeros(1, np.int32)
    bad.get_function("endless")(1, 1, (stop,), stream=first)
    bad.get_function("add")(1, 64, (x, 64), stream=second)
    with pytest.raises(hmm.KernelTimeout):
        first.synchronize(timeout=0.2)
    with pytest.raises(hmm.KernelTimeout):
        second.synchronize()
    assert not x.any()
    still_works(space, bad, x)
    space.synchronize()


def test_ctrl_c_stops_a_kernel(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    stop = space.zeros(1, np.int32)
    bad.get_function("endless").compile()
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        bad.get_function("endless")(1, 1, (stop,))
    timer.join()
    still_works(space, bad, stop)


def test_assert_tells_the_place(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    x = space.zeros(64, np.int32)
    x[33] = 1
    with pytest.raises(hmm.KernelAssertion, match=r"wild\.cu:\d+: .*thread: \[33,0,0\] Assertion"):
        bad.get_function("checked")(1, 64, (x,))
    still_works(space, bad, x)


def test_trap_and_division(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    x = space.zeros(64, np.int32)
    with pytest.raises(hmm.KernelError):
        bad.get_function("trap")(1, 1)
    with pytest.raises(hmm.KernelError, match="division"):
        bad.get_function("divide")(1, 1, (x, 0))
    still_works(space, bad, x)


def test_stack_overflow(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    x = space.zeros(64, np.int32)
    with pytest.raises(hmm.KernelError):
        bad.get_function("recurse")(1, 1, (x,))
    x[0] = 0
    still_works(space, bad, x)


def test_a_killed_device_is_replaced(space: hmm.AddressSpace, bad: hmm.RawModule) -> None:
    x = space.zeros(5000, np.int32)
    space.devices[0].write(x, 3)
    os.kill(space.devices[0].process.pid, signal.SIGKILL)
    with pytest.raises(hmm.DeviceError):
        for _ in range(3):
            bad.get_function("add")(20, 256, (x, 5000))
    assert (x >= 3).all()
    still_works(space, bad, x)


@pytest.mark.parametrize("ending", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_the_device_ends_with_its_parent(ending: str) -> None:
    done = run_python(f"""
        import os, hmmemu as hmm
        print(hmm.current_space().devices[0].process.pid, flush=True)
        {ending}
    """)
    pid = int(done.stdout)
    wait_until(lambda: is_gone(pid), "the device process outlived its parent")


def test_what_is_refused_to_a_kernel_that_ended_itself_is_no_reason(space: hmm.AddressSpace) -> None:
    """Pages that its other threads want while the process ends cannot be given to it."""
    crash = {"kind": "kernel", "failure": "assert", "message": "x.cu:3: Assertion failed"}
    error = describe_crash(crash, 0x1000, errno.ENOMEM, space.memory)
    assert isinstance(error, hmm.KernelAssertion) and str(error) == "x.cu:3: Assertion failed"
    assert "no memory for page 0x1000" in str(describe_crash(None, 0x1000, errno.ENOMEM, space.memory))
