"""What any peer can be asked, nearly all of it by jobs: generators that hand out phase by phase."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import usage
import work
from figures import (
    ARRAY_MB,
    MB,
    PAYLOADS,
    TASK_POWERS,
    Effort,
    Found,
    Measure,
    Values,
)
from peers.base import WORKERS, Peer, Phase

WARM_UP = 200
FEW = 2 * WORKERS


class Job:
    """One run: what it is to do, what has come of it, and when its first and last result came."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.values: Values = {}
        self.begun = time.monotonic()
        self.first = self.last = 0.0

    def take(self, _: Any) -> None:
        """Note that a result has come."""
        self.last = time.monotonic()
        if not self.first:
            self.first = self.last


def job(function: Callable[[Any], Any]) -> Callable[[Callable[[Job], Iterator[Phase]]], Measure]:
    """Make a measurement of a generator.

    What it yields is data of tasks for ``function``; it goes on when all results of that were taken.
    """

    def measurement(phases: Callable[[Job], Iterator[Phase]]) -> Measure:
        @wraps(phases)
        def measure(peer: Peer, effort: Effort) -> Found:
            run = Job(effort)
            peer.run(function, phases(run), run.take)
            return Found(run.values, run.last)

        return measure

    return measurement


def _rate(
    data: Callable[[int], Phase], first: int, most: int, seconds: float
) -> Generator[Phase, None, float]:
    """Hand out more and more tasks until they take so long; return how many a second the last were."""
    count = min(first, most)
    while True:
        begin = time.monotonic()
        yield data(count)
        took = time.monotonic() - begin
        if took >= seconds or count >= most:
            return count / took
        count = min(4 * count, most)


@job(work.echo)
def small_tasks(job: Job) -> Iterator[Phase]:
    """Tasks with an int each way, nothing tuned, as many as are done in some seconds."""
    yield range(WARM_UP)
    job.values["start"] = job.first - job.begun
    first, most = job.effort.count(500), job.effort.count(2_000_000)
    rate = yield from _rate(range, first, most, job.effort.seconds / 2)
    job.values["rate"] = rate
    if usage.descendants():  # a peer's own launcher may keep its workers elsewhere
        count, begin = round(rate * job.effort.seconds / 2) + 1, usage.processor_seconds()
        yield range(count)
        job.values["processor"] = 1e6 * (usage.processor_seconds() - begin) / count


@job(work.echo)
def single_task(job: Job) -> Iterator[Phase]:
    """One task after another, each when the one before is merged."""
    yield range(WARM_UP)
    for number in range(20):
        yield [number]
    times: list[float] = []
    until = time.monotonic() + job.effort.seconds
    for number in range(job.effort.count(10_000)):
        begin = time.perf_counter()
        yield [number]
        times.append(time.perf_counter() - begin)
        if time.monotonic() > until:
            break
    job.values["latency"] = 1e6 * statistics.median(times)


def _array(job: Job, megabytes: int) -> Any:
    import numpy as np

    return np.random.default_rng(megabytes).random(job.effort.count(megabytes * MB) // 8 or 1)


@job(work.echo)
def arrays(job: Job) -> Iterator[Phase]:
    """Arrays of random floats, out and back: their bytes, counted once, by the time."""
    for size in ARRAY_MB:
        array = _array(job, size)
        yield [array]
        rate = yield from _rate([array].__mul__, FEW, max(FEW, 512 // size), job.effort.seconds / 3)
        job.values[f"array_{size}"] = rate * array.nbytes / MB


@job(work.echo)
def array_memory(job: Job) -> Iterator[Phase]:
    """How much this process takes at its peak for one array, besides it and its result, in arrays."""
    yield range(WARM_UP)
    array = _array(job, 128)
    grown = usage.watch_memory()
    others_grown = [usage.watch_memory(pid) for pid in usage.descendants()]
    yield [array]
    job.values["array_memory"] = grown() / array.nbytes - 1
    if others_grown:
        job.values["array_memory_others"] = max(each() for each in others_grown) / array.nbytes


@job(work.row)
def mandelbrot(job: Job) -> Iterator[Phase]:
    """512 rows in plain Python: the time that it takes serially, by workers and time."""
    rows = range(job.effort.count(work.ROWS))
    begin = time.monotonic()
    for number in rows:
        work.row(number)
    serial = time.monotonic() - begin
    yield range(min(2 * WORKERS, len(rows)))
    begin = time.monotonic()
    yield rows
    job.values["mandelbrot"] = serial / WORKERS / (time.monotonic() - begin)


@job(work.be_killed_once)
def killed_worker(job: Job) -> Iterator[Phase]:
    """A worker is killed in the middle of a task: when does that task run elsewhere?"""
    mark = Path(work.KILLED).absolute()
    count = job.effort.count(200)
    yield [""] * 20
    yield ["" if number != count // 3 else str(mark) for number in range(count)]
    killed_at, ran_at = map(float, mark.read_text().split())
    job.values["killed"] = 1e3 * (ran_at - killed_at)


@job(work.echo)
def more_tasks(job: Job) -> Iterator[Phase]:
    """Small tasks, ten times more each time, while that takes less than 30 times the seconds."""
    yield range(WARM_UP)
    took = 0.0
    for power in TASK_POWERS:
        if 10 * took > 30 * job.effort.seconds:
            break
        count, grown, begin = job.effort.count(10**power), usage.watch_memory(), time.monotonic()
        yield range(count)
        took = time.monotonic() - begin
        job.values[f"tasks_{power}"] = count / took
        job.values[f"tasks_{power}_memory"] = grown() / MB


@job(work.echo)
def larger_payloads(job: Job) -> Iterator[Phase]:
    """Tasks with so many random bytes each way."""
    yield range(WARM_UP)
    for size in PAYLOADS:
        payload = random.Random(size).randbytes(job.effort.count(size))
        yield [payload]
        grown, most = usage.watch_memory(), min(max(FEW, 800 * MB // size), 1_000_000)
        rate = yield from _rate([payload].__mul__, FEW, most, job.effort.seconds / 3)
        job.values[f"payload_{size}"] = rate
        job.values[f"payload_{size}_memory"] = grown() / MB


def import_time(peer: Peer, _: Effort) -> Found:
    """The import of what a user's script needs, in a fresh interpreter."""
    clock = "import time; begin = time.perf_counter()"
    code = f"{clock}; {peer.imports}; print(time.perf_counter() - begin)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return Found({"import": 1e3 * float(done.stdout.split()[-1])})
