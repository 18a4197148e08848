"""How nodes reach their server: access file, several addresses, IPv6, forwarders."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from callees import FakeServer, black_hole, free_port, needs_ipv6
from helpers import wait_until
from programs import Program, environment
from proxy import Proxy
from test_faults import SCRIPTS, started

from parasnake import Parasnake

RUN_HERE = """
import sys
sys.path.insert(0, sys.argv[1])
from squares import app
app.run_here(access=sys.argv[2])
"""


class Farm:
    """Programs of somebody who has no key and names no address."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.access = folder / "job.access"
        self._stack = stack
        self._environ = environment(folder)
        del self._environ["PARASNAKE_SECRET_KEY"]

    def start(self, script: str, *options: str, **environ: str) -> Program:
        environment = self._environ | environ
        program = Program(SCRIPTS / script, options, self.folder, environ=environment)
        return self._stack.enter_context(program)

    def serve(self, script: str, *options: str, file: bool = True) -> Program:
        """Start a server, which has written its access file when this returns."""
        access = ("--access", str(self.access)) if file else ()
        server = self.start(script, "--server", "--bind", "127.0.0.1", *access, *options)
        server.wait_for("nodes reach it with --access" if file else "server on port")
        return server

    def agent(self, script: str, *options: str) -> Program:
        return self.start(script, "--access", str(self.access), *options)

    def go(self) -> None:
        """Let the tasks of the patient script end."""
        (self.folder / "go").touch()

    def facts(self) -> dict[str, Any]:
        """What is in the access file."""
        facts: dict[str, Any] = json.loads(self.access.read_text())
        return facts


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with contextlib.ExitStack() as stack:
        yield Farm(tmp_path, stack)


class TestAccessFile:
    def test_nobody_types_an_address_or_a_key(self, farm: Farm) -> None:
        """The node may be there first; nothing is left when the job is done."""
        agent = farm.agent("squares.py", "--workers", "2")
        agent.wait_for("waiting up to 300 s for the server: there is no access file /.*job.access")
        server = farm.start("squares.py", "--server", "--access", "job.access")
        assert (server.wait(), agent.wait()) == (0, 0), agent.err
        assert server.out == "328350\n"
        assert f"nodes reach it with --access {farm.access}" in server.err
        assert re.search(r"joined the server at \S+:\d+ with 2 workers", agent.err)
        left = {path.name for path in farm.folder.iterdir()}
        assert {name for name in left if not name.endswith((".out", ".err"))} == set()

    def test_all_that_a_node_needs_is_in_it(self, farm: Farm) -> None:
        server = farm.start("patient.py", "--server", "--access", str(farm.access))
        server.wait_for("nodes reach it")
        facts = farm.facts()
        assert (facts["app"], facts["pid"], facts["port"]) == (
            "patient",
            server.pid,
            int(server.port()),
        )
        assert {socket.gethostname(), "127.0.0.1"} < {*facts["addresses"]}
        assert facts["addresses"][0] != "127.0.0.1" or len(facts["addresses"]) <= 3
        for address in facts["addresses"]:
            agent = farm.start("patient.py", "--access", str(farm.access), "--ip", address)
            agent.wait_for(r"joined the server at \S+")
        farm.go()
        assert server.wait() == 0

    def test_settings_from_the_environment(self, farm: Farm) -> None:
        settings = {"PARASNAKE_ACCESS": "job.access", "PARASNAKE_BIND": "127.0.0.1"}
        server = farm.start("squares.py", "--server", **settings)
        agent = farm.start("squares.py", **settings)
        assert (server.wait(), agent.wait()) == (0, 0)

    def test_port_and_key_can_be_chosen(self, farm: Farm) -> None:
        """Then other nodes find it without the file as well."""
        port, key = str(free_port()), "this is what somebody has typed!"
        server = farm.serve("patient.py", "--port", port, "--count", "2")
        server.kill()
        server.wait()
        farm.access.unlink()
        server = farm.start(
            *("patient.py", "--server", "--bind", "127.0.0.1", "--count", "2"),
            *("--port", port, "--access", str(farm.access)),
            PARASNAKE_SECRET_KEY=key,
        )
        server.wait_for("nodes reach it")
        assert farm.facts()["port"] == int(port)
        agents = [
            farm.agent("patient.py"),
            farm.start("patient.py", "--port", port, PARASNAKE_SECRET_KEY=key),
        ]
        wait_until(lambda: len(started(farm.folder)) == 2)
        farm.go()
        assert [program.wait() for program in (server, *agents)] == [0, 0, 0]

    def test_a_node_in_the_calling_process(self, farm: Farm) -> None:
        server = farm.serve("squares.py", "--count", "10")
        (farm.folder / "here.py").write_text(RUN_HERE)
        here = farm.start(str(farm.folder / "here.py"), str(SCRIPTS), "job.access")
        assert here.wait() == 0, here.err
        assert server.wait() == 0

    def test_from_python(self, tmp_path: Path) -> None:
        app, access = Parasnake("double"), tmp_path / "job.access"
        results: list[int] = []
        numbers = iter(range(10))
        app.new_data(lambda: next(numbers, None))
        app.job_done(lambda: len(results) == 10)
        app.result(results.append)
        server = threading.Thread(
            target=lambda: app.run(server=True, access=access, bind="127.0.0.1", progress=False)
        )
        node = Parasnake("double")
        node.process(lambda n: 2 * n)
        server.start()
        node.run_here(access=str(access))
        server.join(60)
        assert sorted(results) == [2 * n for n in range(10)]
        assert not access.exists()

    def test_the_key_stands_in_no_log(self, farm: Farm) -> None:
        server = farm.serve("patient.py", "-v")
        key = farm.facts()["key"].removeprefix("parasnake-key:")
        agent = farm.agent("patient.py", "-v")
        farm.go()
        assert (server.wait(), agent.wait()) == (0, 0)
        for program in (server, agent):
            assert key not in program.err
            assert key not in program.out

    def test_a_local_run_needs_none(self, farm: Farm) -> None:
        local = farm.start("squares.py", "--local", "2", "--access", str(farm.access))
        assert local.wait() == 0, local.err
        assert local.out == "328350\n"
        assert not farm.access.exists()

    def test_no_server_comes(self, farm: Farm) -> None:
        agent = farm.agent("squares.py", "--connect-timeout", "0.2")
        assert agent.wait() == 3
        assert agent.err.splitlines()[-1] == (
            f"squares.py: error: no server within 0.2 s: there is no access file {farm.access}"
        )

    def test_what_is_no_access_file(self, farm: Farm) -> None:
        farm.access.write_text("my thesis")
        farm.access.chmod(0o600)
        agent, server = (
            farm.agent("squares.py"),
            farm.start("squares.py", "--server", "--access", str(farm.access)),
        )
        for program in (agent, server):
            assert program.wait() == 2
            (line,) = program.err.splitlines()
            assert f"error: access file {farm.access} is" in line
            assert "no access file" in line

    def test_two_servers_and_one_file(self, farm: Farm) -> None:
        one = farm.serve("patient.py")
        before = farm.access.read_text()
        other = farm.start("squares.py", "--server", "--access", str(farm.access))
        assert other.wait() == 2
        assert f"in use by the server of app 'patient' on {socket.gethostname()}" in other.err
        assert f"process {one.pid};" in other.err
        assert farm.access.read_text() == before


class TestTheEndOfAServer:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_takes_the_file_with_it(self, farm: Farm, number: int) -> None:
        server = farm.serve("patient.py")
        agent = farm.agent("patient.py")
        wait_until(lambda: started(farm.folder))
        server.send(number)
        assert server.wait() == 128 + number
        assert agent.wait() == 0
        assert not farm.access.exists()

    def test_after_an_error_too(self, farm: Farm) -> None:
        server = farm.serve("raising.py", "--hook", "new_data")
        farm.agent("raising.py", "--hook", "new_data")
        assert server.wait() == 1, server.err
        assert not farm.access.exists()

    def test_with_a_journal_the_file_stays_for_the_next_one(self, farm: Farm) -> None:
        journal = ("--journal", "job.journal")
        server = farm.serve("patient.py", *journal)
        before = farm.facts()
        agent = farm.agent("patient.py", "-v")
        wait_until(lambda: started(farm.folder))
        server.send(signal.SIGTERM)
        assert server.wait() == 143
        assert farm.facts() == before
        server = farm.serve("patient.py", *journal)
        after = farm.facts()
        assert after["pid"] == server.pid
        for name in ("port", "key", "job", "addresses"):
            assert after[name] == before[name]
        farm.go()
        assert (server.wait(), agent.wait()) == (0, 0), agent.err
        assert "is back, connected to the server" in agent.err
        assert not farm.access.exists()

    def test_a_job_that_was_done_needs_the_file_no_more(self, farm: Farm) -> None:
        """Its server was killed between the last result and the removal, say."""
        journal = ("--journal", "job.journal", "--count", "3")
        server = farm.serve("squares.py", *journal)
        left = farm.access.read_text()
        agent = farm.agent("squares.py")
        assert (server.wait(), agent.wait()) == (0, 0)
        farm.access.touch(0o600)
        farm.access.write_text(left)
        again = farm.start("squares.py", "--server", "--access", str(farm.access), *journal)
        assert again.wait() == 0, again.err
        assert again.out == server.out
        assert not farm.access.exists()

    def test_killed_and_started_again_it_serves_copies_of_the_file_too(self, farm: Farm) -> None:
        """Such as those in other clusters, which nobody copies again."""
        journal = ("--journal", "job.journal", "--count", "2")
        server = farm.serve("patient.py", *journal)
        copy = shutil.copy(farm.access, farm.folder / "copy")
        server.kill()
        server.wait()
        server = farm.serve("patient.py", *journal)
        agent = farm.start("patient.py", "--access", str(copy))
        farm.go()
        assert (server.wait(), agent.wait()) == (0, 0), agent.err

    def test_a_server_that_comes_back_elsewhere_is_found(self, farm: Farm) -> None:
        """Its port is taken now; agents that have lost it look into the file again."""
        journal = ("--journal", "job.journal")
        server = farm.serve("patient.py", *journal)
        agent = farm.agent("patient.py")
        wait_until(lambda: started(farm.folder))
        port = int(server.port())
        server.kill()
        server.wait()
        with socket.create_server(("127.0.0.1", port)):
            server = farm.serve("patient.py", *journal)
            assert server.port() != str(port)
            agent.wait_for("is back, connected to the server")
            farm.go()
            assert (server.wait(), agent.wait()) == (0, 0), agent.err

    def test_it_is_found_though_something_silent_is_where_it_was(self, farm: Farm) -> None:
        """An agent does not wait a minute for its answer when the file says another place."""
        journal = ("--journal", "job.journal")
        server = farm.serve("patient.py", *journal)
        agent = farm.agent("patient.py", "--reconnect-timeout", "50")
        wait_until(lambda: started(farm.folder))
        port = int(server.port())
        server.kill()
        server.wait()
        with socket.create_server(("127.0.0.1", port)) as silent:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                server = farm.serve("patient.py", *journal)
                farm.go()
                assert (server.wait(), agent.wait()) == (0, 0), agent.err

    def test_a_bad_file_does_not_drive_away_who_has_lost_its_server(self, farm: Farm) -> None:
        journal = ("--journal", "job.journal")
        server = farm.serve("patient.py", *journal)
        good = farm.access.read_text()
        agent = farm.agent("patient.py")
        wait_until(lambda: started(farm.folder))
        farm.access.write_text("my thesis")
        server.kill()
        server.wait()
        agent.wait_for("workers go on")
        farm.access.write_text(good)
        server = farm.serve("patient.py", *journal)
        farm.go()
        assert (server.wait(), agent.wait()) == (0, 0), agent.err

    def test_another_job_has_another_key_and_agents_find_it(self, farm: Farm) -> None:
        server = farm.serve("patient.py")
        before = farm.facts()
        agent = farm.agent("patient.py")
        wait_until(lambda: started(farm.folder))
        server.kill()
        server.wait()
        server = farm.serve("patient.py")
        assert farm.facts()["key"] != before["key"]
        agent.wait_for("found another job, begins afresh")
        farm.go()
        assert (server.wait(), agent.wait()) == (0, 0), agent.err

    def test_a_node_that_comes_with_an_old_file_waits_for_a_new_one(self, farm: Farm) -> None:
        server = farm.serve("squares.py")
        server.kill()
        server.wait()
        agent = farm.agent("squares.py")
        agent.wait_for(rf"waiting up to 300 s .*: by access file {farm.access}: 127\.0\.0\.1:\d+: ")
        server = farm.serve("squares.py")
        assert (server.wait(), agent.wait()) == (0, 0), agent.err


class TestAddresses:
    def test_one_of_many_is_right(self, farm: Farm) -> None:
        """A firewall that swallows packets, a closed port, another service, another's server."""
        other = farm.serve("patient.py")
        key = "the key of this server, 32 chars"
        server = farm.start(
            *("squares.py", "--server", "--bind", "127.0.0.1", "--port", "0"),
            PARASNAKE_SECRET_KEY=key,
        )

        def greet(connection: socket.socket) -> None:
            connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
            connection.recv(1 << 16)

        with black_hole() as silent, FakeServer(greet) as stranger:
            ports = [silent[1], free_port(), stranger.port, other.port(), server.port()]
            agent = farm.start(
                *("squares.py", "--ip", ",".join(f"127.0.0.1:{port}" for port in ports)),
                PARASNAKE_SECRET_KEY=key,
            )
            assert (server.wait(), agent.wait()) == (0, 0), agent.err
        assert f"joined the server at 127.0.0.1:{ports[-1]}" in agent.err
        told = re.search("no way to the server by (.*)", agent.err)
        assert told is not None
        for port, problem in zip(
            ports[1:],
            ("Connection refused", "no Parasnake server", "another secret key"),
            strict=False,
        ):
            assert re.search(rf"127\.0\.0\.1:{port}: [^;]*{problem}", told[1])

    def test_an_option_for_each(self, farm: Farm) -> None:
        server = farm.serve("squares.py")
        agent = farm.agent("squares.py", "--ip", "no-such-host.invalid", "--ip", "127.0.0.1")
        assert (server.wait(), agent.wait()) == (0, 0), agent.err
        assert "no way to the server by no-such-host.invalid: " in agent.err

    def test_strangers_everywhere(self, farm: Farm) -> None:
        """Nothing is to be expected of them; with one address that may yet answer it waits."""

        def greet(connection: socket.socket) -> None:
            connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
            connection.recv(1 << 16)

        with FakeServer(greet, times=2) as one, FakeServer(greet) as two:
            agent = farm.start(
                *("squares.py", "--ip", f"127.0.0.1:{one.port},127.0.0.1:{two.port}"),
                PARASNAKE_SECRET_KEY="the key of tests, 32 characters.",
            )
            assert agent.wait() == 4
            agent = farm.start(
                *("squares.py", "--ip", f"127.0.0.1:{one.port},127.0.0.1:{free_port()}"),
                *("--connect-timeout", "0"),
                PARASNAKE_SECRET_KEY="the key of tests, 32 characters.",
            )
            assert agent.wait() == 3


@needs_ipv6
class TestIPv6:
    @pytest.mark.parametrize("bind", ["::1", "::"])
    def test_a_job_over_it(self, farm: Farm, bind: str) -> None:
        server = farm.start("squares.py", "--server", "--bind", bind, "--access", str(farm.access))
        agent = farm.agent("squares.py", "--ip", "::1")
        assert (server.wait(), agent.wait()) == (0, 0), agent.err
        assert f"joined the server at [::1]:{server.port()}" in agent.err

    def test_an_access_file_with_nothing_else_in_it(self, farm: Farm) -> None:
        server = farm.start("squares.py", "--server", "--bind", "::1", "--access", str(farm.access))
        server.wait_for("nodes reach it")
        assert farm.facts()["addresses"] == ["::1"]
        agent = farm.agent("squares.py")
        assert (server.wait(), agent.wait()) == (0, 0), agent.err

    def test_all_interfaces_serve_nodes_of_either_kind(self, farm: Farm) -> None:
        server = farm.start("patient.py", "--server", "--bind", "::", "--access", str(farm.access))
        server.wait_for("nodes reach it")
        port = server.port()
        for place in (f"[::1]:{port}", f"127.0.0.1:{port}"):
            agent = farm.agent("patient.py", "--ip", place)
            agent.wait_for(f"joined the server at {re.escape(place)}")
        farm.go()
        assert server.wait() == 0


class TestForwarders:
    """``ssh -L`` and ``ssh -R`` as a node sees them: a port of its own machine that leads elsewhere."""

    def test_a_node_with_a_copy_of_the_file_and_a_port_that_leads_there(self, farm: Farm) -> None:
        """The addresses in the file lead nowhere from where it is."""
        server = farm.serve("patient.py")
        facts = farm.facts()
        copy = farm.folder / "copy"
        facts["addresses"] = ["192.0.2.255", "no-such-host.invalid"]
        copy.touch(0o600)
        copy.write_text(json.dumps(facts))
        with Proxy(server.port()) as tunnel:
            near = f"127.0.0.1:{tunnel.port}"
            agent = farm.start("patient.py", "--access", str(copy), "--ip", near)
            wait_until(lambda: started(farm.folder))
            tunnel.cut()
            agent.wait_for("workers go on")
            tunnel.mend()
            agent.wait_for(f"is back, connected to the server at {near}")
            farm.go()
            assert (server.wait(), agent.wait()) == (0, 0), agent.err

    def test_a_server_says_which_port_of_a_gateway_leads_to_it(self, farm: Farm) -> None:
        port = free_port()
        with contextlib.closing(socket.create_server(("127.0.0.1", port))) as reserved:
            reserved.close()
            server = farm.serve("squares.py", "--port", str(port), "--ip", "127.0.0.1:1,[::1]:2")
        assert farm.facts()["addresses"] == ["127.0.0.1:1", "[::1]:2", "127.0.0.1"]
        agent = farm.agent("squares.py")
        assert (server.wait(), agent.wait()) == (0, 0), agent.err
        assert "no way to the server by 127.0.0.1:1: " in agent.err

    def test_a_tunnel_that_leads_nowhere_for_a_while(self, farm: Farm) -> None:
        """ssh takes the connection, and then finds that nobody listens at the other end."""
        server = farm.serve("squares.py")
        with Proxy(server.port()) as tunnel:
            tunnel.cut()
            copy = shutil.copy(farm.access, farm.folder / "copy")
            text = Path(copy).read_text()
            Path(copy).write_text(text.replace('"127.0.0.1"', f'"127.0.0.1:{tunnel.port}"'))
            agent = farm.start("squares.py", "--access", str(copy))
            agent.wait_for("waiting up to 300 s")
            tunnel.mend()
            assert (server.wait(), agent.wait()) == (0, 0), agent.err


def test_the_programs_of_this_file_have_no_key(farm: Farm) -> None:
    """Else all of them would prove little."""
    script = farm.folder / "keys.py"
    script.write_text("import os; print([n for n in os.environ if n.startswith('PARASNAKE')])")
    program = farm.start(str(script))
    assert program.wait() == 0
    assert program.out == "[]\n"
