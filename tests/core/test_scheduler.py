"""Who gets which task, and what becomes of it: rule by rule, as whole lists of steps.

tests/core/bench.py says what the words of a step mean. What holds for any order of events is in
tests/core/test_promises.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from bench import UNSENDABLE, Bench, holding, key

from parasnake.core.ids import Attempt, PeerId, TaskId
from parasnake.core.order import MAX_HELD_BYTES
from parasnake.core.scheduler import FIRST_PAUSE_S, LAST_PAUSE_S
from parasnake.core.stragglers import LINK_BYTES_PER_S, PATIENCE_S
from parasnake.core.tasks import MAX_BYTES_AHEAD, MAX_DEPTH, Fail, Loss, Merge, Policy

BY_NODE = Policy(by_node=True)
USER_REASSIGNS = Policy(by_node=True, user_reassigns=True)


# ---- hand-out and merge


def test_a_node_gets_a_task_and_the_next_one_when_its_result_has_come() -> None:
    bench = Bench("xyz")
    assert bench.join("a") == ["ask a", "send 0.0 to a"]
    assert bench.result("a", 0) == ["merge 0 of a by a", "ask a", "send 1.0 to a"]
    assert bench.result("a", 1) == ["merge 1 of a by a", "ask a", "send 2.0 to a"]
    assert bench.scheduler.handed_out == 3


def test_nodes_are_served_in_the_order_in_which_they_became_idle() -> None:
    bench = Bench("vwxyz")
    assert bench.join("ab") == ["ask a", "send 0.0 to a", "ask b", "send 1.0 to b"]
    assert bench.result("b", 1) == ["merge 1 of b by b", "ask b", "send 2.0 to b"]
    scheduler = bench.scheduler
    scheduler.result(key("b"), TaskId(2), Attempt(0), 1.0, ())
    scheduler.result(key("a"), TaskId(0), Attempt(0), 1.0, ())
    assert bench.work() == [
        "merge 2 of b by b",
        "merge 0 of a by a",
        "ask b",
        "send 3.0 to b",
        "ask a",
        "send 4.0 to a",
    ]


def test_a_result_is_merged_before_new_data_is_asked_for() -> None:
    bench = Bench("xy")
    bench.join("a")
    bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 2.5, (b"payload",))
    step = bench.scheduler.next_step()
    assert isinstance(step, Merge)
    assert (step.task.id, step.node, step.seconds, step.payload) == (
        0,
        key("a"),
        2.5,
        (b"payload",),
    )


def test_a_job_is_complete_when_its_generator_has_ended_and_all_is_merged() -> None:
    bench = Bench("xy", generator=True)
    assert bench.join("abc") == [
        *["ask a", "send 0.0 to a"],
        *["ask b", "send 1.0 to b"],
        "ask c",
    ]
    assert not bench.scheduler.complete
    bench.result("b", 1)
    assert not bench.scheduler.complete

    bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 1.0, ())
    merge = bench.scheduler.next_step()
    assert isinstance(merge, Merge)
    assert not bench.scheduler.complete, "the result hook has not been called yet"
    bench.scheduler.settled(merge.task)
    assert bench.scheduler.complete
    assert bench.work() == []


def test_nobody_is_asked_for_when_nobody_is_there() -> None:
    bench = Bench("xy")
    assert bench.work() == []
    assert bench.scheduler.deadline is None


def test_what_is_running_and_waiting_can_be_told() -> None:
    bench = Bench("xyz")
    bench.join("ab")
    scheduler = bench.scheduler
    assert (scheduler.running, scheduler.waiting, scheduler.busy) == (2, 0, True)
    bench.lose("ab", Loss.LEFT)
    assert (scheduler.running, scheduler.waiting, scheduler.busy) == (0, 2, False)


def test_data_is_kept_for_hooks_that_ask_for_it_until_they_have_been_called() -> None:
    for keep_data in (True, False):
        bench = Bench(["the data"], Policy(keep_data=keep_data))
        bench.join("a")
        bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 1.0, ())
        step = bench.scheduler.next_step()
        assert isinstance(step, Merge)
        assert step.task.data == ("the data" if keep_data else None)
        bench.scheduler.settled(step.task)
        assert step.task.data is None


def test_merges_can_be_asked_for_as_long_as_nothing_else_comes_before_them() -> None:
    bench = Bench(["one", "two", "three"], Policy(failure_ends_job=True))
    bench.join("abc")
    scheduler = bench.scheduler
    assert scheduler.next_merge() is None
    for name, task in (("a", 0), ("b", 1)):
        scheduler.result(key(name), TaskId(task), Attempt(0), 1.0, ())
    scheduler.lose(key("c"), Loss.LOST, "gone")
    first, second = scheduler.next_merge(), scheduler.next_merge()
    assert [step and step.task.id for step in (first, second)] == [0, 1]
    assert scheduler.next_merge() is None, "something else comes first"
    assert scheduler.next_step() is not None


def test_the_bytes_of_results_that_wait_to_be_merged_are_known() -> None:
    bench = Bench("xy")
    bench.join("ab")
    scheduler = bench.scheduler
    scheduler.result(key("a"), TaskId(0), Attempt(0), 1.0, (bytes(10), bytes(20)))
    scheduler.failure(key("b"), TaskId(1), Attempt(0), "oops", "", final=True)
    assert scheduler.unmerged_bytes == 30
    bench.work()
    assert scheduler.unmerged_bytes == 0


# ---- in order

ORDERED = Policy(ordered=True)


def test_in_order_a_result_waits_for_its_predecessors() -> None:
    bench = Bench("wxyz", ORDERED)
    bench.join("abc")
    assert bench.result("c", 2) == ["ask c", "send 3.0 to c"]
    assert bench.result("b", 1) == ["ask b"]
    assert not bench.scheduler.complete
    assert bench.result("a", 0) == [
        "merge 0 of a by a",
        "merge 1 of b by b",
        "merge 2 of c by c",
        "ask b",
    ]
    assert bench.result("c", 3) == ["merge 3 of c by c", "ask b"]


def test_in_order_hand_outs_pause_while_the_window_is_full() -> None:
    bench = Bench("uvwxyz", Policy(ordered=True, max_held=2))
    bench.join("ab")
    assert bench.result("b", 1) == ["ask b", "send 2.0 to b"]
    assert bench.result("b", 2) == []
    assert bench.scheduler.busy
    assert bench.result("a", 0) == [
        *["merge 0 of a by a", "merge 1 of b by b", "merge 2 of b by b"],
        *["ask b", "send 3.0 to b", "ask a", "send 4.0 to a"],
    ]


def test_in_order_large_results_fill_the_window_too_but_never_stop_the_reading() -> None:
    bench = Bench("xyz", ORDERED)
    bench.join("ab")
    assert bench.result("b", 1, size=MAX_HELD_BYTES) == []
    assert bench.scheduler.unmerged_bytes == 0
    bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 1.0, (b"small",))
    assert bench.scheduler.unmerged_bytes == MAX_HELD_BYTES + 5
    bench.work()
    assert bench.scheduler.unmerged_bytes == 0
    assert bench.scheduler.running == 1


def test_in_order_a_failed_task_is_told_in_its_place() -> None:
    bench = Bench("xyz", ORDERED)
    bench.join("abc")
    bench.result("c", 2)
    assert bench.failure("b", 1, final=True) == []
    assert bench.result("a", 0) == [
        *["merge 0 of a by a", "fail 1 by b: oops", "merge 2 of c by c"],
        "ask c",
    ]


def test_in_order_a_failed_task_that_ends_the_job_is_told_at_once() -> None:
    bench = Bench("xy", Policy(ordered=True, failure_ends_job=True))
    bench.join("ab")
    assert bench.failure("b", 1, final=True) == ["fail 1 by b: oops", "ask b"]


def test_in_order_data_that_cannot_be_sent_has_its_place_too() -> None:
    bench = Bench(["x", UNSENDABLE], ORDERED)
    assert bench.join("ab") == ["ask a", "send 0.0 to a", "ask b", "ask b"]
    assert bench.result("a", 0) == ["merge 0 of a by a", "fail 1 by b: no pickle", "ask b"]


def test_in_order_what_others_wait_for_is_sent_again_first() -> None:
    bench = Bench("wxyz", Policy(ordered=True, max_held=1))
    bench.join("abc")
    assert bench.result("c", 2) == []
    scheduler = bench.scheduler
    scheduler.lose(key("c"), Loss.LEFT, "gone")
    scheduler.failure(key("b"), TaskId(1), Attempt(0), "oops", "", final=False)
    scheduler.lose(key("a"), Loss.LOST, "gone")
    assert bench.join("d", peer=1) == [
        *["retry 1 by b: oops", "retry 0 by a: gone", "timeout a"],
        *["send 0.1 to b", "send 1.1 to d"],
    ]
    assert bench.result("d", 1, 1) == []
    assert bench.result("b", 0, 1)[:3] == [
        *["merge 0 of a by b", "merge 1 of b by d", "merge 2 of c by c"],
    ]


def test_in_order_results_that_wait_are_dropped_when_the_job_stops() -> None:
    bench = Bench("xyz", ORDERED)
    bench.join("abc")
    bench.result("b", 1)
    bench.result("c", 2)
    assert bench.scheduler.stop() == 3


# ---- stragglers

SPECULATE = Policy(speculate=True)


def with_straggler(policy: Policy = SPECULATE, *, data: str = "xyz", peer: int = 0) -> Bench:
    """A job without new data: node a has task 0 since second 0, b is idle; a task takes 1 s."""
    bench = Bench(data, policy, generator=True)
    bench.join("a")
    bench.join("b", peer)
    for task in range(1, len(data)):
        bench.result("b", task)
    assert bench.scheduler.running == 1
    return bench


def test_a_task_that_takes_long_is_given_to_an_idle_node_as_well() -> None:
    bench = with_straggler()
    assert bench.scheduler.deadline == 2.0
    assert bench.pass_time(1.9) == []
    assert bench.pass_time(0.1) == ["send 0.1 to b"]
    assert bench.result("b", 0, 1) == ["merge 0 of a by b"]
    assert bench.scheduler.complete
    assert bench.result("a", 0) == []
    assert not bench.wanted


def test_the_first_result_is_merged_whoever_has_it() -> None:
    bench = with_straggler()
    bench.pass_time(2)
    assert bench.result("a", 0) == ["merge 0 of a by a"]
    assert bench.failure("b", 0, 1) == []
    assert not bench.wanted
    assert bench.scheduler.busy is False


def test_a_task_is_on_two_nodes_at_the_most() -> None:
    bench = with_straggler()
    bench.pass_time(2)
    bench.join("c")
    for _ in range(5):
        assert bench.pass_time(10) == []
    assert bench.scheduler.running == 1


def test_a_node_of_another_agent_goes_before_one_of_the_same() -> None:
    bench = with_straggler()
    bench.join("c", peer=1)
    assert bench.pass_time(2) == ["send 0.1 to c"]


def test_a_task_is_not_long_before_the_mean_of_the_job_is_known() -> None:
    bench = Bench("x", SPECULATE, generator=True)
    bench.join("ab")
    assert bench.scheduler.deadline is None
    assert bench.pass_time(1000) == []


def test_short_tasks_are_not_long_within_a_second() -> None:
    bench = Bench("xy", SPECULATE, generator=True)
    bench.join("ab")
    bench.result("b", 1, seconds=0.001)
    assert bench.scheduler.deadline == PATIENCE_S


def test_the_time_counts_from_the_beginning_of_a_task() -> None:
    bench = Bench("wxyz", SPECULATE)
    bench.join("ab")
    bench.result("b", 1)
    bench.pass_time(1.5)
    assert bench.result("a", 0) == ["merge 0 of a by a", "ask a", "send 3.0 to a"]
    bench.result("b", 2)
    assert bench.pass_time(1) == ["ask b"]
    assert bench.scheduler._stragglers.look_at == 3.5
    bench.data.append(None)
    assert "send 3.1 to b" in bench.pass_time(1)


def test_large_data_may_be_on_its_way_for_some_time() -> None:
    bench = Bench(policy=SPECULATE, generator=True)
    bench.data.append("x" * (3 * LINK_BYTES_PER_S))
    bench.join("a")
    bench.data.append(b"x")
    bench.join("b", 1)
    bench.result("b", 1)
    assert bench.pass_time(2) == []
    assert bench.scheduler.deadline == 5.0
    assert bench.pass_time(5) == ["send 0.1 to b"]


def test_should_no_node_be_left_for_a_second_try_there_is_another_later() -> None:
    bench = with_straggler()
    bench.scheduler.tick(2.0)
    bench.scheduler.lose(key("b"), Loss.LEFT, "gone")
    assert bench.work() == []
    assert bench.join("c") == []
    assert bench.scheduler.deadline == 4.0
    assert bench.pass_time(4) == ["send 0.1 to c"]


def test_what_has_ended_in_the_meantime_gets_no_second_node() -> None:
    bench = with_straggler()
    bench.scheduler.tick(2.0)
    assert bench.result("a", 0) == ["merge 0 of a by a"]
    bench = with_straggler()
    bench.pass_time(2)
    bench.lose("b", Loss.LEFT)
    bench.lose("a", Loss.LEFT)
    assert bench.scheduler.deadline is None


def test_what_has_begun_anew_in_the_meantime_gets_no_second_node() -> None:
    bench = with_straggler()
    bench.scheduler.join(key("c"), PeerId(2))
    bench.scheduler.tick(2.0)
    assert bench.lose("a", Loss.LEFT) == ["send 0.1 to b"]


def test_a_task_does_not_go_where_it_went_wrong() -> None:
    bench = Bench("xy", SPECULATE, generator=True)
    bench.join("ab")
    bench.result("b", 1)
    bench.failure("a", 0)
    assert bench.scheduler.nodes[key("b")].open
    assert bench.pass_time(2) == []
    assert bench.pass_time(2) == []
    bench.join("c")
    assert bench.pass_time(2) == ["send 0.2 to c"]


def test_a_task_whose_one_copy_goes_wrong_is_not_sent_again_while_the_other_runs() -> None:
    ways: list[Callable[[Bench], list[str]]] = [
        lambda bench: bench.failure("a", 0),
        lambda bench: bench.lose("a", Loss.DIED),
        lambda bench: bench.lose("b", Loss.DIED),
        lambda bench: bench.failure("b", 0, 1),
    ]
    for go_wrong in ways:
        bench = with_straggler(peer=1)
        bench.pass_time(2)
        steps = go_wrong(bench)
        assert not [step for step in steps if step.startswith("send")]
        task = bench.tasks[0]
        assert (task.failures, task.running is not None, task.also) == (1, True, frozenset())
        assert bench.scheduler.waiting == 0


def test_a_task_that_has_failed_too_often_has_failed_though_a_copy_runs() -> None:
    bench = with_straggler(Policy(speculate=True, max_attempts=1))
    bench.pass_time(2)
    assert bench.failure("a", 0) == ["fail 0 by a: oops"]
    assert bench.result("b", 0, 1) == []
    assert not bench.wanted


def with_copy(policy: Policy = SPECULATE) -> Bench:
    """Nodes a and b both compute task 0, and there may be more data later."""
    bench = Bench("xy", policy)
    bench.join("a")
    bench.join("b", peer=1)
    bench.result("b", 1)
    assert "send 0.1 to b" in bench.pass_time(2)
    return bench


def test_when_one_copy_is_merged_the_other_is_withdrawn() -> None:
    bench = with_copy()
    assert bench.result("b", 0, 1)[:2] == ["merge 0 of a by b", "withdraw 0.0 from a"]
    bench = with_copy()
    assert bench.result("a", 0)[:2] == ["merge 0 of a by a", "withdraw 0.1 from b"]


def test_when_a_task_has_failed_for_good_its_copy_is_withdrawn() -> None:
    bench = with_copy(Policy(speculate=True, max_attempts=1))
    steps = bench.lose("a", Loss.DIED)
    assert steps[:3] == ["fail 0 by a: gone", "timeout a", "withdraw 0.1 from b"]


def test_a_copy_that_has_ended_meanwhile_is_not_withdrawn() -> None:
    ways: list[Callable[[Bench], object]] = [
        lambda bench: bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 1.0, ()),
        lambda bench: bench.scheduler.lose(key("a"), Loss.LOST, "gone"),
    ]
    for end in ways:
        bench = with_copy()
        bench.scheduler.result(key("b"), TaskId(0), Attempt(1), 1.0, ())
        end(bench)
        assert not [step for step in bench.work() if step.startswith("withdraw")]


def test_a_node_that_is_ended_for_that_costs_no_task_anything() -> None:
    bench = with_copy()
    bench.result("b", 0, 1)
    bench.data.append("z")
    assert bench.lose("a", Loss.LEFT) == ["ask b", "send 2.0 to b"]
    bench.join("c")
    assert bench.scheduler.running == 1
    assert (bench.tasks[2].failures, bench.tasks[2].losses) == (0, 0)


def test_with_strict_alternation_nothing_is_withdrawn() -> None:
    bench = Bench("x", BY_NODE)
    bench.join("a", peer=1)
    bench.lose("a")
    assert "send 0.1 to b" in bench.join("b")
    bench.come_back("a", holding(0, "x"))
    assert bench.result("a", 0) == ["merge 0 of a by a", "ask a"]


def test_nothing_is_withdrawn_when_the_job_stops() -> None:
    bench = with_copy()
    bench.scheduler.result(key("b"), TaskId(0), Attempt(1), 1.0, ())
    bench.scheduler.stop()
    assert bench.work() == []
    assert not bench.scheduler._in_vain


def test_in_order_what_a_full_window_waits_for_gets_a_second_node() -> None:
    bench = Bench("wxyz", Policy(ordered=True, max_held=1, speculate=True))
    bench.join("ab")
    assert bench.result("b", 1) == []
    assert bench.pass_time(2) == ["send 0.1 to b"]
    assert bench.result("b", 0, 1) == [
        *["merge 0 of a by b", "merge 1 of b by b", "withdraw 0.0 from a"],
        *["ask b", "send 2.0 to b"],
    ]


def test_nothing_is_computed_twice_without_speculation() -> None:
    bench = with_straggler(Policy())
    assert bench.pass_time(1000) == []


def test_stragglers_are_forgotten_when_the_job_stops() -> None:
    bench = with_straggler()
    assert bench.scheduler.stop() == 1
    assert bench.scheduler.deadline is None


# ---- agents on which everything goes wrong


def with_bad_agent(policy: Policy | None = None) -> Bench:
    """Node a of agent 0 has failed task 0, b of agent 1 has had a result; one more such and ..."""
    bench = Bench(range(20), policy or Policy(max_failed_tasks=2))
    bench.join("a")
    bench.join("b", peer=1)
    assert bench.failure("a", 0) == ["retry 0 by a: oops", "ask a", "send 2.0 to a"]
    assert bench.result("b", 1)[:2] == ["merge 1 of b by b", "send 0.1 to b"]
    return bench


def test_an_agent_on_which_all_goes_wrong_is_set_aside_at_no_charge() -> None:
    bench = with_bad_agent()
    assert bench.failure("a", 2) == ["aside 0 for 10: oops", "retry 2 by a: oops"]
    assert [bench.tasks[task].failures for task in (0, 2)] == [0, 0]
    assert bench.join("c") == []
    assert bench.scheduler.deadline == 10.0
    assert bench.result("b", 0, 1) == ["merge 0 of a by b", "send 2.1 to b"]
    assert bench.pass_time(9) == []
    assert bench.pass_time(1)[:2] == ["ask a", "send 3.0 to a"]


def test_what_goes_wrong_on_an_agent_that_is_set_aside_is_not_charged() -> None:
    bench = Bench(range(20), Policy(max_failed_tasks=2))
    bench.join("acd")
    bench.join("b", peer=1)
    bench.failure("a", 0)
    bench.result("b", 3)
    assert bench.failure("c", 1)[0] == "aside 0 for 10: oops"
    assert bench.lose("d", Loss.DIED) == ["retry 2 by d: gone", "timeout d"]
    assert [bench.tasks[task].failures for task in (0, 1, 2)] == [0, 0, 0]


def test_deaths_set_aside_too() -> None:
    bench = with_bad_agent()
    bench.join("c")
    assert bench.lose("c", Loss.DIED)[0] == "aside 0 for 10: gone"


def test_should_all_others_go_whoever_is_set_aside_is_needed() -> None:
    bench = with_bad_agent()
    bench.failure("a", 2)
    assert bench.lose("b", Loss.LEFT) == ["send 0.2 to a"]


def test_also_if_it_has_had_a_result_since() -> None:
    """Of another of its nodes, which was at work already."""
    bench = with_bad_agent()
    bench.join("c")
    bench.failure("a", 2)
    assert bench.result("c", 3)[0] == "merge 3 of c by c"
    assert bench.lose("b", Loss.LEFT)[0] == "send 0.2 to c"


def test_an_agent_that_is_alone_is_not_set_aside() -> None:
    bench = with_bad_agent()
    bench.lose("b", Loss.LEFT)
    assert not any("aside" in step for step in bench.failure("a", 2))
    assert bench.tasks[2].failures == 1


def test_where_all_agents_fail_tasks_fail_in_the_end() -> None:
    bench = Bench("x", Policy(max_failed_tasks=1, max_attempts=3))
    bench.join("a")
    bench.join("b", peer=1)
    assert bench.failure("a", 0) == ["retry 0 by a: oops", "send 0.1 to b"]
    assert bench.failure("b", 0, 1) == ["retry 0 by b: oops", "send 0.2 to a"]
    assert bench.failure("a", 0, 2)[0] == "fail 0 by a: oops"


def test_an_agent_that_went_away_is_forgotten() -> None:
    bench = with_bad_agent()
    bench.lose("a", Loss.LEFT)
    assert not bench.scheduler._suspects.exist


def test_another_agent_is_tried_before_another_node_of_the_same() -> None:
    bench = Bench("x")
    bench.join("ac")
    bench.join("b", peer=1)
    assert bench.failure("a", 0)[1:] == ["send 0.1 to b"]
    assert bench.failure("b", 0, 1)[1:] == ["send 0.2 to c"]


def test_a_second_try_does_not_go_to_an_agent_that_is_set_aside() -> None:
    bench = with_bad_agent(Policy(max_failed_tasks=2, speculate=True))
    bench.failure("a", 2)
    bench.data.clear()
    bench.join("c")
    assert not any("send" in step for step in bench.pass_time(5))


# ---- late, repeated and false results


def test_a_repeated_result_is_not_merged_again() -> None:
    bench = Bench("x")
    bench.join("a")
    bench.result("a", 0)
    assert bench.wanted
    assert bench.result("a", 0) == []
    assert not bench.wanted


def test_a_result_of_another_attempt_is_not_merged() -> None:
    bench = Bench("x")
    bench.join("a")
    assert bench.result("a", 0, attempt=1) == []
    assert not bench.wanted
    assert bench.result("a", 0) == ["merge 0 of a by a", "ask a"]


def test_a_result_of_a_task_that_the_node_never_got_is_not_merged() -> None:
    bench = Bench("xy")
    bench.join("ab")
    assert bench.result("a", 1) == []
    assert bench.result("a", 7) == []
    assert bench.failure("a", 1) == []
    assert not bench.wanted


def test_a_late_result_of_a_lost_node_is_not_merged() -> None:
    bench = Bench("x")
    bench.join("ab")
    assert bench.lose("a") == ["retry 0 by a: gone", "timeout a", "send 0.1 to b"]
    assert bench.result("a", 0) == []
    assert not bench.wanted
    assert bench.failure("a", 0) == []
    assert not bench.wanted
    assert bench.result("b", 0, attempt=1) == ["merge 0 of a by b", "ask b"]


# ---- exceptions in process


def test_a_task_that_raised_is_tried_on_another_node() -> None:
    bench = Bench("xy")
    bench.join("ab")
    bench.result("b", 1)
    assert bench.failure("a", 0) == ["retry 0 by a: oops", "send 0.1 to b"]


def test_a_task_that_raised_waits_for_another_node_if_there_is_one() -> None:
    bench = Bench("xyz")
    bench.join("ab")
    assert bench.failure("a", 0) == ["retry 0 by a: oops", "ask a", "send 2.0 to a"]
    assert bench.scheduler.waiting == 1
    assert bench.result("b", 1) == ["merge 1 of b by b", "send 0.1 to b"]


def test_a_task_that_raised_runs_on_the_same_node_if_there_is_no_other() -> None:
    bench = Bench("x")
    bench.join("a")
    assert bench.failure("a", 0) == ["retry 0 by a: oops", "send 0.1 to a"]


def test_it_does_not_wait_for_another_node_that_has_gone() -> None:
    bench = Bench("xy")
    bench.join("ab")
    bench.failure("a", 0)
    assert bench.lose("b", Loss.LEFT) == ["send 1.1 to a"]
    assert bench.result("a", 1, attempt=1) == ["merge 1 of b by a", "send 0.1 to a"]


def test_it_may_go_back_when_it_has_been_tried_on_every_node() -> None:
    bench = Bench("x", Policy(max_attempts=5))
    bench.join("ab")
    assert bench.failure("a", 0) == ["retry 0 by a: oops", "send 0.1 to b"]
    assert bench.failure("b", 0, 1) == ["retry 0 by b: oops", "send 0.2 to a"]


def test_after_so_many_attempts_it_has_failed_for_good() -> None:
    bench = Bench("x", Policy(max_attempts=2))
    bench.join("ab")
    bench.failure("a", 0)
    assert bench.failure("b", 0, 1, reason="again") == ["fail 0 by b: again", "ask a"]
    assert bench.scheduler.running == bench.scheduler.waiting == 0


def test_what_would_go_wrong_anywhere_is_not_tried_again() -> None:
    bench = Bench("x")
    bench.join("ab")
    assert bench.failure("a", 0, final=True) == ["fail 0 by a: oops", "ask b"]


def test_a_failure_tells_what_the_user_must_know() -> None:
    bench = Bench(["bad"], Policy(max_attempts=1, keep_data=True))
    bench.join("a")
    bench.scheduler.failure(key("a"), TaskId(0), Attempt(0), "oops", "Traceback ...", final=False)
    step = bench.scheduler.next_step()
    assert isinstance(step, Fail)
    assert (step.node, step.reason, step.remote) == (key("a"), "oops", "Traceback ...")
    assert (step.task.failures, step.task.losses, step.task.data) == (1, 0, "bad")


def test_failed_tasks_are_tried_again_after_those_that_wait_already() -> None:
    bench = Bench("xy")
    bench.join("ab")
    scheduler = bench.scheduler
    scheduler.failure(key("b"), TaskId(1), Attempt(0), "oops", "", final=False)
    scheduler.failure(key("a"), TaskId(0), Attempt(0), "oops", "", final=False)
    assert bench.work() == [
        "retry 1 by b: oops",
        "retry 0 by a: oops",
        "send 0.1 to b",
        "send 1.1 to a",
    ]


# ---- deaths and losses


def test_a_task_whose_worker_died_avoids_the_agent() -> None:
    """Whatever killed the worker may well be the machine's fault."""
    bench = Bench("xyz")
    bench.join("ab", peer=1)
    bench.join("c", peer=2)
    assert bench.lose("a", Loss.DIED, "signal 9") == ["retry 0 by a: signal 9", "timeout a"]
    assert bench.join("d", peer=1) == ["ask d"]
    assert bench.result("b", 1) == ["merge 1 of b by b", "ask d"]
    assert bench.result("c", 2) == ["merge 2 of c by c", "send 0.1 to c", "ask d"]


def test_a_task_whose_worker_died_runs_on_the_same_agent_if_there_is_no_other() -> None:
    bench = Bench("x")
    bench.join("a", peer=1)
    bench.lose("a", Loss.DIED)
    assert bench.join("b", peer=1) == ["send 0.1 to b"]


def test_deaths_and_exceptions_count_together() -> None:
    bench = Bench("x", Policy(max_attempts=2))
    bench.join("ab")
    bench.failure("a", 0)
    assert bench.lose("b", Loss.DIED, "signal 11") == [
        "fail 0 by b: signal 11",
        "timeout b",
        "ask a",
    ]


def test_what_somebody_ends_on_purpose_is_charged_to_no_task() -> None:
    bench = Bench("xyz", Policy(max_attempts=1, max_losses=1))
    bench.join("a", peer=1)
    bench.join("b", peer=2)
    bench.join("c", peer=3)
    bench.scheduler.spare(key("a"), PeerId(2))
    assert bench.lose("a", Loss.DIED) == ["retry 0 by a: gone", "timeout a"]
    assert bench.lose("b", Loss.LOST) == ["retry 1 by b: gone", "timeout b"]
    assert bench.lose("c", Loss.DIED) == ["fail 2 by c: gone", "timeout c"]


def test_a_node_on_a_connection_that_is_broken_on_purpose_may_die_by_itself() -> None:
    bench = Bench("x", Policy(max_attempts=1))
    bench.join("a", peer=1)
    bench.scheduler.spare(PeerId(1))
    assert bench.lose("a", Loss.DIED) == ["fail 0 by a: gone", "timeout a"]


def prefetching(tasks: int = 3) -> Bench:
    """Return a bench whose node ``a`` has this many open tasks, from 1 on."""
    bench = Bench(range(tasks + 1))
    bench.join("a")
    bench.result("a", 0, seconds=0.0)
    assert len(bench.scheduler.nodes[key("a")].open) == tasks
    return bench


@pytest.mark.parametrize(
    ("loss", "charges"),
    [
        (Loss.DIED, [(1, 0), (0, 0), (0, 0)]),
        (Loss.LOST, [(0, 1), (0, 0), (0, 0)]),
        (Loss.LEFT, [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_only_the_task_that_was_being_computed_is_charged(
    loss: Loss, charges: list[tuple[int, int]]
) -> None:
    bench = prefetching()
    bench.lose("a", loss)
    tasks = [bench.tasks[number] for number in (1, 2, 3)]
    assert [(task.failures, task.losses) for task in tasks] == charges


def test_the_tasks_of_a_lost_node_are_sent_first_and_in_their_order() -> None:
    bench = prefetching()
    bench.scheduler.failure(key("a"), TaskId(2), Attempt(0), "oops", "", final=False)
    assert bench.lose("a") == ["retry 2 by a: oops", "retry 1 by a: gone", "timeout a"]
    assert bench.join("bcd") == ["send 1.1 to b", "send 3.1 to c", "send 2.1 to d"]


def test_losing_a_node_tells_how_many_tasks_it_had() -> None:
    bench = prefetching()
    assert bench.scheduler.lose(key("a"), Loss.LOST, "gone") == 3
    bench.scheduler.join(key("b"), PeerId(0))
    assert bench.scheduler.lose(key("b"), Loss.LOST, "gone") == 0


def test_a_lost_agent_charges_no_attempt() -> None:
    bench = Bench("x", Policy(max_attempts=1, max_losses=3))
    for lost in range(2):
        bench.join("a")
        assert bench.lose("a") == ["retry 0 by a: gone", "timeout a"], lost
    assert bench.join("a") == ["send 0.2 to a"]
    assert bench.lose("a", reason="cable") == ["fail 0 by a: cable", "timeout a"]


def test_leaving_costs_nothing_and_is_not_told_as_a_timeout() -> None:
    bench = Bench("x", Policy(max_attempts=1, max_losses=1))
    bench.join("a")
    for attempt in range(1, 5):
        assert bench.lose("a", Loss.LEFT) == []
        assert bench.join("a") == [f"send 0.{attempt} to a"]


def test_node_timeout_is_called_for_lost_and_dead_nodes_also_when_they_were_idle() -> None:
    bench = Bench()
    bench.join("abc")
    assert bench.lose("a", Loss.LOST) == ["timeout a", "ask b"]
    assert bench.lose("b", Loss.DIED) == ["timeout b", "ask c"]
    assert bench.lose("c", Loss.LEFT) == []


# ---- data that cannot be sent


def test_data_that_cannot_be_sent_has_failed_at_once() -> None:
    bench = Bench(["x", UNSENDABLE, "y"])
    assert bench.join("ab") == [
        *["ask a", "send 0.0 to a"],
        *["ask b", "fail 1 by b: no pickle"],
        *["ask b", "send 2.0 to b"],
    ]


def test_data_that_cannot_be_sent_is_the_same_for_strict_alternation() -> None:
    bench = Bench([UNSENDABLE, "x"], BY_NODE)
    assert bench.join("a") == ["ask a", "fail 0 by a: no pickle", "ask a", "send 1.0 to a"]


# ---- asking again


def test_nothing_for_one_is_nothing_for_all_where_new_data_does_not_ask_for_the_node() -> None:
    bench = Bench([None, "x"])
    assert bench.join("abc") == ["ask a"]


def test_nothing_for_one_says_nothing_of_others_where_it_does() -> None:
    bench = Bench([None, "x", None], BY_NODE)
    assert bench.join("abc") == ["ask a", "ask b", "send 0.0 to b", "ask c"]


@pytest.mark.parametrize("policy", [Policy(), BY_NODE], ids=["any node", "by node"])
def test_new_data_is_asked_again_after_a_merge_a_join_and_a_loss(policy: Policy) -> None:
    bench = Bench(["x"], policy)
    bench.join("a")
    assert bench.join("b") == ["ask b"]
    assert bench.work() == []
    assert bench.result("a", 0)[:2] == ["merge 0 of a by a", "ask b"]
    assert bench.join("c")[0] == "ask b"
    assert bench.lose("c", Loss.LEFT)[0] == "ask b"
    assert bench.lose("a", Loss.LOST) == ["timeout a", "ask b"]


def test_a_failure_for_good_is_a_change_too() -> None:
    bench = Bench(["x", None])
    bench.join("ab")
    assert bench.failure("a", 0, final=True) == ["fail 0 by a: oops", "ask b"]


def test_it_is_asked_again_after_pauses_that_grow() -> None:
    bench = Bench()
    assert bench.join("a") == ["ask a"]
    pauses = []
    for _ in range(7):
        deadline = bench.scheduler.deadline
        assert deadline is not None
        pauses.append(round(deadline - bench.now, 6))
        assert bench.pass_time(0.99 * pauses[-1]) == []
        assert bench.pass_time(deadline - bench.now) == ["ask a"]
    assert pauses == [FIRST_PAUSE_S, 0.1, 0.2, 0.4, 0.8, LAST_PAUSE_S, LAST_PAUSE_S]


def test_the_pauses_begin_anew_when_something_has_changed() -> None:
    bench = Bench()
    bench.join("a")
    for _ in range(3):
        bench.pass_time(LAST_PAUSE_S)
    bench.join("b")
    assert bench.scheduler.deadline == bench.now + FIRST_PAUSE_S


def test_the_pauses_begin_anew_when_there_was_data() -> None:
    bench = Bench([None, None, None, "x"], BY_NODE)
    bench.join("a")
    bench.pass_time(1)
    bench.pass_time(1)
    assert bench.pass_time(1) == ["ask a", "send 0.0 to a"]
    assert bench.scheduler.deadline is None
    bench.join("b")
    assert bench.scheduler.deadline == bench.now + FIRST_PAUSE_S


def test_time_asks_nobody_while_all_nodes_are_busy() -> None:
    bench = Bench(["x", None])
    bench.join("a")
    bench.result("a", 0, seconds=0.01)  # it could have more in advance now
    bench.data.append("y")
    assert bench.pass_time(1) == ["ask a", "send 1.0 to a"]
    assert bench.scheduler.deadline is None


def test_tick_says_whether_it_was_time() -> None:
    bench = Bench()
    bench.join("a")
    assert not bench.scheduler.tick(0.01)
    assert bench.scheduler.tick(FIRST_PAUSE_S)
    assert not bench.scheduler.tick(FIRST_PAUSE_S), "nobody has been asked since"


# ---- prefetch


def test_a_node_has_one_task_until_it_is_known_how_long_they_take() -> None:
    bench = Bench(range(9))
    assert bench.join("a") == ["ask a", "send 0.0 to a"]


@pytest.mark.parametrize(
    ("seconds", "depth"),
    [(1.0, 1), (0.051, 1), (0.049, 2), (0.005, 3), (0.001, 11), (0.0, MAX_DEPTH)],
)
def test_a_node_is_sent_its_work_of_the_next_10_ms_in_advance(seconds: float, depth: int) -> None:
    """One more than it computes at least, if it would wait for that for more than 1 % of its time."""
    bench = Bench(range(2 * MAX_DEPTH))
    bench.join("a")
    bench.result("a", 0, seconds=seconds)
    assert len(bench.scheduler.nodes[key("a")].open) == depth


@pytest.mark.parametrize(("seconds", "depth"), [(1.0, 2), (0.011, 11), (0.0, MAX_DEPTH)])
def test_a_node_that_is_far_away_is_sent_more(seconds: float, depth: int) -> None:
    bench = Bench(range(2 * MAX_DEPTH))
    bench.scheduler.join(key("a"), PeerId(0), delay=0.1)
    bench.work()
    bench.result("a", 0, seconds=seconds)
    assert len(bench.scheduler.nodes[key("a")].open) == depth


def test_a_node_that_can_have_many_tasks_gets_more_when_half_of_them_are_done() -> None:
    bench = Bench(range(30))
    bench.join("a")
    assert bench.result("a", 0, seconds=0.001)[2:] == [
        f"send {task}.0 to a" for task in range(1, 12)
    ]
    for task in range(1, 6):
        assert bench.result("a", task, seconds=0.001) == [f"merge {task} of a by a"]
    assert bench.result("a", 6, seconds=0.001) == [
        *["merge 6 of a by a", "ask a"],
        *[f"send {task}.0 to a" for task in range(12, 18)],
    ]


@pytest.mark.parametrize(
    ("size", "depth"), [(10 * MAX_BYTES_AHEAD, 1), (MAX_BYTES_AHEAD, 2), (MAX_BYTES_AHEAD // 4, 5)]
)
def test_but_no_more_than_so_many_bytes(size: int, depth: int) -> None:
    bench = Bench([()] * (2 * MAX_DEPTH))
    bench.join("a")
    bench.result("a", 0, seconds=0.0, size=size)
    assert len(bench.scheduler.nodes[key("a")].open) == depth


def test_data_and_result_count_together() -> None:
    bench = Bench([(bytes(MAX_BYTES_AHEAD // 8),)] * MAX_DEPTH)
    bench.join("a")
    bench.result("a", 0, seconds=0.0, size=MAX_BYTES_AHEAD // 8)
    assert len(bench.scheduler.nodes[key("a")].open) == 5


def test_the_means_follow_the_newest_tasks() -> None:
    bench = Bench(range(1000))
    bench.join("a")
    bench.result("a", 0, seconds=0.0)
    node = bench.scheduler.nodes[key("a")]
    for task in range(1, 200):
        bench.result("a", task, seconds=1.0)
        if len(node.open) <= 1:
            break
    assert node.depth == 1
    assert node.mean_seconds is not None
    assert 0.9 < node.mean_seconds <= 1.0


def test_idle_nodes_come_before_those_that_could_have_more_in_advance() -> None:
    bench = Bench(range(3))
    bench.join("a")
    bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 0.01, ())
    bench.scheduler.join(key("b"), PeerId(0))
    assert bench.work() == [
        "merge 0 of a by a",
        *["ask a", "send 1.0 to a"],
        *["ask b", "send 2.0 to b"],
        "ask a",
    ]


# ---- new_data(node_id): strict alternation


def test_for_each_node_hand_out_and_merge_alternate() -> None:
    bench = Bench(range(9), BY_NODE)
    assert bench.join("ab") == ["ask a", "send 0.0 to a", "ask b", "send 1.0 to b"]
    assert bench.result("a", 0, seconds=0.0) == ["merge 0 of a by a", "ask a", "send 2.0 to a"]


def test_new_data_is_not_asked_before_the_result_has_been_merged() -> None:
    bench = Bench(range(9), BY_NODE)
    bench.join("a")
    bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 0.0, ())
    merge = bench.scheduler.next_step()
    assert isinstance(merge, Merge)
    assert bench.scheduler.next_step() is None
    bench.scheduler.settled(merge.task)
    assert bench.work() == ["ask a", "send 1.0 to a"]


def test_a_node_whose_task_is_retried_elsewhere_gets_no_new_data_until_that_is_merged() -> None:
    bench = Bench(range(9), BY_NODE)
    bench.join("ab")
    assert bench.failure("a", 0) == ["retry 0 by a: oops"]
    assert bench.result("b", 1) == ["merge 1 of b by b", "send 0.1 to b"]
    assert bench.result("b", 0, 1) == [
        "merge 0 of a by b",
        *["ask a", "send 2.0 to a"],
        *["ask b", "send 3.0 to b"],
    ]


def test_but_it_computes_what_others_must_have_tried_again() -> None:
    bench = Bench(range(9), BY_NODE)
    bench.join("abc")
    bench.failure("a", 0)
    assert bench.lose("b") == ["retry 1 by b: gone", "timeout b", "send 1.1 to a"]
    assert bench.result("a", 1, 1) == ["merge 1 of b by a"]


def test_a_result_goes_to_the_id_under_which_the_task_was_handed_out() -> None:
    bench = Bench(range(2), BY_NODE)
    bench.join("ab")
    bench.lose("a")
    assert bench.result("b", 1) == ["merge 1 of b by b", "send 0.1 to b"]
    assert bench.result("b", 0, 1) == ["merge 0 of a by b", "ask b"]


# ---- the manner of 0.1: the user hands out the data of lost nodes again


@pytest.mark.parametrize("loss", Loss)
def test_every_node_that_goes_with_its_task_unmerged_is_told_once(loss: Loss) -> None:
    bench = Bench(["x"], USER_REASSIGNS)
    bench.join("ab")
    assert bench.lose("a", loss) == ["timeout a", "ask b"]
    assert bench.scheduler.forgotten == 1
    assert (bench.scheduler.running, bench.scheduler.waiting) == (0, 0)


def test_its_data_is_known_again_in_whatever_form_it_is_handed_out() -> None:
    """It may be compressed for the one node, and not for the other."""
    plain = replace(USER_REASSIGNS, plain=lambda parts: (b"".join(parts).strip(b"()"),))
    bench = Bench([(b"(x", b")"), (b"x",)], plain)
    for name in "ab":
        bench.join(name)
        bench.lose(name, Loss.DIED)
        assert bench.scheduler.forgotten == 1
    assert bench.tasks[1].failures == 2


def test_a_late_result_of_such_a_task_is_not_merged() -> None:
    """It raised on its own node and is computed by another one when the first goes."""
    bench = Bench(["x", "y"], USER_REASSIGNS)
    bench.join("ab")
    bench.failure("a", 0)
    assert bench.result("b", 1) == ["merge 1 of b by b", "send 0.1 to b"]
    assert bench.lose("a") == ["timeout a"]
    assert bench.result("b", 0, 1) == ["ask b"]
    assert not bench.wanted


def test_nor_does_its_late_failure_count() -> None:
    bench = Bench(["x", "y"], USER_REASSIGNS)
    bench.join("ab")
    bench.failure("a", 0)
    bench.result("b", 1)
    bench.lose("a")
    assert bench.failure("b", 0, 1) == ["ask b"]
    assert not bench.wanted


def test_a_node_that_computes_it_may_go_too_and_is_told_for_its_own_sake_only() -> None:
    bench = Bench(["x", "y"], USER_REASSIGNS)
    bench.join("ab")
    bench.failure("a", 0)
    bench.result("b", 1)
    bench.lose("a")
    assert bench.lose("b", Loss.LEFT) == []
    assert bench.scheduler.forgotten == 1


def test_such_a_task_is_taken_back_also_while_it_waits_to_be_tried_again() -> None:
    bench = Bench(["x", "y"], USER_REASSIGNS)
    bench.join("ab")
    bench.failure("a", 0)
    assert bench.scheduler.waiting == 1
    assert bench.lose("a", Loss.LEFT) == ["timeout a"]
    assert bench.scheduler.waiting == 0
    assert bench.result("b", 1) == ["merge 1 of b by b", "ask b"]


def test_a_result_that_came_before_its_node_went_is_merged_before_the_timeout() -> None:
    bench = Bench(["x"], USER_REASSIGNS)
    bench.join("a")
    bench.scheduler.result(key("a"), TaskId(0), Attempt(0), 1.0, ())
    assert bench.lose("a") == ["merge 0 of a by a", "timeout a"]
    assert bench.scheduler.forgotten == 0


def test_an_exception_is_still_retried_under_the_same_id() -> None:
    bench = Bench(["x"], USER_REASSIGNS)
    bench.join("ab")
    assert bench.failure("a", 0) == ["retry 0 by a: oops", "send 0.1 to b"]
    assert bench.result("b", 0, 1) == ["merge 0 of a by b", "ask a", "ask b"]


def test_another_nodes_task_on_a_lost_node_is_the_librarys_to_try_again() -> None:
    bench = Bench(["x"], USER_REASSIGNS)
    bench.join("ab")
    bench.failure("a", 0)
    assert bench.lose("b") == ["retry 0 by b: gone", "timeout b", "send 0.2 to a"]


def test_data_that_is_handed_out_again_keeps_its_charges() -> None:
    bench = Bench(["deadly", "deadly", "deadly", "deadly"], USER_REASSIGNS)
    assert bench.join("a") == ["ask a", "send 0.0 to a"]
    assert bench.lose("a", Loss.DIED) == ["timeout a"]
    assert bench.join("b") == ["ask b", "send 1.0 to b"]
    assert bench.lose("b", Loss.DIED) == ["timeout b"]
    assert bench.join("c") == ["ask c", "send 2.0 to c"]
    assert bench.lose("c", Loss.DIED) == ["fail 2 by c: gone", "timeout c"]
    assert bench.scheduler.forgotten == 0
    assert bench.join("d") == ["ask d", "send 3.0 to d"]
    assert bench.lose("d", Loss.DIED) == ["timeout d"]


def test_other_data_has_no_part_in_them() -> None:
    bench = Bench(["deadly", "harmless"], Policy(by_node=True, user_reassigns=True, max_attempts=2))
    bench.join("a")
    bench.lose("a", Loss.DIED)
    bench.join("b")
    assert bench.lose("b", Loss.DIED) == ["timeout b"]
    assert bench.scheduler.forgotten == 2


def test_forgotten_tasks_run_again_when_all_nodes_are_idle() -> None:
    bench = Bench(["x", "y"], USER_REASSIGNS)
    bench.join("ab")
    bench.lose("a")
    assert bench.reclaim() == [], "b is still busy"
    assert bench.result("b", 1) == ["merge 1 of b by b", "ask b"]
    assert bench.reclaim() == ["reclaim 1", "send 0.1 to b"]
    assert bench.result("b", 0, 1) == ["merge 0 of a by b", "ask b"]
    assert bench.reclaim() == []


def test_forgotten_tasks_with_equal_data_are_as_many_as_they_were() -> None:
    bench = Bench(["same"] * 3, USER_REASSIGNS)
    bench.join("abc")
    bench.lose("abc")
    assert bench.scheduler.forgotten == 3
    bench.data.append("same")
    assert bench.join("d") == ["ask d", "send 3.0 to d"]
    assert bench.scheduler.forgotten == 2
    bench.result("d", 3)
    assert bench.reclaim() == ["reclaim 2", "send 1.1 to d"]


def test_nothing_is_reclaimed_before_every_node_has_been_asked_again_and_again() -> None:
    bench = Bench(["x"], USER_REASSIGNS)
    bench.join("a")
    bench.lose("a")
    assert not bench.scheduler.reclaim(), "no node"
    bench.scheduler.join(key("b"), PeerId(0))
    assert not bench.scheduler.reclaim(), "not asked yet"
    assert bench.work() == ["ask b"]
    assert not bench.scheduler.reclaim(), "it may remember, the next time"
    bench.grow_impatient()
    assert bench.scheduler.reclaim()


def test_a_reclaimed_task_is_the_librarys_from_then_on() -> None:
    bench = Bench(["x"], USER_REASSIGNS)
    bench.join("a")
    bench.lose("a")
    bench.join("b")
    assert bench.reclaim() == ["reclaim 1", "send 0.1 to b"]
    assert bench.lose("b") == ["retry 0 by b: gone", "timeout b"]
    assert bench.join("c") == ["send 0.2 to c"]


# ---- the end


def test_stopping_tells_how_many_tasks_are_dropped() -> None:
    bench = Bench(range(9), USER_REASSIGNS)
    bench.join("abcd")
    bench.lose("a")
    bench.failure("b", 1)
    scheduler = bench.scheduler
    scheduler.result(key("c"), TaskId(2), Attempt(0), 1.0, ())
    scheduler.failure(key("d"), TaskId(3), Attempt(0), "oops", "", final=True)
    assert scheduler.stop() == 4, "forgotten, waiting, not merged, not told"
    assert scheduler.running == scheduler.waiting == scheduler.forgotten == 0


def test_nothing_is_done_after_the_end() -> None:
    bench = Bench([None, "x"], BY_NODE)
    bench.join("abc")
    scheduler = bench.scheduler
    scheduler.stop()
    assert scheduler.deadline is None
    assert bench.pass_time(10) == []
    assert bench.result("b", 0) == []
    assert not bench.wanted
    assert bench.lose("b") == []
    assert bench.join("d") == []
