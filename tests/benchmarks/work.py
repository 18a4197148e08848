"""What the workers of a benchmark do. Every peer's workers can import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

ROWS, LIMIT = 512, 100
BUSY_SECONDS = 0.005
KILLED = "killed"
"""The name of the file that tells of a killed worker, in the folder where the measurement runs."""


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


def be_killed_once(mark: str) -> None:
    """Take some milliseconds; with a mark, a file, kill this worker unless another was killed there.

    The file has a line with the time for each worker that was given this mark.
    """
    if not mark:
        until = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < until:
            pass
        return
    path = Path(mark)
    first = not path.exists()
    with path.open("a") as file:
        print(time.monotonic(), file=file)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
