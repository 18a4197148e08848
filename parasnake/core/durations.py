"""How long tasks have taken of late."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

KEPT = 100
"""So many of the newest count."""


class Durations:
    """The newest durations of tasks, in seconds."""

    __slots__ = ("_newest", "_sorted")

    def __init__(self) -> None:
        self._newest: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        """How many are known, up to ``KEPT``."""
        return len(self._newest)

    def add(self, seconds: float) -> None:
        """A task has taken so long."""
        newest, in_order = self._newest, self._sorted
        if len(newest) == KEPT:
            del in_order[bisect_left(in_order, newest.popleft())]
        newest.append(seconds)
        insort(in_order, seconds)

    def quantile(self, share: float) -> float:
        """The least of them that at least this share do not exceed; 0 if none is known."""
        if not self._sorted:
            return 0.0
        return self._sorted[math.ceil(share * len(self._sorted)) - 1]
