"""What chaos shall do and when, drawn from a seed: no process is needed to say it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

FIRST_PAUSE_S = 0.1
"""The first strike comes within this after the first node."""
MEAN_PAUSE_S, LEAST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 0.05, 2.0
"""Pauses between two strikes while results come; without results they grow, see ``Chaos``."""
SHORT_STOP_S = (0.05, 1.0)
LONG_STOP = (1.2, 1.5)
"""In heartbeat timeouts: an agent that is stopped for so long counts as lost."""
REPLACEMENT_S = (0.05, 1.0)
WORKERS_OF_AGENTS = (1, 2)
"""Agents have so many workers, in turn."""


class Kind(Enum):
    """What a strike does."""

    KILL_WORKER = "killed worker"
    STOP_WORKER = "stopped worker"
    KILL_AGENT = "killed agent"
    STOP_AGENT = "stopped agent"
    CUT_AGENT = "cut off agent"


WEIGHTS = {
    Kind.KILL_WORKER: 30,
    Kind.STOP_WORKER: 20,
    Kind.KILL_AGENT: 15,
    Kind.STOP_AGENT: 15,
    Kind.CUT_AGENT: 20,
}
LONG_SHARE = 0.4
"""Of the stops of agents this share is long."""


class Strike(NamedTuple):
    """One thing to do to somebody."""

    pause: float
    """Seconds after the strike before; after the first node for the first one."""
    kind: Kind
    seconds: float
    """For how long somebody is stopped, or after how long a killed agent is replaced; else 0."""
    pick: float
    """Whom it hits: where in the list of all whom it could hit, from 0 to below 1."""


def strikes(seed: int, heartbeat_timeout: float) -> Iterator[Strike]:
    """Draw the strikes of this seed, without end; the same for the same arguments.

    Parameters
    ----------
    seed: any int
    heartbeat_timeout: in seconds; some stops are longer
    """
    draw = random.Random(f"chaos {seed}")  # an int alone would make no difference of its sign
    for number in itertools.count():
        pause = draw.uniform(0.0, FIRST_PAUSE_S)
        if number:
            pause = draw.expovariate(1 / MEAN_PAUSE_S)
            pause = min(max(pause, LEAST_PAUSE_S), LONGEST_PAUSE_S)
        (kind,) = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
        yield Strike(pause, kind, _duration(draw, kind, heartbeat_timeout), draw.random())


def _duration(draw: random.Random, kind: Kind, heartbeat_timeout: float) -> float:
    match kind:
        case Kind.STOP_AGENT if draw.random() < LONG_SHARE:
            return heartbeat_timeout * draw.uniform(*LONG_STOP)
        case Kind.STOP_AGENT | Kind.STOP_WORKER:
            return draw.uniform(*SHORT_STOP_S)
        case Kind.KILL_AGENT:
            return draw.uniform(*REPLACEMENT_S)
        case _:
            return 0.0


class Pace:
    """Makes the pauses longer as long as strikes let no result through, and shorter again after."""

    def __init__(self) -> None:
        self._factor = 1.0
        self._done = 0

    def next_pause(self, pause: float, done: int) -> float:
        """Stretch a pause that begins now.

        Parameters
        ----------
        pause: as drawn
        done: how many tasks have ended so far
        """
        self._factor = max(1.0, self._factor / 2) if done > self._done else 2 * self._factor
        self._done = done
        return pause * self._factor


def sizes_of_agents(workers: int) -> list[int]:
    """Say how many workers each agent has so that it is so many in sum."""
    sizes: list[int] = []
    for size in itertools.cycle(WORKERS_OF_AGENTS):
        if not workers:
            return sizes
        sizes.append(min(size, workers))
        workers -= sizes[-1]
    raise AssertionError("a cycle has no end")
