"""What kind of memory lies at an address, and which pages of files two mappings share."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.file_parts import FilePart, parts_of
from hmmemu.mappings import Kind, Mapping, all_mappings, kind_of, mappings_of
from hmmemu.ranges import extent

PAGE = mmap.PAGESIZE


def mappings(array: np.ndarray) -> list[Mapping]:
    return mappings_of(*extent(array).pages)


def test_a_line_of_the_kernel() -> None:
    m = Mapping.parse("7f0000001000-7f0000003000 rw-s 00005000 08:01 42   /tmp/a file (deleted)\n")
    assert (m.begin, m.end, m.offset) == (0x7F0000001000, 0x7F0000003000, 0x5000)
    assert (m.device, m.inode, m.path) == ("08:01", 42, "/tmp/a file (deleted)")
    assert m.readable and m.writable and m.shared and not m.executable and m.is_file
    assert m.offset_of(0x7F0000002010) == 0x6010


def test_kinds(tmp_path: Path) -> None:
    private = np.frombuffer(mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    shared = np.frombuffer(mmap.mmap(-1, 8192), np.uint8)
    kinds = {"private": private, "shared": shared, "heap": np.ones(100)}
    kinds["w+"] = np.memmap(tmp_path / "f", np.uint8, "w+", shape=(4096,))
    kinds |= {mode: np.memmap(tmp_path / "f", np.uint8, mode) for mode in ("r", "r+", "c")}
    found = {name: kind_of(mappings(array), name) for name, array in kinds.items()}
    writable_file = Kind(shared=True, file=True)
    assert found == {
        "private": Kind(),
        "shared": Kind(shared=True),
        "heap": Kind(),
        "w+": writable_file,
        "r+": writable_file,
        "r": Kind(shared=True, read_only=True, file=True),
        "c": Kind(file=True),
    }


def test_what_cannot_be_shared() -> None:
    everything = list(all_mappings())
    library = next(m for m in everything if "libc" in m.path and m.writable)
    with pytest.raises(hmm.UnsupportedError, match=r"the data lies on .*libc.*a library or program"):
        kind_of([library], "data")
    stack = next(m for m in everything if m.path == "[stack]")
    with pytest.raises(hmm.UnsupportedError, match=r"lies on \[stack\]"):
        kind_of([stack], "data")


def test_a_hole() -> None:
    with pytest.raises(hmm.RangeError, match="not mapped at 0x"):
        mappings_of(sys.maxsize & ~0xFFF, (sys.maxsize & ~0xFFF) + 4096)


def part(begin: int, pages: int, offset: int, **changes: object) -> FilePart:
    fields = dict(path="/f", device="08:01", inode=7, shared=True, writable=True, is_file=False, handle=None)
    return FilePart(begin * PAGE, (begin + pages) * PAGE, offset * PAGE, **(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "collides"),
    [
        (part(100, 4, 0, shared=False), True),  # the same pages, elsewhere
        (part(100, 2, 3, shared=False), True),  # one page in common
        (part(100, 4, 4, shared=False), False),  # behind it
        (part(100, 4, 0, shared=False, inode=8), False),
        (part(100, 4, 0), False),  # both shared: owners of one page
    ],
)
def test_private_mappings_of_shared_memory(other: FilePart, collides: bool) -> None:
    first = part(10, 4, 0)
    assert first.collides(other) == collides and other.collides(first) == collides


def test_nobody_collides() -> None:
    private = part(100, 4, 0, shared=False)
    assert not part(10, 4, 0, writable=False).collides(private)
    assert not part(10, 4, 0, shared=False).collides(private)
    assert not part(10, 4, 0, is_file=True).collides(private)  # gets a page of its own


def test_the_file_behind_a_mapping(tmp_path: Path) -> None:
    file = np.memmap(tmp_path / "f", np.uint8, "w+", shape=(8192,))
    (found,) = parts_of(mappings(file))
    assert found.path == str(tmp_path / "f") and found.size == 8192 and found.offset == 0
    (tmp_path / "f").rename(tmp_path / "g")
    assert found.size == 8192  # by its handle
    (tmp_path / "f").write_bytes(b"another")
    (other,) = parts_of(mappings(np.memmap(tmp_path / "g", np.uint8, "r")))
    assert other.inode == found.inode
