"""Parasnake beside what else one could use: the same jobs, in turn, on this machine.

usage: python tests/benchmarks/compare.py [--quick] [--json FILE] [--peers ...] [--measure ...]

Each measurement of each peer has a fresh process, and two workers. All peers are measured once, then
all again, and so on, so that a machine that is busy for a while disturbs them alike. Only the ratios
mean something on another machine. Peers that are not installed are left out: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from figures import Effort
from measurements import MEASUREMENTS
from peers import PARASNAKE, PEERS
from runner import JobLost, MeasurementFailed, Runner
from table import Rounds, render, summary

ROUNDS, SECONDS = 5, 2.0
QUICK_SECONDS = 0.3


class Pair(NamedTuple):
    """What is measured, and of whom."""

    name: str
    peer: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say and print the tables; returns the exit status."""
    options = make_parser().parse_args(arguments)
    rounds, seconds = (1, QUICK_SECONDS) if options.quick else (options.rounds, SECONDS)
    pairs, notes = _plan(options)
    notes.append(_machine(pairs, rounds))
    begin = time.monotonic()
    with Runner(Effort(seconds, options.scale), options.limit) as runner:
        found, lost, failed = _measure(runner, pairs, rounds)
    notes += [*lost, *failed, f"took {(time.monotonic() - begin) / 60:.1f} minutes"]
    names = list(dict.fromkeys(pair.name for pair in pairs))
    values = summary([figure for name in names for figure in MEASUREMENTS[name].figures], found)
    titles = {pair.peer: PEERS[pair.peer].title for pair in pairs}
    print(render([MEASUREMENTS[name] for name in names], titles, values))
    print("", *(f"- {note}" for note in notes), sep="\n")
    if options.json is not None:
        facts = {"figures": values, "notes": notes, "failures": failed}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 1 if failed else 0


def _measure(
    runner: Runner, pairs: Sequence[Pair], rounds: int
) -> tuple[Rounds, list[str], list[str]]:
    """Return the values of all rounds, which jobs were lost and why, and what else failed."""
    found: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    lost: dict[str, str] = {}
    failed: list[str] = []
    try:
        for turn in range(rounds):
            for name, peer in pairs:
                title = PEERS[peer].title
                print(f"round {turn + 1}: {name}, {title}", file=sys.stderr, flush=True)
                try:
                    for key, value in runner.measure(name, peer).items():
                        found[key, peer].append(value)
                except JobLost as error:
                    lost[title] = f"job lost: {title}, {error}"
                    for figure in MEASUREMENTS[name].figures:
                        found[figure.key, peer].append(None)
                except (MeasurementFailed, OSError) as error:
                    failed.append(f"failed: {title}, {name}: {error}")
    except KeyboardInterrupt:
        failed.append("interrupted: not all was measured")
    return found, list(lost.values()), failed


def _plan(options: argparse.Namespace) -> tuple[list[Pair], list[str]]:
    """Return what to measure, in this order, and what is left out and why."""
    chosen: list[str] = options.peers or [peer for peer in PEERS if PEERS[peer].by_default]
    peers = [peer for peer in chosen if PEERS[peer].installed]
    wanted = [
        Pair(name, peer)
        for name in options.measure or MEASUREMENTS
        for peer in peers
        if peer == PARASNAKE or not MEASUREMENTS[name].only_ours
    ]
    taken = [pair for pair in wanted if not options.quick or _is_quick(pair, options)]
    notes = [f"not installed: {PEERS[peer].title}" for peer in chosen if peer not in peers]
    return taken, notes + _left_out(wanted, taken)


def _is_quick(pair: Pair, options: argparse.Namespace) -> bool:
    """Whether ``--quick`` has it; of what was chosen by name it leaves out nothing."""
    peer, measurement = PEERS[pair.peer], MEASUREMENTS[pair.name]
    is_fast = not peer.variant and (measurement.essential or not peer.slow)
    return bool((options.peers or is_fast) and (options.measure or measurement.quick))


def _left_out(wanted: Sequence[Pair], taken: Sequence[Pair]) -> list[str]:
    partly = {pair.peer for pair in taken}
    titles: dict[str, list[str]] = defaultdict(list)
    for peer in dict.fromkeys(pair.peer for pair in wanted if pair not in taken):
        names = [pair.name for pair in wanted if pair.peer == peer and pair not in taken]
        titles[", ".join(names) if peer in partly else "everything"].append(PEERS[peer].title)
    return [f"left out by --quick: {what} of {'; '.join(of)}" for what, of in titles.items()]


def _machine(pairs: Iterable[Pair], rounds: int) -> str:
    """Return what one must know about a run to compare it with another."""
    packages = sorted({package for pair in pairs for package in PEERS[pair.peer].requires})
    return ", ".join(
        [
            f"{rounds} round{'s' * (rounds != 1)}",
            f"{os.cpu_count()} processors",
            f"load {os.getloadavg()[0]:.1f} at the start",
            platform.platform(),
            f"Python {platform.python_version()}",
            *(f"{package} {version(package)}" for package in packages),
        ]
    )


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round, in about a minute")
    add("--rounds", type=int, default=ROUNDS, help=f"how many ({ROUNDS})")
    add("--peers", type=_names(PEERS), help=f"with commas between: {', '.join(PEERS)}")
    add(
        "--measure",
        type=_names(MEASUREMENTS),
        help=f"with commas between: {', '.join(MEASUREMENTS)}",
    )
    add("--json", type=Path, metavar="FILE", help="write all values there")
    add("--scale", type=float, default=1.0, metavar="FACTOR", help="of the sizes of all jobs (1)")
    add(
        "--limit",
        type=float,
        default=180.0,
        metavar="SECONDS",
        help="what takes longer is killed (180)",
    )
    return parser


def _names(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return given

    return names


if __name__ == "__main__":
    sys.exit(main())
