#!/usr/bin/env python3
"""Pi by throwing darts: the smallest useful script.

What it shows: all that a job needs, in a dozen lines. Each task gets a seed of its own, so the
answer is the same however many nodes there are and whatever becomes of them.

How to run it:

    python examples/pi.py --local                      everything here, with every core

What to expect: a few seconds, and then one line: pi is about 3.14 and some more digits.
"""

import random
from collections.abc import Iterator

from parasnake import Parasnake

TASKS = 100
DARTS = 100_000

app = Parasnake("pi")
hits = 0


@app.new_data(total=TASKS)
def darts() -> Iterator[int]:
    for _ in range(TASKS):
        yield DARTS


@app.process
def throw(data: int, seed: int) -> int:
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(data))


@app.result
def add(result: int) -> None:
    global hits
    hits += result


@app.finish
def report() -> None:
    print(f"pi is about {4 * hits / (TASKS * DARTS)}")


if __name__ == "__main__":
    app.main()
