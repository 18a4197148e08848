"""How fast a link is, from what waited for it; and whether compressing pays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parasnake.core.linkspeed import (
    ENOUGH_BYTES,
    ENOUGH_SECONDS,
    FAST,
    NEWS_FACTOR,
    SMALLEST_SAVING,
    TOO_FAST_BYTES_PER_S,
    LinkSpeed,
    pays,
    together,
)

MB = 1_000_000


class Wire:
    """A link of a known speed and the clock of whoever waits for it."""

    def __init__(self) -> None:
        self.link = LinkSpeed()
        self.now = 100.0

    def carry(self, size: int, bytes_per_second: float, *, piece: int = 1 << 16) -> list[bool]:
        """Have it carry so much, in pieces for which it is waited; returns what ``waits`` said."""
        news = [self.link.waits(self.now)]
        while size > 0:
            count = min(size, piece)
            self.now += count / bytes_per_second
            self.link.moved(count)
            news.append(self.link.waits(self.now))
            size -= count
        self.link.rests()
        return news


def test_a_link_of_which_nothing_is_known_is_fast() -> None:
    assert LinkSpeed().bytes_per_second == FAST


@given(speed=st.floats(1e3, 4e8), piece=st.integers(1 << 10, 1 << 22))
def test_a_slow_link_is_measured(speed: float, piece: int) -> None:
    wire = Wire()
    assert wire.carry(64 * MB, speed, piece=piece).count(True) == 1
    assert wire.link.bytes_per_second == pytest.approx(speed)


def test_little_is_not_believed() -> None:
    wire = Wire()
    wire.carry(ENOUGH_BYTES - 1, 10 * MB)
    assert wire.link.bytes_per_second == FAST
    wire.carry(1, 10 * MB)
    assert wire.link.bytes_per_second == pytest.approx(10 * MB)


def test_a_long_wait_tells_enough() -> None:
    wire = Wire()
    wire.carry(1000, 1000 / ENOUGH_SECONDS)
    assert wire.link.bytes_per_second == pytest.approx(1000 / ENOUGH_SECONDS)


def test_what_needs_no_wait_tells_nothing() -> None:
    """Between ``rests`` and ``waits`` bytes go into buffers, and time goes by for other reasons."""
    wire = Wire()
    for _ in range(100):
        wire.link.moved(MB)
        wire.now += 1
        wire.link.rests()
    wire.link.moved(MB)
    assert not wire.link.waits(wire.now)
    assert wire.link.bytes_per_second == FAST


def test_a_fast_link_stays_fast() -> None:
    wire = Wire()
    assert True not in wire.carry(100 * MB, TOO_FAST_BYTES_PER_S * 1.01)
    assert wire.link.bytes_per_second == FAST


def test_waits_that_take_no_time_are_fast() -> None:
    wire = Wire()
    wire.link.waits(0.0)
    wire.link.moved(ENOUGH_BYTES)
    assert not wire.link.waits(0.0)
    assert wire.link.bytes_per_second == FAST


def test_a_link_that_becomes_slow_or_fast_is_measured_anew() -> None:
    wire = Wire()
    for speed in (100 * MB, 5 * MB, 100 * MB):
        assert True in wire.carry(400 * MB, speed)
        assert wire.link.bytes_per_second == pytest.approx(speed, rel=NEWS_FACTOR - 1)
    wire.carry(4000 * MB, 1e10)
    assert wire.link.bytes_per_second == FAST


def test_a_stall_is_forgotten() -> None:
    wire = Wire()
    wire.link.waits(wire.now)
    wire.now += 30
    wire.link.waits(wire.now)
    assert wire.link.bytes_per_second == 0
    wire.carry(1000 * MB, 2e9)
    assert wire.link.bytes_per_second == FAST


def test_a_small_difference_is_no_news() -> None:
    wire = Wire()
    wire.carry(100 * MB, 10 * MB)
    assert True not in wire.carry(100 * MB, 12 * MB)
    assert wire.link.bytes_per_second == pytest.approx(10 * MB)


def test_all_slow_links_together_count() -> None:
    slow, slower, fast = LinkSpeed(), LinkSpeed(), LinkSpeed()
    slow.bytes_per_second, slower.bytes_per_second = 30 * MB, 5 * MB
    assert together(slow, [slow, slower, fast]) == 35 * MB
    assert together(slower, [slower, fast]) == 5 * MB
    assert together(fast, [slow, slower, fast]) == FAST


# ---- whether it pays


def sampled(bytes_per_second: float, *, ratio: float, zstd: float) -> bool:
    """Decide for a sample of 1 MB that becomes smaller by ``ratio``, at ``zstd`` bytes per second."""
    return pays(bytes_per_second, before=MB, after=round(MB / ratio), seconds=MB / zstd)


@pytest.mark.parametrize("link", [0, 1e3, MB, 100 * MB, FAST])
def test_random_numbers_are_never_compressed(link: float) -> None:
    """What is measured here: 16 MB of random floats, a ratio of 1.07 to 1.11 at 800 MB/s and more."""
    assert not sampled(link, ratio=1.11, zstd=1200 * MB)


@pytest.mark.parametrize(
    ("link", "ratio", "zstd", "expected"),
    [
        (12 * MB, 1.3, 400 * MB, True),  # 100 Mbit/s
        (117 * MB, 2.3, 342 * MB, False),  # 1 Gbit/s
        (117 * MB, 6.6, 571 * MB, True),
        (117 * MB, 16, 1700 * MB, True),
        (1170 * MB, 6.6, 571 * MB, False),  # 10 Gbit/s
        (4000 * MB, 13, 800 * MB, False),  # loopback
        (12 * MB, 1.3, 10 * MB, False),  # on a machine that is overloaded
    ],
)
def test_decisions(link: float, ratio: float, zstd: float, expected: bool) -> None:
    assert sampled(link, ratio=ratio, zstd=zstd) == expected


def test_always_means_where_it_becomes_smaller() -> None:
    least = round(MB * (1 - SMALLEST_SAVING))
    assert pays(0, before=MB, after=least, seconds=1e6)
    assert not pays(0, before=MB, after=least + 1, seconds=0)


@given(
    link=st.floats(1e3, 1e10),
    after=st.integers(0, 1100),
    seconds=st.floats(1e-9, 1),
)
def test_it_never_takes_longer(link: float, after: int, seconds: float) -> None:
    """Compressing and as long again at the other end is less than what is saved on the way."""
    if pays(link, before=1000, after=after, seconds=seconds):
        assert 2 * seconds + after / link < 1000 / link
