"""CuPy in the user's process beside a space on the same GPU: its transfers of shared memory, and device views."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = 'extern "C" __global__ void add(int* x, int n, int v) { for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] += v; }'
N = 300_000


@pytest.fixture(scope="module")
def add():
    kernel = hmm.RawKernel(SOURCE, "add")

    def run(x, value, device=None):
        kernel((1,), (256,), (x, np.int32(x.size), np.int32(value)), device=device)

    return run


def test_a_transfer_from_memory_that_the_gpu_holds(gpu_space, cupy, add):
    """CUDA reads x with its locks held, faults, and the page comes home by the helper: no deadlock."""
    x, there = hmm.zeros(N, np.int32), cupy.empty(N, np.int32)
    for turn in range(1, 6):
        add(x, 1)
        assert set(gpu_space.residency(x)) == {"-X"}
        there.set(x)
        assert (there.get() == turn).all()


def test_a_transfer_to_memory_that_the_gpu_holds(gpu_space, cupy, add):
    x, there = hmm.zeros(N, np.int32), cupy.empty(N, np.int32)
    for turn in range(1, 6):
        add(x, 1)
        there.fill(turn)
        there.get(out=x)
        assert (x == turn).all()
        add(x, 1)
        assert (x == turn + 1).all()


def test_transfers_by_several_threads_while_kernels_run(gpu_space, cupy, add):
    wrong: list[str] = []
    arrays = [hmm.zeros(N // 4, np.int32) for _ in range(4)]

    def work(x):
        try:
            with cupy.cuda.Device(gpu_space.devices[0].gpu.index), cupy.cuda.Stream(non_blocking=True):
                there = cupy.empty(x.size, np.int32)
                for turn in range(1, 11):
                    add(x, 1, gpu_space.devices[0])
                    there.set(x)
                    if not (there.get() == 2 * turn - 1).all():
                        wrong.append(f"turn {turn}")
                    there += 1
                    there.get(out=x)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(x,), daemon=True) for x in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and not wrong
    assert all((x == 20).all() for x in arrays)


def test_views(gpu_space, cupy, add):
    x = hmm.array(np.arange(N, 0, -1, dtype=np.int32))
    with hmm.device_view(x) as view:
        assert isinstance(view, cupy.ndarray) and int(view.sum()) == N * (N + 1) // 2
        view.sort()
        view *= 2
    assert np.array_equal(x, 2 * np.arange(1, N + 1))
    add(x, 1)
    with hmm.device_view(hmm.In(x)) as view:
        total = cupy.cumsum(view, dtype=np.int64)[-1]
    assert int(total) == int(x.sum(dtype=np.int64)) == N * (N + 1) + N
    with hmm.device_view(hmm.Out(x)) as view:
        view.fill(7)
    assert (x == 7).all()


def test_views_of_two_arrays(gpu_space, cupy):
    x, y = hmm.ones((100, 300), np.float32), hmm.zeros((100, 300), np.float32)
    with hmm.device_view(hmm.In(x)) as a, hmm.device_view(y) as b:
        cupy.add(a, a, out=b)
    assert (y == 2).all() and (x == 1).all()
