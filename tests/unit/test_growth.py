"""How many pages a fault brings: against a second, slow formulation of the rule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steady import STEADY

import hmmemu as hmm
from hmmemu._native import grow

OWNED, START, AT_DEVICE, LOCKED, VIEWED = 1 << 32, 1 << 48, 2 << 2, 1 << 56, 1 << 61
READS, WRITES = OWNED | 1 << 0 | 1 << 2, OWNED | 2 << 0  # the CPU: with a device, alone
PAGES = 512


def slow_rule(words: list[int], page: int, threshold: int, upgrade: int = 0) -> tuple[int, int]:
    """`upgrade`: pages that a fault of the CPU begins with which only takes the device's right; 0: of the device."""

    def free(word: int) -> bool:
        return bool(word & OWNED) and not word & (LOCKED | VIEWED)

    def held(word: int) -> bool:
        return word & 3 == 2 if upgrade else bool(word & AT_DEVICE)

    low = page
    while low > 0 and not words[low] & START and free(words[low - 1]):
        low -= 1
    high = page + 1
    while high < PAGES and free(words[high]) and not words[high] & START:
        high += 1
    goes_on = page > low and held(words[page - 1])
    leaf = 16 if not upgrade or (goes_on and upgrade < 16) else upgrade
    region = set(range(page // leaf * leaf, page // leaf * leaf + leaf)) & set(range(low, high))
    for size in (s for s in (2, 4, 8, 16, 32, 64, 128, 256, 512) if s > leaf):
        tree = set(range(page // size * size, page // size * size + size)) & set(range(low, high))
        resident = {i for i in tree if held(words[i]) or i in region}
        if len(resident) * 100 > len(tree) * threshold:
            region = tree
    return min(region), max(region) + 1


def test_the_first_fault_brings_64_kib() -> None:
    assert grow([OWNED] * PAGES, 100, 1) == (96, 112)


def test_a_half_full_block_is_completed() -> None:
    words = [OWNED | (AT_DEVICE if i < 256 else 0) for i in range(PAGES)]
    assert grow(words, 300, 1) == (0, 512)


def test_it_stays_within_the_allocation() -> None:
    words = [OWNED | AT_DEVICE] * PAGES
    words[200] |= START
    words[210] |= START
    assert grow(words, 205, 1) == (200, 210)


def test_it_stays_within_owned_memory() -> None:
    words = [OWNED] * PAGES
    words[98] = words[101] = 0
    assert grow(words, 100, 1) == (99, 101)


def test_a_cpu_that_writes_what_it_reads_takes_one_page() -> None:
    assert grow([READS] * PAGES, 100, 0) == (100, 101)
    assert grow([OWNED] * PAGES, 100, 0) == (96, 112)
    assert grow([READS] * PAGES, 100, 1, 51) == (0, 512)  # the same of a device


def test_a_cpu_that_writes_in_order_takes_more_each_time() -> None:
    words, faults = [READS] * PAGES, []
    for page in range(PAGES):
        if words[page] == WRITES:
            continue
        begin, end = grow(words, page, 0)
        words[begin:end] = [WRITES] * (end - begin)
        faults.append(page)
    assert faults == [0, 1, 16, 32, 64, 128, 256]


@settings(STEADY, max_examples=120)
@given(
    page=st.integers(0, PAGES - 1),
    threshold=st.integers(1, 100),
    upgrade=st.sampled_from((0, 1, 16, 512)),
    resident=st.sets(st.integers(0, PAGES - 1)),
    starts=st.sets(st.integers(0, PAGES - 1), max_size=6),
    gaps=st.dictionaries(
        st.integers(0, PAGES - 1), st.sampled_from((0, OWNED | LOCKED, OWNED | VIEWED)), max_size=6
    ),
)
def test_it_agrees_with_the_slow_rule(
    page: int, threshold: int, upgrade: int, resident: set[int], starts: set[int], gaps: dict[int, int]
) -> None:
    has, lacks = (WRITES, READS) if upgrade else (OWNED | AT_DEVICE, OWNED)
    words = [(has if i in resident - {page} else lacks) | (START if i in starts else 0) for i in range(PAGES)]
    for gap, word in gaps.items():
        if gap != page:
            words[gap] = word
    ours = grow(words, page, 0 if upgrade else 1, threshold, upgrade or 1)
    assert ours == slow_rule(words, page, threshold, upgrade)


def test_growth_begins_with_a_power_of_two() -> None:
    for pages in (0, 3, 1024):
        with pytest.raises(hmm.RangeError, match="a power of two of pages, 512 at most"):
            grow([OWNED] * PAGES, 0, 0, 51, pages)
