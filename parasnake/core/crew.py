"""The agent's decisions: its workers on one side, its server on the other."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import (
    ConnectionLostError,
    MessageError,
    NodeFailed,
    ParasnakeError,
    RefusedError,
)
from .farm import differences
from .ids import NodeKey
from .messages import (
    AskInit,
    Cancel,
    Failure,
    Goodbye,
    Hello,
    Init,
    Message,
    NodeBroken,
    NodeGone,
    Quit,
    QuitKind,
    Ready,
    Refused,
    Result,
    Task,
    Welcome,
)

MAX_FAILED_STARTS = 3
"""An agent gives up when this many workers in a row ended before they were ready."""


@dataclass(slots=True)
class Worker:
    """One worker process."""

    slot: int
    ready: bool = False
    open: set[tuple[int, int]] = field(default_factory=set)
    """Task and attempt of what it has not answered."""
    begun_at: float = 0.0
    """When it began the oldest of these."""


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
    """Step: end this worker's process and whatever it started."""

    node: NodeKey


class Joined(NamedTuple):
    """Step: tell the user that the server took us."""

    differences: list[str]


class WorkerDied(NamedTuple):
    """Step: tell the user that a worker died."""

    node: NodeKey
    reason: str
    busy: bool


class Leave(NamedTuple):
    """Step: all is said; close the connection, end the workers and return, or raise ``error``."""

    reason: str
    error: ParasnakeError | None


Step = ToServer | ToWorker | StartWorker | EndWorker | Joined | WorkerDied | Leave


class Crew:
    """One agent: its workers, what they work on, what to do next.

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
        self._failed_starts = 0
        self._leaving = False
        self._steps: deque[Step] = deque([ToServer(hello)])

    @property
    def welcome(self) -> Welcome | None:
        """What the server said when it took us."""
        return self._welcome

    @property
    def workers(self) -> dict[NodeKey, Worker]:
        """The workers by node; not to be changed."""
        return self._workers

    def next_step(self) -> Step | None:
        """Return the next thing to do, or None when there is nothing to do but wait."""
        return self._steps.popleft() if self._steps else None

    # ---- the server

    def message(self, message: Message, now: float = 0.0) -> None:
        """The server has said something; raises ``MessageError`` if it may not say that now."""
        if self._leaving:
            return
        if isinstance(message, Task):
            self._task(message, now)
            return
        match message:
            case Welcome():
                self._welcomed(message)
            case Init(node):
                if node in self._workers:
                    self._steps.append(ToWorker(node, message))
            case Refused(_, reason):
                self._leave(reason, RefusedError(f"the server refuses this node: {reason}"))
            case Quit(kind, reason):
                self._leave(self._farewell(kind, reason), None)
            case Cancel():
                pass  # a hint; the result is dropped by the server
            case _:
                raise MessageError(f"a server may not send {type(message).__name__}")

    def _welcomed(self, welcome: Welcome) -> None:
        if self._welcome is not None:
            raise MessageError("a second Welcome")
        self._welcome = welcome
        hello = self._hello
        found = differences(welcome.server_python, welcome.digest, hello.python, hello.digest)
        self._steps.append(Joined(found))
        self._steps += [StartWorker(slot) for slot in range(self._size)]

    def _task(self, task: Task, now: float) -> None:
        worker = self._workers.get(task.node)
        if worker is None:
            return  # it has died; the server hears of that
        if not worker.open:
            worker.begun_at = now
        worker.open.add((task.task, task.attempt))
        self._steps.append(ToWorker(task.node, task))

    @staticmethod
    def _farewell(kind: int, reason: str) -> str:
        return reason if kind != QuitKind.DONE else "the job is done"

    def lost_server(self, reason: str) -> None:
        """The connection has ended without a word."""
        if not self._leaving:
            text = f"the connection to the server was lost: {reason}"
            self._leave(text, ConnectionLostError(text))

    # ---- the workers

    def started(self, slot: int, node: NodeKey) -> None:
        """Answer to ``StartWorker``: the process runs."""
        welcome = self._welcome
        assert welcome is not None
        self._workers[node] = Worker(slot)
        if welcome.init_per_node:
            self._steps.append(ToServer(AskInit(node)))
        else:
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
        self._steps.append(ToServer(Goodbye(text, remote)))
        self._leave(text, NodeFailed(text, remote))

    def worker_message(self, node: NodeKey, message: Message, now: float = 0.0) -> None:
        """A worker has said something; raises ``MessageError`` if it may not say that now."""
        worker = self._workers.get(node)
        if worker is None or self._leaving:
            return
        if isinstance(message, Result | Failure):
            worker.begun_at = now  # the next one in its queue
            worker.open.discard((message.task, message.attempt))
            self._steps.append(ToServer(message))
            return
        match message:
            case Ready() if not worker.ready:
                worker.ready = True
                self._failed_starts = 0
                self._steps.append(ToServer(message))
            case NodeBroken(_, reason, remote) if not worker.ready:
                del self._workers[node]
                self._steps.append(EndWorker(node))
                self.not_started(worker.slot, reason, remote)
            case _:
                raise MessageError(f"a worker may not send {type(message).__name__} now")

    def worker_gone(self, node: NodeKey, reason: str) -> None:
        """A worker process has ended by itself; all that it said before has been passed on."""
        worker = self._workers.pop(node, None)
        if worker is None or self._leaving:
            return
        self._steps.append(WorkerDied(node, reason, bool(worker.open)))
        if not self._replace:
            self._leave(f"the worker is gone: {reason}", None)
        elif worker.ready:
            self._steps.append(ToServer(NodeGone(node, reason)))
            self._steps.append(StartWorker(worker.slot))
        else:
            self.not_started(worker.slot, reason)

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
        self._workers[node].begun_at = now

    def tick(self, now: float) -> None:
        """Time has passed: workers whose task takes too long are ended and replaced.

        ``now`` must not be later than the last look at what the workers have said.
        """
        while not self._leaving and (deadline := self.deadline) is not None and now >= deadline:
            node = min(
                (node for node, worker in self._workers.items() if worker.open),
                key=lambda node: self._workers[node].begun_at,
            )
            assert self._welcome is not None
            limit = self._welcome.task_timeout
            self._steps.append(EndWorker(node))
            self.worker_gone(node, f"it was ended: task_timeout of {limit:g} s exceeded")

    # ---- the end

    def leave(self, reason: str, error: ParasnakeError | None) -> None:
        """Go, handing back what is running (a signal asks for it)."""
        if not self._leaving:
            self._steps.append(ToServer(Goodbye(reason, "")))
            self._leave(reason, error)

    def _leave(self, reason: str, error: ParasnakeError | None) -> None:
        self._leaving = True
        # A worker that would start only to be ended costs time.
        self._steps = deque(step for step in self._steps if not isinstance(step, StartWorker))
        self._steps.append(Leave(reason, error))
