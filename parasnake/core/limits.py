"""Who has to go when, and what can still be computed there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from .durations import Durations
from .ids import NodeKey, PeerId
from .tasks import MAX_DEPTH, Node, OpenTask

HIGH, HALF = 0.95, 0.5
"""A task is taken to need what this share of tasks needs; the second one if nobody lives that long."""
ENOUGH = 5
"""With so many results a node is judged by its own, before that by those of all nodes."""
FRESH = 0.9
"""Of its life a node has this share left, at least, when it is asked for the first time."""


class Limits:
    """What is known of the time that tasks need, and of the time that nodes have.

    Parameters
    ----------
    nodes: those that are there, by key

    Attributes
    ----------
    exist: whether any node had an end so far
    too_long: whether a task was given to a node though no node has as much time as it needs
    look_at: when somebody may have too little time left for anything; None: not before something
        has changed
    """

    def __init__(self, nodes: Mapping[NodeKey, Node]) -> None:
        self._nodes = nodes
        self._took = Durations()
        self._longest_life: float | None = None
        self.exist = False
        self.too_long = False
        self.look_at: float | None = None

    @property
    def longest_life(self) -> float:
        """The longest time that a node has, of those that are there, from its beginning to its end."""
        if self._longest_life is None:
            lives = (_life(node) for node in self._nodes.values())
            self._longest_life = max(lives, default=0.0)
        return self._longest_life

    def came(self, node: Node, seconds: float) -> None:
        """A node has computed tasks, of which the longest took so long."""
        node.took.add(seconds)
        self._took.add(seconds)

    def cut(self, task: OpenTask, seconds: float) -> None:
        """A node had to go when it had computed a task for so long: the task needs more than that."""
        task.ran_for = max(task.ran_for, seconds)
        if seconds > self._took.quantile(HIGH):
            self._took.add(seconds)

    def ends(self, node: Node, at: float) -> None:
        """A node has to go at this time."""
        node.ends_at = at
        self.exist = True
        self.changed()
        self.is_idle()

    def changed(self) -> None:
        """There are more nodes, or less."""
        self._longest_life = None

    def is_idle(self) -> None:
        """A node that has an end has nothing to do: it may have too little time left for more."""
        self.look_at = 0.0

    def clear(self) -> None:
        """Nothing more is handed out."""
        self.look_at = None

    def room(self, node: Node, now: float) -> int:
        """How many more tasks a node can compute before it has to go, one after the other.

        One, if it has none, as long as nothing is known. If no node lives as long as a task takes, one
        is tried where there is half of the longest life left, or more.
        """
        if node.ends_at is None:
            return MAX_DEPTH
        need = self._need(node)
        spare = self._latest(node, need) - now
        if spare <= 0:
            return 0
        if not need or self._is_too_long(need):
            self.too_long |= need > 0
            return int(not node.load)
        mean = max(need if node.mean_seconds is None else node.mean_seconds, 1e-6)
        return max(0, min(1 + int(spare / mean) - node.load, MAX_DEPTH))

    def suits(self, task: OpenTask, node: Node, now: float) -> bool:
        """Whether a node has more time for a task than it had already in vain.

        If no node has, it is tried where there is half of the longest life left, or more.
        """
        if node.ends_at is None or task.ran_for < node.ends_at - now:
            return True
        if not self._is_too_long(task.ran_for):
            return False  # others will come
        if now >= self._half_life(node):
            return False
        self.too_long = True
        return True

    def out_of_time(self, idle: Iterable[Node], now: float) -> dict[PeerId, int]:
        """How many of these idle nodes of each agent have too little time left for anything."""
        if self.look_at is None or now < self.look_at:
            return {}
        found: dict[PeerId, int] = {}
        times = []
        for node in idle:
            latest = self._latest(node, self._need(node))
            if now >= latest:
                found[node.peer] = found.get(node.peer, 0) + 1
            elif latest < math.inf:
                times.append(latest)
        self.look_at = min(times, default=None)
        return found

    def _need(self, node: Node) -> float:
        """How long a task takes there, with a share that depends on whether anybody has the time."""
        known = node.took if len(node.took) >= ENOUGH else self._took
        need = known.quantile(HIGH)
        return known.quantile(HALF) if self._is_too_long(need) else need

    def _is_too_long(self, seconds: float) -> bool:
        return seconds > FRESH * self.longest_life

    def _latest(self, node: Node, need: float) -> float:
        """When it can begin a task at the latest that needs so long."""
        if node.ends_at is None:
            return math.inf
        if self._is_too_long(need):
            return self._half_life(node)
        return node.ends_at - node.delay - need

    def _half_life(self, node: Node) -> float:
        assert node.ends_at is not None
        return node.ends_at - self.longest_life / 2


def _life(node: Node) -> float:
    return math.inf if node.ends_at is None else node.ends_at - node.joined_at
