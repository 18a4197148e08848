"""What all peers have in common: a job in phases."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any

WORKERS = 2

Phase = Iterable[Any]
"""Data of tasks."""


class Peer(ABC):
    """One way to have a function called in other processes.

    ``imports`` is the line that a user's script has for it.
    """

    imports: str

    @abstractmethod
    def run(
        self, function: Callable[[Any], Any], phases: Iterable[Phase], take: Callable[[Any], None]
    ) -> None:
        """Run a whole job, from the start of its workers to their end.

        Parameters
        ----------
        function: computes a task, in one of ``WORKERS`` processes
        phases: the next one is asked for when all results of the one before were taken
        take: is called with each result of a phase, in any order
        """

    def launcher(self) -> Sequence[str]:
        """The command that runs a script, up to the script's name."""
        return [sys.executable]


class ExecutorPeer(Peer):
    """Whatever has the interface of ``concurrent.futures``."""

    @abstractmethod
    def executor(self) -> AbstractContextManager[Executor]:
        """Start it."""

    def run(
        self, function: Callable[[Any], Any], phases: Iterable[Phase], take: Callable[[Any], None]
    ) -> None:
        """Submit each phase task by task and take the results in order, as its ``map`` does."""
        with self.executor() as executor:
            for phase in phases:
                futures = deque(executor.submit(function, data) for data in phase)
                while futures:
                    take(futures.popleft().result())
