"""How fast one direction of a connection is, and whether compressing what goes over it would pay."""

from __future__ import annotations

from collections.abc import Iterable

FAST = 1e12
"""Bytes per second: the speed of a link that has not been seen to hold anything up."""
TOO_FAST_BYTES_PER_S = 5e8
"""From here on compression can hardly pay; a link that is measured as this fast is ``FAST``."""
ENOUGH_BYTES, ENOUGH_SECONDS = 1 << 20, 1.0
"""So much must have waited for a link, or for so long, before its speed is believed."""
FADING_BYTES, FADING_SECONDS = 1 << 25, 4.0
"""What was measured counts half once so much has been measured in all, or for so long."""
NEWS_FACTOR = 1.5
"""A speed that differs by less than this factor from the last one is none worth telling."""
SMALLEST_SAVING = 1 / 8
"""What becomes smaller by less than this share is sent as it is: random numbers are like that."""
EFFORT = 3.0
"""What the time that a sample took is multiplied by: half for compressing, half for the other side,
which needs about as long, and as much again, so that there is a gain and not just no loss."""


class LinkSpeed:
    """One direction of a connection, measured by whoever sends, or receives, over it.

    Bytes count only while it is the link that is waited for: between two moments at which the
    socket would take no more (sending), or had no more in the middle of a record (receiving). All
    times are on a clock that stands still while the process does anything but wait: what it does
    itself, such as a slow hook, is no fault of the link.

    Attributes
    ----------
    bytes_per_second: how fast it is; ``FAST`` if that is unknown, or fast enough for anything
    is_waited_for: whether it is waited for just now; if not, ``moved`` need not be called
    """

    __slots__ = ("_bytes", "_moved", "_seconds", "_since", "bytes_per_second", "is_waited_for")

    def __init__(self) -> None:
        self.bytes_per_second = FAST
        self._bytes = 0.0
        self._seconds = 0.0
        self.is_waited_for = False
        self._since = 0.0
        self._moved = 0

    def moved(self, count: int) -> None:
        """So many bytes have gone over it."""
        self._moved += count

    def waits(self, now: float) -> bool:
        """The link is what is waited for from now on; true if ``bytes_per_second`` is another."""
        since, moved, was_waited_for = self._since, self._moved, self.is_waited_for
        self._since, self._moved, self.is_waited_for = now, 0, True
        if not was_waited_for:
            return False
        self._bytes += moved
        self._seconds += now - since
        return self._measured()

    def rests(self) -> None:
        """Nothing waits for it any more."""
        self.is_waited_for = False

    def _measured(self) -> bool:
        count, seconds = self._bytes, self._seconds
        if count < ENOUGH_BYTES and seconds < ENOUGH_SECONDS:
            return False
        if count > FADING_BYTES or seconds > FADING_SECONDS:
            self._bytes, self._seconds = count / 2, seconds / 2
        speed, before = count / seconds if seconds else FAST, self.bytes_per_second
        if speed >= TOO_FAST_BYTES_PER_S:
            speed = FAST
        if before / NEWS_FACTOR < speed < before * NEWS_FACTOR:
            return False
        self.bytes_per_second = speed
        return speed != before


def together(link: LinkSpeed, links: Iterable[LinkSpeed]) -> float:
    """Return the speed of a link that counts where one side has many: that of all slow ones.

    For it is one thread there that compresses for them all, or expands what they bring. A link that
    is fast stays so.
    """
    if link.bytes_per_second == FAST:
        return FAST
    return sum(each.bytes_per_second for each in links if each.bytes_per_second < FAST)


def pays(bytes_per_second: float, *, before: int, after: int, seconds: float) -> bool:
    """Whether data is at the other end of a link sooner if it is compressed.

    Parameters
    ----------
    bytes_per_second: how fast the link is; 0 asks whether it becomes smaller at all
    before: the size of a sample of the data, in bytes
    after: the same, compressed
    seconds: how long that took
    """
    saved = before - after
    return saved >= SMALLEST_SAVING * before and saved > EFFORT * seconds * bytes_per_second
