"""Which task goes to which node, and what becomes of it.

The scheduler knows tasks and nodes, nothing of connections. The farm tells it what happened (a node
joined, a result came, a node was lost) and takes from it what to do next (``next_step``). What it
promises: every task that was handed out ends as merged or as failed, and never twice.

A node computes its tasks in the order in which it got them, so the first open task of a node is the
one that it was computing when it died; only that one is charged.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import blake2b
from typing import NamedTuple

from .ids import Attempt, NodeKey, PeerId, TaskId
from .messages import Parts

LOOK_AHEAD_S = 0.05
"""A node is sent tasks for about this long in advance."""
MAX_DEPTH = 256
"""Open tasks of one node at the most."""
MAX_BYTES_AHEAD = 1 << 24
"""A node is sent no more data in advance than this (one task is always allowed)."""
SMOOTHING = 0.2
"""Weight of the newest task in a node's running means."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 1.0
"""Pauses between two questions for new data while nodes are idle: they double from one to the other."""


class Loss(Enum):
    """How a node went, which says what its first open task is charged with."""

    DIED = auto()
    """Its worker process ended: that counts as a failure of the task."""
    LOST = auto()
    """Its agent fell silent or its connection broke: counts towards ``max_losses``."""
    LEFT = auto()
    """It said goodbye: no charge."""


@dataclass(slots=True, eq=False)
class OpenTask:
    """A task from its hand-out to its end."""

    id: TaskId
    owner: NodeKey
    """The node under whose id ``new_data`` handed it out."""
    payload: Parts
    size: int
    data: object
    """The object itself, kept for hooks that ask for it."""
    running: NodeKey | None = None
    """The node that has it; None while it waits, and when it is over."""
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    tried: set[NodeKey | PeerId] = field(default_factory=set)
    """Nodes and agents on which it went wrong: others come first."""


@dataclass(slots=True, eq=False)
class Node:
    """A worker process somewhere."""

    key: NodeKey
    peer: PeerId
    open: dict[TaskId, Attempt] = field(default_factory=dict)
    """In the order of sending; the first is being computed."""
    mean_seconds: float | None = None
    mean_bytes: float = 0.0
    depth: int = 1
    """How many open tasks it should have: one until it is known how long they take."""
    owes: TaskId | None = None
    """Strict alternation: the task handed out under its name that is not merged yet."""
    dry: bool = False
    """``new_data`` had nothing for it, and nothing has changed since."""

    def learn(self, seconds: float, size: int) -> None:
        """Take the measure of one finished task into the running means, and into the depth."""
        if self.mean_seconds is None:
            self.mean_seconds, self.mean_bytes = seconds, size
        else:
            self.mean_seconds += SMOOTHING * (seconds - self.mean_seconds)
            self.mean_bytes += SMOOTHING * (size - self.mean_bytes)
        by_time = LOOK_AHEAD_S / max(self.mean_seconds, LOOK_AHEAD_S / MAX_DEPTH)
        by_bytes = MAX_BYTES_AHEAD / max(self.mean_bytes, 1.0)
        self.depth = 1 + int(min(by_time, by_bytes, MAX_DEPTH - 1))


class Assign(NamedTuple):
    """Step: send this task to this node."""

    node: Node
    task: OpenTask
    attempt: Attempt


class AskData(NamedTuple):
    """Step: ask the user for new data for this node, then call ``give``, ``nothing`` or ``exhaust``."""

    node: NodeKey


class Merge(NamedTuple):
    """Step: call the ``result`` hook, then ``merged``. ``node`` is the one that computed it."""

    task: OpenTask
    node: NodeKey
    seconds: float
    payload: Parts


class Fail(NamedTuple):
    """Step: the task has failed for good; tell the user, then call ``settled``."""

    task: OpenTask
    node: NodeKey
    reason: str
    remote: str


class Retry(NamedTuple):
    """Step: nothing to do but to tell: the task will be tried again."""

    task: OpenTask
    node: NodeKey
    reason: str
    remote: str


class TellTimeout(NamedTuple):
    """Step: call the ``node_timeout`` hook."""

    node: NodeKey


class Reclaimed(NamedTuple):
    """Step: nothing to do but to warn: the user's hooks forgot these tasks; they run again."""

    tasks: int


Step = Assign | AskData | Merge | Fail | Retry | TellTimeout | Reclaimed


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user's hooks and settings mean for the scheduler."""

    by_node: bool = False
    """``new_data`` asks for ``node_id``: for each node, hand-out and merge alternate."""
    user_reassigns: bool = False
    """The manner of 0.1: the user hands out the data of lost nodes again."""
    keep_data: bool = False
    """A hook asks for ``data``."""
    max_attempts: int = 3
    max_losses: int = 10


class Scheduler:
    """Tasks and nodes of one job."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._nodes: dict[NodeKey, Node] = {}
        self._tasks: dict[TaskId, OpenTask] = {}
        self._waiting: deque[OpenTask] = deque()  # handed out before, to be sent again
        self._forgotten: dict[bytes, list[OpenTask]] = {}  # the user's to hand out again, by digest
        self._hungry: dict[NodeKey, None] = {}  # nodes below their depth, the longest waiting first
        self._idle: dict[NodeKey, None] = {}  # nodes with no open task at all
        self._steps: deque[Step] = deque()
        self._next_id = 0
        self._unsettled = 0  # steps Merge and Fail that have not been answered
        self._unmerged_bytes = 0
        self._exhausted = False
        self._stopped = False
        self._asked: NodeKey | None = None
        self._pause = FIRST_PAUSE_S
        self._ask_again_at: float | None = None

    # ---- what is

    @property
    def nodes(self) -> dict[NodeKey, Node]:
        """All nodes by key; not to be changed."""
        return self._nodes

    @property
    def running(self) -> int:
        """How many tasks are on a node."""
        return len(self._tasks) - len(self._waiting)

    @property
    def waiting(self) -> int:
        """How many tasks wait to be sent again."""
        return len(self._waiting)

    @property
    def handed_out(self) -> int:
        """How many tasks ``new_data`` has given so far."""
        return self._next_id

    @property
    def complete(self) -> bool:
        """Whether a generator is exhausted and all of its tasks have been settled."""
        return self._exhausted and not self._tasks and not self._unsettled

    @property
    def busy(self) -> bool:
        """Whether any node has an open task or any result waits to be merged."""
        return bool(self._unsettled) or len(self._idle) < len(self._nodes)

    @property
    def pending(self) -> Iterable[Step]:
        """The steps that are certain already, in the order in which they will come."""
        return self._steps

    @property
    def unmerged_bytes(self) -> int:
        """Bytes of results that have come and wait to be merged."""
        return self._unmerged_bytes

    @property
    def forgotten(self) -> int:
        """How many tasks of lost nodes wait for the user to hand out their data again."""
        return sum(map(len, self._forgotten.values()))

    @property
    def deadline(self) -> float | None:
        """When ``tick`` should be called: the next time to ask for new data again."""
        return self._ask_again_at if self._idle else None

    def left_to_user(self, owner: NodeKey) -> Iterator[OpenTask]:
        """The tasks that wait for the user to hand out the data of this lost node again."""
        for tasks in self._forgotten.values():
            yield from (task for task in tasks if task.owner == owner)

    # ---- a job that began earlier

    def restore(
        self,
        tasks: Iterable[OpenTask],
        *,
        forgotten: Iterable[OpenTask],
        handed_out: int,
        exhausted: bool,
    ) -> None:
        """Go on with a job that another server has begun, before any node joins.

        Parameters
        ----------
        tasks: handed out and not settled; they keep their ids and owners and wait to be sent. One
            without a payload could not be sent, and fails again
        forgotten: those that wait for the user to hand out their data again
        handed_out: how many tasks ``new_data`` has given
        exhausted: whether the generator has ended
        """
        self._next_id, self._exhausted = handed_out, exhausted
        for task in tasks:
            self._tasks[task.id] = task
            if task.payload:
                self._waiting.append(task)
            else:
                self._fail(task, task.owner, "its data cannot be sent", "")
        for task in forgotten:
            self._forgotten.setdefault(_digest(task.payload), []).append(task)

    # ---- nodes

    def join(self, key: NodeKey, peer: PeerId) -> None:
        """A node is ready for tasks."""
        node = self._nodes[key] = Node(key, peer)
        self._refresh(node)
        self._something_changed()

    def lose(self, key: NodeKey, loss: Loss, reason: str, remote: str = "") -> int:
        """A node is gone; returns how many tasks it had open."""
        node = self._nodes.pop(key)
        self._hungry.pop(key, None)
        self._idle.pop(key, None)
        self._requeue(node, loss, reason, remote)
        left_to_user = self._leave_to_user(node)
        if loss is not Loss.LEFT or left_to_user:
            self._steps.append(TellTimeout(key))
        self._something_changed()
        return len(node.open)

    def _requeue(self, node: Node, loss: Loss, reason: str, remote: str) -> None:
        again: list[OpenTask] = []
        for index, task_id in enumerate(node.open):
            task = self._tasks.get(task_id)
            if task is None:
                continue  # it had been left to the user
            task.running = None
            if index == 0:
                self._charge(task, node, loss)
            if self._spent(task):
                self._fail(task, node.key, reason, remote)
            elif not self._is_users(task, node):
                again.append(task)
                if index == 0 and loss is not Loss.LEFT:
                    self._steps.append(Retry(task, node.key, reason, remote))
        self._waiting.extendleft(reversed(again))

    def _charge(self, task: OpenTask, node: Node, loss: Loss) -> None:
        if loss is Loss.DIED:
            task.failures += 1
            task.tried.add(node.peer)
        elif loss is Loss.LOST:
            task.losses += 1

    def _spent(self, task: OpenTask) -> bool:
        policy = self._policy
        return task.failures >= policy.max_attempts or task.losses >= policy.max_losses

    def _is_users(self, task: OpenTask, lost: Node) -> bool:
        return self._policy.user_reassigns and task.owner == lost.key

    def _leave_to_user(self, lost: Node) -> bool:
        """In the manner of 0.1, take a lost node's task out of the game: the user is told of it."""
        task = self._tasks.get(lost.owes) if lost.owes is not None else None
        if task is None or not self._is_users(task, lost):
            return False
        del self._tasks[task.id]
        with contextlib.suppress(ValueError):  # it need not wait: a node has it, or just had it
            self._waiting.remove(task)
        task.running = None
        self._forgotten.setdefault(_digest(task.payload), []).append(task)
        return True

    def _take_forgotten(self, payload: Parts) -> OpenTask | None:
        """Return a lost node's task with the same data, which is no longer forgotten then."""
        if not self._forgotten:
            return None  # most jobs need no digests
        digest = _digest(payload)
        tasks = self._forgotten.get(digest)
        if tasks is None:
            return None
        task = tasks.pop(0)
        if not tasks:
            del self._forgotten[digest]
        return task

    # ---- new data

    def give(self, payload: Parts, data: object) -> Assign:
        """Answer to ``AskData``: a new task, to be sent to the node that was asked for."""
        task = self._new_task(payload, data)
        self._tasks[task.id] = task
        again = self._take_forgotten(payload)
        if again is not None:  # the same data: what it did on other nodes still counts
            task.failures, task.losses, task.tried = again.failures, again.losses, again.tried
        node = self._nodes[task.owner]
        if self._policy.by_node:
            node.owes = task.id
        return self._assign(node, task)

    def refuse(self, data: object, reason: str, remote: str) -> None:
        """Answer to ``AskData``: the data cannot be sent, so its task has failed already."""
        task = self._new_task((), data)
        if self._policy.by_node:
            self._nodes[task.owner].owes = task.id
        task.failures = 1
        self._tasks[task.id] = task
        self._fail(task, task.owner, reason, remote)

    def nothing(self, now: float) -> None:
        """Answer to ``AskData``: nothing just now."""
        node = self._nodes[self._take_asked()]
        for other in [node] if self._policy.by_node else self._nodes.values():
            other.dry = True
        if self._ask_again_at is None:
            self._ask_again_at = now + self._pause

    def exhaust(self) -> None:
        """Answer to ``AskData``: the generator has ended."""
        self._take_asked()
        self._exhausted = True

    def stop(self) -> int:
        """No more hand-outs; returns how many tasks are dropped that way."""
        self._stopped = True
        unsettled = sum(isinstance(step, Merge | Fail) for step in self._steps)
        dropped = len(self._tasks) + self.forgotten + unsettled
        self._tasks.clear()
        self._waiting.clear()
        self._forgotten.clear()
        self._steps.clear()
        self._ask_again_at = None
        return dropped

    def tick(self, now: float) -> bool:
        """Time has passed; true if it is time to ask for new data (and whether all is done) again."""
        if self._ask_again_at is None or now < self._ask_again_at:
            return False
        pause = min(2 * self._pause, LAST_PAUSE_S)
        self._something_changed()
        self._pause = pause
        return True

    def reclaim(self) -> bool:
        """Take back the tasks that the user's hooks forgot; true if there were any.

        To be called when ``job_done`` is false. It does something only if there are nodes, all are
        idle, and ``new_data`` had nothing for any of them again and again, until the pauses between
        two questions had grown to the longest: a hook that says "nothing" once may still remember.
        """
        idle = bool(self._nodes) and not self.busy and not self._waiting
        patient = self._pause >= LAST_PAUSE_S and all(node.dry for node in self._nodes.values())
        if not self._forgotten or not idle or not patient:
            return False
        self._steps.append(Reclaimed(self.forgotten))
        for tasks in self._forgotten.values():
            self._tasks.update((task.id, task) for task in tasks)
            self._waiting.extend(tasks)
        self._forgotten.clear()
        return True

    # ---- results

    def result(
        self, key: NodeKey, task_id: TaskId, attempt: Attempt, seconds: float, payload: Parts
    ) -> bool:
        """A result has come; false if it is not wanted (late, or a repetition)."""
        task = self._finish_attempt(key, task_id, attempt)
        if task is None:
            return False
        size = sum(map(len, payload))
        node = self._nodes[key]
        depth = node.depth
        node.learn(seconds, task.size + size)
        if node.depth != depth:
            self._refresh(node)
        del self._tasks[task_id]
        task.payload, task.size = (), size
        self._unsettled += 1
        self._unmerged_bytes += size
        self._steps.append(Merge(task, key, seconds, payload))
        return True

    def failure(
        self,
        key: NodeKey,
        task_id: TaskId,
        attempt: Attempt,
        reason: str,
        remote: str,
        *,
        final: bool,
    ) -> bool:
        """An attempt went wrong on its node; ``final``: it would go wrong anywhere.

        Returns false if that is of no interest any more (late, or a repetition).
        """
        task = self._finish_attempt(key, task_id, attempt)
        if task is None:
            return False
        task.failures += 1
        task.tried.add(key)
        if final or self._spent(task):
            self._fail(task, key, reason, remote)
        else:
            self._waiting.append(task)
            self._steps.append(Retry(task, key, reason, remote))
        return True

    def settled(self, task: OpenTask) -> None:
        """The hook for a ``Merge`` or a ``Fail`` has been called."""
        self._unsettled -= 1
        self._unmerged_bytes -= task.size
        task.data = None
        owner = self._nodes.get(task.owner)
        if owner is not None and owner.owes == task.id:
            owner.owes = None
        self._something_changed()

    # ---- what to do next

    def next_step(self) -> Step | None:
        """Return the next thing to do, or None when there is nothing to do but wait."""
        if self._stopped:
            return None
        if self._steps:
            return self._steps.popleft()
        if self._waiting:
            for node in self._hungry_nodes():
                task = self._waiting_for(node)
                if task is not None:
                    self._waiting.remove(task)
                    return self._assign(node, task)
        if not self._exhausted:
            for node in self._hungry_nodes():
                if not node.dry and node.owes is None:
                    self._asked = node.key
                    return AskData(node.key)
        return None

    def _hungry_nodes(self) -> Iterator[Node]:
        """Nodes that should get a task, those that sit idle first."""
        for key in self._idle:
            yield self._nodes[key]
        for key in self._hungry:
            if key not in self._idle:
                yield self._nodes[key]

    def _waiting_for(self, node: Node) -> OpenTask | None:
        """The first waiting task that may go to this node."""
        for task in self._waiting:
            if not self._went_wrong_on(task, node) or all(
                self._went_wrong_on(task, other) for other in self._nodes.values()
            ):
                return task
        return None

    @staticmethod
    def _went_wrong_on(task: OpenTask, node: Node) -> bool:
        return node.key in task.tried or node.peer in task.tried

    def _assign(self, node: Node, task: OpenTask) -> Assign:
        attempt = Attempt(task.attempts)
        task.attempts += 1
        task.running = node.key
        node.open[task.id] = attempt
        self._refresh(node)
        return Assign(node, task, attempt)

    # ---- small parts

    def _new_task(self, payload: Parts, data: object) -> OpenTask:
        owner = self._take_asked()
        task_id = TaskId(self._next_id)
        self._next_id += 1
        self._pause = FIRST_PAUSE_S
        kept = data if self._policy.keep_data else None
        return OpenTask(task_id, owner, payload, sum(map(len, payload)), kept)

    def _take_asked(self) -> NodeKey:
        asked = self._asked
        assert asked is not None, "an answer without a question"
        self._asked = None
        return asked

    def _finish_attempt(self, key: NodeKey, task_id: TaskId, attempt: Attempt) -> OpenTask | None:
        """Free the node of a task that it has answered; returns the task if it is still wanted."""
        node = self._nodes.get(key)
        if node is None or node.open.get(task_id) != attempt:
            return None
        del node.open[task_id]
        self._refresh(node)
        task = self._tasks.get(task_id)  # None: it has been left to the user
        if task is not None:
            task.running = None
        return task

    def _fail(self, task: OpenTask, key: NodeKey, reason: str, remote: str) -> None:
        del self._tasks[task.id]
        task.payload, task.size = (), 0
        self._unsettled += 1
        self._steps.append(Fail(task, key, reason, remote))

    def _refresh(self, node: Node) -> None:
        """Bring the sets of hungry and idle nodes up to date with this one."""
        depth = 1 if self._policy.by_node else node.depth
        if len(node.open) < depth:
            self._hungry[node.key] = None
        else:
            self._hungry.pop(node.key, None)
        if node.open:
            self._idle.pop(node.key, None)
        else:
            self._idle[node.key] = None

    def _something_changed(self) -> None:
        """A merge, a join, a loss: whoever had no data before may be asked again."""
        if self._ask_again_at is None:
            return
        self._pause, self._ask_again_at = FIRST_PAUSE_S, None
        for node in self._nodes.values():
            node.dry = False


def _digest(payload: Parts) -> bytes:
    digest = blake2b(digest_size=16)
    for part in payload:
        digest.update(part)
    return digest.digest()
