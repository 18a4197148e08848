"""When to give a task that takes long to a second node, and which tasks these are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from .ids import Attempt, TaskId
from .tasks import Node, OpenTask

PATIENCE_MEANS, PATIENCE_S = 2.0, 1.0
"""A task gets a second node when it takes so many times the mean of its job, and at least so long."""
LINK_BYTES_PER_S = 10_000_000
"""Data is taken to be on its way no faster, in whole seconds: that is no straggling yet."""


class Stragglers:
    """Tasks on nodes whose first one takes much longer than usual.

    Parameters
    ----------
    wanted: whether anybody looks for them at all
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._results = 0
        self._seconds = 0.0
        self.look_at: float | None = None
        """When to look for them."""
        self.due: deque[tuple[OpenTask, Attempt]] = deque()
        """Those that shall get a second node, the longest first; take them from the left.

        Each with the newest attempt of then: once there is a newer one, that has just begun.
        """

    @property
    def results(self) -> int:
        """How many results there were."""
        return self._results

    @property
    def _patience(self) -> float:
        """How long a task may take before it gets a second node."""
        return max(PATIENCE_S, PATIENCE_MEANS * self._seconds / self._results)

    def results_came(self, count: int, seconds: float, now: float) -> None:
        """So many results have come, which took so long to compute together."""
        self._results += count
        self._seconds += seconds
        self.watch(now)

    def watch(self, now: float) -> None:
        """Something has begun: look some time later whether it takes long."""
        if self.look_at is None and self._wanted and self._results:
            self.look_at = now + self._patience

    def look(self, nodes: Iterable[Node], tasks: Mapping[TaskId, OpenTask], now: float) -> None:
        """Take note of what takes long by now."""
        patience = self._patience
        times: list[float] = []
        self.due.clear()
        for node in sorted(nodes, key=lambda node: node.begun_at):
            task = tasks.get(next(iter(node.open), TaskId(-1)))
            if task is None or task.also:
                continue
            due_at = node.begun_at + patience + task.size // LINK_BYTES_PER_S
            if due_at <= now:
                self.due.append((task, task.newest))
                due_at = now + patience  # should there be no node for it now
            times.append(due_at)
        self.look_at = min(times, default=None)

    def clear(self) -> None:
        """Nothing more is handed out."""
        self.due.clear()
        self.look_at = None
