"""A node whose cable is pulled: no end of a connection and no reset ever arrives.

The node is in a network namespace of its own, on a bridge; its port of that goes down and up again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from helpers import wait_until
from programs import Program, environment
from test_faults import left_of, started

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parent / "scripts" / "patient.py"
SERVER, NODE = "198.51.100.1", "198.51.100.2"
QUICK = """
import parasnake.net
parasnake.net.KEEPALIVE_IDLE_S, parasnake.net.KEEPALIVE_INTERVAL_S = 1, 1
parasnake.net.KEEPALIVE_PROBES, parasnake.net.KEEPALIVE_SECONDS = 3, 4
"""
"""For the agent: it notices after 4 s what takes it three minutes else."""

Start = Callable[..., Program]


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)


class Cable:
    """A namespace and its connection to this one; both are gone when the context is left."""

    _count = 0

    def __init__(self) -> None:
        Cable._count += 1
        self._name = f"ps{os.getpid() % 1_000_000}x{Cable._count}"

    @property
    def inside(self) -> tuple[str, ...]:
        """What goes before a command that shall run in the namespace."""
        return ("ip", "netns", "exec", self._name)

    def __enter__(self) -> Cable:
        if shutil.which("ip") is None:
            pytest.skip("there is no ip command")
        try:
            self._lay()
        except subprocess.CalledProcessError as error:
            self._remove()
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _lay(self) -> None:
        name = self._name
        ip(f"netns add {name}")
        ip(f"link add {name}b type bridge")
        ip(f"addr add {SERVER}/24 dev {name}b")
        ip(f"link add {name}h type veth peer name {name}n netns {name}")
        ip(f"link set {name}h master {name}b")
        ip(f"-n {name} addr add {NODE}/24 dev {name}n")
        for link in ("lo", f"{name}n"):
            ip(f"-n {name} link set {link} up")
        ip(f"link set {name}b up")
        self.plug()

    def _remove(self) -> None:
        name = self._name
        for words in (f"link del {name}h", f"link del {name}b", f"netns del {name}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(words)

    def pull(self) -> None:
        """Pull it."""
        ip(f"link set {self._name}h down")

    def plug(self) -> None:
        """Put it in (again)."""
        ip(f"link set {self._name}h up")


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable() as cable:
        yield cable


@pytest.fixture
def start(cable: Cable, tmp_path: Path) -> Iterator[Start]:
    """Start the server, or an agent inside the namespace or here."""
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "sitecustomize.py").write_text(QUICK)
    with contextlib.ExitStack() as stack:
        sessions: list[int] = []

        def start_one(*options: str, inside: bool = False) -> Program:
            python = (*cable.inside, sys.executable) if inside else (sys.executable,)
            more = {"PYTHONPATH": str(patches)} if inside else {}
            environ = environment(tmp_path, **more)
            program = Program(SCRIPT, options, tmp_path, environ=environ, python=python)
            sessions.append(program.pid)
            return stack.enter_context(program)

        yield start_one
    for process in [process for session in sessions for process in left_of(session)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def serve(start: Start, heartbeat_timeout: float) -> tuple[Program, tuple[str, ...]]:
    """Start a server with two tasks; return it and the options of nodes."""
    timeout = ("--heartbeat-timeout", str(heartbeat_timeout))
    server = start("--server", "--port", "0", "--bind", "0.0.0.0", "--count", "2", *timeout)
    return server, ("--port", server.port())


def begin(start: Start, node: tuple[str, ...], folder: Path, *options: str) -> Program:
    """Start the agent at the cable and let it begin the first task."""
    far = start(*node, "--ip", SERVER, *options, inside=True)
    wait_until(lambda: started(folder, 0))
    return far


def test_it_stays_out(start: Start, cable: Cable, tmp_path: Path) -> None:
    server, node = serve(start, 5)
    far = begin(start, node, tmp_path, "--reconnect-timeout", "1")
    cable.pull()
    lost = server.wait_for("lost .*nothing heard for .*")[0]
    assert "1 of its tasks will run elsewhere" in lost
    start(*node)
    wait_until(lambda: len(started(tmp_path, 0)) == 2)  # its task is begun by another
    assert far.wait(60) == 3, far.err
    assert "workers go on" in far.err
    (tmp_path / "go").touch()
    assert server.wait() == 0, server.err
    assert server.out.endswith("finished [0, 1]\n")


def test_it_is_plugged_in_again(start: Start, cable: Cable, tmp_path: Path) -> None:
    server, node = serve(start, 2)
    far = begin(start, node, tmp_path)
    cable.pull()
    server.wait_for("lost .*nothing heard for .*")
    far.wait_for("workers go on")
    cable.plug()
    server.wait_for("is back")
    (tmp_path / "go").touch()
    assert (server.wait(), far.wait()) == (0, 0), server.err
    assert server.out.endswith("finished [0, 1]\n")
    assert len(started(tmp_path, 0)) == 1, "it has gone on with its task"


def test_a_short_break_goes_unnoticed(start: Start, cable: Cable, tmp_path: Path) -> None:
    server, node = serve(start, 60)
    far = begin(start, node, tmp_path)
    cable.pull()
    (tmp_path / "go").touch()
    wait_until(lambda: list(tmp_path.glob("0.*.finished")))  # its result stands before the gap
    cable.plug()
    assert (server.wait(), far.wait()) == (0, 0), server.err
    assert server.out.endswith("finished [0, 1]\n")
    assert "lost" not in server.err + far.err
