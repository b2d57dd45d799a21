"""The disk cache of compiled modules, shared by all processes of a user.

A module's file name is a hash of everything that its code depends on, so entries are never changed and never stale.
Files appear by rename, whole or not at all, if power is lost, too. A file lock lets one process compile while others
that want the same module wait for it, a bounded time; the lock only saves work, correctness does not rest on it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from hmmemu.errors import CompileError

_HERE = Path(__file__).parent
_WAIT_SECONDS = 120.0
_ELF = b"\x7fELF"


def directory() -> Path:
    """Where compiled modules are kept: `$HMMEMU_CACHE_DIR`, or the user's cache directory; made if missing."""
    wanted = os.environ.get("HMMEMU_CACHE_DIR") or platformdirs.user_cache_dir("hmmemu", appauthor=False)
    path = Path(wanted) / "kernels"
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    if _can_hold_code(path):
        return path
    if not (private := _private_directory(path)).is_dir():  # a fork child outlived who made it
        _private_directory.cache_clear()
        private = _private_directory(path)
    return private


def _can_hold_code(path: Path) -> bool:
    try:
        return os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_NOEXEC
    except OSError:
        return False


@functools.cache
def _private_directory(refused: Path) -> Path:
    """Used where the cache cannot be written, or no code be loaded from it; ends with the process that made it."""
    path = Path(tempfile.mkdtemp(prefix="hmmemu-kernels-"))
    atexit.register(_remove, path, os.getpid())
    if not _can_hold_code(path):
        raise CompileError(
            f"there is no folder for compiled kernels: {refused} and {path.parent} cannot be written, or no code be "
            "loaded from them (mounted noexec); set HMMEMU_CACHE_DIR to one, or TMPDIR"
        )
    return path


def _remove(path: Path, process: int) -> None:
    if process == os.getpid():  # not what a fork child inherited
        shutil.rmtree(path, ignore_errors=True)


def key(*parts: object) -> str:
    """A name for a module made from these parts by this compiler package on this processor."""
    whole = [*parts, _package_digest(), _processor()]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:40]


@functools.cache
def _package_digest() -> str:
    """Changes with any header or step of the compiler, the ABI among them."""
    digest = hashlib.sha256()
    for path in sorted([*_HERE.glob("*.py"), *_HERE.glob("include/**/*")]):
        if path.is_file():
            digest.update(path.relative_to(_HERE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _processor() -> str:
    """What -march=native depends on."""
    wanted = ("flags", "Features", "model name", "CPU part", "isa")
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                found.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    return json.dumps([platform.machine(), found], sort_keys=True)


def get_or_build(name: str, build: Callable[[Path], None], suffix: str = ".so", magic: bytes = _ELF) -> Path:
    """The file of module `name`; `build` writes it to the path it is given, if it is not there yet.

    A file that does not begin with `magic` is none.
    """
    folder = directory()
    path = folder / f"{name}{suffix}"
    if _usable(path, magic):
        return path
    with _lock(folder / f"{name}.lock"):
        if _usable(path, magic):
            return path
        handle, temporary = tempfile.mkstemp(prefix=f"{name}.", suffix=".tmp", dir=folder)
        os.close(handle)
        try:
            build(Path(temporary))
            _store(temporary)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


def _store(path: str) -> None:
    """Waits until the file is on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # which the linker may have put in the place of ours
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _usable(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an advisory lock; goes on without it after a while, or where the file system has none."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < end:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(handle)
