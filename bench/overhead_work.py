"""What an ordinary program does all day, in a process of its own: with hmmemu and an open space, or without.

`bench overhead` starts this file as a program, `overhead_work.py plain` or `overhead_work.py hmmemu`, so that the plain
process holds nothing of hmmemu. Each line on stdin is the name of a workload and how often to do it; the answer is
seconds. `status` answers with what the process costs. It uses hmmemu only to open the space.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

MIB = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]
_x, _y = np.ones(4 * MIB, np.float64), np.ones(4 * MIB, np.float64)
_region = mmap.mmap(-1, 16 * mmap.PAGESIZE)
_region_at = ctypes.addressof(ctypes.c_char.from_buffer(_region))


def python_loop(times: int) -> None:
    """A loop of pure Python."""
    total, table = 0, {}
    for i in range(times):
        table[i & 1023] = total
        total += i ^ (total & 7)


def numpy_memory(times: int) -> None:
    """Arrays of 32 MiB, read and written in place."""
    for _ in range(times):
        np.multiply(_x, 0.5, out=_y)
        np.add(_x, _y, out=_x)


def numpy_temporaries(times: int) -> None:
    """Expressions over small and large arrays: every temporary is allocated and freed."""
    small, large = np.ones(1000), np.ones(MIB // 8)
    for _ in range(times):
        for _ in range(50):
            (small * 2 + small) * small
        (large * 2 + large) * large


def malloc_free(times: int) -> None:
    """malloc and free of 16 bytes to 32 KiB."""
    for _ in range(times):
        got = [_libc.malloc(16 << (i % 12)) for i in range(96)]
        for address in got:
            _libc.free(address)


def map_unmap(times: int) -> None:
    """mmap, a write to each of 16 pages, munmap."""
    for _ in range(times):
        with mmap.mmap(-1, 16 * mmap.PAGESIZE) as m:
            for at in range(0, len(m), mmap.PAGESIZE):
                m[at] = 1


def protect_unprotect(times: int) -> None:
    """mprotect of a page, to read-only and back."""
    for _ in range(times):
        if _libc.mprotect(_region_at, 4096, mmap.PROT_READ) or _libc.mprotect(
            _region_at, 4096, mmap.PROT_READ | mmap.PROT_WRITE
        ):
            raise OSError(ctypes.get_errno(), "mprotect")


def first_touch(times: int) -> None:
    """Page faults of new memory: one write to each of 4096 pages."""
    for _ in range(times):
        with mmap.mmap(-1, 16 * MIB) as m:
            np.frombuffer(m, np.uint8)[::4096] = 1


def start_threads(times: int) -> None:
    """Starts a thread and waits for its end."""
    for _ in range(times):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


def fork_exit(times: int) -> None:
    """fork; the child ends at once."""
    for _ in range(times):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def fork_exec(times: int) -> None:
    """fork and exec of a program that does nothing."""
    for _ in range(times):
        pid = os.fork()
        if pid == 0:
            try:
                os.execv("/bin/true", ["true"])
            finally:
                os._exit(127)
        if os.waitpid(pid, 0)[1]:
            raise OSError("/bin/true failed")


def spawn(times: int) -> None:
    """posix_spawn, as the subprocess module uses it where it can."""
    for _ in range(times):
        pid = os.posix_spawn("/bin/true", ["true"], os.environ)
        if os.waitpid(pid, 0)[1]:
            raise OSError("/bin/true failed")


# Name, and how often for about 20 ms.
WORK: dict[str, tuple[Callable[[int], None], int]] = {
    "pure Python loop": (python_loop, 100_000),
    "NumPy, 32 MiB in place": (numpy_memory, 2),
    "NumPy, temporaries": (numpy_temporaries, 30),
    "malloc and free": (malloc_free, 150),
    "mmap, 16 faults, munmap": (map_unmap, 250),
    "mprotect, there and back": (protect_unprotect, 3_000),
    "page faults of new memory": (first_touch, 1),
    "threads started": (start_threads, 150),
    "fork, exit": (fork_exit, 5),
    "fork, exec": (fork_exec, 4),
    "posix_spawn": (spawn, 10),
}


def resident_kib(pid: int | str = "self") -> int:
    """Resident memory of a process that is not shared with others (Pss), KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise OSError(f"/proc/{pid}/smaps_rollup has no Pss")


def main(kind: str) -> None:
    """Answers requests until stdin ends."""
    numbers = [0.0, 0.0, 0.0, 0.0]
    if kind == "hmmemu":
        before = resident_kib()
        begin = time.perf_counter()
        import hmmemu

        imported, between = time.perf_counter(), resident_kib()
        space = hmmemu.AddressSpace(device="emulated")
        opened = time.perf_counter()
        numbers = [imported - begin, opened - imported, between - before, resident_kib() - before]
        numbers.append(resident_kib(space.devices[0].process.pid))
    for line in sys.stdin:
        name, times = line.rstrip("\n").rsplit(" ", 1)
        if name == "status":
            print(*numbers, flush=True)
            continue
        work = WORK[name][0]
        begin = time.perf_counter()
        work(int(times))
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
