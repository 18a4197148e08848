"""Ends of tasks in the order of the tasks, whatever the order in which they come."""

from __future__ import annotations

from collections.abc import Iterator

from .ids import TaskId
from .tasks import Fail, Merge

MAX_HELD_BYTES = 1 << 26
"""With so many bytes of results waiting for their predecessors no new data is asked for."""


class InOrder:
    """What has ended before its turn, until all tasks before it have ended.

    Parameters
    ----------
    max_held: that many may wait
    """

    def __init__(self, max_held: int) -> None:
        self._max_held = max_held
        self.held: dict[TaskId, Merge | Fail] = {}
        """What waits for its turn; not to be changed."""
        self.bytes = 0
        """Of the results among them."""
        self.turn = TaskId(0)
        """The task whose end comes next."""

    @property
    def is_full(self) -> bool:
        """Whether so many wait for their predecessors that these must come first."""
        return len(self.held) >= self._max_held or self.bytes >= MAX_HELD_BYTES

    def end(self, step: Merge | Fail) -> Iterator[Merge | Fail]:
        """A task has ended; gives all whose turn it is now."""
        self.held[step.task.id] = step
        self.bytes += step.task.size
        while (due := self.held.pop(self.turn, None)) is not None:
            self.turn = TaskId(self.turn + 1)
            self.bytes -= due.task.size
            yield due
