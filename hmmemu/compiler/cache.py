"""The disk cache of compiled modules, shared by all processes of a user.

A module's file name is a hash of everything that its code depends on, so entries are never changed and never stale.
Files appear by rename, whole or not at all. A file lock lets one process compile while others that want the same
module wait for it, a bounded time; the lock only saves work, correctness does not rest on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

_HERE = Path(__file__).parent
_WAIT_SECONDS = 120.0
_ELF = b"\x7fELF"


def directory() -> Path:
    """Where compiled modules are kept: `$HMMEMU_CACHE_DIR`, or the user's cache directory; made if missing."""
    wanted = os.environ.get("HMMEMU_CACHE_DIR") or platformdirs.user_cache_dir("hmmemu", appauthor=False)
    path = Path(wanted) / "kernels"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_NOEXEC:
            return path
    except OSError:
        pass
    return _private_directory()


@functools.cache
def _private_directory() -> Path:
    """Used where the cache cannot be written, or no code be loaded from it; as short-lived as temporary files are."""
    return Path(tempfile.mkdtemp(prefix="hmmemu-kernels-"))


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
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return path


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
