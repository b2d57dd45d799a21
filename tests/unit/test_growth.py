"""How many pages a fault brings: against a second, slow formulation of the rule."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hmmemu._native import grow

OWNED, START, AT_DEVICE = 1 << 32, 1 << 48, 2 << 2
READS, WRITES = OWNED | 1 << 0 | 1 << 2, OWNED | 2 << 0  # the CPU: with a device, alone
PAGES = 512


def slow_rule(words: list[int], page: int, threshold: int) -> tuple[int, int]:
    low = page
    while low > 0 and not words[low] & START and words[low - 1] & OWNED:
        low -= 1
    high = page + 1
    while high < PAGES and words[high] & OWNED and not words[high] & START:
        high += 1
    region = set(range(page // 16 * 16, page // 16 * 16 + 16)) & set(range(low, high))
    for size in (32, 64, 128, 256, 512):
        tree = set(range(page // size * size, page // size * size + size)) & set(range(low, high))
        resident = {i for i in tree if words[i] & AT_DEVICE or i in region}
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


@settings(max_examples=60, deadline=None)
@given(
    page=st.integers(0, PAGES - 1),
    threshold=st.integers(1, 100),
    resident=st.sets(st.integers(0, PAGES - 1)),
    starts=st.sets(st.integers(0, PAGES - 1), max_size=6),
    gaps=st.sets(st.integers(0, PAGES - 1), max_size=6),
)
def test_it_agrees_with_the_slow_rule(
    page: int, threshold: int, resident: set[int], starts: set[int], gaps: set[int]
) -> None:
    words = [
        OWNED | (AT_DEVICE if i in resident else 0) | (START if i in starts else 0) for i in range(PAGES)
    ]
    for gap in gaps - {page}:
        words[gap] = 0
    assert grow(words, page, 1, threshold) == slow_rule(words, page, threshold)
