"""Which task goes to which node, and what becomes of it.

The scheduler knows tasks and nodes, nothing of connections. The farm tells it what happened (a node
joined, a result came, a node was lost) and takes from it what to do next (``next_step``). What it
promises: every task that was handed out ends as merged or as failed, and never twice.

A node computes its tasks in the order in which it got them, so the first open task of a node is the
one that it was computing when it died; only that one is charged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from .forgotten import Forgotten
from .ids import Attempt, NodeKey, PeerId, TaskId
from .limits import Limits
from .line import Line
from .messages import Parts
from .order import InOrder
from .sharing import Sharing
from .stragglers import Stragglers
from .suspects import Suspects
from .tasks import (
    AskData,
    Assign,
    Fail,
    Holding,
    Loss,
    Merge,
    Node,
    OpenTask,
    Policy,
    Reclaimed,
    Retry,
    SetAside,
    Step,
    TellTimeout,
    TooLong,
    Withdraw,
    digest_of,
)

RETURN_GRACE_S = 10.0
"""After a restart a task waits this long for the node that was computing it to return."""
WORTH_LEARNING_S = 0.01
"""How long results took is taken note of from this time on, or if any node has to go at some time."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 1.0
"""Pauses between two questions for new data while nodes are idle: they double from one to the other."""


class Scheduler:
    """Tasks and nodes of one job."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._nodes: dict[NodeKey, Node] = {}
        self._tasks: dict[TaskId, OpenTask] = {}
        # Handed out before, to be sent again; in order, the one that others wait for goes first.
        self._waiting: Line[OpenTask] = Line(_id_of if policy.ordered else None)
        self._awaiting: dict[TaskId, OpenTask] = {}  # for their owner to return
        self._awaited: dict[NodeKey, list[OpenTask]] = {}  # the same by owner, and some that did
        self._grace_over_at: float | None = None
        self._sent_before: dict[TaskId, Attempt] = {}  # the newest of what a restart has undone
        self._owed: dict[NodeKey, TaskId] = {}  # strict alternation, also of nodes that are away
        self._forgotten = Forgotten(policy.plain)
        self._hungry: dict[NodeKey, None] = {}  # nodes below their depth, the longest waiting first
        self._idle: dict[NodeKey, None] = {}  # nodes with no open task at all
        self._spared: set[NodeKey | PeerId] = set()  # whose loss is charged to no task
        self._steps: deque[Step] = deque()
        self._in_vain: deque[tuple[NodeKey, TaskId]] = deque()  # who need not compute what
        self._order = InOrder(policy.max_held)
        self._next_id = 0
        self._unsettled: dict[TaskId, int] = {}  # ended, hook not called: how many ended before
        self._ended = 0
        self._unmerged_bytes = 0
        self._exhausted = False
        self._stopped = False
        self._suspects: Suspects[OpenTask] = Suspects(policy.max_failed_tasks)
        self._aside = self._suspects.aside
        self._stragglers = Stragglers(wanted=policy.speculate)
        self._sharing = Sharing()
        self._limits = Limits(self._nodes)
        self._told_too_long = False
        self._moves: deque[tuple[OpenTask, NodeKey, NodeKey]] = deque()  # from whom to whom
        self.now = 0.0
        """The time, as far as it was told; it may be set to a later one at any moment."""
        self.lost_seconds = 0.0
        """How long nodes had computed what they were lost with."""
        self._asked: NodeKey | None = None
        self._pause = FIRST_PAUSE_S
        self._ask_again_at: float | None = None
        self._dry = False  # new_data had nothing, and nothing has changed since ...
        self._dry_nodes: set[NodeKey] = set()  # ... or, if it asks for node_id, nothing for these

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
    def newest(self) -> TaskId:
        """The task that ``new_data`` has given last."""
        return TaskId(self._next_id - 1)

    @property
    def complete(self) -> bool:
        """Whether a generator is exhausted and all of its tasks have been settled."""
        return self._exhausted and not self._tasks and not self._unsettled

    @property
    def busy(self) -> bool:
        """Whether any node has an open task or any result waits to be merged."""
        return bool(self._unsettled) or len(self._idle) < len(self._nodes)

    @property
    def idle(self) -> int:
        """How many nodes have no open task."""
        return len(self._idle)

    def size_of(self, task_id: TaskId) -> int:
        """Bytes of the data of an open task; 0 for any other."""
        task = self._tasks.get(task_id)
        return task.size if task is not None else 0

    @property
    def ended_so_far(self) -> int:
        """How many tasks have ended, whether their hooks have been called or not."""
        return self._ended

    @property
    def settled_so_far(self) -> int:
        """How many of the tasks that have ended are settled, counted up to the first that is not.

        In order, hooks are called in another order than that of the ends.
        """
        return next(iter(self._unsettled.values()), self._ended)

    @property
    def pending(self) -> Iterable[Step]:
        """The steps that are certain already, in the order in which they will come."""
        return self._steps

    @property
    def unmerged_bytes(self) -> int:
        """Bytes of results that could be merged at once.

        Not of those that wait for their predecessors: they come by what is not read yet.
        """
        return self._unmerged_bytes

    @property
    def forgotten(self) -> int:
        """How many tasks of lost nodes wait for the user to hand out their data again."""
        return len(self._forgotten)

    @property
    def deadline(self) -> float | None:
        """When ``tick`` should be called.

        To ask for new data again, to look for stragglers, or to wait for no lost node any more.
        """
        times = [self._suspects.deadline, self._grace_over_at]
        if self._idle:
            times += [self._ask_again_at, self._stragglers.look_at]
            times += [self._sharing.look_at] if any(self._idle_nodes()) else []
            times.append(self._limits.look_at)
        return min((time for time in times if time is not None), default=None)

    def left_to_user(self, owner: NodeKey) -> Iterator[OpenTask]:
        """The tasks that wait for the user to hand out the data of this lost node again."""
        return self._forgotten.of(owner)

    @property
    def exhausted(self) -> bool:
        """Whether the generator has ended."""
        return self._exhausted

    def unsettled_tasks(self) -> Iterator[tuple[OpenTask, bool]]:
        """All tasks that were handed out and not settled, each with whether it is left to the user."""
        yield from ((task, False) for task in self._tasks.values())
        for step in (*self._steps, *self._order.held.values()):
            if isinstance(step, Merge | Fail):
                yield step.task, False
        yield from ((task, True) for task in self._forgotten)

    # ---- a job that began earlier

    def restore(
        self,
        tasks: Iterable[OpenTask],
        *,
        forgotten: Iterable[OpenTask],
        handed_out: int,
        exhausted: bool,
        now: float,
        grace: float = RETURN_GRACE_S,
    ) -> None:
        """Go on with a job that another server has begun, before any node joins.

        Parameters
        ----------
        tasks: handed out and not settled; they keep their ids and owners. Each waits for its owner,
            which may still compute it, until that has returned without it or ``grace`` seconds
            have passed. One without a payload could not be sent, and fails again
        forgotten: those that wait for the user to hand out their data again
        handed_out: how many tasks ``new_data`` has given
        exhausted: whether the generator has ended
        """
        tasks = list(tasks)
        self._next_id, self._exhausted = handed_out, exhausted
        self._order.turn = min((task.id for task in tasks), default=TaskId(handed_out))
        for task in tasks:
            self._tasks[task.id] = task
            if not task.reclaimed:
                self._owe(task)
            if task.payload:
                self._awaiting[task.id] = task
                self._awaited.setdefault(task.owner, []).append(task)
                self._grace_over_at = now + grace
            else:
                self._fail(task, task.owner, "its data cannot be sent", "")
        for task in forgotten:
            self._forgotten.add(task)

    # ---- nodes

    def join(
        self,
        key: NodeKey,
        peer: PeerId,
        held: Sequence[Holding] = (),
        *,
        delay: float = 0.0,
        ends_at: float | None = None,
    ) -> list[bool]:
        """A node is ready for tasks, or has returned with some that it holds, in its order.

        A message to it and its answer take ``delay`` seconds; it has to go at ``ends_at``. Returns for
        each of the tasks whether it is still wanted. If so, its result counts like any other; a
        finished one must be asked for.
        """
        node = Node(key, peer, delay, owes=self._owed.get(key), joined_at=self.now)
        self._nodes[key] = node
        self._limits.changed()
        if ends_at is not None:
            self._limits.ends(node, ends_at)
        wanted = [self._adopt(node, holding) for holding in held]
        self._release(task for task in self._awaited.pop(key, ()) if task.id in self._awaiting)
        self._refresh(node)
        self._stragglers.watch(self.now)
        self._something_changed()
        return wanted

    def _adopt(self, node: Node, holding: Holding) -> bool:
        task = self._tasks.get(holding.task)
        sent = task if task is not None else self._forgotten.find(holding.task)
        if sent is not None:  # no attempt of this number may ever be sent again
            sent.newest = max(sent.newest, holding.attempt)
        if task is None or digest_of(task.payload) != holding.digest or task.id in node.open:
            if not holding.finished:
                node.unwanted.add((holding.task, holding.attempt))
                if holding.task >= self._next_id:
                    newest = self._sent_before.get(holding.task, holding.attempt)
                    self._sent_before[holding.task] = max(newest, holding.attempt)
            return False
        awaited = self._awaiting.pop(task.id, None)
        if task.running is None and awaited is None:
            self._waiting.discard(task)
        task.taken_by(node.key)
        node.open[task.id] = holding.attempt
        if node.key in task.lost_with:
            task.lost_with -= {node.key}
            task.losses -= 1
        return True

    def _release(self, tasks: Iterable[OpenTask]) -> None:
        """These tasks need not wait for their nodes any more."""
        released = list(tasks)
        for task in released:
            del self._awaiting[task.id]
        self._put_back(released)
        if not self._awaiting:
            self._awaited.clear()
            self._grace_over_at = None

    def ends(self, key: NodeKey, at: float) -> None:
        """A node has to go at this time: it gets nothing that would take longer."""
        node = self._nodes.get(key)
        if node is not None:
            self._limits.ends(node, at)

    def out_of_time(self) -> dict[PeerId, int]:
        """How many idle nodes of each agent have too little time left for any task."""
        nodes = map(self._nodes.__getitem__, self._idle)
        return self._limits.out_of_time((node for node in nodes if node.owes is None), self.now)

    def spare(self, *whom: NodeKey | PeerId) -> None:
        """Somebody ends these nodes, or breaks these connections, on purpose: no task is to blame.

        It holds as long as they are there: for the deaths of a node, for the loss of a connection.
        """
        self._spared.update(whom)

    def lose(self, key: NodeKey, loss: Loss, reason: str, remote: str = "") -> int:
        """A node is gone; returns how many tasks it had open.

        ``remote`` is more about it, for a task that has failed for good by that.
        """
        node = self._nodes.pop(key)
        self._limits.changed()
        self._hungry.pop(key, None)
        self._idle.pop(key, None)
        self._sharing.gone(key)
        self._requeue(node, loss, reason, remote)
        self._pardon(node.peer)
        left_to_user = self._leave_to_user(node)
        if loss is not Loss.LEFT or left_to_user:
            self._steps.append(TellTimeout(key))
        self._something_changed()
        return len(node.open)

    def _requeue(self, node: Node, loss: Loss, reason: str, remote: str) -> None:
        again: list[OpenTask] = []
        first = self._begun(node, loss)
        for task_id in node.open:
            task = self._tasks.get(task_id)
            if task is None:
                continue  # it had been left to the user
            task.left_by(node.key)
            if task_id == first and not node.unwanted:
                ran_for = self.now - node.begun_at
                self.lost_seconds += ran_for
                if node.ends_at is not None and loss is not Loss.DIED:
                    self._limits.cut(task, ran_for)
                self._charge(task, node, loss, reason)
            if self._spent(task):
                self._fail(task, node.key, reason, remote)
            elif task.running is None and not self._is_users(task, node):
                again.append(task)
                if task_id == first and loss in (Loss.DIED, Loss.LOST):
                    self._steps.append(Retry(task, node.key, reason, ""))
        self._put_back(again, first=True)

    @staticmethod
    def _begun(node: Node, loss: Loss) -> TaskId | None:
        """The task that a node was computing, as far as that can be known.

        An agent that tells of a death has said before what had been dropped there.
        """
        if loss is Loss.DIED:
            return next(iter(node.open), None)
        return next((task_id for task_id in node.open if task_id not in node.leaving), None)

    def _charge(self, task: OpenTask, node: Node, loss: Loss, reason: str) -> None:
        if (node.key if loss is Loss.DIED else node.peer) in self._spared:
            return
        if loss is Loss.LOST and node.ends_at is not None and self.now >= node.ends_at:
            return  # it had to go, and could not say so any more
        if loss is Loss.DIED:
            self._blame(task, node, reason)
        elif loss is Loss.LOST:
            task.losses += 1
            task.lost_with |= {node.key}

    def _blame(self, task: OpenTask, node: Node, reason: str) -> None:
        """Count a failure for its task, unless everything goes wrong with that agent."""
        task.tried |= {node.key, node.peer}
        if node.peer in self._aside:
            return
        task.failures += 1
        if not any(
            other.peer != node.peer and other.peer not in self._aside
            for other in self._nodes.values()
        ):
            return  # there is nobody else
        before = self._suspects.failed(node.peer, task.id, task, self._stragglers.results, self.now)
        for charged in before:
            charged.failures -= charged.id in self._tasks
        if before:
            back_at = self._aside[node.peer]
            self._steps.append(
                SetAside(node.key, node.peer, len(before), back_at - self.now, reason)
            )

    def _pardon(self, peer: PeerId) -> None:
        """A node of this agent is gone; whoever is set aside is needed if there is nobody else."""
        if not self._suspects.exist:
            return
        peers = {node.peer for node in self._nodes.values()}
        if peer not in peers:
            self._suspects.gone(peer)
        if all(other in self._aside for other in peers):
            self._suspects.pardon()

    def _spent(self, task: OpenTask) -> bool:
        policy = self._policy
        return task.failures >= policy.max_attempts or task.losses >= policy.max_losses

    def _is_users(self, task: OpenTask, lost: Node) -> bool:
        return self._policy.user_reassigns and task.owner == lost.key and not task.reclaimed

    def _leave_to_user(self, lost: Node) -> bool:
        """In the manner of 0.1, take a lost node's task out of the game: the user is told of it."""
        task = self._tasks.get(lost.owes) if lost.owes is not None else None
        if task is None or not self._is_users(task, lost):
            return False
        del self._tasks[task.id]
        self._waiting.discard(task)
        task.running = None
        task.also = frozenset()
        del self._owed[lost.key]
        self._forgotten.add(task)
        return True

    # ---- new data

    def give(self, pieces: Iterable[tuple[Parts, object]]) -> Assign:
        """Answer to ``AskData``: new tasks, each of serialised data and the data itself.

        They are to be sent to the node that was asked for, as far as it has the time for them.
        """
        tasks = self._new_tasks(pieces)
        if self._policy.by_node:
            for task in tasks:
                self._remember(task)
        node = self._nodes[self._asked_for()]
        if node.ends_at is not None:  # getting the data may have taken its time
            room = self._limits.room(node, self.now)
            self._put_back(tasks[room:], first=True)
            tasks = tasks[:room]
        return self._assign(node, tasks)

    def _remember(self, task: OpenTask) -> None:
        again = self._forgotten.take(task.payload)
        if again is not None:  # the same data: what it did on other nodes still counts
            task.failures, task.losses, task.tried = again.failures, again.losses, again.tried
        self._owe(task)

    def _owe(self, task: OpenTask) -> None:
        if self._policy.by_node:
            self._owed[task.owner] = task.id
            if task.owner in self._nodes:
                self._nodes[task.owner].owes = task.id

    def refuse(self, data: object, reason: str, remote: str) -> None:
        """Answer to ``AskData``: the data cannot be sent, so its task has failed already."""
        [task] = self._new_tasks([((), data)])
        self._owe(task)
        task.failures = 1
        self._fail(task, task.owner, reason, remote)

    def nothing(self, now: float) -> None:
        """Answer to ``AskData``: nothing just now."""
        node = self._nodes[self._asked_for()]
        if self._policy.by_node:
            self._dry_nodes.add(node.key)
            for queue in (self._idle, self._hungry):  # so that the others need not be looked for
                queue[node.key] = queue.pop(node.key)
        else:
            self._dry = True
        if self._ask_again_at is None:
            self._ask_again_at = now + self._pause

    def exhaust(self) -> None:
        """Answer to ``AskData``: the generator has ended."""
        self._exhausted = True

    def stop(self) -> int:
        """No more hand-outs; returns how many tasks are dropped that way."""
        self._stopped = True
        unsettled = sum(isinstance(step, Merge | Fail) for step in self._steps) + len(
            self._order.held
        )
        dropped = len(self._tasks) + self.forgotten + unsettled
        self._tasks.clear()
        self._waiting.clear()
        self._awaiting.clear()
        self._awaited.clear()
        self._forgotten.clear()
        self._steps.clear()
        self._order.held.clear()
        self._stragglers.clear()
        self._sharing.clear()
        self._limits.clear()
        self._moves.clear()
        self._in_vain.clear()
        self._ask_again_at = self._grace_over_at = None
        return dropped

    def tick(self, now: float) -> bool:
        """Time has passed; true if it is time to ask for new data (and whether all is done) again."""
        self.now = max(self.now, now)
        self._suspects.tick(self.now)
        if self._grace_over_at is not None and now >= self._grace_over_at:
            self._release(self._awaiting.values())
        look_at = self._stragglers.look_at
        if self._idle and look_at is not None and now >= look_at:
            self._stragglers.look(self._nodes.values(), self._tasks, self.now)
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
        dry = self._dry or len(self._dry_nodes) == len(self._nodes)
        patient = self._pause >= LAST_PAUSE_S and dry
        if not self._forgotten or not idle or not patient:
            return False
        self._steps.append(Reclaimed(self.forgotten))
        for task in self._forgotten:
            task.reclaimed = True
            self._tasks[task.id] = task
        self._waiting.extend(self._forgotten)
        self._forgotten.clear()
        return True

    # ---- results

    def result(
        self, key: NodeKey, task_id: TaskId, attempt: Attempt, seconds: float, payload: Parts
    ) -> bool:
        """A result has come; false if it is not wanted (late, or a repetition)."""
        return bool(self.results(key, [(task_id, attempt, seconds, payload)])[0])

    def results(
        self, key: NodeKey, answers: Iterable[tuple[TaskId, Attempt, float, Parts]]
    ) -> tuple[int, int]:
        """Results of one node have come, in its order.

        Returns how many of them are wanted, and how many bytes these are with their data.
        """
        node = self._nodes.get(key)
        if node is None:
            return 0, 0
        count, total_seconds, total_size, longest = 0, 0.0, 0, 0.0
        finish, close, end = self._finish_attempt, self._close, self._end
        for task_id, attempt, seconds, payload in answers:
            task = finish(node, task_id, attempt)
            if task is not None:
                size = len(payload[0]) if len(payload) == 1 else sum(map(len, payload))
                count += 1
                total_seconds += seconds
                longest = max(longest, seconds)
                total_size += task.size + size
                close(task, size)
                end(Merge(task, key, seconds, payload))
        node.begun_at = self.now
        if count:
            node.learn(total_seconds, total_size, count)
            if total_seconds > WORTH_LEARNING_S or self._limits.exist:
                self._limits.came(node, longest)
            if self._suspects.exist:
                self._suspects.succeeded(node.peer)
            self._stragglers.results_came(count, total_seconds, self.now)
        self._refresh(node)
        return count, total_size

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
        node = self._nodes.get(key)
        task = self._finish_attempt(node, task_id, attempt) if node is not None else None
        if node is None:
            return False
        node.begun_at = self.now
        self._refresh(node)
        if task is None:
            return False
        if final:
            task.failures += 1
        else:
            self._blame(task, node, reason)
        if final or self._spent(task):
            self._fail(task, key, reason, remote)
        else:
            if task.running is None:
                self._put_back([task])
            self._steps.append(Retry(task, key, reason, remote))
        return True

    def dropped(self, key: NodeKey, task_id: TaskId, attempt: Attempt) -> None:
        """A node has not begun this attempt, and will not."""
        node = self._nodes.get(key)
        if node is None:
            return
        task = self._finish_attempt(node, task_id, attempt)
        self._refresh(node)
        if task is not None and task.running is None:
            self._put_back([task])

    def settled(self, task: OpenTask) -> None:
        """The hook for a ``Merge`` or a ``Fail`` has been called."""
        del self._unsettled[task.id]
        self._unmerged_bytes -= task.size
        task.payload, task.data = (), None
        if self._owed and self._owed.get(task.owner) == task.id:
            del self._owed[task.owner]
            if task.owner in self._nodes:
                self._nodes[task.owner].owes = None
        if self._ask_again_at is not None:
            self._something_changed()

    # ---- what to do next

    def next_step(self) -> Step | None:
        """Return the next thing to do, or None when there is nothing to do but wait."""
        if self._stopped:
            return None
        if self._limits.too_long and not self._told_too_long:
            self._told_too_long = True
            self._steps.append(TooLong(self._limits.longest_life))
        if self._steps:
            return self._steps.popleft()
        if self._in_vain and (withdraw := self._withdraw()) is not None:
            return withdraw
        if self._waiting:
            for node in self._hungry_nodes():
                task = self._waiting_for(node)
                if task is not None:
                    self._waiting.discard(task)
                    return self._assign(node, [task])
        order = self._order
        if not (self._exhausted or self._dry or (order.held and order.is_full)):
            for node in self._hungry_nodes():
                if node.owes is None and node.key not in self._dry_nodes:
                    self._asked = node.key
                    return AskData(node.key, self._room(node))
        if self._stragglers.due and (copy := self._copy_straggler()) is not None:
            return copy
        return self._next_move() if self._idle or self._moves else None

    def next_merge(self) -> Merge | None:
        """Return the next thing to do if it is a merge, as it mostly is after another."""
        step = self._steps[0] if self._steps else None
        if not isinstance(step, Merge):
            return None
        self._steps.popleft()
        return step

    def _withdraw(self) -> Withdraw | None:
        """Who computes something in vain shall hear of it, unless all are about to be sent home."""
        while self._in_vain and not self.complete:
            key, task_id = self._in_vain.popleft()
            node, task = self._nodes.get(key), self._tasks.get(task_id)
            if node is None or task_id not in node.open:
                continue
            if task is None or task.also:
                return Withdraw(node, task_id, node.open[task_id])
            node.leaving.discard(task_id)  # whoever should compute it instead is gone
            self._sharing.note(node)
        return None

    def _idle_nodes(self) -> Iterator[Node]:
        """Nodes that have nothing to do and may get something."""
        nodes = self._nodes
        return (node for key in self._idle if self._may_get(node := nodes[key]))

    def _may_get(self, node: Node) -> bool:
        """Whether a node is not set aside, and has time enough for one task more."""
        if node.peer in self._aside:
            return False
        return node.ends_at is None or self._limits.room(node, self.now) > 0

    def _hungry_nodes(self) -> Iterator[Node]:
        """Nodes that should get a task, those that sit idle first."""
        nodes, idle = self._nodes, self._idle
        for key in idle:
            if self._may_get(node := nodes[key]):
                yield node
        for key in self._hungry:
            if key not in idle and self._may_get(node := nodes[key]):
                yield node

    def _waiting_for(self, node: Node) -> OpenTask | None:
        """The first waiting task that may go to this node."""
        return next((task for task in self._waiting if self._may_go_to(task, node)), None)

    def _may_go_to(self, task: OpenTask, node: Node) -> bool:
        """Whether it went wrong less near to this node than to all others: same node, same agent.

        And whether it has the time.
        """
        if task.ran_for and not self._limits.suits(task, node, self.now):
            return False
        near = self._nearness(task, node)
        return not near or not any(
            self._nearness(task, other) < near
            for other in self._nodes.values()
            if other.peer not in self._aside
        )

    @staticmethod
    def _nearness(task: OpenTask, node: Node) -> int:
        return (node.key in task.tried) + (node.peer in task.tried)

    def _assign(self, node: Node, tasks: list[OpenTask]) -> Assign:
        if not node.open:
            node.begun_at = self.now
        key, is_open = node.key, node.open
        for task in tasks:
            task.newest = is_open[task.id] = Attempt(task.newest + 1)
            if task.running is None:
                task.running = key
            else:
                task.also |= {key}
        self._refresh(node)
        self._stragglers.watch(self.now)
        return Assign(node, tasks)

    # ---- sharing

    def _next_move(self) -> Assign | None:
        """An idle node gets what waits behind other tasks elsewhere; they need not compute it."""
        if not self._moves:
            self._plan_moves()
        while self._moves:
            task, giver, taker = self._moves.popleft()
            if task.running != giver or task.also or taker not in self._nodes:
                continue
            node = self._nodes[giver]
            if node.unwanted or next(iter(node.open)) != task.id:  # it has not begun that meanwhile
                node.leaving.add(task.id)
                self._sharing.note(node)
                self._in_vain.append((giver, task.id))
                return self._assign(self._nodes[taker], [task])
        return None

    def _plan_moves(self) -> None:
        look_at = self._sharing.look_at
        if look_at is None or self.now < look_at:
            return
        rich = self._sharing.rich(self.now) if any(self._idle_nodes()) else []
        for node in rich:
            for idle in self._idle_nodes():
                if tasks := self._to_give(node, idle):
                    self._moves.extend((task, node.key, idle.key) for task in tasks)
                    return
        if rich:
            self._sharing.put_off(rich, self.now)

    def _to_give(self, node: Node, idle: Node) -> list[OpenTask]:
        """Half of what a node has, of that which it has not begun and which the other may compute."""
        begun = 0 if node.unwanted else 1
        behind = map(self._tasks.get, reversed(list(node.open)[begun:]))
        free = (
            task
            for task in behind
            if task
            and not task.also
            and idle.key not in task.tried
            and self._limits.suits(task, idle, self.now)
        )
        most = min(node.load // 2, idle.depth, self._limits.room(idle, self.now))
        return list(islice(free, most))[::-1]

    # ---- stragglers

    def _copy_straggler(self) -> Assign | None:
        due = self._stragglers.due
        while due and self._idle:
            task, attempt = due.popleft()
            if task.running is None or task.also or task.newest != attempt:
                continue
            node = self._second_node(task, self._nodes[task.running])
            if node is not None:
                return self._assign(node, [task])
        due.clear()
        return None

    def _second_node(self, task: OpenTask, first: Node) -> Node | None:
        """An idle node for a task, with another agent if there is one: it may be a better machine."""
        good = [
            node
            for node in map(self._nodes.__getitem__, self._idle)
            if node.key not in task.tried
            and self._may_get(node)
            and self._limits.suits(task, node, self.now)
        ]
        worse = task.tried | {first.peer}
        return min(good, key=lambda node: node.peer in worse, default=None)

    # ---- small parts

    def _new_tasks(self, pieces: Iterable[tuple[Parts, object]]) -> list[OpenTask]:
        owner, keep_data = self._asked_for(), self._policy.keep_data
        made: list[OpenTask] = []
        for number, (payload, data) in enumerate(pieces, self._next_id):
            size = len(payload[0]) if len(payload) == 1 else sum(map(len, payload))
            task_id = TaskId(number)
            task = OpenTask(task_id, owner, payload, size, data if keep_data else None)
            self._tasks[task_id] = task
            made.append(task)
        self._next_id += len(made)
        self._pause = FIRST_PAUSE_S
        if self._sent_before:
            for task in made:
                task.newest = self._sent_before.pop(task.id, task.newest)
        return made

    def _asked_for(self) -> NodeKey:
        assert self._asked is not None, "an answer without a question"
        return self._asked

    def _finish_attempt(self, node: Node, task_id: TaskId, attempt: Attempt) -> OpenTask | None:
        """Free a node of a task that it has answered; returns the task if it is still wanted.

        ``_refresh`` must follow.
        """
        if node.unwanted and (task_id, attempt) in node.unwanted:
            node.unwanted.remove((task_id, attempt))
            return None
        if node.open.get(task_id) != attempt:
            return None
        del node.open[task_id]
        if node.leaving:
            node.leaving.discard(task_id)
        task = self._tasks.get(task_id)  # None: it has been left to the user
        if task is not None:
            if task.also:
                task.left_by(node.key)
            else:
                task.running = None
        return task

    def _close(self, task: OpenTask, size: int) -> None:
        """A task has ended, with a result of that size; nothing more is wanted of other nodes."""
        del self._tasks[task.id]
        if task.running is not None:
            # With strict alternation an ended node would be one more to keep book of for users.
            if not self._policy.by_node:
                self._in_vain.extend((key, task.id) for key in (task.running, *task.also))
            task.running, task.also = None, frozenset()
        if not self._policy.keep_payloads:
            task.payload = ()
        task.size = size

    def _fail(self, task: OpenTask, key: NodeKey, reason: str, remote: str) -> None:
        self._close(task, 0)
        self._end(Fail(task, key, reason, remote))

    def _end(self, step: Merge | Fail) -> None:
        """The user shall hear of the end of a task, in order if that is wanted."""
        task = step.task
        self._unsettled[task.id] = self._ended
        self._ended += 1
        if not self._policy.ordered or (self._policy.failure_ends_job and isinstance(step, Fail)):
            self._unmerged_bytes += task.size
            self._steps.append(step)
            return
        for due in self._order.end(step):
            self._unmerged_bytes += due.task.size
            self._steps.append(due)

    def _put_back(self, tasks: list[OpenTask], *, first: bool = False) -> None:
        """These tasks shall be sent again."""
        self._waiting.extend(tasks, first=first)

    def _refresh(self, node: Node) -> None:
        """Bring the sets of hungry, idle and busy nodes up to date with this one."""
        held = len(node.open) + len(node.unwanted)
        if held <= (0 if self._policy.by_node else node.refill):
            self._hungry[node.key] = None
        else:
            self._hungry.pop(node.key, None)
        if held:
            self._idle.pop(node.key, None)
        elif node.key not in self._idle:
            self._idle[node.key] = None
            self._sharing.somebody_is_idle()
            if node.ends_at is not None:
                self._limits.is_idle()
        if held < 2:
            self._sharing.gone(node.key)
        elif not self._policy.by_node:
            self._sharing.note(node)

    def _room(self, node: Node) -> int:
        """How many more tasks it shall get now: one only as long as others have none."""
        if self._policy.by_node or (node.key in self._idle and len(self._idle) > 1):
            return 1
        room = node.depth - len(node.open) - len(node.unwanted)
        return room if node.ends_at is None else min(room, self._limits.room(node, self.now))

    def _something_changed(self) -> None:
        """A merge, a join, a loss: whoever had no data before may be asked again."""
        if self._ask_again_at is None:
            return
        self._pause, self._ask_again_at = FIRST_PAUSE_S, None
        self._dry = False
        self._dry_nodes.clear()


def _id_of(task: OpenTask) -> int:
    return task.id
