"""Kernels on a real GPU, on memory that the CPU uses, too; what they print, how they fail, what survives."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.kernels import WORKLOADS

SOURCE = r"""
struct Node { int value; Node* next; };
extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void walk(const Node* node, int* sum) { for (; node; node = node->next) *sum += node->value; }
extern "C" __global__ void fill(int* x, int n, int value) { for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = value; }
extern "C" __global__ void say(int turn) { if (threadIdx.x == 0) printf("turn %d\n", turn); }
extern "C" __global__ void check(const int* x) { assert(x[threadIdx.x] < 5); }
extern "C" __global__ void trap() { __trap(); }
extern "C" __global__ void wild(int* x) { x[0] = 1; }
"""
N = 1_000_003


@pytest.fixture(scope="module")
def module():
    return hmm.RawModule(SOURCE, filename="gpu.cu")


@pytest.mark.parametrize("make", [np.ones, hmm.ones], ids=["a numpy array", "a shared one"])
def test_saxpy(gpu_space, module, make):
    x, y = make(N, np.float32), make(N, np.float32)
    for turn in range(1, 4):
        module.get_function("saxpy")((-(-N // 256),), (256,), (np.int32(N), np.float32(2), x, y))
        assert (y == 1 + turn * 2).all()
        y[turn::7] = 1 + turn * 2  # the same: from the CPU again
    assert gpu_space.devices[0].kind == "cuda"


def test_pointers_in_memory(gpu_space, module):
    """One address: what the CPU wrote as a pointer is one on the GPU."""
    nodes = hmm.zeros(100, np.dtype([("value", np.int32), ("next", np.uint64)], align=True))
    nodes["value"] = np.arange(100)
    nodes["next"][:-1] = nodes.ctypes.data + nodes.itemsize * np.arange(1, 100)
    total = hmm.zeros(1, np.int32)
    module.get_function("walk")((1,), (1,), (nodes, total))
    assert total[0] == sum(range(100))


def test_only_what_changed_crosses(gpu_space, module):
    x, y = hmm.ones(N, np.float32), hmm.ones(N, np.float32)
    saxpy = module.get_function("saxpy")
    args = (np.int32(N), np.float32(2), x, y)
    saxpy((-(-N // 256),), (256,), args)
    before = gpu_space.devices[0].crossings["pages_to_gpu"]
    x[:1024] = 3
    saxpy((-(-N // 256),), (256,), args)
    assert 1 <= gpu_space.devices[0].crossings["pages_to_gpu"] - before <= 2
    assert not gpu_space.devices[0].why_no_page_kernels


def test_text(gpu_space, module, capsys):
    for turn in range(3):
        module.get_function("say")((2,), (32,), (np.int32(turn),))
        assert capsys.readouterr().out == f"turn {turn}\n" * 2


@pytest.mark.parametrize(
    ("kernel", "args", "error", "words"),
    [
        (
            "check",
            lambda: (np.array([1, 9], np.int32),),
            hmm.KernelAssertion,
            r"gpu.cu:10: .*thread: \[1,0,0\]",
        ),
        ("trap", tuple, hmm.KernelError, "kernel trap: it failed, by __trap"),
        ("wild", lambda: (0x10000,), hmm.KernelFault, "kernel wild: illegal access"),
    ],
)
def test_what_the_gpu_alone_had_survives_a_kernel_that_fails(gpu_space, module, kernel, args, error, words):
    x = hmm.zeros(N, np.int32)
    fill = module.get_function("fill")
    fill((1,), (256,), (x, np.int32(N), np.int32(6)))
    with pytest.raises(error, match=words) as caught:
        module.get_function(kernel)((1,), (2,), args())
    assert "is lost" not in str(caught.value) and (x == 6).all()
    fill((1,), (256,), (x, np.int32(N), np.int32(7)))
    assert (x == 7).all()


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload(gpu_space, name):
    outcome = WORKLOADS[name].run(gpu_space, "tiny", seed=0, image=None, fraction=None)
    assert outcome.verified, outcome.mismatch
