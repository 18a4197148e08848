"""Keeps the log readable when very many agents do the same thing at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

FULL_LINES = 5
"""So many lines of a kind in ``SPAN_S`` seconds are written in full ..."""
SPAN_S = 1.0
"""... and after these the rest is told in one line."""
REASONS = 3
"""So many different reasons stand in such a line, the commonest first."""


@dataclass(slots=True)
class _Kind:
    """What was told of one kind in the current span."""

    full: int = 0
    level: int = logging.DEBUG
    reasons: Counter[str] = field(default_factory=Counter)
    tasks: int = 0


class Crowd:
    """Lets the first lines of a kind through, and counts the others for one line a second.

    Parameters
    ----------
    later: calls something after so many seconds, as ``Loop.call_in`` does
    tell: writes a line: its level, its kind, how many there were more, and how it ends
    """

    def __init__(
        self,
        later: Callable[[float, Callable[[], None]], object],
        tell: Callable[[int, str, int, str], None],
    ) -> None:
        self._later = later
        self._tell = tell
        self._kinds: dict[str, _Kind] = {}

    def level(self, kind: str, level: int, reason: str = "", tasks: int = 0) -> int:
        """Return the level for a line of this kind: its own, or DEBUG if it is one of too many."""
        if not self._kinds:
            self._later(SPAN_S, self.flush)
        seen = self._kinds.setdefault(kind, _Kind())
        if seen.full < FULL_LINES:
            seen.full += 1
            return level
        seen.level = max(seen.level, level)
        seen.reasons[reason] += 1
        seen.tasks += tasks
        return logging.DEBUG

    def flush(self) -> None:
        """Tell what was only counted; whatever comes next is told in full again."""
        kinds, self._kinds = self._kinds, {}
        for kind, seen in kinds.items():
            if count := seen.reasons.total():
                self._tell(seen.level, kind, count, _ending(seen, count))


def _ending(seen: _Kind, count: int) -> str:
    reasons = seen.reasons.most_common(REASONS)
    parts = [reason if n == count else f"{reason} ({n})" for reason, n in reasons if reason]
    if len(seen.reasons) > REASONS:
        parts.append("...")
    text = f": {', '.join(parts)}" if parts else ""
    if seen.tasks:
        text += f"; {seen.tasks} of their tasks will run elsewhere"
    return text
