"""The emulated device's process by itself: no driver, no compiler of ours, modules written by hand.

The page faults of mapped memory go to `Pager`, which gives zeros: what the driver does, in its simplest form.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmmemu import _native
from hmmemu._native import DeviceProcess

BASE = 0x3000_0000_0000  # where tests map memory: nobody's address
SIZE = 1 << 20
GLOBALS = BASE + (1 << 30)
LIMIT = 50.0  # s
PROGRAM = Path(_native.__file__).with_name("hmmemu-device")
UFFDIO_WAKE, UFFDIO_ZEROPAGE, UFFDIO_CONTINUE = 0x8010AA02, 0xC020AA04, 0xC020AA07
NONE, READ, WRITE = range(3)  # DeviceProcess.set_rights
TRACKERS = ("uffd", "signal")
MINOR = 4  # UFFD_PAGEFAULT_FLAG_MINOR


class Pager:
    """Resolves a device's page faults with zeros, or with the frame that is there. Keeps them in `faults`.

    A fault of several threads at one page is resolved for all with the first message. `recorded` waits until the others
    are in the list, too.
    """

    def __init__(self, process: DeviceProcess) -> None:
        self.process = process
        self.fd = os.dup(self.source())
        self.faults: list[tuple[int, int]] = []  # address, thread
        self.lock = threading.Lock()  # held from the reading of a message until it is in the list
        self.stop_read, self.stop_write = os.pipe()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while self.stop_read not in select.select([self.fd, self.stop_read], [], [], 1)[0]:
            with self.lock:
                self.serve()

    def recorded(self) -> list[tuple[int, int]]:
        """The faults of all that has ended."""
        with self.lock:
            return list(self.faults)

    def source(self) -> int:
        """The descriptor to poll."""
        raise NotImplementedError

    def serve(self) -> None:
        """Resolves what waits."""
        raise NotImplementedError

    def close(self) -> None:
        os.write(self.stop_write, b"x")
        self.thread.join(5)
        for fd in (self.fd, self.stop_read, self.stop_write):
            os.close(fd)


class UserfaultPager(Pager):
    def source(self) -> int:
        return self.process.userfaultfd

    def serve(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                event, flags, address, thread = struct.unpack("<B7xQQI4x", os.read(self.fd, 32))
                assert event == 0x12
                self.faults.append((address, thread))
                self._resolve(flags, address & ~4095)

    def _resolve(self, flags: int, page: int) -> None:
        kind = UFFDIO_CONTINUE if flags & MINOR else UFFDIO_ZEROPAGE
        with contextlib.suppress(ProcessLookupError):  # the device ended meanwhile
            self._give(kind, page)

    def _give(self, kind: int, page: int) -> None:
        with contextlib.suppress(FileExistsError):
            fcntl.ioctl(self.fd, kind, bytearray(struct.pack("<QQQq", page, 4096, 0, 0)))
            return
        fcntl.ioctl(self.fd, UFFDIO_WAKE, bytearray(struct.pack("<QQ", page, 4096)))


class SignalPager(Pager):
    """Grants what was asked for: reading to a read, everything to a write. `refused` pages are refused."""

    def __init__(self, process: DeviceProcess) -> None:
        self.refused: set[int] = set()
        self.writes: list[int] = []
        self.answering = True
        self.bytes = 4096  # given at a time
        self.expected: set[int] = set()  # errors of `give`, after which the page is refused
        super().__init__(process)

    def source(self) -> int:
        return self.process.fault_bell

    def serve(self) -> None:
        while faults := self.process.read_faults():
            for page, write, thread in faults:
                self.faults.append((page, thread))
                if write:
                    self.writes.append(page)
                if self.answering:
                    self._answer(page, write)

    def _answer(self, page: int, write: bool) -> None:
        if page in self.refused:
            self.process.answer_faults(page, 4096, refuse=True)
            return
        error = self.process.give(page, self.bytes, write)
        assert error in (0, errno.ESRCH, *self.expected)
        if error in self.expected:
            self.process.answer_faults(page, 4096, refuse=True)


class Rig:
    """A device process with the module of this folder, memory at BASE and a pager."""

    def __init__(self, module: Path, workers: int = 0, tracker: str = "uffd") -> None:
        self.module = module
        self.process = DeviceProcess(str(PROGRAM), 0, workers, tracker=tracker)
        self.pager: Pager | None = None
        self.prepare()
        self.memory = mmap.mmap(self.process.vram, SIZE, offset=BASE)
        self.globals = mmap.mmap(self.process.vram, SIZE, offset=GLOBALS)

    def prepare(self, initialise: bool = True) -> None:
        if self.pager:
            self.pager.close()
        self.pager = (SignalPager if self.process.tracker == "signal" else UserfaultPager)(self.process)
        self.process.map(BASE, SIZE)
        self.process.map(GLOBALS, SIZE)
        tables = self.process.load(str(self.module), GLOBALS, SIZE, initialise)
        assert isinstance(tables, str)
        self.tables = json.loads(tables)
        self.kernels = {kernel["name"]: kernel["handle"] for kernel in self.tables["kernels"]}

    def launch(self, name: str, params: bytes = b"", grid: Any = 1, block: Any = 1, **options: Any) -> int:
        grid3 = grid if isinstance(grid, tuple) else (grid, 1, 1)
        block3 = (*block, 1)[:3] if isinstance(block, tuple) else (block, 1, 1)
        return self.process.launch(
            self.kernels[name], grid3, block3, options.pop("shared", 0), params, **options
        )

    def run(self, name: str, params: bytes = b"", grid: Any = 1, block: Any = 1, **options: Any) -> None:
        assert self.process.wait(self.launch(name, params, grid, block, **options), LIMIT) == "done"

    def crash(self, name: str, params: bytes = b"", grid: Any = 1, block: Any = 1) -> dict[str, Any]:
        ticket = self.launch(name, params, grid, block)
        assert self.process.wait(ticket, LIMIT) == "dead"
        assert not self.process.completed(ticket)
        report = self.process.crash()
        assert report is not None
        return report

    def invalidate(self, address: int, length: int) -> None:
        """The pages lose their place in the device's page table and keep their frames, as the driver does it."""
        if self.process.tracker == "signal":
            assert self.process.set_rights(address, length, NONE) == 0
        else:
            assert self.process.zap(address, length)

    def words(self, count: int, at: int = 0) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}I", self.memory, at)

    def close(self) -> None:
        self.process.kill()
        if self.pager:
            self.pager.close()
        self.memory.close()
        self.globals.close()


def eventually(condition: Callable[[], bool], seconds: float = LIMIT) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def thread_states(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]
