"""The agent's decisions: its workers on one side, its server on the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from ..errors import (
    ConnectionLostError,
    MessageError,
    NodeFailed,
    ParasnakeError,
    RefusedError,
)
from .farm import differences
from .ids import Attempt, NodeKey, TaskId
from .memory import LARGE_BYTES
from .messages import (
    AskInit,
    Cancel,
    Dropped,
    Failure,
    Goodbye,
    Held,
    Hello,
    Init,
    Message,
    NodeBroken,
    NodeGone,
    Pace,
    Parts,
    Quit,
    QuitKind,
    Ready,
    Refused,
    Result,
    Results,
    Taken,
    Task,
    Tasks,
    TimeLeft,
    Want,
    Welcome,
)
from .tasks import digest_of

MAX_FAILED_STARTS = 3
"""An agent gives up when this many workers in a row ended before they were ready."""
WORTH_ENDING_S = 0.1
"""A worker whose tasks take less is not ended for what it computes in vain: a new one costs as much."""
SMOOTHING = 0.2
"""Weight of the newest tasks in the mean of a worker."""


Sending = tuple[TaskId, Attempt]

Known = Parts | bytes
"""Data of a task, or if that is large its digest: the memory is needed for more."""


class Answer(NamedTuple):
    """What a worker has answered, and to what data."""

    message: Result | Failure
    data: Known


class Sent(NamedTuple):
    """What was sent to the server, and to what data it was the answer."""

    node: NodeKey
    message: Result | Results | Failure
    data: list[Known]

    def answers(self) -> Iterator[tuple[Sending, Answer]]:
        """The same, one by one."""
        message = self.message
        if isinstance(message, Results):
            for (task, attempt, seconds, payload), data in zip(message.run, self.data, strict=True):
                result = Result(self.node, task, attempt, seconds, payload)
                yield (task, attempt), Answer(result, data)
        else:
            yield (message.task, message.attempt), Answer(message, self.data[0])


@dataclass(slots=True)
class Worker:
    """One worker process."""

    slot: int
    ready: bool = False
    has_init: bool = False
    open: dict[Sending, Known] = field(default_factory=dict)
    """What it has not answered, with the data, in the order of sending."""
    begun_at: float = 0.0
    """When it began the oldest of these."""
    cancelled: dict[Sending, Sending] = field(default_factory=dict)
    """What it had not begun, as far as was known, and shall not: its word on that is not passed on.

    Each with what was before it in the queue.
    """
    mean_seconds: float | None = None
    answered: dict[Sending, Answer] = field(default_factory=dict)
    """Answers that the server does not have, in their order."""

    @property
    def is_busy(self) -> bool:
        """Whether it is at the oldest of what it has not answered, as far as can be known.

        If what was before a cancelled one is over, but not that itself, it may have begun that.
        """
        not_over = self.open, self.cancelled
        return bool(self.open) and all(
            any(before in those for those in not_over) for before in self.cancelled.values()
        )

    def learn(self, seconds: float, count: int) -> None:
        """So many tasks have taken so long together."""
        if self.mean_seconds is None:
            self.mean_seconds = seconds / count
        self.mean_seconds += SMOOTHING * (seconds / count - self.mean_seconds)


class ToServer(NamedTuple):
    """Step: send this message to the server."""

    message: Message


class ToWorker(NamedTuple):
    """Step: send this message to a worker."""

    node: NodeKey
    message: Message


class StartWorker(NamedTuple):
    """Step: start a worker, then call ``started`` (or ``not_started``)."""

    slot: int


class EndWorker(NamedTuple):
    """Step: end this worker's process and whatever it started; ``reason`` is for the log, if any."""

    node: NodeKey
    reason: str = ""


class Joined(NamedTuple):
    """Step: tell the user that the server took us."""

    differences: list[str]
    back: bool = False
    """Whether it is for the job that we worked for before the connection broke."""
    afresh: bool = False
    """Whether we had worked for another job before the connection broke."""


class Away(NamedTuple):
    """Step: tell the user that the server is lost, and try to reach it again."""

    reason: str


class HangUp(NamedTuple):
    """Step: close the connection and try again later: it is not our server's, just now."""

    reason: str


class WorkerDied(NamedTuple):
    """Step: tell the user that a worker died."""

    node: NodeKey
    reason: str
    busy: bool


class Leave(NamedTuple):
    """Step: all is said; close the connection, end the workers and return, or raise ``error``."""

    reason: str
    error: ParasnakeError | None


Step = ToServer | ToWorker | StartWorker | EndWorker | Joined | Away | HangUp | WorkerDied | Leave


class Crew:
    """One agent: its workers, what they work on, what to do next.

    It outlives its connections: while there is none the workers go on with what they have, and their
    answers are kept until the server has said that they are safe.

    Parameters
    ----------
    hello: what the agent says of itself
    workers: how many worker processes there shall be
    replace: whether a worker that ended is replaced; if not, the agent ends with it, without a goodbye
    """

    def __init__(self, hello: Hello, workers: int, *, replace: bool = True) -> None:
        self._hello = hello
        self._size = workers
        self._replace = replace
        self._workers: dict[NodeKey, Worker] = {}
        self._welcome: Welcome | None = None
        self._pace: Pace | None = None
        self._ends_at: float | None = None
        self._failed_starts = 0
        self._leaving = False
        self._in = False  # whether the server on this connection has taken us
        self._served = False  # whether it has given us work there
        self._sent: deque[Sent] = deque()  # answers on this connection that may not be safe yet
        self._unsafe = 0  # how many they are
        self._taken = 0  # how many more there were, which are safe
        self._steps: deque[Step] = deque([ToServer(hello)])

    @property
    def welcome(self) -> Welcome | None:
        """What the server said when it first took us for its job."""
        return self._welcome

    @property
    def is_in(self) -> bool:
        """Whether the server has taken us, and the connection lasts."""
        return self._in

    @property
    def was_served(self) -> bool:
        """Whether the server has given us work on this connection, or taken answers of ours."""
        return self._served or bool(self._taken)

    @property
    def workers(self) -> dict[NodeKey, Worker]:
        """The workers by node; not to be changed."""
        return self._workers

    def has_plenty(self, node: NodeKey, seconds: float) -> bool:
        """Whether a worker ends a task or more in that time, and has enough for twice as long."""
        worker = self._workers.get(node)
        each = worker.mean_seconds if worker is not None else None
        if worker is None or each is None or each > seconds:
            return False
        return each * len(worker.open) >= 2 * seconds

    def next_step(self) -> Step | None:
        """Return the next thing to do, or None when there is nothing to do but wait."""
        return self._steps.popleft() if self._steps else None

    # ---- the server

    def message(self, message: Message, now: float = 0.0) -> None:
        """The server has said something; raises ``MessageError`` if it may not say that now."""
        if self._leaving:
            return
        if isinstance(message, Task):
            known = _known(message.payload)
            self._tasks(message, {(message.task, message.attempt): known}, now)
            return
        if isinstance(message, Tasks):
            self._tasks(
                message, {(task, attempt): data for task, attempt, data in message.run}, now
            )
            return
        match message:
            case Welcome():
                self._welcomed(message, now)
            case Init(node):
                if node in self._workers:
                    self._workers[node].has_init = True
                    self._steps.append(ToWorker(node, message))
            case Refused(_, reason):
                self._refused(reason)
            case Quit(kind, reason):
                self._leave(self._farewell(kind, reason), None)
            case Want(node, task, attempt):
                self._wanted(node, (task, attempt))
            case Cancel(node, task, attempt):
                self._cancel(message, node, (task, attempt), now)
            case Taken(answers):
                self._take(answers)
            case Pace():
                self._pace = message
                self._steps += [ToWorker(node, message) for node in self._workers]
            case _:
                raise MessageError(f"a server may not send {type(message).__name__}")

    def _welcomed(self, welcome: Welcome, now: float) -> None:
        if self._in:
            raise MessageError("a second Welcome")
        self._in = True
        if self._ends_at is not None:
            self.ends(self._ends_at, now)
        hello, before = self._hello, self._welcome
        found = differences(welcome.server_python, welcome.digest, hello.python, hello.digest)
        if before is not None and before.job == welcome.job:
            self._welcome = welcome._replace(payload=before.payload)
            self._steps.append(Joined(found, back=True))
            for node, worker in self._workers.items():
                self._report(node, worker)
            return
        self._welcome = welcome
        if before is not None:
            self._begin_afresh(found)
        else:
            self._steps.append(Joined(found))
            self._steps += [StartWorker(slot) for slot in range(self._size)]

    def _report(self, node: NodeKey, worker: Worker) -> None:
        """Tell the server, on a new connection, what a worker has that it knew before."""
        if not worker.has_init:
            self._say(AskInit(node))
        if not worker.ready:
            return
        # A failure may have been charged already; without it the task is tried again at no charge.
        kept = worker.answered.items()
        worker.answered = {s: answer for s, answer in kept if isinstance(answer.message, Result)}
        for (task, attempt), answer in worker.answered.items():
            self._say(Held(node, task, attempt, _digest(answer.data), True))
        for (task, attempt), data in worker.open.items():
            self._say(Held(node, task, attempt, _digest(data), False))
        self._say(Ready(node))

    def _begin_afresh(self, found: list[str]) -> None:
        if not self._replace:
            text = (
                "the server has come back with another job, for which this node cannot start afresh"
            )
            self._say(Goodbye(text, ""))
            self._leave(text, ConnectionLostError(text))
            return
        self._failed_starts, self._pace = 0, None
        self._drop(StartWorker)
        self._steps += [EndWorker(node) for node in self._workers]
        self._workers.clear()
        self._steps.append(Joined(found, afresh=True))
        self._steps += [StartWorker(slot) for slot in range(self._size)]

    def _refused(self, reason: str) -> None:
        text = f"the server refuses this node: {reason}"
        if self._welcome is None:
            self._leave(reason, RefusedError(text))
        else:  # another server is there just now, and ours may come back
            self._steps.append(HangUp(text))

    def _wanted(self, node: NodeKey, sending: Sending) -> None:
        worker = self._workers.get(node)
        answer = worker.answered.pop(sending, None) if worker is not None else None
        if answer is not None:
            self._send_answers(Sent(node, answer.message, [answer.data]))

    def _cancel(self, message: Cancel, node: NodeKey, sending: Sending, now: float) -> None:
        """A worker that is computing just that is ended; what only waits for it is taken from it."""
        worker = self._workers.get(node)
        if worker is None:
            return
        worker.answered.pop(sending, None)
        if sending not in worker.open:
            return
        if next(iter(worker.open)) == sending:
            self._end_computing(node, worker, now)
            return
        pairs = pairwise(reversed(worker.open))
        worker.cancelled[sending] = next(before for this, before in pairs if this == sending)
        del worker.open[sending]
        self._steps.append(ToWorker(node, message))
        self._say(Dropped(node, *sending))

    def _end_computing(self, node: NodeKey, worker: Worker, now: float) -> None:
        mean = worker.mean_seconds
        short = mean is not None and max(mean, now - worker.begun_at) < WORTH_ENDING_S
        if short or not self._replace:
            return
        del self._workers[node]
        self._steps.append(EndWorker(node, "what it computed is not wanted any more"))
        self._say(NodeGone(node, False, False, "", ""))
        self._steps.append(StartWorker(worker.slot))

    def _take(self, answers: int) -> None:
        if answers > self._taken + self._unsafe:
            raise MessageError("Taken of more answers than there were")
        while self._sent and self._taken + len(self._sent[0].data) <= answers:
            count = len(self._sent.popleft().data)
            self._taken += count
            self._unsafe -= count

    def _send_answers(self, sent: Sent) -> None:
        self._sent.append(sent)
        self._unsafe += len(sent.data)
        self._say(sent.message)

    def _tasks(self, message: Task | Tasks, tasks: Mapping[Sending, Known], now: float) -> None:
        worker = self._workers.get(message.node)
        if worker is None:
            return  # it has died; the server hears of that
        self._served = True
        if not worker.open:
            worker.begun_at = now
        worker.open.update(tasks)
        self._steps.append(ToWorker(message.node, message))

    @staticmethod
    def _farewell(kind: int, reason: str) -> str:
        return reason if kind != QuitKind.DONE else "the job is done"

    def lost_server(self, reason: str) -> None:
        """The connection has ended without a word; the workers go on."""
        if self._in and not self._leaving:
            self._steps.append(Away(reason))
        for sent in self._sent:
            if sent.node in self._workers:
                self._workers[sent.node].answered.update(sent.answers())
        self._in = self._served = False
        self._sent.clear()
        self._unsafe = self._taken = 0
        self._drop(ToServer)

    def connected(self) -> None:
        """There is another connection, after one was lost."""
        assert self._welcome is not None
        self._steps.append(ToServer(self._hello._replace(job=self._welcome.job.hex())))

    def give_up(self, reason: str) -> None:
        """The server has not come back in time."""
        if not self._in and not self._leaving:
            text = f"the connection to the server was lost: {reason}"
            self._leave(text, ConnectionLostError(text))

    def ends(self, at: float, now: float) -> None:
        """This agent has to go at that time: the server shall know."""
        self._ends_at = at
        self._say(TimeLeft(max(0.0, at - now)))

    # ---- the workers

    def started(self, slot: int, node: NodeKey) -> None:
        """Answer to ``StartWorker``: the process runs."""
        welcome = self._welcome
        assert welcome is not None
        self._workers[node] = Worker(slot)
        if self._pace is not None:
            self._steps.append(ToWorker(node, self._pace))
        if welcome.init_per_node:
            self._say(AskInit(node))
        else:
            self._workers[node].has_init = True
            self._steps.append(ToWorker(node, Init(node, welcome.seed, welcome.payload)))

    def not_started(self, slot: int, reason: str, remote: str = "") -> None:
        """Answer to ``StartWorker``: there is no such process, or it ended before it was ready."""
        if self._leaving:
            return
        self._failed_starts += 1
        if self._failed_starts < MAX_FAILED_STARTS and self._replace:
            self._steps.append(StartWorker(slot))
            return
        text = f"workers cannot start here: {reason}"
        self._say(Goodbye(text, remote))
        self._leave(text, NodeFailed(text, remote))

    def worker_message(self, node: NodeKey, message: Message, now: float = 0.0) -> None:
        """A worker has said something; raises ``MessageError`` if it may not say that now."""
        worker = self._workers.get(node)
        if worker is None or self._leaving:
            return
        if isinstance(message, _ANSWERS):
            worker.begun_at = now  # the next one in its queue
            self._answers(node, worker, message)
            return
        match message:
            case Dropped(_, task, attempt) if (task, attempt) in worker.cancelled:
                del worker.cancelled[task, attempt]
            case Ready() if not worker.ready:
                worker.ready = True
                self._failed_starts = 0
                self._say(message)
            case NodeBroken(_, reason, remote) if not worker.ready:
                del self._workers[node]
                self._steps.append(EndWorker(node))
                self.not_started(worker.slot, reason, remote)
            case _:
                raise MessageError(f"a worker may not send {type(message).__name__} now")

    def _answers(self, node: NodeKey, worker: Worker, message: Result | Results | Failure) -> None:
        if isinstance(message, Results):
            named = [(task, attempt) for task, attempt, _, _ in message.run]
            worker.learn(sum(seconds for _, _, seconds, _ in message.run), len(named))
        else:
            named = [(message.task, message.attempt)]
            worker.learn(message.seconds, 1)
        if worker.cancelled and not worker.cancelled.keys().isdisjoint(named):
            self._answers_one_by_one(node, worker, message)
            return
        try:
            sent = Sent(node, message, list(map(worker.open.pop, named)))
        except KeyError:
            raise MessageError("a worker answered what it was not asked") from None
        if self._in:
            self._send_answers(sent)
        else:
            worker.answered.update(sent.answers())

    def _answers_one_by_one(
        self, node: NodeKey, worker: Worker, message: Result | Results | Failure
    ) -> None:
        """It had begun what was cancelled just then: that is not passed on, but the rest is."""
        count = len(message.run) if isinstance(message, Results) else 1
        for sending, answer in Sent(node, message, [()] * count).answers():
            if sending in worker.cancelled:
                del worker.cancelled[sending]
            else:
                self._answers(node, worker, answer.message)

    def worker_gone(self, node: NodeKey, reason: str, output: str = "") -> None:
        """A worker process has ended by itself; all that it said before has been passed on.

        ``output`` is what it printed last.
        """
        worker = self._workers.pop(node, None)
        if worker is None or self._leaving:
            return
        self._steps.append(WorkerDied(node, reason, worker.is_busy))
        if not self._replace:
            self._leave(f"the worker is gone: {reason}", None)
        elif worker.ready:
            self._say(NodeGone(node, True, worker.is_busy, reason, output))
            self._steps.append(StartWorker(worker.slot))
        else:
            self.not_started(worker.slot, reason, output)

    # ---- time

    @property
    def deadline(self) -> float | None:
        """When ``tick`` should be called at the latest: a task has taken too long then."""
        limit = self._welcome.task_timeout if self._welcome is not None else 0.0
        if not limit or not self._replace:
            return None
        return min((w.begun_at + limit for w in self._workers.values() if w.open), default=None)

    def answering(self, node: NodeKey, now: float) -> None:
        """An answer of this worker is on its way: its task takes no more time."""
        worker = self._workers.get(node)  # None: it is about to be ended
        if worker is not None:
            worker.begun_at = now

    def tick(self, now: float, output_of: Callable[[NodeKey], str] = lambda _: "") -> None:
        """Time has passed: workers whose task takes too long are ended and replaced.

        ``now`` must not be later than the last look at what the workers have said; ``output_of`` tells
        what one of them printed last.
        """
        while not self._leaving and (deadline := self.deadline) is not None and now >= deadline:
            node = min(
                (node for node, worker in self._workers.items() if worker.open),
                key=lambda node: self._workers[node].begun_at,
            )
            assert self._welcome is not None
            limit = self._welcome.task_timeout
            self._steps.append(EndWorker(node))
            reason = f"it was ended: task_timeout of {limit:g} s exceeded"
            self.worker_gone(node, reason, output_of(node))

    # ---- the end

    def leave(self, reason: str, error: ParasnakeError | None) -> None:
        """Go, handing back what is running (a signal asks for it)."""
        if not self._leaving:
            self._steps.append(ToServer(Goodbye(reason, "")))
            self._leave(reason, error)

    def _leave(self, reason: str, error: ParasnakeError | None) -> None:
        self._leaving = True
        self._drop(StartWorker)  # a worker that would start only to be ended costs time
        self._steps.append(Leave(reason, error))

    # ---- small parts

    def _say(self, message: Message) -> None:
        """Tell the server, if it has taken us; else it will hear of it when it does."""
        if self._in:
            self._steps.append(ToServer(message))

    def _drop(self, kind: type[Step]) -> None:
        self._steps = deque(step for step in self._steps if not isinstance(step, kind))


_ANSWERS = (Result, Results, Failure)


def _known(data: Parts) -> Known:
    return digest_of(data) if sum(map(len, data)) >= LARGE_BYTES else data


def _digest(known: Known) -> bytes:
    return known if isinstance(known, bytes) else digest_of(known)
