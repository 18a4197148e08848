"""What the scheduler promises for any order of events: nothing lost, no merge twice, no standstill.

Hypothesis lets nodes join, leave, die, fall silent and return with what they hold, begins with tasks
of a server that went, lets nodes answer rightly, wrongly, late and twice, one by one and in runs, give
back at once, later or never what is taken from them, lets time pass, and does now few and now many of
the steps that the scheduler wants done.
``World`` keeps its own books of what must be true.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from typing import TypeVar

from bench import payload_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from parasnake.core.ids import Attempt, NodeKey, PeerId, TaskId
from parasnake.core.scheduler import Scheduler
from parasnake.core.tasks import (
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
    Withdraw,
    digest_of,
)

PEERS = [PeerId(number) for number in range(3)]

policies = st.one_of(
    st.builds(
        Policy,
        ordered=st.booleans(),
        keep_payloads=st.booleans(),
        max_held=st.sampled_from([1, 2, 1000]),
        speculate=st.booleans(),
        max_failed_tasks=st.sampled_from([1, 2, 5]),
        max_attempts=st.integers(1, 3),
        max_losses=st.integers(1, 3),
    ),
    st.builds(
        Policy,
        by_node=st.just(True),
        user_reassigns=st.booleans(),
        max_attempts=st.integers(1, 3),
        max_losses=st.integers(1, 3),
    ),
)


choices = st.integers(0, 20)
T = TypeVar("T")


def choose(which: int, among: list[T]) -> list[T]:
    """Return one of these in a list, or none where there is none."""
    return [among[which % len(among)]] if among else []


class Obedience(Enum):
    """What agents do about what is taken from their nodes."""

    AT_ONCE = auto()
    LATER = auto()
    """When they look: until then a node may begin it, and answer."""
    NEVER = auto()


@dataclass
class Computer:
    """A node as it is in truth: it computes what it got in the order in which it got it."""

    peer: PeerId
    queue: dict[TaskId, Attempt] = field(default_factory=dict)
    finished: int = 0
    """How many of these it has finished while it was away."""
    unwanted: set[TaskId] = field(default_factory=set)
    """What it computes though it has been told that nobody wants it."""
    told: set[TaskId] = field(default_factory=set)
    """What it shall not begin, as its agent has not seen yet."""


class World(RuleBasedStateMachine):
    """The scheduler, its nodes and its user."""

    @initialize(
        policy=policies,
        data=st.lists(st.integers(0, 5), min_size=4, max_size=15),
        peers=st.lists(st.sampled_from(PEERS), min_size=1, max_size=4),
        generator=st.booleans(),
        forgetful=st.booleans(),
        restored=st.integers(0, 3),
        together=st.booleans(),
        head_start=st.booleans(),
        obedience=st.sampled_from(Obedience),
        replaces=st.booleans(),
    )
    def begin(
        self,
        *,
        policy: Policy,
        data: list[int],
        peers: list[PeerId],
        generator: bool,
        forgetful: bool,
        restored: int,
        together: bool,
        head_start: bool,
        obedience: Obedience,
        replaces: bool,
    ) -> None:
        self.obedience = obedience
        self.replaces = replaces  # agents end a worker for what it computes, and start another one
        self.policy = policy
        self.scheduler = Scheduler(policy)
        if policy.user_reassigns and forgetful:
            data = list(dict.fromkeys(data))  # of equal data nobody could tell what was forgotten
        self.total = Counter(data)
        self.data = deque(data)
        self.generator = generator and not policy.by_node
        self.forgetful = forgetful  # its node_timeout hook does nothing
        self.moody = 0  # how many times new_data will say "nothing just now"
        self.redo = 0  # how much of its data is that of lost nodes, which it never holds back
        self.now = 0.0
        self.computers: dict[NodeKey, Computer] = {}
        self.away: dict[NodeKey, Computer] = {}  # lost, but alive
        self.next_node = 0
        self.sendings: list[tuple[NodeKey, TaskId, Attempt]] = []
        self.of_task: dict[TaskId, int] = {}  # what each task's data is
        self.pending: set[TaskId] = set()  # answered, but the hook has not been called
        self.merged: list[TaskId] = []
        self.failed: list[TaskId] = []
        self.users: set[TaskId] = set()  # left to the user to hand out again
        self.works_on: dict[NodeKey, int] = {}  # the dictionary of a user of 0.1
        self.due_timeouts: Counter[NodeKey] = Counter()
        self.changes = 0
        self.nothing_at = -1  # how many changes there had been when new_data had nothing
        restored = min(restored, len(self.data))
        if restored:
            self.restore([TaskId(task) for task in range(restored)], together=together)
        self.join(peers[0])
        if head_start:  # it has all that there is before the others come
            self.work()
            self.result(0, 0.0)
            self.work()
            self.time_passes(0.01)
        for peer in peers[1:]:
            self.join(peer)

    def restore(self, tasks: list[TaskId], *, together: bool) -> None:
        """The server has come back, and its nodes have not yet; perhaps one of them has it all."""
        open_tasks = []
        for task in tasks:
            key, number = self.new_key(), self.data.popleft()
            payload = payload_of(number)
            open_tasks.append(OpenTask(task, key, payload, sum(map(len, payload)), number))
            if together and self.away:
                next(iter(self.away.values())).queue[task] = Attempt(0)
            else:
                self.away[key] = Computer(PEERS[0], {task: Attempt(0)})
            self.of_task[task] = number
            if self.policy.by_node:
                self.works_on[key] = number
        self.scheduler.restore(
            open_tasks, forgotten=(), handed_out=len(tasks), exhausted=False, now=self.now
        )

    def new_key(self) -> NodeKey:
        self.next_node += 1
        return NodeKey(self.next_node.to_bytes(16, "big"))

    # ---- what happens

    @rule(peer=st.sampled_from(PEERS))
    def join(self, peer: PeerId) -> None:
        key = self.new_key()
        self.computers[key] = Computer(peer)
        self.scheduler.join(key, peer)
        self.changes += 1

    def busy(self) -> list[NodeKey]:
        return [key for key, computer in self.computers.items() if computer.queue]

    @rule(which=choices, seconds=st.sampled_from([0.0, 0.001, 0.03, 1.0]))
    def result(self, which: int, seconds: float) -> None:
        for key in choose(which, self.busy()):
            self.answer_rightly(key, seconds)

    def answer_rightly(self, key: NodeKey, seconds: float) -> None:
        task, attempt = next(iter(self.computers[key].queue.items()))
        wanted = self.is_wanted(key, task)
        assert self.scheduler.result(key, task, attempt, seconds, (b"result",)) == wanted
        if wanted:
            self.pending.add(task)

    @rule(which=choices, count=st.integers(2, 6), seconds=st.sampled_from([0.0, 0.001, 0.03]))
    def results(self, which: int, count: int, seconds: float) -> None:
        """Several in one message: they count as they would one by one."""
        for key in choose(which, self.busy()):
            run = list(islice(self.computers[key].queue.items(), count))
            wanted = {task for task, _ in run if self.is_wanted(key, task)}
            self.pending |= wanted
            size = sum(len(b"".join(payload_of(self.of_task[task]))) for task in wanted)
            answers = [(task, attempt, seconds, (b"result",)) for task, attempt in run]
            assert self.scheduler.results(key, answers) == (
                len(wanted),
                size + len(wanted) * len(b"result"),
            )

    def is_wanted(self, key: NodeKey, task: TaskId) -> bool:
        """Whether the answer of a node to this task, which comes now, will count."""
        computer = self.computers[key]
        del computer.queue[task]
        computer.told.discard(task)
        computer.finished = max(0, computer.finished - 1)
        if task in computer.unwanted:
            computer.unwanted.remove(task)
            return False
        return task not in self.users | self.pending | {*self.merged, *self.failed}

    @rule(which=choices, final=st.sampled_from([False, False, False, True]))
    def failure(self, which: int, final: bool) -> None:
        for key in choose(which, self.busy()):
            task, attempt = next(iter(self.computers[key].queue.items()))
            counts = self.is_wanted(key, task)
            assert self.scheduler.failure(key, task, attempt, "oops", "", final=final) == counts
            self.pending |= {task} & self.steps_for(Fail)

    def over(self) -> set[TaskId]:
        """Tasks whose answers are not wanted (any more)."""
        return self.users | self.pending | {*self.merged, *self.failed}

    @rule(which=choices, false=st.sampled_from([0, 0, 1, 2]), raised=st.booleans())
    def answer_late_twice_or_falsely(self, which: int, false: int, raised: bool) -> None:
        for key, task, sent in choose(which, self.sendings):
            attempt = Attempt(sent + false)
            if key not in self.computers or self.computers[key].queue.get(task) != attempt:
                self.answer_in_vain(key, task, attempt, raised)

    @rule(which=choices, other=choices, raised=st.booleans())
    def answer_for_another_node(self, which: int, other: int, raised: bool) -> None:
        for _, task, attempt in choose(which, self.sendings):
            for key in choose(other, list(self.computers)):
                if self.computers[key].queue.get(task) != attempt:
                    self.answer_in_vain(key, task, attempt, raised)

    def answer_in_vain(self, key: NodeKey, task: TaskId, attempt: Attempt, raised: bool) -> None:
        if raised:
            assert not self.scheduler.failure(key, task, attempt, "late", "", final=True)
        else:
            assert not self.scheduler.result(key, task, attempt, 1.0, (b"late",))

    @rule(which=choices, loss=st.sampled_from(Loss))
    def one_node_goes(self, which: int, loss: Loss) -> None:
        for key in choose(which, list(self.computers)):
            self.lose(key, loss)

    @rule(peer=st.sampled_from(PEERS), loss=st.sampled_from([Loss.LOST, Loss.LEFT]))
    def an_agent_goes(self, peer: PeerId, loss: Loss) -> None:
        for key in [key for key, computer in self.computers.items() if computer.peer == peer]:
            self.lose(key, loss)

    def lose(self, key: NodeKey, loss: Loss) -> None:
        computer = self.computers.pop(key)
        queue = computer.queue.keys() - computer.unwanted
        ended = self.pending | set(self.merged) | set(self.failed) | self.users
        owed = self.scheduler.nodes[key].owes
        assert self.scheduler.lose(key, loss, "gone") == len(queue)
        self.changes += 1
        self.pending |= queue & self.steps_for(Fail)
        unmerged = owed is not None and owed not in ended
        if self.policy.user_reassigns and unmerged and owed not in self.pending:
            assert owed is not None
            self.users.add(owed)
        if loss is not Loss.LEFT or (self.policy.user_reassigns and unmerged):
            self.due_timeouts[key] += 1

    @rule(which=choices, finishes=st.integers(0, 3))
    def a_connection_breaks(self, which: int, finishes: int) -> None:
        for key in choose(which, list(self.computers)):
            computer = self.computers[key]
            self.lose(key, Loss.LOST)
            computer.unwanted.clear()
            computer.told.clear()
            computer.finished = min(computer.finished + finishes, len(computer.queue))
            self.away[key] = computer

    @rule(which=choices, forgets=st.booleans())
    def a_node_returns(self, which: int, forgets: bool) -> None:
        if self.policy.user_reassigns and self.forgetful:
            return  # two tasks of one node would be forgotten, and its user's books be wrong
        for key in choose(which, list(self.away)):
            computer = self.computers[key] = self.away.pop(key)
            if forgets:
                computer.queue.clear()
            self.come_back(key, computer)
            self.changes += 1

    def come_back(self, key: NodeKey, computer: Computer) -> None:
        held = [
            Holding(
                task, attempt, digest_of(payload_of(self.of_task[task])), place < computer.finished
            )
            for place, (task, attempt) in enumerate(computer.queue.items())
        ]
        over = self.users | self.pending | {*self.merged, *self.failed}
        wanted = self.scheduler.join(key, computer.peer, held)
        assert wanted == [holding.task not in over for holding in held]
        for holding, is_wanted in zip(held, wanted, strict=True):
            if not is_wanted and holding.finished:
                del computer.queue[holding.task]
            elif not is_wanted:
                computer.unwanted.add(holding.task)
        computer.finished = 0

    def steps_for(self, kind: type[Merge | Fail]) -> set[TaskId]:
        steps = [*self.scheduler._steps, *self.scheduler._order.held.values()]
        return {step.task.id for step in steps if isinstance(step, kind)}

    @rule(seconds=st.sampled_from([0.01, 0.1, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.scheduler.tick(self.now)

    @rule(times=st.integers(1, 3))
    def the_user_has_nothing_for_a_while(self, times: int) -> None:
        self.moody = times

    # ---- what is done about it

    @rule(steps=st.integers(1, 4))
    def work_a_little(self, steps: int) -> None:
        for _ in range(steps):
            step = self.scheduler.next_step()
            if step is not None:
                self.perform(step)

    @rule()
    def work(self) -> None:
        self.do_all()
        self.scheduler.tick(self.now)
        self.do_all()
        self.nobody_waits_in_vain()
        deadline = self.scheduler.deadline
        assert deadline is None or deadline > self.now, "it would be woken up for nothing"

    def do_all(self) -> None:
        for _ in range(10_000):
            step = self.scheduler.next_step()
            if step is None:
                return
            self.perform(step)
        raise AssertionError("it never comes to rest")

    @rule()
    def work_and_reclaim(self) -> None:
        """What the server does when ``job_done`` is false."""
        self.work()
        forgotten = self.scheduler.forgotten
        if self.scheduler.reclaim():
            assert self.forgetful
            assert not self.busy()
            assert len(self.users) == forgotten == self.scheduler.waiting
            self.users.clear()
            self.work()

    def perform(self, step: Step) -> None:
        match step:
            case AskData(node, pieces):
                while pieces and self.new_data(node):
                    pieces -= 1
            case Assign():
                self.sent(step)
            case Merge(task, _, _, payload):
                assert payload == (b"result",)
                self.end(task.id, task.owner, self.merged)
                self.scheduler.settled(task)
            case Fail(task, _, _, _):
                self.end(task.id, task.owner, self.failed)
                self.scheduler.settled(task)
            case Withdraw(node, task_id, attempt):
                self.withdraw(node.key, task_id, attempt)
            case TellTimeout(node):
                self.node_timeout(node)
            case Retry() | Reclaimed() | SetAside():
                pass

    def withdraw(self, key: NodeKey, task: TaskId, attempt: Attempt) -> None:
        """Nobody wants this of that node, or another one has it as well."""
        assert not self.policy.by_node
        assert self.computers[key].queue[task] == attempt
        assert task in self.over() or self.scheduler._tasks[task].also
        self.computers[key].told.add(task)
        if self.obedience is Obedience.AT_ONCE:
            self.look(key)

    @rule(which=choices)
    def an_agent_looks(self, which: int) -> None:
        for key in choose(
            which, [key for key, computer in self.computers.items() if computer.told]
        ):
            if self.obedience is Obedience.LATER:
                self.look(key)

    def look(self, key: NodeKey) -> None:
        """It gives back what it has not begun, and goes on with the rest or is replaced."""
        computer = self.computers[key]
        first, *behind = computer.queue
        for task in behind:
            if task in computer.told:
                self.scheduler.dropped(key, task, computer.queue.pop(task))
        if self.replaces and first in computer.told:
            self.lose(key, Loss.LEFT)
            self.join(computer.peer)
        computer.told.clear()

    def new_data(self, node: NodeKey) -> bool:
        """Give something to this node; false if there was nothing."""
        if self.policy.by_node:
            assert node not in self.works_on, "hand-out and merge alternate"
        if (self.moody and not self.redo) or (not self.data and not self.generator):
            self.moody = max(0, self.moody - 1)
            self.nothing_at = self.changes
            self.scheduler.nothing(self.now)
            return False
        if not self.data:
            self.scheduler.exhaust()
            return False
        number = self.data.popleft()
        self.redo = max(0, self.redo - 1)
        assign = self.scheduler.give([(payload_of(number), number)])
        self.of_task[assign.tasks[0].id] = number
        if self.policy.by_node:
            self.works_on[node] = number
        self.sent(assign)
        return True

    def sent(self, assign: Assign) -> None:
        key = assign.node.key
        for task in assign.tasks:
            assert task.id not in self.computers[key].queue
            self.computers[key].queue[task.id] = task.newest
            self.sendings.append((key, task.id, task.newest))

    def end(self, task: TaskId, owner: NodeKey, ended: list[TaskId]) -> None:
        assert task not in self.merged + self.failed
        if self.policy.ordered:
            assert task == len(self.merged + self.failed)
        self.pending.remove(task)
        ended.append(task)
        self.changes += 1
        if self.policy.by_node:
            assert self.works_on.pop(owner) == self.of_task[task]

    def node_timeout(self, node: NodeKey) -> None:
        self.due_timeouts[node] -= 1
        assert self.due_timeouts[node] >= 0
        if self.policy.user_reassigns and not self.forgetful and node in self.works_on:
            self.data.appendleft(self.works_on.pop(node))
            self.redo += 1

    # ---- what must be true

    @invariant()
    def every_task_is_in_exactly_one_place(self) -> None:
        scheduler = self.scheduler
        waiting = [*(task.id for task in scheduler._waiting), *scheduler._awaiting]
        running = [task.id for task in scheduler._tasks.values() if task.running is not None]
        answered = [*self.steps_for(Merge), *self.steps_for(Fail)]
        places = Counter([*waiting, *running, *answered, *self.merged, *self.failed, *self.users])
        assert places == Counter(range(scheduler.handed_out))
        assert set(answered) == self.pending
        assert set(waiting) | set(running) == set(scheduler._tasks)
        assert (len(waiting), len(running)) == (scheduler.waiting, scheduler.running)

    @invariant()
    def a_checkpoint_would_know_what_is_left(self) -> None:
        scheduler = self.scheduler
        left = {task.id for task, is_users in scheduler.unsettled_tasks() if not is_users}
        users = {task.id for task, is_users in scheduler.unsettled_tasks() if is_users}
        settled = {*self.merged, *self.failed}
        assert left == set(range(scheduler.handed_out)) - settled - self.users
        assert len(users) == scheduler.forgotten
        assert users <= self.users
        if self.policy.keep_payloads:
            for task, _ in scheduler.unsettled_tasks():
                assert task.payload == payload_of(self.of_task[task.id])

    @invariant()
    def nodes_have_what_they_were_sent(self) -> None:
        nodes = self.scheduler.nodes
        assert {key: {*node.open.items(), *node.unwanted} for key, node in nodes.items()} == {
            key: set(computer.queue.items()) for key, computer in self.computers.items()
        }
        for task in self.scheduler._tasks.values():
            assert task.running not in task.also
            for key in task.also if task.running is None else {task.running, *task.also}:
                assert task.id in nodes[key].open
        for key, node in nodes.items():
            for task_id in node.open:
                known = self.scheduler._tasks.get(task_id)
                if known is None:
                    assert task_id in self.over()
                else:
                    assert key in {known.running, *known.also}

    @invariant()
    def the_counts_are_right(self) -> None:
        scheduler = self.scheduler
        assert scheduler.busy == (bool(self.pending) or bool(self.busy()))
        merges = [step for step in scheduler._steps if isinstance(step, Merge)]
        held = [step for step in scheduler._order.held.values() if isinstance(step, Merge)]
        assert scheduler.unmerged_bytes == len(b"result") * len(merges)
        assert scheduler._order.bytes == len(b"result") * len(held)
        assert scheduler.complete == (
            scheduler._exhausted and not scheduler._tasks and not self.pending
        )

    def nobody_waits_in_vain(self) -> None:
        """With nothing left to do, each idle node has a reason to be idle, and somebody will come."""
        scheduler = self.scheduler
        assert not +self.due_timeouts
        for node in scheduler.nodes.values():
            if node.open or node.unwanted:
                continue
            if self.could_get_something(node) and node.peer not in scheduler._suspects.aside:
                assert scheduler._sharing.look_at is not None, "others have more than they compute"
            if node.peer in scheduler._suspects.aside:
                assert scheduler.deadline is not None, "it will come back"
                assert {other.peer for other in scheduler.nodes.values()} - {node.peer}
                continue
            for task in scheduler._waiting:
                went_wrong = {node.key, node.peer} & task.tried
                assert went_wrong, "it could have been sent here"
                assert any(
                    len({other.key, other.peer} & task.tried) < len(went_wrong)
                    for other in scheduler.nodes.values()
                    if other.peer not in scheduler._suspects.aside
                )
            if scheduler._exhausted:
                continue
            if scheduler._order.is_full:
                assert scheduler._order.turn in scheduler._tasks, "it will end, and others with it"
                continue
            if node.owes is not None:
                assert node.owes in scheduler._tasks, "its task will be merged"
                continue
            assert self.nothing_at == self.changes, "it was asked since the last change"
            assert scheduler.deadline is not None, "it will be asked again"

    def could_get_something(self, idle: Node) -> bool:
        """Whether another node has what it has not begun, nobody else has, and this one may compute.

        It may have been asked for some of that already, for a third one that is gone: it will answer.
        """
        if self.policy.by_node:
            return False
        waiting = [
            self.scheduler._tasks.get(task_id)
            for node in self.scheduler.nodes.values()
            for task_id in islice(node.open, 0 if node.unwanted else 1, None)
            if task_id not in node.leaving
        ]
        return any(task and not task.also and idle.key not in task.tried for task in waiting)

    # ---- the end

    def teardown(self) -> None:
        """With one healthy node everything that was handed out comes to its end."""
        if not hasattr(self, "scheduler"):
            return
        self.moody = 0
        for key in list(self.computers):
            self.lose(key, Loss.LEFT)
        self.join(PEERS[0])
        (healthy,) = self.computers
        for _ in range(1000):
            self.work_and_reclaim()
            self.every_task_is_in_exactly_one_place()
            self.nodes_have_what_they_were_sent()
            self.the_counts_are_right()
            if self.busy():
                self.answer_rightly(healthy, 0.0)
            elif not self.data and not self.scheduler.forgotten and not self.scheduler.waiting:
                break
            else:
                deadline = self.scheduler.deadline
                assert deadline is not None, "work is left, and nobody will come"
                self.now = deadline
                self.scheduler.tick(self.now)
        assert not self.data
        assert not self.scheduler.busy
        assert not +self.due_timeouts
        assert sorted(self.merged + self.failed) == sorted(set(self.merged) | set(self.failed))
        assert Counter(self.of_task[task] for task in self.merged + self.failed) == self.total
        if self.generator:
            self.scheduler.tick(self.now + 2)
            self.work()
            assert self.scheduler.complete


TestPromises = World.TestCase
TestPromises.settings = settings(max_examples=200, stateful_step_count=40)
