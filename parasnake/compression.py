"""Zstandard: whether data should be compressed, and bytes to frames and back.

This is the only file that imports zstd: that of the standard library from Python 3.14 on, else its
backport.
"""

from __future__ import annotations

import functools
import mmap
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .core.linkspeed import TOO_FAST_BYTES_PER_S, pays
from .core.messages import Buffer
from .errors import PayloadError

if TYPE_CHECKING:
    from types import ModuleType

SMALLEST_BYTES = 1 << 16
"""What is smaller is never compressed."""
SAMPLE_PIECES, SAMPLE_PIECE_BYTES = 4, 1 << 13
"""Compressing so many pieces, from all over the data, tells what would become of the whole."""
LEVEL = 1
"""The fastest. Level 3 makes tables of numbers smaller by a tenth and takes half as long again."""
MAX_WINDOW_LOG = 23
"""A frame may make its reader look back by 2 to the power of this many bytes, which it must keep."""
MAX_RATIO = 1 << 15
"""No frame becomes larger than this when it is expanded: a block of 128 KiB takes 4 bytes at least."""
STEP_BYTES = 1 << 18
"""Frames are read, and what is in them written, in steps of this many bytes."""


@functools.cache
def _zstd() -> ModuleType:
    """Import it when it is needed first: most jobs never do."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def is_available() -> bool:
    """Whether this Python has zstd: one that was built without it may lack it."""
    try:
        _zstd()
    except ImportError:
        return False
    return True


def is_worth_it(parts: Sequence[Buffer], size: int, bytes_per_second: float) -> bool:
    """Whether to compress these ``size`` bytes before they go over a link of this speed.

    Decided by a sample of the data, which takes some 50 microseconds; on a fast link, or for a little
    data, without one. ``bytes_per_second`` is that of the link, 0 to ask only whether it would
    become smaller.
    """
    if size < SMALLEST_BYTES or bytes_per_second >= TOO_FAST_BYTES_PER_S or not is_available():
        return False
    sample = _sample(parts, size)
    begin = time.perf_counter()
    after = len(_zstd().compress(sample, level=LEVEL))
    seconds = time.perf_counter() - begin
    return pays(bytes_per_second, before=len(sample), after=after, seconds=seconds)


def _sample(parts: Sequence[Buffer], size: int) -> bytes:
    """Pieces at even distances, the first and the last bytes among them."""
    starts = [
        index * (size - SAMPLE_PIECE_BYTES) // (SAMPLE_PIECES - 1) for index in range(SAMPLE_PIECES)
    ]
    found = []
    offset = 0
    for part in parts:
        for start in starts:
            first, end = start - offset, start - offset + SAMPLE_PIECE_BYTES
            if end > 0 and first < len(part):
                found.append(memoryview(part)[max(first, 0) : end])
        offset += len(part)
    return b"".join(found)


def compress(parts: Sequence[Buffer], size: int) -> list[bytes]:
    """Return one frame, in pieces, of what these parts are together, which is ``size`` bytes."""
    zstd = _zstd()
    compressor = zstd.ZstdCompressor(level=LEVEL)
    compressor.set_pledged_input_size(size)
    pieces = [compressor.compress(part) for part in parts]
    pieces.append(compressor.flush())
    return [piece for piece in pieces if piece]


def expand(frame: memoryview, size: int) -> memoryview:
    """Return what is in a frame, which must be ``size`` bytes, in memory of its own, to be written to.

    Whatever the frame is, it costs no more memory than that, and some MB while this runs.

    Raises
    ------
    PayloadError: it is damaged, or something else; or this Python has no zstd
    """
    if not is_available():
        raise PayloadError(
            "the payload is compressed, and this Python was built without compression.zstd; "
            "start the server with --compression off, or use another Python here"
        )
    try:
        return _expand(frame, size)
    except _zstd().ZstdError as error:
        raise PayloadError(f"damaged payload: {error}") from error


def _expand(frame: memoryview, size: int) -> memoryview:
    zstd = _zstd()
    if size > MAX_RATIO * len(frame) or zstd.get_frame_info(frame).decompressed_size != size:
        raise PayloadError("damaged payload: it claims another size than its compressed part")
    limit = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    decompressor = zstd.ZstdDecompressor(options=limit)
    room, position = _allocate(size), 0
    for start in range(0, len(frame), STEP_BYTES):
        if decompressor.eof:
            raise PayloadError("damaged payload: something follows its compressed part")
        position = _fill(room, position, decompressor, frame[start : start + STEP_BYTES])
    if position != size or not decompressor.eof or decompressor.unused_data:
        raise PayloadError("damaged payload: its compressed part is incomplete, or too long")
    return room


def _fill(room: memoryview, position: int, decompressor: Any, piece: memoryview | bytes) -> int:
    """Expand a piece of a frame into ``room``; returns where the next will go."""
    while True:
        content = decompressor.decompress(piece, max_length=STEP_BYTES)
        end = position + len(content)
        if end > len(room):
            raise PayloadError("damaged payload: its compressed part is too long")
        room[position:end] = content
        position, piece = end, b""
        if decompressor.eof or decompressor.needs_input:
            return position


def _allocate(size: int) -> memoryview:
    """Return memory that costs nothing before it is written to, where the system can."""
    try:
        if hasattr(mmap, "MAP_ANONYMOUS") and size:
            return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        return memoryview(bytearray(size))
    except (MemoryError, OSError, OverflowError, ValueError) as error:
        raise PayloadError(f"a compressed payload of {size} bytes: no memory for it") from error
