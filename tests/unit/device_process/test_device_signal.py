"""Tracker signal: the device catches its own page faults and asks for rights; no userfaultfd anywhere."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_rig import (
    BASE,
    GLOBALS,
    LIMIT,
    NONE,
    PROGRAM,
    READ,
    SIZE,
    WRITE,
    Rig,
    SignalPager,
    eventually,
    thread_states,
)
from refusing import REFUSE_USERFAULTFD
from waiting import is_gone

from hmmemu.errors import DeviceError

PAGE = 4096


@pytest.fixture
def tracker() -> str:
    return "signal"


@pytest.fixture
def pager(rig: Rig) -> SignalPager:
    assert isinstance(rig.pager, SignalPager)
    return rig.pager


@pytest.fixture
def crowd(module: Path) -> Iterator[Rig]:
    made = Rig(module, workers=8, tracker="signal")
    yield made
    made.close()


def store(rig: Rig, address: int, value: int) -> int:
    return rig.launch("store", struct.pack("<QQI4x", address, 0, value))


def test_there_is_no_userfaultfd(rig: Rig) -> None:
    assert rig.process.userfaultfd == -1
    held = {os.readlink(entry) for entry in Path(f"/proc/{rig.process.pid}/fd").iterdir()}
    assert not [name for name in held if "userfaultfd" in name]


def test_reads_and_writes_are_told_apart(rig: Rig, pager: SignalPager) -> None:
    pager.faults.clear()
    pager.writes.clear()
    rig.run("chain", struct.pack("<QQ", BASE + PAGE, 7))  # loads, then stores
    assert [page for page, _ in pager.faults] == [BASE + PAGE] * 2 and pager.writes == [BASE + PAGE]
    assert struct.unpack_from("<Q", rig.memory, PAGE) == (7,)


def test_protected_page_faults_again_and_only_it(rig: Rig, pager: SignalPager) -> None:
    rig.run("stride", struct.pack("<QQI4x", BASE, 0, 1), 3)
    assert rig.process.set_rights(BASE + PAGE, PAGE, READ) == 0
    pager.writes.clear()
    rig.run("stride", struct.pack("<QQI4x", BASE, 0, 5), 3)
    assert pager.writes == [BASE + PAGE]
    assert [rig.words(1, PAGE * i) for i in range(3)] == [(5,), (6,), (7,)]


@pytest.mark.parametrize(("deed", "access"), [(0, "read"), (1, "write")])
def test_refused_page_is_a_crash_that_names_it(rig: Rig, pager: SignalPager, deed: int, access: str) -> None:
    bad = BASE + 5 * PAGE
    pager.refused.add(bad)
    report = rig.crash("wild", struct.pack("<QIII4x", bad + 12, 2, 9, deed), 4, 16)
    assert report["kind"] == "signal" and report["signal"] == signal.SIGSEGV
    assert report["address"] == bad + 12 and report["address_known"] and report["access"] == access
    assert (report["kernel"], report["block"], report["thread"]) == ("wild", (2, 0, 0), (9, 0, 0))
    assert [page for page, _ in pager.faults].count(bad) == 2  # the second run of the block asked again


def test_second_run_of_a_block_may_fault_too(rig: Rig, pager: SignalPager) -> None:
    bad, other = BASE + 5 * PAGE, BASE + 9 * PAGE
    pager.refused.add(bad)
    report = rig.crash("detour", struct.pack("<QIII4xQ", bad, 1, 3, 1, other), 2, 8)
    assert report["address"] == bad and report["thread"] == (3, 0, 0) and report["thread_known"]
    assert other in pager.writes and rig.words(1, 9 * PAGE) == (99,)


def test_execution_of_video_memory_is_an_error_at_once(rig: Rig, pager: SignalPager) -> None:
    pager.faults.clear()
    report = rig.crash("wild", struct.pack("<QIII4x", BASE, 0, 0, 2))
    assert report["access"] == "execute" and report["address"] == BASE and pager.faults == []


def test_unmapped_memory_is_an_error_at_once(rig: Rig, pager: SignalPager) -> None:
    rig.run("stride", struct.pack("<QQI4x", BASE, 0, 1), 3)
    rig.process.unmap(BASE + PAGE, PAGE)  # in the middle
    pager.faults.clear()
    rig.run("stride", struct.pack("<QQI4x", BASE + 2 * PAGE, 0, 4))
    assert rig.process.set_rights(BASE, 3 * PAGE, NONE) == 0  # what is not mapped has no rights anyway
    assert rig.process.set_rights(BASE, 3 * PAGE, WRITE) == errno.EFAULT
    rig.run("stride", struct.pack("<QQI4x", BASE + 2 * PAGE, 0, 4))
    assert [page for page, _ in pager.faults] == [BASE + 2 * PAGE]
    report = rig.crash("stride", struct.pack("<QQI4x", BASE, 0, 1), 3)
    assert report["address"] == BASE + PAGE and pager.faults[-1][0] != BASE + PAGE


def test_rights_that_cannot_be_given(rig: Rig, pager: SignalPager) -> None:
    """The thread that waits tries it, fails, and goes on waiting: here for being refused."""
    rig.process.unmap(BASE + PAGE, PAGE)
    pager.bytes, pager.expected = 2 * PAGE, {errno.EFAULT}
    report = rig.crash("store", struct.pack("<QQI4x", BASE, 0, 1))
    assert report["address"] == BASE and report["access"] == "write" and report["kernel"] == "store"


def rights(pid: int, address: int) -> str:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        begin, end = (int(text, 16) for text in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split()[1]
    return ""


def test_rights_that_were_just_granted_are_taken(rig: Rig, pager: SignalPager) -> None:
    """The thread that is granted a page gives it to itself, later; once the page is taken it must not do that any more."""
    pager.answering = False
    for _ in range(100):
        seen = len(pager.faults)
        ticket = rig.launch("store", struct.pack("<QQI4x", BASE, 0, 7))
        assert eventually(lambda seen=seen: len(pager.faults) > seen)
        assert rig.process.give(BASE, PAGE, True) == 0
        assert rig.process.set_rights(BASE, PAGE, NONE) == 0
        for _ in range(3):
            assert rights(rig.process.pid, BASE) == "---s"
            time.sleep(0.0005)
        assert eventually(
            lambda ticket=ticket: rig.process.give(BASE, PAGE, True) == 0 and rig.process.completed(ticket)
        )
        assert rig.process.set_rights(BASE, PAGE, NONE) == 0
    assert rig.words(1) == (7,)


def test_rights_for_a_range_come_at_once(module: Path) -> None:
    rig = Rig(module, workers=1, tracker="signal")
    try:
        assert isinstance(rig.pager, SignalPager)
        rig.pager.bytes = 16 * PAGE
        rig.pager.faults.clear()
        rig.run("stride", struct.pack("<QQI4x", BASE, 0, 1), 32)
        assert [page for page, _ in rig.pager.faults] == [BASE, BASE + 16 * PAGE]
    finally:
        rig.close()


def test_module_constructors_fault(rig: Rig, pager: SignalPager) -> None:
    assert GLOBALS in pager.writes
    threads = {thread for page, thread in pager.faults if page == GLOBALS}
    assert threads and not threads & set(dict(rig.process.workers))


def test_module_constructor_at_a_refused_page(rig: Rig, pager: SignalPager, tmp_path: Path) -> None:
    copy = tmp_path / "copy.so"
    copy.write_bytes(rig.module.read_bytes())
    pager.refused.add(GLOBALS + 16 * PAGE)
    with pytest.raises(DeviceError, match="ended"):
        rig.process.load(str(copy), GLOBALS + 16 * PAGE, SIZE // 2, True)
    assert eventually(lambda: not rig.process.alive)
    report = rig.process.crash()
    assert report is not None and report["address"] == GLOBALS + 16 * PAGE and not report["in_kernel"]


def test_many_workers_fault_at_once(crowd: Rig) -> None:
    assert crowd.pager is not None
    pages = SIZE // PAGE
    for turn in range(10):
        crowd.run("stride", struct.pack("<QQI4x", BASE, 0, turn), pages)
        assert [crowd.words(1, PAGE * i)[0] for i in range(pages)] == [turn + i for i in range(pages)]
        assert crowd.process.set_rights(BASE, SIZE, NONE) == 0
    assert len({page for page, _ in crowd.pager.faults}) > pages
    assert len({thread for _, thread in crowd.pager.faults}) > 2


def test_all_workers_fault_at_one_page_that_is_taken_again_and_again(crowd: Rig) -> None:
    stop = threading.Event()

    def take() -> None:
        while not stop.is_set():
            assert crowd.process.set_rights(BASE, PAGE, NONE) == 0

    taker = threading.Thread(target=take)
    taker.start()
    try:
        for turn in range(20):
            crowd.run("store", struct.pack("<QQI4x", BASE, 0, turn), 1024)
            assert crowd.words(1024) == tuple(range(turn, turn + 1024))
    finally:
        stop.set()
        taker.join(LIMIT)


def test_restart_while_a_fault_waits(rig: Rig, pager: SignalPager) -> None:
    pager.answering = False
    pager.faults.clear()
    ticket = store(rig, BASE + PAGE, 1)
    assert eventually(lambda: len(pager.faults) == 1)
    assert rig.process.wait(ticket, 0.1) == "timeout"
    begin = time.monotonic()
    rig.process.restart()
    assert time.monotonic() - begin < LIMIT
    assert rig.process.wait(ticket, LIMIT) == "dead" and rig.process.read_faults() == []
    rig.prepare()
    rig.run("store", struct.pack("<QQI4x", BASE + PAGE, 0, 2))
    assert rig.words(1, PAGE) == (2,)


def test_answers_and_rights_of_a_dead_device(rig: Rig, pager: SignalPager) -> None:
    pager.answering = False
    pager.faults.clear()
    store(rig, BASE, 1)
    assert eventually(lambda: len(pager.faults) == 1)
    os.kill(rig.process.pid, signal.SIGKILL)
    assert eventually(lambda: is_gone(rig.process.pid))
    rig.process.answer_faults(BASE, PAGE)
    assert {rig.process.set_rights(BASE, PAGE, rights) for rights in (NONE, READ, WRITE)} == {errno.ESRCH}


def test_device_ends_with_its_parent_while_a_fault_waits(module: Path) -> None:
    body = f"""
        import select, sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from device_rig import BASE, Rig
        import struct
        rig = Rig(Path({str(module)!r}), tracker="signal")
        rig.pager.answering = False
        count = len(rig.pager.faults)
        rig.launch("store", struct.pack("<QQI4x", BASE, 0, 1))
        while len(rig.pager.faults) == count:
            time.sleep(0.01)
        print(rig.process.pid, flush=True)
        time.sleep(60)
        """
    command = [sys.executable, "-c", textwrap.dedent(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        device = int(parent.stdout.readline())
        assert not is_gone(device)
        parent.kill()
        parent.wait(10)
        assert eventually(lambda: is_gone(device))


def test_device_that_does_not_answer_is_ended(rig: Rig) -> None:
    rig.run("store", struct.pack("<QQI4x", BASE, 0, 3), 10)
    os.kill(rig.process.pid, signal.SIGSTOP)
    assert eventually(lambda: all(state == "T" for state in thread_states(rig.process.pid)))
    begin = time.monotonic()
    assert rig.process.set_rights(BASE, PAGE, NONE) == errno.ESRCH  # it has no rights any more
    assert 3 < time.monotonic() - begin < LIMIT
    assert not rig.process.alive
    report = rig.process.crash()
    assert report is not None and report["kind"] == "device" and "did not answer" in report["message"]
    rig.process.restart()
    rig.prepare()
    assert rig.words(10) == tuple(range(3, 13))
    rig.run("store", struct.pack("<QQI4x", BASE, 0, 4), 10)


def mappings(pid: int) -> int:
    return len(Path(f"/proc/{pid}/maps").read_text().splitlines())


def test_more_changes_of_rights_than_mappings_are_allowed(rig: Rig) -> None:
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    if most > 1 << 18:
        pytest.skip(f"vm.max_map_count={most}: it would take too long to reach")
    far = BASE + (1 << 32)
    pages = most + 4096
    rig.process.map(far, pages * PAGE)
    before = mappings(rig.process.pid)
    errors = {rig.process.set_rights(far + page * PAGE, PAGE, WRITE) for page in range(0, pages, 2)}
    assert errors == {0}
    assert before < mappings(rig.process.pid) < most // 2  # all were taken back once, and then given on
    rig.run("stride", struct.pack("<QQI4x", far, 0, 8), 64)  # who lost them asks again
    rig.run("stride", struct.pack("<QQI4x", BASE, 0, 8), 64)
    assert rig.words(1, 63 * PAGE) == (71,)


def test_where_userfaultfd_is_refused(module: Path) -> None:
    body = f"""
        import struct, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from device_rig import BASE, Rig
        from hmmemu._native import DeviceProcess
        from hmmemu.errors import UnsupportedError
        try:
            DeviceProcess({str(PROGRAM)!r})
        except UnsupportedError as error:
            print("userfaultfd is refused" in str(error))
        rig = Rig(Path({str(module)!r}), tracker="signal")
        rig.run("store", struct.pack("<QQI4x", BASE, 0, 5), 3000)
        print(rig.words(3000) == tuple(range(5, 3005)))
        rig.close()
        """
    code = REFUSE_USERFAULTFD + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_a_fault_that_nobody_answers_ends_the_device(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMMEMU_FAULT_SECONDS", "1")  # else 300
    rig = Rig(module, tracker="signal")
    try:
        assert isinstance(rig.pager, SignalPager)
        rig.pager.answering = False
        report = rig.crash("store", struct.pack("<QQI4x", BASE, 0, 1))
        assert report["kind"] == "device" and "did not answer a page fault" in report["message"]
        rig.process.restart()
        rig.prepare()
        rig.run("store", struct.pack("<QQI4x", BASE, 0, 2))
        assert rig.words(1) == (2,)
    finally:
        rig.close()
