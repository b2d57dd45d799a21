"""printf of kernels, and every way in which a kernel fails."""

from __future__ import annotations

import signal
import struct
import time

import pytest
from device_rig import LIMIT, Rig


def test_printf(rig: Rig) -> None:
    rig.run("print", struct.pack("<II", 0, 5), 100)
    lines = rig.process.take_output().decode().splitlines()
    assert sorted(lines) == sorted(f"block {b} line {i}" for b in range(100) for i in range(5))
    for block in range(100):  # whole lines, each block's in its order
        assert [x for x in lines if x.startswith(f"block {block} ")] == [
            f"block {block} line {i}" for i in range(5)
        ]
    assert rig.process.take_output() == b""


def test_printf_beyond_the_buffer_is_counted(rig: Rig) -> None:
    rig.run("print", struct.pack("<II", 60_000, 20))  # 1.2 MB, whole texts of 60 kB
    assert len(rig.process.take_output()) == 60_000 * 17
    assert rig.process.output_dropped == 60_000 * 3
    rig.run("print", struct.pack("<II", 0, 1))  # wraps around the end
    assert rig.process.take_output() == b"block 0 line 0\n"


@pytest.mark.parametrize(("code", "name"), [(1, "assert"), (2, "trap"), (3, "barrier"), (4, "limit")])
def test_failure_of_a_kernel(rig: Rig, code: int, name: str) -> None:
    report = rig.crash("fail", struct.pack("<iI", code, 11), (4, 4, 4), 32)
    assert report["kind"] == "kernel" and report["failure"] == name and report["kernel"] == "fail"
    assert report["message"] == "t.cu:12: fail: Assertion `x > 0` failed."
    assert report["block"] == (3, 2, 0) and report["thread"] == (7, 0, 0) and report["thread_known"]
    assert rig.process.take_output() == b"last words\n"
    assert not rig.process.alive


@pytest.mark.parametrize(("deed", "access"), [(0, "read"), (1, "write"), (2, "execute")])
def test_wild_pointer(rig: Rig, deed: int, access: str) -> None:
    address = 0x1234_5678_9000
    report = rig.crash("wild", struct.pack("<QIII4x", address, 37, 45, deed), (8, 4, 2), (16, 4))
    assert report["kind"] == "signal" and report["signal"] == signal.SIGSEGV
    assert report["address"] == address and report["address_known"] and report["access"] == access
    assert (report["kernel"], report["block"], report["thread"]) == ("wild", (5, 0, 1), (13, 2, 0))
    assert report["block_known"] and report["thread_known"] and not report["stack_overflow"]
    assert report["grid"] == (8, 4, 2) and report["block_size"] == (16, 4, 1)
    if access != "execute":
        assert report["module"] == str(rig.module)
        assert 0 < report["module_offset"] < rig.module.stat().st_size


def test_address_that_is_none(rig: Rig) -> None:
    report = rig.crash("wild", struct.pack("<QIII4x", 0x8000_0000_0000_0000, 0, 0, 0))
    assert report["kind"] == "signal" and not report["address_known"] and report["thread_known"]


def test_null_pointer(rig: Rig) -> None:
    report = rig.crash("wild", struct.pack("<QIII4x", 8, 0, 3, 1), 1, 4)
    assert report["address_known"] and report["address"] == 8 and report["thread"] == (3, 0, 0)


@pytest.mark.parametrize(("deed", "number"), [(3, signal.SIGFPE), (6, signal.SIGILL)])
def test_other_signals(rig: Rig, deed: int, number: int) -> None:
    report = rig.crash("wild", struct.pack("<QIII4x", 0, 0, 2, deed), 1, 4)
    assert report["kind"] == "signal" and report["signal"] == number and not report["address_known"]
    assert report["thread"] == (2, 0, 0)


@pytest.mark.parametrize("deed", [4, 5])
def test_fault_that_does_not_come_again(rig: Rig, deed: int) -> None:
    """The second run of the block spins for ever or does not fault: the first fault is told, no thread."""
    begin = time.monotonic()
    report = rig.crash("wild", struct.pack("<QIII4x", 0x1234_0000_0000, 1, 2, deed), 3, 4)
    assert report["address"] == 0x1234_0000_0000 and report["access"] == "write"
    assert report["block"] == (1, 0, 0) and not report["thread_known"]
    assert time.monotonic() - begin < LIMIT


@pytest.mark.parametrize("kernel", ["recurse", "fiber_overflow"])
def test_stack_overflow(rig: Rig, kernel: str) -> None:
    report = rig.crash(kernel)
    assert report["stack_overflow"] and report["signal"] == signal.SIGSEGV and report["kernel"] == kernel


def test_all_workers_fault_at_once(rig: Rig) -> None:
    for _ in range(5):
        report = rig.crash("recurse", grid=64)
        assert report["stack_overflow"] and report["kernel"] == "recurse"
        rig.process.restart()
        rig.prepare()


def test_launches_behind_a_crash_are_lost(rig: Rig) -> None:
    before = rig.launch("empty")
    bad = rig.launch("fail", struct.pack("<iI", 1, 0))
    behind = [rig.launch("empty") for _ in range(5)]
    assert rig.process.wait(behind[-1], LIMIT) == "dead"
    rig.process.kill()
    assert (rig.process.completed_ticket, rig.process.last_ticket) == (before, behind[-1])
    rig.process.restart()
    rig.prepare()
    rig.run("empty")
    assert rig.process.completed(before)
    for lost in (bad, *behind):
        assert not rig.process.completed(lost)
        assert rig.process.wait(lost, LIMIT) == "dead"
