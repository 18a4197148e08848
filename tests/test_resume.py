"""Real servers that are killed and started again with their journals."""

from __future__ import annotations

import contextlib
import random
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from callees import free_port
from helpers import wait_until
from programs import Program, environment

from parasnake.core.journal import Checkpoint, Entry, Merged, SentHome
from parasnake.journal import Stored

pytestmark = pytest.mark.usefixtures("unmeasured")

SCRIPT = Path(__file__).parent / "scripts" / "rows.py"


@pytest.fixture(scope="module")
def expected() -> str:
    digest: str = runpy.run_path(str(SCRIPT))["expected"]()
    return digest


class Farm:
    """A server with a journal, which is started again and again, and agents that outlive it."""

    def __init__(self, folder: Path, script: Path = SCRIPT) -> None:
        self.folder = folder
        self.script = script
        self.journal = folder / "rows.journal"
        self.port = str(free_port())

    def start(self, *options: str) -> Program:
        return Program(self.script, options, self.folder, environ=environment(self.folder))

    def serve(self) -> Program:
        network = ("--server", "--port", self.port, "--bind", "127.0.0.1")
        options = (*network, "--no-progress", "--no-speculate")
        return self.start(*options, "--journal", str(self.journal))

    def agent(self, *options: str) -> Program:
        return self.start("--port", self.port, "--workers", "2", *options)

    def computed(self) -> list[str]:
        try:
            return (self.folder / "computed").read_text().split()
        except FileNotFoundError:
            return []

    def entries(self) -> list[Entry]:
        """All that the journal has."""
        with Stored.read(self.journal) as stored:
            return [entry for row in stored.rows() for entry in row.entries]

    def allow(self, rows: int) -> None:
        """Let so many rows be computed, and no more before the next call."""
        new = self.folder / "new"
        new.write_text(str(rows))
        new.replace(self.folder / "allowed")

    def merged(self) -> set[str]:
        """The rows that the journal has; a task's id is its row."""
        if not self.journal.exists():
            return set()
        tasks = [str(entry.task) for entry in self.entries() if isinstance(entry, Merged)]
        assert len(tasks) == len(set(tasks))
        return set(tasks)

    def serve_until(self, rows: int, number: signal.Signals) -> int:
        """Let so many rows be computed in all, and end the server; returns its exit status."""
        with self.serve() as server:
            server.wait_for("server on port")  # agents may be that far without it
            wait_until(lambda: len(self.computed()) >= rows or server.status is not None)
            server.send(number)
            return server.wait()


def test_killed_twenty_times_the_image_is_right_to_the_bit(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path)
    moments = random.Random(1)
    known: set[str] = set()
    with farm.agent() as first, farm.agent() as second:
        for rows in range(0, 500, 25):
            farm.allow(rows + 25)
            moment = rows + moments.randint(1, 25)
            assert farm.serve_until(moment, signal.SIGKILL) == -signal.SIGKILL
            assert known <= (known := farm.merged())
        with farm.serve() as server:
            server.wait_for(r"(?s)(joined|is back).*(joined|is back)")  # it waits for nobody
            farm.allow(600)
            assert server.wait() == 0, server.err
            assert [first.wait(), second.wait()] == [0, 0], first.err
            assert server.out == f"{expected}\n"
    again = len(farm.computed()) - len(set(farm.computed()))
    assert again <= 20 * 4, "more than the rows that were running when it was killed"


def test_with_checkpoints_all_the_time_too(tmp_path: Path, expected: str) -> None:
    farm = Farm(tmp_path, SCRIPT.with_name("kept.py"))
    moments = random.Random(2)
    with farm.agent() as agent:
        for rows, number in zip(
            range(0, 200, 50), [signal.SIGKILL] * 3 + [signal.SIGTERM], strict=True
        ):
            farm.allow(rows + 50)
            status = farm.serve_until(rows + moments.randint(1, 40), number)
            assert status == (143 if number == signal.SIGTERM else -number)
        farm.allow(600)
        with farm.serve() as server:
            assert (server.wait(), agent.wait()) == (0, 0), server.err
            assert server.out == f"{expected}\n"
    again = len(farm.computed()) - len(set(farm.computed()))
    assert again <= 4 * 2, "more than the rows that were running when it was ended"
    with Stored.read(farm.journal) as stored:
        assert isinstance(next(stored.rows()).entries[0], Checkpoint)


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
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(farm.agent())
        farm.allow(20)
        assert farm.serve_until(10, number) == status
        sent_home = number == signal.SIGINT
        assert (farm.entries()[-1] == SentHome()) == sent_home, "then nobody is waited for"
        if sent_home:
            assert agent.wait() == 0
        farm.allow(600)
        known, before = farm.merged(), len(farm.computed())
        server = stack.enter_context(farm.serve())
        if sent_home:
            stack.enter_context(farm.agent())
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


class Patient:
    """A server that is killed while its agent computes two tasks, and the agent, which keeps both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())
        self.script = folder / "patient.py"
        self.text = (SCRIPT.parent / "patient.py").read_text()
        self.script.write_text(self.text)

    def change(self, old: str, new: str) -> None:
        """Let the script be another one from now on; the agent goes on as it is."""
        assert old in self.text
        self.script = self.folder / "changed.py"
        self.script.write_text(self.text.replace(old, new))

    def start(self, *options: str) -> Program:
        options = (*options, "--port", self.port, "--count", "2")
        return Program(self.script, options, self.folder, environ=environment(self.folder))

    def serve(self, *options: str) -> Program:
        return self.start("--server", "--bind", "127.0.0.1", *options)

    def files(self, what: str) -> list[Path]:
        return list(self.folder.glob(f"*.{what}"))

    @contextlib.contextmanager
    def left_alone(self) -> Iterator[Program]:
        """The agent has the results of tasks 0 and 1, and nobody to give them to."""
        with self.start("--workers", "2") as agent:
            with self.serve("--journal", "first.journal") as server:
                wait_until(lambda: len(self.files("started")) == 2 or agent.status is not None)
                server.kill()
                server.wait()
            (self.folder / "go").touch()
            wait_until(lambda: len(self.files("finished")) == 2 or agent.status is not None)
            yield agent


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


class TestAgentsThatHoldResults:
    def test_the_same_journal_takes_them(self, patient: Patient) -> None:
        with patient.left_alone() as agent, patient.serve("--journal", "first.journal") as server:
            assert (server.wait(), agent.wait()) == (0, 0), server.err
            assert server.out.splitlines()[-1] == "finished [0, 1]"
        assert len(patient.files("started")) == 2, "none was computed again"

    @pytest.mark.parametrize("journal", [["--journal", "second.journal"], []])
    def test_another_journal_and_none_are_another_job(
        self, patient: Patient, journal: list[str]
    ) -> None:
        with patient.left_alone() as agent, patient.serve(*journal) as server:
            assert (server.wait(), agent.wait()) == (0, 0), server.err
            assert sorted(server.out.splitlines()) == ["finished [0, 1]", "merged 0", "merged 1"]
            assert "found another job, begins afresh" in agent.err
        assert len(patient.files("started")) == 4, "all was computed again"

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            (
                "range(app.args.count)",
                "range(5, 7)",
                "new_data gave the data 0, and now the data 5",
            ),
            ("    return n\n", "    return -n\n", "code of the process hook is not what it was"),
            ('"patient")', '"patient", seed=1)', "seed= of the app is not what it was"),
        ],
    )
    def test_a_changed_script_is_refused_and_the_old_one_goes_on(
        self, patient: Patient, old: str, new: str, says: str
    ) -> None:
        with patient.left_alone() as agent:
            unchanged = patient.script
            patient.change(old, new)
            with patient.serve("--journal", "first.journal") as server:
                assert server.wait() == 2
                assert says in server.err.splitlines()[-1]
            patient.script = unchanged
            with patient.serve("--journal", "first.journal") as server:
                assert (server.wait(), agent.wait()) == (0, 0), server.err
                assert server.out.splitlines()[-1] == "finished [0, 1]"
        assert len(patient.files("started")) == 2, "none was computed again"

    def test_new_code_that_is_accepted_does_not_take_what_the_old_code_computed(
        self, patient: Patient
    ) -> None:
        with patient.left_alone() as agent:
            for path in (patient.folder / "go", *patient.files("started")):
                path.unlink()
            patient.change("    return n\n", "    return n + 10\n")
            options = ("--journal", "first.journal", "--accept-new-code")
            with patient.serve(*options) as server:
                server.wait_for("the code of the process hook is not the same on server and node")
                wait_until(lambda: len(patient.files("started")) == 2 or server.status is not None)
                agent.kill()
                agent.wait()
                (patient.folder / "go").touch()
                with patient.start("--workers", "2") as new:
                    assert (server.wait(), new.wait()) == (0, 0), server.err
                assert server.out.splitlines()[-1] == "finished [10, 11]"
