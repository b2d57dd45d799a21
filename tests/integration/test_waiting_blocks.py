"""Blocks that wait for other blocks of their launch: all of them run, also when there are many more than workers."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
// Block b waits for block b + 1, which is handed out after it.
extern "C" __global__ void chain(volatile unsigned* done, unsigned* length, unsigned n) {
  unsigned b = blockIdx.x;
  if (threadIdx.x != 0) return;
  if (b + 1 < n) while (done[b + 1] == 0) { }
  length[b] = (b + 1 < n ? length[b + 1] : 0) + 1;
  __threadfence();
  done[b] = 1;
}
// A barrier of the whole grid: every block needs what all others wrote.
extern "C" __global__ void meet(unsigned* arrived, const unsigned* x, unsigned* squares, unsigned* sums, unsigned n) {
  unsigned b = blockIdx.x, sum = 0;
  if (threadIdx.x == 0) {
    squares[b] = x[b] * x[b];
    __threadfence();
    atomicAdd(arrived, 1u);
    while (true) { if (atomicAdd(arrived, 0u) >= n) break; }
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += __ldcg(squares + i);
  atomicAdd(&sums[b], sum);
}
// The same in a way that does not look like waiting: the loop also counts.
extern "C" __global__ void meet_counting(unsigned* arrived, unsigned* turns, unsigned n) {
  unsigned mine = 0, seen = atomicAdd(arrived, 1u) + 1;
  while (seen < n) {
    ++mine;
    seen = atomicMax(arrived, 0u);
  }
  turns[blockIdx.x] = mine + 1;
}
// Every thread of every block takes the lock in turn.
extern "C" __global__ void locked(int* lock, unsigned* total) {
  while (atomicCAS(lock, 0, 1) != 0) { }
  __threadfence();
  *(volatile unsigned*)total += 1;
  __threadfence();
  atomicExch(lock, 0);
}
// Nested loops that end in one place, loops without braces, and one behind an if without braces.
extern "C" __global__ void shapes(unsigned* word, unsigned* out) {
  unsigned i = 0, n = 0;
  while (i < 3) while (atomicAdd(word, 1u) % 4u != 3u || ++i > 100) ++n;
  do ++n; while (atomicAdd(word, 1u) < 20);
  if (n > 1000000) while (atomicAdd(word, 0u) < 10) ++n; else ++n;
  for (;;) { if (atomicAdd(word, 1u) > 40) break; ++n; }
  *out = n;
}
"""


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="waiting.cu")


@pytest.mark.parametrize("blocks", [3, 40])
def test_a_block_waits_for_a_later_one(space: hmm.AddressSpace, module: hmm.RawModule, blocks: int) -> None:
    for _ in range(2):  # the second time the further threads are there already
        done, length = space.zeros(blocks, np.uint32), space.zeros(blocks, np.uint32)
        module.get_function("chain")((blocks,), (32,), (done, length, np.uint32(blocks)))
        np.testing.assert_array_equal(length, np.arange(blocks, 0, -1))


@pytest.mark.parametrize("threads", [1, 64])
def test_a_barrier_of_the_grid(space: hmm.AddressSpace, module: hmm.RawModule, threads: int) -> None:
    n = 100
    x = np.arange(n, dtype=np.uint32)
    arrived, squares, sums = (space.zeros(k, np.uint32) for k in (1, n, n))
    module.get_function("meet")((n,), (threads,), (arrived, x, squares, sums, np.uint32(n)))
    np.testing.assert_array_equal(sums, np.full(n, (x * x).sum()))


def test_a_barrier_that_looks_like_work(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    arrived, turns = space.zeros(1, np.uint32), space.zeros(50, np.uint32)
    module.get_function("meet_counting")((50,), (1,), (arrived, turns, np.uint32(50)))
    assert arrived[0] == 50 and (turns > 0).all()


def test_with_one_worker(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(workers=1, timeout=60) as space:
        done, length = space.zeros(5, np.uint32), space.zeros(5, np.uint32)
        module.get_function("chain")((5,), (32,), (done, length, np.uint32(5)))
        np.testing.assert_array_equal(length, [5, 4, 3, 2, 1])


def test_a_lock_that_all_threads_take(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    lock, total = space.zeros(1, np.int32), space.zeros(1, np.uint32)
    module.get_function("locked")((64,), (32,), (lock, total))
    assert total[0] == 64 * 32


def test_loops_of_every_shape(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    word, out = space.zeros(1, np.uint32), space.zeros(1, np.uint32)
    module.get_function("shapes")((1,), (1,), (word, out))
    # Three loops of 4 operations (3 turns each), then turns until the word was 20, one, and until it was 41.
    assert word[0] == 12 + 9 + 21 and out[0] == 9 + 9 + 1 + 20
