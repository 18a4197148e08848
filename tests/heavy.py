"""Jobs with many tasks or large ones, which measure themselves; test_heavy.py runs them.

usage: heavy.py small|large --local 2        heavy.py bytes|array --server, or --ip HOST
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # its types are not installed

from parasnake import Parasnake

SMALL_TASKS, LARGE_TASKS, POOL_TASKS = 100_000, 1_000, 20_000
HUGE_BYTES = 512 << 20
report: dict[str, Any] = {}


def memory() -> list[int]:
    """Resident bytes of this process and of all that it has started, the agent and its workers."""
    this = psutil.Process()
    return [process.memory_info().rss for process in (this, *this.children(recursive=True))]


def kilobytes(field: str) -> int:
    """A line of /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def square(n: int) -> int:
    return n * n


def make_small() -> Parasnake:
    """Many tasks of a few bytes; the same by the standard library's pool beside it."""
    app = Parasnake("heavy small")
    app.process(square)
    merged = total = 0

    @app.new_data
    def data() -> Iterator[int]:
        report["begin"] = time.perf_counter()
        yield from range(SMALL_TASKS)

    @app.result
    def add(result: int) -> None:
        nonlocal merged, total
        merged += 1
        total += result
        if merged == SMALL_TASKS // 5:
            report["early"] = memory()
        elif merged == SMALL_TASKS:
            report["rate"] = SMALL_TASKS / (time.perf_counter() - report["begin"])
            report["late"] = memory()

    @app.finish
    def finish() -> None:
        report["right"] = total == sum(n * n for n in range(SMALL_TASKS))

    return app


def measure_pool() -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(square, range(100), chunksize=1))  # its processes are there
        begin = time.perf_counter()
        list(pool.map(square, range(POOL_TASKS), chunksize=1))
        report["pool rate"] = POOL_TASKS / (time.perf_counter() - begin)


def make_large() -> Parasnake:
    """Arrays of a megabyte in both directions."""
    app = Parasnake("heavy large")
    merged = wrong = 0
    samples: list[list[int]] = []

    @app.new_data
    def data() -> Iterator[Any]:
        for n in range(LARGE_TASKS):
            yield np.full(1 << 17, float(n))

    @app.process
    def negative(array: Any) -> Any:
        return -array

    @app.result
    def check(result: Any) -> None:
        nonlocal merged, wrong
        merged += 1
        wrong += not (result.nbytes == 1 << 20 and (result == result[0]).all() and result[0] <= 0)
        if merged % (LARGE_TASKS // 20) == 0:
            samples.append(memory())

    @app.finish
    def finish() -> None:
        report.update(samples=samples, right=wrong == 0 and merged == LARGE_TASKS)

    return app


def digest(huge: Any) -> str:
    return hashlib.sha256(huge).hexdigest()


def make_huge(kind: str) -> Parasnake:
    """One object of half a gigabyte among small tasks, which nodes send back as it came."""
    app = Parasnake(f"heavy {kind}")
    merges: list[float] = []

    def make() -> Any:
        report["base"] = kilobytes("VmRSS")
        random = np.random.default_rng()
        huge = random.bytes(HUGE_BYTES) if kind == "bytes" else random.random(HUGE_BYTES // 8)
        report["digest"] = digest(huge)
        report["handed out"] = time.monotonic()
        return huge

    @app.new_data
    def data() -> Iterator[Any]:
        while len(merges) < 100:  # both agents are at work
            yield 1
        yield make()
        while "merged" not in report:
            yield 1

    @app.process
    def echo(data: Any) -> Any:
        if isinstance(data, int):
            time.sleep(0.002)
        return data

    @app.result
    def check(result: Any) -> None:
        if isinstance(result, int):
            merges.append(time.monotonic())
            return
        report["right"] = digest(result) == report["digest"]
        report["merged"] = time.monotonic()

    @app.finish
    def finish() -> None:
        begin, end = report["handed out"], report["merged"]
        report["peak"] = kilobytes("VmHWM")
        report["meanwhile"] = sum(begin < when < end for when in merges)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["small", "large", "bytes", "array"])
    job = sys.argv[1]
    app = {"small": make_small, "large": make_large}.get(job, lambda: make_huge(job))()
    app.main(parser)
    if report:
        if job == "small":
            measure_pool()
        print(json.dumps(report))
