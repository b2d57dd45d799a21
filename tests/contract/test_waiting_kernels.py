"""Kernels that wait for plain stores of the CPU, made while they run: seen, and in the order in which they were made."""

from __future__ import annotations

import time

import numpy as np
import pytest
from waiting import wait_until

import hmmemu as hmm

PAGE = 1024  # int32
SOURCE = r"""
extern "C" __global__ void wait(volatile int* flag, int* seen) {
  while (*flag == 0) { }
  *seen = *flag;
}
// Answers each round with the sum of what the CPU wrote before it said the round.
extern "C" __global__ void answer(volatile int* flag, volatile const int* x, int n, int rounds, volatile long long* out) {
  for (int round = 1; round <= rounds; ++round) {
    while (*flag < round) { }
    long long sum = 0;
    for (int i = 0; i < n; ++i) sum += x[i];
    out[round] = sum;
    __threadfence_system();
    out[0] = round;
  }
}
extern "C" __global__ void total(const int* x, int n, long long* out) {
  for (int i = 0; i < n; ++i) *out += x[i];
}
"""


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="waiting.cu")


@pytest.mark.parametrize("memory", ["arena", "heap"])
@pytest.mark.parametrize("state", ["untouched", "cpu", "device", "both"])
def test_a_store_while_it_spins(
    space: hmm.AddressSpace, module: hmm.RawModule, state: str, memory: str
) -> None:
    flag = space.empty(PAGE, np.int32) if memory == "arena" else np.zeros(32 * PAGE, np.int32)[5:]
    seen = space.zeros(1, np.int32)
    if state != "untouched":
        flag[:] = 0
    if state in ("device", "both"):
        space.register(flag)
        space.prefetch(flag, space.devices[0], write=state == "device")
    stream = hmm.Stream()
    module.get_function("wait")(1, 1, (flag, seen), stream=stream)
    time.sleep(0.005)  # by now it has looked, mostly
    flag[0] = 7
    wait_until(lambda: stream.done, "the kernel has not seen the store")
    assert seen[0] == 7


@pytest.mark.parametrize("one_page", [False, True])
def test_what_was_stored_before_is_seen_with_it(
    space: hmm.AddressSpace, module: hmm.RawModule, one_page: bool
) -> None:
    rounds, size = 12, 40 if one_page else 20 * PAGE
    x, out = space.zeros(size + 64, np.int32), space.zeros(PAGE, np.int64)
    flag = x[size:] if one_page else space.zeros(PAGE, np.int32)
    for array in (x, flag):
        space.prefetch(array, space.devices[0], write=False)
    stream = hmm.Stream()
    module.get_function("answer")(1, 1, (flag, x, size, rounds, out), stream=stream)
    for round in range(1, rounds + 1):
        x[:size] = round
        flag[0] = round
        wait_until(lambda: out[0] >= round, f"no answer to round {round}")  # noqa: B023
        assert out[round] == round * size
    stream.synchronize(30)


def test_both_devices_wait(two_devices: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x, flag = two_devices.zeros(4 * PAGE, np.int32), two_devices.zeros(PAGE, np.int32)
    outs = [two_devices.zeros(PAGE, np.int64) for _ in two_devices.devices]
    for device in two_devices.devices:
        for array in (x, flag):
            two_devices.prefetch(array, device, write=False)
    streams = [hmm.Stream() for _ in outs]
    for device, stream, out in zip(two_devices.devices, streams, outs, strict=True):
        module.get_function("answer")(1, 1, (flag, x, x.size, 5, out), stream=stream, device=device)
    for round in range(1, 6):
        x[:] = round
        flag[0] = round
        for out in outs:
            wait_until(lambda: out[0] >= round, f"no answer to round {round}")  # noqa: B023
            assert out[round] == round * x.size
    for stream in streams:
        stream.synchronize(30)


def test_protectors_hear_of_the_stores(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x, flag = page_by_page.full(8 * PAGE, 3, np.int32), page_by_page.zeros(PAGE, np.int32)
    out = page_by_page.zeros(PAGE, np.int64)
    page_by_page.prefetch(x, page_by_page.devices[0], write=False)
    frozen = page_by_page.snapshot_of(x)
    log = page_by_page.dirty(x)
    stream = hmm.Stream()
    module.get_function("answer")(1, 1, (flag, x, x.size, 1, out), stream=stream)
    x[2 * PAGE] = 10
    flag[0] = 1
    wait_until(lambda: out[0] == 1, "no answer")
    stream.synchronize(30)
    assert out[1] == 3 * x.size + 7
    assert (np.asarray(frozen) == 3).all()
    assert 2 in page_by_page.dirty(x) and log is not None


def test_copies_are_shared_again_afterwards(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, tracker: str
) -> None:
    x, flag = page_by_page.full(4 * PAGE, 1, np.int32), page_by_page.zeros(PAGE, np.int32)
    seen, out = page_by_page.zeros(1, np.int32), page_by_page.zeros(1, np.int64)
    device = page_by_page.devices[0]
    page_by_page.prefetch(x, device, write=False)
    assert set(page_by_page.residency(x)) == {"SS"}
    stream = hmm.Stream()
    module.get_function("wait")(1, 1, (flag, seen), stream=stream)
    page_by_page.prefetch(x[:PAGE], device, write=False)
    state = page_by_page.residency(x)
    if tracker == "async":  # its stores are not caught, so nothing is shared with it meanwhile
        assert state[0] == "-X" and all(s[1] == "-" for s in state[1:])
    else:
        assert set(state) == {"SS"}
    flag[0] = 1
    wait_until(lambda: stream.done, "the kernel has not seen the store")
    module.get_function("total")(1, 1, (x, x.size, out))
    assert x.sum() == out[0] == x.size
    assert set(page_by_page.residency(x)) == {"SS"}
