#!/usr/bin/env python3
"""An epidemic over a grid of parameters, as one CSV: a study that survives a restart.

What it shows: a generator gives one task for each point of a grid, nodes solve the model there, and
the server collects the rows and writes them when all are there. With a journal the server may be
killed at any time: started again, it goes on, and no point that was done is computed once more.

The model is SIR: of a population some are vaccinated, the others susceptible, infected or recovered:
    ds/dt = -contagion s i        di/dt = contagion s i - recovery i        (shares of all, days)

How to run it:

    python examples/parameter_sweep.py --local
    python examples/parameter_sweep.py --server --journal sweep.journal    the same line once more
    python examples/parameter_sweep.py --ip HOST --workers 8               after a crash or Ctrl-C

What to expect: sweep.csv with one line for each of 8,000 points (20 for each of three parameters):
how much of the population was infected at the peak, on which day that was, and how much in the end.
"""

import argparse
import csv
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from parasnake import Parasnake

STEPS_A_DAY = 10
DAYS = 3650
FIRST_CASES = 1e-4


class Point(NamedTuple):
    contagion: float
    recovery: float
    vaccinated: float


class Epidemic(NamedTuple):
    peak: float
    peak_day: float
    infected_in_all: float


app = Parasnake("parameter_sweep")
rows: dict[Point, Epidemic] = {}


@app.new_data
def grid() -> Iterator[Point]:
    n = app.args.points
    contagions = [0.1 + 0.9 * k / n for k in range(n)]
    recoveries = [0.05 + 0.25 * k / n for k in range(n)]
    vaccinated = [0.9 * k / n for k in range(n)]
    yield from (Point(*values) for values in product(contagions, recoveries, vaccinated))


@app.process
def solve(point: Point) -> Epidemic:
    """Take Runge-Kutta steps of fourth order until hardly anybody is infected any more."""
    h = 1 / STEPS_A_DAY
    start = 1 - point.vaccinated - FIRST_CASES
    s, i, step = start, FIRST_CASES, 0
    peak, peak_step = i, 0

    def slopes(s: float, i: float) -> tuple[float, float]:
        new_cases = point.contagion * s * i
        return -new_cases, new_cases - point.recovery * i

    while i > 1e-7 and step < DAYS * STEPS_A_DAY:
        s1, i1 = slopes(s, i)
        s2, i2 = slopes(s + h / 2 * s1, i + h / 2 * i1)
        s3, i3 = slopes(s + h / 2 * s2, i + h / 2 * i2)
        s4, i4 = slopes(s + h * s3, i + h * i3)
        s += h / 6 * (s1 + 2 * s2 + 2 * s3 + s4)
        i += h / 6 * (i1 + 2 * i2 + 2 * i3 + i4)
        step += 1
        if i > peak:
            peak, peak_step = i, step
    return Epidemic(peak, peak_step / STEPS_A_DAY, FIRST_CASES + start - s)


@app.result
def collect(result: Epidemic, data: Point) -> None:
    rows[data] = result


@app.finish
def save() -> None:
    with app.args.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Point._fields + Epidemic._fields)
        table.writerows(point + epidemic for point, epidemic in sorted(rows.items()))
    print(f"{len(rows)} epidemics are in {app.args.output}")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = options.add_argument
    option("--points", type=int, default=20, help="of the grid, for each of three parameters (20)")
    option("--output", type=Path, default="sweep.csv", help="the table (sweep.csv)")
    return options


if __name__ == "__main__":
    app.main(parser())
