"""`bench dirty` in small: every row is there, the yardstick finds its pages, what the device lacks is an error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu import trackers
from hmmemu.bench import dirty, takes_size
from hmmemu.bench.peer import Peer
from hmmemu.bench.result import Result
from hmmemu.errors import ArgumentError, Error, UnsupportedError

SIZE = 4 << 20
PAGES = SIZE // 4096


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    try:
        with Peer("dirty", flags=(), arguments=[str(SIZE)]) as running:
            running.ask("full")
            yield running
    except Error as error:
        if trackers.probe("async").usable:
            raise
        pytest.skip(f"no PAGEMAP_SCAN here: {error}")


@pytest.mark.parametrize("name", trackers.NAMES)
def test_rows(peer: Peer, name: str) -> None:
    if not (found := trackers.probe(name)).usable:
        pytest.skip(f"tracker {name} cannot work here: {found.words}")
    result = Result("dirty", dirty.QUESTION)
    dirty.measure(result, name, SIZE, peer, repeats=1)  # looks into the device's memory after each step
    assert len(result.rows) == 2 * len(dirty.counts(PAGES)) * 3 + 1
    for row in result.rows[:-1]:
        assert row.name.startswith(f"{name}: ") and row.ours > 0 and row.ratio and row.peer_name == dirty.PEER
        few = int(row.name.split()[1]) <= PAGES // 2
        assert row.aim == (dirty.AIM if few and row.name.endswith("update") else None)
    assert result.rows[-1].peer_name == dirty.FULL and result.rows[-1].aim == dirty.AIM_FULL


@pytest.mark.parametrize("way", dirty.WAYS)
def test_the_yardstick_checks_itself(peer: Peer, way: str) -> None:
    for count in (1, PAGES // 3, PAGES):
        writes, update = peer.ask("dirty", count, way)
        assert 0 < writes < 10 and 0 < update < 10


def test_the_yardstick_refuses_more_pages_than_there_are() -> None:
    with Peer("dirty", flags=(), arguments=[str(SIZE)]) as other, pytest.raises(Error, match="status 2"):
        other.ask("dirty", PAGES + 1, "run")


def test_what_the_device_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with hmm.AddressSpace(device="emulated") as space:
        written = dirty._Written(space, SIZE)
        monkeypatch.setattr(space, "prefetch", lambda *_, **__: None)
        with pytest.raises(Error, match="the device"):
            written.step(1, "random")


def test_pages_are_chosen_as_asked() -> None:
    with hmm.AddressSpace(device="emulated") as space:
        written = dirty._Written(space, SIZE)
        run, scattered = written._choose(100, "run"), written._choose(100, "random")
        assert np.all(np.diff(run) == 1) and run[0] >= 0 and run[-1] < PAGES
        assert len(set(scattered)) == 100 and np.any(np.diff(scattered) != 1) and max(scattered) < PAGES


def test_counts_end_with_half_and_all() -> None:
    assert dirty.counts(1 << 18) == [1, 16, 256, 4096, 65536, 1 << 17, 1 << 18]
    assert dirty.counts(1024) == [1, 16, 256, 512, 1024]


@pytest.mark.parametrize(
    ("size", "words"), [(4097, "multiple of 2 MiB"), (0, "multiple"), (1 << 50, "--bytes")]
)
def test_sizes_that_cannot_be_measured(size: int, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        dirty.check_size(size)


def test_a_tracker_that_does_not_exist(peer: Peer) -> None:
    with pytest.raises((ArgumentError, UnsupportedError), match="none"):
        dirty.measure(Result("dirty", dirty.QUESTION), "none", SIZE, peer, repeats=1)


def test_which_benches_take_a_size() -> None:
    assert takes_size("dirty") and not takes_size("launch")
