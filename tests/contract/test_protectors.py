"""Protectors: what is told, when, with which content, by whose write."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
from running import run_python

import hmmemu as hmm
from hmmemu import trackers
from hmmemu.protect import Protection

INTS = 1024
PAGES = 40


class Recorder:
    """Keeps what it is told."""

    def __init__(self, act: Callable[[hmm.WrittenPages], None] | None = None) -> None:
        self.calls: list[hmm.WrittenPages] = []
        self._act = act

    def on_write(self, pages: hmm.WrittenPages) -> None:
        self.calls.append(pages)
        if self._act:
            self._act(pages)

    @property
    def indices(self) -> list[int]:
        return [int(i) for call in self.calls for i in call.indices]

    def before(self, index: int) -> np.ndarray:
        return next(
            call.before[list(call.indices).index(index)] for call in self.calls if index in call.indices
        ).view(np.int32)


@pytest.fixture
def numbers(page_by_page: hmm.AddressSpace) -> np.ndarray:
    x = page_by_page.empty(PAGES * INTS, np.int32)
    x[:] = np.arange(x.size)
    return x


def page(x: np.ndarray, i: int) -> np.ndarray:
    return x[i * INTS : (i + 1) * INTS]


def store(space: hmm.AddressSpace, x: np.ndarray) -> None:
    x[0] = -1


def system_call(space: hmm.AddressSpace, x: np.ndarray) -> None:
    if not trackers.probe(space.tracker).system_calls:
        space.prefetch(x[:1], hmm.cpu)  # the library's way there; else it ends in EFAULT
    reader, writer = os.pipe()
    os.write(writer, np.int32(-1).tobytes())
    with os.fdopen(reader, "rb", buffering=0) as file:
        file.readinto(memoryview(x)[:1])
    os.close(writer)


def device(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.devices[0].write(x[:1], -1)


WAYS = [store, system_call, device]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("there", ["cpu", "device", "both", "nowhere"])
def test_a_write_is_told_with_the_content_before(
    page_by_page: hmm.AddressSpace, numbers: np.ndarray, way: Callable[..., None], there: str
) -> None:
    space, x = page_by_page, numbers
    expected = page(x, 3).copy()
    if there == "device":
        space.prefetch(x, space.devices[0])
    elif there == "both":
        space.prefetch(x, space.devices[0], write=False)
    elif there == "nowhere":
        space.discard(x)
        expected[:] = 0
    recorder = Recorder()
    with space.protect(x, recorder) as protection:
        assert page(x, 3)[5] == expected[5]  # reading is no write
        way(space, page(x, 3))
        protection.flush()
        assert recorder.indices == [3]
        np.testing.assert_array_equal(recorder.before(3), expected)
        expected[0] = -1
        np.testing.assert_array_equal(page(x, 3), expected)
        way(space, page(x, 3))  # once, until armed again
        protection.flush()
        assert recorder.indices == [3]
        protection.arm()
        way(space, page(x, 3))
        protection.flush()
        assert recorder.indices == [3, 3]


def test_a_kernel_write_is_told(
    page_by_page: hmm.AddressSpace, numbers: np.ndarray, kernels: hmm.RawModule
) -> None:
    recorder = Recorder()
    with page_by_page.protect(numbers, recorder) as protection:
        kernels.get_function("add")(4, 256, (numbers, numbers.size, 1))
        protection.flush()
    assert sorted(recorder.indices) == list(range(PAGES))
    for i in range(PAGES):
        np.testing.assert_array_equal(recorder.before(i), np.arange(i * INTS, (i + 1) * INTS))
    np.testing.assert_array_equal(numbers, np.arange(1, numbers.size + 1))


def test_several_hear_in_order_of_registration(page_by_page: hmm.AddressSpace, numbers: np.ndarray) -> None:
    heard: list[tuple[str, int]] = []
    protections = [
        page_by_page.protect(
            numbers, Recorder(lambda p, name=name: heard.extend((name, int(i)) for i in p.indices))
        )
        for name in "abc"
    ]
    for i in (7, 3, 30):
        page(numbers, i)[0] = 1
    for protection in protections:
        protection.flush()
        protection.drop()
    for i in (7, 3, 30):
        assert [name for name, which in heard if which == i] == ["a", "b", "c"]
    told = [i for name, i in heard if name == "a"]
    assert told == [7, 3, 30]


def test_dropping_makes_plain_memory_again(page_by_page: hmm.AddressSpace, numbers: np.ndarray) -> None:
    space = page_by_page
    one, two = Recorder(), Recorder()
    first, second = space.protect(numbers, one), space.protect(numbers[: 10 * INTS], two)
    assert set(space.residency(numbers)) == {"S-"}
    first.drop()
    assert list(space.residency(numbers)) == ["S-"] * 10 + ["X-"] * (PAGES - 10)
    second.drop()
    assert set(space.residency(numbers)) == {"X-"}
    space.reset_stats()
    numbers += 1
    assert space.stats().processors[0].faults == 0
    assert one.calls == two.calls == []


def test_dropped_from_inside_the_callback(page_by_page: hmm.AddressSpace, numbers: np.ndarray) -> None:
    recorder = Recorder(lambda pages: pages.protection.drop())
    protection = page_by_page.protect(numbers, recorder)
    page(numbers, 1)[0] = 1
    protection.flush()
    numbers[:] = 0
    protection.flush()
    assert recorder.indices[:1] == [1] and len(recorder.calls) == 1


def test_armed_again_from_inside_the_callback(page_by_page: hmm.AddressSpace, numbers: np.ndarray) -> None:
    recorder = Recorder(lambda pages: pages.arm())
    with page_by_page.protect(numbers, recorder) as protection:
        for value in range(5):
            page(numbers, 2)[0] = value
            protection.flush()
    assert recorder.indices == [2] * 5


def test_a_callback_that_writes_the_page_and_one_that_fails(
    page_by_page: hmm.AddressSpace, numbers: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_value))

    def act(pages: hmm.WrittenPages) -> None:
        pages.memory[-1] = 99
        raise ValueError("as the test wants")

    with page_by_page.protect(numbers, Recorder(act)) as protection:
        page(numbers, 0)[0] = 1
        protection.flush()
        protection.flush()
    assert numbers[-1] == 99 and [str(f) for f in failures] == ["as the test wants"] * len(failures)
    assert failures


@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_would_end_its_thread(
    page_by_page: hmm.AddressSpace,
    numbers: np.ndarray,
    failure: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_type))

    def act(pages: hmm.WrittenPages) -> None:
        raise failure

    other = Recorder()
    with (
        page_by_page.protect(numbers, Recorder(act)) as first,
        page_by_page.protect(numbers, other) as second,
    ):
        for i in range(2):
            page(numbers, i)[0] = 1
            first.flush()
            second.flush()
    assert failures == [failure] * 2 and other.indices == [0, 1]


def test_one_operation_writes_everything(space: hmm.AddressSpace) -> None:
    """A thread that never lets go of the GIL writes far more pages than anybody could be told meanwhile."""
    x = space.zeros(4000 * INTS, np.int32)
    recorder = Recorder()
    with space.protect(x, recorder) as protection:
        x += 1
        protection.flush()
    assert sorted(recorder.indices) == list(range(4000))
    assert not any(call.before.any() for call in recorder.calls)


def test_many_protectors_come_and_go(page_by_page: hmm.AddressSpace, numbers: np.ndarray) -> None:
    space = page_by_page
    first = Recorder()
    with space.protect(numbers, first) as protection:
        last = space.snapshot_of(numbers)
        for _ in range(30):  # the last one stays a while: holes are left in the driver's table of 1024
            several = [space.snapshot_of(page(numbers, i)) for i in range(PAGES)]
            newest = space.snapshot_of(numbers)
            for snapshot in [*several, last]:
                snapshot.drop()
            last = newest
            page(numbers, 1)[0] += 1
            assert int(np.asarray(last)[INTS]) + 1 == int(numbers[INTS])
        last.drop()
        protection.flush()
        assert first.indices == [1]


def test_bad_protectors_are_refused(space: hmm.AddressSpace) -> None:
    with pytest.raises(hmm.ArgumentError, match="on_write"):
        space.protect(space.ones(10), object())  # type: ignore[arg-type]
    with pytest.raises(hmm.RangeError, match="not in the address space"):
        space.protect(np.ones(10), Recorder())
    with pytest.raises(hmm.ArgumentError, match="no pages"):
        space.protect(space.ones(0), Recorder())


# ---------------------------------------------------------------------------------------- dirty logs


def test_dirty_says_what_was_written_since(page_by_page: hmm.AddressSpace, numbers: np.ndarray) -> None:
    space = page_by_page
    assert list(space.dirty(numbers)) == list(range(PAGES))
    assert list(space.dirty(numbers)) == []
    store(space, page(numbers, 5))
    system_call(space, page(numbers, 9))
    device(space, page(numbers, 2))
    assert list(space.dirty(numbers)) == [2, 5, 9]
    assert list(space.dirty(numbers)) == []
    store(space, page(numbers, 5))
    assert list(space.dirty(numbers)) == [5]


def test_arrays_on_the_same_page_have_dirty_logs_of_their_own(space: hmm.AddressSpace) -> None:
    x = space.zeros(INTS, np.int32)
    views = [x, x[: INTS // 2], x[INTS // 2 :], x[::2], x[: INTS // 2].reshape(2, -1)]
    for view in views:
        assert list(space.dirty(view)) == [0], "the first call"
    x[0] = 1
    for view in views:
        assert list(space.dirty(view)) == [0], "written, whoever asks first"
        assert list(space.dirty(view[:])) == [], "the same elements, another object"


def test_dirty_against_a_model(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    random = np.random.default_rng(5)
    x = space.zeros(PAGES * INTS, np.int32)
    poke = kernels.get_function("poke")
    space.dirty(x)
    for _ in range(30):
        wrote: set[int] = set()
        for _ in range(random.integers(0, 8)):
            i = int(random.integers(0, x.size))
            if random.random() < 0.5:
                x[i] = 1
            else:
                poke(1, 1, (x, i, 2))
            wrote.add(i // INTS)
        assert set(space.dirty(x).tolist()) == wrote


# ----------------------------------------------------------------------------------------- snapshots


def test_a_snapshot_stays_as_it_was(page_by_page: hmm.AddressSpace, numbers: np.ndarray) -> None:
    space = page_by_page
    expected = numbers.copy()
    snapshot = space.snapshot_of(numbers)
    for way, i in zip(WAYS, (1, 2, 3), strict=True):
        way(space, page(numbers, i))
    space.prefetch(page(numbers, 4), space.devices[0])
    assert snapshot.copied_pages == 4
    np.testing.assert_array_equal(np.asarray(snapshot), expected)
    assert (numbers != expected).sum() == 3
    second = space.snapshot_of(numbers)
    now = numbers.copy()
    numbers[:] = 0
    np.testing.assert_array_equal(np.asarray(snapshot), expected)
    np.testing.assert_array_equal(np.asarray(second), now)
    snapshot.drop()
    second.drop()


def used_memory() -> int:
    """Bytes of private and shared memory. Not of files: a process that starts or ends shares libraries with this one."""
    gc.collect()  # what tests before have left in cycles
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def test_a_snapshot_costs_the_pages_written_since(page_by_page: hmm.AddressSpace) -> None:
    x = page_by_page.ones(4096 * INTS, np.int32)  # 16 MiB
    np.asarray(page_by_page.snapshot_of(x[:INTS]))  # what the first one costs
    before = used_memory()
    snapshot = page_by_page.snapshot_of(x)
    assert used_memory() - before < x.nbytes / 4
    x[: 100 * INTS : INTS] = 2
    assert snapshot.copied_pages == 100 and used_memory() - before < x.nbytes / 4
    x[:] = 3
    assert used_memory() - before > x.nbytes / 2  # all of it now: the figure means something
    assert (np.asarray(snapshot) == 1).all()


@pytest.mark.parametrize("start", ["cpu", "device", "both", "mixed"])
def test_a_snapshot_whoever_has_the_pages(space: hmm.AddressSpace, start: str) -> None:
    """The CPU reads what a device has, then writes it; the device writes what the CPU has; one after the other."""
    x = space.empty(PAGES * INTS, np.int32)
    x[:] = want = np.arange(x.size)
    if start == "device":
        space.prefetch(x, space.devices[0])
    elif start == "mixed":
        for i in range(0, 20, 3):
            space.prefetch(page(x, i), space.devices[0])
    elif start == "both":
        space.prefetch(x, space.devices[0], write=False)
    snapshot = space.snapshot_of(x)
    assert x.sum() == want.sum()
    page(x, 3)[7] = page(x, PAGES - 1)[1] = -1
    space.devices[0].write(page(x, 4), 5)
    assert page(x, 4)[1] == 5
    page(x, 4)[1] = 6
    assert np.array_equal(space.devices[0].read(page(x, 3))[:8], [*want[3 * INTS : 3 * INTS + 7], -1])
    space.discard(page(x, 9))
    np.testing.assert_array_equal(np.asarray(snapshot), want)
    assert snapshot.copied_pages == 4


def test_a_snapshot_of_pages_that_nobody_touched(space: hmm.AddressSpace) -> None:
    x = space.zeros(PAGES * INTS, np.int32)
    snapshot = space.snapshot_of(x)
    assert not x.any()  # reading gives the CPU pages of zeros
    x[5] = 1
    space.devices[0].write(page(x, 2), 1)
    assert not np.asarray(snapshot).any() and snapshot.copied_pages == 2


def test_no_store_is_lost_when_protectors_come_and_go(space: hmm.AddressSpace) -> None:
    """A dirty log, and a device's copy, hear of every store, whatever is armed, dropped or merged at that moment."""
    random = np.random.default_rng(3)
    x, twin = space.zeros(PAGES * INTS, np.int32), space.zeros(PAGES * INTS, np.int32)
    x[:] = twin[:] = np.arange(x.size)
    mirror = np.zeros_like(x)
    turn, stop = threading.Barrier(2, timeout=100), threading.Event()

    def write() -> None:
        while not stop.is_set():
            turn.wait()
            np.subtract(x, 1, out=x)  # without the GIL
            turn.wait()  # broken when the other side has failed

    def follow() -> None:
        for i in space.dirty(x):
            page(mirror, i)[:] = page(x, i)

    follow()
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    for step in range(120):
        space.prefetch(x, space.devices[0], write=False)
        follow()
        turn.wait()
        if step == 119:  # its last turn: it asks when this one is over
            stop.set()
        for _ in range(random.integers(0, 200)):
            pass
        if step % 4 == 3:
            space.merge(x, twin)
        else:
            space.snapshot_of(x).drop()
        turn.wait()
        if step % 2:
            assert np.array_equal(space.devices[0].read(x), x), f"the device, step {step}"
        follow()
        assert np.array_equal(mirror, x), f"the log, step {step}"
        if step % 10 == 0:
            twin[:] = x
            space.unmerge(x)
    thread.join(30)


def test_a_snapshot_of_a_view_and_of_unregistered_memory(space: hmm.AddressSpace) -> None:
    x = np.arange(10_000, dtype=np.float64).reshape(100, 100)
    space.register(x)
    view = x[::-2, ::3]
    expected = view.copy()
    snapshot = space.snapshot_of(view)
    space.unregister(x)
    x[:] = 0
    np.testing.assert_array_equal(np.asarray(snapshot), expected)


def test_snapshots_while_everybody_writes(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x = space.zeros(256 * INTS, np.int32)
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            x[:: INTS // 2] += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(20):
            with space.snapshot_of(x) as snapshot:
                first = np.asarray(snapshot)
                np.testing.assert_array_equal(np.asarray(snapshot), first)
    finally:
        stop.set()
        thread.join(30)


ARMED_AT_THE_LIMIT = """
import ctypes, mmap, numpy as np, hmmemu as hmm
from hmmemu._native import PageLog
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE, limit = 4096, int(open("/proc/sys/vm/max_map_count").read())
data = np.random.default_rng(1).integers(0, 256, 600 * PAGE, np.uint8)
with hmm.AddressSpace(device="emulated", timeout=60) as space:
    x = space.array(data)
    ranges = [(x.ctypes.data + a * PAGE, x.ctypes.data + b * PAGE) for a, b in ((50, 550), (220, 260))]
    early = space.snapshot_of(x[100 * PAGE : 200 * PAGE])
    logs = [PageLog(space.session, *pages, True, None) for pages in ranges]
    frozen = np.ones(500 * PAGE, np.uint8)
    fill = libc.mmap(None, PAGE * 3 * limit, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0)
    step = 0
    while libc.mprotect(fill + (2 * step + 1) * PAGE, PAGE, 1) == 0:
        step += 1
    assert ctypes.get_errno() == 12 and step > 1000, (ctypes.get_errno(), step)
    for i in (1, 0):  # in the middle of a mapping, of which no part can be treated in another way now
        logs[i].arm([ranges[i]])
    want = data.copy()
    for page in (300, 150, 230):
        x[page * PAGE] ^= 1
        want[page * PAGE] ^= 1
    logs[1].drop()
    early.drop()
    logs[0].drop()
    assert libc.munmap(ctypes.c_void_p(fill), ctypes.c_size_t(PAGE * 3 * limit)) == 0
    logs[0].read(*ranges[0], frozen.ctypes.data)
    assert (x == want).all() and (frozen == data[50 * PAGE : 550 * PAGE]).all()
    del early, x
    assert not space.zeros(600 * PAGE, np.uint8).any()
print("nothing lost")
"""


def test_armed_at_the_limit_of_mappings() -> None:
    done = run_python(ARMED_AT_THE_LIMIT, timeout=120)
    assert done.stdout == "nothing lost\n", done.stderr


@pytest.mark.parametrize("how", ["drop", "close"])
def test_on_write_that_does_not_return(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it for ever; the space is closed all the same, and nothing is told any more."""
    space = hmm.AddressSpace(device="emulated", timeout=60)
    x, calls = space.zeros(2 * INTS, np.int32), []
    entered, go = threading.Event(), threading.Event()

    class Stuck:
        def on_write(self, pages: hmm.WrittenPages) -> None:
            calls.append(list(pages.indices))
            entered.set()
            go.wait(60)

    protection = space.protect(x, Stuck())
    x[0] = 1
    space.synchronize()
    assert entered.wait(60)
    x[INTS] = 1
    monkeypatch.setattr(Protection, "drop", partialmethod(Protection.drop, timeout=0.1))
    try:
        with pytest.raises(hmm.DeviceError, match=r"on_write of the array .* did not return within 0.1 s"):
            protection.drop() if how == "drop" else space.close()
    finally:
        go.set()
        space.close()
    assert calls == [[0]]
