"""The Mandelbrot set of the examples, of which nothing is computed until there is a file called go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))

import mandelbrot  # type: ignore[import-not-found]  # of the examples

steps: Callable[[int, int, int], int] = mandelbrot.steps


def gated(row: int, column: int, size: int) -> int:
    """As the example, but not before the gate opens."""
    while not Path("go").exists():
        time.sleep(0.01)
    return steps(row, column, size)


mandelbrot.steps = gated

if __name__ == "__main__":
    mandelbrot.app.main(mandelbrot.parser())
