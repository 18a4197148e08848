"""The newest durations: their quantiles are those of the textbook."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from parasnake.core.durations import KEPT, Durations

times = st.lists(st.floats(0, 1e6), min_size=1, max_size=3 * KEPT)
shares = st.floats(0.01, 1)


def of(seconds: list[float]) -> Durations:
    durations = Durations()
    for each in seconds:
        durations.add(each)
    return durations


def test_nothing_is_known_at_first() -> None:
    assert (len(Durations()), Durations().quantile(0.95)) == (0, 0.0)


@given(times, shares)
def test_a_quantile_is_the_least_that_so_many_do_not_exceed(
    seconds: list[float], share: float
) -> None:
    newest = seconds[-KEPT:]
    found = of(seconds).quantile(share)
    assert found in newest
    assert sum(each <= found for each in newest) >= math.ceil(share * len(newest))
    assert sum(each < found for each in newest) < math.ceil(share * len(newest))


@given(times, st.floats(0, 1e6), shares)
def test_what_comes_later_counts_at_once(seconds: list[float], last: float, share: float) -> None:
    durations = of(seconds)
    durations.quantile(share)
    durations.add(last)
    assert durations.quantile(share) == of([*seconds, last]).quantile(share)
    assert len(durations) == min(len(seconds) + 1, KEPT)
