"""A scheduler that goes on with a job which another one has begun."""

from __future__ import annotations

from bench import Bench, key

from parasnake.core.ids import Attempt, PeerId, TaskId
from parasnake.core.scheduler import RETURN_GRACE_S
from parasnake.core.tasks import Fail, Holding, Loss, OpenTask, Policy

USER_REASSIGNS = Policy(by_node=True, user_reassigns=True)


def task(number: int, owner: str, payload: bytes = b"data") -> OpenTask:
    parts = (payload,) if payload else ()
    return OpenTask(TaskId(number), key(owner), parts, len(payload), None)


def test_open_tasks_are_sent_first_with_their_ids_and_owners() -> None:
    bench = Bench("z", generator=True)
    bench.restore(task(3, "x"), task(5, "y"), handed_out=7)
    bench.pass_time(RETURN_GRACE_S)  # for x and y to come back
    assert (bench.scheduler.waiting, bench.scheduler.handed_out) == (2, 7)
    assert bench.join("a") == ["send 3.0 to a"]
    assert bench.result("a", 3) == ["merge 3 of x by a", "send 5.0 to a"]
    assert bench.result("a", 5) == ["merge 5 of y by a", "ask a", "send 7.0 to a"]


def test_a_job_of_which_all_is_merged_is_complete() -> None:
    bench = Bench("", generator=True)
    bench.restore(handed_out=7, exhausted=True)
    assert bench.scheduler.complete
    assert bench.scheduler.exhausted
    assert bench.scheduler.newest == 6


def test_what_was_charged_still_counts() -> None:
    bench = Bench("z")
    again = task(0, "x")
    again.failures = 2
    bench.restore(again, handed_out=1, exhausted=True)
    bench.pass_time(RETURN_GRACE_S)
    assert bench.join("a") == ["send 0.0 to a"]
    assert bench.lose("a", Loss.DIED)[0].startswith("fail 0")


def test_a_task_that_could_not_be_sent_fails_again() -> None:
    bench = Bench("z")
    bench.restore(task(0, "x", b""), handed_out=1, exhausted=True)
    (step,) = bench.scheduler.pending
    assert isinstance(step, Fail)
    assert step.task.id == 0
    assert not bench.scheduler.complete


def test_what_was_left_to_the_user_still_is() -> None:
    bench = Bench([b"data"], USER_REASSIGNS)
    left = task(0, "x", b"data")
    bench.restore(forgotten=[left], handed_out=1)
    assert bench.scheduler.forgotten == 1
    assert list(bench.scheduler.left_to_user(key("x"))) == [left]
    assert list(bench.scheduler.left_to_user(key("y"))) == []


def test_in_order_the_merges_go_on_where_they_were() -> None:
    bench = Bench("z", Policy(ordered=True), generator=True)
    bench.restore(task(4, "x"), task(3, "y"), handed_out=5)
    bench.pass_time(RETURN_GRACE_S)
    assert bench.join("ab") == ["send 3.0 to a", "send 4.0 to b"]
    assert bench.result("b", 4) == ["ask b", "send 5.0 to b"]
    assert bench.result("a", 3) == [
        "merge 3 of y by a",
        "merge 4 of x by b",
        "ask a",
    ]


def test_what_the_library_had_taken_back_is_its_own_still() -> None:
    bench = Bench("z", USER_REASSIGNS)
    back = task(0, "x", b"data")
    back.reclaimed = True
    bench.restore(back, handed_out=1)
    bench.pass_time(RETURN_GRACE_S)
    assert "send 0.0 to x" in bench.join("x")
    bench.lose("x", Loss.LOST)
    assert bench.scheduler.forgotten == 0
    assert "send 0.1 to y" in bench.join("y")


def test_of_what_the_user_forgot_no_attempt_has_a_number_twice() -> None:
    bench = Bench([b"data"], USER_REASSIGNS)
    left = task(0, "x", b"data")
    bench.restore(forgotten=[left], handed_out=1)
    held = Holding(TaskId(0), Attempt(0), bytes(16), True)
    assert bench.scheduler.join(key("x"), PeerId(1), [held]) == [False]
    assert left.newest == 0
