"""Who has to go when, and what can still be computed there."""

from __future__ import annotations

from .durations import Durations
from .tasks import MAX_DEPTH, Node, OpenTask

HIGH, HALF = 0.95, 0.5
"""A task is taken to need what this share of tasks needs; the second one if nobody lives that long."""
ENOUGH = 5
"""With so many results a node is judged by its own, before that by those of all nodes."""


class Limits:
    """What is known of the time that tasks need, and of the time that nodes have.

    Attributes
    ----------
    too_long: whether a task was given to a node though no node has as much time as it needs
    """

    def __init__(self) -> None:
        self._took = Durations()
        self._longest_life = 0.0
        self.too_long = False

    @property
    def longest_life(self) -> float:
        """The longest time that any node had from its beginning, of those that have an end."""
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

    def ends(self, node: Node, at: float, now: float) -> None:
        """A node has to go at this time."""
        node.ends_at = at
        self._longest_life = max(self._longest_life, at - now)

    def room(self, node: Node, now: float) -> int:
        """How many more tasks a node can compute before it has to go, one after the other.

        One, if it has none, as long as nothing is known, and if no node lives as long as a task takes.
        """
        if node.ends_at is None:
            return MAX_DEPTH
        known = node.took if len(node.took) >= ENOUGH else self._took
        need = known.quantile(HIGH)
        if need > self._longest_life:
            need = known.quantile(HALF)
        if need > self._longest_life:
            self.too_long = True
        if not len(known) or need > self._longest_life:
            return int(not node.load)
        before_the_last = node.ends_at - now - node.delay - need
        if before_the_last < 0:
            return 0
        mean = max(need if node.mean_seconds is None else node.mean_seconds, 1e-6)
        return max(0, min(1 + int(before_the_last / mean) - node.load, MAX_DEPTH))

    def suits(self, task: OpenTask, node: Node, now: float) -> bool:
        """Whether a node has more time for a task than it had already in vain, if any node has."""
        if node.ends_at is None or task.ran_for < node.ends_at - now:
            return True
        if task.ran_for < self._longest_life * HIGH:
            return False  # others will come
        self.too_long = True
        return True
