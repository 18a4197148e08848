"""What a measurement is, and what it gives."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

from peers.base import Peer

MB = 1_000_000
ARRAY_MB = (1, 16, 128)
TASK_POWERS = (3, 4, 5, 6)
PAYLOADS = {10: "10 B", 10**3: "1 kB", 10**5: "100 kB", 10**7: "10 MB", 10**8: "100 MB"}
NODE_COUNTS = (1, 10, 100, 1000)

Values = dict[str, float]
"""Figures by key."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do. ``seconds``: about so long for one figure; ``scale``: factor of all sizes."""

    seconds: float
    scale: float = 1.0

    def count(self, number: int) -> int:
        """A number of tasks, nodes or bytes, scaled."""
        return max(1, round(number * self.scale))


class Found(NamedTuple):
    """What a measurement gives: its figures, and when the last result came, by ``time.monotonic``."""

    values: Values
    last: float = 0.0


Measure = Callable[[Peer, Effort], Found]


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of a table.

    ``heading`` says what it is, with its unit; ``digits`` are those after the point, ``more_is_better``
    how to read the ratio; None: it says nothing.
    """

    key: str
    heading: str
    digits: int = 0
    more_is_better: bool | None = False


GONE = "gone"
"""This figure is measured from outside: the time from the last result to the end of all processes."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something that is measured in a fresh process, and the figures that come of it.

    Attributes
    ----------
    where: the module of the function that does it, and its name
    figures: the rows that it fills
    table: the title of the table that these are in
    only_ours: it is a question that only Parasnake can be asked
    quick: whether ``--quick`` has it
    essential: whether ``--quick`` has it also for peers that take long to start
    launched: whether it needs the peer's own launcher
    """

    where: str
    figures: tuple[Figure, ...]
    table: str
    only_ours: bool = False
    quick: bool = True
    essential: bool = False
    launched: bool = True

    def load(self) -> Measure:
        """Import the function: only the process that measures needs what this brings along."""
        module, name = self.where.split(":")
        return cast(Measure, getattr(importlib.import_module(module), name))
