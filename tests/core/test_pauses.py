"""Growing pauses that differ from one who waits to the next."""

from __future__ import annotations

import random

import pytest

from parasnake.core.pauses import SHORTEST_SHARE, Pauses

FIRST, LAST = 0.1, 10.0


def test_they_double_from_the_first_to_the_last() -> None:
    pauses = Pauses(FIRST, LAST)
    assert [pauses.next(1.0) for _ in range(9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_chance_shortens_them() -> None:
    assert Pauses(FIRST, LAST).next(0.0) == FIRST * SHORTEST_SHARE
    assert Pauses(FIRST, LAST).next(0.5) == pytest.approx(FIRST * 0.75)


def test_the_longest_is_known_beforehand() -> None:
    pauses = Pauses(FIRST, LAST)
    for chance in (0.3, 1.0, 0.0):
        longest = pauses.longest
        assert pauses.next(chance) <= longest


def test_they_can_start_over() -> None:
    pauses = Pauses(FIRST, LAST)
    pauses.next(0.5)
    pauses.next(0.5)
    pauses.start_over()
    assert pauses.next(1.0) == FIRST


@pytest.mark.parametrize(("away_s", "window_s", "at_once"), [(5.0, 0.1, 20), (60.0, 0.5, 20)])
def test_a_hundred_who_wait_do_not_come_at_once(
    away_s: float, window_s: float, at_once: int
) -> None:
    """All lose their server at the same moment; it is back after some seconds."""
    chances = random.Random(1)
    tries = []
    for _ in range(100):
        pauses, now = Pauses(FIRST, LAST), 0.0
        while now < away_s:
            now += pauses.next(chances.random())
        tries.append(now)
    tries.sort()
    crowds = [sum(start <= one < start + window_s for one in tries) for start in tries]
    assert max(crowds) <= at_once
    assert tries[-1] <= away_s + LAST
