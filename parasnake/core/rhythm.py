"""When it is time for the next checkpoint."""

from __future__ import annotations

LEAST_BYTES = 1 << 24
"""A journal with fewer bytes than this since its last checkpoint is not large."""
TIMES_LAST = 4
"""A journal is large when it has this many times the bytes of its last checkpoint behind that."""
REPLAY_S = 60.0
"""To replay for longer than this is long."""
REST = 100
"""Between two checkpoints there is at least this many times what the last one took."""


class Rhythm:
    """Says when a checkpoint is due: when a replay would read much or take long.

    Parameters
    ----------
    size: bytes of the last checkpoint, 0 if there is none
    worked: seconds that a replay of what came behind it takes
    """

    def __init__(self, size: int = 0, worked: float = 0.0) -> None:
        self._large = max(LEAST_BYTES, TIMES_LAST * size)
        self._worked = worked
        self._not_before = 0.0

    def worked(self, seconds: float) -> None:
        """Hooks took so long, and would again."""
        self._worked += seconds

    def due(self, size: int, now: float) -> bool:
        """Whether to make one now, with so many bytes since the last one."""
        much = size >= self._large or self._worked >= REPLAY_S
        return much and now >= self._not_before

    def made(self, size: int, begin: float, end: float) -> None:
        """One of this size was made in this time."""
        self._large = max(LEAST_BYTES, TIMES_LAST * size)
        self._worked = 0.0
        self._not_before = end + REST * (end - begin)
