"""Bugs made on purpose: the simulation has to find each of them, or it proves nothing.

Each function breaks one thing while it is open. They are what a hasty change could do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from parasnake.agent import Agent
from parasnake.core import journal as entries
from parasnake.core import tasks
from parasnake.core.crew import Crew, Sent
from parasnake.core.farm import Farm
from parasnake.core.ids import Attempt, TaskId
from parasnake.core.limits import Limits
from parasnake.core.messages import Dropped, Results
from parasnake.core.scheduler import Scheduler
from parasnake.core.sharing import Sharing
from parasnake.core.tasks import Holding, Loss, Merge, Node, OpenTask
from parasnake.recorder import RECORDED, Recorder
from parasnake.replay import Replay
from parasnake.server import Server

from .history import run

BUGS: dict[str, Callable[[], AbstractContextManager[None]]] = {}
Bug = Callable[[], Iterator[None]]


def bug(function: Bug) -> Bug:
    """Register a bug under its function's name."""
    BUGS[function.__name__] = contextlib.contextmanager(function)
    return function


def _instead(owner: type, name: str, replacement: Any) -> Any:
    return mock.patch.object(owner, name, replacement)


@bug
def a_requeue_is_lost() -> Iterator[None]:
    """Of the tasks of a node that is gone, the last is not sent again."""
    put_back = Scheduler._put_back

    def forgetful(self: Scheduler, again: list[OpenTask], *, first: bool = False) -> None:
        put_back(self, again[:-1] if len(again) > 1 else again, first=first)

    with _instead(Scheduler, "_put_back", forgetful):
        yield


@bug
def a_late_duplicate_is_merged() -> Iterator[None]:
    """The second result of a task that two nodes computed is taken, too."""
    close, results = Scheduler._close, Scheduler.results

    def keep(self: Scheduler, task: OpenTask, size: int) -> None:
        vars(self).setdefault("over", {})[task.id] = task
        close(self, task, size)

    def greedy(self: Scheduler, key: Any, answers: Any) -> tuple[int, int]:
        node = self._nodes.get(key)
        for task, attempt, seconds, data in answers:
            again = vars(self).get("over", {}).get(task)
            if again is not None and node is not None and node.open.get(task) == attempt:
                self._steps.append(Merge(again, key, seconds, data))
        return results(self, key, answers)

    with _instead(Scheduler, "_close", keep), _instead(Scheduler, "results", greedy):
        yield


@bug
def answers_are_called_safe_too_early() -> Iterator[None]:
    """Agents are told that their answers are safe when these have come, not when they are merged."""
    acknowledge = Farm.acknowledge

    def hasty(self: Farm, settled: int | None = None) -> None:
        acknowledge(self, 1 << 60)

    with _instead(Farm, "acknowledge", hasty):
        yield


@bug
def other_data_is_not_noticed() -> Iterator[None]:
    """What an agent kept is taken whatever data it was computed from."""
    adopt = Scheduler._adopt

    def trusting(self: Scheduler, node: Node, holding: Holding) -> bool:
        task = self._tasks.get(holding.task)
        digest = tasks.digest_of(task.payload) if task is not None else holding.digest
        return adopt(self, node, holding._replace(digest=digest))

    with _instead(Scheduler, "_adopt", trusting):
        yield


@bug
def a_merge_is_written_after_its_hook() -> Iterator[None]:
    """The journal has a merge when it is done, not before."""
    note, tell = Recorder._note, Server.merge

    def late(self: Recorder, steps: Iterable[Any]) -> int:
        recorded = [step for step in steps if type(step) in RECORDED]
        note(self, [step for step in recorded if not isinstance(step, Merge)])
        return len(recorded)

    def merge(self: Server, task: Any, parts: Any, node: Any, seconds: float) -> None:
        tell(self, task, parts, node, seconds)
        if self._recorder is not None:
            note(self._recorder, [Merge(task, node, seconds, parts)])

    with _instead(Recorder, "_note", late), _instead(Server, "merge", merge):
        yield


@bug
def hand_outs_leave_before_they_are_written() -> Iterator[None]:
    """A task goes out before the journal has it; only the last of a batch, to make it harder."""
    handed_out = Recorder.handed_out

    def late(self: Recorder, task: TaskId, node: Any, payload: Any) -> None:
        if (task + 1) % 10:
            handed_out(self, task, node, payload)

    with _instead(Recorder, "handed_out", late):
        yield


@bug
def a_restart_forgets_charges() -> Iterator[None]:
    """What a task was charged with does not survive the server."""

    def forgetful(self: Replay, entry: entries.Charged) -> None:
        """Do nothing."""

    with _instead(Replay, "_charged", forgetful):
        yield


@bug
def an_attempt_number_is_used_again() -> Iterator[None]:
    """A node that returns with an attempt does not keep its number from being given again."""
    adopt = Scheduler._adopt

    def careless(self: Scheduler, node: Node, holding: Holding) -> bool:
        task = self._tasks.get(holding.task)
        before = task.newest if task is not None else Attempt(-1)
        wanted = adopt(self, node, holding)
        if task is not None:
            task.newest = before
        return wanted

    with _instead(Scheduler, "_adopt", careless):
        yield


@bug
def a_death_is_charged_to_all() -> Iterator[None]:
    """A node's death is charged to each of its tasks, not to the one that it was computing."""
    requeue = Scheduler._requeue

    def unjust(self: Scheduler, node: Node, loss: Loss, reason: str, remote: str) -> None:
        for task in list(map(self._tasks.get, node.open))[1:]:
            if task is not None:
                self._charge(task, node, loss, reason)
        requeue(self, node, loss, reason, remote)

    with _instead(Scheduler, "_requeue", unjust):
        yield


@bug
def answers_do_not_outlive_a_connection() -> Iterator[None]:
    """An agent forgets what it has computed when its connection breaks."""
    lost_server = Crew.lost_server

    def forgetful(self: Crew, reason: str) -> None:
        lost_server(self, reason)
        for worker in self.workers.values():
            worker.answered.clear()

    with _instead(Crew, "lost_server", forgetful):
        yield


@bug
def order_is_forgotten_at_a_restart() -> Iterator[None]:
    """With ``ordered=True`` a restarted server begins with whatever comes first."""
    restore = Scheduler.restore

    def hasty(self: Scheduler, open_tasks: Any, **rest: Any) -> None:
        restore(self, open_tasks, **rest)
        self._order.turn = TaskId(self._order.turn + bool(self._tasks))

    with _instead(Scheduler, "restore", hasty):
        yield


@bug
def silence_counts_while_the_server_sleeps() -> Iterator[None]:
    """A server that was stopped takes its own absence for that of the agents."""

    def rash(self: Server, listened_at: float) -> None:
        if self._farm.tick(self._loop.now()):
            self._changed = True

    def deaf(self: Farm, peer_id: Any, now: float) -> None:
        if self._heard.get(peer_id, now) + 0.9 * self.job.heartbeat_timeout > now:
            heard(self, peer_id, now)

    heard = Farm.heard
    with _instead(Server, "_tick", rash), _instead(Farm, "heard", deaf):
        yield


@bug
def a_dropped_task_is_lost() -> Iterator[None]:
    """What a node has not begun is not sent again, though the one that was to get it is gone."""

    def forgetful(self: Scheduler, key: Any, task: Any, attempt: Any) -> None:
        node = self._nodes.get(key)
        if node is not None:
            self._finish_attempt(node, task, attempt)
            self._refresh(node)

    with _instead(Scheduler, "dropped", forgetful):
        yield


@bug
def a_dropped_task_is_put_back_twice() -> Iterator[None]:
    """What a node has not begun is sent again, though another has got it already."""
    dropped = Scheduler.dropped

    def doubling(self: Scheduler, key: Any, task_id: Any, attempt: Any) -> None:
        task = self._tasks.get(task_id)
        dropped(self, key, task_id, attempt)
        if task is not None and task.running is not None:
            self._put_back([task])

    with _instead(Scheduler, "dropped", doubling):
        yield


@bug
def a_moved_task_is_charged() -> Iterator[None]:
    """What was taken from a node is charged with the end of that node, too."""
    requeue = Scheduler._requeue

    def unjust(self: Scheduler, node: Node, loss: Loss, reason: str, remote: str) -> None:
        for task in map(self._tasks.get, node.leaving):
            if task is not None:
                self._charge(task, node, loss, reason)
        requeue(self, node, loss, reason, remote)

    with _instead(Scheduler, "_requeue", unjust):
        yield


@bug
def a_move_is_not_withdrawn() -> Iterator[None]:
    """The node from which something was taken does not hear of it."""
    next_move = Scheduler._next_move

    def silent(self: Scheduler) -> Any:
        move = next_move(self)
        self._in_vain.clear()
        return move

    with _instead(Scheduler, "_next_move", silent):
        yield


@bug
def what_is_being_computed_is_moved() -> Iterator[None]:
    """Also the first task of a node is given to another, though it must have begun."""

    def greedy(self: Scheduler, node: Node, idle: Node) -> list[OpenTask]:
        tasks = map(self._tasks.get, node.open)
        return [task for task in tasks if task and not task.also][: idle.depth]

    with _instead(Scheduler, "_to_give", greedy):
        yield


@bug
def nobody_shares() -> Iterator[None]:
    """What waits behind a slow task stays there."""

    def blind(self: Sharing, now: float) -> list[Node]:
        del now
        self.look_at = None
        return []

    with _instead(Sharing, "rich", blind):
        yield


@bug
def what_cannot_be_given_away_is_tried_on_and_on() -> Iterator[None]:
    """The server does not put off what has been in vain."""
    with _instead(Sharing, "put_off", lambda self, rich, now: None):
        yield


@bug
def a_run_is_answered_one_short() -> Iterator[None]:
    """Of a run of results the last is not passed on."""
    answers = Crew._answers

    def careless(self: Crew, node: Any, worker: Any, message: Any) -> None:
        if isinstance(message, Results) and len(message.run) > 1:
            *run, (task, attempt, _, _) = message.run
            worker.open.pop((task, attempt), None)
            message = Results(message.node, run)
        answers(self, node, worker, message)

    with _instead(Crew, "_answers", careless):
        yield


@bug
def a_skipped_answer_is_passed_on() -> Iterator[None]:
    """What was cancelled when it had just begun is answered, after all."""

    def chatty(self: Crew, node: Any, worker: Any, message: Any) -> None:
        count = len(message.run) if isinstance(message, Results) else 1
        for sending, answer in Sent(node, message, [()] * count).answers():
            worker.cancelled.pop(sending, None)
            self._send_answers(Sent(node, answer.message, [worker.open.pop(sending, ())]))

    with _instead(Crew, "_answers_one_by_one", chatty):
        yield


@bug
def a_dropped_task_is_computed_nevertheless() -> Iterator[None]:
    """The agent says that it has dropped a task, and forgets to take it from its worker."""
    cancel = Crew._cancel

    def lying(self: Crew, message: Any, node: Any, sending: Any, now: float) -> None:
        worker = self._workers.get(node)
        if worker is not None and sending in list(worker.open)[1:]:
            self._say(Dropped(node, *sending))
        else:
            cancel(self, message, node, sending, now)

    with _instead(Crew, "_cancel", lying):
        yield


@bug
def a_rest_has_no_end() -> Iterator[None]:
    """A worker that answers fast is left alone until it has died."""

    def forgetful(self: Agent) -> None:
        self._resting.clear()

    with _instead(Agent, "_rested", forgetful):
        yield


@bug
def results_wait_for_each_other() -> Iterator[None]:
    """Results are passed on when there are many of them, however long the next one takes."""
    worker_message, waiting = Crew.worker_message, dict[Any, Any]()

    def patient(self: Crew, node: Any, message: Any, now: float = 0.0) -> None:
        before = waiting.setdefault(id(self), {}).pop(node, [])
        worker = self._workers.get(node)
        are_results = isinstance(message, Results) and len(before) < 2
        if are_results and worker is not None and len(worker.open) > 10:
            waiting[id(self)][node] = [*before, message]
            return
        for earlier in [*before, message]:
            worker_message(self, node, earlier, now)

    with _instead(Crew, "worker_message", patient):
        yield


@bug
def an_end_is_not_heeded() -> Iterator[None]:
    """Nodes get tasks up to the moment when they have to go."""
    with _instead(Limits, "room", lambda self, node, now: tasks.MAX_DEPTH):
        yield


@bug
def what_a_node_learnt_goes_with_it() -> Iterator[None]:
    """How long tasks take each node has to find out for itself."""

    def private(self: Limits, node: Node, seconds: float) -> None:
        node.took.add(seconds)

    with _instead(Limits, "came", private):
        yield


def seeds_needed(name: str, most: int, first: int = 0) -> tuple[int, str] | None:
    """Return how many seeds it took to find a bug, and by which promise; None if ``most`` did not."""
    with BUGS[name]():
        for seed in range(first, first + most):
            try:
                violation = run(seed).violation
            except Exception as error:  # a bug that makes the program fail has been found as well
                return seed - first + 1, f"{type(error).__name__}"
            if violation is not None:
                return seed - first + 1, violation.promise
    return None
