"""Four workers draw a random number each, from both global generators; all come to the server."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from parasnake import Parasnake

app = Parasnake("draws")
random.seed(1)
np.random.seed(1)
drawn: list[tuple[int, float, float]] = []


@app.new_data
def tickets() -> Iterator[int]:
    yield from range(4)


@app.process
def draw(n: int) -> tuple[int, float, float]:
    Path(f"{os.getpid()}.drew").touch()
    while len(list(Path().glob("*.drew"))) < 4:
        time.sleep(0.005)
    return os.getpid(), random.random(), np.random.random()


@app.result
def merge(result: tuple[int, float, float]) -> None:
    drawn.append(result)


@app.finish
def report() -> None:
    print(*(len(set(column)) for column in zip(*drawn, strict=True)))


if __name__ == "__main__":
    app.main()
