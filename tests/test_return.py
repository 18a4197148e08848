"""Connections that are cut and servers that are killed, with real processes, while agents work on."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from callees import free_port
from helpers import wait_until
from proxy import Proxy
from test_faults import OTHER_KEY, Start, gone, serve, start, started

__all__ = ["start"]  # a fixture


def files(folder: Path, what: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*.{what}"))


class TestTheServerLives:
    def test_running_tasks_go_on(self, start: Start, tmp_path: Path) -> None:
        server, (_, port) = serve(start, "patient.py", "--count", "2")
        with Proxy(port) as proxy:
            agent = start("patient.py", "--port", proxy.port, "--workers", "2")
            wait_until(lambda: len(started(tmp_path)) == 2)
            proxy.cut()
            server.wait_for("lost .* 2 of its tasks will run elsewhere")
            wait_until(lambda: proxy.refused)
            proxy.mend()
            server.wait_for("is back")
            (tmp_path / "go").touch()
            assert (server.wait(), agent.wait()) == (0, 0), server.err
        assert len(files(tmp_path, "started")) == 2, "none was computed twice"
        assert server.out.splitlines()[-1] == "finished [0, 1]"
        assert agent.err.count("workers go on") == 1
        assert len(re.findall("is back, connected to the server at .* with 2 w", agent.err)) == 1

    def test_what_is_finished_meanwhile_is_merged(self, start: Start, tmp_path: Path) -> None:
        server, (_, port) = serve(start, "patient.py", "--count", "2")
        with Proxy(port) as proxy:
            agent = start("patient.py", "--port", proxy.port, "--workers", "2")
            wait_until(lambda: len(started(tmp_path)) == 2)
            proxy.cut()
            (tmp_path / "go").touch()
            wait_until(lambda: len(files(tmp_path, "finished")) == 2)
            wait_until(lambda: proxy.refused)
            assert server.out == ""
            proxy.mend()
            assert (server.wait(), agent.wait()) == (0, 0), server.err
        assert len(files(tmp_path, "started")) == 2, "none was computed twice"
        assert server.out.splitlines()[-1] == "finished [0, 1]"

    def test_another_node_was_given_it_meanwhile(self, start: Start, tmp_path: Path) -> None:
        server, (_, port) = serve(start, "patient.py", "--stay")
        with Proxy(port) as proxy:
            first = start("patient.py", "--port", proxy.port)
            wait_until(lambda: len(started(tmp_path)) == 1)
            proxy.cut()
            second = start("patient.py", "--port", port)
            wait_until(lambda: len(started(tmp_path)) == 2)
            proxy.mend()
            server.wait_for("is back")
            (tmp_path / "go").touch()
            wait_until(lambda: "merged 0" in server.out)  # whose copy is slower is ended
            (tmp_path / "end").touch()
            assert [program.wait() for program in (server, first, second)] == [0, 0, 0]
        assert server.out.splitlines() == ["merged 0", "finished [0]"]


class TestTheServerIsKilled:
    def test_another_job_gets_fresh_workers(self, start: Start, tmp_path: Path) -> None:
        port = str(free_port())
        server = start("patient.py", "--server", "--bind", "127.0.0.1", "--port", port)
        agent = start("patient.py", "--port", port)
        old = wait_until(lambda: started(tmp_path))
        server.kill()
        agent.wait_for("workers go on, and it is tried again for up to 300 s")
        server = start("patient.py", "--server", "--bind", "127.0.0.1", "--port", port)
        wait_until(lambda: started(tmp_path) - old)
        wait_until(lambda: not any(map(psutil.pid_exists, old)))
        (tmp_path / "go").touch()
        assert (server.wait(), agent.wait()) == (0, 0), agent.err
        assert server.out.splitlines() == ["merged 0", "finished [0]"]
        assert "found another job, begins afresh" in agent.err

    def test_it_never_comes_back(self, start: Start, tmp_path: Path) -> None:
        server, node = serve(start, "patient.py", "--count", "3")
        options = ("--reconnect-timeout", "1")
        agents = [
            start("patient.py", *node, *options),
            start("patient.py", *node, *options, "--workers", "2"),
        ]
        wait_until(lambda: len(started(tmp_path)) == 3)
        server.kill()
        for agent in agents:
            assert agent.wait() == 3
            lost, left, error = agent.err.splitlines()[-3:]
            assert "workers go on, and it is tried again for up to 1 s" in lost
            assert "left after 0 results: the connection to the server was lost: " in left
            assert "it did not come back within 1 s: 127.0.0.1:" in error
            assert "Connection refused" in error
            wait_until(lambda agent=agent: gone(agent))  # type: ignore[misc]

    @pytest.mark.parametrize("stranger", ["another key", "another app", "another program"])
    def test_who_answers_there_meanwhile_does_no_harm(
        self, start: Start, tmp_path: Path, stranger: str
    ) -> None:
        port = str(free_port())
        options = ("--server", "--bind", "127.0.0.1", "--port", port)
        server = start("patient.py", *options)
        agent = start("patient.py", "--port", port, "-v")
        wait_until(lambda: started(tmp_path))
        server.kill()
        server.wait()
        with contextlib.ExitStack() as stack:
            if stranger == "another key":
                other = start("patient.py", *options, PARASNAKE_SECRET_KEY=OTHER_KEY)
                other.wait_for("turned away")
                other.kill()
                other.wait()
            elif stranger == "another app":
                other = start("squares.py", *options)
                other.wait_for("refused")
                other.kill()
                other.wait()
            else:
                listener = stack.enter_context(socket.create_server(("127.0.0.1", int(port))))
                greeted, _ = stack.enter_context(contextlib.closing(listener)).accept()
                greeted.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
                greeted.close()
        (tmp_path / "go").touch()
        server = start("patient.py", *options)
        assert (server.wait(), agent.wait()) == (0, 0), agent.err

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_an_agent_that_waits(
        self, start: Start, tmp_path: Path, number: int
    ) -> None:
        server, node = serve(start, "patient.py")
        agent = start("patient.py", *node)
        wait_until(lambda: started(tmp_path))
        server.kill()
        agent.wait_for("workers go on")
        agent.send(number)
        assert agent.wait() == 128 + number
        assert "Traceback" not in agent.err
        wait_until(lambda: gone(agent))
