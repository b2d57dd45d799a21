"""`bench merge` in small: every row is there, contents are verified, the kernel's settings are put back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import hmmemu as hmm
from hmmemu import trackers
from hmmemu.bench import merge
from hmmemu.bench.peer import Peer
from hmmemu.bench.result import Result
from hmmemu.errors import Error, UnsupportedError

SIZE = 16 << 20
PAGES = SIZE // 4096
KINDS = (merge.two_arrays, merge.file_and_array)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer("merge", flags=(), arguments=[str(SIZE)]) as running:
        yield running


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", trackers.NAMES)
def test_rows(peer: Peer, name: str, make: merge.MakePair) -> None:
    if not (found := trackers.probe(name)).usable:
        pytest.skip(f"tracker {name} cannot work here: {found.words}")
    bare = merge.yardsticks(peer, 1)
    bare[merge.KSM] = merge.Times([1.0], [1.0])
    ours = merge.measure(name, make, SIZE, 2)
    assert abs(ours.before - 2 * SIZE) < SIZE / 10 and abs(ours.after - SIZE) < SIZE / 10
    result = Result("merge", merge.QUESTION)
    merge.add_rows(result, "two arrays", ours, bare, 2 * PAGES)
    assert [row.peer_name for row in result.rows] == [
        merge.PASS,
        merge.BEFORE,
        merge.FORK,
        merge.PRIVATE,
        merge.KSM,
        merge.KSM,
    ]
    assert all(row.ours > 0 and row.ratio and not row.more_is_better for row in result.rows)
    bare[merge.KSM] = merge.Times()
    result.rows.clear()
    merge.add_rows(result, "two arrays", ours, bare, 2 * PAGES)
    assert merge.KSM not in [row.peer_name for row in result.rows]


def test_pages_that_did_not_merge_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hmm.AddressSpace.merge

    def half(space: hmm.AddressSpace, *arrays: object) -> hmm.MergeResult:
        done = whole(space, *arrays)
        return dataclasses.replace(done, merged=done.merged // 2)

    monkeypatch.setattr(hmm.AddressSpace, "merge", half)
    with pytest.raises(Error, match=f"{PAGES} of {2 * PAGES} pages"):
        merge.measure("auto", merge.two_arrays, SIZE, 1)


def test_a_tracker_that_does_not_exist() -> None:
    with pytest.raises((hmm.ArgumentError, UnsupportedError), match="none"):
        merge.measure("none", merge.two_arrays, SIZE, 1)


def test_the_yardstick_refuses_more_pages_than_there_are() -> None:
    with Peer("merge", flags=(), arguments=[str(SIZE)]) as other, pytest.raises(Error, match="status 2"):
        other.ask("fork", PAGES + 1)


def test_settings_of_the_kernel_are_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(merge, "KSM_FOLDER", tmp_path)
    with pytest.raises(OSError, match="there is no"), merge.ksm_at_work():
        pass
    before = {"run": "0\n", "pages_to_scan": "100\n", "sleep_millisecs": "20\n"}  # an older kernel
    for name, value in before.items():
        (tmp_path / name).write_text(value)
    with pytest.raises(Error, match="meanwhile"), merge.ksm_at_work():
        assert (tmp_path / "run").read_text() == "1"
        raise Error("meanwhile")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_without_the_kernels_merging_there_is_a_note(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(merge, "KSM_FOLDER", tmp_path)
    result = Result("merge", merge.QUESTION)
    assert not merge.kernel_merging(peer, 1, result).merge and "KSM is left out" in result.notes[0]


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge.os, "sysconf", lambda _: 1000)
    with pytest.raises(hmm.ArgumentError, match="MiB of memory are needed, and 3 MiB are free"):
        merge.run(quick=True)
