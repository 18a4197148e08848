"""The server's decisions about its agents, as whole lists of steps.

What becomes of the tasks is the scheduler's part: tests/core/test_scheduler.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from parasnake.core.farm import (
    AgentJoined,
    AgentLeft,
    AgentRefused,
    CallInit,
    Drop,
    Farm,
    Job,
    NodeDied,
    NodeEnded,
    NodeJoined,
    Send,
    Step,
    differences,
)
from parasnake.core.ids import Attempt, JobId, NodeKey, PeerId, TaskId
from parasnake.core.messages import (
    MAX_TEXT,
    PROTOCOL_VERSION,
    RUN_BYTES,
    SMALL_PAYLOAD,
    AskInit,
    Cancel,
    Dropped,
    Failure,
    FailureKind,
    Goodbye,
    Heartbeat,
    Hello,
    Init,
    Message,
    NodeBroken,
    NodeGone,
    Parts,
    Quit,
    QuitKind,
    Ready,
    RefusalKind,
    Refused,
    Result,
    Results,
    Taken,
    Task,
    Tasks,
    TimeLeft,
    Welcome,
    encode,
)
from parasnake.core.tasks import MAX_DEPTH, AskData, Fail, Merge, Policy, Retry, TellTimeout
from parasnake.errors import MessageError

JOB = Job(
    id=JobId(b"the id of a job!"),
    app="squares",
    digest="d1gest",
    library="0.2.0",
    python="3.11.7",
    heartbeat_timeout=30.0,
    init_per_node=False,
    has_init=False,
    seed=b"the seed of jobs",
    task_timeout=7.0,
    policy=Policy(),
)
HELLO = Hello(PROTOCOL_VERSION, 4711, "0.2.0", "3.11.9", "squares", "d1gest", "host")
ONE, TWO = PeerId(1), PeerId(2)
A, B, C = (NodeKey(letter * 16) for letter in (b"a", b"b", b"c"))
SQUARE: Parts = (b"the data",)


def steps(farm: Farm, *data: Parts) -> list[Step]:
    """Take all steps; ``new_data`` has this data, and then nothing; other hooks are called."""
    taken: list[Step] = []
    left = list(data)
    while (step := farm.next_step()) is not None:
        taken.append(step)
        if isinstance(step, AskData) and left:
            taken += farm.give([(left.pop(0), None)])
        elif isinstance(step, AskData):
            farm.scheduler.nothing(0.0)
        elif isinstance(step, Merge | Fail):
            farm.scheduler.settled(step.task)
    return taken


def farm_with(*peers: PeerId, job: Job = JOB, nodes: tuple[NodeKey, ...] = ()) -> Farm:
    """Return a farm with welcomed agents; the first of them has these nodes."""
    farm = Farm(job)
    for peer in peers:
        farm.connected(peer, "10.0.0.7:4000", now=0.0)
        farm.message(peer, HELLO)
        if job.has_init and not job.init_per_node:
            farm.init_given(peer, None, ())
    for node in nodes:
        farm.message(peers[0], Ready(node))
    steps(farm)
    return farm


def welcome(job: Job = JOB, payload: Parts = ()) -> Welcome:
    return Welcome(job.id, 10.0, job.init_per_node, job.seed, 7.0, job.python, job.digest, payload)


# ---- hello


def test_an_agent_is_welcomed() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "10.0.0.7:4000", now=0.0)
    assert steps(farm) == []
    farm.message(ONE, HELLO)
    peer = farm.peers[ONE]
    assert peer.welcomed
    assert steps(farm) == [Send(ONE, welcome()), AgentJoined(peer, [])]


def test_an_agent_has_a_name_for_people() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "10.0.0.7:4000", now=0.0)
    assert farm.peers[ONE].name == "10.0.0.7:4000"
    farm.message(ONE, HELLO)
    assert farm.peers[ONE].name == "host (pid 4711, 10.0.0.7:4000)"


def test_init_data_comes_with_the_welcome() -> None:
    farm = Farm(replace(JOB, has_init=True))
    farm.connected(ONE, "address", now=0.0)
    farm.message(ONE, HELLO)
    assert steps(farm) == [CallInit(ONE, None)]
    farm.init_given(ONE, None, (b"init",))
    assert steps(farm) == [
        Send(ONE, welcome(payload=(b"init",))),
        AgentJoined(farm.peers[ONE], []),
    ]


def test_init_data_of_each_node_is_asked_for() -> None:
    job = replace(JOB, has_init=True, init_per_node=True)
    farm = Farm(job)
    farm.connected(ONE, "address", now=0.0)
    farm.message(ONE, HELLO)
    assert steps(farm) == [Send(ONE, welcome(job)), AgentJoined(farm.peers[ONE], [])]
    farm.message(ONE, AskInit(A))
    assert steps(farm) == [CallInit(ONE, A)]
    farm.init_given(ONE, A, (b"init of a",))
    assert steps(farm) == [Send(ONE, Init(A, JOB.seed, (b"init of a",)))]


def test_init_data_for_an_agent_that_has_gone_meanwhile_is_not_sent() -> None:
    farm = Farm(replace(JOB, has_init=True))
    farm.connected(ONE, "address", now=0.0)
    farm.message(ONE, HELLO)
    peer = farm.peers[ONE]
    farm.gone(ONE, "reset")
    assert steps(farm) == [CallInit(ONE, None), AgentLeft(peer, False, "reset", "", 0)]
    farm.init_given(ONE, None, (b"init",))
    assert steps(farm) == []


def test_another_protocol_is_refused() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "address", now=0.0)
    peer = farm.peers[ONE]
    farm.message(ONE, Hello(9, 1, "9.0", "", "", "", ""))
    reason = "the server speaks protocol 1 (Parasnake 0.2.0), the node protocol 9 (Parasnake 9.0)"
    assert steps(farm) == [
        Send(ONE, Refused(RefusalKind.PROTOCOL, reason)),
        Drop(ONE),
        AgentRefused(peer, reason),
    ]
    assert not farm.peers
    assert farm.deadline is None
    farm.gone(ONE, "closed")
    assert steps(farm) == []


def test_another_app_is_refused() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "address", now=0.0)
    peer = farm.peers[ONE]
    farm.message(ONE, HELLO._replace(app="cubes"))
    reason = "the server runs the app 'squares', the node belongs to the app 'cubes'"
    assert steps(farm) == [
        Send(ONE, Refused(RefusalKind.APP, reason)),
        Drop(ONE),
        AgentRefused(peer, reason),
    ]


def test_differences_are_told_but_do_no_harm() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "address", now=0.0)
    farm.message(ONE, HELLO._replace(python="3.12.1", digest="another"))
    assert steps(farm) == [
        Send(ONE, welcome()),
        AgentJoined(
            farm.peers[ONE],
            [
                "the server runs Python 3.11.7, the node Python 3.12.1",
                "the code of the process hook is not the same on server and node "
                "(digests d1gest and another)",
            ],
        ),
    ]


@pytest.mark.parametrize(
    ("server", "node"),
    [(("3.11.7", "x"), ("3.11.9", "x")), (("3.11.7", ""), ("3.11.7", "x"))],
    ids=["patch version", "no digest"],
)
def test_what_makes_no_difference(server: tuple[str, str], node: tuple[str, str]) -> None:
    assert differences(*server, *node) == differences(*node, *server) == []


# ---- what an agent may not say


@pytest.mark.parametrize(
    "message",
    [Ready(A), Heartbeat(), Result(A, TaskId(0), Attempt(0), 0.0, ())],
    ids=lambda message: type(message).__name__,
)
def test_nothing_may_be_said_before_the_welcome(message: Message) -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "address", now=0.0)
    with pytest.raises(MessageError, match="before the welcome"):
        farm.message(ONE, message)


def test_but_who_is_interrupted_just_then_may_say_goodbye() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "address", now=0.0)
    peer = farm.peers[ONE]
    farm.message(ONE, Goodbye("stopped by signal 2", ""))
    assert steps(farm) == [Drop(ONE), AgentLeft(peer, False, "stopped by signal 2", "", 0)]


def test_a_result_without_a_payload() -> None:
    """Also None has some bytes: this can only be meant to make trouble."""
    farm = farm_with(ONE, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    with pytest.raises(MessageError, match="without a payload"):
        farm.message(ONE, Result(A, TaskId(0), Attempt(0), 1.0, ()))


def test_a_second_hello() -> None:
    farm = farm_with(ONE)
    with pytest.raises(MessageError, match="second Hello"):
        farm.message(ONE, HELLO)


def test_a_node_that_is_there_already() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    for peer in (ONE, TWO):
        with pytest.raises(MessageError, match="there already"):
            farm.message(peer, Ready(A))


@pytest.mark.parametrize(
    "message",
    [
        Result(A, TaskId(0), Attempt(0), 1.0, (b"4",)),
        Failure(A, TaskId(0), Attempt(0), 1.0, FailureKind.EXCEPTION, "", "", ""),
        NodeGone(A, True, True, "why", ""),
        AskInit(A),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_in_the_name_of_another_agents_node(message: Message) -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    with pytest.raises(MessageError, match="another agent's node"):
        farm.message(TWO, message)
    assert A in farm.scheduler.nodes


def test_asking_for_init_data_that_is_not_given_to_nodes() -> None:
    farm = farm_with(ONE)
    with pytest.raises(MessageError, match="came with the welcome"):
        farm.message(ONE, AskInit(A))


@pytest.mark.parametrize(
    "message", [NodeBroken(A, "", ""), Quit(0, "")], ids=["NodeBroken", "Quit"]
)
def test_what_no_agent_says(message: Message) -> None:
    farm = farm_with(ONE)
    with pytest.raises(MessageError, match="may not send"):
        farm.message(ONE, message)


# ---- nodes and their tasks


def test_a_node_gets_a_task_and_its_result_is_merged() -> None:
    farm = farm_with(ONE)
    farm.message(ONE, Ready(A))
    assert steps(farm, SQUARE) == [
        NodeJoined(farm.peers[ONE], A),
        AskData(A),
        Send(ONE, Task(A, TaskId(0), Attempt(0), SQUARE)),
    ]
    farm.message(ONE, Result(A, TaskId(0), Attempt(0), 2.0, (b"4",)))
    merge, *rest = steps(farm)
    assert isinstance(merge, Merge)
    assert (merge.task.id, merge.node, merge.seconds, merge.payload) == (0, A, 2.0, (b"4",))
    assert rest == [AskData(A)]


def test_many_small_tasks_are_sent_together_and_large_ones_alone() -> None:
    large = (bytes(SMALL_PAYLOAD + 1),)
    several = [*[SQUARE] * 3, large, *[(bytes(SMALL_PAYLOAD),)] * (RUN_BYTES // SMALL_PAYLOAD + 1)]
    farm, sent = with_many(*several)
    assert list(map(type, sent)) == [Tasks, Task, Tasks, Tasks]
    assert sent[0] == Tasks(A, [(TaskId(task), Attempt(0), SQUARE) for task in (1, 2, 3)])
    assert sent[1] == Task(A, TaskId(4), Attempt(0), large)
    assert farm.scheduler.running == len(several)


def with_many(*payloads: Parts) -> tuple[Farm, list[Message]]:
    """Return a farm whose node A has been given these, as tasks from 1, and the messages for that."""
    farm = farm_with(ONE, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    farm.message(ONE, Result(A, TaskId(0), Attempt(0), 0.0, (b"4",)))
    while not isinstance(step := farm.next_step(), AskData):
        assert isinstance(step, Merge)
        farm.scheduler.settled(step.task)
    return farm, [send.message for send in farm.give((payload, None) for payload in payloads)]


@pytest.mark.parametrize("size", [1, 100, SMALL_PAYLOAD])
def test_no_message_with_tasks_is_too_long(size: int) -> None:
    farm, sent = with_many(*[(bytes(size),)] * MAX_DEPTH)
    assert farm.scheduler.nodes[A].load == MAX_DEPTH
    tasks = [task for message in sent if isinstance(message, Tasks) for task, _, _ in message.run]
    assert tasks == list(range(1, MAX_DEPTH + 1))
    assert max(sum(map(len, encode(message))) for message in sent) < MAX_TEXT


def test_the_order_of_tasks_is_that_of_their_hand_out_whatever_their_size() -> None:
    large = (bytes(SMALL_PAYLOAD + 1),)
    _, sent = with_many(large, SQUARE, large, large, SQUARE, SQUARE)
    assert list(map(type, sent)) == [Task, Tasks, Task, Task, Tasks]
    order: list[int] = []
    for message in sent:
        if isinstance(message, Tasks):
            order += [task for task, _, _ in message.run]
        elif isinstance(message, Task):
            order.append(message.task)
    assert order == [1, 2, 3, 4, 5, 6]


def test_one_task_is_no_run() -> None:
    _, sent = with_many(SQUARE)
    assert sent == [Task(A, TaskId(1), Attempt(0), SQUARE)]


def test_an_empty_payload_in_a_run_is_a_result_that_cannot_be_rebuilt_like_any_other() -> None:
    """Who calls the hook looks at its first piece, and finds nothing there."""
    farm, _ = with_many(SQUARE, SQUARE)
    answers = [(TaskId(1), Attempt(0), 0.5, (b"4",)), (TaskId(2), Attempt(0), 0.5, (b"",))]
    farm.message(ONE, Results(A, answers))
    merged = [step.payload for step in steps(farm) if isinstance(step, Merge)]
    assert merged == [(b"4",), (b"",)]


def test_a_message_with_no_results_at_all_does_nothing() -> None:
    farm, _ = with_many(SQUARE, SQUARE)
    farm.message(ONE, Results(A, []))
    farm.message(ONE, Results(B, []))
    assert list(farm.scheduler.nodes[A].open) == [1, 2]


def test_results_of_a_node_that_is_gone_are_nobodys_but_its_agent_may_forget_them() -> None:
    farm, _ = with_many(SQUARE, SQUARE)
    farm.message(ONE, NodeGone(A, True, True, "signal 9", ""))
    steps(farm)
    answers = [(TaskId(task), Attempt(0), 0.5, (b"4",)) for task in (1, 2)]
    farm.message(ONE, Results(A, answers))
    farm.message(ONE, Heartbeat())
    farm.acknowledge()
    assert steps(farm) == [Send(ONE, Taken(3))]


def test_what_a_node_that_is_gone_has_dropped_is_where_it_was() -> None:
    farm, _ = with_many(SQUARE, SQUARE)
    farm.message(ONE, NodeGone(A, True, True, "signal 9", ""))
    steps(farm)
    farm.message(ONE, Dropped(A, TaskId(1), Attempt(0)))
    assert farm.scheduler.waiting == 2


def test_what_waits_on_one_agents_node_goes_to_that_of_another() -> None:
    farm, _ = with_many(*[SQUARE] * 5)
    farm.scheduler.exhaust()
    farm.connected(TWO, "10.0.0.8:4000", now=1.0)
    farm.message(TWO, HELLO)
    farm.message(TWO, Ready(B))
    steps(farm)
    farm.tick(11.0)
    assert steps(farm) == [
        Send(TWO, Task(B, TaskId(5), Attempt(1), SQUARE)),
        Send(ONE, Cancel(A, TaskId(5), Attempt(0))),
    ]
    farm.message(ONE, Dropped(A, TaskId(5), Attempt(0)))
    farm.message(TWO, Result(B, TaskId(5), Attempt(1), 1.0, (b"4",)))
    merge, *rest = steps(farm)
    assert isinstance(merge, Merge)
    assert (merge.task.id, merge.node) == (5, B)
    assert rest == [
        Send(TWO, Task(B, TaskId(4), Attempt(1), SQUARE)),
        Send(ONE, Cancel(A, TaskId(4), Attempt(0))),
    ]


def test_the_nodes_of_an_agent_that_is_far_away_are_sent_more() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "10.0.0.7:4000", now=0.0, delay=0.1)
    farm.message(ONE, HELLO)
    farm.message(ONE, Ready(A))
    assert farm.scheduler.nodes[A].delay == 0.1


def test_results_come_together_too() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    answer = (TaskId(0), Attempt(0), 0.5, (b"4",))
    late = (TaskId(0), Attempt(0), 0.5, (b"5",))
    with pytest.raises(MessageError, match="another agent's node"):
        farm.message(TWO, Results(A, [answer]))
    farm.message(ONE, Results(A, [answer, late]))
    merge, *rest = steps(farm)
    assert isinstance(merge, Merge)
    assert merge.payload == (b"4",)
    assert rest == [AskData(A, farm.scheduler.nodes[A].depth)]
    farm.message(ONE, Heartbeat())
    farm.acknowledge()
    assert steps(farm) == [Send(ONE, Taken(2))]


def test_a_task_that_a_node_has_dropped_is_sent_again() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    dropped = Dropped(A, TaskId(0), Attempt(0))
    with pytest.raises(MessageError, match="another agent's node"):
        farm.message(TWO, dropped)
    farm.message(ONE, dropped)
    assert steps(farm) == [Send(ONE, Task(A, TaskId(0), Attempt(1), SQUARE))]


def failure(kind: FailureKind, attempt: int = 0) -> Failure:
    return Failure(A, TaskId(0), Attempt(attempt), 1.0, kind, "ValueError: no", "Traceback", "")


@pytest.mark.parametrize("kind", [FailureKind.EXCEPTION, FailureKind.UNREADABLE_DATA])
def test_a_failed_task_is_sent_again(kind: FailureKind) -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    farm.message(ONE, failure(kind))
    retry, *rest = steps(farm)
    assert isinstance(retry, Retry)
    assert (retry.node, retry.reason, retry.remote) == (A, "ValueError: no", "Traceback")
    assert rest == [Send(ONE, Task(A, TaskId(0), Attempt(1), SQUARE))]


def test_a_result_that_cannot_be_sent_would_not_be_better_elsewhere() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    farm.message(ONE, failure(FailureKind.UNPICKLABLE_RESULT))
    fail, *rest = steps(farm)
    assert isinstance(fail, Fail)
    assert (fail.node, fail.reason, fail.remote) == (A, "ValueError: no", "Traceback")
    assert rest == [AskData(A)]


def test_a_worker_that_died() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    farm.message(TWO, Ready(B))
    steps(farm)
    farm.tick(1.0)
    assert Send(ONE, Task(A, TaskId(0), Attempt(0), SQUARE)) in steps(farm, SQUARE)
    farm.message(ONE, NodeGone(A, True, True, "signal 11", ""))
    died, retry, *rest = steps(farm)
    assert died == NodeDied(farm.peers[ONE], A, "signal 11", "")
    assert isinstance(retry, Retry)
    assert retry.reason == "its worker on host (pid 4711, 10.0.0.7:4000) died: signal 11"
    assert rest == [TellTimeout(A), Send(TWO, Task(B, TaskId(0), Attempt(1), SQUARE))]
    assert not farm.peers[ONE].nodes


def test_what_a_dead_worker_printed_last_is_told_with_its_death_and_with_the_end_of_its_task() -> (
    None
):
    farm = farm_with(ONE, nodes=(A,), job=replace(JOB, policy=Policy(max_attempts=1)))
    farm.tick(1.0)
    steps(farm, SQUARE)
    farm.message(ONE, NodeGone(A, True, True, "signal 11", "row 7\n  of 9"))
    died, fail, *_ = steps(farm)
    printed = "the last lines that it printed:\n    row 7\n      of 9"
    assert died == NodeDied(farm.peers[ONE], A, "signal 11", printed)
    assert isinstance(fail, Fail)
    assert fail.remote == printed
    assert fail.reason.endswith("died: signal 11")


SPECULATE = replace(JOB, policy=Policy(speculate=True))


def test_a_node_that_computes_in_vain_hears_of_it_and_its_end_is_no_death() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,), job=SPECULATE)
    farm.message(TWO, Ready(B))
    farm.tick(1.0)
    steps(farm, SQUARE, SQUARE)
    farm.message(TWO, Result(B, TaskId(1), Attempt(0), 1.0, (b"4",)))
    steps(farm)
    farm.tick(4.0)
    assert Send(TWO, Task(B, TaskId(0), Attempt(1), SQUARE)) in steps(farm)
    farm.message(TWO, Result(B, TaskId(0), Attempt(1), 1.0, (b"4",)))
    merge, cancel, *_ = steps(farm)
    assert isinstance(merge, Merge)
    assert cancel == Send(ONE, Cancel(A, TaskId(0), Attempt(0)))
    farm.message(ONE, NodeGone(A, False, False, "", ""))
    assert steps(farm)[0] == NodeEnded(farm.peers[ONE], A)
    farm.message(ONE, Ready(C))
    assert list(farm.scheduler.nodes) == [B, C]


@pytest.mark.parametrize("busy", [False, True])
def test_a_task_that_was_on_its_way_to_an_idle_worker_is_not_charged_with_its_death(
    busy: bool,
) -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    task = farm.scheduler._tasks[TaskId(0)]
    farm.message(ONE, NodeGone(A, True, busy, "signal 9", ""))
    told = steps(farm)
    assert any(isinstance(step, NodeDied) for step in told)
    assert TellTimeout(A) in told, "the node is lost in both cases"
    assert any(isinstance(step, Retry) for step in told) == busy
    assert task.failures == busy
    assert farm.scheduler.waiting == 1


def test_a_worker_that_died_before_it_was_ready_is_nobodys_business() -> None:
    farm = farm_with(ONE)
    farm.message(ONE, NodeGone(A, True, True, "signal 11", ""))
    assert steps(farm) == []


def test_a_late_result_of_a_dead_worker_is_dropped() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.message(ONE, NodeGone(A, True, True, "signal 9", ""))
    steps(farm)
    farm.message(ONE, Result(A, TaskId(0), Attempt(0), 1.0, (b"4",)))
    assert steps(farm) == []


# ---- coming and going


def test_an_agent_that_is_gone_was_lost() -> None:
    farm = farm_with(ONE, nodes=(A, B, C))
    peer = farm.peers[ONE]
    farm.tick(1.0)
    steps(farm, SQUARE)
    farm.gone(ONE, "connection reset")
    left, retry, *rest = steps(farm)
    assert left == AgentLeft(peer, True, "connection reset", "", 1)
    assert isinstance(retry, Retry)
    assert retry.reason == "host (pid 4711, 10.0.0.7:4000) was lost: connection reset"
    assert rest == [TellTimeout(A), TellTimeout(B), TellTimeout(C)]
    assert not farm.peers
    assert not farm.scheduler.nodes
    assert farm.scheduler.waiting == 1


def test_an_agent_that_says_goodbye_hands_its_tasks_back() -> None:
    farm = farm_with(ONE, nodes=(A,))
    peer = farm.peers[ONE]
    farm.tick(1.0)
    steps(farm, SQUARE)
    farm.message(ONE, Goodbye("stopped by signal 15", ""))
    assert steps(farm) == [Drop(ONE), AgentLeft(peer, False, "stopped by signal 15", "", 1)]
    farm.gone(ONE, "closed")
    assert steps(farm) == []
    assert farm.scheduler.waiting == 1


def test_a_goodbye_may_carry_the_reason_why_no_worker_starts() -> None:
    farm = farm_with(ONE)
    peer = farm.peers[ONE]
    farm.message(ONE, Goodbye("workers cannot start here", "Traceback"))
    assert steps(farm) == [
        Drop(ONE),
        AgentLeft(peer, False, "workers cannot start here", "Traceback", 0),
    ]


def test_an_agent_that_goes_before_its_welcome_is_not_lost() -> None:
    farm = Farm(JOB)
    farm.connected(ONE, "address", now=0.0)
    peer = farm.peers[ONE]
    farm.gone(ONE, "reset")
    assert steps(farm) == [AgentLeft(peer, False, "reset", "", 0)]
    farm.message(ONE, HELLO)
    farm.heard(ONE, 1.0)
    assert steps(farm) == []
    assert farm.deadline is None


# ---- silence


def test_a_silent_agent_is_lost_at_the_deadline() -> None:
    farm = farm_with(ONE, TWO)
    one = farm.peers[ONE]
    farm.heard(TWO, 5.0)
    assert farm.heard_at == {ONE: 0.0, TWO: 5.0}
    assert farm.deadline == 30.0
    farm.tick(29.9)
    assert steps(farm) == []
    farm.tick(30.0)
    silence = "nothing heard for 30 s (heartbeat_timeout)"
    assert steps(farm) == [Drop(ONE), AgentLeft(one, True, silence, "", 0)]
    assert farm.deadline == 35.0


def test_any_bytes_count_as_life() -> None:
    farm = farm_with(ONE)
    farm.heard(ONE, 29.0)
    farm.tick(58.0)
    assert steps(farm) == []
    assert farm.deadline == 59.0


def test_a_heartbeat_needs_no_answer() -> None:
    farm = farm_with(ONE)
    farm.message(ONE, Heartbeat())
    assert steps(farm) == []


def test_time_in_which_the_server_did_not_listen_does_not_count() -> None:
    farm = farm_with(ONE, TWO)
    farm.heard(ONE, 1.0)
    farm.forgive(100.0)
    farm.tick(101.0)
    assert steps(farm) == []
    assert farm.deadline == 130.0


def test_a_deadline_that_has_come_is_always_acted_upon() -> None:
    """Else the loop would wake up at once, again and again."""
    for heard in (0.1, 0.7, 12345.678901, 1e9 + 0.1):
        farm = farm_with(ONE, job=replace(JOB, heartbeat_timeout=10.1))
        farm.heard(ONE, heard)
        deadline = farm.deadline
        assert deadline is not None
        farm.tick(deadline)
        assert not farm.peers


def test_the_deadline_is_also_that_of_asking_again() -> None:
    farm = farm_with(ONE, nodes=(A,))
    assert farm.deadline == farm.scheduler.deadline == 0.05
    assert farm.tick(0.05)
    assert steps(farm) == [AskData(A)]
    assert not farm.tick(0.06)


# ---- the end


def test_everybody_is_sent_home() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    assert farm.quit(QuitKind.DONE, "the job is done") == 1
    home = Quit(QuitKind.DONE, "the job is done")
    assert steps(farm) == [Send(ONE, home), Send(TWO, home)]


def test_late_messages_after_the_end_are_ignored() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.tick(1.0)
    steps(farm, SQUARE)
    farm.quit(QuitKind.STOPPED, "")
    steps(farm)
    farm.message(ONE, Result(A, TaskId(0), Attempt(0), 1.0, ()))
    farm.message(ONE, Ready(B))
    farm.message(ONE, Goodbye("", ""))
    assert steps(farm) == []


def test_agents_that_go_after_the_end_are_not_lost_and_no_timeout_is_told() -> None:
    farm = farm_with(ONE, nodes=(A,))
    peer = farm.peers[ONE]
    farm.quit(QuitKind.DONE, "")
    steps(farm)
    farm.gone(ONE, "closed")
    assert steps(farm) == [AgentLeft(peer, False, "closed", "", 0)]


def test_nobody_is_asked_again_after_the_end() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.quit(QuitKind.DONE, "")
    steps(farm)
    assert farm.deadline == 30.0
    assert not farm.tick(1.0)


def test_no_hook_is_called_after_the_end() -> None:
    """An agent that has just come is sent home like the others, without init data."""
    farm = Farm(replace(JOB, has_init=True))
    farm.connected(ONE, "address", now=0.0)
    farm.message(ONE, HELLO)
    farm.quit(QuitKind.DONE, "")
    assert steps(farm) == [Send(ONE, Quit(QuitKind.DONE, ""))]


def test_all_nodes_of_an_agent_have_to_go_when_it_has() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    farm.heard(ONE, 10.0)
    farm.message(ONE, TimeLeft(60.0))
    farm.message(ONE, Ready(B))
    farm.message(TWO, Ready(C))
    nodes = farm.scheduler.nodes
    assert [nodes[key].ends_at for key in (A, B, C)] == [70.0, 70.0, None]
    farm.heard(ONE, 20.0)
    farm.message(ONE, TimeLeft(10.0))
    assert [nodes[key].ends_at for key in (A, B)] == [30.0, 30.0]


def test_who_has_too_little_time_left_for_anything_is_let_go() -> None:
    """Its place in a batch system is worth more empty."""
    farm = farm_with(ONE, TWO, nodes=(A,))
    peer = farm.peers[ONE]
    farm.heard(ONE, 0.0)
    farm.message(ONE, TimeLeft(20.0))
    farm.message(ONE, Ready(B))
    farm.message(TWO, Ready(C))
    steps(farm, SQUARE, SQUARE, SQUARE)
    farm.scheduler.exhaust()
    for node, now in ((A, 12.0), (B, 13.0)):
        farm.tick(now)
        assert farm.peers[ONE] is peer, "one of its nodes is busy"
        [(task, attempt)] = farm.scheduler.nodes[node].open.items()
        farm.message(ONE, Result(node, task, attempt, 12.0, SQUARE))
        steps(farm)
    assert farm.deadline == 0.0, "at once"
    farm.tick(13.0)
    reason = "there is too little time left for another task"
    assert steps(farm) == [
        Send(ONE, Quit(QuitKind.OUT_OF_TIME, reason)),
        Drop(ONE),
        AgentLeft(peer, False, reason, "", 0),
    ]
    assert list(farm.scheduler.nodes) == [C]
    assert farm.deadline is not None
