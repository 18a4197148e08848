"""Memory for large payloads."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

LARGE_BYTES = 1 << 17
"""What is smaller is left to the heap."""
HUGE_PAGE_BYTES = 1 << 21
KEEP_BYTES = 1 << 28
"""So much that is free may be kept, to be used again."""
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
        self._pieces: list[Piece] = []

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
        if len(self._pieces) < MAX_WATCHED:
            self._pieces.append(found)
        return view

    def _used_again(self, size: int) -> Piece | None:
        """Take out a piece that nobody uses, and let go of others if they are too many."""
        kept = 0
        for _ in range(len(self._pieces)):
            with suppress(IndexError):  # another thread may have taken it
                piece = self._pieces.pop(0)
                if sys.getrefcount(piece) > _ALONE:
                    self._pieces.append(piece)
                elif size <= len(piece) <= 2 * size:
                    return piece
                elif (kept := kept + len(piece)) <= KEEP_BYTES:
                    self._pieces.append(piece)
        return None


def untouched(size: int) -> Piece:
    """Return memory that costs nothing before it is written to, where the system can do that."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return bytearray(size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _fresh(size: int) -> Piece:
    if size < HUGE_PAGE_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return bytearray(size)
    whole_pages = -(-size // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    piece = mmap.mmap(-1, whole_pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            piece.madvise(mmap.MADV_HUGEPAGE)
    return piece


def _references_of_nobody() -> int:
    """Return what ``getrefcount`` tells of an object that only a local variable refers to."""
    piece = bytearray()
    return sys.getrefcount(piece)


_ALONE = _references_of_nobody()
allocate = Memory().allocate
