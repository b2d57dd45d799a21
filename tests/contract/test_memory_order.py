"""What CPU and device tell each other by flags while a kernel runs: data before the flag, and no store that waits.

Plain stores to data, atomic operations on flags; CUDA's fences in kernels. Nothing may depend on where pages are.
"""

from __future__ import annotations

import numpy as np
import pytest
from waiting import wait_until

import hmmemu as hmm

SOURCE = r"""
#include <cuda/atomic>
typedef unsigned u32;
enum { VOLATILE, ATOMIC, REF };  // how to look at a word
__device__ u32 look(u32* word, int way) {
  if (way == ATOMIC) return atomicAdd_system(word, 0u);
  if (way == REF) return cuda::atomic_ref<u32, cuda::thread_scope_system>(*word).load(cuda::std::memory_order_acquire);
  u32 value = *(volatile u32*)word;
  __threadfence_system();
  return value;
}
__device__ void tell(u32* word, u32 value, int way) {
  __threadfence_system();
  if (way == ATOMIC) atomicExch_system(word, value);
  else if (way == REF) cuda::atomic_ref<u32, cuda::thread_scope_system>(*word).store(value, cuda::std::memory_order_release);
  else *(volatile u32*)word = value;
}
// Round r: the CPU writes r to all of `data` and then to the flag; the answer goes the same way.
extern "C" __global__ void answer(volatile u32* data, volatile u32* back, int n, u32* flag, u32* ack, int way, u32 rounds,
                                  u32* stale) {
  for (u32 r = 1; r <= rounds; ++r) {
    while (look(flag, way) < r) { }
    for (int i = 0; i < n; ++i) *stale += data[i] != r;
    for (int i = 0; i < n; ++i) back[i] = r;
    tell(ack, r, way);
  }
}
// Round r: each side writes r to its own word and then reads the other's.
extern "C" __global__ void cross(u32* mine, u32* theirs, u32* go, u32* ready, int way, u32 rounds, u32* seen) {
  for (u32 r = 1; r <= rounds; ++r) {
    while (look(go, VOLATILE) < r) { }
    for (volatile u32 wait = r * 37 % 101 * 20; wait; wait = wait - 1) { }
    tell(mine, r, way);
    __threadfence_system();
    seen[r] = look(theirs, way);
    tell(ready, r, ATOMIC);
  }
}
"""
WAYS = {"volatile": 0, "atomicAdd": 1, "atomic_ref": 2}
LIMIT = 60.0  # s
ROUNDS = 10


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="memory_order.cu")


def words(space: hmm.AddressSpace, count: int, apart: int) -> list[np.ndarray]:
    """Arrays of four words: `apart` bytes from each other."""
    memory = space.zeros(count * apart // 4, np.uint32)
    return [memory[i * apart // 4 :][:4] for i in range(count)]


def bring(space: hmm.AddressSpace, arrays: list[np.ndarray], state: str) -> None:
    for array in arrays:
        array[:] = 0
        if state != "cpu":
            space.prefetch(array, space.devices[0], write=state == "device")


@pytest.mark.parametrize("link", ["pcie3-noatomics", "pcie4"])
@pytest.mark.parametrize("apart", [16, 4096])
def test_data_before_the_flag(module: hmm.RawModule, link: str, apart: int) -> None:
    with hmm.AddressSpace(timeout=LIMIT, link=link, policy=hmm.Policy(grow=False)) as space:
        data, back, flag, ack = words(space, 4, apart)
        stale = space.zeros(1, np.uint32)
        for way in WAYS.values():
            for state in ("device", "both"):
                bring(space, [data, back, flag, ack], state)
                arguments = (data, back, np.int32(4), flag, ack, np.int32(way), np.uint32(ROUNDS), stale)
                module.get_function("answer")((1,), (1,), arguments, stream=hmm.Stream())
                for r in range(1, ROUNDS + 1):
                    data[:] = r
                    hmm.atomic_store(flag, 0, r)
                    wait_until(lambda r=r: hmm.atomic_load(ack, 0) >= r)
                    assert list(back) == [r] * 4
                space.synchronize()
                assert stale[0] == 0


@pytest.mark.parametrize("link", ["pcie3-noatomics", "pcie4"])
@pytest.mark.parametrize("apart", [16, 4096])
def test_one_of_both_sees_the_other(module: hmm.RawModule, link: str, apart: int) -> None:
    """Store buffering: after the stores of both, at least one of the two loads finds the other's."""
    with hmm.AddressSpace(timeout=LIMIT, link=link, policy=hmm.Policy(grow=False)) as space:
        x, y, go, ready = words(space, 4, apart)
        for way in WAYS.values():
            bring(space, [x, y, go, ready], "both")
            device_saw, cpu_saw = space.zeros((2, ROUNDS + 1), np.uint32)
            arguments = (y, x, go, ready, np.int32(way), np.uint32(ROUNDS), device_saw)
            module.get_function("cross")((1,), (1,), arguments, stream=hmm.Stream())
            for r in range(1, ROUNDS + 1):
                hmm.atomic_store(go, 0, r)
                hmm.atomic_store(x, 0, r)
                cpu_saw[r] = hmm.atomic_load(y, 0)
                wait_until(lambda r=r: hmm.atomic_load(ready, 0) >= r)
            space.synchronize()
            rounds = np.arange(ROUNDS + 1)
            assert not np.any((device_saw < rounds) & (cpu_saw < rounds)), way
