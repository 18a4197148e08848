"""Connections that break and come back, on both sides, as whole lists of steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_crew import HELLO as CREW_HELLO
from test_crew import RESULT, SEED, TASK, WELCOME, at_work, welcomed
from test_crew import steps as crew_steps
from test_farm import HELLO, JOB, ONE, SQUARE, TWO, A, B, C, farm_with, steps, welcome

from parasnake.core import tasks
from parasnake.core.crew import (
    Away,
    Crew,
    EndWorker,
    HangUp,
    Joined,
    Leave,
    StartWorker,
    ToServer,
    ToWorker,
    WorkerDied,
)
from parasnake.core.farm import (
    MAX_HELD,
    TAKEN_ANSWERS,
    TAKEN_BYTES,
    AgentJoined,
    AgentLeft,
    Drop,
    Farm,
    NodeJoined,
    Send,
)
from parasnake.core.ids import Attempt, JobId, NodeKey, TaskId
from parasnake.core.memory import LARGE_BYTES
from parasnake.core.messages import (
    AskInit,
    Cancel,
    Failure,
    Goodbye,
    Heartbeat,
    Held,
    Hello,
    Init,
    Message,
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
    Want,
)
from parasnake.core.tasks import Merge, Policy, Retry, TellTimeout, digest_of
from parasnake.errors import ConnectionLostError, MessageError

OTHER_JOB = WELCOME._replace(job=JobId(b"of another job.."))
BACK = CREW_HELLO._replace(job=WELCOME.job.hex())
SENDING = TaskId(3), Attempt(1)


# ---- the agent's side


def away(crew: Crew) -> Crew:
    """The connection breaks."""
    crew.lost_server("reset by peer")
    assert crew_steps(crew) == [Away("reset by peer")]
    assert not crew.is_in
    return crew


def back(crew: Crew) -> list[Message]:
    """It comes back to the same job; returns what the agent tells."""
    crew.connected()
    assert crew_steps(crew) == [ToServer(BACK)]
    crew.message(WELCOME._replace(payload=()))
    joined, *told = crew_steps(crew)
    assert joined == Joined([], back=True)
    assert crew.is_in
    return [step.message for step in told if isinstance(step, ToServer)]


def held(finished: bool, task: Task = TASK) -> Held:
    return Held(task.node, task.task, task.attempt, digest_of(task.payload), finished)


def test_whether_a_connection_was_of_use() -> None:
    crew = at_work()
    assert not crew.was_served
    crew.message(TASK)
    crew_steps(crew)
    assert crew.was_served
    assert not away(crew).was_served
    back(crew)
    assert not crew.was_served
    crew.message(TASK._replace(task=TaskId(9)))
    assert crew.was_served


def test_an_idle_worker_stays_ready() -> None:
    crew = away(at_work())
    assert back(crew) == [Ready(A)]
    assert crew.workers[A].ready


def test_a_running_task_is_reported_and_its_result_goes_to_the_server() -> None:
    crew = at_work()
    crew.message(TASK)
    crew_steps(crew)
    away(crew)
    assert back(crew) == [held(False), Ready(A)]
    crew.worker_message(A, RESULT)
    assert crew_steps(crew) == [ToServer(RESULT)]


@pytest.mark.parametrize("finished", [False, True])
def test_of_large_data_only_the_digest_is_kept(finished: bool) -> None:
    data = bytearray(LARGE_BYTES)
    crew = at_work()
    crew.message(TASK._replace(payload=(memoryview(data),)))
    crew_steps(crew)
    data.append(0)  # a BufferError if anybody could still look into it
    if finished:
        crew.worker_message(A, RESULT)
        crew_steps(crew)
    away(crew)
    assert back(crew) == [held(finished, TASK._replace(payload=(bytes(LARGE_BYTES),))), Ready(A)]


SIZES = [0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 10 * LARGE_BYTES + 7]


@pytest.mark.parametrize("size", SIZES)
def test_a_digest_is_that_of_the_bytes_wherever_they_are_cut(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    digest = digest_of((data,))
    assert len(digest) == 16
    for cut in (0, 1, size // 2, size - 1):
        assert digest_of((data[:cut], memoryview(data)[cut:])) == digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_MAC_STEP", LARGE_BYTES // 3)  # as if it were several GiB
        assert digest_of((data,)) == digest
    others = [data + b"\0", data[:-1], data[1:], data[: size // 2] + b"?" + data[size // 2 + 1 :]]
    assert digest not in {digest_of((other,)) for other in others if other != data}


def test_each_of_many_small_results_is_reported_until_it_is_safe() -> None:
    crew = at_work()
    crew.message(Tasks(A, [(TaskId(task), Attempt(0), (b"data",)) for task in range(4)]))
    answers = [(TaskId(task), Attempt(0), 0.5, (b"result",)) for task in range(4)]
    crew.worker_message(A, Results(A, answers[:1]))
    crew.worker_message(A, Results(A, answers[1:3]))
    crew.message(Taken(1))
    crew_steps(crew)
    away(crew)
    crew.worker_message(A, Results(A, answers[3:]))
    assert back(crew) == [
        *(Held(A, TaskId(task), Attempt(0), digest_of((b"data",)), True) for task in (1, 2, 3)),
        Ready(A),
    ]
    crew.message(Want(A, TaskId(2), Attempt(0)))
    assert crew_steps(crew) == [ToServer(Result(A, *answers[2]))]


THREE = [(TaskId(task), Attempt(0), 0.5, (b"result",)) for task in range(3)]


def with_three_in_one_message() -> Crew:
    crew = at_work()
    crew.message(Tasks(A, [(task, attempt, (b"data",)) for task, attempt, *_ in THREE]))
    crew.worker_message(A, Results(A, THREE))
    crew_steps(crew)
    return crew


def held_of_three(*tasks: int) -> list[Message]:
    return [Held(A, TaskId(task), Attempt(0), digest_of((b"data",)), True) for task in tasks]


def test_a_message_of_which_some_results_are_safe_is_reported_as_a_whole() -> None:
    """The server forgets what it has merged, and says so."""
    crew = with_three_in_one_message()
    crew.message(Taken(2))
    away(crew)
    assert back(crew) == [*held_of_three(0, 1, 2), Ready(A)]
    for task in (0, 1):
        crew.message(Cancel(A, TaskId(task), Attempt(0)))
    crew.message(Want(A, TaskId(2), Attempt(0)))
    assert crew_steps(crew) == [ToServer(Result(A, *THREE[2]))]
    away(crew)
    assert back(crew) == [*held_of_three(2), Ready(A)]


def test_when_all_of_it_is_safe_it_is_forgotten() -> None:
    crew = with_three_in_one_message()
    crew.message(Taken(2))
    crew.message(Taken(3))
    with pytest.raises(MessageError, match="Taken of more answers"):
        crew.message(Taken(4))
    away(crew)
    assert back(crew) == [Ready(A)]


def test_each_is_sent_once_however_often_it_is_wanted() -> None:
    crew = with_three_in_one_message()
    away(crew)
    back(crew)
    for _ in range(2):
        crew.message(Want(A, TaskId(1), Attempt(0)))
    assert crew_steps(crew) == [ToServer(Result(A, *THREE[1]))]
    crew.message(Taken(1))
    away(crew)
    assert back(crew) == [*held_of_three(0, 2), Ready(A)]


def test_what_a_dead_worker_had_sent_in_runs_is_not_reported() -> None:
    crew = with_three_in_one_message()
    crew.worker_gone(A, "signal 9")
    crew_steps(crew)
    away(crew)
    assert back(crew) == []


def test_what_was_taken_from_a_node_is_not_its_own_any_more() -> None:
    crew = at_work()
    tasks = [TASK._replace(task=TaskId(task)) for task in range(3)]
    for task in tasks:
        crew.message(task)
    crew.message(Cancel(A, TaskId(1), TASK.attempt))
    away_with_steps(crew)
    assert back(crew) == [held(False, tasks[0]), held(False, tasks[2]), Ready(A)]


def test_the_results_of_a_worker_that_died_are_not_reported() -> None:
    crew = at_work()
    crew.message(TASK)
    crew.worker_message(A, RESULT)
    crew.worker_gone(A, "signal 9")
    crew_steps(crew)
    away(crew)
    assert back(crew) == []


def test_a_failure_does_not_outlive_its_connection() -> None:
    """The server may have charged it already, on this connection or before a restart."""
    failure = Failure(A, *SENDING, 1.0, 0, "oops", "", "")
    crew = at_work()
    crew.message(TASK)
    crew.worker_message(A, failure)
    crew_steps(crew)
    away(crew)
    assert back(crew) == [Ready(A)]
    crew.message(TASK)  # it may come again, also to the same node
    crew.worker_message(A, failure)
    assert crew_steps(crew) == [ToWorker(A, TASK), ToServer(failure)]


def test_what_was_finished_meanwhile_is_sent_when_it_is_wanted() -> None:
    crew = at_work()
    crew.message(TASK)
    crew_steps(crew)
    away(crew)
    crew.worker_message(A, RESULT)
    assert crew_steps(crew) == []
    assert back(crew) == [held(True), Ready(A)]
    crew.message(Want(A, *SENDING))
    assert crew_steps(crew) == [ToServer(RESULT)]


def test_or_dropped_when_it_is_not() -> None:
    crew = at_work()
    crew.message(TASK)
    away_with_steps(crew)
    crew.worker_message(A, RESULT)
    back(crew)
    crew.message(Cancel(A, *SENDING))
    crew.message(Want(A, *SENDING))
    crew.message(Cancel(B, *SENDING))
    crew.message(Want(B, *SENDING))
    assert crew_steps(crew) == []
    away(crew)
    assert back(crew) == [Ready(A)]


def away_with_steps(crew: Crew) -> None:
    crew_steps(crew)
    away(crew)


def test_an_answer_is_kept_until_it_is_safe() -> None:
    """What was sent into a connection that has broken may have arrived, or not."""
    crew = at_work()
    crew.message(TASK)
    crew.worker_message(A, RESULT)
    away_with_steps(crew)
    assert back(crew) == [held(True), Ready(A)]
    crew.message(Want(A, *SENDING))
    crew.message(Taken(1))
    away_with_steps(crew)
    assert back(crew) == [Ready(A)]


def test_also_one_of_a_worker_that_has_died_since() -> None:
    crew = at_work()
    crew.message(TASK)
    crew.worker_message(A, RESULT)
    crew.worker_gone(A, "signal 9")
    crew_steps(crew)
    crew.message(Taken(1))
    with pytest.raises(MessageError, match="Taken of more answers"):
        crew.message(Taken(2))


def test_many_are_kept_in_their_order() -> None:
    crew = at_work()
    tasks = [TASK._replace(task=TaskId(n), payload=(bytes([n]),)) for n in range(4)]
    for task in tasks:
        crew.message(task)
    for task in tasks[:2]:
        crew.worker_message(A, RESULT._replace(task=task.task))
    crew.message(Taken(1))
    away_with_steps(crew)
    crew.worker_message(A, RESULT._replace(task=TaskId(2)))
    assert back(crew) == [held(n < 3, tasks[n]) for n in (1, 2, 3)] + [Ready(A)]


def test_a_worker_must_not_answer_what_it_was_not_asked() -> None:
    crew = at_work()
    with pytest.raises(MessageError, match="not asked"):
        crew.worker_message(A, RESULT)


def test_a_worker_that_starts_meanwhile_gets_the_init_data_that_is_known() -> None:
    crew = at_work()
    crew.worker_gone(A, "signal 9")
    crew_steps(crew)
    away(crew)
    crew.started(0, B)
    assert crew_steps(crew) == [ToWorker(B, Init(B, SEED, (b"init",)))]
    crew.worker_message(B, Ready(B))
    assert back(crew) == [Ready(B)]


def test_or_asks_for_its_own_when_there_is_a_server_to_ask() -> None:
    crew = welcomed(welcome=WELCOME._replace(init_per_node=True, payload=()))
    crew.lost_server("reset")
    crew.started(0, A)
    crew_steps(crew)
    assert back_with_init_per_node(crew) == [AskInit(A)]
    crew.message(Init(A, SEED, (b"for a",)))
    crew.lost_server("reset")
    crew_steps(crew)
    assert back_with_init_per_node(crew) == []
    crew.worker_message(A, Ready(A))
    assert crew_steps(crew) == [ToServer(Ready(A))]


def back_with_init_per_node(crew: Crew) -> list[Message]:
    crew.connected()
    crew.message(WELCOME._replace(init_per_node=True, payload=()))
    hello, joined, *told = crew_steps(crew)
    assert (hello, joined) == (ToServer(BACK), Joined([], back=True))
    return [step.message for step in told if isinstance(step, ToServer)]


def test_a_worker_that_dies_meanwhile_is_replaced() -> None:
    crew = away(at_work())
    crew.worker_gone(A, "signal 9")
    assert crew_steps(crew) == [WorkerDied(A, "signal 9", busy=False), StartWorker(0)]


def test_for_another_job_all_begins_afresh() -> None:
    crew = at_work()
    crew.message(TASK)
    away_with_steps(crew)
    crew.worker_message(A, RESULT)
    crew.connected()
    crew.message(OTHER_JOB)
    assert crew_steps(crew) == [
        ToServer(BACK),
        EndWorker(A),
        Joined([], afresh=True),
        StartWorker(0),
    ]
    assert crew.welcome == OTHER_JOB
    assert not crew.workers


def test_a_start_that_was_due_for_the_old_job_is_not_done_twice() -> None:
    crew = away(at_work())
    crew.worker_gone(A, "signal 9")
    crew.connected()
    crew.message(OTHER_JOB)
    assert [step for step in crew_steps(crew) if isinstance(step, StartWorker)] == [StartWorker(0)]


def test_a_node_that_cannot_begin_afresh_ends() -> None:
    crew = away(at_work(replace=False))
    crew.connected()
    crew.message(OTHER_JOB)
    hello, goodbye, leave = crew_steps(crew)
    assert hello == ToServer(BACK)
    assert isinstance(goodbye, ToServer)
    assert isinstance(goodbye.message, Goodbye)
    assert isinstance(leave, Leave)
    assert isinstance(leave.error, ConnectionLostError)


def test_a_refusal_is_no_end_any_more() -> None:
    crew = away(at_work())
    crew.connected()
    crew.message(Refused(RefusalKind.APP, "another app"))
    assert crew_steps(crew) == [
        ToServer(BACK),
        HangUp("the server refuses this node: another app"),
    ]
    crew.lost_server("refused")
    assert crew_steps(crew) == []


def test_a_quit_is() -> None:
    crew = away(at_work())
    crew.connected()
    crew.message(Quit(QuitKind.DONE, ""))
    assert crew_steps(crew)[-1] == Leave("the job is done", None)
    crew.give_up("too late")
    crew.lost_server("closed")
    assert crew_steps(crew) == []


def test_nobody_gives_up_who_is_back() -> None:
    crew = away(at_work())
    back(crew)
    crew.give_up("just too late")
    assert crew_steps(crew) == []


# ---- the server's side

RETURNED = HELLO._replace(job=JOB.id.hex())
DIGEST = digest_of(SQUARE)


def lost_at_work() -> Farm:
    """Agent ``ONE`` was lost while its node ``A`` computed task 0."""
    farm = farm_with(ONE, nodes=(A,))
    farm.scheduler.tick(10.0)
    assert Send(ONE, Task(A, TaskId(0), Attempt(0), SQUARE)) in steps(farm, SQUARE)
    farm.gone(ONE, "reset")
    kinds = [type(step) for step in steps(farm)]
    assert kinds == [AgentLeft, Retry, TellTimeout]
    return farm


def returned(farm: Farm, *holds: Message, hello: Hello = RETURNED) -> list[object]:
    farm.connected(TWO, "10.0.0.7:4001", now=20.0)
    farm.message(TWO, hello)
    for message in holds:
        farm.message(TWO, message)
    return list(steps(farm))


def test_an_agent_is_back_with_a_finished_task() -> None:
    farm = lost_at_work()
    got = returned(farm, Held(A, TaskId(0), Attempt(0), DIGEST, True), Ready(A))
    peer = farm.peers[TWO]
    assert peer.returned
    assert got == [
        Send(TWO, welcome()),
        AgentJoined(peer, []),
        NodeJoined(peer, A),
        Send(TWO, Want(A, TaskId(0), Attempt(0))),
    ]
    farm.message(TWO, Result(A, TaskId(0), Attempt(0), 1.0, (b"result",)))
    assert isinstance(steps(farm)[0], Merge)


def test_with_a_finished_task_that_nobody_wants() -> None:
    farm = lost_at_work()
    got = returned(farm, Held(A, TaskId(0), Attempt(0), bytes(16), True), Ready(A))
    assert Send(TWO, Cancel(A, TaskId(0), Attempt(0))) in got


def test_with_one_that_it_computes_still() -> None:
    farm = lost_at_work()
    got = returned(farm, Held(A, TaskId(0), Attempt(0), DIGEST, False), Ready(A))
    assert got[2:] == [NodeJoined(farm.peers[TWO], A)]
    assert farm.scheduler.nodes[A].open == {0: 0}


@pytest.mark.parametrize("by_node", [False, True])
def test_with_one_that_it_computes_in_vain(by_node: bool) -> None:
    """Where users keep books of nodes, it is not ended for that."""
    farm = lost_at_work()
    farm.job = replace(farm.job, policy=Policy(by_node=by_node))
    got = returned(farm, Held(A, TaskId(0), Attempt(0), bytes(16), False), Ready(A))
    assert (Send(TWO, Cancel(A, TaskId(0), Attempt(0))) in got) is not by_node
    assert farm.scheduler.nodes[A].unwanted == {(0, 0)}


def test_init_data_is_not_sent_again() -> None:
    farm = farm_with(job=replace(JOB, has_init=True))
    assert returned(farm)[0] == Send(TWO, welcome(farm.job))


def test_an_agent_may_be_back_before_its_old_connection_ends() -> None:
    farm = farm_with(ONE, nodes=(A, B))
    old = farm.peers[ONE]
    got = returned(farm, Held(A, TaskId(0), Attempt(0), DIGEST, False), Ready(A), Ready(B))
    peer = farm.peers[TWO]
    assert got[2:7] == [
        Drop(ONE),
        AgentLeft(old, True, "it came back on another connection", "", 0),
        NodeJoined(peer, A),
        Send(TWO, Cancel(A, TaskId(0), Attempt(0))),
        NodeJoined(peer, B),
    ]
    assert ONE not in farm.peers
    assert farm.scheduler.nodes[A].peer == farm.scheduler.nodes[B].peer == TWO


@pytest.mark.parametrize("hello", [HELLO, HELLO._replace(job=bytes(16).hex())])
def test_only_who_has_worked_for_this_job_can_be_back(hello: Hello) -> None:
    farm = lost_at_work()
    with pytest.raises(MessageError, match="has not returned to this job"):
        returned(farm, Held(A, TaskId(0), Attempt(0), DIGEST, True), hello=hello)


def test_held_comes_before_ready() -> None:
    farm = lost_at_work()
    with pytest.raises(MessageError, match="has not returned"):
        returned(farm, Ready(A), Held(A, TaskId(0), Attempt(0), DIGEST, True))


def test_a_node_cannot_hold_the_world() -> None:
    farm = lost_at_work()
    holds = [Held(A, TaskId(n), Attempt(0), DIGEST, True) for n in range(MAX_HELD)]
    with pytest.raises(MessageError, match="holds more than"):
        returned(farm, *holds, holds[0])


# ---- which answers are safe


def answer(farm: Farm, task: int, node: NodeKey = A, size: int = 1) -> None:
    payload: Parts = (bytes(size),)
    farm.message(ONE, Result(node, TaskId(task), Attempt(0), 1.0, payload))


def taken(farm: Farm) -> list[Send]:
    """Acknowledge; return the messages about that."""
    farm.acknowledge()
    sent = [step for step in steps(farm, SQUARE) if isinstance(step, Send)]
    return [step for step in sent if isinstance(step.message, Taken)]


def test_an_agent_hears_after_some_answers_that_they_are_safe() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.scheduler.tick(10.0)
    for number in range(TAKEN_ANSWERS):
        assert taken(farm) == []
        answer(farm, number)
    assert taken(farm) == []  # the hook is being called only now
    assert taken(farm) == [Send(ONE, Taken(TAKEN_ANSWERS))]
    assert taken(farm) == []


def test_or_after_a_large_one() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.scheduler.tick(10.0)
    taken(farm)
    answer(farm, 0, size=TAKEN_BYTES)
    steps(farm)
    assert taken(farm) == [Send(ONE, Taken(1))]


def test_or_with_a_heartbeat() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.scheduler.tick(10.0)
    taken(farm)
    farm.message(ONE, Heartbeat())
    assert taken(farm) == []
    failure = Failure(A, TaskId(0), Attempt(0), 1.0, 0, "oops", "", "")
    farm.message(ONE, failure)
    farm.message(ONE, Heartbeat())
    assert taken(farm) == [Send(ONE, Taken(1))]


def test_only_what_is_on_disk_is_safe_where_there_is_a_disk() -> None:
    farm = farm_with(ONE, nodes=(A,))
    farm.scheduler.tick(10.0)
    taken(farm)
    answer(farm, 0)
    farm.message(ONE, Heartbeat())
    steps(farm)
    farm.acknowledge(settled=0)
    assert steps(farm) == []
    farm.acknowledge(settled=1)
    assert steps(farm) == [Send(ONE, Taken(1))]


def test_in_order_an_answer_is_not_safe_before_its_turn() -> None:
    farm = farm_with(ONE, job=replace(JOB, policy=Policy(ordered=True)), nodes=(A, B, C))
    farm.scheduler.tick(10.0)
    steps(farm, *[SQUARE] * 3)
    answer(farm, 2, node=C)
    farm.message(ONE, Heartbeat())
    assert taken(farm) == []
    answer(farm, 0, node=A)
    assert taken(farm) == []
    assert taken(farm) == []  # one hook has been called, but that of another task
    answer(farm, 1, node=B)
    assert taken(farm) == []
    assert taken(farm) == [Send(ONE, Taken(1))]


def test_who_is_gone_hears_nothing() -> None:
    farm = farm_with(ONE, TWO, nodes=(A,))
    farm.message(TWO, Ready(B))
    farm.scheduler.tick(10.0)
    steps(farm, SQUARE, SQUARE)
    answer(farm, 0)
    farm.message(ONE, Heartbeat())
    farm.acknowledge()
    farm.gone(ONE, "reset")
    assert taken(farm) == []
    farm.message(TWO, Result(B, TaskId(1), Attempt(0), 1.0, (b"result",)))
    farm.message(TWO, Heartbeat())
    farm.gone(TWO, "reset")
    assert taken(farm) == []


@pytest.mark.parametrize("finished", [False, True])
def test_what_another_process_has_computed_is_not_wanted(finished: bool) -> None:
    farm = lost_at_work()
    hello = RETURNED._replace(digest="an0ther")
    got = returned(farm, Held(A, TaskId(0), Attempt(0), DIGEST, finished), Ready(A), hello=hello)
    (joined,) = (step for step in got if isinstance(step, AgentJoined))
    assert "the code of the process hook is not the same" in joined.differences[0]
    assert Send(TWO, Cancel(A, TaskId(0), Attempt(0))) in got
    farm.message(TWO, Result(A, TaskId(0), Attempt(0), 1.0, (b"result",)))
    assert not any(isinstance(step, Merge) for step in steps(farm))
    assert farm.scheduler.nodes[A].open == {0: 1}, "it computes it again"


@pytest.mark.parametrize(("here", "there"), [("", "d1gest"), ("d1gest", "")])
def test_where_nobody_knows_the_code_results_are_wanted(here: str, there: str) -> None:
    farm = lost_at_work()
    farm.job = replace(JOB, digest=here)
    hello = RETURNED._replace(digest=there)
    got = returned(farm, Held(A, TaskId(0), Attempt(0), DIGEST, True), Ready(A), hello=hello)
    assert Send(TWO, Want(A, TaskId(0), Attempt(0))) in got
