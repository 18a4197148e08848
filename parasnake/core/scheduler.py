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
from collections.abc import Iterable, Iterator, Sequence
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
RETURN_GRACE_S = 10.0
"""After a restart a task waits this long for the node that was computing it to return."""
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
    also: set[NodeKey] = field(default_factory=set)
    """More nodes that have it: they returned with it when it had been given to another."""
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    tried: set[NodeKey | PeerId] = field(default_factory=set)
    """Nodes and agents on which it went wrong: others come first."""
    lost_with: set[NodeKey] = field(default_factory=set)
    """Nodes whose loss is charged to it; taken back for one that returns with it."""

    def taken_by(self, key: NodeKey) -> None:
        """A node has it (too)."""
        if self.running is None:
            self.running = key
        else:
            self.also.add(key)

    def left_by(self, key: NodeKey) -> None:
        """A node does not have it any more."""
        self.also.discard(key)
        if self.running == key:
            self.running = self.also.pop() if self.also else None


@dataclass(slots=True, eq=False)
class Node:
    """A worker process somewhere."""

    key: NodeKey
    peer: PeerId
    open: dict[TaskId, Attempt] = field(default_factory=dict)
    """In the order of sending; the first is being computed."""
    unwanted: set[tuple[TaskId, Attempt]] = field(default_factory=set)
    """What it returned with, still computes and need not: until it is through, it is not free."""
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


class Holding(NamedTuple):
    """What a node that has returned says of one task that it still holds."""

    task: TaskId
    attempt: Attempt
    digest: bytes
    """Of the data, see ``digest_of``."""
    finished: bool
    """Whether it has the result already, or an exception; else it computes it, or will."""


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
        self._awaiting: dict[TaskId, tuple[OpenTask, NodeKey]] = {}  # for their node to return
        self._grace_over_at: float | None = None
        self._sent_before: dict[TaskId, int] = {}  # attempts of tasks that a restart has undone
        self._owed: dict[NodeKey, TaskId] = {}  # strict alternation, also of nodes that are away
        self._forgotten: dict[bytes, list[OpenTask]] = {}  # the user's to hand out again, by digest
        self._hungry: dict[NodeKey, None] = {}  # nodes below their depth, the longest waiting first
        self._idle: dict[NodeKey, None] = {}  # nodes with no open task at all
        self._steps: deque[Step] = deque()
        self._next_id = 0
        self._unsettled = 0  # steps Merge and Fail that have not been answered
        self._settled = 0
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
        return len(self._tasks) - self.waiting

    @property
    def waiting(self) -> int:
        """How many tasks wait to be sent again."""
        return len(self._waiting) + len(self._awaiting)

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

    def size_of(self, task_id: TaskId) -> int:
        """Bytes of the data of an open task; 0 for any other."""
        task = self._tasks.get(task_id)
        return task.size if task is not None else 0

    @property
    def unsettled(self) -> int:
        """How many tasks have ended whose hook has not been called."""
        return self._unsettled

    @property
    def settled_so_far(self) -> int:
        """How many tasks have ended and been settled."""
        return self._settled

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
        """When ``tick`` should be called: to ask for new data again, or to wait for no node more."""
        asking = self._ask_again_at if self._idle else None
        times = [time for time in (asking, self._grace_over_at) if time is not None]
        return min(times, default=None)

    # ---- nodes

    def join(self, key: NodeKey, peer: PeerId, held: Sequence[Holding] = ()) -> list[bool]:
        """A node is ready for tasks, or has returned with some that it holds, in its order.

        Returns for each of those whether it is still wanted. If so, its result counts like any
        other; a finished one must be asked for.
        """
        node = self._nodes[key] = Node(key, peer, owes=self._owed.get(key))
        wanted = [self._adopt(node, holding) for holding in held]
        self._release(task for task, awaited in self._awaiting.values() if awaited == key)
        self._refresh(node)
        self._something_changed()
        return wanted

    def _adopt(self, node: Node, holding: Holding) -> bool:
        task = self._tasks.get(holding.task)
        if task is not None:  # no attempt of this number may ever be sent again
            task.attempts = max(task.attempts, holding.attempt + 1)
        if task is None or digest_of(task.payload) != holding.digest or task.id in node.open:
            if not holding.finished:
                node.unwanted.add((holding.task, holding.attempt))
                if holding.task >= self._next_id:
                    sent_before = self._sent_before.get(holding.task, 0)
                    self._sent_before[holding.task] = max(sent_before, holding.attempt + 1)
            return False
        self._awaiting.pop(task.id, None)
        if task.running is None:
            with contextlib.suppress(ValueError):
                self._waiting.remove(task)
        task.taken_by(node.key)
        node.open[task.id] = holding.attempt
        if node.key in task.lost_with:
            task.lost_with.remove(node.key)
            task.losses -= 1
        return True

    def _release(self, tasks: Iterable[OpenTask]) -> None:
        """These tasks need not wait for their nodes any more."""
        for task in list(tasks):
            del self._awaiting[task.id]
            self._waiting.append(task)
        if not self._awaiting:
            self._grace_over_at = None

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
            task.left_by(node.key)
            if index == 0 and not node.unwanted:
                self._charge(task, node, loss)
            if self._spent(task):
                self._fail(task, node.key, reason, remote)
            elif task.running is None and not self._is_users(task, node):
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
            task.lost_with.add(node.key)

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
        task.also.clear()
        del self._owed[lost.key]
        self._forgotten.setdefault(digest_of(task.payload), []).append(task)
        return True

    def _take_forgotten(self, payload: Parts) -> OpenTask | None:
        """Return a lost node's task with the same data, which is no longer forgotten then."""
        if not self._forgotten:
            return None  # most jobs need no digests
        digest = digest_of(payload)
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
        self._owe(task)
        return self._assign(self._nodes[task.owner], task)

    def _owe(self, task: OpenTask) -> None:
        if self._policy.by_node:
            self._owed[task.owner] = task.id
            if task.owner in self._nodes:
                self._nodes[task.owner].owes = task.id

    def restore(
        self,
        task_id: TaskId,
        owner: NodeKey,
        payload: Parts,
        data: object,
        *,
        node: NodeKey | None = None,
        failures: int = 0,
        losses: int = 0,
        attempts: int = 0,
        now: float,
    ) -> None:
        """Take in a task that was open when the server went; to be called before any node joins.

        With the ``node`` that had it then, it is not given to others before that node returned
        without it or ``RETURN_GRACE_S`` have passed. ``attempts`` is how often it was sent, as far
        as that is known.
        """
        kept = data if self._policy.keep_data else None
        task = OpenTask(task_id, owner, payload, sum(map(len, payload)), kept)
        task.failures, task.losses, task.attempts = failures, losses, attempts
        self._tasks[task_id] = task
        self._next_id = max(self._next_id, task_id + 1)
        self._owe(task)
        if node is None:
            self._waiting.append(task)
            return
        self._awaiting[task_id] = (task, node)
        self._grace_over_at = now + RETURN_GRACE_S

    def refuse(self, data: object, reason: str, remote: str) -> None:
        """Answer to ``AskData``: the data cannot be sent, so its task has failed already."""
        task = self._new_task((), data)
        self._owe(task)
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
        self._awaiting.clear()
        self._forgotten.clear()
        self._steps.clear()
        self._ask_again_at = self._grace_over_at = None
        return dropped

    def tick(self, now: float) -> bool:
        """Time has passed; true if it is time to ask for new data (and whether all is done) again."""
        if self._grace_over_at is not None and now >= self._grace_over_at:
            self._release(task for task, _ in self._awaiting.values())
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
        idle = bool(self._nodes) and not self.busy and not self.waiting
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
        task.running = None
        task.also.clear()
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
            if task.running is None:
                self._waiting.append(task)
            self._steps.append(Retry(task, key, reason, remote))
        return True

    def settled(self, task: OpenTask) -> None:
        """The hook for a ``Merge`` or a ``Fail`` has been called."""
        self._unsettled -= 1
        self._settled += 1
        self._unmerged_bytes -= task.size
        task.data = None
        if self._owed.get(task.owner) == task.id:
            del self._owed[task.owner]
            if task.owner in self._nodes:
                self._nodes[task.owner].owes = None
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
        task.taken_by(node.key)
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
        task = OpenTask(task_id, owner, payload, sum(map(len, payload)), kept)
        task.attempts = self._sent_before.pop(task_id, 0)
        return task

    def _take_asked(self) -> NodeKey:
        asked = self._asked
        assert asked is not None, "an answer without a question"
        self._asked = None
        return asked

    def _finish_attempt(self, key: NodeKey, task_id: TaskId, attempt: Attempt) -> OpenTask | None:
        """Free the node of a task that it has answered; returns the task if it is still wanted."""
        node = self._nodes.get(key)
        if node is None:
            return None
        if (task_id, attempt) in node.unwanted:
            node.unwanted.remove((task_id, attempt))
            self._refresh(node)
            return None
        if node.open.get(task_id) != attempt:
            return None
        del node.open[task_id]
        self._refresh(node)
        task = self._tasks.get(task_id)  # None: it has been left to the user
        if task is not None:
            task.left_by(key)
        return task

    def _fail(self, task: OpenTask, key: NodeKey, reason: str, remote: str) -> None:
        del self._tasks[task.id]
        task.running = None
        task.also.clear()
        task.payload, task.size = (), 0
        self._unsettled += 1
        self._steps.append(Fail(task, key, reason, remote))

    def _refresh(self, node: Node) -> None:
        """Bring the sets of hungry and idle nodes up to date with this one."""
        depth = 1 if self._policy.by_node else node.depth
        if len(node.open) + len(node.unwanted) < depth:
            self._hungry[node.key] = None
        else:
            self._hungry.pop(node.key, None)
        if node.open or node.unwanted:
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


def digest_of(payload: Parts) -> bytes:
    """Return the digest by which data is known again, 16 bytes."""
    digest = blake2b(digest_size=16)
    for part in payload:
        digest.update(part)
    return digest.digest()
