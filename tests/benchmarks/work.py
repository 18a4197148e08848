"""What the workers of a benchmark do. Every peer's workers can import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

ROWS, LIMIT = 512, 100
BUSY_SECONDS = 0.005


def echo(data: Any) -> Any:
    """Give it back: an int each way, or an array."""
    return data


def row(number: int) -> bytes:
    """Compute a row of the Mandelbrot set in plain Python, as ``examples/mandelbrot.py`` does."""
    return bytes(255 - 255 * _steps(number, column) // LIMIT for column in range(ROWS))


def _steps(number: int, column: int) -> int:
    c = complex(-2.1 + 2.8 * column / ROWS, -1.4 + 2.8 * number / ROWS)
    z = 0j
    for n in range(LIMIT):
        if abs(z) > 2:
            return n
        z = z * z + c
    return LIMIT


def be_killed_once(mark: str) -> float:
    """Take some milliseconds; with a mark, kill this worker unless another was killed there before.

    Returns when it went on after that, or 0.
    """
    if not mark:
        until = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < until:
            pass
        return 0.0
    path = Path(mark)
    if path.exists():
        return time.monotonic()
    path.write_text(repr(time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive after SIGKILL")
