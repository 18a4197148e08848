"""What waits behind other tasks on one node goes to a node that has nothing to do."""

from __future__ import annotations

import pytest
from bench import Bench, holding, key

from parasnake.core.ids import Attempt, NodeKey, PeerId, TaskId
from parasnake.core.sharing import PATIENCE_MEANS, WORTH_S
from parasnake.core.tasks import Holding, Loss, Policy, digest_of

FAST = WORTH_S / 10
LONG = 2 * PATIENCE_MEANS * WORTH_S


def one_has_all(tasks: int = 8, policy: Policy | None = None) -> Bench:
    """Node a has all tasks of a job but the first, which took half a millisecond."""
    bench = Bench(range(tasks + 1), policy, generator=True)
    bench.join("a")
    bench.result("a", 0, seconds=FAST)
    assert opened(bench, "a") == list(range(1, tasks + 1))
    return bench


def opened(bench: Bench, name: str) -> list[int]:
    return list(bench.scheduler.nodes[key(name)].open)


def dropped(bench: Bench, name: str, task: int, attempt: int = 0) -> list[str]:
    bench.scheduler.dropped(key(name), TaskId(task), Attempt(attempt))
    return bench.work()


def moves(bench: Bench, seconds: float = LONG) -> list[str]:
    """What is done when nobody has answered for so long."""
    return bench.pass_time(seconds)


def test_an_idle_node_gets_half_of_what_waits_behind_a_task_that_takes_long() -> None:
    bench = one_has_all()
    assert bench.join("b") == []
    bench.scheduler.nodes[key("b")].depth = 9
    sends = [f"send {task}.1 to b" for task in (5, 6, 7, 8)]
    withdrawals = [f"withdraw {task}.0 from a" for task in (5, 6, 7, 8)]
    done = moves(bench)
    assert done == [step for pair in zip(sends, withdrawals, strict=True) for step in pair]
    assert opened(bench, "b") == [5, 6, 7, 8]
    assert opened(bench, "a") == [1, 2, 3, 4, 5, 6, 7, 8], "nobody knows yet what it has begun"


def test_it_gets_no_more_than_it_may_have() -> None:
    bench = one_has_all()
    bench.join("b")
    assert moves(bench) == ["send 8.1 to b", "withdraw 8.0 from a"]


def test_nothing_is_moved_that_will_be_done_in_a_moment() -> None:
    bench = one_has_all(tasks=4)
    bench.join("b")
    assert moves(bench, WORTH_S / 2) == []
    assert bench.scheduler.deadline == pytest.approx(WORTH_S)


def test_many_that_are_known_to_take_some_time_are_shared_at_once() -> None:
    bench = one_has_all()
    bench.scheduler.nodes[key("a")].mean_seconds = WORTH_S
    assert bench.join("b") == ["send 8.1 to b", "withdraw 8.0 from a"]


def test_a_node_far_away_has_more_time() -> None:
    bench = Bench(range(9), generator=True)
    bench.scheduler.join(key("a"), PeerId(0), delay=1.0)
    bench.work()
    bench.result("a", 0, seconds=FAST)
    bench.join("b")
    assert moves(bench, 1.9) == []
    assert moves(bench, 0.2) == ["send 8.1 to b", "withdraw 8.0 from a"]


def test_what_it_has_not_begun_it_will_not_compute() -> None:
    bench = one_has_all()
    bench.join("b")
    moves(bench)
    assert dropped(bench, "a", 8) == []
    assert opened(bench, "a") == [1, 2, 3, 4, 5, 6, 7]
    assert bench.result("b", 8, 1) == [
        *["merge 8 of a by b", "send 7.1 to b", "withdraw 7.0 from a"],
    ]


def test_a_result_that_was_on_its_way_counts_and_the_other_node_is_told() -> None:
    bench = one_has_all()
    bench.join("b")
    moves(bench)
    assert bench.result("a", 8)[:2] == ["merge 8 of a by a", "withdraw 8.1 from b"]
    assert dropped(bench, "b", 8, 1) == ["send 7.1 to b", "withdraw 7.0 from a"]
    assert bench.scheduler.running == 7


def test_it_is_computed_once_should_both_answer() -> None:
    bench = one_has_all()
    bench.join("b")
    moves(bench)
    bench.result("b", 8, 1)
    assert bench.result("a", 8)[:1] != ["merge 8 of a by a"]
    assert not bench.wanted


@pytest.mark.parametrize("first", ["lost", "dropped"])
def test_nothing_is_lost_with_the_node_that_got_it(first: str) -> None:
    bench = one_has_all()
    bench.join("b", peer=1)
    moves(bench)
    if first == "lost":
        assert bench.lose("b", Loss.LEFT) == [], "it may have been begun"
        assert dropped(bench, "a", 8) == ["send 8.2 to a"]
    else:
        dropped(bench, "a", 8)
        assert bench.lose("b", Loss.LEFT) == ["send 8.2 to a"]
    assert (bench.tasks[8].failures, bench.tasks[8].losses) == (0, 0)


def test_nothing_is_lost_with_the_node_that_had_it() -> None:
    bench = one_has_all()
    bench.join("b", peer=1)
    moves(bench)
    bench.lose("a", Loss.DIED)
    assert [bench.tasks[task].failures for task in range(1, 9)] == [1, 0, 0, 0, 0, 0, 0, 0]
    for task in (8, 1, 2, 3, 4, 5, 6, 7):
        bench.result("b", task, 1, seconds=FAST)
    assert bench.scheduler.complete


def charges_when_its_node_is_gone(loss: Loss, *, is_dropped: bool) -> tuple[int, int]:
    bench = one_has_all(tasks=2)
    bench.join("b", peer=1)
    moves(bench)
    bench.result("a", 1)
    if is_dropped:
        dropped(bench, "a", 2)
    bench.lose("a", loss)
    return bench.tasks[2].failures, bench.tasks[2].losses


def test_what_was_taken_from_a_node_is_not_charged_with_its_end() -> None:
    assert charges_when_its_node_is_gone(Loss.DIED, is_dropped=True) == (0, 0)
    assert charges_when_its_node_is_gone(Loss.LOST, is_dropped=True) == (0, 0)
    assert charges_when_its_node_is_gone(Loss.LOST, is_dropped=False) == (0, 0)


def test_what_a_node_had_begun_when_it_was_to_be_taken_is_charged_with_its_death() -> None:
    """Or else the agent would have said that it was dropped, before it told of the death."""
    assert charges_when_its_node_is_gone(Loss.DIED, is_dropped=False) == (1, 0)


def test_a_plan_that_was_overtaken_is_dropped() -> None:
    """The node from which tasks were to be taken dies while they are being taken."""
    bench = one_has_all()
    bench.join("b")
    bench.scheduler.nodes[key("b")].depth = 9
    bench.scheduler.tick(LONG)
    assert bench.scheduler.next_step() is not None
    bench.scheduler.lose(key("a"), Loss.LEFT, "gone")
    bench.work()
    while computed := opened(bench, "b"):
        bench.result("b", computed[0], bench.tasks[computed[0]].newest, seconds=FAST)
    assert bench.scheduler.complete


def test_a_task_does_not_go_where_it_went_wrong() -> None:
    bench = one_has_all(tasks=2)
    bench.join("b")
    bench.tasks[2].tried |= {key("b")}
    assert moves(bench) == []
    assert bench.scheduler.deadline == pytest.approx(1.5 * LONG), "the longer in vain, the later"
    assert bench.join("c") == ["send 2.1 to c", "withdraw 2.0 from a"]


def test_if_the_one_with_most_can_give_nothing_another_does() -> None:
    bench = one_has_all()
    bench.join("b")
    bench.scheduler.nodes[key("b")].depth = 9
    moves(bench)
    for task in (5, 6, 7, 8):
        dropped(bench, "a", task)
    for task in (1, 2, 3, 4):
        bench.tasks[task].tried |= {key("c")}
    assert bench.join("c") == []
    assert moves(bench) == ["send 8.2 to c", "withdraw 8.1 from b"]


def test_behind_what_it_need_not_compute_even_the_first_is_free() -> None:
    bench = Bench(range(1), generator=True)
    bench.join("a")
    bench.lose("a", Loss.LOST)
    digest = digest_of(bench.tasks[0].payload)
    held = [
        Holding(TaskId(9), Attempt(0), digest, finished=False),
        Holding(TaskId(0), Attempt(0), digest, finished=False),
    ]
    bench.come_back("a", *held)
    assert bench.join("b") == ["ask b"], "there is nothing more"
    assert moves(bench) == ["send 0.1 to b", "withdraw 0.0 from a"]


def test_idle_nodes_share_with_each_other() -> None:
    bench = one_has_all()
    bench.join("b")
    bench.scheduler.nodes[key("b")].depth = 9
    moves(bench)
    assert bench.join("c") == ["send 4.1 to c", "withdraw 4.0 from a"]


def test_behind_what_it_has_begun_though_that_was_taken_from_it() -> None:
    bench = one_has_all(tasks=2)
    bench.join("b")
    bench.scheduler.nodes[key("a")].leaving.add(TaskId(1))
    assert moves(bench) == ["send 2.1 to b", "withdraw 2.0 from a"]


def test_who_has_given_away_all_that_waited_can_give_what_came_later() -> None:
    bench = Bench(range(3), generator=False)
    bench.join("a")
    bench.result("a", 0, seconds=FAST)
    bench.join("b")
    assert moves(bench)[-2:] == ["send 2.1 to b", "withdraw 2.0 from a"]
    bench.join("c")
    moves(bench)
    bench.data += [3, 4]
    assert moves(bench, 1.0)[-2:] == ["ask a", "send 4.0 to a"]
    assert bench.result("c", 3, seconds=FAST)[-2:] == ["send 4.1 to c", "withdraw 4.0 from a"]


def test_who_is_set_aside_gets_nothing_and_wakes_nobody_up() -> None:
    bench = one_has_all()
    bench.join("b", peer=1)
    bench.scheduler._aside[PeerId(1)] = 100.0
    assert moves(bench) == []
    deadline = bench.scheduler.deadline
    assert deadline is None or deadline > LONG
    del bench.scheduler._aside[PeerId(1)]
    assert moves(bench) == ["send 8.1 to b", "withdraw 8.0 from a"]


def test_it_is_looked_at_the_very_moment() -> None:
    """Whatever is rounded: who waits until the deadline finds something to do then."""
    bench = one_has_all()
    bench.join("b")
    deadline = bench.scheduler.deadline
    assert deadline is not None
    assert bench.pass_time(deadline) == ["send 8.1 to b", "withdraw 8.0 from a"]


def test_what_has_been_begun_meanwhile_is_not_moved() -> None:
    """Between two steps of one move answers may come; what is next then stays where it is."""
    bench = one_has_all()
    bench.join("b")
    bench.scheduler.nodes[key("b")].depth = 9
    bench.scheduler.tick(LONG)
    step = bench.scheduler.next_step()
    assert step is not None
    assert bench.perform(step) == ["send 5.1 to b"]
    for task in range(1, 6):
        bench.scheduler.result(key("a"), TaskId(task), Attempt(0), FAST, ())
    done = bench.work()
    assert "send 7.1 to b" in done
    assert "send 6.1 to b" not in done
    assert "withdraw 6.0 from a" not in done


def test_nothing_is_taken_from_a_node_when_nobody_else_has_it_any_more() -> None:
    bench = one_has_all()
    bench.join("b", peer=1)
    bench.scheduler.tick(LONG)
    step = bench.scheduler.next_step()
    assert step is not None
    assert bench.perform(step) == ["send 8.1 to b"]
    assert bench.lose("b", Loss.LEFT) == []
    assert bench.join("c") == ["send 8.2 to c", "withdraw 8.0 from a"]


def test_one_that_can_give_nothing_for_long_does_not_hide_the_others() -> None:
    bench = Bench(range(3))
    bench.join("a")
    bench.result("a", 0, seconds=0.03)
    assert opened(bench, "a") == [1, 2]
    bench.tasks[2].tried |= {key("b"), key("c")}
    bench.join("bc")
    moves(bench, 100.0)
    assert opened(bench, "b") == opened(bench, "c") == []
    bench.data += range(3, 12)
    moves(bench, 1.0)
    assert (opened(bench, "b"), opened(bench, "c")) == ([3], [4])
    bench.result("c", 4, seconds=FAST)
    assert opened(bench, "c") == [5, 6, 7, 8, 9, 10, 11]
    bench.result("b", 3, seconds=FAST)
    assert opened(bench, "b") == []
    assert bench.scheduler.deadline == pytest.approx(bench.now + WORTH_S)
    assert moves(bench)[:2] == ["send 9.1 to b", "withdraw 9.0 from c"]


def test_several_idle_nodes_get_something_of_the_same_one() -> None:
    bench = one_has_all()
    bench.join("b")
    bench.join("c", peer=1)
    for name in "bc":
        bench.scheduler.nodes[key(name)].depth = 9
    moves(bench)
    assert (opened(bench, "b"), opened(bench, "c")) == ([5, 6, 7, 8], [3, 4])


def test_a_late_word_of_what_was_not_begun_changes_nothing() -> None:
    bench = one_has_all()
    bench.join("b")
    moves(bench)
    assert bench.result("b", 8, 1)[:2] == ["merge 8 of a by b", "withdraw 8.0 from a"]
    before = bench.scheduler.running
    assert dropped(bench, "a", 8) == []
    assert dropped(bench, "a", 8) == []
    assert bench.scheduler.running == before


@pytest.mark.parametrize("first", ["failed", "dropped"])
def test_what_goes_wrong_there_waits_for_the_word_of_the_node_that_had_it(first: str) -> None:
    """That one may have begun it, and its result would count."""
    bench = one_has_all()
    bench.join("b")
    moves(bench)
    if first == "failed":
        assert bench.failure("b", 8, 1)[0] == "retry 8 by b: oops"
        assert bench.tasks[8].running == key("a")
        assert dropped(bench, "a", 8)[:1] == ["send 8.2 to a"]
    else:
        dropped(bench, "a", 8)
        assert bench.failure("b", 8, 1)[:2] == ["retry 8 by b: oops", "send 8.2 to a"]
    assert bench.tasks[8].failures == 1


def test_a_node_that_is_ended_for_what_it_has_just_begun_costs_no_task_anything() -> None:
    bench = one_has_all()
    bench.join("b", peer=1)
    bench.scheduler.nodes[key("b")].depth = 9
    moves(bench)
    for task in (1, 2, 3, 4):
        bench.result("a", task, seconds=FAST)
    assert opened(bench, "a") == [5, 6, 7, 8]
    bench.lose("a", Loss.LEFT)
    for task in (5, 6, 7, 8):
        bench.result("b", task, 1, seconds=FAST)
        assert (bench.tasks[task].failures, bench.tasks[task].losses) == (0, 0)
    assert bench.scheduler.complete


def test_what_was_moved_is_on_no_third_node() -> None:
    """However long both take, and though tasks that take long get a second node otherwise."""
    bench = one_has_all(tasks=2, policy=Policy(speculate=True))
    bench.join("b")
    assert moves(bench) == ["send 2.1 to b", "withdraw 2.0 from a"]
    bench.join("c", peer=1)
    assert moves(bench, 100.0) == ["send 1.1 to c"]
    assert moves(bench, 100.0) == []


def test_it_gets_a_second_node_when_it_takes_long_where_it_is() -> None:
    bench = one_has_all(tasks=2, policy=Policy(speculate=True))
    bench.join("b")
    moves(bench)
    dropped(bench, "a", 2)
    bench.result("a", 1, seconds=FAST)
    assert moves(bench, 100.0) == ["send 2.2 to a"]


def test_what_must_be_merged_in_order_is_shared_too() -> None:
    bench = one_has_all(policy=Policy(ordered=True))
    bench.join("b")
    bench.scheduler.nodes[key("b")].depth = 9
    moves(bench)
    for task in (5, 6, 7, 8):
        dropped(bench, "a", task)
        assert bench.result("b", task, 1, seconds=FAST)[:1] != [f"merge {task} of a by b"]
    merged = []
    for task in (1, 2, 3, 4):
        merged += bench.result("a", task, seconds=FAST)
    assert [step for step in merged if step.startswith("merge")] == [
        *(f"merge {task} of a by a" for task in (1, 2, 3, 4)),
        *(f"merge {task} of a by b" for task in (5, 6, 7, 8)),
    ]


def test_who_returns_with_much_shares_it_too() -> None:
    bench = one_has_all(tasks=4)
    bench.lose("a")
    bench.come_back("a", *(holding(task, task) for task in (1, 2, 3, 4)))
    assert opened(bench, "a") == [1, 2, 3, 4]
    bench.join("b")
    assert moves(bench) == ["send 4.1 to b", "withdraw 4.0 from a"]


def test_nothing_is_moved_when_nobody_is_idle() -> None:
    bench = one_has_all()
    assert moves(bench, 100.0) == []
    assert bench.scheduler.deadline is None


def test_with_strict_alternation_there_is_nothing_to_share() -> None:
    """Not even if a node has come back with two tasks, one of them finished."""
    bench = Bench("xyz", Policy(by_node=True))
    bench.join("ab", peer=1)
    bench.lose("ab")
    bench.come_back("a", holding(0, "x", finished=True), holding(1, "y"))
    assert opened(bench, "a") == [0, 1]
    bench.data.clear()
    bench.join("c")
    assert moves(bench, 100.0) == ["ask c"]
    assert opened(bench, "c") == []


def test_new_data_goes_before() -> None:
    bench = Bench([*range(9), None], generator=False)
    bench.join("a")
    bench.result("a", 0, seconds=FAST)
    bench.data.append("more")
    assert bench.join("b")[:2] == ["ask b", "send 9.0 to b"]


def test_an_answer_of_a_node_that_is_gone_is_nobodys() -> None:
    bench = one_has_all()
    bench.scheduler.dropped(NodeKey(b"z" * 16), TaskId(1), Attempt(0))
    assert dropped(bench, "a", 99) == []


def test_it_ends_with_the_job() -> None:
    bench = one_has_all()
    bench.join("b")
    bench.scheduler.tick(LONG)
    bench.scheduler.stop()
    assert bench.work() == []
    assert bench.scheduler.deadline is None
