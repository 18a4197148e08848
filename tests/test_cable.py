"""A node whose cable is pulled: its link goes down, so that no reset ever arrives."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import wait_until
from programs import Program
from test_faults import Start, free_port, start, started

__all__ = ["start"]  # a fixture

_numbers = itertools.count()


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


class Cable:
    """Two ends of a link: the server's here, the node's in a network namespace of its own.

    Raises
    ------
    OSError, subprocess.SubprocessError: this machine does not let us
    """

    def __init__(self) -> None:
        number = next(_numbers)
        name = f"psnk{os.getpid() % 100000}{'abcdefgh'[number % 8]}"
        self.namespace = name
        here, self._there = f"{name}h", f"{name}n"
        net = f"10.{200 + number % 50}.{os.getpid() % 250}"
        self.server = f"{net}.1"
        try:
            run("ip", "netns", "add", name)
            run("ip", "link", "add", here, "type", "veth", "peer", "name", self._there)
            run("ip", "link", "set", self._there, "netns", name)
            run("ip", "addr", "add", f"{self.server}/24", "dev", here)
            run("ip", "link", "set", here, "up")
            run(*self.inside, "ip", "addr", "add", f"{net}.2/24", "dev", self._there)
            self.mend()
            # Retransmissions end after some seconds, which would be a quarter of an hour else.
            run(*self.inside, "sysctl", "-q", "-w", "net.ipv4.tcp_retries2=4")
        except BaseException:
            self.remove()
            raise

    @property
    def inside(self) -> tuple[str, ...]:
        """What makes a command run at the node's end."""
        return ("ip", "netns", "exec", self.namespace)

    @property
    def python(self) -> tuple[str, ...]:
        """The interpreter at the node's end."""
        return (*self.inside, sys.executable)

    def pull(self) -> None:
        """Nothing gets through from now on, in either direction."""
        run(*self.inside, "ip", "link", "set", self._there, "down")

    def mend(self) -> None:
        """Plug it in again."""
        run(*self.inside, "ip", "link", "set", self._there, "up")

    def remove(self) -> None:
        """Take it away, with the namespace; what runs in there goes on without a network."""
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)


@pytest.fixture
def cable() -> Iterator[Cable]:
    try:
        made = Cable()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no network namespaces for tests here: {error}")
    yield made
    made.remove()


def serve(start: Start, cable: Cable, *options: str) -> tuple[Program, tuple[str, ...]]:
    port = str(free_port())
    options = ("--bind", cable.server, "--port", port, "--heartbeat-timeout", "2", *options)
    return start("patient.py", "--server", *options), ("--ip", cable.server, "--port", port)


def test_it_stays_out(start: Start, cable: Cable, tmp_path: Path) -> None:
    server, node = serve(start, cable)
    cut_off = start("patient.py", *node, "--reconnect-timeout", "1", python=cable.python)
    wait_until(lambda: len(started(tmp_path)) == 1)
    cable.pull()
    other = start("patient.py", *node)
    wait_until(lambda: len(started(tmp_path)) == 2)
    (tmp_path / "go").touch()
    assert (server.wait(), other.wait()) == (0, 0), server.err
    assert "nothing heard for 2 s (heartbeat_timeout)" in server.err
    assert server.out.splitlines() == ["merged 0", "finished [0]"]
    assert cut_off.wait(120) == 3, "it noticed by itself that its server was out of reach"
    assert "workers go on, and it is tried again" in cut_off.err


def test_it_is_plugged_in_again(start: Start, cable: Cable, tmp_path: Path) -> None:
    server, node = serve(start, cable)
    cut_off = start("patient.py", *node, python=cable.python)
    wait_until(lambda: len(started(tmp_path)) == 1)
    cable.pull()
    server.wait_for("nothing heard for")
    (tmp_path / "go").touch()
    wait_until(lambda: list(tmp_path.glob("*.finished")))
    assert server.out == ""
    cable.mend()
    assert (server.wait(), cut_off.wait()) == (0, 0), server.err
    assert len(started(tmp_path)) == 1, "it was computed once, and its result was kept"
    assert server.out.splitlines() == ["merged 0", "finished [0]"]


def test_a_short_break_goes_unnoticed(start: Start, cable: Cable, tmp_path: Path) -> None:
    server, node = serve(start, cable, "--heartbeat-timeout", "60")
    agent = start("patient.py", *node, python=cable.python)
    wait_until(lambda: len(started(tmp_path)) == 1)
    cable.pull()
    (tmp_path / "go").touch()
    wait_until(lambda: list(tmp_path.glob("*.finished")))
    cable.mend()
    assert (server.wait(), agent.wait()) == (0, 0), server.err
    assert "lost" not in server.err + agent.err
