"""Agents on which everything goes wrong, so that they get nothing for a while."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .ids import PeerId, TaskId

MAX_FAILED_TASKS = 5
"""An agent is set aside when so many different tasks in a row went wrong there and nowhere else."""
FIRST_REST_S, LAST_REST_S = 10.0, 600.0
"""For how long: from the one to the other, doubled each time."""

T = TypeVar("T")


@dataclass(slots=True)
class _Record(Generic[T]):
    """What an agent did since its last result."""

    results_before: int = 0
    """How many results there were of all agents when it began to go wrong."""
    failed: dict[TaskId, list[T]] = field(default_factory=dict)
    rest: float = FIRST_REST_S


class Suspects(Generic[T]):
    """Who has failed what since when, and who is set aside.

    Parameters
    ----------
    max_failed: see ``MAX_FAILED_TASKS``
    """

    def __init__(self, max_failed: int = MAX_FAILED_TASKS) -> None:
        self._max_failed = max_failed
        self._records: dict[PeerId, _Record[T]] = {}
        self.aside: dict[PeerId, float] = {}
        """Those who are set aside, and when they come back; not to be changed."""

    @property
    def exist(self) -> bool:
        """Whether anything went wrong on an agent since its last result, or one is set aside."""
        return bool(self._records or self.aside)

    @property
    def deadline(self) -> float | None:
        """When the next one that is set aside comes back."""
        return min(self.aside.values(), default=None)

    def succeeded(self, peer: PeerId) -> None:
        """A result of this agent has come."""
        self._records.pop(peer, None)

    def failed(self, peer: PeerId, task_id: TaskId, task: T, results: int, now: float) -> list[T]:
        """A task went wrong there, when there were so many results of all agents.

        If it is set aside for that, returns the tasks of its failures in a row, one for each failure.
        """
        record = self._records.setdefault(peer, _Record())
        if not record.failed:
            record.results_before = results
        record.failed.setdefault(task_id, []).append(task)
        if len(record.failed) < self._max_failed or results == record.results_before:
            return []
        self.aside[peer] = now + record.rest
        record.rest = min(2 * record.rest, LAST_REST_S)
        charged = [task for tasks in record.failed.values() for task in tasks]
        record.failed.clear()
        return charged

    def gone(self, peer: PeerId) -> None:
        """All nodes of this agent are gone."""
        self._records.pop(peer, None)
        self.aside.pop(peer, None)

    def tick(self, now: float) -> None:
        """Time has passed."""
        for peer in [peer for peer, time in self.aside.items() if now >= time]:
            del self.aside[peer]

    def pardon(self) -> None:
        """Nobody else is left: those who are set aside may try again."""
        self.aside.clear()
