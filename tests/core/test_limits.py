"""Nodes that have to go at some time: they get what they can finish, and are charged for nothing."""

from __future__ import annotations

from bench import Bench, key
from hypothesis import given
from hypothesis import strategies as st

from parasnake.core.ids import Attempt, NodeKey, PeerId, TaskId
from parasnake.core.limits import ENOUGH, FRESH, HALF, HIGH, Limits
from parasnake.core.tasks import MAX_DEPTH, Loss, Node, OpenTask, Policy


def computed(bench: Bench, name: str, tasks: range, seconds: float) -> list[str]:
    """These tasks take so long, one after the other, on one node."""
    done: list[str] = []
    for task in tasks:
        bench.now += seconds
        bench.scheduler.now = bench.now
        done = bench.result(name, task, seconds=seconds)
    return done


def gone(bench: Bench, names: str, loss: Loss = Loss.LEFT) -> list[str]:
    bench.scheduler.now = bench.now
    return bench.lose(names, loss)


def test_as_long_as_nothing_is_known_a_node_gets_one_task() -> None:
    bench = Bench(range(10))
    assert bench.join("ab", life=0.001) == ["ask a", "send 0.0 to a", "ask b", "send 1.0 to b"]


def test_a_node_gets_nothing_that_it_cannot_finish() -> None:
    bench = Bench(range(100))
    bench.join("a", life=20.0)
    assert computed(bench, "a", range(5), 3.0)[-1] == "send 5.0 to a", "5 s left"
    assert computed(bench, "a", range(5, 6), 3.0) == ["merge 5 of a by a"], "2 s left"
    assert bench.data[0] == 6, "new_data is not asked in vain"


def test_what_one_node_learnt_serves_the_next() -> None:
    bench = Bench(range(100))
    bench.join("a")
    computed(bench, "a", range(3), 3.0)
    bench.join("c", life=10.0)
    assert bench.join("b", life=2.9) == []
    assert bench.join("d", life=3.1) == ["ask d", "send 5.0 to d"]


def test_a_node_is_judged_by_its_own_results_when_there_are_enough() -> None:
    bench = Bench(range(100))
    bench.join("a")
    computed(bench, "a", range(10), 1.0)
    bench.join("b", life=100.0)
    computed(bench, "b", range(11, 11 + ENOUGH), 10.0)
    bench.now += 45.0  # 5 s are left to b, enough for a task of a's
    bench.scheduler.now = bench.now
    assert bench.result("b", 11 + ENOUGH, seconds=10.0) == [f"merge {11 + ENOUGH} of b by b"]


def test_of_small_tasks_nothing_is_learnt_before_anybody_has_an_end() -> None:
    """It would cost all others time."""
    bench = Bench(range(100))
    bench.join("a")
    computed(bench, "a", range(3), 0.001)
    assert bench.join("b", life=0.0001)[:1] == ["ask b"]


def test_small_tasks_are_sent_ahead_for_no_longer_than_there_is_time() -> None:
    bench = Bench(range(100_000))
    bench.join("a", life=1.0)
    computed(bench, "a", range(1), 0.001)
    some = len(bench.scheduler.nodes[key("a")].open)
    assert some > 5
    bench.now = bench.scheduler.now = 0.9995
    for task in range(1, 1 + some):
        bench.result("a", task, seconds=0.001)
    assert not bench.scheduler.nodes[key("a")].open, "half a task's time is left"


def test_data_for_which_there_is_no_time_any_more_waits_for_another_node() -> None:
    bench = Bench()
    bench.join("a", life=20.0)
    bench.data.extend(range(3))
    computed(bench, "a", range(0), 1.0)
    bench.pass_time(1.0)
    scheduler = bench.scheduler
    computed(bench, "a", range(1), 3.0)
    assert scheduler.nodes[key("a")].open == {TaskId(1): 0}
    bench.data.clear()
    scheduler.now = bench.now = 19.0
    assert bench.result("a", 1, seconds=3.0) == ["merge 1 of a by a"]
    scheduler._asked = key("a")
    assert scheduler.give([((b"late",), None)]).tasks == []
    assert bench.join("b", life=20.0)[-1] == "send 2.0 to b"


def test_it_can_be_said_later_and_be_changed() -> None:
    bench = Bench(range(100))
    bench.join("a")
    computed(bench, "a", range(3), 3.0)
    scheduler = bench.scheduler
    scheduler.ends(key("a"), bench.now + 4.0)
    assert computed(bench, "a", range(3, 4), 3.0) == ["merge 3 of a by a"]
    scheduler.ends(key("a"), bench.now + 100.0)
    assert bench.work() == ["ask a", "send 4.0 to a"]
    scheduler.ends(key("z"), 5.0)  # it has gone already


def test_who_has_to_go_is_charged_for_nothing_and_its_task_goes_to_who_has_the_time() -> None:
    bench = Bench(range(3))
    bench.join("a", life=20.0)
    bench.join("b", life=20.0)
    bench.now = 20.0
    assert gone(bench, "ab") == []
    task = bench.tasks[0]
    assert (task.failures, task.losses, task.ran_for) == (0, 0, 20.0)
    assert bench.scheduler.lost_seconds == 40.0
    bench.scheduler.join(key("c"), PeerId(2), ends_at=bench.now + 15.0)
    assert bench.join("d", life=30.0) == ["send 1.1 to d"]
    assert bench.scheduler.nodes[key("c")].open == {}


def test_what_is_longer_than_any_life_is_tried_all_the_same_and_told_once() -> None:
    bench = Bench(range(2))
    for turn, name in enumerate("abcd"):
        done = bench.join(name, life=20.0)
        assert f"send 0.{turn} to {name}" in done
        assert ("too long: 20" in done) == (turn == 1)
        bench.now += 20.0
        gone(bench, name)


def test_a_task_that_was_cut_off_goes_where_it_has_more_time_though_others_take_less() -> None:
    bench = Bench(range(41))
    bench.join("a", life=60.0)
    computed(bench, "a", range(40), 1.0)
    bench.now += 20.0
    gone(bench, "a")
    for name, life in (("b", 10.0), ("c", 30.0)):
        bench.scheduler.join(key(name), PeerId(1), ends_at=bench.now + life)
    assert bench.work() == ["send 40.1 to c", "ask b"]


def test_lives_get_shorter_and_tasks_are_tried_all_the_same() -> None:
    """No job waits for nodes that live as long as those before."""
    bench = Bench(range(10))
    bench.join("a", life=3600.0)
    computed(bench, "a", range(6), 30.0)
    gone(bench, "a")
    assert bench.join("b", life=20.0)[0] == "send 6.1 to b"


def test_lives_differ_a_bit_and_the_first_was_the_longest() -> None:
    bench = Bench(range(10))
    bench.join("a", life=20.0)
    computed(bench, "a", range(1), 19.9)
    gone(bench, "a")
    assert bench.join("b", life=19.8)[:2] == ["ask b", "send 1.0 to b"]


def test_what_is_longer_than_any_life_is_not_begun_in_the_second_half_of_one() -> None:
    bench = Bench(range(10))
    bench.join("z")
    computed(bench, "z", range(3), 30.0)
    gone(bench, "z")
    bench.data.clear()
    bench.join("a", life=20.0)
    bench.lose("a", Loss.LEFT)
    bench.join("b", life=20.0)
    assert bench.scheduler.nodes[key("b")].open
    bench.now += 11.0
    bench.scheduler.now = bench.now
    assert bench.failure("b", 3, 2)[-1] == "retry 3 by b: oops"
    assert bench.join("c", life=20.0)[-1] == "send 3.3 to c"


def test_as_long_as_somebody_has_no_end_nobody_else_tries_what_is_too_long() -> None:
    bench = Bench(range(10))
    bench.join("z")
    computed(bench, "z", range(3), 30.0)
    assert bench.join("a", life=20.0) == []


def test_who_cannot_say_goodbye_at_its_end_costs_no_task_a_loss() -> None:
    bench = Bench(range(2))
    bench.join("a", life=20.0)
    bench.now = 20.0
    gone(bench, "a", Loss.LOST)
    assert bench.tasks[0].losses == 0


def test_it_is_told_whose_idle_nodes_have_too_little_time_left() -> None:
    bench = Bench(range(4))
    bench.join("a", peer=1, life=20.0)
    computed(bench, "a", range(4), 3.0)
    scheduler = bench.scheduler
    assert scheduler.out_of_time() == {}
    assert scheduler.deadline is not None
    bench.join("b", peer=2)
    bench.join("c", peer=3, life=2.0)
    scheduler.now = 17.0
    assert scheduler.out_of_time() == {PeerId(1): 1, PeerId(3): 1}
    assert scheduler.out_of_time() == {}, "it is told once"
    scheduler.stop()
    assert scheduler.deadline is None


def test_who_owes_a_task_stays() -> None:
    """In strict alternation its user keeps book of it until that task is merged."""
    bench = Bench(range(4), Policy(by_node=True))
    bench.join("a", life=20.0)
    bench.scheduler.failure(key("a"), TaskId(0), Attempt(0), "oops", "", final=False)
    bench.scheduler.now = 30.0
    assert bench.scheduler.out_of_time() == {}


def test_a_few_long_tasks_do_not_keep_nodes_from_all_others() -> None:
    bench = Bench(range(100))
    bench.join("z")
    for task in range(10):
        computed(bench, "z", range(task, task + 1), 50.0 if task % 2 else 1.0)
    gone(bench, "z")
    assert (
        "send 11.0 to a" in bench.join("a", life=20.0)[-1] or bench.scheduler.nodes[key("a")].open
    )
    computed(bench, "a", range(10, 11), 1.0)
    assert bench.scheduler.nodes[key("a")].open


def test_nobody_gets_a_second_copy_or_others_tasks_without_the_time_for_it() -> None:
    bench = Bench(range(4), Policy(speculate=True), generator=True)
    bench.join("a")
    computed(bench, "a", range(3), 3.0)
    bench.pass_time(0.0)
    bench.join("b", life=2.0)
    assert not [line for line in bench.pass_time(1000.0) if line.endswith(" to b")]


def test_a_death_tells_nothing_of_how_long_a_task_takes() -> None:
    bench = Bench(range(3))
    bench.join("a", life=20.0)
    bench.now = 5.0
    gone(bench, "a", Loss.DIED)
    assert bench.tasks[0].ran_for == 0.0
    assert bench.scheduler.lost_seconds == 5.0


def test_a_task_may_go_where_it_has_more_time_than_it_had() -> None:
    task = OpenTask(TaskId(0), NodeKey(bytes(16)), (), 0, None)
    node, free = (Node(NodeKey(bytes([n]) * 16), PeerId(0)) for n in range(2))
    limits = Limits({node.key: node})
    limits.ends(node, 10.0)
    assert limits.suits(task, node, now=9.0)
    limits.cut(task, 5.0)
    assert limits.suits(task, node, now=4.0)
    assert not limits.suits(task, node, now=5.0)
    assert limits.suits(task, free, now=5.0)
    assert not limits.too_long
    limits.cut(task, 10.0)
    assert not limits.suits(task, node, now=9.0), "another one will come"
    assert not limits.too_long
    assert limits.suits(task, node, now=1.0), "there is nobody with more time"
    assert limits.too_long
    limits.cut(task, 1.0)
    assert task.ran_for == 10.0


@given(
    took=st.lists(st.floats(0.01, 100), min_size=1, max_size=30),
    life=st.floats(0.01, 1000),
    passed=st.floats(0, 1000),
)
def test_what_is_handed_out_can_end_in_time(took: list[float], life: float, passed: float) -> None:
    """All that a node has room for, and the last one takes as long as nearly none."""
    node = Node(NodeKey(bytes(16)), PeerId(0))
    limits = Limits({node.key: node})
    limits.ends(node, life)
    for seconds in took:
        limits.came(node, seconds)
        node.learn(seconds, 1)
    room = limits.room(node, passed)
    assert 0 <= room <= MAX_DEPTH
    assert node.mean_seconds is not None
    need = node.took.quantile(HIGH)
    if need > FRESH * life:
        need = node.took.quantile(HALF)
    if need > FRESH * life:
        assert (room, limits.too_long) == ((1, True) if passed < life - life / 2 else (0, False))
    elif room:
        assert passed + (room - 1) * node.mean_seconds + need <= life + 1e-6
    else:
        assert passed + need > life - 1e-6


def test_who_has_no_end_has_room() -> None:
    assert Limits({}).room(Node(NodeKey(bytes(16)), PeerId(0)), 0.0) == MAX_DEPTH
