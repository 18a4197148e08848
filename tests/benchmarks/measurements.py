"""What is measured, each by a job in phases that any peer can run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory
import work
from peers.base import WORKERS, Peer

WARM_UP = 200
MB = 1_000_000

Values = dict[str, float | None]
"""Figures by key; None: the job was lost."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to do. ``seconds``: about so long for one figure; ``scale``: factor of all sizes."""

    seconds: float
    scale: float = 1.0

    def count(self, number: int) -> int:
        """A number of tasks, scaled."""
        return max(1, round(number * self.scale))


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of the results.

    ``heading`` says what it is, with its unit; ``digits`` are those after the point, ``more_is_better``
    how to read the ratio.
    """

    key: str
    heading: str
    digits: int = 0
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """One job, in a fresh process, and the figures that come of it.

    Attributes
    ----------
    measure: runs the job; returns its figures and when the last result came, by ``time.monotonic``
    kills: whether it kills a worker, which some peers do not survive
    launched: whether the peer's own launcher is needed
    """

    title: str
    figures: tuple[Figure, ...]
    measure: Callable[[Peer, Effort], tuple[Values, float]]
    kills: bool = False
    launched: bool = True


GONE = "gone"
"""This figure is measured from outside: the time from the last result to the end of all processes."""


class _Taker:
    """Takes results and notes when the first and the last came."""

    def __init__(self) -> None:
        self.first = 0.0
        self.last = 0.0

    def __call__(self, result: Any) -> None:
        self.last = time.monotonic()
        if not self.first:
            self.first = self.last


def small_tasks(peer: Peer, effort: Effort) -> tuple[Values, float]:
    """Tasks with an int each way, nothing tuned, as many as are done in some seconds."""
    values: Values = {}
    take, started = _Taker(), time.monotonic()

    def phases() -> Iterator[Any]:
        yield range(WARM_UP)
        values["start"] = take.first - started
        count, most = effort.count(500), effort.count(2_000_000)
        while True:  # until it takes long enough to count
            begin = time.monotonic()
            yield range(count)
            took = time.monotonic() - begin
            values["rate"] = count / took
            if took >= effort.seconds / 2 or count >= most:
                break
            count = min(4 * count, most)

    peer.run(work.echo, phases(), take)
    return values, take.last


def single_task(peer: Peer, effort: Effort) -> tuple[Values, float]:
    """One task after another, each when the one before is merged."""
    values: Values = {}
    times: list[float] = []
    take = _Taker()

    def phases() -> Iterator[Any]:
        yield range(WARM_UP)
        for number in range(20):
            yield [number]
        until = time.monotonic() + effort.seconds
        for number in range(effort.count(2000)):
            begin = time.perf_counter()
            yield [number]
            times.append(time.perf_counter() - begin)
            if time.monotonic() > until:
                break
        values["latency"] = 1e6 * statistics.median(times)

    peer.run(work.echo, phases(), take)
    return values, take.last


def arrays(peer: Peer, effort: Effort) -> tuple[Values, float]:
    """Arrays of random floats, out and back: their bytes, counted once, by the time."""
    import numpy as np

    values: Values = {}
    take = _Taker()

    def phases() -> Iterator[Any]:
        for size in (1, 16, 128):
            array = np.random.default_rng(size).random(effort.count(size * MB) // 8 or 1)
            yield [array]
            count, most = 2, max(2, 512 // size)
            while True:
                begin = time.monotonic()
                yield [array] * count
                took = time.monotonic() - begin
                values[f"array_{size}"] = count * array.nbytes / MB / took
                if took >= effort.seconds / 3 or count >= most:
                    break
                count = min(count * 4, most)

    peer.run(work.echo, phases(), take)
    return values, take.last


def array_memory(peer: Peer, effort: Effort) -> tuple[Values, float]:
    """How much this process takes at its peak for one array, besides it and its result, in arrays."""
    import numpy as np

    values: Values = {}
    take = _Taker()

    def phases() -> Iterator[Any]:
        yield range(WARM_UP)
        array = np.random.default_rng(0).random(effort.count(128 * MB) // 8 or 1)
        before, others = memory.peak(), memory.peaks_of_descendants()
        yield [array]
        values["array_memory"] = (memory.peak() - before) / array.nbytes - 1
        grown = [after - others.get(pid, 0) for pid, after in memory.peaks_of_descendants().items()]
        if grown:  # a peer's own launcher may keep its workers elsewhere
            values["array_memory_others"] = max(grown) / array.nbytes

    peer.run(work.echo, phases(), take)
    return values, take.last


def mandelbrot(peer: Peer, effort: Effort) -> tuple[Values, float]:
    """512 rows in plain Python: the time that it takes serially, by workers and time."""
    values: Values = {}
    take = _Taker()
    rows = range(effort.count(work.ROWS))

    def phases() -> Iterator[Any]:
        begin = time.monotonic()
        for number in rows:
            work.row(number)
        serial = time.monotonic() - begin
        yield range(min(2 * WORKERS, len(rows)))
        begin = time.monotonic()
        yield rows
        values["mandelbrot"] = serial / WORKERS / (time.monotonic() - begin)

    peer.run(work.row, phases(), take)
    return values, take.last


def killed_worker(peer: Peer, effort: Effort) -> tuple[Values, float]:
    """A worker is killed in the middle of a task: when does that task run elsewhere?"""
    went_on: list[float] = []
    take = _Taker()
    count = effort.count(200)

    def take_time(result: float) -> None:
        take(result)
        if result:
            went_on.append(result)

    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "killed"
        tasks = ["" if number != count // 3 else str(mark) for number in range(count)]
        peer.run(work.be_killed_once, [[""] * 20, tasks], take_time)
        killed_at = float(mark.read_text())
    return {"killed": 1e3 * (went_on[0] - killed_at)}, take.last


def scaling(peer: Peer, effort: Effort) -> tuple[Values, float]:
    """Small tasks, more and more, as far as they are done in 30 times the seconds; and memory."""
    values: Values = {}
    take = _Taker()

    def phases() -> Iterator[Any]:
        yield range(WARM_UP)
        base, took = memory.peak(), 0.0
        for power in (4, 5, 6):
            if 10 * took > 30 * effort.seconds:
                break
            count, begin = effort.count(10**power), time.monotonic()
            yield range(count)
            took = time.monotonic() - begin
            values[f"rate_{power}"] = count / took
            values[f"memory_{power}"] = (memory.peak() - base) / MB

    peer.run(work.echo, phases(), take)
    return values, take.last


def import_time(peer: Peer, _: Effort) -> tuple[Values, float]:
    """The import of what a user's script needs, in a fresh interpreter."""
    clock = "import time; begin = time.perf_counter()"
    code = f"{clock}; {peer.imports}; print(time.perf_counter() - begin)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {"import": 1e3 * float(done.stdout.split()[-1])}, time.monotonic()


MEASUREMENTS = {
    "small": Measurement(
        "Small tasks",
        (
            Figure("rate", "small tasks/s, one at a time", more_is_better=True),
            Figure("start", "start to first result, s", 2),
        ),
        small_tasks,
    ),
    "latency": Measurement(
        "Latency", (Figure("latency", "latency of a single task, µs"),), single_task
    ),
    "arrays": Measurement(
        "Arrays",
        tuple(
            Figure(f"array_{size}", f"arrays of {size} MB, out and back, MB/s", more_is_better=True)
            for size in (1, 16, 128)
        ),
        arrays,
    ),
    "memory": Measurement(
        "Memory for an array",
        (
            Figure("array_memory", "memory for one array of 128 MB, main process, arrays", 2),
            Figure("array_memory_others", "the same, largest of the other processes, arrays", 2),
        ),
        array_memory,
    ),
    "mandelbrot": Measurement(
        "Mandelbrot",
        (
            Figure("mandelbrot", "Mandelbrot, share of ideal", 2, more_is_better=True),
            Figure(GONE, "last result to all processes gone, ms"),
        ),
        mandelbrot,
    ),
    "killed": Measurement(
        "Killed worker",
        (Figure("killed", "worker killed: its task runs elsewhere after, ms"),),
        killed_worker,
        kills=True,
    ),
    "scaling": Measurement(
        "Scaling",
        tuple(
            figure
            for power in (4, 5, 6)
            for figure in (
                Figure(f"rate_{power}", f"10^{power} small tasks, tasks/s", more_is_better=True),
                Figure(f"memory_{power}", f"10^{power} small tasks, main process grows by, MB", 1),
            )
        ),
        scaling,
    ),
    "import": Measurement("Import", (Figure("import", "import, ms"),), import_time, launched=False),
}
