"""A server with very many nodes, as its users would see it: what ``test_many_agents.py`` asks for."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
from helpers import wait_until
from programs import Program, environment

HERE = Path(__file__).parent


class Crowd:
    """One server and processes with very many light agents.

    Parameters
    ----------
    folder: where they run
    options: more of them for the server
    port: of the server
    processes: on how many processes the agents are spread
    tasks: in each of the two parts of the job
    descriptors: the server's soft limit at its start
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: str = "0",
        processes: int = 4,
        tasks: int = 20_000,
        descriptors: int = 1024,
    ) -> None:
        self.folder = folder
        self.tasks = tasks
        self._options = ("--port", port, "--tasks", str(tasks), *options)
        self._processes = processes
        self._descriptors = descriptors
        self._stack = contextlib.ExitStack()
        self._environ = environment(folder)
        self._other_descriptors = 0

    def __enter__(self) -> Crowd:
        self.serve()
        return self

    def serve(self) -> None:
        """Start the server (again)."""
        with few_descriptors(self._descriptors):
            self.server = self._start(
                HERE / "scripts" / "thousand.py",
                *("--server", "--bind", "127.0.0.1", "--no-progress", *self._options),
            )
        self.port = self.server.port()
        self.process = psutil.Process(self.server.pid)
        if not self._other_descriptors:  # later, agents are there before one can look
            self.memory_before = self.memory
            self._other_descriptors = int(self.process.num_fds())

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, script: Path, *options: str) -> Program:
        program = Program(script, options, self.folder, environ=self._environ)
        return self._stack.enter_context(program)

    def join(self, agents: int, *options: str) -> list[Program]:
        """Start processes with so many agents in all; those need not have joined yet."""
        share, rest = divmod(agents, self._processes)
        return [
            self._start(
                HERE / "light_agents.py",
                *("--port", self.port, "--agents", str(share + (number < rest)), *options),
            )
            for number in range(self._processes)
        ]

    @property
    def memory(self) -> int:
        """Resident bytes of the server."""
        return int(self.process.memory_info().rss)

    @property
    def memory_grown(self) -> int:
        """By how many bytes the server has grown since it began to listen."""
        return self.memory - self.memory_before

    @property
    def computed(self) -> float:
        """Seconds of processor time that the server has used."""
        return float(sum(self.process.cpu_times()[:2]))

    @property
    def connections(self) -> int:
        """How many connections the server has, roughly: it may have some other file open."""
        return int(self.process.num_fds()) - self._other_descriptors

    def wait_for_connections(self, at_least: int = 0, at_most: int = 1 << 30) -> None:
        """Wait until the server has so many connections."""

        def right() -> bool:
            return self.server.status is not None or at_least <= self.connections <= at_most

        wait_until(right, 60)
        assert self.server.status is None, self.server.err

    @property
    def expected(self) -> str:
        """What the server prints at its end."""
        return f"{sum(number * number for number in range(2 * self.tasks))}\n"

    @property
    def lines(self) -> list[str]:
        """What the server has logged."""
        return self.server.err.splitlines()

    def part(self, name: str) -> None:
        """Have this part of the job handed out."""
        (self.folder / name).touch()

    def wait_for(self, name: str) -> None:
        """Wait until the job has made this file."""
        done = self.folder / name
        wait_until(lambda: done.exists() or self.server.status is not None, 120)
        assert self.server.status is None, self.server.err

    def load(self, seconds: float) -> float:
        """Share of a processor's time that the server takes, over so many seconds."""
        before, begin = self.computed, time.monotonic()
        time.sleep(seconds)
        return (self.computed - before) / (time.monotonic() - begin)


@contextlib.contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    """What is started meanwhile has a soft limit of so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
