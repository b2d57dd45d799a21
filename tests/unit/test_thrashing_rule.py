"""The rule for pages that thrash: when a fault has to wait, brings no neighbours, or pins its page. With a clock of our own."""

from __future__ import annotations

from hmmemu._native import Thrashing

LAPSE, PAGE, CPU, DEVICE = 500_000, 0x160000000000, 0, 1
SERVED = (0, False, False)
ALONE = (0, True, False)


def contended(rule: Thrashing, now: int, page: int = PAGE, **how: bool) -> int:
    """Four faults in turn, 20 us apart: three take the page from somebody. Returns the time of the last."""
    for turn in range(3):
        assert rule.fault(turn % 2, page, now, **how) == SERVED
        now += 20_000
    return now


def test_three_times_within_a_lapse_and_then_they_take_turns() -> None:
    rule = Thrashing()
    now = contended(rule, 10**9)
    assert rule.fault(DEVICE, PAGE, now) == ALONE  # it keeps the page for a lapse
    for turn in range(1, 9):
        processor, until = turn % 2 ^ 1, now + LAPSE
        for wait in (1, LAPSE - 1):  # other threads of it have to wait, too
            assert rule.fault(processor, PAGE, now + wait)[0] == until
        now = until + 30_000  # woken
        assert rule.fault(processor, PAGE, now, patient=False)[:2] == (0, True)


def test_nobody_waits_twice() -> None:
    rule = Thrashing()
    now = contended(rule, 10**9)
    rule.fault(DEVICE, PAGE, now)
    assert rule.fault(CPU, PAGE, now + 1, patient=False) == ALONE
    assert rule.fault(DEVICE, PAGE, now + 2)[0] == now + 1 + LAPSE


def test_it_is_over_when_nothing_happened_for_a_lapse() -> None:
    rule = Thrashing()
    now = contended(rule, 10**9)
    rule.fault(DEVICE, PAGE, now)
    for turn in range(2):
        assert rule.fault(turn, PAGE, now + 2 * LAPSE + turn) == SERVED


def test_a_thread_that_waited_and_was_woken_late_has_not_made_peace() -> None:
    rule = Thrashing()
    now = contended(rule, 10**9)
    rule.fault(DEVICE, PAGE, now)
    for turn in range(10):
        assert rule.fault(turn % 2, PAGE, now + 1)[0] == now + LAPSE
        now += 5 * LAPSE  # the machine is busy
        assert rule.fault(turn % 2, PAGE, now, patient=False) == (0, True, turn == 9)


def test_slow_turns_are_none_of_our_business() -> None:
    rule = Thrashing()
    for turn in range(50):
        assert rule.fault(turn % 2, PAGE, 10**9 + turn * LAPSE) == SERVED


def test_who_has_done_with_the_page_does_not_count() -> None:
    rule = Thrashing()
    for turn in range(50):
        assert rule.fault(turn % 2, PAGE, 10**9 + turn * 1000, used=False) == SERVED


def test_one_processor_alone_never_thrashes() -> None:
    rule = Thrashing()
    for turn in range(50):
        assert rule.fault(CPU, PAGE + turn % 3 * 4096, 10**9 + turn * 1000) == SERVED


def test_neighbours_that_growth_takes_along_are_left_alone_and_nobody_waits() -> None:
    rule = Thrashing()
    answers = [rule.fault(turn % 2, PAGE + turn % 2 * 4096, 10**9 + turn * 1000) for turn in range(20)]
    assert answers == [SERVED] * 3 + [ALONE] * 17


def fought_over(rule: Thrashing, now: int) -> int:
    now = contended(rule, now)
    rule.fault(DEVICE, PAGE, now)
    for turn in range(10):
        wait = rule.fault(turn % 2, PAGE, now + 1)[0]
        assert wait == now + LAPSE
        now = wait
        single, pin = rule.fault(turn % 2, PAGE, now, patient=False)[1:]
        assert single and pin == (turn == 9)
    return now


def test_after_ten_waits_the_page_is_pinned_for_a_while() -> None:
    rule = Thrashing()
    now = fought_over(rule, 10**9)
    rule.pin(PAGE, now)
    assert rule.ends_of_pin(now + 300 * LAPSE - 1) == []
    again = rule.fault(DEVICE, PAGE, now + 100 * LAPSE, used=False)
    assert again == (0, False, True)
    assert rule.ends_of_pin(now + 300 * LAPSE) == [PAGE]
    assert rule.ends_of_pin(now + 300 * LAPSE) == []
    assert rule.fault(DEVICE, PAGE, now + 301 * LAPSE) == SERVED


def test_a_place_in_the_table_is_the_last_ones() -> None:
    rule, other = Thrashing(), PAGE + 1024 * 65536
    now = fought_over(rule, 10**9)
    rule.pin(PAGE, now)
    assert rule.fault(CPU, other, now) == SERVED
    assert rule.fault(DEVICE, PAGE, now + 1) == SERVED
    assert rule.ends_of_pin(now + 400 * LAPSE) == []
