"""Memory for large payloads."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

LARGE_BYTES = 1 << 17
"""What is smaller is left to the heap."""
MAPPED_BYTES = 1 << 21
"""From this size on memory comes from the system, and goes back to it at once."""
STEP_BYTES, SPARE_BYTES = 1 << 16, 1 << 12
"""Pieces are of whole multiples of the first, with the second to spare: one that was made for a copy
of an array fits it with a head, too, and one for data fits a result that is a bit longer."""
KEEP_BYTES, KEEP_MORE_BYTES = 1 << 28, 1 << 30
"""So much that is free may be kept, to be used again; more, as long as it is used now and then."""
SELDOM = 16
"""A piece is used seldom if so many times its size was given out since it was."""
MAX_WATCHED = 64
"""No more pieces of memory than these are looked through for one that is free."""

Piece = bytearray | mmap.mmap


class Memory:
    """Where large payloads lie: memory that is used again when nobody refers to it any more.

    Writing to fresh memory costs more than what is written, above all where pages are small or a
    virtual machine must ask its host for them: 0.7 to 6 GB/s were measured, and 10 to 20 GB/s for
    memory that was used before.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[Piece, int]] = []
        self._given_bytes = 0

    def allocate(self, size: int) -> memoryview:
        """Return memory of that many bytes, which must be filled before it is read.

        Raises
        ------
        MemoryError: there is not so much
        """
        try:
            if size < LARGE_BYTES:
                return memoryview(bytearray(size))
            found = self._used_again(size)
            if found is None:
                found = _fresh(size)
            view = memoryview(found)[:size]
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(f"no memory for {size} bytes") from error
        self._given_bytes += size
        if len(self._pieces) < MAX_WATCHED:
            self._pieces.append((found, self._given_bytes))
        return view

    def _used_again(self, size: int) -> Piece | None:
        """Take out a piece that nobody uses, and let go of others if they are too many."""
        kept = 0
        for _ in range(len(self._pieces)):
            with suppress(IndexError):  # another thread may have taken it
                piece, given_bytes = self._pieces.pop(0)
                if sys.getrefcount(piece) > _ALONE:
                    self._pieces.append((piece, given_bytes))
                    continue
                if size <= len(piece) <= 2 * size:
                    return piece
                kept += len(piece)
                seldom = self._given_bytes - given_bytes > SELDOM * len(piece)
                if kept <= (KEEP_BYTES if seldom else KEEP_MORE_BYTES):
                    self._pieces.append((piece, given_bytes))
        return None


def untouched(size: int) -> Piece:
    """Return memory that costs nothing before it is written to, where the system can do that."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _fresh(size: int) -> Piece:
    """Return a new piece.

    Whether it has huge pages is up to the system: they are filled three times as fast as small ones on
    a machine of its own, but at a sixth of the speed on a virtual one whose host takes free ones back.
    """
    length = -(-(size + SPARE_BYTES) // STEP_BYTES) * STEP_BYTES
    return bytearray(length) if length < MAPPED_BYTES else untouched(length)


def _references_of_nobody() -> int:
    """Return what ``getrefcount`` tells of an object that only a local variable refers to."""
    piece = bytearray()
    return sys.getrefcount(piece)


_ALONE = _references_of_nobody()
allocate = Memory().allocate
