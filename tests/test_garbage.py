"""Garbage is looked for less often while a job runs, and as before when it is over."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from parasnake.garbage import THRESHOLD, seldom_searched


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*before)


def test_less_often_and_then_as_before() -> None:
    gc.set_threshold(700, 10, 10)
    with pytest.raises(KeyError), seldom_searched():
        assert gc.get_threshold()[0] == THRESHOLD
        assert gc.get_freeze_count()
        raise KeyError
    assert gc.get_threshold() == (700, 10, 10)
    assert not gc.get_freeze_count()


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
        assert not gc.get_freeze_count()


def test_who_looks_himself_is_left_alone() -> None:
    gc.disable()
    with seldom_searched():
        assert not gc.get_freeze_count()


def test_what_was_frozen_stays_frozen() -> None:
    gc.freeze()
    with seldom_searched():
        assert gc.get_threshold()[0] == THRESHOLD
    assert gc.get_freeze_count()
