#!/usr/bin/env python3
"""The lowest point of a function by an evolutionary search, in which nobody waits for anybody.

What it shows: new data that depends on the results so far. Many candidates are out at any time (as
many as --population says), and when the result of one is merged, a new one is made from the best
that are known by then: no generations, at the end of which all would wait for the slowest. Because
results are merged in order, candidate n depends on the results up to n - population and on nothing
else: the search is the same to the last digit on one node and on fifty, and goes on with a journal.

How to run it:

    python examples/optimize.py --local
    python examples/optimize.py --local --function rosenbrock --dimensions 8 --seed 7
    python examples/optimize.py --server               or the server here, and on other machines,
    python examples/optimize.py --ip HOST              as often as you like, a node

What to expect: after some seconds the lowest value found, near 0, and where it is; all coordinates are
near 0 (rosenbrock: 1). optimize.csv says how the search came there: evaluations, lowest value so far.
In earnest there is a simulation of a minute in the place of these functions.
"""

import argparse
import csv
import math
import random
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from parasnake import Parasnake

LIMIT = 5.0
Candidate = tuple[float, ...]


def sphere(x: Sequence[float]) -> float:
    return sum(v * v for v in x)


def rosenbrock(x: Sequence[float]) -> float:
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(x))


def rastrigin(x: Sequence[float]) -> float:
    return sum(v * v + 10 - 10 * math.cos(2 * math.pi * v) for v in x)


FUNCTIONS = {function.__name__: function for function in (sphere, rosenbrock, rastrigin)}

app = Parasnake("optimize")
to_do: deque[tuple[int, Candidate]] = deque()  # each with the place that it competes for
population: list[tuple[float, Candidate]] = []
convergence: list[tuple[int, float]] = []
merged = 0
rng = random.Random()


@app.init_data
def function_name() -> str:
    return str(app.args.function)


@app.new_data
def next_candidate() -> tuple[int, Candidate] | None:
    if not population:
        rng.seed(app.args.seed)
        for place in range(app.args.population):
            anywhere = tuple(rng.uniform(-LIMIT, LIMIT) for _ in range(app.args.dimensions))
            to_do.append((place, anywhere))
            population.append((math.inf, anywhere))
    return to_do.popleft() if to_do else None


@app.process
def evaluate(data: tuple[int, Candidate], init_data: str) -> float:
    return FUNCTIONS[init_data](data[1])


@app.result(ordered=True)
def select(result: float, data: tuple[int, Candidate]) -> None:
    """Let the better one have the place, and send out another that competes for it."""
    global merged
    merged += 1
    place, candidate = data
    if result < population[place][0]:
        population[place] = result, candidate
    if not convergence or result < convergence[-1][1]:
        convergence.append((merged, result))
    if merged + app.args.population <= app.args.evaluations:
        to_do.append((place, offspring(place)))


def offspring(place: int) -> Candidate:
    """Differential evolution, "current to best", with fresh weights each time."""
    here, best = population[place][1], min(population)[1]
    one, other = (each for _, each in rng.sample(population, 2))
    weight, crossover = rng.uniform(0.4, 0.9), rng.choice((0.1, 0.9))
    kept = rng.randrange(len(here))
    child = list(here)
    for k in range(len(here)):
        if k == kept or rng.random() < crossover:
            child[k] += weight * (best[k] - here[k]) + weight * (one[k] - other[k])
            child[k] = min(max(child[k], -LIMIT), LIMIT)
    return tuple(child)


@app.job_done
def enough() -> bool:
    return bool(merged >= app.args.evaluations)


@app.finish
def report() -> None:
    value, where = min(population)
    with app.args.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerows([("evaluations", "lowest"), *convergence])
    print(f"lowest value {value:.3g} at {', '.join(f'{x:.4f}' for x in where)}")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = options.add_argument
    option("--function", choices=FUNCTIONS, default="rastrigin", help="which one (rastrigin)")
    option("--dimensions", type=int, default=6, help="of its argument (6)")
    option("--population", type=int, default=60, help="candidates at any time (60)")
    option("--evaluations", type=int, default=40_000, help="when it is enough (40000)")
    option("--seed", type=int, default=1, help="another one is another search (1)")
    option("--output", type=Path, default="optimize.csv", help="convergence (optimize.csv)")
    return options


if __name__ == "__main__":
    app.main(parser())
