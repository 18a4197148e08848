"""One history: a job from its start to its end, with all that goes wrong on the way."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from parasnake import agent, compression, gate, journal, net, search, server, worker

from .agents import Call, Network
from .faults import Scene, plan_faults
from .invariants import Books
from .job import Plan, draw_plan
from .network import End as Socket
from .servers import Disk, End, Life, ServerLoop, WatchedJournal
from .world import Violation, World

MEMORY_DISK = Path("/dev/shm")
RESTART_S = (0.0, 1.0, 20.0)
OPERATOR_S = 5.0
"""Pauses between two looks of the person who sees to it that there are agents."""
EPOCH = 1_700_000_000.0


@dataclass(frozen=True)
class Verdict:
    """What came of a history.

    Attributes
    ----------
    violation: what promise was broken and how, or None
    digest: of the trace
    events: how many there were
    servers: how many servers it took
    counts: what happened how often: see ``Books``
    lines: the trace, if it was kept
    """

    seed: int
    violation: Violation | None
    digest: str
    events: int
    servers: int
    counts: Counter[str]
    lines: list[str] | None


def run(seed: int, *, keep: bool = False) -> Verdict:
    """Run the history of a seed.

    Parameters
    ----------
    keep: whether the verdict shall have the trace as text
    """
    world = World(seed, keep=keep)
    history = None
    violation = None
    with _folder() as folder, _virtual(world):
        try:
            history = History(world, folder)
            history.run()
        except Violation as found:
            violation = _first(found)
            world.tell(f"VIOLATION: {violation}")
    servers = history.servers if history is not None else 0
    counts = history.scene.books.counts if history is not None else Counter()
    trace = world.trace
    return Verdict(seed, violation, trace.digest, world.events, servers, counts, trace.lines)


def _first(found: Violation) -> Violation:
    """The violation before all others: a server that ends by one still says goodbye."""
    context: BaseException | None = found
    while context is not None:
        if isinstance(context, Violation):
            found = context
        context = context.__context__
    return found


class History:
    """All that takes part, and its course."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.plan = draw_plan(world.random)
        world.tell(str(self.plan))
        self.servers = 0
        books = Books(world, self.plan)
        self.scene = Scene(world, self.plan, books, Network(), Disk(world, folder))

    def run(self) -> None:
        """Let it happen, until the job is done; raises ``Violation``."""
        world, scene = self.world, self.scene
        random = world.random
        for _ in range(random.choice([1, 2, 4])):
            world.after(random.choice([0.0, 0.0, 1.0, 10.0]), scene.start_machine)
        faults_end = plan_faults(scene)
        world.at(faults_end, self._look_after)
        world.at(faults_end + self._patience(), self._give_up)
        while self._serve() is not End.DONE:
            world.pass_time(random.choice(RESTART_S))
        self._check_result()
        if self.plan.journal and not scene.loses_journal and world.chance(0.2):
            world.tell("once more, with a journal of a job that is done")
            if self._serve() is not End.DONE:
                raise Violation("a job that is done is done", "it was served again")
            self._check_result()

    def _serve(self) -> End:
        scene = self.scene
        if scene.loses_journal:
            scene.loses_journal = False
            scene.disk.lose()
            scene.books.memory = None
        self.servers += 1
        life = scene.life = Life(self.world, self.plan, scene.network, scene.books, scene.disk)
        with _serving(self.world, life):
            end = life.run()
        scene.life = None
        self.user = life.user
        return end

    def _look_after(self) -> None:
        """Nothing more goes wrong; somebody sees to it that there are agents."""
        alive = [machine for machine in self.scene.machines if machine.alive]
        if not alive:
            self.scene.start_machine()
        self.world.after(OPERATOR_S, self._look_after)

    def _patience(self) -> float:
        """How long the job may take once nothing more goes wrong."""
        return 3000.0 + 60.0 * sum(self.plan.seconds) * (1 + len(self.plan.whims))

    def _give_up(self) -> None:
        raise Violation("the job ends", "it has not, long after the last fault")

    def _check_result(self) -> None:
        """The user has what a loop over the data would have given, but for what failed rightly."""
        plan, user = self.plan, self.user
        if user.open or not user.is_done():
            raise Violation("the result is that of a loop", f"open: {user.open}")
        if sorted((*user.merged, *user.failed)) != list(range(plan.tasks)):
            raise Violation("the result is that of a loop", "not each piece of data once")
        hopeless = plan.poison | plan.deadly | plan.unsendable
        if hopeless - user.failed.keys():
            raise Violation("the result is that of a loop", "merged what cannot be computed")


# ---- in place of what the system does


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    where = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _virtual(world: World) -> Iterator[None]:
    """Take the clock, chance and the network away from the shells."""
    clock: Any = SimpleNamespace(time=lambda: EPOCH + world.now, perf_counter=lambda: world.now)
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (search, "random", world.random),
            (agent, "outlets_of", lambda _: ()),
            (server, "time", clock),
            (journal, "time", clock),
            (worker, "time", clock),
            (compression, "time", clock),
            (os, "urandom", world.random.randbytes),
            (os, "getpid", lambda: 4711),
            (socket, "gethostname", lambda: "machine"),
            (net, "prepare", lambda _: None),
            (net, "Call", Call),
            (gate, "_raise_descriptor_limit", lambda: 1 << 30),
            (journal, "network_file_system", lambda _: None),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(_log(world))
        yield


def _round_trip(plan: Plan) -> Callable[[Any], float]:
    def measured(socket: Socket) -> float:
        return 2 * socket.wire.latency if plan.knows_delays else 0.0

    return measured


@contextlib.contextmanager
def _serving(world: World, life: Life) -> Iterator[None]:
    """Give the next server its loop, its listening socket and its journal."""

    def open_journal(*arguments: Any) -> WatchedJournal:
        opened = WatchedJournal(*arguments)
        opened.point = life.point
        return opened

    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (server, "Loop", lambda: ServerLoop(world, life)),
            (journal, "Journal", open_journal),
            (net, "listen", lambda *_: life.listen()),
            (net, "round_trip_seconds", _round_trip(life.plan)),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


class _IntoTrace(logging.Handler):
    """Log lines are remarks in the trace."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        self._world.trace.remark(f"{self._world.now:10.4f}      log: {record.getMessage()}\n")


@contextlib.contextmanager
def _log(world: World) -> Iterator[None]:
    """Let the library's log go into the trace, if that is kept, and nowhere else."""
    logger = logging.getLogger("parasnake")
    before = logger.handlers, logger.level, logger.propagate
    keep = world.trace.lines is not None
    logger.handlers, logger.propagate = [_IntoTrace(world)], False
    logger.setLevel(logging.DEBUG if keep else logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
