"""CPU threads and running kernels on the same pages: sums exact, nothing lost, again and again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forking import in_child

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void bump(volatile int* x, int n, int rounds) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) for (int r = 0; r < rounds; ++r) x[2 * i] += 1;   // even words; the CPU has the odd ones
}
extern "C" __global__ void scan(const volatile int* x, int pages, int rounds, int* bad) {
  for (int r = 0; r < rounds; ++r)
    for (int p = pages - 1; p > 0; --p) {     // the CPU writes page p - 1 before page p
      int later = x[p * 1024], earlier = x[(p - 1) * 1024];
      if (earlier < later) atomicAdd(bad, 1);
    }
}
extern "C" __global__ void ping(volatile int* x, int rounds) {
  for (int r = 0; r < rounds; ++r) {
    while (x[0] != 2 * r + 1) { }
    x[1024] = r;
    x[0] = 2 * r + 2;
  }
}
"""


@pytest.fixture(scope="module")
def racing() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="racing.cu")


def together(*actions: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("grow", [False, True])
def test_different_words_of_the_same_pages(racing: hmm.RawModule, grow: bool) -> None:
    n, rounds = 4096, 300
    with hmm.AddressSpace(timeout=90, policy=hmm.Policy(grow=grow)) as space:
        x = space.zeros(2 * n, np.int32)

        def on_cpu() -> None:
            for _ in range(rounds):
                x[1::2] += 1

        bump = racing.get_function("bump")
        with space:
            stream = hmm.Stream()
            bump(n // 64, 64, (x, n, rounds), stream=stream)
            together(on_cpu, lambda: stream.synchronize(90))
            assert (x[1::2] == rounds).all()
            assert (x[0::2] == rounds).all()


def test_threads_meet_on_pages_that_are_away(kernels: hmm.RawModule, page_by_page: hmm.AddressSpace) -> None:
    """Eight threads, each in an order of its own, write the same pages: each page comes home once, with all writes."""
    pages, threads, rounds = 1024, 8, 3
    x = page_by_page.empty(pages * 1024, np.int32)
    words = x.reshape(pages, 1024)

    def writer(k: int, value: int) -> Callable[[], None]:
        order = np.random.default_rng([k, value]).permutation(pages)

        def write() -> None:
            words[order, k] = value + k  # without the GIL

        return write

    for value in range(100, 100 + rounds):
        kernels.get_function("fill")((4,), (64,), (x, np.int64(x.size), np.int32(-value)))
        page_by_page.synchronize()
        page_by_page.reset_stats()
        together(*(writer(k, value) for k in range(threads)))
        assert page_by_page.stats().processors[0].write_faults == pages
        assert (words[:, :threads] == value + np.arange(threads)).all()
        assert (words[:, threads:] == -value).all()


def cpu_of(thread: str) -> int:
    """The CPU on which a thread of this process ran last."""
    return int(Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[36])


def sleeps() -> Counter[str]:
    """How often each thread that serves faults of the CPU has gone to sleep."""
    found: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            if status["Name"].strip() == "hmm-fault-0":
                found[task.name] = int(status["voluntary_ctxt_switches"])
    return found


def test_the_receiver_sits_where_the_program_faults(page_by_page: hmm.AddressSpace, tracker: str) -> None:
    """On another CPU a fault costs several times as much. The program's own choice of CPUs is not touched."""
    if tracker == "signal":
        pytest.skip("a thread serves its own faults")
    idle = sleeps()
    page_by_page.empty(1000 * 1024, np.int32)[::1024] = 1
    receiver = (sleeps() - idle).most_common(1)[0][0]  # other spaces have some, and tracker async has two
    before = os.sched_getaffinity(0)
    try:
        for cpu in sorted(before):
            os.sched_setaffinity(0, {cpu})
            limit = time.monotonic() + 20
            while cpu_of(receiver) != cpu:
                assert time.monotonic() < limit, f"the receiver stays away from CPU {cpu}"
                page_by_page.empty(100 * 1024, np.int32)[::1024] = 1
            assert os.sched_getaffinity(0) == {cpu}
    finally:
        os.sched_setaffinity(0, before)
    page_by_page.empty(1000 * 1024, np.int32)[::1024] = 1
    assert os.sched_getaffinity(0) == before


def test_a_message_is_seen_before_its_flag(racing: hmm.RawModule, page_by_page: hmm.AddressSpace) -> None:
    """Data on one page, flag on another, thousands of times: coherence across pages, in both directions."""
    rounds = 2000
    x = page_by_page.zeros(2048, np.int32)
    stream = hmm.Stream()
    racing.get_function("ping")(1, 1, (x, rounds), stream=stream)
    for r in range(rounds):
        x[0] = 2 * r + 1
        while x[0] != 2 * r + 2:
            pass
        assert x[1024] == r
    stream.synchronize(30)


def test_readers_see_writes_in_order(racing: hmm.RawModule, page_by_page: hmm.AddressSpace) -> None:
    if page_by_page.tracker == "async":
        pytest.skip("a running kernel keeps what it has of some pages, and gets others anew")
    pages = 4
    x, bad = page_by_page.zeros(pages * 1024, np.int32), page_by_page.zeros(1024, np.int32)
    stream = hmm.Stream()
    racing.get_function("scan")(2, 1, (x, pages, 1000, bad), stream=stream)
    for value in range(1, 1000):
        for page in range(pages):
            x[page * 1024 : (page + 1) * 1024] = value
    stream.synchronize(60)
    assert bad[0] == 0


def test_many_threads_allocate_launch_and_free(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    add = kernels.get_function("add")

    def work(seed: int) -> Callable[[], None]:
        def run() -> None:
            rng = np.random.default_rng(seed)
            with hmm.Stream() as stream:
                for _ in range(30):
                    n = int(rng.integers(1, 20_000))
                    x = space.full(n, 1, np.int32) if rng.random() < 0.5 else np.ones(n, np.int32)
                    device = space.devices[0]
                    for _ in range(3):
                        add(4, 64, (x, n, 2), stream=stream, device=device)
                    stream.synchronize(60)
                    assert (x == 7).all()

        return run

    together(*(work(seed) for seed in range(4)))


def test_forks_while_kernels_run(racing: hmm.RawModule, space: hmm.AddressSpace) -> None:
    n, rounds = 4096, 2000
    x = space.zeros(2 * n, np.int32)
    stream = hmm.Stream()
    racing.get_function("bump")(n // 64, 64, (x, n, rounds), stream=stream)
    for _ in range(20):
        x[1::2] += 1
        assert in_child(lambda: (x[1::2] == x[1]).all()) == 0
    stream.synchronize(60)
    assert (x[0::2] == rounds).all() and (x[1::2] == 20).all()


def test_two_devices_and_the_cpu_count_on_one_page(two_devices: hmm.AddressSpace) -> None:
    source = r"""extern "C" __global__ void count(volatile int* x, int rounds) { for (int r = 0; r < rounds; ++r) x[0] += 1; }"""
    count = hmm.RawKernel(source, "count")
    x, rounds, streams = two_devices.zeros(1024, np.int32), 3000, [hmm.Stream(), hmm.Stream()]
    for word, (device, stream) in enumerate(zip(two_devices.devices, streams, strict=True)):
        count(1, 1, (x[word:], rounds), stream=stream, device=device)
    for _ in range(rounds):
        x[2] += 1
    for stream in streams:
        stream.synchronize(60)
    np.testing.assert_array_equal(x[:4], [rounds, rounds, rounds, 0])
