"""What kernels on a GPU print, and how they fail, on the stand-in: in CUDA's words and results."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void say(int turn) { if (threadIdx.x == 0) printf("turn %d, block %d\n", turn, blockIdx.x); }
extern "C" __global__ void lines(int n) { for (int i = 0; i < n; ++i) printf("line %d of many\n", i); }
extern "C" __global__ void check(const int* x) {
  if (threadIdx.x == 0 && blockIdx.x == 0) printf("looking\n");
  assert(x[threadIdx.x] < 5);
}
extern "C" __global__ void trap() { __trap(); }
extern "C" __global__ void bad(int* x) { x[0] = 1; }
extern "C" __global__ void wild(int* x) { x[0] = 1; }
extern "C" __global__ void fill(int* x, int n, int value) { for (int i = 0; i < n; ++i) x[i] = value; }
"""


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="user.cu")


@pytest.fixture
def kept(kernels):
    """keep(space): an array that the GPU alone has; kept(space, array): its content is right, and the device works on."""

    def run(space, array=None):
        if array is None:
            array = space.zeros(5000, np.int32)
            kernels.get_function("fill")((1,), (1,), (array, np.int32(5000), np.int32(6)))
            return array
        assert (array == 6).all()
        kernels.get_function("fill")((1,), (1,), (array, np.int32(5000), np.int32(7)))
        assert (array == 7).all()
        return array

    return run


def test_printf_comes_in_order_and_before_the_launch_returns(gpu, kernels, capsys):
    space = gpu("delay_us=100")
    with space.devices[0]:
        for turn in range(3):
            kernels.get_function("say")((1,), (32,), (np.int32(turn),))
            assert capsys.readouterr().out == f"turn {turn}, block 0\n"
        stream = hmm.Stream()
        for turn in range(5):
            kernels.get_function("say")((1,), (32,), (np.int32(turn),), stream=stream)
        stream.synchronize()
        assert capsys.readouterr().out == "".join(f"turn {turn}, block 0\n" for turn in range(5))


def test_more_text_than_there_is_room_for_is_counted(gpu, kernels, capsys):
    space = gpu()
    with space.devices[0]:
        kernels.get_function("lines")((1,), (1,), (np.int32(80_000),))
    *whole, lost = capsys.readouterr().out.splitlines()
    assert whole == [f"line {i} of many" for i in range(len(whole))] and 40_000 < len(whole) < 80_000
    assert "bytes of printf output were lost" in lost


def test_an_assertion_names_line_block_and_thread(gpu, kernels, kept, capsys):
    space = gpu("delay_us=100")
    with space.devices[0]:
        array, x = kept(space), np.array([1, 2, 9, 3], np.int32)
        with pytest.raises(hmm.KernelAssertion) as caught:
            kernels.get_function("check")((1,), (4,), (x,))
        words = "user.cu:6: check: block: [0,0,0], thread: [2,0,0] Assertion `x[threadIdx.x] < 5` failed."
        assert str(caught.value) == words
        assert "looking\n" in capsys.readouterr().out
        kept(space, array)


def test_the_same_program_fails_alike_on_an_emulated_device(kernels):
    with hmm.AddressSpace(device="emulated"), pytest.raises(hmm.KernelAssertion) as caught:
        kernels.get_function("check")((1,), (4,), (np.array([1, 2, 9, 3], np.int32),))
    assert "user.cu:6: check: block: [0,0,0], thread: [2,0,0] Assertion" in str(caught.value)


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (700, hmm.KernelFault, r"kernel bad: illegal access .*reaches=.*check_reach=True"),
        (702, hmm.KernelTimeout, r"kernel bad: the driver ended it .*shorter launches"),
        (710, hmm.KernelAssertion, r"kernel bad: an assertion failed, CUDA does not say which"),
        (714, hmm.KernelFault, r"kernel bad: a stack is damaged or full"),
        (715, hmm.KernelError, r"kernel bad: illegal instruction"),
        (716, hmm.KernelFault, r"kernel bad: misaligned address .*device='emulated'"),
        (718, hmm.KernelFault, r"kernel bad: a jump to an address"),
        (719, hmm.KernelError, r"kernel bad: it failed, by __trap"),
        (727, hmm.DeviceError, r"run kernel bad: cuStreamSynchronize: .*727"),
    ],
)
def test_each_result_has_its_error(gpu, kernels, kept, result, error, words):
    space = gpu(f"bad={result}")
    with space.devices[0]:
        array, x = kept(space), space.zeros(1, np.int32)
        with pytest.raises(error, match=words) as caught:
            kernels.get_function("bad")((1,), (1,), (x,))
        assert type(caught.value) is error
        kept(space, array)


def test_a_launch_that_needs_too_much(gpu, kernels):
    space = gpu("fail=cuLaunchKernel:701")
    with (
        space.devices[0],
        pytest.raises(hmm.KernelError, match=r"kernel bad: .*registers.*use smaller blocks"),
    ):
        kernels.get_function("bad")((1,), (1,), (space.zeros(1, np.int32),))


def test_trap_and_wild_pointers(gpu, kernels, kept):
    space = gpu()
    with space.devices[0]:
        array = kept(space)
        with pytest.raises(hmm.KernelError, match=r"kernel trap: it failed, by __trap"):
            kernels.get_function("trap")((1,), (1,), ())
        array = kept(space, array)
        array[:] = 6
        with pytest.raises(hmm.KernelFault, match="kernel wild: illegal access"):
            kernels.get_function("wild")((1,), (1,), (0x10000,))
        kept(space, array)


def test_pages_come_home_while_a_kernel_fails(gpu, kernels, kept):
    """The CPU takes a page, whose copy then fails in another thread of the helper: the kernel is blamed all the same."""
    space = gpu("delay_us=20000,kernel_us=50000,bad=716")
    with space.devices[0]:
        array, x, stream = kept(space), space.zeros(1, np.int32), hmm.Stream()
        kernels.get_function("bad")((1,), (1,), (x,), stream=stream)
        assert (array == 6).all()
        with pytest.raises(hmm.KernelFault, match="misaligned"):
            stream.synchronize()
        kept(space, array)


def test_memory_is_given_back_while_a_device_starts_again(gpu, kernels, kept):
    """By other threads: what the process that ended had is home, and nobody waits for the one that starts."""
    space = gpu("delay_us=20,bad=700")
    arrays = [space.full(1024, i, np.int32) for i in range(3000)]
    for array in arrays:
        space.prefetch(array, space.devices[0])
        array[0] = 1  # home again, and the driver keeps the frame on the device
    failed = threading.Event()

    def drop():
        for array in arrays:
            space.discard(array)
        failed.wait(60)

    dropping = threading.Thread(target=drop)
    with space.devices[0]:
        x = kept(space)
        dropping.start()
        for _ in range(3):
            with pytest.raises(hmm.DeviceError):
                kernels.get_function("bad")((1,), (1,), (space.zeros(1, np.int32),))
        failed.set()
        dropping.join(60)
        assert not dropping.is_alive() and not any(array.any() for array in arrays)
        kept(space, x)
