"""What must hold, whatever happens: looked at after every step of the server and of each agent.

``Books`` has what is known of a history from outside: what really went wrong, what was told to whom.
``Watch`` stands beside one server and compares. The user's own books are in job.py: that each piece
of data ends once, in order, under the right node id.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from parasnake.agent import Agent
from parasnake.core.crew import Crew, Sending
from parasnake.core.durations import KEPT
from parasnake.core.farm import NO_TIME, AgentLeft, Send, Step
from parasnake.core.ids import Attempt, NodeKey, PeerId, TaskId
from parasnake.core.limits import ENOUGH, FRESH, HALF, HIGH
from parasnake.core.messages import (
    Cancel,
    Dropped,
    Failure,
    Message,
    Result,
    Results,
    Taken,
    Task,
    Tasks,
)
from parasnake.core.scheduler import Scheduler
from parasnake.core.sharing import PATIENCE_MEANS, WORTH_S
from parasnake.core.stragglers import PATIENCE_S
from parasnake.core.tasks import Assign, Fail, Loss, Merge, Node, OpenTask, Retry, SetAside
from parasnake.server import Server

from .job import Plan, Truth, User
from .network import WINDOW, Wire
from .world import Violation, World

Answered = tuple[NodeKey, TaskId, Attempt]

SOON_S = 0.5
"""What happens at once has happened after this time and that of the network, whatever comes between."""
MANY_TASKS = 100
"""With more than this open, not all is looked at after each step."""
MAX_IN_VAIN = 100
"""A server that waits so many times on end and nothing happens is busy with itself."""


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
        self.counts: Counter[str] = Counter()
        """How often happened what should happen in some histories at least."""
        self._sent: defaultdict[int, set[NodeKey]] = defaultdict(set)
        self._kept: dict[NodeKey, set[Sending]] = {}
        self._dismissed: set[Answered] = set()
        self._dead: set[NodeKey] = set()

    # ---- what the machines tell

    def sent(self, index: int, node: NodeKey) -> None:
        """Data goes to a node."""
        self._sent[index].add(node)
        if node in self._dead:  # the server will not know that it never got there
            self.truth.failures[index] += 1

    def computed(self, node: NodeKey, answer: Result | Failure, index: int) -> None:
        """A worker is through with it."""
        self._sent[index].discard(node)
        if isinstance(answer, Failure):
            self.truth.failures[index] += 1

    def worker_died(self, node: NodeKey, computing: int | None) -> None:
        """What it was computing may be charged with that, or else what it was to get."""
        self._dead.add(node)
        for index, nodes in self._sent.items():
            if node in nodes:
                nodes.discard(node)
                if computing in (None, index):
                    self.truth.failures[index] += 1

    def told_agent(self, agent: Agent, message: Message) -> None:
        """An agent is about to take in a message of the server's."""
        crew = agent._crew
        if isinstance(message, Task | Tasks):
            self._check_new(crew, message)
        elif isinstance(message, Cancel):
            self._dismissed.add((message.node, message.task, message.attempt))
        elif isinstance(message, Taken):
            left = message.answers - crew._taken
            for sent in crew._sent:
                left -= len(sent.data)
                if left < 0:
                    break
                self._dismissed |= {(sent.node, *sending) for sending, _ in sent.answers()}

    @staticmethod
    def _check_new(crew: Crew, message: Task | Tasks) -> None:
        worker = crew.workers.get(message.node)
        if worker is None:
            return
        known = worker.open.keys() | worker.answered.keys() | worker.cancelled.keys()
        for sending in _sendings(message):
            if sending in known:
                raise Violation("an attempt has one number", f"{sending} again for one node")

    def agent_was_told(self, agent: Agent, message: Message) -> None:
        """It has taken it in."""
        if isinstance(message, Cancel) and self.watch is not None:
            worker = agent._crew.workers.get(message.node)
            sending = message.task, message.attempt
            if worker is None or sending not in worker.open:  # else it may still answer
                self.watch.cancelled(message.node, sending)

    def look_at_agent(self, agent: Agent, wire: Wire | None) -> None:
        """An agent has had its turn."""
        kept: dict[NodeKey, set[Sending]] = {}
        for node, worker in agent._crew.workers.items():
            answered = worker.answered.items()
            kept[node] = {s for s, answer in answered if isinstance(answer.message, Result)}
        for sent in agent._crew._sent:
            if sent.node in kept and not isinstance(sent.message, Failure):
                kept[sent.node].update(sending for sending, _ in sent.answers())
        for node, now_kept in kept.items():
            for sending in self._kept.get(node, set()) - now_kept:
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
        self._steps = 0
        self._listens_since: float | None = None
        self._in_vain = 0
        self._withdrawn: set[Answered] = set()
        self._dropped: set[Answered] = set()
        self._adopted: set[TaskId] = set()
        self._silent_since: dict[NodeKey, float] = {}
        self._starving: dict[tuple[NodeKey, NodeKey], float] = {}
        self._on_way: dict[Answered, tuple[float, Wire]] = {}
        self._astray: dict[NodeKey, dict[Sending, float]] = {}
        self._took: defaultdict[NodeKey | None, list[float]] = defaultdict(list)
        """How long tasks took of which the server took note: on each node, and on all of them."""
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
            (scheduler, "dropped", self._drop),
            (scheduler, "lose", self._lose),
            (scheduler, "settled", self._settle),
            (scheduler, "restore", self._restore),
            (scheduler, "join", self._join),
            (farm, "message", self._message),
            (scheduler._limits, "came", self._came),
            (scheduler._limits, "cut", self._cut),
        ):
            original = getattr(owner, name)
            setattr(owner, name, _with(original, replacement))

    # ---- between

    def _next_step(self, original: Callable[[], Step | None]) -> Step | None:
        self.charged |= self._being_told  # the step before this one has been done
        self._being_told = {}
        self._point()
        self._steps += 1
        if len(self._scheduler._tasks) < MANY_TASKS or not self._steps % 16:
            self.look()
        step = original()
        if step is not None:
            self._in_vain = 0
        if isinstance(step, Send) and isinstance(step.message, Taken):
            self._check_taken(step.peer, step.message.answers)
        elif isinstance(step, Send) and isinstance(step.message, Cancel):
            cancel = step.message
            self._withdrawn.add((cancel.node, cancel.task, cancel.attempt))
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
            self.books.counts["let go"] += step.reason == NO_TIME
        return step

    def _sending(self, original: Callable[[Assign], list[Send]], step: Assign) -> list[Send]:
        node, tasks = step
        room = 1 if self.books.plan.by_node else node.depth
        if len(node.open) + len(node.unwanted) > room:
            raise Violation("no node gets more than its depth", f"{node}")
        if tasks and node.ends_at is not None:
            self._check_time(node, node.ends_at)
        if len(node.open) == len(tasks):  # it had nothing before
            self._silent_since[node.key] = self.books.world.now
        for task in tasks:
            self._check_assigned(node, task)
        sends = original(step)
        carried = [sending for send in sends for sending in _sendings(send.message)]
        if carried != [(task.id, task.newest) for task in tasks]:
            raise Violation("nothing lost", f"{len(carried)} of {len(tasks)} tasks are sent")
        if len(tasks) > 1:
            self.books.counts["sent in runs"] += len(tasks)
        return sends

    def _came(self, original: Callable[..., None], node: Node, seconds: float) -> None:
        for key in (node.key, None):
            self._took[key].append(seconds)
        original(node, seconds)

    def _cut(self, original: Callable[..., None], task: OpenTask, seconds: float) -> None:
        """What was computed in vain for longer than nearly all take says how long some need."""
        known = sorted(self._took[None][-KEPT:])
        if seconds > _quantile(known, HIGH):
            self._took[None].append(seconds)
        original(task, seconds)

    def _check_time(self, node: Node, ends_at: float) -> None:
        """No node gets what it most likely cannot finish, unless nobody can."""
        own, of_all = self._took[node.key], self._took[None]
        known = sorted((own if len(own) >= ENOUGH else of_all)[-KEPT:])
        now, nodes = self._scheduler.now, self._scheduler.nodes.values()
        longest = max(math.inf if n.ends_at is None else n.ends_at - n.joined_at for n in nodes)
        for share in (HIGH, HALF):
            need = _quantile(known, share)
            if need <= FRESH * longest:
                break
        else:
            need = longest / 2
            self.books.counts["tried what is too long"] += 1
        if now + need > ends_at + 1e-6:
            raise Violation("no node gets what it cannot finish", f"{need:.3f} s for {node}")

    def _check_assigned(self, node: Node, task: OpenTask) -> None:
        index, attempt = self.user.data_of[task.id], task.newest
        self.books.world.tell(f"assign: task {task.id}.{attempt} to {node.key.hex()[:6]}")
        if task.id in self._settled:
            raise Violation("what is merged is not computed again", f"task {task.id}")
        if (task.id, attempt) in self._used:
            raise Violation("an attempt has one number", f"{task.id}.{attempt} again")
        self._used.add((task.id, attempt))
        self.books.sent(index, node.key)
        for other in self._scheduler.nodes.values():
            if other is not node and task.id in other.open:
                self._check_second(other, task)

    def _check_second(self, other: Node, task: OpenTask) -> None:
        """A task goes to another node as well only if it takes long, or to be taken from the first."""
        if task.id in other.leaving:
            self.books.counts["moved"] += 1
            if next(iter(other.open)) == task.id and not other.unwanted:
                raise Violation("a task is on one node", f"{task.id} is computed and moved")
        elif task.id not in self._adopted:
            waited = self.books.world.now - self._silent_since.get(other.key, 0.0)
            if not self.books.plan.speculate or waited < PATIENCE_S - WORTH_S:
                raise Violation("a task is on one node", f"{task.id} after {waited:.3f} s on two")
            self.books.counts["copied"] += 1

    def _join(
        self,
        original: Callable[..., list[bool]],
        key: NodeKey,
        peer: PeerId,
        held: Any = (),
        **rest: Any,
    ) -> list[bool]:
        wanted = original(key, peer, held, **rest)
        # What is finished and not wanted is forgotten there.
        self._used |= {
            (h.task, h.attempt) for h, w in zip(held, wanted, strict=True) if w or not h.finished
        }
        self._adopted |= {h.task for h in held}
        self._silent_since[key] = self.books.world.now
        # It may have been moved before, on a connection that is lost.
        self._dropped -= {named for named in self._dropped if named[0] == key}
        self._withdrawn -= {named for named in self._withdrawn if named[0] == key}
        return wanted

    def _connected(
        self, original: Callable[..., None], peer: PeerId, *rest: Any, **names: Any
    ) -> None:
        end: Any = self.server._connections[peer].raw
        self._answers[peer] = Answers(end.wire)
        original(peer, *rest, **names)

    def _message(self, original: Callable[..., None], peer: PeerId, message: Message) -> None:
        name = type(message).__name__
        if isinstance(message, Result | Results | Failure):
            sendings = _sendings(message)
            name += f" of tasks {', '.join(f'{task}.{attempt}' for task, attempt in sendings)}"
            if peer in self._answers:
                self._answers[peer].tasks += [None] * len(sendings)
            for sending in sendings:
                self._check_answer(message.node, sending)
        elif isinstance(message, Dropped):
            name += f" task {message.task}.{message.attempt}"
        self.books.world.tell(f"from {peer}: {name}")
        original(peer, message)

    def _check_answer(self, key: NodeKey, sending: Sending) -> None:
        if (key, *sending) in self._dropped:
            raise Violation("what is dropped is not answered", f"{sending}")
        self._on_way.pop((key, *sending), None)
        self._silent_since[key] = self.books.world.now
        node = self._scheduler.nodes.get(key)
        if node is not None and sending[0] in node.leaving:
            self.books.counts["crossed"] += 1

    def _results(
        self, original: Callable[..., tuple[int, int]], key: NodeKey, answers: Any
    ) -> tuple[int, int]:
        scheduler = self._scheduler
        open_before = scheduler._tasks.keys() & {answer[0] for answer in answers}
        done = original(key, answers)
        ended = [answer[0] for answer in answers]
        self._note_answers(key, [t if t in open_before else None for t in ended])
        return done

    def _drop(
        self, original: Callable[..., None], key: NodeKey, task: TaskId, attempt: Attempt
    ) -> None:
        node = self._scheduler.nodes.get(key)
        if node is not None and node.open.get(task) == attempt:
            self.books.counts["dropped"] += 1
            if task not in node.leaving and task in self._scheduler._tasks:
                raise Violation("what is wanted is not dropped", f"{task}.{attempt}")
        self._dropped.add((key, task, attempt))
        original(key, task, attempt)

    def _failure(self, original: Callable[..., bool], *rest: Any, final: bool) -> bool:
        wanted = original(*rest, final=final)
        self._note_answers(rest[0], [rest[1] if wanted else None])
        self._note_charges()
        return wanted

    def _note_answers(self, key: NodeKey, tasks: list[TaskId | None]) -> None:
        """These tasks were open before their answers, which are the last of their connection."""
        node = self._scheduler.nodes.get(key)
        answers = self._answers.get(node.peer) if node is not None else None
        if answers is not None:
            still_open = self._scheduler._tasks
            answers.tasks[-len(tasks) :] = [t if t not in still_open else None for t in tasks]

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
                if task.id not in node.leaving:
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
        """What the workers of an agent compute, the server knows of, or as unwanted; and vice versa."""
        crew = agent._crew
        peer = next((p for p, answers in self._answers.items() if answers.wire is wire), None)
        if peer is None or wire.troubled or not crew.is_in:
            return
        kept = {(sent.node, s) for sent in crew._sent for s, _ in sent.answers()}
        for key, worker in crew.workers.items():
            node = self._scheduler.nodes.get(key)
            if node is None or node.peer != peer:
                continue
            for sending in worker.open:
                if node.open.get(sending[0]) != sending[1] and sending not in node.unwanted:
                    raise Violation("the server knows who computes what", f"{sending} on {key!r}")
            here = worker.open.keys() | {sending for other, sending in kept if other == key}
            self._check_astray(key, node.open.items() - here, wire)

    def _check_astray(self, key: NodeKey, missing: set[Sending], wire: Wire) -> None:
        """What the server waits for comes, or is on its way."""
        now, before = self.books.world.now, self._astray.get(key, {})
        found = self._astray[key] = {sending: before.get(sending, now) for sending in missing}
        for sending, since in found.items():
            if self._is_overdue(since, wire):
                raise Violation("the server knows who computes what", f"{sending} not on {key!r}")

    def _is_overdue(self, since: float, wire: Wire) -> bool:
        """Whether the server should have what left then, if it has listened since."""
        if self._listens_since is None:
            return False
        windows = 4 + self.books.plan.bytes / WINDOW
        return self.books.world.now > (
            max(since, self._listens_since) + SOON_S + 2 * wire.latency * windows
        )

    # ---- what must not take long

    def computed(self, agent: Agent, wire: Wire | None, node: NodeKey, sending: Sending) -> None:
        """A worker is through with a task: the server shall hear of it soon."""
        if wire is not None and not wire.troubled and agent._crew.is_in:
            self._on_way[(node, *sending)] = self.books.world.now, wire

    def cancelled(self, node: NodeKey, sending: Sending) -> None:
        """An agent is to forget it."""
        self._on_way.pop((node, *sending), None)

    def waits(self, until: float | None) -> None:
        """The server has done all that there is to do."""
        now = self.books.world.now
        if self._farm._quit is not None or not self.restored:
            return
        if self._listens_since is None:
            self._listens_since = now
        self.look()
        self._check_answers_come()
        if until is None or until > now:
            self._check_moves_are_told()
            self._check_nobody_starves()

    def waits_no_more(self, *, something_came: bool) -> None:
        """The server looks what there is to do."""
        self._in_vain = 0 if something_came or not self.restored else self._in_vain + 1
        if self._in_vain > MAX_IN_VAIN:
            raise Violation("idle costs nothing", f"{self._in_vain} waits, and nothing happened")

    def was_away(self) -> None:
        """The server has not listened for a while: it was in a hook, or stopped."""
        self._listens_since = None

    def _check_answers_come(self) -> None:
        """No answer waits for anything that is computed after it."""
        for named, (since, wire) in list(self._on_way.items()):
            if wire.troubled:
                del self._on_way[named]
            elif self._is_overdue(since, wire):
                raise Violation("no answer is held back", f"{named[1]}.{named[2]}")

    def _check_moves_are_told(self) -> None:
        """What was given to another node is withdrawn from the first."""
        for node in self._scheduler.nodes.values():
            for task in node.leaving:
                if (node.key, task, node.open.get(task)) not in self._withdrawn:
                    raise Violation("what is moved is withdrawn", f"task {task} of {node.key!r}")

    def _check_nobody_starves(self) -> None:
        """No node is idle for long while there is something that it could do."""
        scheduler, now = self._scheduler, self.books.world.now
        idle = [
            node
            for node in scheduler.nodes.values()
            if not node.open and not node.unwanted and scheduler._may_get(node)
        ]
        found: dict[tuple[NodeKey, NodeKey], float] = {}
        for node in idle:
            if scheduler._waiting_for(node) is not None:
                raise Violation("nobody is idle while there is work", "a task waits")
            for other in scheduler.nodes.values():
                if self._could_give(other, node):
                    pair = node.key, other.key
                    since = found[pair] = self._starving.get(pair, now)
                    silent_since = self._silent_since.get(other.key, 0.0)
                    # What could not be given away is looked at ever more seldom.
                    patience = _long(other) + (now - silent_since) / 2
                    if now - max(since, silent_since) > patience:
                        text = f"{other} has had something for {node} since {since:.4f}"
                        raise Violation("nobody is idle while there is work", text)
        self._starving = found

    def _could_give(self, node: Node, idle: Node) -> bool:
        """Whether one node has something that waits there and that another could do."""
        if self.books.plan.by_node:
            return False
        begun = 0 if node.unwanted else 1
        behind = map(self._scheduler._tasks.get, list(node.open)[begun:])
        return any(
            task
            and not task.also
            and task.id not in node.leaving
            and idle.key not in task.tried
            and self._scheduler._limits.suits(task, idle, self._scheduler.now)
            for task in behind
        )

    def remember(self, *, power_cut: bool) -> Memory:
        """The server has ended."""
        charged = {} if self._set_aside else self.charged
        return Memory(self.user.calls, charged, self.taken, power_cut)


def _with(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **names: replacement(original, *args, **names)


def _sendings(message: Message) -> list[Sending]:
    """What tasks, and which of their attempts, a message is about."""
    if isinstance(message, Tasks | Results):
        return [(item[0], item[1]) for item in message.run]
    assert isinstance(message, Task | Result | Failure)
    return [(message.task, message.attempt)]


def _quantile(known: list[float], share: float) -> float:
    return known[math.ceil(share * len(known)) - 1] if known else 0.0


def _long(node: Node) -> float:
    """For how long a node may answer nothing before others get what waits there."""
    return max(WORTH_S, PATIENCE_MEANS * (node.mean_seconds or 0.0)) + 2 * node.delay + WORTH_S


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
