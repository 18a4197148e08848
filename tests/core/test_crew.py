"""The agent's decisions between its server and its workers, as whole lists of steps."""

from __future__ import annotations

import pytest

from parasnake.core.crew import (
    MAX_FAILED_STARTS,
    WORTH_ENDING_S,
    Away,
    Crew,
    EndWorker,
    Joined,
    Leave,
    StartWorker,
    Step,
    ToServer,
    ToWorker,
    WorkerDied,
)
from parasnake.core.ids import Attempt, JobId, NodeKey, TaskId
from parasnake.core.messages import (
    PROTOCOL_VERSION,
    AskInit,
    Cancel,
    Dropped,
    Failure,
    Goodbye,
    Hello,
    Init,
    Message,
    NodeBroken,
    NodeGone,
    Pace,
    Quit,
    QuitKind,
    Ready,
    RefusalKind,
    Refused,
    Result,
    Results,
    Task,
    Tasks,
    TimeLeft,
    Welcome,
)
from parasnake.errors import (
    ConnectionLostError,
    Interrupted,
    MessageError,
    NodeFailed,
    RefusedError,
)

HELLO = Hello(PROTOCOL_VERSION, 4711, "0.2.0", "3.11.7", "squares", "d1gest", "host")
SEED = b"the seed of jobs"
WELCOME = Welcome(JobId(bytes(16)), 10.0, False, SEED, 0.0, "3.11.7", "d1gest", (b"init",))
A, B, C = (NodeKey(letter * 16) for letter in (b"a", b"b", b"c"))
TASK = Task(A, TaskId(3), Attempt(1), (b"data",))
RESULT = Result(A, TaskId(3), Attempt(1), 2.0, (b"result",))
FAILURE = Failure(A, TaskId(3), Attempt(1), 2.0, 0, "ValueError: no", "Traceback", "")


def steps(crew: Crew) -> list[Step]:
    taken = []
    while (step := crew.next_step()) is not None:
        taken.append(step)
    return taken


def welcomed(workers: int = 1, *, replace: bool = True, welcome: Welcome = WELCOME) -> Crew:
    crew = Crew(HELLO, workers, replace=replace)
    crew.message(welcome)
    steps(crew)
    return crew


def at_work(*, replace: bool = True) -> Crew:
    """Return a crew whose one worker, node ``A``, is ready."""
    crew = welcomed(replace=replace)
    crew.started(0, A)
    crew.worker_message(A, Ready(A))
    steps(crew)
    return crew


# ---- joining


def test_an_agent_says_hello_first() -> None:
    crew = Crew(HELLO, 2)
    assert steps(crew) == [ToServer(HELLO)]
    assert crew.welcome is None


def test_its_workers_start_when_the_server_has_taken_it() -> None:
    crew = Crew(HELLO, 2)
    steps(crew)
    crew.message(WELCOME)
    assert crew.welcome == WELCOME
    assert steps(crew) == [Joined([]), StartWorker(0), StartWorker(1)]


def test_it_tells_how_it_differs_from_its_server() -> None:
    crew = Crew(HELLO, 0)
    steps(crew)
    crew.message(WELCOME._replace(server_python="3.13.0"))
    assert steps(crew) == [
        Joined(["the server runs Python 3.13.0, the node Python 3.11.7"]),
    ]


def test_a_worker_gets_the_init_data_of_the_welcome() -> None:
    crew = welcomed()
    crew.started(0, A)
    assert steps(crew) == [ToWorker(A, Init(A, SEED, (b"init",)))]
    crew.worker_message(A, Ready(A))
    assert steps(crew) == [ToServer(Ready(A))]


def test_or_init_data_of_its_own() -> None:
    crew = welcomed(welcome=WELCOME._replace(init_per_node=True, payload=()))
    crew.started(0, A)
    assert steps(crew) == [ToServer(AskInit(A))]
    crew.message(Init(A, SEED, (b"for a",)))
    assert steps(crew) == [ToWorker(A, Init(A, SEED, (b"for a",)))]


def test_init_data_of_a_worker_that_has_died_goes_nowhere() -> None:
    crew = welcomed()
    crew.message(Init(A, SEED, ()))
    assert steps(crew) == []


def test_a_refused_agent_leaves() -> None:
    crew = Crew(HELLO, 2)
    steps(crew)
    crew.message(Refused(RefusalKind.APP, "another app"))
    (leave,) = steps(crew)
    assert isinstance(leave, Leave)
    assert leave.reason == "another app"
    assert isinstance(leave.error, RefusedError)
    assert str(leave.error) == "the server refuses this node: another app"


# ---- how fast its link is


def test_its_workers_hear_how_fast_results_get_to_the_server() -> None:
    crew = welcomed(2)
    crew.started(0, A)
    crew.started(1, B)
    steps(crew)
    crew.message(Pace(1e6))
    assert steps(crew) == [ToWorker(A, Pace(1e6)), ToWorker(B, Pace(1e6))]


def test_also_those_that_start_later() -> None:
    crew = at_work()
    crew.message(Pace(1e6))
    crew.message(Pace(2e6))
    steps(crew)
    crew.worker_gone(A, "killed")
    steps(crew)
    crew.started(0, B)
    assert steps(crew)[0] == ToWorker(B, Pace(2e6))


def test_for_another_job_it_is_forgotten() -> None:
    crew = at_work()
    crew.message(Pace(1e6))
    crew.lost_server("a reset")
    crew.message(WELCOME._replace(job=JobId(b"another job, yes")))
    steps(crew)
    crew.started(0, B)
    assert steps(crew) == [ToWorker(B, Init(B, SEED, (b"init",)))]


# ---- tasks


def test_tasks_go_to_their_workers_and_results_to_the_server() -> None:
    crew = at_work()
    crew.message(TASK)
    assert steps(crew) == [ToWorker(A, TASK)]
    assert crew.workers[A].open == {(3, 1): (b"data",)}
    crew.worker_message(A, RESULT)
    assert steps(crew) == [ToServer(RESULT)]
    assert not crew.workers[A].open


def test_failures_go_to_the_server_too() -> None:
    crew = at_work()
    crew.message(TASK)
    steps(crew)
    crew.worker_message(A, FAILURE)
    assert steps(crew) == [ToServer(FAILURE)]
    assert not crew.workers[A].open


def test_a_task_of_a_worker_that_has_died_is_dropped() -> None:
    """The server has been told of the death, and sends it elsewhere."""
    crew = at_work()
    crew.message(TASK._replace(node=B))
    assert steps(crew) == []


MANY = Tasks(A, [(TaskId(task), Attempt(0), (b"data",)) for task in range(3)])
ANSWERS = [(TaskId(task), Attempt(0), 0.5, (b"result",)) for task in range(3)]


def test_many_small_tasks_and_their_results_are_passed_on_together() -> None:
    crew = at_work()
    crew.message(MANY, now=1.0)
    assert steps(crew) == [ToWorker(A, MANY)]
    assert (len(crew.workers[A].open), crew.workers[A].begun_at) == (3, 1.0)
    crew.worker_message(A, Results(A, ANSWERS[:2]), now=2.0)
    assert steps(crew) == [ToServer(Results(A, ANSWERS[:2]))]
    assert list(crew.workers[A].open) == [(2, 0)]
    with pytest.raises(MessageError):
        crew.worker_message(A, Results(A, ANSWERS[1:]))


def test_a_worker_with_several_short_tasks_has_plenty_to_do() -> None:
    """Its answers may be read a bit later, then, and more of them at a time."""
    crew = at_work()
    assert not crew.has_plenty(A, 1.0), "nothing is known of it"
    crew.message(Tasks(A, [(TaskId(task), Attempt(0), (b"data",)) for task in range(10)]))
    assert not crew.has_plenty(A, 1.0)
    crew.worker_message(A, Results(A, ANSWERS[:2]))
    assert crew.has_plenty(A, 1.0), "8 tasks of 0.5 s"
    assert crew.has_plenty(A, 2.0)
    assert not crew.has_plenty(A, 2.1), "they are no more than 4 s"
    assert not crew.has_plenty(A, 0.4), "in that time there is no other answer"
    assert not crew.has_plenty(B, 1.0), "nobody knows that one"


CANCEL = Cancel(A, TaskId(3), Attempt(1))
NOT_WANTED = "what it computed is not wanted any more"


def test_a_worker_whose_task_is_cancelled_is_ended_and_replaced() -> None:
    crew = at_work()
    crew.message(TASK)
    crew.message(TASK._replace(task=TaskId(4)))
    steps(crew)
    crew.message(CANCEL)
    assert steps(crew) == [
        EndWorker(A, NOT_WANTED),
        ToServer(NodeGone(A, False, False, "", "")),
        StartWorker(0),
    ]
    assert A not in crew.workers
    crew.worker_gone(A, "signal 9")
    assert steps(crew) == []


def test_nothing_is_to_be_done_about_a_task_that_is_answered_or_was_never_there() -> None:
    crew = at_work()
    crew.message(CANCEL)
    crew.message(TASK)
    crew.worker_message(A, RESULT)
    steps(crew)
    crew.message(CANCEL)
    crew.message(CANCEL._replace(node=B))
    assert steps(crew) == []


DROPPED = Dropped(A, TaskId(3), Attempt(1))
FIRST = TASK._replace(task=TaskId(2))


def with_one_cancelled() -> Crew:
    """Its worker computes task 2, and task 3, which waited for it, has been cancelled."""
    crew = at_work()
    crew.message(FIRST)
    crew.message(TASK)
    steps(crew)
    crew.message(CANCEL)
    assert steps(crew) == [ToWorker(A, CANCEL), ToServer(DROPPED)]
    return crew


def test_a_task_that_waits_is_taken_from_its_worker() -> None:
    crew = with_one_cancelled()
    crew.worker_message(A, RESULT._replace(task=TaskId(2)))
    crew.worker_message(A, DROPPED)
    assert steps(crew) == [ToServer(RESULT._replace(task=TaskId(2)))]
    with pytest.raises(MessageError):
        crew.worker_message(A, DROPPED)


def test_should_the_worker_have_begun_it_just_then_its_answer_is_not_passed_on() -> None:
    crew = with_one_cancelled()
    both = [(TaskId(2), Attempt(1), 0.5, (b"2",)), (TaskId(3), Attempt(1), 0.5, (b"3",))]
    crew.worker_message(A, Results(A, both))
    assert steps(crew) == [ToServer(Result(A, *both[0]))]
    crew.message(TASK._replace(attempt=Attempt(2)))
    assert steps(crew) == [ToWorker(A, TASK._replace(attempt=Attempt(2)))]


def test_also_not_that_it_failed() -> None:
    crew = with_one_cancelled()
    crew.worker_message(A, RESULT._replace(task=TaskId(2)))
    steps(crew)
    crew.worker_message(A, FAILURE)
    assert steps(crew) == []
    with pytest.raises(MessageError, match="not asked"):
        crew.worker_message(A, FAILURE)


def test_the_others_are_passed_on_in_their_order() -> None:
    crew = at_work()
    crew.message(Tasks(A, [(TaskId(task), Attempt(0), (b"data",)) for task in range(5)]))
    for task in (1, 3):
        crew.message(Cancel(A, TaskId(task), Attempt(0)))
    steps(crew)
    answers = [(TaskId(task), Attempt(0), 0.5, (b"result",)) for task in (0, 1, 2, 4)]
    crew.worker_message(A, Results(A, answers))
    assert steps(crew) == [ToServer(Result(A, *answers[n])) for n in (0, 2, 3)]
    assert not crew.workers[A].open
    crew.worker_message(A, Dropped(A, TaskId(3), Attempt(0)))
    assert steps(crew) == []


def test_what_is_cancelled_twice_is_dropped_once() -> None:
    crew = with_one_cancelled()
    crew.message(CANCEL)
    assert steps(crew) == []


def test_a_worker_does_not_drop_what_was_not_cancelled() -> None:
    crew = at_work()
    crew.message(TASK)
    steps(crew)
    with pytest.raises(MessageError, match="may not send Dropped"):
        crew.worker_message(A, DROPPED)


def test_a_worker_that_has_only_what_was_cancelled_dies_idle() -> None:
    """The server has given that to another node: no task of this one is charged."""
    crew = with_one_cancelled()
    crew.worker_message(A, RESULT._replace(task=TaskId(2)))
    steps(crew)
    crew.worker_gone(A, "signal 9")
    assert steps(crew)[:2] == [
        WorkerDied(A, "signal 9", busy=False),
        ToServer(NodeGone(A, True, False, "signal 9", "")),
    ]


def test_what_came_later_is_not_charged_with_a_death_at_what_was_cancelled() -> None:
    """The worker has begun that just then, and has said no word on it: it is not beyond it yet."""
    crew = with_one_cancelled()
    crew.worker_message(A, RESULT._replace(task=TaskId(2)))
    crew.message(TASK._replace(task=TaskId(4)))
    steps(crew)
    crew.worker_gone(A, "signal 9")
    assert ToServer(NodeGone(A, True, False, "signal 9", "")) in steps(crew)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
def test_but_whoever_dies_before_or_after_that_dies_busy(order: tuple[int, ...]) -> None:
    for words, busy in enumerate((True, False, False, False, True)):
        crew = at_work()
        crew.message(Tasks(A, [(TaskId(task), Attempt(0), (b"data",)) for task in range(4)]))
        for task in order:
            crew.message(Cancel(A, TaskId(task), Attempt(0)))
        crew.message(Tasks(A, [(TaskId(4), Attempt(0), (b"data",))]))
        said: list[Message] = [Result(A, TaskId(0), Attempt(0), 0.5, (b"result",))]
        said += [Dropped(A, TaskId(task), Attempt(0)) for task in (1, 2, 3)]
        for message in said[:words]:
            crew.worker_message(A, message)
        steps(crew)
        crew.worker_gone(A, "signal 9")
        assert steps(crew)[0] == WorkerDied(A, "signal 9", busy), words


def test_without_a_server_the_rest_of_a_run_with_cancelled_tasks_is_kept() -> None:
    crew = with_one_cancelled()
    crew.lost_server("a reset")
    both = [(TaskId(2), Attempt(1), 0.5, (b"2",)), (TaskId(3), Attempt(1), 0.5, (b"3",))]
    crew.worker_message(A, Results(A, both))
    assert list(crew.workers[A].answered) == [(2, 1)]


def test_a_worker_is_not_ended_for_what_will_not_take_long() -> None:
    crew = at_work()
    crew.message(FIRST)
    crew.worker_message(A, RESULT._replace(task=TaskId(2), seconds=WORTH_ENDING_S / 2), now=1.0)
    crew.message(TASK, now=1.0)
    steps(crew)
    crew.message(CANCEL, now=1.0 + WORTH_ENDING_S / 2)
    assert steps(crew) == []
    crew.message(CANCEL, now=1.0 + WORTH_ENDING_S)
    assert EndWorker(A, NOT_WANTED) in steps(crew)


def test_nor_one_that_could_not_be_replaced() -> None:
    crew = at_work(replace=False)
    crew.message(TASK)
    steps(crew)
    crew.message(CANCEL)
    assert steps(crew) == []
    crew.worker_message(A, RESULT)
    assert steps(crew) == [ToServer(RESULT)]


def test_a_worker_that_has_died_cannot_be_ended() -> None:
    crew = welcomed()
    crew.message(CANCEL)
    assert steps(crew) == []


# ---- what may not be said


def test_a_second_welcome() -> None:
    crew = welcomed()
    with pytest.raises(MessageError, match="second Welcome"):
        crew.message(WELCOME)


def test_what_no_server_says() -> None:
    with pytest.raises(MessageError, match="a server may not send Ready"):
        welcomed().message(Ready(A))


@pytest.mark.parametrize(
    "message", [Ready(A), NodeBroken(A, "", ""), AskInit(A)], ids=lambda m: type(m).__name__
)
def test_what_no_worker_says_when_it_is_ready(message: Message) -> None:
    crew = at_work()
    with pytest.raises(MessageError, match="may not send"):
        crew.worker_message(A, message)


# ---- workers that end


def test_a_worker_that_died_is_replaced_and_the_server_knows() -> None:
    crew = at_work()
    crew.message(TASK)
    steps(crew)
    crew.worker_gone(A, "signal 11")
    assert steps(crew) == [
        WorkerDied(A, "signal 11", busy=True),
        ToServer(NodeGone(A, True, True, "signal 11", "")),
        StartWorker(0),
    ]
    assert not crew.workers


def test_what_it_printed_last_goes_to_the_server() -> None:
    crew = at_work()
    crew.worker_gone(A, "signal 11", "row 7")
    assert ToServer(NodeGone(A, True, False, "signal 11", "row 7")) in steps(crew)


def test_a_worker_may_also_die_of_boredom() -> None:
    crew = at_work()
    crew.worker_gone(A, "exit status 0")
    assert steps(crew)[0] == WorkerDied(A, "exit status 0", busy=False)


def test_its_replacement_takes_its_slot() -> None:
    crew = welcomed(workers=2)
    crew.started(0, A)
    crew.started(1, B)
    for node in (A, B):
        crew.worker_message(node, Ready(node))
    steps(crew)
    crew.worker_gone(B, "signal 9")
    assert steps(crew)[-1] == StartWorker(1)
    crew.started(1, C)
    assert {node: worker.slot for node, worker in crew.workers.items()} == {A: 0, C: 1}


def test_what_a_dead_worker_says_is_not_passed_on() -> None:
    crew = at_work()
    crew.worker_gone(A, "signal 9")
    steps(crew)
    crew.worker_message(A, RESULT)
    crew.worker_gone(A, "signal 9")
    assert steps(crew) == []


def test_a_worker_that_died_before_it_was_ready_is_started_again() -> None:
    crew = welcomed()
    crew.started(0, A)
    steps(crew)
    crew.worker_gone(A, "signal 9")
    assert steps(crew) == [WorkerDied(A, "signal 9", busy=False), StartWorker(0)]


def test_what_it_printed_last_says_why_an_agent_gives_up() -> None:
    crew = welcomed()
    for _ in range(MAX_FAILED_STARTS):
        crew.started(0, A)
        crew.worker_gone(A, "signal 11", "no such library")
    assert ToServer(Goodbye("workers cannot start here: signal 11", "no such library")) in steps(
        crew
    )


def test_a_worker_that_cannot_begin_is_ended_and_started_again() -> None:
    crew = welcomed()
    crew.started(0, A)
    steps(crew)
    crew.worker_message(A, NodeBroken(A, "node_init raised", "Traceback"))
    assert steps(crew) == [EndWorker(A), StartWorker(0)]
    crew.worker_gone(A, "signal 9")
    assert steps(crew) == []


def test_after_three_failed_starts_the_agent_gives_up() -> None:
    crew = welcomed()
    for _ in range(MAX_FAILED_STARTS - 1):
        crew.not_started(0, "no memory")
        assert steps(crew) == [StartWorker(0)]
    crew.started(0, A)
    steps(crew)
    crew.worker_message(A, NodeBroken(A, "node_init raised", "Traceback"))
    text = "workers cannot start here: node_init raised"
    ended, goodbye, leave = steps(crew)
    assert ended == EndWorker(A)
    assert goodbye == ToServer(Goodbye(text, "Traceback"))
    assert isinstance(leave, Leave)
    assert leave.reason == text
    assert isinstance(leave.error, NodeFailed)
    assert (str(leave.error), leave.error.remote) == (text, "Traceback")
    crew.not_started(0, "no memory")
    assert steps(crew) == []


def test_a_worker_that_becomes_ready_pays_for_failed_starts() -> None:
    crew = welcomed()
    for _ in range(2 * MAX_FAILED_STARTS):
        crew.not_started(0, "no memory")
        crew.started(0, A)
        crew.worker_message(A, Ready(A))
        crew.worker_gone(A, "signal 9")
    assert steps(crew)[-1] == StartWorker(0)


# ---- a node that is not replaced


def test_an_agent_whose_only_worker_is_not_replaced_ends_with_it_without_a_word() -> None:
    """So plays a class node that is cancelled: its server sees a connection that closes."""
    crew = at_work(replace=False)
    crew.worker_gone(A, "cancelled")
    assert steps(crew) == [
        WorkerDied(A, "cancelled", busy=False),
        Leave("the worker is gone: cancelled", None),
    ]


def test_nor_is_it_started_again() -> None:
    crew = welcomed(replace=False)
    crew.not_started(0, "ps_init raised", "Traceback")
    goodbye, leave = steps(crew)
    text = "workers cannot start here: ps_init raised"
    assert goodbye == ToServer(Goodbye(text, "Traceback"))
    assert isinstance(leave, Leave)
    assert isinstance(leave.error, NodeFailed)


# ---- the end


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Quit(QuitKind.DONE, "whatever"), "the job is done"),
        (Quit(QuitKind.STOPPED, "the server was stopped"), "the server was stopped"),
        (Quit(QuitKind.FAILED, "a hook raised"), "a hook raised"),
        (Quit(77, "of a later version"), "of a later version"),
    ],
)
def test_an_agent_leaves_when_its_server_says_so(message: Quit, reason: str) -> None:
    crew = at_work()
    crew.message(message)
    assert steps(crew) == [Leave(reason, None)]


def test_a_quit_may_come_before_the_welcome() -> None:
    crew = Crew(HELLO, 2)
    crew.message(Quit(QuitKind.DONE, ""))
    assert steps(crew) == [ToServer(HELLO), Leave("the job is done", None)]


def test_no_worker_is_started_only_to_be_ended() -> None:
    crew = Crew(HELLO, 2)
    steps(crew)
    crew.message(WELCOME)
    crew.message(Quit(QuitKind.DONE, ""))
    assert steps(crew) == [Joined([]), Leave("the job is done", None)]


def test_an_agent_whose_server_does_not_come_back_ends() -> None:
    crew = at_work()
    crew.lost_server("reset by peer")
    assert steps(crew) == [Away("reset by peer")]
    crew.give_up("it did not come back")
    (leave,) = steps(crew)
    assert isinstance(leave, Leave)
    assert leave.reason == "the connection to the server was lost: it did not come back"
    assert isinstance(leave.error, ConnectionLostError)


def test_an_agent_that_is_asked_to_go_says_goodbye() -> None:
    crew = at_work()
    error = Interrupted(15)
    crew.leave("stopped by signal 15", error)
    assert steps(crew) == [
        ToServer(Goodbye("stopped by signal 15", "")),
        Leave("stopped by signal 15", error),
    ]


def test_an_agent_leaves_only_once() -> None:
    crew = at_work()
    crew.leave("stopped by signal 2", None)
    steps(crew)
    crew.leave("stopped by signal 2", None)
    crew.lost_server("closed")
    crew.message(Quit(QuitKind.DONE, ""))
    crew.worker_message(A, RESULT)
    crew.worker_gone(A, "signal 9")
    assert steps(crew) == []


# ---- tasks that take too long

IMPATIENT = WELCOME._replace(task_timeout=30.0)
TOO_LONG = "it was ended: task_timeout of 30 s exceeded"


def impatient(*, replace: bool = True) -> Crew:
    """Return a crew with the ready workers ``A`` and ``B``, whose tasks may take 30 s."""
    crew = welcomed(2, replace=replace, welcome=IMPATIENT)
    for slot, node in enumerate((A, B)):
        crew.started(slot, node)
        crew.worker_message(node, Ready(node))
    steps(crew)
    return crew


def test_a_worker_whose_task_takes_too_long_is_ended_and_replaced() -> None:
    crew = impatient()
    assert crew.deadline is None
    crew.message(TASK, now=100.0)
    crew.message(TASK._replace(node=B), now=101.0)
    steps(crew)
    assert crew.deadline == 130.0
    crew.tick(129.9)
    assert steps(crew) == []
    crew.tick(130.0)
    assert steps(crew) == [
        EndWorker(A),
        WorkerDied(A, TOO_LONG, True),
        ToServer(NodeGone(A, True, True, TOO_LONG, "")),
        StartWorker(0),
    ]
    assert crew.deadline == 131.0


def test_what_such_a_worker_printed_last_is_told() -> None:
    crew = impatient()
    crew.message(TASK, now=100.0)
    crew.tick(130.0, {A: "row 7"}.__getitem__)
    assert ToServer(NodeGone(A, True, True, TOO_LONG, "row 7")) in steps(crew)


def test_one_that_is_about_to_be_ended_for_another_reason_may_be_answering() -> None:
    crew = impatient()
    crew.message(TASK, now=100.0)
    crew.message(CANCEL)
    crew.answering(A, 105.0)
    assert crew.deadline is None


def test_several_that_take_too_long() -> None:
    crew = impatient()
    crew.message(TASK._replace(node=B), now=100.0)
    crew.message(TASK, now=101.0)
    crew.tick(200.0)
    assert [step.node for step in steps(crew) if isinstance(step, EndWorker)] == [B, A]
    assert crew.deadline is None


def test_the_time_of_a_task_begins_when_the_one_before_it_is_answered() -> None:
    crew = impatient()
    crew.message(TASK, now=100.0)
    crew.message(TASK._replace(task=TaskId(4)), now=110.0)
    assert crew.deadline == 130.0
    crew.worker_message(A, RESULT, now=125.0)
    assert crew.deadline == 155.0
    crew.worker_message(A, RESULT._replace(task=TaskId(4)), now=126.0)
    assert crew.deadline is None


def test_also_in_a_run() -> None:
    crew = impatient()
    crew.message(MANY, now=100.0)
    assert crew.deadline == 130.0
    crew.worker_message(A, Results(A, ANSWERS[:2]), now=125.0)
    assert crew.deadline == 155.0
    crew.message(MANY._replace(run=[(TaskId(9), Attempt(0), (b"data",))]), now=150.0)
    assert crew.deadline == 155.0
    crew.worker_message(A, Results(A, ANSWERS[2:]), now=151.0)
    assert crew.deadline == 181.0


def test_a_worker_that_is_answering_is_not_ended() -> None:
    crew = impatient()
    crew.message(TASK, now=100.0)
    crew.answering(A, now=129.0)
    assert crew.deadline == 159.0


def test_without_a_limit_a_task_may_take_for_ever() -> None:
    crew = at_work()
    crew.message(TASK, now=100.0)
    assert crew.deadline is None
    crew.tick(1e9)
    assert crew.workers
    assert Crew(HELLO, 1).deadline is None


def test_a_worker_that_cannot_be_replaced_is_not_ended() -> None:
    crew = impatient(replace=False)
    crew.message(TASK, now=100.0)
    assert crew.deadline is None


def test_nobody_is_ended_for_taking_long_when_all_leave() -> None:
    crew = impatient()
    crew.message(TASK, now=100.0)
    crew.leave("signal", None)
    steps(crew)
    crew.tick(200.0)
    assert steps(crew) == []


# ---- time limits


def test_the_server_is_told_when_an_agent_has_to_go() -> None:
    crew = Crew(HELLO, 1)
    crew.ends(100.0, now=10.0)
    assert steps(crew) == [ToServer(HELLO)], "not before it has taken us"
    crew.message(WELCOME, 40.0)
    assert steps(crew)[:2] == [ToServer(TimeLeft(60.0)), Joined([])]
    crew.ends(70.0, now=50.0)
    assert steps(crew) == [ToServer(TimeLeft(20.0))]
    crew.lost_server("gone")
    steps(crew)
    crew.connected()
    crew.message(WELCOME, 80.0)
    assert ToServer(TimeLeft(0.0)) in steps(crew), "before any node is ready again"
