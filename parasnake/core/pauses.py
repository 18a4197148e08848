"""Pauses between tries, so that many who wait for the same thing do not all come at once."""

from __future__ import annotations

SHORTEST_SHARE = 0.5
"""A pause is a random share of its longest length, between this and 1."""


class Pauses:
    """Pauses that double from ``first`` to ``last`` seconds, each shortened at random."""

    def __init__(self, first: float, last: float) -> None:
        self._first = first
        self._last = last
        self.longest = first
        """What the next pause will last at the most."""

    def next(self, chance: float) -> float:
        """Return the length of the next pause; ``chance`` is a random number from 0 to 1."""
        pause = self.longest * (SHORTEST_SHARE + (1 - SHORTEST_SHARE) * chance)
        self.longest = min(2 * self.longest, self._last)
        return pause

    def start_over(self) -> None:
        """Begin with the first one again."""
        self.longest = self._first
