"""Nodes that vanish and return with what they hold, and servers that do: rule by rule."""

from __future__ import annotations

import pytest
from bench import Bench, holding, key

from parasnake.core.ids import TaskId
from parasnake.core.messages import Parts
from parasnake.core.scheduler import RETURN_GRACE_S
from parasnake.core.tasks import Loss, OpenTask, Policy

BY_NODE = Policy(by_node=True)
USER_REASSIGNS = Policy(by_node=True, user_reassigns=True)


def lost_at_work(data: object = "xyz", policy: Policy | None = None) -> Bench:
    """Node ``a`` was lost with task 0, and nobody else is there."""
    bench = Bench(data, policy)  # type: ignore[arg-type]  # a string is letters
    bench.join("a")
    assert bench.lose("a") == ["retry 0 by a: gone", "timeout a"]
    return bench


# ---- the server lives


@pytest.mark.parametrize("finished", [False, True])
def test_a_node_returns_with_its_task_and_its_result_is_merged(finished: bool) -> None:
    bench = lost_at_work()
    assert bench.come_back("a", holding(0, "x", finished=finished)) == []
    assert bench.still_wanted == [True]
    assert (bench.scheduler.running, bench.scheduler.waiting) == (1, 0)
    assert bench.result("a", 0) == ["merge 0 of a by a", "ask a", "send 1.0 to a"]


def test_a_node_that_returns_without_its_task_gets_it_again() -> None:
    bench = lost_at_work()
    assert bench.come_back("a") == ["send 0.1 to a"]


def test_several_tasks_are_adopted_in_their_order() -> None:
    bench = Bench("wxyz")
    bench.join("a")
    bench.result("a", 0, seconds=0.004)
    assert list(bench.scheduler.nodes[key("a")].open) == [1, 2, 3]
    bench.lose("a")
    bench.come_back("a", *(holding(n, "wxyz"[n]) for n in (1, 2, 3)))
    assert list(bench.scheduler.nodes[key("a")].open) == [1, 2, 3]
    bench.lose("a")
    assert [bench.tasks[n].losses for n in (1, 2, 3)] == [1, 0, 0]


def test_a_loss_is_not_charged_for_a_node_that_returns_with_its_task() -> None:
    bench = lost_at_work(policy=Policy(max_losses=2))
    for _ in range(5):
        assert bench.tasks[0].losses == 1
        bench.come_back("a", holding(0, "x"))
        assert bench.tasks[0].losses == 0
        bench.lose("a")
    bench.come_back("a")
    assert bench.tasks[0].losses == 1
    assert bench.lose("a") == ["fail 0 by a: gone", "timeout a"]
    assert bench.come_back("a", holding(0, "x", finished=True)) == ["ask a", "send 1.0 to a"]
    assert bench.still_wanted == [False]


@pytest.mark.parametrize(("first", "second"), ["ab", "ba"])
def test_given_to_another_meanwhile_the_first_result_wins(first: str, second: str) -> None:
    bench = Bench("x")
    bench.join("a")
    bench.lose("a")
    assert bench.join("b") == ["send 0.1 to b"]
    bench.come_back("a", holding(0, "x"))
    assert bench.still_wanted == [True]
    assert bench.scheduler.running == 1
    attempts = {"a": 0, "b": 1}
    assert bench.result(first, 0, attempts[first])[0] == f"merge 0 of a by {first}"
    assert bench.result(second, 0, attempts[second]) == []
    assert not bench.wanted
    assert not bench.scheduler.busy


@pytest.mark.parametrize(("first", "second"), ["ab", "ba"])
def test_one_of_two_that_have_it_is_lost(first: str, second: str) -> None:
    bench = Bench("x")
    bench.join("a")
    bench.lose("a")
    bench.join("b")
    bench.come_back("a", holding(0, "x"))
    assert bench.lose(first) == [f"timeout {first}"]
    assert (bench.scheduler.running, bench.scheduler.waiting) == (1, 0)
    assert f"retry 0 by {second}: gone" in bench.lose(second)
    assert (bench.scheduler.running, bench.scheduler.waiting) == (0, 1)


def test_one_of_two_that_have_it_fails() -> None:
    bench = Bench("x", Policy(max_attempts=2))
    bench.join("a")
    bench.lose("a")
    bench.join("b")
    bench.come_back("a", holding(0, "x"))
    assert bench.failure("b", 0, 1) == ["retry 0 by b: oops", "ask b"]
    assert (bench.scheduler.running, bench.scheduler.waiting) == (1, 0)
    assert bench.failure("a", 0, 0)[0] == "fail 0 by a: oops"


def test_a_result_that_was_merged_meanwhile_is_not_wanted() -> None:
    bench = lost_at_work("x")
    bench.join("b")
    bench.result("b", 0, 1)
    bench.come_back("a", holding(0, "x", finished=True))
    assert bench.still_wanted == [False]
    assert not bench.scheduler.busy


def test_a_node_that_computes_what_is_not_wanted_gets_nothing_before_it_is_through() -> None:
    bench = lost_at_work("xy")
    bench.join("b")
    bench.result("b", 0, 1)
    assert bench.come_back("a", holding(0, "x")) == []
    assert bench.still_wanted == [False]
    bench.data.append("z")
    assert bench.scheduler.busy
    assert bench.result("a", 0) == ["ask a", "send 2.0 to a"]
    assert not bench.wanted


def test_its_death_is_charged_to_no_task() -> None:
    """What it was computing then was most likely what nobody wanted."""
    bench = Bench("xy")
    bench.join("ab")
    bench.lose("a")
    bench.failure("b", 1)
    bench.result("b", 0, 1)
    bench.come_back("a", holding(0, "x"), holding(1, "y"))
    bench.lose("a", Loss.DIED)
    assert (bench.tasks[1].failures, bench.tasks[1].losses) == (1, 0)


def test_other_data_under_the_same_number_is_not_taken() -> None:
    bench = lost_at_work()
    bench.come_back("a", holding(0, "other data", attempt=3))
    assert bench.still_wanted == [False]
    assert bench.result("a", 0, 3) == ["send 0.4 to a"]
    assert not bench.wanted


def test_a_task_that_is_said_to_be_held_twice_counts_once() -> None:
    bench = lost_at_work("x")
    bench.come_back("a", holding(0, "x"), holding(0, "x", attempt=2, finished=True))
    assert bench.still_wanted == [True, False]


# ---- for each node, hand-out and merge alternate


def test_a_node_that_returns_gets_no_new_data_while_it_owes_a_result() -> None:
    bench = lost_at_work(policy=BY_NODE)
    assert bench.join("b") == ["send 0.1 to b"]
    assert bench.come_back("a") == []
    assert bench.result("b", 0, 1) == [
        *["merge 0 of a by b", "ask a", "send 1.0 to a"],
        *["ask b", "send 2.0 to b"],
    ]


def test_nor_while_the_hook_for_it_has_not_been_called() -> None:
    bench = lost_at_work(policy=BY_NODE)
    bench.join("b")
    assert bench.scheduler.result(key("b"), TaskId(0), 1, 1.0, ())  # type: ignore[arg-type]
    bench.scheduler.join(key("a"), 0)  # type: ignore[arg-type]
    assert bench.work()[0] == "merge 0 of a by b"


def test_in_the_manner_of_0_1_a_late_result_is_not_merged() -> None:
    bench = Bench("xy", USER_REASSIGNS)
    bench.join("a")
    assert bench.lose("a") == ["timeout a"]
    bench.data.appendleft("x")
    bench.come_back("a", holding(0, "x", finished=True))
    assert bench.still_wanted == [False]
    assert bench.result("a", 1) == ["merge 1 of a by a", "ask a", "send 2.0 to a"]


# ---- the server returns


def restored(policy: Policy | None = None) -> Bench:
    """A server that has come back knows that ``a`` had task 0 and ``b`` task 1."""
    bench = Bench("z", policy)
    tasks = []
    for number, name in enumerate("ab"):
        payload: Parts = (repr("xy"[number]).encode(),)
        tasks.append(OpenTask(TaskId(number), key(name), payload, len(payload[0]), None))
    bench.restore(*tasks, handed_out=2)
    assert (bench.scheduler.running, bench.scheduler.waiting) == (0, 2)
    return bench


def test_a_task_waits_for_its_node_to_return() -> None:
    bench = restored(BY_NODE)
    assert bench.join("c") == ["ask c", "send 2.0 to c"]
    assert bench.come_back("a", holding(0, "x", attempt=5, finished=True)) == []
    assert bench.still_wanted == [True]
    assert bench.result("a", 0, 5) == ["merge 0 of a by a", "ask a"]


def test_a_node_that_returns_without_it_gives_it_free() -> None:
    bench = restored()
    bench.data.clear()
    assert bench.come_back("a") == ["send 0.0 to a"]
    assert bench.join("c") == ["ask c"]
    assert bench.come_back("b") == ["send 1.0 to c", "ask b"]
    assert bench.scheduler.waiting == 0


def test_it_does_not_wait_for_ever() -> None:
    bench = restored()
    assert bench.scheduler.deadline == RETURN_GRACE_S
    bench.data.clear()
    bench.join("c")
    assert bench.pass_time(RETURN_GRACE_S - 1) == ["ask c"]
    assert bench.pass_time(1) == ["send 0.0 to c"]
    assert bench.scheduler.deadline is None
    bench.come_back("a", holding(0, "x"))
    assert bench.still_wanted == [True]
    assert bench.scheduler.stop() == 2


def test_a_hand_out_that_the_restart_has_undone_is_not_mixed_up_with_the_new_one() -> None:
    bench = restored()
    bench.come_back("a", holding(2, "z"), holding(2, "z", attempt=1))
    assert bench.still_wanted == [False, False]
    assert bench.result("a", 2) == []
    assert bench.result("a", 2, 1) == ["send 0.0 to a"]
    assert bench.result("a", 0)[-1] == "send 2.2 to a"
