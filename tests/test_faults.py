"""What goes wrong with real processes, and what their users see of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from callees import FakeServer, free_port
from helpers import wait_until
from programs import KEY, Program, environment

from parasnake.core.messages import (
    PROTOCOL_VERSION,
    Hello,
    Message,
    QuitKind,
    Refused,
    Welcome,
)
from parasnake.core.session import Session

SCRIPTS = Path(__file__).parent / "scripts"
PACKAGE = f"{os.sep}parasnake{os.sep}"
OTHER_KEY = "another key, just as long: 32 ch"

SLOW_TO_REPLACE = """
import time
from pathlib import Path
from parasnake.agent import ForkedStaff

start, started = ForkedStaff.start, []

def start_when_told(self, closing):
    while started and not Path("replace").exists():
        time.sleep(0.005)
    started.append(1)
    return start(self, closing)

ForkedStaff.start = start_when_told
"""
"""For an agent: all its workers but the first start when there is a file ``replace``."""

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start scripts by their names and options; whatever still runs at the end is killed."""
    with contextlib.ExitStack() as stack:
        sessions: list[int] = []

        def start_one(
            script: str, *options: str, python: tuple[str, ...] = (sys.executable,), **environ: str
        ) -> Program:
            program = stack.enter_context(
                Program(
                    SCRIPTS / script,
                    options,
                    tmp_path,
                    environ=environment(tmp_path, **environ),
                    python=python,
                )
            )
            sessions.append(program.pid)
            return program

        yield start_one
    for session in sessions:
        for process in left_of(session):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def serve(start: Start, script: str, *options: str) -> tuple[Program, tuple[str, ...]]:
    """Start a server; return it and the options of its nodes."""
    server = start(script, "--server", "--port", "0", "--bind", "127.0.0.1", *options)
    return server, ("--port", server.port())


def left_of(session: int) -> list[psutil.Process]:
    """All processes that a program has started and that still run."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def gone(program: Program) -> bool:
    """Whether nothing of a program is left."""
    return not left_of(program.pid)


def started(folder: Path, task: int | str = "*") -> set[int]:
    """The workers that have started a task of the patient script."""
    return {int(path.name.split(".")[1]) for path in folder.glob(f"{task}.*.started")}


def sleeps_again(pid: int) -> bool:
    """Whether a process that sleeps has dealt with the signals that were sent to it."""
    facts = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    pending = int(facts["SigPnd"], 16) | int(facts["ShdPnd"], 16)
    return not pending and facts["State"].startswith("S")


def talk(
    connection: socket.socket, say: list[Message], *, initiator: bool, hear: int = 1
) -> list[Message]:
    """Be one end of a session: say all this, and return so many messages of the other side."""
    session = Session(initiator=initiator, psk=KEY.encode(), ephemeral=os.urandom(32))
    heard: list[Message] = []
    for message in say:
        session.send(message)
    while True:
        while session.wants_to_send:
            session.sent(connection.send(session.data_to_send()))
        if len(heard) >= hear:
            return heard
        data = connection.recv(min(session.read_limit, 1 << 16))
        assert data, "the other side has closed the connection"
        heard += session.receive(data)


def call(port: str, hello: Hello) -> Message:
    """Join a server with this hello and return its answer."""
    with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as connection:
        return talk(connection, [hello], initiator=True)[0]


HELLO = Hello(PROTOCOL_VERSION, 4711, "0.2.0", "3.8.1", "squares", "d1" * 16, "far-away")


class TestNoServer:
    def test_it_says_so_once_and_gives_up(self, start: Start) -> None:
        port = free_port()
        agent = start(
            "squares.py", "--ip", "localhost", "--port", str(port), "--connect-timeout", "3"
        )
        assert agent.wait() == 3
        waiting, error = agent.err.splitlines()
        assert "waiting up to 3 s for the server: " in waiting
        for line in (waiting, error):
            assert f"127.0.0.1:{port}: Connection refused" in line
        assert error.startswith("squares.py: error: no server within 3 s")

    def test_every_address_is_told(self, start: Start) -> None:
        wanted = {
            str(address[4][0])
            for address in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        }
        agent = start("squares.py", "--ip", "localhost", "--port", str(free_port()),
                      "--connect-timeout", "0")  # fmt: skip
        assert agent.wait() == 3
        assert agent.err.count("Connection refused") == len(wanted)

    def test_a_name_that_leads_nowhere(self, start: Start) -> None:
        agent = start("squares.py", "--ip", "no-such-host.invalid", "--connect-timeout", "0")
        assert agent.wait() == 3
        assert "no-such-host.invalid: " in agent.err

    def test_the_server_may_come_later(self, start: Start) -> None:
        port = str(free_port())
        agent = start("squares.py", "--port", port)
        agent.wait_for("waiting up to 300 s")
        server = start("squares.py", "--server", "--port", port, "--bind", "127.0.0.1")
        assert server.wait() == 0, server.err
        assert agent.wait() == 0, agent.err
        assert server.out == "328350\n"

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_forwarder_with_nothing_behind_it(self, start: Start, reset: bool) -> None:
        def hang_up(connection: socket.socket) -> None:
            if reset:  # what was sent and not read makes a close a reset
                connection.recv(1, socket.MSG_PEEK)

        with FakeServer(hang_up, times=3) as forwarder:
            port = forwarder.port
            agent = start("squares.py", "--port", port)
        server = start("squares.py", "--server", "--port", port, "--bind", "127.0.0.1")
        assert server.wait() == 0, server.err
        assert agent.wait() == 0, agent.err
        assert agent.err.count("waiting up to") == 1


class TestStrangers:
    @pytest.mark.parametrize(
        "answer",
        [
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            b"220 mail\r\n",
            b"\x15\x03\x01\x00\x02\x02\x46",
        ],
        ids=["ssh", "http", "smtp", "tls"],
    )
    def test_what_is_no_parasnake_server(self, start: Start, answer: bytes) -> None:
        def greet(connection: socket.socket) -> None:
            connection.recv(1 << 16)
            connection.sendall(answer)

        with FakeServer(greet) as stranger:
            agent = start("squares.py", "--port", stranger.port)
            assert agent.wait() == 4
        assert agent.err == (
            f"squares.py: error: 127.0.0.1:{stranger.port}: what answers there is no Parasnake "
            "server; check the address and the port (--ip, --port)\n"
        )

    def test_a_wrong_key(self, start: Start) -> None:
        server, node = serve(start, "squares.py")
        for _ in range(2):
            agent = start("squares.py", *node, PARASNAKE_SECRET_KEY=OTHER_KEY)
            assert agent.wait() == 4
            (line,) = agent.err.splitlines()
            assert "the server holds another secret key" in line
            assert "--key-file" in line
        good = start("squares.py", *node)
        assert (good.wait(), server.wait()) == (0, 0)
        away = re.findall(r"WARNING: squares: turned away (\S+): .*", server.err)
        assert len(away) == 1, "one line a minute"
        assert away[0].startswith("127.0.0.1:")
        for text in (server.err, agent.err):
            assert OTHER_KEY not in text
            assert KEY not in text

    def test_another_app(self, start: Start) -> None:
        server, node = serve(start, "squares.py")
        agent = start("patient.py", *node)
        assert agent.wait() == 4
        refused = server.wait_for(r"WARNING: squares: refused .*")[0]
        assert f"pid {agent.pid}" in refused
        for text in (agent.err, refused):
            assert (
                "the server runs the app 'squares', the node belongs to the app 'patient'" in text
            )

    def test_another_protocol_at_the_server(self, start: Start) -> None:
        server, (_, port) = serve(start, "squares.py")
        answer = call(port, HELLO._replace(protocol=99, library="9.9"))
        assert isinstance(answer, Refused)
        line = server.wait_for("refused .*")[0]
        for text in (answer.reason, line):
            assert f"the server speaks protocol {PROTOCOL_VERSION} (Parasnake 0.2.0)" in text
            assert "the node protocol 99 (Parasnake 9.9)" in text

    def test_another_protocol_at_the_agent(self, start: Start) -> None:
        def refuse(connection: socket.socket) -> None:
            talk(connection, [Refused(0, "the server speaks protocol 99")], initiator=False)

        with FakeServer(refuse) as server:
            agent = start("squares.py", "--port", server.port)
            assert agent.wait() == 4
        assert "error: the server refuses this node: the server speaks protocol 99" in agent.err

    def test_another_python_and_another_process(self, start: Start) -> None:
        server, (_, port) = serve(start, "squares.py")
        assert isinstance(call(port, HELLO), Welcome)
        server.wait_for(r"WARNING: .*far-away \(pid 4711, .*the node Python 3\.8\.1")
        server.wait_for(r"WARNING: .*far-away.*process hook is not the same.*d1d1d1d1")

    def test_another_process_with_real_scripts(self, start: Start, tmp_path: Path) -> None:
        text = (SCRIPTS / "squares.py").read_text()
        other = tmp_path / "squares.py"
        other.write_text(text.replace("return n * n", "return n**2"))
        server, node = serve(start, "squares.py")
        with Program(other, node, tmp_path, environ=environment(tmp_path)) as agent:
            assert (agent.wait(), server.wait()) == (0, 0)
            for program in (server, agent):
                assert re.search(r"WARNING: .*the code of the process hook is not", program.err)


class TestWrongSettings:
    def one_line(self, program: Program) -> str:
        assert program.wait() == 2
        (line,) = program.err.splitlines()
        return line

    def test_a_port_in_use(self, start: Start) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            line = self.one_line(start("squares.py", "--server", "--port", port))
            assert line.startswith(f"squares.py: error: port {port} is in use")
            line = self.one_line(
                start("squares.py", "--server", "--port", port, "--bind", "127.0.0.1")
            )
            assert line.startswith(f"squares.py: error: port {port} is in use")

    def test_an_address_that_is_not_here(self, start: Start) -> None:
        line = self.one_line(start("squares.py", "--server", "--bind", "192.0.2.1"))
        assert "bind='192.0.2.1'" in line

    @pytest.mark.parametrize(
        ("options", "environ", "parts"),
        [
            (["--port", "70000"], {}, ["port = ", "70000", "--port", "from 0 to 65535"]),
            ([], {"PARASNAKE_WORKERS": "some"}, ["PARASNAKE_WORKERS", "workers = 'some'"]),
            (["--config", "missing.toml"], {}, ["config = 'missing.toml'", "No such file"]),
            (["--key-file", "missing.key"], {}, ["missing.key", "No such file", "keygen"]),
            (["--key-file", "."], {}, ["key file", "directory"]),
        ],
    )
    def test_settings(
        self, start: Start, options: list[str], environ: dict[str, str], parts: list[str]
    ) -> None:
        line = self.one_line(start("squares.py", *options, **environ))
        for part in parts:
            assert part in line

    def test_a_field_of_the_file(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "settings.toml").write_text("prot = 5\n")
        line = self.one_line(start("squares.py", "--config", "settings.toml"))
        assert "settings.toml" in line
        assert "did you mean 'port'?" in line

    def test_hooks(self, start: Start, tmp_path: Path) -> None:
        script = tmp_path / "empty.py"
        script.write_text("from parasnake import Parasnake\nParasnake('empty').main()\n")
        with Program(script, ["--server"], tmp_path, environ=environment(tmp_path)) as server:
            assert server.wait() == 2
            assert "app 'empty' has no new_data hook, which a server needs" in server.err
            assert "Traceback" not in server.err


class TestProcess:
    @pytest.mark.parametrize(
        ("deed", "cause", "attempts"),
        [
            ("raise", "KeyError: 'no such key'", 3),
            ("sys.exit", "exited with status 1", 3),
            ("sys.exit(0)", "exited with status 0", 3),
            ("os._exit", "exited with status 7", 3),
            ("SIGSEGV", "killed by signal 11 (SIGSEGV)", 3),
            ("SIGKILL", "killed by signal 9 (SIGKILL)", 3),
            ("MemoryError", "MemoryError", 3),
            ("unpicklable", "result[\"key\"][1]: cannot pickle '_thread.lock' object", 1),
        ],
    )
    def test_it_fails_for_good(self, start: Start, deed: str, cause: str, attempts: int) -> None:
        run = start("deeds.py", "--local", "2", "--deed", deed, "--no-speculate")
        assert run.wait() == 1
        assert run.out == ""
        error = run.err.splitlines()[-1]
        assert error.startswith(f"deeds.py: error: task 3 has failed after {attempts} failed att")
        assert "(pid " in error, "on which host"
        assert cause in error
        assert run.err.count("will be tried again") == attempts - 1
        if deed != "SIGSEGV":  # what the interpreter prints then is passed on as it is
            assert PACKAGE not in run.err, "frames of the library"
        if deed == "raise":
            assert run.err.count('TABLE["no such key"]') == 3, "a traceback of each attempt"

    @pytest.mark.parametrize("deed", ["raise", "os._exit", "unpicklable"])
    def test_with_a_failed_hook_the_job_goes_on(self, start: Start, deed: str) -> None:
        run = start("deeds.py", "--local", "2", "--deed", deed, "--forgive")
        assert run.wait() == 0, run.err
        first, last = run.out.splitlines()
        assert first.startswith("failed 3 task 3 has failed")
        assert last == f"finished {[str(n) for n in range(10) if n != 3]}"

    def test_a_dead_worker_is_replaced(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py", "--count", "2")
        agent = start("patient.py", *node)
        first = wait_until(lambda: started(tmp_path, 0)).pop()
        os.kill(first, signal.SIGKILL)
        line = agent.wait_for(r"WARNING: .* a worker died while it was computing.*")[0]
        assert re.search(r"killed by signal 9 \(SIGKILL\); its peak memory was \d+ MB$", line)
        wait_until(lambda: started(tmp_path, 0) - {first})
        (tmp_path / "go").touch()
        assert (server.wait(), agent.wait()) == (0, 0)
        assert server.out.splitlines()[-1] == "finished [0, 1]"
        assert "1 worker died" in server.err.splitlines()[-1]

    def test_the_server_knows_of_a_death_before_the_next_worker_starts(
        self, start: Start, tmp_path: Path
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(SLOW_TO_REPLACE)
        server, node = serve(start, "patient.py", "--count", "1")
        agent = start("patient.py", *node, PYTHONPATH=str(tmp_path))
        os.kill(wait_until(lambda: started(tmp_path, 0)).pop(), signal.SIGKILL)
        server.wait_for("a worker on .* died")
        for name in ("replace", "go"):
            (tmp_path / name).touch()
        assert (server.wait(), agent.wait()) == (0, 0)

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    @pytest.mark.parametrize(
        ("deed", "cause"),
        [
            ("os._exit", "exited with status 7"),
            ("SIGKILL", r"killed by signal 9 \(SIGKILL\)"),
            ("SIGSEGV", r"killed by signal 11 \(SIGSEGV\)"),
        ],
    )
    def test_what_a_worker_printed_before_its_death_is_told(
        self, start: Start, deed: str, cause: str, method: str
    ) -> None:
        server, node = serve(start, "dying.py", "--max-attempts", "1", "--forgive")
        agent = start("dying.py", *node, "--deed", deed, "--start-method", method)
        assert (server.wait(), agent.wait()) == (0, 0), server.err
        worker = re.findall(r"worker \d+ prints this", agent.out)
        assert len(worker) == 1, "the agent passes it on"
        assert "\x1b[31mfrom C code\x1b[0m\n" in agent.err.partition("a worker died")[0]
        lines = f"the last lines that it printed:\n    {worker[0]}\n    from C code\n"
        died = rf"died: {cause}; its peak memory was \d+ MB"
        assert re.search(rf"WARNING: dying: a worker on .* {died}; {lines}", server.err)
        assert re.search(rf"failed 2: .* {died}\ncause: {lines}", server.out + "\n")
        assert "\x1b" not in server.err
        if deed == "SIGSEGV":
            assert "    Fatal Python error: Segmentation fault\n" in server.err
            assert 'dying.py", line ' in server.err
            assert PACKAGE not in server.err, "frames of the library"

    def test_what_a_worker_has_started_does_not_hold_up_the_news_of_its_death(
        self, start: Start, tmp_path: Path
    ) -> None:
        run = start("dying.py", "--local", "1", "--leave")
        try:
            assert run.wait() == 1
            assert run.err.count("exited with status 7") == 6, "three deaths and what follows"
        finally:
            left = [int(path.suffix[1:]) for path in tmp_path.glob("left.*")]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert len(left) == 3, "these have outlived it"

    def test_a_worker_that_prints_while_nobody_reads_disturbs_nobody(
        self, start: Start, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDWR)
        server, node = serve(start, "flood.py", "--heartbeat-timeout", "4")
        shell = ("/bin/sh", "-c", 'exec "$0" "$@" >pipe', sys.executable)
        agent = start("flood.py", *node, python=shell)
        wait_until((tmp_path / "printing").exists)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: False, timeout=5)  # that is: longer than the heartbeat timeout
        assert not server.out, "the worker waits for somebody to read"
        text = b""
        while text.count(b"\n") < 20_000:
            text += os.read(reader, 1 << 16)
        os.close(reader)
        assert (server.wait(), agent.wait()) == (0, 0), server.err
        assert text == b"".join(b"line %020d\n" % n for n in range(20_000))
        assert "WARNING" not in server.err

    def test_data_whose_module_the_node_lacks(self, start: Start, tmp_path: Path) -> None:
        library = tmp_path / "library"
        library.mkdir()
        (library / "only_on_the_server.py").write_text(
            "__version__ = '1.5'\nclass Point:\n    pass\n"
        )
        server = start(
            "foreign.py", "--server", "--port", "0", "--bind", "127.0.0.1",
            PYTHONPATH=str(library),
        )  # fmt: skip
        agent = start("foreign.py", "--port", server.port())
        assert server.wait() == 1
        assert agent.wait() == 0
        error = server.err.splitlines()[-1]
        for part in (
            "its data cannot be rebuilt on the node",
            "only_on_the_server.Point",
            "only_on_the_server is not installed",
            "the server has only_on_the_server 1.5",
        ):
            assert part in error
        assert PACKAGE not in server.err


class TestServerHooks:
    @pytest.mark.parametrize("hook", ["init_data", "new_data", "result", "job_done"])
    def test_one_raises(self, start: Start, hook: str) -> None:
        server = start("raising.py", "--server", "--port", "0", "--hook", hook)
        if hook != "job_done":  # that one is asked before there is a node
            agent = start("raising.py", "--port", server.port())
            assert agent.wait() == 0
            reason = f"the job was stopped on the server: LookupError: raised by {hook}"
            assert reason in agent.err
        assert server.wait() == 1
        assert f"in {'numbers' if hook == 'new_data' else ''}" in server.err
        assert f"LookupError: raised by {hook}\n" in server.err
        assert server.err.splitlines()[-1].endswith(
            f"the hook @app.{hook} raised an exception; the job has been stopped"
        )
        assert PACKAGE not in server.err, "frames of the library"
        assert not server.out

    def test_finish_raises(self, start: Start) -> None:
        run = start("raising.py", "--local", "1", "--hook", "finish")
        assert run.wait() == 1
        assert "LookupError: raised by finish\n" in run.err
        assert PACKAGE not in run.err

    def test_node_init_raises(self, start: Start) -> None:
        server = start("raising.py", "--server", "--port", "0")
        agent = start("raising.py", "--port", server.port(), "--hook", "node_init")
        assert agent.wait() == 1
        server.wait_for(r"ERROR: .* left: workers cannot start here: @app.node_init raised Look")
        assert 'raise LookupError(f"raised by {hook}")' in server.wait_for(r"(?s)ERROR.*\Z")[0]
        good = start("raising.py", "--port", server.port())
        assert (server.wait(), good.wait()) == (0, 0)
        assert server.out == "finished\n"


class TestLostAgents:
    def test_kill_9_with_a_long_task(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py", "--count", "2")
        first = start("patient.py", *node, "--workers", "2")
        old = wait_until(lambda: len(found := started(tmp_path)) == 2 and found)
        second = start("patient.py", *node, "--workers", "2")
        second.wait_for("joined")
        first.kill()
        line = server.wait_for(r"WARNING: patient: lost .*")[0]
        assert f"pid {first.pid}" in line
        assert line.endswith("2 of its tasks will run elsewhere")
        wait_until(lambda: len(started(tmp_path) - old) == 2)
        wait_until(lambda: gone(first))
        (tmp_path / "go").touch()
        assert (server.wait(), second.wait()) == (0, 0)
        assert server.out.splitlines()[-1] == "finished [0, 1]"
        assert "1 agent lost" in server.err.splitlines()[-1]

    def test_a_silent_one_comes_back_too_late(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py", "--stay", "--heartbeat-timeout", "2")
        frozen = start("patient.py", *node)
        old = wait_until(lambda: started(tmp_path, 0))
        frozen.send(signal.SIGSTOP)
        try:
            lost = server.wait_for(r"lost .*")[0]
            assert f"pid {frozen.pid}" in lost
            assert re.search(r"nothing heard for \d+ s \(heartbeat_timeout\)", lost)
            other = start("patient.py", *node)
            wait_until(lambda: started(tmp_path, 0) - old)
            (tmp_path / "go").touch()
            wait_until(lambda: "merged 0" in server.out)
        finally:
            frozen.send(signal.SIGCONT)
        frozen.wait_for("the connection to the server at .* was lost")
        frozen.wait_for("is back")
        (tmp_path / "end").touch()
        assert (server.wait(), other.wait(), frozen.wait()) == (0, 0, 0)
        assert server.out.splitlines() == ["merged 0", "finished [0]"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_hands_tasks_back_at_no_cost(
        self, start: Start, tmp_path: Path, number: int
    ) -> None:
        server, node = serve(start, "patient.py", "--max-attempts", "1", "--max-losses", "1")
        first = start("patient.py", *node)
        old = wait_until(lambda: started(tmp_path, 0))
        first.send(number)
        assert first.wait() == 128 + number
        line = server.wait_for(r"patient: .* left: .*")[0]
        assert f"pid {first.pid}" in line
        assert line.endswith(f"stopped by signal {int(number)}; 1 of its tasks will run elsewhere")
        wait_until(lambda: gone(first))
        second = start("patient.py", *node)
        wait_until(lambda: started(tmp_path, 0) - old)
        (tmp_path / "go").touch()
        assert (server.wait(), second.wait()) == (0, 0)
        assert "0 retries" in server.err.splitlines()[-1]
        assert "WARNING" not in server.err

    def test_a_batch_systems_time_limit_is_named(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py")
        slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_END_TIME": str(int(time.time()) + 120)}
        first = start("patient.py", *node, **slurm)
        wait_until(lambda: started(tmp_path, 0))
        first.send(signal.SIGCONT)
        first.send(signal.SIGTERM)
        assert first.wait() == 143
        limit = r"stopped by signal 15: the time limit of its Slurm job 4711 is at \d\d:\d\d:\d\d"
        server.wait_for(rf"patient: .* left: {limit}; 1 of its tasks will run elsewhere")
        assert re.search(limit, first.err)

    def test_a_signal_before_there_is_a_server(self, start: Start) -> None:
        agent = start("squares.py", "--port", str(free_port()))
        agent.wait_for("waiting up to")
        agent.send(signal.SIGTERM)
        assert agent.wait() == 143
        assert agent.err.splitlines()[-1] == "squares.py: stopped by signal 15"

    def test_the_agent_of_a_local_run_is_killed(self, start: Start, tmp_path: Path) -> None:
        run = start("patient.py", "--local", "2", "--count", "2")
        old = wait_until(lambda: len(found := started(tmp_path)) == 2 and found)
        (agent,) = psutil.Process(run.pid).children()
        agent.kill()
        wait_until(lambda: len(started(tmp_path) - old) == 2)
        (tmp_path / "go").touch()
        assert run.wait() == 0, run.err
        assert run.out.splitlines()[-1] == "finished [0, 1]"
        assert "the local agent has died (killed by signal 9 (SIGKILL)): starting an" in run.err
        wait_until(lambda: gone(run))

    def test_the_agent_of_a_local_run_is_frozen(self, start: Start, tmp_path: Path) -> None:
        run = start("patient.py", "--local", "1", "--heartbeat-timeout", "1.5")
        old = wait_until(lambda: started(tmp_path))
        (agent,) = psutil.Process(run.pid).children()
        agent.suspend()
        run.wait_for(r"nothing heard for \d+ s")
        agent.resume()
        run.wait_for("is back")
        (tmp_path / "go").touch()
        assert run.wait() == 0, run.err
        assert run.out.splitlines() == ["merged 0", "finished [0]"]
        assert started(tmp_path) == old, "its worker has gone on all the while"

    def test_max_losses(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py", "--max-losses", "1")
        agent = start("patient.py", *node)
        wait_until(lambda: started(tmp_path))
        agent.kill()
        assert server.wait() == 1
        error = server.err.splitlines()[-1]
        assert "task 0 has failed after 0 failed attempts and 1 lost node; the last one: " in error
        assert f"pid {agent.pid}" in error


class TestPoison:
    """A task that kills whoever computes it."""

    def test_it_is_tried_on_different_agents(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py", "--max-attempts", "2", "-v")
        agents = [start("patient.py", *node) for _ in range(2)]
        server.wait_for("(?s)(node \\S+ of .*){2}")  # both are ready
        died_on = set()
        old: set[int] = set()
        for _ in range(2):
            (worker,) = wait_until(lambda: started(tmp_path) - old)
            old.add(worker)
            died_on.add(psutil.Process(worker).ppid())
            os.kill(worker, signal.SIGKILL)
        assert server.wait() == 1
        assert died_on == {agent.pid for agent in agents}
        error = server.err.splitlines()[-1]
        assert "task 0 has failed after 2 failed attempts; the last one: its worker on " in error
        assert "killed by signal 9 (SIGKILL); its peak memory was " in error

    def test_handed_out_again_by_the_user_it_is_known_by_its_data(
        self, start: Start, tmp_path: Path
    ) -> None:
        run = start("poison.py", "--local", "2")
        assert run.wait() == 1
        assert len(started(tmp_path, "poison")) == 3
        assert run.out == "lost poison\n" * 2
        error = run.err.splitlines()[-1]
        assert re.search(r"task \d has failed after 3 failed attempts; .*with status 9", error)

    def test_also_when_it_was_being_computed_on_lost_agents(
        self, start: Start, tmp_path: Path
    ) -> None:
        server, node = serve(start, "poison.py", "--max-losses", "2")
        old: set[int] = set()
        for _ in range(2):
            agent = start("poison.py", *node, "--wait")
            old |= wait_until(lambda: started(tmp_path, "poison") - old)  # noqa: B023
            agent.kill()
        assert server.wait() == 1
        assert server.out == "lost poison\n"
        error = server.err.splitlines()[-1]
        assert re.search(r"task 1 has failed after 0 failed attempts and 2 lost nodes; .*", error)

    def test_a_failed_hook_takes_it_off_the_books_before_node_timeout(
        self, start: Start, tmp_path: Path
    ) -> None:
        run = start("poison.py", "--local", "2", "--forgive")
        assert run.wait() == 0, run.err
        assert len(started(tmp_path, "poison")) == 3
        lost, again, failed, finished = run.out.splitlines()
        assert (lost, again) == ("lost poison", "lost poison")
        assert failed.startswith("failed task ")
        assert finished == "finished ['a', 'b', 'c', 'poison']"


class TestSlowNodes:
    def test_the_last_task_sits_on_a_slow_one(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "uneven.py")
        slow = start("uneven.py", *node, SLOW="yes")
        wait_until(lambda: started(tmp_path))
        fast = start("uneven.py", *node)
        assert (server.wait(), slow.wait(), fast.wait()) == (0, 0, 0), server.err
        assert server.out.splitlines()[-1] == "finished [0, 1, 2, 3, 4, 5]"
        assert "0 retries" in server.err.splitlines()[-1]
        wait_until(lambda: gone(slow))

    def test_what_it_computes_in_vain_is_ended(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "uneven.py", "--stay")
        slow = start("uneven.py", *node, "-v", SLOW="yes")
        (in_vain,) = wait_until(lambda: started(tmp_path))
        fast = start("uneven.py", *node)
        wait_until(lambda: server.out.count("merged") == 6)
        wait_until(lambda: in_vain not in {process.pid for process in left_of(slow.pid)})
        wait_until(lambda: len(left_of(slow.pid)) == 2)  # its agent, and another worker
        (tmp_path / "end").touch()
        assert (server.wait(), slow.wait(), fast.wait()) == (0, 0, 0), server.err
        assert server.out.splitlines()[-1] == "finished [0, 1, 2, 3, 4, 5]"
        assert "a worker was ended: what it computed is not wanted any more" in slow.err
        for text in (server.err, slow.err):
            assert "WARNING" not in text
            assert "died" not in text
        assert "0 retries" in server.err.splitlines()[-1]


class TestSignalsAtTheServer:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_nodes_are_sent_home(self, start: Start, tmp_path: Path, number: int) -> None:
        server, node = serve(start, "patient.py")
        agent = start("patient.py", *node, "--workers", "2")
        wait_until(lambda: started(tmp_path, 0))
        server.send(number)
        assert server.wait() == 128 + number
        assert agent.wait() == 0
        assert "left after 0 results: the server was stopped" in agent.err
        assert "finished" not in server.out
        assert server.err.splitlines()[-1] == f"patient.py: stopped by signal {int(number)}"
        wait_until(lambda: gone(agent))

    def test_one_that_was_stopped_for_long_loses_nobody(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py", "--heartbeat-timeout", "4")
        agents = [start("patient.py", *node) for _ in range(2)]
        wait_until(lambda: started(tmp_path))
        server.wait_for("(?s)(joined.*){2}")
        server.send(signal.SIGSTOP)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: False, timeout=5)  # that is: longer than the heartbeat timeout
        server.send(signal.SIGCONT)
        (tmp_path / "go").touch()
        assert server.wait() == 0
        for agent in agents:
            assert agent.wait() == 0, agent.err
        assert "WARNING" not in server.err

    def test_ctrl_c_at_a_local_run(self, start: Start, tmp_path: Path) -> None:
        run = start("patient.py", "--local", "2", "--count", "2")
        wait_until(lambda: len(started(tmp_path)) == 2)
        run.interrupt()
        assert run.wait() == 130
        assert "Traceback" not in run.err
        assert "finished" not in run.out
        wait_until(lambda: gone(run))

    def test_a_second_ctrl_c_leaves_a_hook_that_never_returns(self, start: Start) -> None:
        run = start("busy.py", "--local", "1", "--merge", "600")
        wait_until(lambda: "merging" in run.out)
        run.interrupt()
        wait_until(lambda: sleeps_again(run.pid))
        run.interrupt()
        assert run.wait() == 130
        assert run.err.splitlines()[-1] == "busy.py: interrupted"
        wait_until(lambda: gone(run))

    def test_kill_9_of_a_local_run_leaves_no_orphans(self, start: Start, tmp_path: Path) -> None:
        run = start("patient.py", "--local", "2", "--count", "2")
        wait_until(lambda: len(started(tmp_path)) == 2)
        run.kill()
        wait_until(lambda: gone(run))


class TestBusyUserCode:
    @pytest.mark.parametrize("local", [True, False])
    def test_process_holds_the_gil(self, start: Start, local: bool) -> None:
        options = ("--hold", "4", "--count", "2", "--heartbeat-timeout", "3")
        if local:
            server = start("busy.py", *options, "--local", "2")
        else:
            server, node = serve(start, "busy.py", *options)
            agent = start("busy.py", *node, "--hold", "4", "--workers", "2")
            assert agent.wait() == 0, agent.err
        assert server.wait() == 0, server.err
        assert server.out == "merged 2\n"
        assert "0 retries" in server.err.splitlines()[-1]
        assert "WARNING" not in server.err

    def test_a_slow_result_hook_while_large_results_queue_up(
        self, start: Start, tmp_path: Path
    ) -> None:
        options = ("--gate", "--merge", "5", "--bytes", str(5_000_000), "--count", "12")
        server, node = serve(start, "busy.py", *options, "--heartbeat-timeout", "4")
        agents = [start("busy.py", *node, *options) for _ in range(2)]
        server.wait_for("(?s)(joined.*){2}")
        (tmp_path / "go").touch()
        assert server.wait() == 0, server.err
        for agent in agents:
            assert agent.wait() == 0, agent.err
        assert server.out == "merging\nmerged 12\n"
        assert "0 retries" in server.err.splitlines()[-1]
        assert "WARNING" not in server.err


class TestWorkers:
    def test_forked_twins_draw_different_numbers(self, start: Start) -> None:
        run = start("draws.py", "--local", "4", "--start-method", "fork", "--no-speculate")
        assert run.wait() == 0, run.err
        assert run.out == "4 4 4\n"

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_what_the_script_defines_keeps_its_identity(self, start: Start, method: str) -> None:
        run = start("payloads.py", "--local", "1", "--start-method", method)
        assert run.wait() == 0, run.err
        assert run.out == "True True True True\n"

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_their_output_reaches_the_terminal(self, start: Start, method: str) -> None:
        options = ("--local", "2", "--start-method", method, "--no-speculate")
        run = start("talkative.py", *options, PYTHONUNBUFFERED="1")  # and lines stay whole
        assert run.wait() == 0, run.err
        assert sorted(run.out.splitlines()) == [f"hello from {n}" for n in range(3)]
        for n in range(3):
            assert f"no newline {n}" in run.err

    def test_the_log_can_be_turned_off(self, start: Start) -> None:
        run = start("talkative.py", "--local", "2", "--quiet")
        assert run.wait() == 0
        assert (run.out, run.err) == ("", "")


def test_descriptors_are_used_up(start: Start, tmp_path: Path) -> None:
    few = ("/bin/sh", "-c", 'ulimit -n 40; exec "$0" "$@"', sys.executable)
    server = start("patient.py", "--server", "--port", "0", "--bind", "127.0.0.1", python=few)
    port = server.port()
    agent = start("patient.py", "--port", port)
    wait_until(lambda: started(tmp_path))
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", int(port))))
        line = server.wait_for(r"WARNING: .*no more connections for now.*")[0]
        assert "ulimit -n" in line
        (tmp_path / "go").touch()
        assert (server.wait(), agent.wait()) == (0, 0), server.err
    assert server.out.splitlines() == ["merged 0", "finished [0]"]


def test_the_limit_of_descriptors_is_raised(start: Start, tmp_path: Path) -> None:
    few = ("/bin/sh", "-c", 'ulimit -S -n 40; exec "$0" "$@"', sys.executable)
    server = start("patient.py", "--server", "--port", "0", "--bind", "127.0.0.1", python=few)
    port = server.port()
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", int(port))))
        agent = start("patient.py", "--port", port)
        wait_until(lambda: started(tmp_path))
        (tmp_path / "go").touch()
        assert (server.wait(), agent.wait()) == (0, 0), server.err
    assert "no more connections" not in server.err


def test_nobody_can_say_quit_in_a_way_that_hurts(start: Start) -> None:
    """A reason with odd characters comes through as text."""
    from parasnake.core.messages import Quit

    def quit_at_once(connection: socket.socket) -> None:
        talk(connection, [Quit(QuitKind.FAILED, "naïve \x1b[31m %s")], initiator=False)
        connection.recv(1 << 16)

    with FakeServer(quit_at_once) as server:
        agent = start("squares.py", "--port", server.port)
        assert agent.wait() == 0
    assert "naïve" in agent.err
