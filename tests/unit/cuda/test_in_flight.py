"""Several launches in flight on a GPU, on the stand-in: their order, their end, and what goes on beside them."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void step(int* x, int k) { x[0] = x[0] * 3 + k; }
extern "C" __global__ void add(int* x, int n) { for (int i = 0; i < n; ++i) x[i] += 1; }
extern "C" __global__ void join(int* x, const int* y) { x[0] += 1 + 0 * y[0]; }
extern "C" __global__ void sum(int* x, const int* y) { x[0] += y[1 << 19]; }
extern "C" __global__ void bad(int* x) { x[0] = 1; }
extern "C" __global__ void wait_for(volatile int* flag, int* seen) { while (!flag[0]) {} seen[0] = flag[0]; }
"""
SAY = r"""
extern "C" __global__ void say(const int* x) { printf("%d\n", x[0]); }
"""
DEPTH = 64  # kDepth of in_flight.h


class Machine:
    """A stand-in whose kernels begin when `open_gate` was called, and which tells what was launched."""

    def __init__(self, gpu, folder):
        self._gpu, self._gate, self._launched = gpu, folder / "gate", folder / "launched"
        self._launched.touch()

    def space(self, settings="", closed=False, **options):
        if closed:
            self._gate.touch()
        words = f"gate={self._gate},launched={self._launched},delay_us=20"
        return self._gpu(f"{words},{settings}" if settings else words, **options)

    def open_gate(self):
        self._gate.unlink()

    @contextmanager
    def gate_opens_soon(self):
        """By another process: a thread that waits for a page has the interpreter."""
        with subprocess.Popen(["sh", "-c", 'sleep 0.2; rm "$0"', str(self._gate)]):
            yield

    def launched(self):
        return self._launched.read_text().split()

    def wait_for(self, count):
        """Until so many kernels have been launched; a moment later there are not more."""
        deadline = time.monotonic() + 30
        while len(self.launched()) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.1)
        assert len(self.launched()) == count


@pytest.fixture
def machine(gpu, tmp_path):
    return Machine(gpu, tmp_path)


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE)


def launch(kernels, name, *args, stream):
    kernels.get_function(name)((1,), (1,), args, stream=stream)


def test_launches_follow_each_other_in_order(machine, kernels):
    space = machine.space(closed=True)
    x, stream, expected = space.zeros(1, np.int32), hmm.Stream(), 0
    with space.devices[0]:
        for k in range(7):
            launch(kernels, "step", x, np.int32(k), stream=stream)
            expected = expected * 3 + k
        machine.wait_for(7)
        assert not stream.done
        machine.open_gate()
        stream.synchronize()
    assert x[0] == expected


@pytest.mark.parametrize("lacks", ["nowrites=1", "otherwise=1", "fail=cuStreamWriteValue64_v2:801"])
def test_a_gpu_without_stream_writes_has_one_at_a_time(machine, kernels, lacks):
    space = machine.space(lacks, closed=True)
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        for _ in range(5):
            launch(kernels, "add", x, np.int32(1), stream=stream)
        machine.wait_for(1)
        machine.open_gate()
        stream.synchronize()
    assert x[0] == 5 and len(machine.launched()) == 5


def test_there_is_a_limit_to_how_many(machine, kernels):
    space = machine.space("delay_us=0", closed=True)
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        for _ in range(DEPTH + 40):
            launch(kernels, "add", x, np.int32(1), stream=stream)
        machine.wait_for(DEPTH)
        machine.open_gate()
        stream.synchronize()
    assert x[0] == DEPTH + 40


def test_more_launches_than_the_queue_holds(machine, kernels):
    space = machine.space("delay_us=0")
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        for _ in range(2000):
            launch(kernels, "add", x, np.int32(1), stream=stream)
        stream.synchronize()
    assert x[0] == 2000


def test_the_kernel_that_failed_is_named_and_those_before_it_have_ended(machine, kernels):
    space = machine.space("bad=716", closed=True)
    x, y, stream = space.zeros(1 << 20, np.int32), space.zeros(1 << 20, np.int32), hmm.Stream()
    with space.devices[0]:
        launch(kernels, "add", x, np.int32(1), stream=stream)
        launch(kernels, "add", x, np.int32(1), stream=stream)
        before = stream.record()
        launch(kernels, "bad", y, stream=stream)
        launch(kernels, "add", y, np.int32(1), stream=stream)
        machine.wait_for(4)
        machine.open_gate()
        with pytest.raises(hmm.KernelFault, match="kernel bad: misaligned"):
            stream.synchronize()
        before.synchronize()
        assert x[0] == 2
        launch(kernels, "add", x, np.int32(1), stream=hmm.Stream.null)
        assert x[0] == 3


def test_a_launch_that_cannot_be_waits_for_those_before_it(machine, kernels):
    space = machine.space("fail=bad:701", closed=True)
    x, y, stream = space.zeros(1 << 20, np.int32), space.zeros(1 << 20, np.int32), hmm.Stream()
    with space.devices[0]:
        launch(kernels, "add", x, np.int32(1), stream=stream)
        before = stream.record()
        launch(kernels, "bad", y, stream=stream)
        machine.wait_for(1)
        machine.open_gate()
        with pytest.raises(hmm.KernelError, match=r"kernel bad: .*registers"):
            stream.synchronize()
        before.synchronize()
        assert x[0] == 1


def test_the_launch_behind_a_failure_is_not_blamed(machine, kernels):
    """Worker 0 hears of the failure first, from its own next call."""
    space = machine.space("bad=716")
    x, y, stream = space.zeros(1, np.int32), space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        launch(kernels, "bad", y, stream=stream)
        time.sleep(0.0005)
        with pytest.raises(hmm.KernelFault, match="kernel bad: misaligned"):
            for _ in range(1000):
                launch(kernels, "add", x, np.int32(1), stream=stream)
            stream.synchronize()


def test_a_kernel_that_hangs_with_others_behind_it(machine, kernels):
    space = machine.space(closed=True)
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        for _ in range(3):
            launch(kernels, "add", x, np.int32(1), stream=stream)
        machine.wait_for(3)
        with pytest.raises(hmm.KernelTimeout):
            stream.synchronize(timeout=0.3)
        machine.open_gate()
        x[0] = 5
        launch(kernels, "add", x, np.int32(1), stream=hmm.Stream.null)
    assert x[0] == 6


def test_events_are_measured_when_the_work_before_them_is_done(machine, kernels):
    space = machine.space("kernel_us=30000", closed=True)
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        begin = stream.record()
        launch(kernels, "add", x, np.int32(1), stream=stream)
        middle = stream.record()
        launch(kernels, "add", x, np.int32(1), stream=stream)
        end = stream.record()
        assert not middle.done
        machine.open_gate()
        first, both = hmm.get_elapsed_time(begin, middle), hmm.get_elapsed_time(begin, end)
    assert (
        first >= 30 and both >= 60 and both > first
    )  # the first one may be noticed late: the second has begun


def test_the_cpu_waits_for_the_launches_that_use_a_page(machine, kernels):
    space = machine.space(closed=True)
    x, stream = space.zeros(1 << 20, np.int32), hmm.Stream()
    with space.devices[0]:
        for _ in range(5):
            launch(kernels, "add", x, np.int32(1), stream=stream)
        machine.wait_for(5)
        assert not stream.done
        with machine.gate_opens_soon():
            assert x[0] == 5
        stream.synchronize()


def test_no_launch_works_on_a_page_that_was_taken(machine, kernels):
    """The CPU takes pages all the time, so that launches are withdrawn while others are in flight."""
    space = machine.space("delay_us=0")
    x, y, stream = space.zeros(1 << 20, np.int32), space.zeros(1 << 20, np.int32), hmm.Stream()
    over, seen = threading.Event(), []

    def disturb():
        while not over.is_set():
            y[0] += 1
            seen.append(int(x[0]))

    other = threading.Thread(target=disturb)
    with space.devices[0]:
        other.start()
        try:
            for _ in range(300):
                launch(kernels, "join", x, y, stream=stream)
            stream.synchronize()
        finally:
            over.set()
            other.join(60)
    assert x[0] == 300 and seen == sorted(seen)


def test_launches_without_end_do_not_keep_a_page_that_they_do_not_name(machine, kernels):
    """It lies in their block, in which there is always one in flight."""
    space = machine.space()
    both = space.zeros(1 << 19, np.int32)
    x, y = both[:1024], both[1024:2048]
    over, stream = threading.Event(), hmm.Stream()
    with space.devices[0]:
        launch(kernels, "add", both, np.int32(2048), stream=hmm.Stream.null)

    def go_on():
        with space.devices[0]:
            while not over.is_set():
                launch(kernels, "add", x, np.int32(1), stream=stream)

    other = threading.Thread(target=go_on)
    other.start()
    try:
        for page in range(2):
            assert y[page * 512] == 1
    finally:
        over.set()
        other.join(60)
    stream.synchronize()


def test_nothing_is_behind_a_kernel_that_may_wait_for_the_cpu(machine, kernels):
    space = machine.space()
    flag, seen = np.zeros(1 << 19, np.int32), space.zeros(1 << 19, np.int32)
    x, stream = space.zeros(1 << 19, np.int32), hmm.Stream()
    with space.devices[0]:
        launch(kernels, "add", x, np.int32(1), stream=stream)
        launch(kernels, "wait_for", flag, seen, stream=stream)
        launch(kernels, "add", x, np.int32(1), stream=stream)
        machine.wait_for(2)
        flag[0] = 7
        stream.synchronize()
    assert seen[0] == 7 and x[0] == 2


def test_printing_launches_among_others(machine, kernels, capsys):
    space = machine.space()
    x, stream, say = space.zeros(1, np.int32), hmm.Stream(), hmm.RawModule(SAY)
    with space.devices[0]:
        for _ in range(6):
            launch(kernels, "add", x, np.int32(1), stream=stream)
            launch(kernels, "add", x, np.int32(1), stream=stream)
            launch(say, "say", x, stream=stream)
        stream.synchronize()
    assert capsys.readouterr().out == "".join(f"{2 * turn}\n" for turn in range(1, 7))


def test_launches_on_more_memory_than_the_gpu_has(machine, kernels):
    """What launches in flight read is not the GPU's to give away, even when nobody has rights there any more."""
    space = machine.space("bytes=33554432,kernel_us=5000", device_memory=8 << 20)
    arrays = [space.full(1 << 20, k, np.int32) for k in range(16)]
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        for array in arrays * 2:
            launch(kernels, "sum", x, array, stream=stream)
        stream.synchronize()
    assert x[0] == 2 * sum(range(16))


def test_a_write_through_the_device_among_launches(gpu, kernels):
    """It changes its own bytes: what launches do to the others of those pages beside it is not lost."""
    space, stream = gpu(), hmm.Stream()
    device, x, turns = space.devices[0], space.zeros(1024, np.int32), 500
    with device:
        for _ in range(turns):
            for _ in range(3):
                kernels.get_function("add")((1,), (1,), (x, np.int32(x.size)), stream=stream)
            device.write(x[:1], 5)
        stream.synchronize()
    assert (x[1:] == 3 * turns).all() and 5 <= x[0] < 5 + 3 * turns
