"""How many batch jobs a server should have: when to list them, to submit more, to cancel some.

Each batch job is one agent. What the batch system says of them is asked for, never guessed: more are
submitted only right after they were listed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Set
from dataclasses import dataclass, field

WORTH_S = 60.0
"""An agent is worth being started if each of its workers has so much to do."""
FIRST_PAUSE_S, LAST_PAUSE_S = 5.0, 60.0
"""Between two lists: after something has happened, and when nothing happens."""
SOON_S = 1.0
"""After an agent has gone: its batch job takes a moment to follow."""
SHARE = 10
"""Asking takes 1 / this of the time at the most, however slow the batch system answers."""
FIRST_RETRY_S, LAST_RETRY_S = 10.0, 600.0
"""Pauses after failures double from one to the other."""
MAX_FAILURES = 8
"""After so many in a row, about twenty minutes, no more are submitted."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is left of a job.

    Attributes
    ----------
    left: tasks that are not done; None: nobody knows
    seconds: what a task takes, on average; None: none is done yet
    workers: how many workers an agent has
    idle: there are nodes with nothing to do
    """

    left: int | None
    seconds: float | None
    workers: int
    idle: bool


@dataclass(frozen=True, slots=True)
class List:
    """Ask the batch system for all batch jobs; then `Fleet.listed` or `Fleet.not_listed`."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit so many; then `Fleet.submitted` or `Fleet.not_submitted`."""

    count: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel these, which are queued; then `Fleet.cancelled`."""

    jobs: tuple[str, ...]


Step = List | Submit | Cancel


@dataclass(slots=True)
class _Round:
    """What became of one submission."""

    reached_before: int
    listed: bool = False
    jobs: set[str] = field(default_factory=set)


class Fleet:
    """Decides about batch jobs. One step at a time: the next when the last is answered.

    Parameters
    ----------
    most: how many there may be at the same time
    life: how many seconds each may run; None: nobody knows
    together: how many may be submitted by one command
    """

    def __init__(self, most: int, *, life: float | None, together: int) -> None:
        self._most = most
        self._worth = WORTH_S if life is None else min(WORTH_S, life)
        self._together = together
        self._jobs: frozenset[str] = frozenset()
        self._rounds: list[_Round] = []
        self._reached = 0
        self._steps: list[Step] = []
        self._list_at = 0.0
        self._earliest = 0.0
        self._pause = FIRST_PAUSE_S
        self._failures = 0
        self._submit_at = 0.0
        self._doing: Step | None = None
        self.given_up = False
        """Whether it submits no more."""

    @property
    def size(self) -> int:
        """How many there were when they were listed last."""
        return len(self._jobs)

    @property
    def deadline(self) -> float | None:
        """When ``next_step`` should be called; None: when a step is answered."""
        if self._doing is not None:
            return None
        return 0.0 if self._steps else self._list_at

    def next_step(self, now: float) -> Step | None:
        """Return what is to be done now, if anything is."""
        if self._doing is not None:
            return None
        if not self._steps:
            if now < self._list_at:
                return None
            self._steps.append(List())
        self._doing = self._steps.pop(0)
        return self._doing

    # ---- what happens

    def reached(self) -> None:
        """A node of an agent is ready: whatever was submitted does work."""
        self._reached += 1
        self._failures = 0

    def changed(self, now: float) -> None:
        """An agent has gone: its batch job may have ended."""
        self._pause = FIRST_PAUSE_S
        self._list_at = min(self._list_at, max(now + SOON_S, self._earliest, self._submit_at))

    def listed(
        self,
        now: float,
        queued: Collection[str],
        running: Set[str],
        *,
        work: Work,
        took: float = 0.0,
    ) -> str:
        """These there are, after ``took`` seconds; returns what is wrong with them, or ""."""
        self._doing = None
        before, self._jobs = self._jobs, frozenset(queued) | running
        self._earliest = now + SHARE * took
        self._list_at = max(now + self._pause, self._earliest)
        self._pause = min(2 * self._pause, LAST_PAUSE_S)
        problem = self._judge(now, self._jobs - before)
        self._steps = self._plan(now, queued, work)
        return problem

    def not_listed(self, now: float) -> None:
        """The batch system did not say what there is: nothing is submitted before it does."""
        self._doing = None
        self._pause = min(max(2 * self._pause, FIRST_RETRY_S), LAST_RETRY_S)
        self._list_at = now + self._pause

    def submitted(self, now: float) -> None:
        """They are submitted."""
        self._doing = None
        if not self._rounds or self._rounds[-1].listed:
            self._rounds.append(_Round(self._reached))
        self._pause = FIRST_PAUSE_S
        self._list_at = max(now + self._pause, self._earliest)

    def not_submitted(self, now: float) -> None:
        """The batch system did not take them."""
        self._doing = None
        self._steps.clear()
        self._failed(now)

    def cancelled(self) -> None:
        """They are cancelled, or could not be: the next list tells."""
        assert isinstance(self._doing, Cancel)
        for each in self._rounds:
            each.jobs -= set(self._doing.jobs)
        self._rounds = [each for each in self._rounds if each.jobs]
        self._doing = None

    # ---- decisions

    def _judge(self, now: float, fresh: Set[str]) -> str:
        """Look what became of submissions: were they in vain?"""
        if self._rounds and not self._rounds[-1].listed:
            self._rounds[-1].listed = True
            self._rounds[-1].jobs = set(fresh)
        over = [each for each in self._rounds if not each.jobs & self._jobs]
        self._rounds = [each for each in self._rounds if each.jobs & self._jobs]
        if not any(each.reached_before == self._reached for each in over):
            return ""
        self._failed(now)
        return "all batch jobs of a submission have ended, and none of them has reached the server"

    def _failed(self, now: float) -> None:
        self._failures += 1
        self.given_up = self._failures >= MAX_FAILURES
        pause = min(FIRST_RETRY_S * 2 ** (self._failures - 1), LAST_RETRY_S)
        self._submit_at = now + pause
        self._list_at = max(self._submit_at, self._earliest)

    def _plan(self, now: float, queued: Collection[str], work: Work) -> list[Step]:
        wanted, size = self._wanted(work), self.size
        if size > 2 * wanted and work.left is not None:
            surplus = tuple(sorted(queued))[wanted - size :]
            return [Cancel(surplus)] if surplus else []
        missing = wanted - size
        if missing <= 0 or self.given_up or now < self._submit_at:
            return []
        return [
            Submit(min(self._together, missing - begun))
            for begun in range(0, missing, self._together)
        ]

    def _wanted(self, work: Work) -> int:
        """How many the work that is left is worth."""
        if work.left is None:
            return min(self.size, self._most) if work.idle else self._most
        workers = work.left
        if work.seconds is not None and workers:
            workers = min(workers, 1 + int(work.left * work.seconds / self._worth))
        return min(math.ceil(workers / work.workers), self._most)
