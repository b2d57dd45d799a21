"""What kind of memory lies at an address: the process's mappings, read from /proc/self/maps.

A mapping is private or shared, read-only or not, anonymous or of a file. Pages that an address space manages
already do not say so truly (trackers change their protection): ask only about pages that nobody owns.
No state, so no lock.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hmmemu.errors import RangeError, UnsupportedError

HUGE_PAGE = 2 << 20
_MAPS = Path("/proc/self/maps")
_NO_FILE = ("[heap]", "[anon", "/dev/zero", "/memfd:", "/dev/shm/", "/SYSV", "/anon_hugepage")


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/self/maps.

    Attributes:
        begin, end: addresses, bytes.
        readable, writable, executable: what the program may do there.
        shared: whether stores reach the object behind it (MAP_SHARED).
        offset: of `begin` in the object, bytes.
        device, inode: which object; ("00:00", 0) for anonymous memory.
        path: its name, or a word of the kernel's such as "[stack]"; may be empty.
    """

    begin: int
    end: int
    readable: bool
    writable: bool
    executable: bool
    shared: bool
    offset: int
    device: str
    inode: int
    path: str

    @classmethod
    def parse(cls, line: str) -> Mapping:
        """From a line such as "7f00-8f00 rw-s 00001000 08:01 42   /a file"."""
        fields = line.rstrip("\n").split(maxsplit=5)
        begin, end = (int(x, 16) for x in fields[0].split("-"))
        rights, path = fields[1], fields[5] if len(fields) > 5 else ""
        return cls(
            begin,
            end,
            rights[0] == "r",
            rights[1] == "w",
            rights[2] == "x",
            rights[3] == "s",
            int(fields[2], 16),
            fields[3],
            int(fields[4]),
            path,
        )

    @property
    def is_file(self) -> bool:
        """Whether the pages are those of a regular file (shared memory is none)."""
        return bool(self.path) and not self.path.startswith((*_NO_FILE, "[")) and not self.huge_page

    @property
    def huge_page(self) -> int:
        """Bytes of one page if the memory is hugetlbfs's (MAP_HUGETLB, MFD_HUGETLB, a file there), else 0."""
        return _huge_page_of(self.device) if self.inode else 0

    def offset_of(self, address: int) -> int:
        """Where in the object an address of the mapping lies, bytes."""
        return self.offset + address - self.begin


@dataclass(frozen=True)
class Kind:
    """What the driver must know of memory: see MemoryKind in native/protocol/state.h.

    Attributes:
        open: every device can map the object, which is that of a shared mapping.
    """

    shared: bool = False
    read_only: bool = False
    file: bool = False
    huge: bool = False
    executable: bool = False
    open: bool = False


def all_mappings() -> Iterator[Mapping]:
    """All mappings of this process, by address.

    Raises:
        UnsupportedError: /proc is not mounted.
    """
    if not _MAPS.exists():
        raise UnsupportedError(f"what memory there is cannot be known without {_MAPS}: mount /proc")
    yield from map(Mapping.parse, lines_of(_MAPS))


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file of /proc. It may name files, by bytes that are no text: as `os` has such names."""
    with path.open("rb") as file:
        yield from map(os.fsdecode, file)


def mappings_of(begin: int, end: int) -> list[Mapping]:
    """The mappings that [begin, end) lies in, cut to it.

    Raises:
        RangeError: a part is not mapped.
    """
    found: list[Mapping] = []
    at = begin
    for m in all_mappings():
        if m.end <= at:
            continue
        if m.begin > at or at >= end:
            break
        found.append(_cut(m, at, min(m.end, end)))
        at = found[-1].end
    if at < end:
        raise RangeError(f"the memory is not mapped at {at:#x}")
    return found


def kind_of(mappings: list[Mapping], what: str) -> Kind:
    """The one kind of all these mappings; `what` names them in messages.

    Raises:
        RangeError: a part cannot be read.
        UnsupportedError: stacks and other memory of the kernel's or of libraries; kinds that differ; huge pages
            that are not of 2 MiB.
    """
    kinds = {Kind(m.shared, not m.writable, m.is_file, m.huge_page > 0, m.executable) for m in mappings}
    for m in mappings:
        if not m.readable:
            raise RangeError(f"the {what} cannot be read: it is mapped with PROT_NONE at {m.begin:#x}")
        if m.huge_page not in (0, HUGE_PAGE):
            raise UnsupportedError(
                f"the {what} lies on huge pages of {m.huge_page >> 10} KiB: only those of {HUGE_PAGE >> 10} KiB can be "
                "shared; use hmm.asarray(x), which copies it"
            )
        if not m.is_file and m.path.startswith("[") and not m.path.startswith(_NO_FILE):
            raise UnsupportedError(
                f"the {what} lies on {m.path}: stacks cannot be shared; use hmm.asarray(x)"
            )
        if m.is_file and not m.shared and _is_library(m):
            raise UnsupportedError(
                f"the {what} lies on {m.path}, a library or program: its pages are in use by running code; "
                "use hmm.asarray(x), which copies it"
            )
    if len(kinds) > 1:
        raise UnsupportedError(
            f"the {what} lies on memory of several kinds (private and shared, say, or read-only and writable): "
            "use hmm.asarray(x), which copies it"
        )
    return kinds.pop()


@functools.cache
def _huge_page_of(device: str) -> int:
    """The page size of the hugetlbfs that is this device, 0 if it is none."""
    for size in _huge_page_sizes():
        try:
            fd = os.memfd_create("hmmemu", os.MFD_CLOEXEC | os.MFD_HUGETLB | size.bit_length() - 1 << 26)
        except OSError:
            continue  # this kernel, or this container, has none of that size
        try:
            found = os.fstat(fd).st_dev
        finally:
            os.close(fd)
        if f"{os.major(found):02x}:{os.minor(found):02x}" == device:
            return size
    return _mounted_page_size(device)


def _huge_page_sizes() -> list[int]:
    names = (path.name for path in Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB"))
    return [int(name.removeprefix("hugepages-").removesuffix("kB")) << 10 for name in names]


def _mounted_page_size(device: str) -> int:
    major, minor = (int(x, 16) for x in device.split(":"))
    for line in lines_of(Path("/proc/self/mountinfo")):
        mount, _, filesystem = line.partition(" - ")
        if mount.split()[2] == f"{major}:{minor}" and filesystem.startswith("hugetlbfs "):
            size = re.search(r"pagesize=(\d+)([KMG])", filesystem)
            return int(size[1]) << {"K": 10, "M": 20, "G": 30}[size[2]] if size else HUGE_PAGE
    return 0


def _is_library(mapping: Mapping) -> bool:
    return any(
        m.executable and (m.device, m.inode) == (mapping.device, mapping.inode) for m in all_mappings()
    )


def _cut(m: Mapping, begin: int, end: int) -> Mapping:
    offset = m.offset_of(begin)
    return Mapping(
        begin, end, m.readable, m.writable, m.executable, m.shared, offset, m.device, m.inode, m.path
    )
