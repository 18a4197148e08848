"""Workers, agents and the server are killed and stopped at random moments; the result is right.

The environment variable STORMS says how many seeds, 2 by default, and STORM which one is the first.
"""

from __future__ import annotations

import contextlib
import os
import random
import runpy
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from callees import free_port
from helpers import wait_until
from programs import Program, environment

from parasnake.core.journal import Merged
from parasnake.core.tasks import LOOK_AHEAD_S
from parasnake.journal import Stored

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("unmeasured")]

SCRIPT = Path(__file__).parent / "scripts" / "rows.py"
AGENTS, WORKERS = 3, 2
FAULTS = 14
HEARTBEAT_TIMEOUT = 1.0
FIRST = int(os.environ.get("STORM", "1"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("STORMS", "2")))
LEAST_S = 0.02
AHEAD = 1 + int(LOOK_AHEAD_S / LEAST_S)
"""A row takes so long that a node has so many at the most; these go elsewhere with it."""


@pytest.fixture(scope="module")
def expected() -> str:
    digest: str = runpy.run_path(str(SCRIPT))["expected"]()
    return digest


class Storm:
    """A server with a journal and its agents, to which bad things happen."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self.journal = folder / "rows.journal"
        self._port = str(free_port())
        self._stack = contextlib.ExitStack()
        self.deeds: list[str] = []
        self._stopped: list[tuple[float, psutil.Process]] = []
        self._computed = self._folder / "computed"

    def __enter__(self) -> Storm:
        self.server = self._serve()
        self.agents = [self._agent() for _ in range(AGENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        started = self._processes()
        self._stack.close()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _start(self, *options: str) -> Program:
        options = ("--least", str(LEAST_S), *options)
        program = Program(SCRIPT, options, self._folder, environ=environment(self._folder))
        return self._stack.enter_context(program)

    def _serve(self) -> Program:
        return self._start(
            *("--server", "--port", self._port, "--bind", "127.0.0.1", "--no-progress"),
            *("--journal", str(self.journal), "--heartbeat-timeout", str(HEARTBEAT_TIMEOUT)),
            *("--max-attempts", "100", "--max-losses", "100"),
        )

    def _agent(self) -> Program:
        return self._start("--port", self._port, "--workers", str(WORKERS))

    def _processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for program in (self.server, *self.agents):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(program.pid)
                found += [process, *process.children(recursive=True)]
        return found

    @property
    def computed(self) -> list[str]:
        """The rows that were computed, as often as they were."""
        with contextlib.suppress(FileNotFoundError):
            return self._computed.read_text().split()
        return []

    def wait_for_rows(self, more: int) -> None:
        """Wait until so many more rows were computed, or for a while; what was stopped goes on."""
        goal, until = len(self.computed) + more, time.monotonic() + 3 * HEARTBEAT_TIMEOUT

        def enough() -> bool:
            self.go_on()
            return len(self.computed) >= goal or time.monotonic() > until

        wait_until(enough)

    def go_on(self) -> None:
        """Let those go on who were stopped for long enough."""
        now = time.monotonic()
        for when, process in self._stopped:
            if when <= now:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
        self._stopped = [one for one in self._stopped if one[0] > now]

    def fault(self) -> int:
        """Do something bad; returns how many rows may have to be computed again for it."""
        role = self._random.choice(["server", "agent", "worker", "worker"])
        deed = self._random.choice(["kill", "stop", "stop for long"])
        self.deeds.append(f"{deed} {role} after {len(self.computed)} rows")
        process = self._victim(role)
        if process is None:
            return 0
        with contextlib.suppress(psutil.NoSuchProcess):
            if deed == "kill":
                process.kill()
                self._replace(process.pid)
            else:
                seconds = self._random.uniform(1.2, 2.5) if deed == "stop for long" else 0.3
                process.send_signal(signal.SIGSTOP)
                self._stopped.append((time.monotonic() + seconds * HEARTBEAT_TIMEOUT, process))
        return {"worker": AHEAD, "agent": AHEAD * WORKERS, "server": AHEAD * WORKERS * AGENTS}[role]

    def _victim(self, role: str) -> psutil.Process | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if role == "server":
                return psutil.Process(self.server.pid)
            agent = psutil.Process(self._random.choice(self.agents).pid)
            if role == "agent":
                return agent
            workers = agent.children()
            return self._random.choice(workers) if workers else None
        return None

    def _replace(self, pid: int) -> None:
        """Start another in place of one that was killed, if that had not ended by itself before."""
        if self.server.pid == pid and self.server.wait() == -signal.SIGKILL:
            self.server = self._serve()
        for index, agent in enumerate(self.agents):
            if agent.pid == pid and agent.wait() == -signal.SIGKILL:
                self.agents[index] = self._agent()

    def calm(self) -> None:
        """Nothing more happens, and all go on."""
        self._stopped = [(0.0, process) for _, process in self._stopped]
        self.go_on()

    def merged(self) -> list[int]:
        """The rows that the journal has."""
        with Stored.read(self.journal) as stored:
            entries = [entry for row in stored.rows() for entry in row.entries]
        return [entry.task for entry in entries if isinstance(entry, Merged)]


@pytest.fixture
def storm(tmp_path: Path, seed: int) -> Iterator[Storm]:
    with Storm(tmp_path, seed) as storm:
        yield storm


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_dies_or_freezes_the_image_is_right(
    storm: Storm, seed: int, expected: str
) -> None:
    moments = random.Random(-seed)
    again = 0
    for _ in range(FAULTS):
        storm.wait_for_rows(moments.randint(1, 60))
        if storm.server.status is not None:
            break  # all is done
        again += storm.fault()
    storm.calm()
    assert storm.server.wait() == 0, f"{storm.deeds}\n{storm.server.err}"
    assert storm.server.out == f"{expected}\n", storm.deeds
    merged = storm.merged()
    assert sorted(merged) == list(range(len(merged))), "each merged once"
    computed = storm.computed
    again += AHEAD * WORKERS * AGENTS  # the last ones are given to idle nodes as well
    assert len(computed) - len(set(computed)) <= again, storm.deeds
