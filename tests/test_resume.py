"""Real servers that are killed and started again with their journals."""

from __future__ import annotations

import random
import runpy
import signal
from pathlib import Path

import pytest
from helpers import wait_until
from programs import Program, environment

from parasnake.core.journal import Merged
from parasnake.journal import Stored

SCRIPT = Path(__file__).parent / "scripts" / "rows.py"


@pytest.fixture(scope="module")
def expected() -> str:
    digest: str = runpy.run_path(str(SCRIPT))["expected"]()
    return digest


class Farm:
    """A server with a journal and an agent of it, which are started again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "rows.journal"

    def start(self, *options: str) -> Program:
        return Program(SCRIPT, options, self.folder, environ=environment(self.folder))

    def serve(self) -> Program:
        options = ("--server", "--port", "0", "--bind", "127.0.0.1", "--no-progress")
        return self.start(*options, "--journal", str(self.journal))

    def agent(self, port: str) -> Program:
        return self.start("--port", port, "--workers", "2")

    def computed(self) -> list[str]:
        try:
            return (self.folder / "computed").read_text().split()
        except FileNotFoundError:
            return []

    def merged(self) -> set[str]:
        """The rows that the journal has; a task's id is its row."""
        with Stored.read(self.journal) as stored:
            entries = [entry for row in stored.rows() for entry in row.entries]
        tasks = [str(entry.task) for entry in entries if isinstance(entry, Merged)]
        assert len(tasks) == len(set(tasks))
        return set(tasks)


def end_early(farm: Farm, rows: int, number: signal.Signals) -> int:
    """Let so many rows be computed, and end the server then; returns its exit status."""
    before, known = len(farm.computed()), farm.merged() if farm.journal.exists() else set()
    with farm.serve() as server, farm.agent(server.port()) as agent:
        wait_until(lambda: len(farm.computed()) >= before + rows or server.status is not None)
        server.send(number)
        status = server.wait()
        agent.wait()
    assert not known & set(farm.computed()[before:]), "computed again though it was merged"
    assert known <= farm.merged()
    return status


def test_killed_again_and_again_the_image_is_right_to_the_bit(
    tmp_path: Path, expected: str
) -> None:
    farm = Farm(tmp_path)
    moments = random.Random(1)
    for _ in range(8):
        end_early(farm, moments.randint(1, 20), signal.SIGKILL)
    with farm.serve() as server, farm.agent(server.port()) as agent:
        assert server.wait() == 0, server.err
        assert agent.wait() == 0, agent.err
        assert server.out == f"{expected}\n"
    with farm.serve() as server:
        assert server.wait() == 0, server.err
        assert server.out == f"{expected}\n"
        assert "the job was done" in server.err


def test_killed_before_it_has_begun(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    with farm.serve() as server:
        server.port()
        server.kill()
        server.wait()
    with farm.serve() as server, farm.agent(server.port()):
        assert server.wait() == 0, server.err
        assert server.out == f"{expected}\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(tmp_path: Path, expected: str, number: signal.Signals, status: int) -> None:
    farm = Farm(tmp_path)
    assert end_early(farm, 10, number) == status
    with farm.serve() as server, farm.agent(server.port()):
        assert server.wait() == 0, server.err
        assert server.out == f"{expected}\n"


def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    with farm.serve() as server:
        port = server.port()
        with farm.serve() as second:
            assert second.wait() == 2
            last = second.err.splitlines()[-1]
            assert last == (
                f"rows.py: error: journal {farm.journal}: another server is using it just now"
            )
        with farm.agent(port):
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
