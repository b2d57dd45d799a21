"""The parts of files, and of shared memory objects, that an address space has registered.

Each part knows the object behind its pages, so that two mappings of one page are noticed when the second is
registered, and remembers the file's size and times, so that other writers are noticed at the next launch.

LOCK: a part's stamp is changed by whoever launches; two that do so at once both look at the file, no harm done.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

from hmmemu._native import Session
from hmmemu.errors import FileConflictWarning, UnsupportedError
from hmmemu.mappings import Mapping, all_mappings

_Stamp = tuple[int, int, int]  # size, time of the content, time of the inode, in bytes and ns
_TICK_NS = 50_000_000  # a file's times may stand still for that long while it is written


class Handle:
    """Keeps a file reachable after it was renamed or deleted, without opening it for reading or writing.

    O_PATH: closing such a descriptor leaves the process's locks on the file alone.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def reopen(self, flags: int) -> int:
        """A descriptor that can read or write, to be closed by the caller. OSError if that is not allowed."""
        return os.open(f"/proc/self/fd/{self.fd}", flags | os.O_CLOEXEC)


@dataclass
class FilePart:
    """Pages [begin, end) that show an object from `offset` on.

    Attributes:
        path, device, inode: the object.
        shared, writable: of the mapping.
        is_file: a regular file (else shared memory).
        handle: None if the path leads elsewhere by now; such a file is not looked at again.
        stamp: what the file was like when last looked at; None: look closely.
    """

    begin: int
    end: int
    offset: int
    path: str
    device: str
    inode: int
    shared: bool
    writable: bool
    is_file: bool
    handle: Handle | None
    stamp: _Stamp | None = field(default=None)

    @classmethod
    def of(cls, m: Mapping) -> FilePart:
        """The part that a mapping shows."""
        handle = _handle_of(m) if m.is_file else None
        part = cls(
            m.begin, m.end, m.offset, m.path, m.device, m.inode, m.shared, m.writable, m.is_file, handle
        )
        part.stamp = part.look()
        return part

    @property
    def size(self) -> int | None:
        """Bytes that the file has now; None if it is out of reach."""
        return None if self.handle is None else os.fstat(self.handle.fd).st_size

    @property
    def is_watched(self) -> bool:
        """Whether others may write the file, and it can be looked at."""
        return self.handle is not None and self.shared

    def look(self) -> _Stamp | None:
        """The stamp of the file as it is now; None if it may change unseen within the clock's tick."""
        if self.handle is None:
            return None
        found = os.fstat(self.handle.fd)
        fresh = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _TICK_NS
        return None if fresh else (found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def object(self) -> tuple[int, int, int, int, int]:
        """(begin, end, offset, device number, inode): what the driver must know to find other owners of the pages."""
        major, minor = (int(x, 16) for x in self.device.split(":"))
        return self.begin, self.end, self.offset, major << 32 | minor, self.inode

    def collides(self, other: FilePart) -> bool:
        """Whether one is a private mapping of shared memory that the other may write, at another address."""
        if self.is_file or (self.device, self.inode) != (other.device, other.inode):
            return False
        if self.begin - self.offset == other.begin - other.offset:
            return False  # the same pages, not others that show the same
        apart = self.offset >= other.offset + other.end - other.begin
        apart = apart or other.offset >= self.offset + self.end - self.begin
        return (
            not apart and self.shared != other.shared and any(p.shared and p.writable for p in (self, other))
        )


def parts_of(mappings: Iterable[Mapping]) -> list[FilePart]:
    """The parts of objects among mappings."""
    return [FilePart.of(m) for m in mappings if m.inode]


def refuse_collisions(parts: list[FilePart], others: Iterable[FilePart], what: str) -> None:
    """UnsupportedError where a private and a shared mapping show shared memory; `what` names the array."""
    for other in others:
        for part in parts:
            if part.collides(other):
                raise UnsupportedError(
                    f"the {what} shows pages of {part.path} that another mapping, registered at "
                    f"{other.begin:#x}, shows too, and one of the two is private: what it would show is not defined. "
                    "Unregister the other one, or use hmm.asarray(x), which copies"
                )


def notice_writers(session: Session, parts: Iterable[FilePart]) -> None:
    """Drops devices' copies of files that somebody else wrote, and shows pages again that have come back.

    Warns FileConflictWarning where a device wrote too: then the file's content is kept, page by page.
    """
    for part in parts:
        if not part.is_watched:
            continue
        before, part.stamp = part.stamp, part.look()
        if before is not None and before == part.stamp:
            continue
        show_again(session, part)
        lost = session.reload(part.begin, part.end)
        if lost:
            warnings.warn(
                f"{part.path}: {lost} pages were written by a device and by somebody else since; the file's "
                "content is kept there. Bring pages home (flush) before others write them",
                FileConflictWarning,
                stacklevel=5,
            )


def show_again(session: Session, part: FilePart) -> None:
    """Maps pages of the file again that have come back after a truncation."""
    if part.handle is None:
        return
    try:
        fd = part.handle.reopen(os.O_RDWR if part.shared and part.writable else os.O_RDONLY)
    except OSError:
        return  # not ours to open any more: the pages stay zeros
    try:
        session.show_again(fd, part.begin, part.end, part.offset, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def object_of(m: Mapping) -> Handle | None:
    """What a shared mapping shows; None if it is out of reach.

    By its name; by a descriptor that this process has of it (Python's mmap keeps one); or by the kernel's own link,
    which only privileged processes may follow.
    """
    if handle := _handle_of(m):
        return handle
    for entry in os.listdir("/proc/self/fd"):
        if handle := _handle_at(f"/proc/self/fd/{entry}", m):
            return handle
    whole = next(w for w in all_mappings() if w.begin <= m.begin < w.end)
    return _handle_at(f"/proc/self/map_files/{whole.begin:x}-{whole.end:x}", m)


def _handle_of(m: Mapping) -> Handle | None:
    return _handle_at(m.path, m)


def _handle_at(path: str, m: Mapping) -> Handle | None:
    """The file there, if it is the mapping's."""
    try:
        handle = Handle(os.open(path, os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return None
    found = os.fstat(handle.fd)
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    return handle if (device, found.st_ino) == (m.device, m.inode) else None
