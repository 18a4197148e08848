"""When checkpoints are due."""

from __future__ import annotations

from parasnake.core.rhythm import LEAST_BYTES, REPLAY_S, REST, TIMES_LAST, Rhythm


def test_the_first_is_due_when_there_is_much_to_read() -> None:
    rhythm = Rhythm()
    assert not rhythm.due(LEAST_BYTES - 1, 0.0)
    assert rhythm.due(LEAST_BYTES, 0.0)


def test_what_is_much_depends_on_the_last_one() -> None:
    rhythm = Rhythm(LEAST_BYTES)
    assert not rhythm.due(TIMES_LAST * LEAST_BYTES - 1, 0.0)
    assert rhythm.due(TIMES_LAST * LEAST_BYTES, 0.0)
    rhythm.made(2 * LEAST_BYTES, 0.0, 0.0)
    assert not rhythm.due(TIMES_LAST * 2 * LEAST_BYTES - 1, 0.0)
    assert rhythm.due(TIMES_LAST * 2 * LEAST_BYTES, 0.0)
    rhythm.made(1, 0.0, 0.0)
    assert rhythm.due(LEAST_BYTES, 0.0)


def test_long_work_is_much_too() -> None:
    rhythm = Rhythm(worked=REPLAY_S / 2)
    assert not rhythm.due(0, 0.0)
    rhythm.worked(REPLAY_S / 2)
    assert rhythm.due(0, 0.0)
    rhythm.made(1, 0.0, 0.0)
    assert not rhythm.due(0, 0.0)


def test_it_takes_a_small_share_of_the_time() -> None:
    rhythm = Rhythm()
    rhythm.made(1, 100.0, 107.0)
    assert not rhythm.due(LEAST_BYTES, 107.0 + REST * 7.0 - 1)
    assert rhythm.due(LEAST_BYTES, 107.0 + REST * 7.0)
