"""Garbage is looked for less often while a job runs, and as before when it is over."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from parasnake.garbage import THRESHOLD, seldom_searched


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.enable()
    gc.set_threshold(*before)


def test_less_often_and_then_as_before() -> None:
    gc.set_threshold(700, 10, 10)
    with pytest.raises(KeyError), seldom_searched():
        assert gc.get_threshold()[0] == THRESHOLD
        raise KeyError
    assert gc.get_threshold() == (700, 10, 10)


def test_two_at_a_time() -> None:
    gc.set_threshold(700, 10, 10)
    with seldom_searched(), seldom_searched():
        assert gc.get_threshold()[0] == THRESHOLD
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("threshold", [0, THRESHOLD, 50_000])
def test_who_has_thresholds_of_his_own_is_left_alone(threshold: int) -> None:
    gc.set_threshold(threshold, 20, 30)
    with seldom_searched():
        assert gc.get_threshold() == (threshold, 20, 30)


def test_who_looks_himself_is_left_alone() -> None:
    gc.set_threshold(700, 10, 10)
    gc.disable()
    with seldom_searched():
        assert gc.get_threshold() == (700, 10, 10)


class Cycle:
    """Garbage, once nobody else refers to it."""

    def __init__(self) -> None:
        self.itself = self


def test_the_garbage_of_many_short_runs_is_found() -> None:
    gc.set_threshold(700, 10, 10)
    left = []
    for _ in range(1000):
        with seldom_searched():
            left += [weakref.ref(Cycle()) for _ in range(100)]
    assert sum(cycle() is not None for cycle in left) < len(left) / 2
