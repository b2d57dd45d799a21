"""Same-page merging: equal pages of shared arrays keep one frame between them, until one of them is written.

What Linux calls KSM, for any memory that an address space manages, and with the pages' device copies kept right. The
work is native (`native/driver/merge.cpp`); here: which pages, and what it saved as the kernel counts it.

LOCK: `_merging` orders merges of this process (the native part refuses a second one of the same space).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hmmemu._native import break_pages, merge_pages, page_record
from hmmemu.arena import PAGE
from hmmemu.errors import ArgumentError, RangeError
from hmmemu.mappings import lines_of
from hmmemu.memory import Memory
from hmmemu.ranges import Array, PageRange, extent

_merging = threading.Lock()


def _forked() -> None:
    """In a fork child: a thread that merged meanwhile is not here."""
    global _merging
    _merging = threading.Lock()


os.register_at_fork(after_in_child=_forked)


@dataclass(frozen=True)
class MergeResult:
    """What a merge did. `print` it for a table."""

    scanned: int
    """pages looked at: those of the arrays that somebody touched, and of a kind that can be merged"""
    merged: int
    """pages of these arrays that are merged now, those merged before included"""
    zeros: int
    """pages of zeros, given to the kernel's one zero page (they need no frame)"""
    skipped: int
    """pages that are not merged: of read-only private mappings, or mapped more than once"""
    sets: int
    """frames of this space that several pages share"""
    frames: int
    """frames of this space's merged pages"""
    pss_before: int
    """proportional set size of the mappings that hold the arrays, before, in bytes (Pss in /proc/self/smaps)"""
    pss_after: int
    """the same mappings afterwards"""
    stopped_by: str
    """"": all was tried. "vm.max_map_count": too few mappings are left. "memory": the kernel gave no frame"""
    mappings: int
    """mappings of the process afterwards; `most_mappings` is where merging stops"""
    most_mappings: int

    @property
    def saved(self) -> int:
        """Bytes that the proportional set size fell by."""
        return self.pss_before - self.pss_after

    def __str__(self) -> str:
        from hmmemu.report import size

        lines = [
            f"Same-page merging: {self.merged:,} of {self.scanned:,} pages merged into {self.frames:,} frames "
            f"({self.sets:,} shared by several pages)",
            f"  pages of zeros              {self.zeros:,}",
            f"  proportional set size       {size(self.pss_before)} before, {size(self.pss_after)} after",
            f"  saved                       {size(max(self.saved, 0))}",
            f"  mappings of the process     {self.mappings:,} (merging stops at {self.most_mappings:,})",
        ]
        if self.skipped:
            lines.append(f"  pages that cannot be merged {self.skipped:,}")
        if self.stopped_by:
            lines.append(f"  stopped by                  {self.stopped_by}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Owner:
    """One entry of the record of a page that several pages share: merged ones, or mappings of the same memory."""

    address: int
    """of the page"""
    mapping: int
    """the key of the mapping that the page came from"""
    offset: int
    """of the page in the mapped object, in bytes (its place in the mapping, for anonymous memory)"""
    private: int
    """where the driver sees the page's own memory, for shared memory; else 0"""


def merge(memory: Memory, arrays: Sequence[Array], max_mappings: int | None) -> MergeResult:
    """See `AddressSpace.merge`."""
    if max_mappings is not None and max_mappings < 1:
        raise ArgumentError(f"max_mappings={max_mappings!r}: a number of mappings, 1 or more")
    for array in arrays:
        memory.register(array)
    ranges = _joined([extent(array).inner_pages for array in arrays if array.size])
    with _merging:
        around, before = proportional_size(ranges)
        done = merge_pages(memory.session_or_raise(), ranges, max_mappings or 0)
        after = proportional_size(around)[1]
    return MergeResult(
        scanned=done["scanned"],
        merged=done["merged"] + done["merged_before"],
        zeros=done["zeros"],
        skipped=done["skipped"],
        sets=done["sets"],
        frames=done["frames"],
        pss_before=before,
        pss_after=after,
        stopped_by=done["stopped_by"],
        mappings=done["mappings"],
        most_mappings=done["most_mappings"],
    )


def unmerge(memory: Memory, array: Array) -> None:
    """See `AddressSpace.unmerge`."""
    break_pages(memory.session, *memory.require(array).pages)


def record(memory: Memory, array: Array, page: int) -> list[Owner]:
    """See `AddressSpace.record`."""
    begin, end = memory.require(array).pages
    count = (end - begin) // PAGE
    if not 0 <= page < count:
        raise RangeError(f"page {page} of an array that lies on {count} pages")
    _, owners = page_record(memory.session_or_raise(), begin + page * PAGE)
    return sorted((Owner(*owner) for owner in owners), key=lambda owner: owner.address)


def proportional_size(ranges: Sequence[PageRange]) -> tuple[list[PageRange], int]:
    """The mappings that hold the ranges, merged, and their proportional set size in bytes."""
    found: list[PageRange] = []
    total, inside = 0, False
    for line in lines_of(Path("/proc/self/smaps")):
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            begin, end = (int(x, 16) for x in first.split("-"))
            inside = any(begin < high and low < end for low, high in ranges)
            if inside:
                found.append((begin, end))
        elif inside and first == "Pss:":
            total += int(line.split()[1]) * 1024
    return _joined(found), total


def _joined(ranges: Sequence[PageRange]) -> list[PageRange]:
    joined: list[PageRange] = []
    for begin, end in sorted(r for r in ranges if r[0] < r[1]):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined
