"""Real servers that are killed and started again with their journals."""

from __future__ import annotations

import random
import runpy
import signal
from pathlib import Path

import pytest
from helpers import wait_until
from programs import Program, environment
from test_faults import free_port

from parasnake.core.journal import Merged
from parasnake.journal import Stored

SCRIPT = Path(__file__).parent / "scripts" / "rows.py"


@pytest.fixture(scope="module")
def expected() -> str:
    digest: str = runpy.run_path(str(SCRIPT))["expected"]()
    return digest


class Farm:
    """A server with a journal, which is started again and again, and agents that outlive it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "rows.journal"
        self.port = str(free_port())

    def start(self, *options: str) -> Program:
        return Program(SCRIPT, options, self.folder, environ=environment(self.folder))

    def serve(self) -> Program:
        options = ("--server", "--port", self.port, "--bind", "127.0.0.1", "--no-progress")
        return self.start(*options, "--journal", str(self.journal))

    def agent(self, *options: str) -> Program:
        return self.start("--port", self.port, "--workers", "2", *options)

    def computed(self) -> list[str]:
        try:
            return (self.folder / "computed").read_text().split()
        except FileNotFoundError:
            return []

    def merged(self) -> set[str]:
        """The rows that the journal has; a task's id is its row."""
        if not self.journal.exists():
            return set()
        with Stored.read(self.journal) as stored:
            entries = [entry for row in stored.rows() for entry in row.entries]
        tasks = [str(entry.task) for entry in entries if isinstance(entry, Merged)]
        assert len(tasks) == len(set(tasks))
        return set(tasks)

    def serve_for(self, rows: int, number: signal.Signals) -> int:
        """Let so many rows be computed, and end the server then; returns its exit status."""
        before, known = len(self.computed()), self.merged()
        with self.serve() as server:
            wait_until(lambda: len(self.computed()) >= before + rows or server.status is not None)
            server.send(number)
            status = server.wait()
        assert known <= self.merged()
        return status


def test_killed_twenty_times_the_image_is_right_to_the_bit(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    moments = random.Random(1)
    with farm.agent() as first, farm.agent() as second:
        for _ in range(20):
            assert farm.serve_for(moments.randint(1, 15), signal.SIGKILL) == -signal.SIGKILL
        with farm.serve() as server:
            assert server.wait() == 0, server.err
            assert [first.wait(), second.wait()] == [0, 0], first.err
            assert server.out == f"{expected}\n"
    again = len(farm.computed()) - len(set(farm.computed()))
    assert again <= 20 * 4, "more than the rows that were running when it was killed"


def test_a_job_that_is_done_is_told_again_without_a_node(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    with farm.serve() as server, farm.agent():
        assert server.wait() == 0, server.err
    with farm.serve() as server:
        assert server.wait() == 0, server.err
        assert server.out == f"{expected}\n"
        assert "the job was done" in server.err


def test_killed_before_it_has_begun(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    with farm.serve() as server:
        server.wait_for("server on port")
        server.kill()
        server.wait()
    with farm.serve() as server, farm.agent():
        assert server.wait() == 0, server.err
        assert server.out == f"{expected}\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(tmp_path: Path, expected: str, number: signal.Signals, status: int) -> None:
    farm = Farm(tmp_path)
    with farm.agent() as agent:
        assert farm.serve_for(10, number) == status
        if number == signal.SIGINT:
            assert agent.wait() == 0, "sent home"
    known, before = farm.merged(), len(farm.computed())
    with farm.serve() as server, farm.agent():
        assert server.wait() == 0, server.err
        assert server.out == f"{expected}\n"
    assert not known & set(farm.computed()[before:]), "computed again though it was merged"


def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    with farm.serve() as server:
        server.wait_for("server on port")
        with farm.serve() as second:
            assert second.wait() == 2
            last = second.err.splitlines()[-1]
            assert last == (
                f"rows.py: error: journal {farm.journal}: another server is using it just now"
            )
        with farm.agent():
            assert server.wait() == 0, server.err
            assert server.out == f"{expected}\n"


def test_a_local_run(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    options = ("--local", "2", "--no-progress", "--journal", str(farm.journal))
    with farm.start(*options) as first:
        wait_until(lambda: len(farm.computed()) >= 10 or first.status is not None)
        first.kill()
        first.wait()
    known = farm.merged()
    with farm.start(*options) as second:
        assert second.wait() == 0, second.err
        assert second.out == f"{expected}\n"
    assert known <= farm.merged()
