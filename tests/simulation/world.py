"""The clock, the events to come, chance and the trace of one history."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from hashlib import blake2b

MAX_EVENTS = 200_000
"""No history needs so many: one that does goes round in circles."""


class Violation(BaseException):
    """A promise was broken. No ``Exception``: nothing between here and the verdict may catch it."""

    def __init__(self, promise: str, text: str) -> None:
        super().__init__(promise, text)
        self.promise = promise

    def __str__(self) -> str:
        return ": ".join(self.args)


class Trace:
    """What happened, line by line; kept as a digest, and as text if somebody wants to read it."""

    def __init__(self, keep: bool) -> None:
        self._digest = blake2b(digest_size=16)
        self.lines: list[str] | None = [] if keep else None

    def add(self, line: str) -> None:
        """Something happened."""
        self._digest.update(line.encode())
        self.remark(line)

    def remark(self, line: str) -> None:
        """Something for the reader, which is no part of the digest."""
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """The same for the same history."""
        return self._digest.hexdigest()


class World:
    """Time, and what will happen when.

    Parameters
    ----------
    seed: of all that is random
    keep: whether the trace shall be kept as text
    """

    def __init__(self, seed: int, *, keep: bool = False) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.trace = Trace(keep)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def tell(self, text: str) -> None:
        """Write a line of the trace."""
        self.trace.add(f"{self.now:10.4f}  {text}\n")

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Let this happen then."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let this happen so many seconds from now."""
        self.at(self.now + seconds, event)

    def step(self, until: float | None = None) -> bool:
        """Let the next event happen; or none, if there is none before ``until``, which it is then."""
        if not self._heap or (until is not None and self._heap[0][0] > until):
            if until is None:
                raise Violation("always a next step", "nothing is going to happen any more")
            self.now = max(self.now, until)
            return False
        self.events += 1
        if self.events > MAX_EVENTS:
            raise Violation("always a next step", f"more than {MAX_EVENTS} events")
        self.now, _, event = heapq.heappop(self._heap)
        event()
        return True

    def pass_time(self, seconds: float) -> None:
        """Let all happen that happens in so many seconds."""
        until = self.now + seconds
        while self.step(until):
            pass

    def chance(self, share: float) -> bool:
        """Return whether something happens that happens in this share of all cases."""
        return self.random.random() < share
