"""What must hold, whatever happens: looked at after every step of the server and of each agent.

``Books`` has what is known of a history from outside: what really went wrong, what was told to whom.
``Watch`` stands beside one server and compares. The user's own books are in job.py: that each piece
of data ends once, in order, under the right node id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from parasnake.agent import Agent
from parasnake.core.farm import AgentLeft, Send, Step
from parasnake.core.ids import Attempt, NodeKey, PeerId, TaskId
from parasnake.core.messages import (
    Cancel,
    Failure,
    Message,
    Result,
    Results,
    Taken,
    Task,
    Tasks,
)
from parasnake.core.scheduler import Scheduler
from parasnake.core.tasks import Assign, Fail, Loss, Merge, Node, OpenTask, Retry, SetAside
from parasnake.server import Server

from .job import Plan, Truth, User
from .network import Wire
from .world import Violation, World

Answered = tuple[NodeKey, TaskId, Attempt]


@dataclass
class Memory:
    """What a server that has ended had told, which the next one must know."""

    calls: list[tuple[str, object]]
    charged: dict[TaskId, int]
    taken: set[TaskId]
    power_cut: bool


class Books:
    """What is known of a history, over all of its servers."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.truth = Truth()
        self.memory: Memory | None = None
        self.watch: Watch | None = None
        """Of the server that runs now."""
        self._sent: defaultdict[int, set[NodeKey]] = defaultdict(set)
        self._kept: dict[NodeKey, set[tuple[TaskId, Attempt]]] = {}
        self._dismissed: set[Answered] = set()
        self._dead: set[NodeKey] = set()

    # ---- what the machines tell

    def sent(self, index: int, node: NodeKey) -> None:
        """Data goes to a node."""
        self._sent[index].add(node)
        if node in self._dead:  # the server will not know that it never got there
            self.truth.failures[index] += 1

    def computed(self, node: NodeKey, index: int) -> None:
        """A worker is through with it."""
        self._sent[index].discard(node)

    def worker_died(self, node: NodeKey) -> None:
        """What it had, or was to get, may be charged with that."""
        self._dead.add(node)
        for index, nodes in self._sent.items():
            if node in nodes:
                nodes.discard(node)
                self.truth.failures[index] += 1

    def told_agent(self, agent: Agent, message: Message) -> None:
        """An agent is about to take in a message of the server's."""
        crew = agent._crew
        if isinstance(message, Task | Tasks):
            worker = crew.workers.get(message.node)
            for sending in _sendings(message):
                if worker is not None and (sending in worker.open or sending in worker.answered):
                    raise Violation("an attempt has one number", f"{sending} again for one node")
        elif isinstance(message, Cancel):
            self._dismissed.add((message.node, message.task, message.attempt))
        elif isinstance(message, Taken):
            safe = message.answers - crew._taken
            for sent in crew._sent:
                if (safe := safe - len(sent.data)) < 0:
                    break
                self._dismissed |= {(sent.node, *sending) for sending, _ in sent.answers()}

    def look_at_agent(self, agent: Agent, wire: Wire | None) -> None:
        """An agent has had its turn."""
        kept = {}
        for node, worker in agent._crew.workers.items():
            answered = [*worker.answered.items()]
            for sent in agent._crew._sent:
                answered += sent.answers() if sent.node == node else ()
            kept[node] = {s for s, answer in answered if isinstance(answer.message, Result)}
            for sending in self._kept.get(node, set()) - kept[node]:
                if (node, *sending) not in self._dismissed:
                    raise Violation("agents keep their answers until they are safe", str(sending))
        self._kept.update(kept)
        if self.watch is not None and wire is not None:
            self.watch.look_at_agent(agent, wire)


@dataclass
class Answers:
    """What has come on one connection."""

    wire: Wire
    tasks: list[TaskId | None] = field(default_factory=list)
    """For each answer its task, if that has ended with it."""


class Watch:
    """Looks over the shoulder of one server.

    Parameters
    ----------
    point: is called before each step: the server may be stopped, or end, just there
    """

    def __init__(self, books: Books, server: Server, user: User, point: Callable[[], None]) -> None:
        self.books = books
        self.server = server
        self.user = user
        self.charged: dict[TaskId, int] = {}
        self.taken: set[TaskId] = set()
        self.restored = False
        self._point = point
        self._farm = server._farm
        self._scheduler = server._scheduler
        self._answers: dict[PeerId, Answers] = {}
        self._settled: set[TaskId] = set()
        self._charges: dict[int, tuple[Retry, int]] = {}
        self._being_told: dict[TaskId, int] = {}
        self._set_aside = False
        self._used: set[tuple[TaskId, Attempt]] = set()
        self._put_in()

    def _put_in(self) -> None:
        """Stand between the server, its farm and its scheduler."""
        farm, scheduler = self._farm, self._scheduler
        for owner, name, replacement in (
            (farm, "next_step", self._next_step),
            (farm, "sending", self._sending),
            (farm, "connected", self._connected),
            (scheduler, "results", self._results),
            (scheduler, "failure", self._failure),
            (scheduler, "lose", self._lose),
            (scheduler, "settled", self._settle),
            (scheduler, "restore", self._restore),
            (scheduler, "join", self._join),
            (farm, "message", self._message),
        ):
            original = getattr(owner, name)
            setattr(owner, name, _with(original, replacement))

    # ---- between

    def _next_step(self, original: Callable[[], Step | None]) -> Step | None:
        self.charged |= self._being_told  # the step before this one has been done
        self._being_told = {}
        self._point()
        self.look()
        step = original()
        if isinstance(step, Send) and isinstance(step.message, Taken):
            self._check_taken(step.peer, step.message.answers)
        elif isinstance(step, Fail):
            self._check_failed(step.task)
        elif isinstance(step, Retry) and id(step) in self._charges:
            self._being_told = {step.task.id: self._charges.pop(id(step))[1]}
        elif isinstance(step, SetAside):
            self._set_aside = True
        elif isinstance(step, AgentLeft):
            if step.reason.startswith("it broke the protocol"):
                raise Violation("nobody breaks the protocol", step.reason)
            self._answers.pop(step.peer.id, None)
        return step

    def _sending(self, original: Callable[[Assign], list[Send]], step: Assign) -> list[Send]:
        node = step.node
        room = 1 if self.books.plan.by_node else node.depth
        if len(node.open) + len(node.unwanted) > room:
            raise Violation("no node gets more than its depth", f"{node}")
        for task in step.tasks:
            self._send_one(node, task)
        return original(step)

    def _send_one(self, node: Node, task: OpenTask) -> None:
        sending = task.id, task.newest
        self.books.world.tell(f"assign: task {task.id}.{task.newest} to {node.key.hex()[:6]}")
        if task.id in self._settled:
            raise Violation("what is merged is not computed again", f"task {task.id}")
        if sending in self._used:
            raise Violation("an attempt has one number", f"{sending} again")
        self._used.add(sending)
        self.books.sent(self.user.data_of[task.id], node.key)
        others = {task.running, *task.also} - {None, node.key}
        if len(others) > 1:
            raise Violation("a task is on two nodes at the most", f"task {task.id}")

    def _join(
        self,
        original: Callable[..., list[bool]],
        key: NodeKey,
        peer: PeerId,
        held: Any = (),
        *,
        delay: float,
    ) -> list[bool]:
        wanted = original(key, peer, held, delay=delay)
        # What is finished and not wanted is forgotten there.
        self._used |= {
            (h.task, h.attempt) for h, w in zip(held, wanted, strict=True) if w or not h.finished
        }
        return wanted

    def _connected(
        self, original: Callable[..., None], peer: PeerId, *rest: Any, delay: float
    ) -> None:
        end: Any = self.server._connections[peer].raw
        self._answers[peer] = Answers(end.wire)
        original(peer, *rest, delay=delay)

    def _message(self, original: Callable[..., None], peer: PeerId, message: Message) -> None:
        name = type(message).__name__
        if isinstance(message, Result | Results | Failure):
            sendings = _sendings(message)
            name += " of " + ", ".join(f"task {task}.{attempt}" for task, attempt in sendings)
            if peer in self._answers:
                self._answers[peer].tasks += [None] * len(sendings)
        self.books.world.tell(f"from {peer}: {name}")
        original(peer, message)

    def _results(
        self, original: Callable[..., tuple[int, int]], key: NodeKey, answers: Any
    ) -> tuple[int, int]:
        were_open = set(self._scheduler._tasks)
        found = original(key, answers)
        self._note_answers(key, [task for task, *_ in answers], were_open)
        return found

    def _failure(self, original: Callable[..., bool], *rest: Any, final: bool) -> bool:
        were_open = set(self._scheduler._tasks)
        wanted = original(*rest, final=final)
        self._note_answers(rest[0], [rest[1]], were_open)
        self._note_charges()
        return wanted

    def _note_answers(self, key: NodeKey, tasks: list[TaskId], were_open: set[TaskId]) -> None:
        """Take note which of the newest answers have ended their tasks."""
        node = self._scheduler.nodes.get(key)
        answers = self._answers.get(node.peer) if node is not None else None
        if answers is None:
            return
        for place, task in enumerate(tasks, len(answers.tasks) - len(tasks)):
            if task in were_open and task not in self._scheduler._tasks:
                answers.tasks[place] = task

    def _note_charges(self) -> None:
        for step in self._scheduler.pending:
            if isinstance(step, Retry):
                self._charges.setdefault(id(step), (step, step.task.failures))

    def _lose(self, original: Callable[..., int], key: NodeKey, loss: Loss, *rest: Any) -> int:
        node, scheduler = self._scheduler.nodes[key], self._scheduler
        tasks = [task for task in map(scheduler._tasks.get, node.open) if task is not None]
        before = sum(task.failures + task.losses for task in tasks)
        if loss is Loss.LOST:
            self._check_lost(node.peer)
            for task in tasks:
                self.books.truth.losses[self.user.data_of[task.id]] += 1
        count = original(key, loss, *rest)
        charged = sum(task.failures + task.losses for task in tasks) - before
        if charged > (0 if loss is Loss.LEFT else 1):
            raise Violation("a node's death is charged to one task", f"{charged} by {loss.name}")
        self._note_charges()
        return count

    def _settle(self, original: Callable[[OpenTask], None], task: OpenTask) -> None:
        if task.id in self._settled:
            raise Violation("merged once", f"task {task.id} is settled again")
        self._settled.add(task.id)
        original(task)

    def _restore(self, original: Callable[..., None], tasks: Any, **rest: Any) -> None:
        tasks, forgotten = list(tasks), list(rest["forgotten"])
        original(tasks, **{**rest, "forgotten": forgotten})
        open_ids = {task.id for task in tasks} | {task.id for task in forgotten}
        self._settled = {TaskId(task) for task in range(len(self.user.data_of))} - open_ids
        memory = self.books.memory
        if memory is not None:
            self._check_calls(memory)
            if not memory.power_cut:
                self._check_kept(memory, {task.id: task for task in (*tasks, *forgotten)})
        self.restored = True

    # ---- what must hold

    def look(self) -> None:
        """Look at everything, unless the job is over and nothing counts any more."""
        if self._farm._quit is not None:
            return
        for check in CHECKS:
            check(self._scheduler, self.user, self.books)

    def _check_taken(self, peer: PeerId, count: int) -> None:
        """An agent is told that an answer is safe only when its hook has been called."""
        answers = self._answers.get(peer)
        if answers is None:
            return
        unsettled = _ended(self._scheduler)
        for task in answers.tasks[:count]:
            if task is None:
                continue
            if task in unsettled:
                raise Violation("agents keep their answers until they are safe", f"task {task}")
            if task in self._settled:
                self.taken.add(task)

    def _check_failed(self, task: OpenTask) -> None:
        """A task fails only if its charges are used up, or if it could not be sent at all."""
        plan, index = self.books.plan, self.user.data_of[task.id]
        spent = task.failures >= plan.max_attempts or task.losses >= plan.max_losses
        if not spent and index not in plan.unsendable:
            raise Violation("a task fails for a reason", f"{task.failures}, {task.losses}")
        charges_are_true(self._scheduler, self.user, self.books, [task])

    def _check_lost(self, peer: PeerId) -> None:
        """No agent is lost whose connection nothing has happened to."""
        answers = self._answers.get(peer)
        if answers is not None and not answers.wire.troubled:
            raise Violation("nobody is lost who is there", f"agent {peer}")

    def _check_calls(self, memory: Memory) -> None:
        """Replay repeats what was done, but for hand-outs that never left the server."""
        then, now = memory.calls, self.user.calls
        same = next((k for k, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), None)
        if same is not None:
            raise Violation("replay repeats", f"call {same} was {then[same]}, is {now[same]}")
        if memory.power_cut:
            return
        # A job that is done is repeated up to its last merge.
        journal = self.server._journal
        done = journal is not None and journal.stored.done is not None
        may_miss = {"new_data", "node_timeout"} if done else {"new_data"}
        lost = [call for call in then[len(now) :] if call[0] not in may_miss]
        if lost:
            raise Violation("replay repeats", f"nobody remembers {lost[:3]}")

    def _check_kept(self, memory: Memory, tasks: dict[TaskId, OpenTask]) -> None:
        """What was charged still counts; what agents were told to be safe is merged."""
        for task_id, failures in memory.charged.items():
            task = tasks.get(task_id)
            if task is not None and task.failures < failures:
                raise Violation("charges survive", f"task {task_id}: {failures} -> {task.failures}")
        lost = memory.taken & tasks.keys()
        if lost:
            raise Violation("agents keep their answers until they are safe", f"lost: {lost}")

    def look_at_agent(self, agent: Agent, wire: Wire) -> None:
        """What the workers of an agent compute, the server knows of, or as unwanted."""
        crew = agent._crew
        peer = next((p for p, answers in self._answers.items() if answers.wire is wire), None)
        if peer is None or wire.troubled or not crew.is_in:
            return
        for key, worker in crew.workers.items():
            node = self._scheduler.nodes.get(key)
            if node is None or node.peer != peer:
                continue
            for sending in worker.open:
                if node.open.get(sending[0]) != sending[1] and sending not in node.unwanted:
                    raise Violation("the server knows who computes what", f"{sending} on {key!r}")

    def remember(self, *, power_cut: bool) -> Memory:
        """The server has ended."""
        charged = {} if self._set_aside else self.charged
        return Memory(self.user.calls, charged, self.taken, power_cut)


def _with(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **names: replacement(original, *args, **names)


def _sendings(message: Task | Tasks | Result | Results | Failure) -> list[tuple[TaskId, Attempt]]:
    if isinstance(message, Tasks | Results):
        return [(item[0], item[1]) for item in message.run]
    return [(message.task, message.attempt)]


def _ended(scheduler: Scheduler) -> set[TaskId]:
    """Tasks that have ended and whose hook has not been called."""
    steps = {step.task.id for step in scheduler.pending if isinstance(step, Merge | Fail)}
    return steps | scheduler._order.held.keys()


# ---- after every step


def nothing_is_lost(scheduler: Scheduler, user: User, books: Books) -> None:
    """What was handed out and has not come back is open, ended, or left to the user."""
    del books
    missing = user.open.keys() - scheduler._tasks.keys()
    if not missing:
        return
    missing -= _ended(scheduler)
    missing -= {task.id for task in scheduler._forgotten}
    if missing:
        raise Violation("nothing lost", f"task {min(missing)} is nowhere")


def open_tasks_have_a_place(scheduler: Scheduler, user: User, books: Books) -> None:
    """An open task is on a node that is there, or waits, or waits for its node; one of these."""
    del user, books
    waiting = {task.id for task in scheduler._waiting}
    if len(waiting) != len(scheduler._waiting):
        raise Violation("nothing lost", "a task waits twice")
    nodes = scheduler.nodes
    for task in scheduler._tasks.values():
        places = (task.id in waiting) + (task.id in scheduler._awaiting)
        if task.running is not None:
            places += 1
            for key in (task.running, *task.also):
                if key not in nodes or task.id not in nodes[key].open:
                    raise Violation("nothing lost", f"task {task.id} is on a node without it")
        if places != 1:
            raise Violation("nothing lost", f"task {task.id} is in {places} places")


def nothing_waits_that_is_over(scheduler: Scheduler, user: User, books: Books) -> None:
    """What waits to be sent is open."""
    del user, books
    for task in scheduler._waiting:
        if task.id not in scheduler._tasks:
            raise Violation("merged once", f"task {task.id} waits and is over")


def charges_are_true(
    scheduler: Scheduler, user: User, books: Books, tasks: list[OpenTask] | None = None
) -> None:
    """No task is charged with more than what really happened to it."""
    truth, unsendable = books.truth, books.plan.unsendable
    for task in scheduler._tasks.values() if tasks is None else tasks:
        if task.failures or task.losses:
            index = user.data_of[task.id]
            failures = truth.failures[index] + (index in unsendable)
            if not 0 <= task.failures <= failures:
                raise Violation("charges are true", f"task {task.id}: failures {task.failures}")
            if not 0 <= task.losses <= truth.losses[index]:
                raise Violation("charges are true", f"task {task.id}: losses {task.losses}")


def counts_are_right(scheduler: Scheduler, user: User, books: Books) -> None:
    """The scheduler's sums are those of what it has."""
    del user, books
    if scheduler._unsettled.keys() != _ended(scheduler):
        raise Violation("counts", f"unsettled: {scheduler._unsettled}")
    for node in scheduler.nodes.values():
        if (node.key in scheduler._idle) != (not node.open and not node.unwanted):
            raise Violation("counts", f"{node} is idle or not")


CHECKS = (
    nothing_is_lost,
    open_tasks_have_a_place,
    nothing_waits_that_is_over,
    charges_are_true,
    counts_are_right,
)
