"""The user's script, drawn from the seed, and the books that a careful user keeps."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from parasnake.core.ids import NodeId
from parasnake.errors import TaskFailed
from parasnake.hooks import HookTable

from .world import Violation, World

APP = "simulated"
Data = tuple[int, bytes]
MANY = (60, 150, 400)
SIZES = (300, 5000, 70000)
"""Bytes that are in the way: some, too many for a run, and some that get memory of their own."""
SLOWEST_S = 4.0
MOST_WHIMS = 4
"""Each may cost another server all that the job has come to."""


class Manner(Enum):
    """What ``new_data`` is."""

    GENERATOR = auto()
    PLAIN = auto()
    BY_NODE = auto()
    """It asks for ``node_id``."""
    OLD = auto()
    """It asks for ``node_id``, there is a ``node_timeout``: the user hands lost data out again."""


class Unsendable:
    """Data that no pickle takes."""

    def __reduce__(self) -> str:
        raise TypeError("this cannot be pickled")


class Whim(Exception):
    """What the user's hooks raise."""


@dataclass(frozen=True)
class Plan:
    """What the job is like, from its seed.

    ``poison`` are the tasks whose ``process`` always raises, ``deadly`` those that always kill their
    worker; ``moods`` says how often others raise before they do not. ``whims`` are the calls of hooks
    that raise, once: ("result", index).
    """

    seed: int
    manner: Manner
    tasks: int
    ordered: bool
    with_failed: bool
    forgetful: bool
    tells_timeouts: bool
    init: str
    nones: float
    seconds: tuple[float, ...]
    padding: dict[int, int]
    """Bytes of data that are in the way."""
    swelling: dict[int, int]
    """The same of results."""
    poison: frozenset[int]
    deadly: frozenset[int]
    unsendable: frozenset[int]
    moods: dict[int, int]
    whims: tuple[tuple[str, int], ...]
    slow_hooks: float
    """One call of a hook in five takes about so long."""
    hook_seconds: float
    """Each call takes so long."""
    knows_delays: bool
    """Whether the server's system tells how far away agents are."""
    heartbeat_timeout: float
    reconnect_timeout: float
    task_timeout: float | None
    speculate: bool
    max_attempts: int
    max_losses: int
    journal: bool
    life: float | None
    """About so long may an agent run; None: for ever."""
    adaptive: bool
    """What comes next depends on how many results there are."""

    @property
    def bytes(self) -> int:
        """Of all that is large."""
        return sum(self.padding.values()) + sum(self.swelling.values())

    @property
    def user_reassigns(self) -> bool:
        """Whether the user hands out lost data again."""
        return self.manner is Manner.OLD

    @property
    def by_node(self) -> bool:
        """Whether ``new_data`` asks for ``node_id``."""
        return self.manner in (Manner.BY_NODE, Manner.OLD)


def _draw_seconds(random: random.Random, tasks: int, mean: float) -> tuple[float, ...]:
    """Draw how long tasks take: about the same, or some or all from one on are suddenly slow."""
    factor = random.choice([1.0, 1.0, 20.0, 1000.0])
    slow_from = random.choice([tasks, tasks, tasks // 2])
    slow_share = random.choice([0.0, 0.01, 0.05])

    def drawn(index: int) -> float:
        slow = factor * mean if index >= slow_from or random.random() < slow_share else mean
        return min(slow, max(SLOWEST_S, mean)) * random.choice([0.5, 1.0, 1.5, 5.0])

    return tuple(map(drawn, range(tasks)))


def draw_plan(random: random.Random) -> Plan:
    """Draw a job."""
    manner = random.choice(list(Manner))
    by_node = manner in (Manner.BY_NODE, Manner.OLD)
    tasks = random.choice([1, 2, 5, 10, 20, 30, 60])
    mean = random.choice([0.001, 0.02, 0.3, 2.0])
    if not by_node and random.random() < 0.4:  # then they travel in runs
        tasks, mean = random.choice(MANY), random.choice([0.00002, 0.0002, 0.002])
    seconds = _draw_seconds(random, tasks, mean)
    with_failed = random.random() < 0.6

    def some(share: float) -> frozenset[int]:
        if random.random() < 0.6:
            return frozenset()
        return frozenset(index for index in range(tasks) if random.random() < share)

    # Without the hook a task that always fails ends the job again and again.
    poison, deadly = (some(0.1), some(0.05)) if with_failed else (frozenset(), frozenset())
    heartbeat_timeout = random.choice([3.0, 6.0, 20.0])
    # A slow machine needs 10 times the longest at the most: no task is to fail for ever.
    longest = max(seconds)
    task_timeout = random.choice([None, 12.0 * longest]) if longest > 0.4 else None
    return Plan(
        seed=random.getrandbits(64),
        manner=manner,
        tasks=tasks,
        ordered=not by_node and random.random() < 0.4,
        with_failed=with_failed,
        forgetful=random.random() < 0.2,
        tells_timeouts=random.random() < 0.5,
        init=random.choice(["none", "agent", "node"]),
        nones=random.choice([0.0, 0.0, 0.3]),
        seconds=seconds,
        padding={index: random.choice(SIZES) for index in some(0.1)},
        swelling={index: random.choice(SIZES) for index in some(0.1)},
        poison=poison,
        deadly=deadly - poison,
        unsendable=some(0.05) if with_failed and manner is not Manner.OLD else frozenset(),
        moods={index: random.randint(1, 2) for index in some(0.3)},
        whims=(
            *(("result", index) for index in sorted(some(0.1))[-MOST_WHIMS:]),
            *(("failed", index) for index in sorted(some(0.1))[-MOST_WHIMS:]),
        ),
        slow_hooks=random.choice([0.0, 0.0, 0.0, 0.05, 1.0]),
        hook_seconds=random.choice([0.0, 0.0, 0.00002, 0.0005]),
        knows_delays=random.random() < 0.7,
        heartbeat_timeout=heartbeat_timeout,
        reconnect_timeout=random.choice([10.0, 60.0, 300.0]),
        task_timeout=task_timeout,
        speculate=random.random() < 0.7,
        max_attempts=random.randint(1, 4),
        max_losses=random.randint(1, 5),
        journal=random.random() < 0.8,
        # Even a slow machine has the time for each task, if it begins with it at once.
        life=random.choice([None, None, 5.0 + 12.0 * longest, 5.0 + 40.0 * longest]),
        adaptive=random.random() < 0.4,
    )


def serial(index: int) -> int:
    """What ``process`` makes of its data."""
    return index * index + 7


class Truth:
    """What really happened to the data, over all servers of a history: charges must not be higher."""

    def __init__(self) -> None:
        self.failures: Counter[int] = Counter()
        """Exceptions, and deaths of workers that had it or to which it was on its way."""
        self.losses: Counter[int] = Counter()
        """Losses of nodes to which it had been sent."""
        self.computed: Counter[int] = Counter()
        self.whims_had: set[tuple[str, int]] = set()


class User:
    """The script in one server process: its variables, and its books of what it was told.

    Parameters
    ----------
    pause: is called in each hook; it may let time pass, or be the end of the server
    """

    def __init__(self, plan: Plan, world: World, truth: Truth, pause: Callable[[], None]) -> None:
        self._plan = plan
        self._world = world
        self._truth = truth
        self._pause = pause
        self._moods = random.Random(plan.seed)
        self._todo = deque(range(plan.tasks))
        self.calls: list[tuple[str, object]] = []
        """Those of hooks that a replay must repeat."""
        self.data_of: list[int] = []
        """The data of each task."""
        self.open: dict[int, int] = {}
        """The newest task of data that was handed out and has not come back."""
        self.merged: dict[int, int] = {}
        self.failed: dict[int, TaskFailed] = {}
        self.works_on: dict[NodeId, int] = {}

    def hooks(self) -> HookTable:
        """Register what this user has."""
        plan = self._plan
        table = HookTable(APP, compare_code=False, seed=7)
        new_data: dict[Manner, Callable[..., Any]] = {
            Manner.GENERATOR: self._generator,
            Manner.PLAIN: lambda: self._next(None),
            Manner.BY_NODE: self._next_for,
            Manner.OLD: self._next_for,
        }
        table.register("new_data", new_data[plan.manner])
        table.register("result", self._result, ordered=plan.ordered)
        if plan.manner is not Manner.GENERATOR:
            table.register("job_done", self.is_done)
        if plan.with_failed:
            table.register("failed", self._failed)
        if plan.user_reassigns or (plan.tells_timeouts and not plan.by_node):
            table.register("node_timeout", self._node_timeout)
        if plan.init == "agent":
            table.register("init_data", lambda: "for an agent")
        if plan.init == "node":
            table.register("init_data", self._init_for)
        return table

    def is_done(self) -> bool:
        """Whether all data has come back."""
        return len(self.merged) + len(self.failed) == self._plan.tasks

    # ---- hooks

    def _generator(self) -> Iterator[object]:
        while self._todo:
            yield self._next(None)

    def _next_for(self, node_id: NodeId) -> object:
        return self._next(node_id)

    def _init_for(self, node_id: NodeId) -> str:
        return f"for {node_id}"

    def _next(self, node: NodeId | None) -> object:
        self._pause()
        if not self._todo or self._moods.random() < self._plan.nones:
            self.calls.append(("new_data", None))
            return None
        if self._plan.adaptive:
            self._todo.rotate(3 * len(self.merged))
        index = self._todo.popleft()
        if node is not None:
            forgetful = self._plan.forgetful
            self._alternate(
                node in self.works_on and not forgetful, f"new data for {node}, which has some"
            )
            self.works_on[node] = index
        self.open.pop(next((t for t, i in self.open.items() if i == index), -1), None)
        self.open[len(self.data_of)] = index
        self.data_of.append(index)
        self.calls.append(("new_data", index))
        self._world.tell(f"new_data: task {len(self.data_of) - 1} is data {index}")
        padding = self._plan.padding.get(index, 0)
        return Unsendable() if index in self._plan.unsendable else (index, bytes(padding))

    def _result(self, result: tuple[int, int, bytes], node_id: NodeId) -> None:
        index, value, _ = result
        self.calls.append(("result", index))
        self._world.tell(f"result: data {index}")
        if value != serial(index):
            raise Violation("right results", f"{value} for data {index}")
        self._settle(index, node_id)
        self._whim("result", index)
        self.merged[index] = value
        self._pause()

    def _failed(self, error: TaskFailed, node_id: NodeId) -> None:
        index = self.data_of[error.task_id]
        self.calls.append(("failed", index))
        self._world.tell(f"failed: data {index}: {error}")
        self._settle(index, node_id)
        self._whim("failed", index)
        self.failed[index] = error
        self._pause()

    def _node_timeout(self, node: NodeId) -> None:
        self.calls.append(("node_timeout", node))
        self._world.tell(f"node_timeout: {node}")
        if self._plan.user_reassigns and not self._plan.forgetful:
            index = self.works_on.pop(node, None)
            if index is not None:
                self._todo.appendleft(index)
        self._pause()

    # ---- what the user relies on

    def _settle(self, index: int, node: NodeId) -> None:
        """The end of a task: the only one, in its turn, and under the right id."""
        if index in self.merged or index in self.failed:
            raise Violation("merged once", f"data {index} has ended before")
        task = next((task for task, other in self.open.items() if other == index), None)
        if task is None:
            raise Violation("merged once", f"data {index} was not handed out")
        del self.open[task]
        if self._plan.ordered and self._plan.with_failed and task > min(self.open, default=task):
            raise Violation("in order", f"data {index} before task {min(self.open)}")
        if self._plan.by_node and not self._plan.forgetful:
            self._alternate(self.works_on.pop(node, None) != index, f"data {index} of {node}")

    @staticmethod
    def _alternate(wrong: bool, text: str) -> None:
        if wrong:
            raise Violation("strict alternation, under the right id", text)

    def _whim(self, hook: str, index: int) -> None:
        whim = (hook, index)
        if whim in self._plan.whims and whim not in self._truth.whims_had:
            self._truth.whims_had.add(whim)
            raise Whim(f"{hook} of data {index} does not like it")
