"""``python -m tests.simulation``: run as many histories as one likes."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing import get_context

from .history import Verdict, run
from .planted import BUGS, seeds_needed

PLANTED_SEEDS = 1000
"""A planted bug that so many seeds do not find is not found."""
LOOK_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status: 1 if a promise was broken."""
    options = parser().parse_args(arguments)
    if options.planted is not None:
        return _planted([options.planted] if options.planted else list(BUGS))
    if options.seed is not None:
        return _one(options.seed, trace=options.trace)
    return _many(range(options.first, options.first + options.seeds), options.jobs)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Runs whole jobs in a simulated world in which everything goes wrong, and says "
        "which promises were broken. A seed is a history: the same seed, the same history.",
    )
    made.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many histories")
    made.add_argument("--from", type=int, default=0, metavar="N", dest="first", help="first seed")
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time")
    made.add_argument("--seed", type=int, metavar="N", help="run this history only")
    made.add_argument("--trace", action="store_true", help="with --seed: print what happens")
    made.add_argument(
        "--planted",
        nargs="?",
        const="",
        metavar="NAME",
        help="plant bugs, one after another (or this one), and say how many seeds it takes to find it",
    )
    return made


def _one(seed: int, *, trace: bool) -> int:
    verdict = run(seed, keep=trace)
    if verdict.lines is not None:
        sys.stdout.writelines(verdict.lines)
    print(_described(verdict))
    return 0 if verdict.violation is None else 1


def _described(verdict: Verdict) -> str:
    what = verdict.violation or "no violation"
    return (
        f"seed {verdict.seed}: {what} ({verdict.events} events, {verdict.servers} servers, "
        f"digest {verdict.digest})"
    )


def _many(seeds: range, jobs: int) -> int:
    begin = looked = time.monotonic()
    events = servers = bad = done = 0
    counts: Counter[str] = Counter()
    for verdict in _verdicts(seeds, jobs):
        done += 1
        events += verdict.events
        servers += verdict.servers
        counts += verdict.counts
        if verdict.violation is not None:
            bad += 1
            print(_described(verdict))
            print(f"    to see it: python -m tests.simulation --seed {verdict.seed} --trace")
        if time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            print(f"... {done} of {len(seeds)} histories, {looked - begin:.0f} s", flush=True)
    print(
        f"{done} histories from seed {seeds.start}, {events} events, {servers} servers, "
        f"{time.monotonic() - begin:.0f} s: {bad} violations"
    )
    print("    " + ", ".join(f"{what}: {count}" for what, count in sorted(counts.items())))
    return 1 if bad else 0


def _verdicts(seeds: Iterable[int], jobs: int) -> Iterator[Verdict]:
    if jobs == 1:
        yield from map(run, seeds)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=20)


def _planted(names: list[str]) -> int:
    missed = 0
    for name in names:
        found = seeds_needed(name, PLANTED_SEEDS)
        if found is None:
            missed += 1
            print(f"{name}: NOT FOUND by {PLANTED_SEEDS} seeds", flush=True)
        else:
            print(f"{name}: seed {found[0]}, by '{found[1]}'", flush=True)
    return 1 if missed else 0
