"""Start, end and restart of the device process; its parent's death; fork and Ctrl-C."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from device_rig import BASE, LIMIT, PROGRAM, Rig, eventually
from waiting import is_gone

from hmmemu._native import DeviceProcess
from hmmemu.errors import DeviceError, RangeError, SpaceClosedError


def test_kill_and_restart(rig: Rig) -> None:
    rig.run("store", struct.pack("<QQI4x", BASE, 0, 5), 100)
    endless = rig.launch("forever", grid=8)
    waiter_result: list[str] = []
    waiter = threading.Thread(target=lambda: waiter_result.append(rig.process.wait(endless, LIMIT)))
    waiter.start()
    time.sleep(0.05)
    old = rig.process.pid
    rig.process.kill()
    waiter.join(LIMIT)
    assert waiter_result == ["dead"] and is_gone(old) and not rig.process.alive
    assert rig.process.crash() is None  # we did it
    with pytest.raises(DeviceError, match="ended"):
        rig.launch("empty")
    with pytest.raises(DeviceError, match="ended"):
        rig.process.ping()
    userfaultfd = rig.process.userfaultfd
    rig.process.restart()
    assert rig.process.pid != old and rig.process.userfaultfd == userfaultfd
    rig.prepare()
    assert rig.words(100) == tuple(range(5, 105))  # frames are still there
    rig.run("store", struct.pack("<QQI4x", BASE, 0, 6), 100)
    assert rig.words(100) == tuple(range(6, 106))


def test_kernels_of_an_ended_process_are_refused(rig: Rig) -> None:
    stale = rig.kernels["forever"]
    rig.process.restart()
    rig.prepare()
    with pytest.raises(DeviceError, match="load it again"):
        rig.process.launch(stale, (1, 1, 1), (1, 1, 1), 0, b"")
    rig.run("empty")


def test_killed_by_somebody_else(rig: Rig) -> None:
    ticket = rig.launch("forever")
    os.kill(rig.process.pid, signal.SIGKILL)
    assert rig.process.wait(ticket, LIMIT) == "dead"
    report = rig.process.crash()
    assert report is not None and report["kind"] == "ended" and "signal 9" in report["message"]


def test_no_zombies_and_no_descriptors_left(module: Path, tracker: str) -> None:
    Rig(module, tracker=tracker).close()
    gc.collect()  # what tests before have left in cycles
    descriptors = set(os.listdir("/proc/self/fd"))
    children = set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    for _ in range(3):
        rig = Rig(module, tracker=tracker)
        rig.process.restart()
        rig.close()
        del rig
    assert set(os.listdir("/proc/self/fd")) <= descriptors
    assert set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()) <= children


def test_device_keeps_only_what_it_needs(rig: Rig) -> None:
    kinds = {os.readlink(entry) for entry in Path(f"/proc/{rig.process.pid}/fd").iterdir()}
    stderr = os.readlink("/proc/self/fd/2")
    known = (
        "/dev/null",
        "anon_inode:[userfaultfd]",
        "anon_inode:[eventfd]",
        "anon_inode:[pidfd]",
        "pidfd:",
        "socket:",
        "/memfd:hmmemu",
        stderr,
    )
    assert {kind for kind in kinds if not kind.startswith(known)} == set()


def test_missing_program() -> None:
    with pytest.raises(DeviceError, match="cannot run /nowhere/hmmemu-device: No such file"):
        DeviceProcess("/nowhere/hmmemu-device")


def test_program_that_is_another() -> None:
    with pytest.raises(DeviceError, match="did not start"):
        DeviceProcess("/bin/true")


def test_unknown_tracker() -> None:
    with pytest.raises(RangeError, match="uffd, signal or launch, not hope"):
        DeviceProcess(str(PROGRAM), tracker="hope")


def test_too_many_workers() -> None:
    with pytest.raises(RangeError, match="at most 256 workers"):
        DeviceProcess(str(PROGRAM), 0, 257)


def script(body: str) -> list[str]:
    head = """
        import os, sys, time
        from pathlib import Path
        from hmmemu._native import DeviceProcess
        program, module = sys.argv[1:]
        device = DeviceProcess(program)
        """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(body), str(PROGRAM)]


@pytest.mark.parametrize("forked", [False, True])
def test_device_ends_with_its_parent(module: Path, forked: bool) -> None:
    """Killed, and even while a forked child of the parent lives on with copies of its descriptors."""
    body = f"""
        child = os.fork() if {forked} else -1
        if child == 0:
            time.sleep(30)
            os._exit(0)
        print(device.pid, child, flush=True)
        time.sleep(30)
        """
    with subprocess.Popen([*script(body), str(module)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        device, child = map(int, parent.stdout.readline().split())
        try:
            assert not is_gone(device)
            parent.kill()
            parent.wait(10)
            assert eventually(lambda: is_gone(device))
        finally:
            if child > 0:
                os.kill(child, signal.SIGKILL)


def test_interrupt_ends_the_wait_and_not_the_device(module: Path) -> None:
    body = f"""
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from device_rig import Rig
        rig = Rig(Path(module))
        ticket = rig.launch("forever")
        print("ready", flush=True)
        try:
            rig.process.wait(ticket)
        except KeyboardInterrupt:
            print("interrupted", rig.process.alive, flush=True)
        rig.process.kill()
        rig.process.restart()
        rig.prepare()
        rig.run("empty")
        print("works again", flush=True)
        rig.close()
        """
    command = [*script(body), str(module)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert parent.stdout.read() == "interrupted True\nworks again\n"
        assert parent.wait(10) == 0


def test_fork_child_cannot_disturb_the_device(rig: Rig) -> None:
    rig.run("empty")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            rig.process.launch(rig.kernels["empty"], (1, 1, 1), (1, 1, 1), 0, b"")
        except SpaceClosedError:
            with contextlib.suppress(SpaceClosedError):
                rig.process.kill()
                os._exit(2)
            status = 0 if rig.process.userfaultfd == -1 else 3
            rig.process = None  # type: ignore[assignment]  # its destructor
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rig.process.alive
    rig.run("empty")


def test_standard_streams_may_be_closed(module: Path) -> None:
    body = """
        device.kill()
        for fd in (0, 1):
            os.close(fd)
        device = DeviceProcess(program)
        device.ping()
        for fd in (0, 1):
            try:
                os.fstat(fd)
            except OSError:
                continue
            os._exit(3)
        """
    subprocess.run([*script(body), str(module)], check=True, timeout=30)
