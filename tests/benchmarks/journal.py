"""What a journal costs: one job of small tasks, with and without, turn by turn.

usage: journal.py [--tasks N] [--rounds N] [--bytes N] [--local N]

A task's data and its result have so many bytes each. Both kinds of run are in one process, one after
the other in pairs, so that a busy machine disturbs both; the median of the pairs counts. The server's
own time is what its process computed, which others on the machine disturb least.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

Times = tuple[float, float]
"""Seconds on the clock, and those that the process computed."""


def echo(data: bytes) -> bytes:
    return data


def seconds_of(tasks: int, size: int, workers: int, journal: Path | None) -> Times:
    """Run the job; return its seconds and those of them that the server computed."""
    app = Parasnake("journal benchmark")
    app.process(echo)
    begin = begin_cpu = end = end_cpu = 0.0
    merged = 0

    @app.new_data
    def data() -> Iterator[bytes]:
        nonlocal begin, begin_cpu
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for number in range(tasks):
            yield number.to_bytes(size, "big")

    @app.result
    def merge(result: bytes) -> None:
        nonlocal merged, end, end_cpu
        merged += 1
        if merged == tasks:
            end, end_cpu = time.perf_counter(), time.process_time()

    app.run(local=workers, progress=False, journal=journal)
    return end - begin, end_cpu - begin_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--local", type=int, default=2)
    given = parser.parse_args()
    seconds_of(given.tasks // 10, given.bytes, given.local, None)  # to warm up
    pairs: list[tuple[Times, Times]] = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for turn in range(given.rounds):
            path = Path(folder) / f"{turn}"
            kinds: list[Path | None] = [None, path] if turn % 2 else [path, None]
            measured = {
                kind: seconds_of(given.tasks, given.bytes, given.local, kind) for kind in kinds
            }
            pairs.append((measured[None], measured[path]))
            print(" with: {:6.0f} tasks/s, own {:5.2f} us/task".format(*told(given, pairs[-1][1])))
            print("  without: {:6.0f} tasks/s, own {:5.2f}".format(*told(given, pairs[-1][0])))
    for what, column in (("in all", 0), ("of the server's own", 1)):
        cost = statistics.median(kept[column] - without[column] for without, kept in pairs)
        share = statistics.median(kept[column] / without[column] - 1 for without, kept in pairs)
        micro = cost / given.tasks * 1e6
        print(f"a journal costs {micro:.2f} us/task {what}, {100 * share:.1f} % (medians of pairs)")


def told(given: argparse.Namespace, times: Times) -> tuple[float, float]:
    return given.tasks / times[0], times[1] / given.tasks * 1e6


if __name__ == "__main__":
    main()
