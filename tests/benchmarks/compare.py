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
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from measurements import MEASUREMENTS, Effort, Figure
from peers import PEERS
from runner import MeasurementFailed, Runner
from table import render, summary

ROUNDS, SECONDS = 5, 2.0
QUICK_PEERS = ("parasnake", "pool")
QUICK_SECONDS = 0.3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the options say and print the tables; returns the exit status."""
    options = _parser().parse_args(arguments)
    peers = _peers(options)
    names: list[str] = options.measure
    count = 1 if options.quick else options.rounds
    effort = Effort(QUICK_SECONDS if options.quick else SECONDS, options.scale)
    rounds: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    failures: list[str] = []
    begin = time.monotonic()
    with Runner(effort, options.limit) as runner:
        for turn, name, peer in product(range(count), names, peers):
            _say(f"round {turn + 1}: {name}, {PEERS[peer].title}")
            try:
                values = runner.measure(peer, PEERS[peer], name, MEASUREMENTS[name])
            except (MeasurementFailed, OSError) as error:
                failures.append(f"{PEERS[peer].title}, {name}: {error}")
                continue
            except KeyboardInterrupt:
                failures.append("interrupted: not all was measured")
                break
            for key, value in values.items():
                rounds[key, peer].append(value)
    figures = [figure for name in names for figure in MEASUREMENTS[name].figures]
    found = summary(figures, peers, rounds)
    print(render(figures, {peer: PEERS[peer].title for peer in peers}, found))
    for failure in failures:
        print(f"failed: {failure}")
    if options.json is not None:
        _write(options.json, figures, found, failures, time.monotonic() - begin)
    return 1 if failures else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round, Parasnake and the standard pool unless others are chosen",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how many ({ROUNDS})")
    parser.add_argument(
        "--peers", type=_names(PEERS), help=f"with commas between: {', '.join(PEERS)}"
    )
    parser.add_argument(
        "--measure",
        type=_names(MEASUREMENTS),
        default=list(MEASUREMENTS),
        help=f"with commas between: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="FACTOR", help="of the sizes of all jobs (1)"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=180.0,
        metavar="SECONDS",
        help="what takes longer is killed (180)",
    )
    return parser


def _names(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return given

    return names


def _peers(options: argparse.Namespace) -> list[str]:
    chosen: list[str] | None = options.peers
    if chosen is None:
        chosen = [
            name
            for name, entry in PEERS.items()
            if entry.by_default and (not options.quick or name in QUICK_PEERS)
        ]
    missing = [name for name in chosen if not PEERS[name].installed]
    if missing:
        _say(f"not installed: {', '.join(missing)}")
    return [name for name in chosen if name not in missing]


def _write(
    path: Path,
    figures: Sequence[Figure],
    found: dict[str, Any],
    failures: Sequence[str],
    seconds: float,
) -> None:
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "seconds": seconds,
        "figures": found,
        "order": [figure.key for figure in figures],
        "failures": list(failures),
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
