"""Who is set aside, for how long, and what that costs its tasks."""

from __future__ import annotations

from parasnake.core.ids import PeerId, TaskId
from parasnake.core.suspects import FIRST_REST_S, LAST_REST_S, MAX_FAILED_TASKS, Suspects

BAD, OTHER = PeerId(0), PeerId(1)


def fail(suspects: Suspects[str], *tasks: int, results: int = 1, now: float = 0.0) -> list[str]:
    """Let tasks fail after one when there was no result yet; return what is not charged."""
    charged: list[str] = []
    for task in tasks:
        charged += suspects.failed(BAD, TaskId(task), f"task {task}", results, now)
    return charged


def begun() -> Suspects[str]:
    suspects: Suspects[str] = Suspects()
    assert not suspects.exist
    assert not fail(suspects, 0, results=0)
    assert suspects.exist
    return suspects


def test_whoever_fails_several_tasks_while_others_succeed_is_set_aside() -> None:
    suspects = begun()
    assert not fail(suspects, *range(1, MAX_FAILED_TASKS - 1))
    assert BAD not in suspects.aside
    assert fail(suspects, 9, now=7.0) == ["task 0", "task 1", "task 2", "task 3", "task 9"]
    assert BAD in suspects.aside
    assert OTHER not in suspects.aside
    assert suspects.deadline == suspects.aside[BAD] == 7 + FIRST_REST_S
    suspects.tick(16.9)
    assert BAD in suspects.aside
    suspects.tick(17.0)
    assert BAD not in suspects.aside
    assert suspects.deadline is None


def test_one_task_that_fails_again_and_again_says_nothing() -> None:
    suspects = begun()
    assert not fail(suspects, *[0] * 20)
    assert fail(suspects, 1, 2, 3, 4).count("task 0") == 21


def test_nor_do_failures_while_nobody_succeeds() -> None:
    suspects = begun()
    assert not fail(suspects, *range(1, 100), results=0)
    assert BAD not in suspects.aside


def test_a_result_clears_an_agent() -> None:
    suspects = begun()
    fail(suspects, 1, 2, 3)
    suspects.succeeded(OTHER)
    suspects.succeeded(BAD)
    assert not fail(suspects, 4)
    assert not suspects.failed(OTHER, TaskId(5), "task 5", 9, 0.0)


def test_but_it_stays_aside_until_its_time_is_over() -> None:
    suspects = begun()
    fail(suspects, 1, 2, 3, 4)
    suspects.succeeded(BAD)
    assert BAD in suspects.aside
    assert suspects.exist
    suspects.tick(FIRST_REST_S)
    assert not suspects.exist


def test_the_time_doubles_up_to_a_limit() -> None:
    suspects: Suspects[str] = Suspects()
    rests = []
    for turn in range(8):
        fail(suspects, 0, results=turn)
        assert fail(suspects, 1, 2, 3, 4, results=turn + 1)
        rests.append(suspects.aside[BAD])
        suspects.tick(1e9)
    assert rests == [10, 20, 40, 80, 160, 320, 600, 600]
    assert rests[-1] == LAST_REST_S


def test_pardon_and_those_who_are_gone() -> None:
    suspects = begun()
    fail(suspects, 1, 2, 3, 4)
    suspects.pardon()
    assert BAD not in suspects.aside
    suspects.gone(BAD)
    assert not suspects.exist
