"""What a journal costs: one job of small tasks, with and without, turn by turn.

usage: journal.py [--tasks N] [--rounds N] [--bytes N] [--local N]

A task's data and its result have so many bytes each. Both kinds of run are in one process, one after
the other, so that a busy machine disturbs both; the median of each counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake


def echo(data: bytes) -> bytes:
    return data


def seconds_of(tasks: int, size: int, workers: int, journal: Path | None) -> tuple[float, float]:
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--local", type=int, default=2)
    given = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for turn in range(given.rounds):
            for kind, measured in times.items():
                path = Path(folder) / f"{turn}" if kind == "with" else None
                measured.append(seconds_of(given.tasks, given.bytes, given.local, path))
                rate, own = given.tasks / measured[-1][0], measured[-1][1] / given.tasks * 1e6
                print(f"{kind:>8}: {rate:8.0f} tasks/s, server's own {own:6.2f} us/task")
    for what, column in (("in all", 0), ("of the server's own", 1)):
        without, kept = (
            statistics.median(measured[column] for measured in times[kind])
            for kind in ("without", "with")
        )
        cost, share = (kept - without) / given.tasks * 1e6, 100 * (kept / without - 1)
        print(f"a journal costs {cost:.2f} us/task {what}, {share:.1f} % (medians)")


if __name__ == "__main__":
    main()
