"""Programs in the manner of 0.1, as processes; written from what is known of its interface."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from helpers import wait_until
from PIL import Image
from programs import Program, environment

pytestmark = pytest.mark.usefixtures("unmeasured")

PROGRAMS = Path(__file__).parent / "programs_0_1"
KEY = "a key that has exactly 32 bytes!"


@pytest.fixture
def port() -> str:
    with socket.create_server(("", 0)) as sock:
        return str(sock.getsockname()[1])


class Starter:
    """Starts programs, which end with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.programs: list[Program] = []

    def __call__(self, name: str, *options: str) -> Program:
        environ = environment(self._folder)
        program = Program(PROGRAMS / name, options, self._folder, environ=environ)
        self.programs.append(program)
        return program


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for program in starter.programs:
        program.__exit__(None, None, None)


def helper_of(program: Program) -> psutil.Process:
    """The helper process of a node."""
    [helper] = wait_until(lambda: psutil.Process(program.pid).children())
    return helper


def plain_mandelbrot(size: int) -> bytes:
    pixels = bytearray()
    for row in range(size):
        for column in range(size):
            c = complex(-2.1 + 2.8 * column / size, -1.4 + 2.8 * row / size)
            z, n = 0j, 0
            while n < 100 and abs(z) <= 2:
                z = z * z + c
                n += 1
            pixels.append(255 - 255 * n // 100)
    return bytes(pixels)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="typing.override is new in 3.12")
def test_mandelbrot(start: Starter, tmp_path: Path, port: str) -> None:
    settings = {"secret_key": KEY, "server_port": int(port)}
    (tmp_path / "mandel_config.json").write_text(json.dumps(settings))
    (tmp_path / "mandel_config.json").chmod(0o600)
    nodes = [start("mandelbrot.py")]  # which waits for the server
    server = start("mandelbrot.py", "--server")
    nodes.append(start("mandelbrot.py"))
    assert server.wait() == 0, server.err
    assert server.out == "quit: True, quit_counter: 0\n"
    assert server.err == "", "nothing is printed that nobody asked for"
    assert (tmp_path / "mandel.pgm").read_bytes() == b"P5 48 48 255\n" + plain_mandelbrot(48)
    # So short a job may be over before one of the nodes gets anything of it.
    told = r"rows: [1-9]\d*, max_iter: 100\n"
    computed = wait_until(lambda: [node for node in nodes if re.fullmatch(told, node.out)])
    for node in computed:
        assert node.wait() == 0, node.err


def test_the_example_with_one_of_its_nodes_killed(
    start: Starter, tmp_path: Path, port: str
) -> None:
    example = str(PROGRAMS.parent / "scripts" / "gated_classes.py")
    server = start(example, "--server", "--port", port, "--size", "96")
    server.port()
    killed, other = [start(example, "--port", port) for _ in range(2)]
    for node in (killed, other):
        wait_until((tmp_path / f"{node.pid}.begun").exists)
    killed.kill()
    server.wait_for("lost ")
    (tmp_path / "go").touch()
    assert server.wait() == 0, server.err
    assert other.wait() == 0, other.err
    assert server.out == "The image is in mandelbrot.png\n"
    assert "1 agent lost" in server.err.splitlines()[-1]
    assert "the job is done" in other.err
    with Image.open(tmp_path / "mandelbrot.png") as image:
        assert image.tobytes() == plain_mandelbrot(96)
    assert (tmp_path / "mandelbrot_classes.json").stat().st_mode & 0o077 == 0


def test_timeout(start: Starter, port: str) -> None:
    program = start("timeout.py", port)
    assert program.wait() == 0, program.err
    assert program.out == "all well\n"


def test_neither_the_gil_nor_a_late_result_does_harm(
    start: Starter, tmp_path: Path, port: str
) -> None:
    """All of it at once, since each part waits for more than ``heartbeat_timeout``.

    One node holds the GIL for longer than that and is not lost. The helper of the other is stopped
    for longer: that node is lost once, its data goes to the first, and its late result nowhere.
    """
    server = start("silence.py", "server", port)
    held = start("silence.py", "held", port, str(tmp_path / "go"))
    wait_until(lambda: "begun" in held.out)
    helper = helper_of(held)
    helper.suspend()
    busy = start("silence.py", "gil", port, "14")
    (tmp_path / "go").touch()  # it computes, and its helper keeps the result
    server.wait_for(r"lost .* nothing heard for \d+ s")
    helper.resume()
    assert held.wait() == 0, held.err
    assert held.out == "begun\nend\n"
    assert "workers go on" in held.err
    assert server.wait() == 0, server.err
    assert busy.wait() == 0, busy.err
    told = json.loads(server.out.splitlines()[0])
    assert told == {"results": [["b", "gil"], ["a", "gil"]], "timeouts": 1}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_node_that_dies_takes_its_helper_along(
    start: Starter, tmp_path: Path, port: str, number: signal.Signals
) -> None:
    server = start("silence.py", "server", port)
    node = start("silence.py", "held", port, str(tmp_path / "go"))
    wait_until(lambda: "begun" in node.out)
    helper = helper_of(node)
    psutil.Process(node.pid).send_signal(number)
    assert node.wait() == -number
    gone = server.wait_for("lost .*|left.*")[0]
    assert "nothing heard" not in gone, "it is known at once"
    helper.wait(30)
    (tmp_path / "go").touch()
    start("silence.py", "held", port, str(tmp_path / "go"))
    assert server.wait() == 0, server.err
    assert json.loads(server.out.splitlines()[0])["timeouts"] == 1


def test_ctrl_c_at_a_server_is_python_s_own(start: Starter, port: str) -> None:
    server = start("silence.py", "server", port)
    server.port()
    psutil.Process(server.pid).send_signal(signal.SIGINT)
    assert server.wait() == -signal.SIGINT
    assert server.out == ""
    assert server.err.endswith("KeyboardInterrupt\n")


def test_sigterm_at_a_server_is_logged_and_ps_run_returns(
    start: Starter, tmp_path: Path, port: str
) -> None:
    server = start("silence.py", "server", port)
    server.port()
    node = start("silence.py", "held", port, str(tmp_path / "go"))
    psutil.Process(server.pid).send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.out == "end\n", "nothing was saved"
    assert "Server: stopped by signal 15" in server.err
    node.kill()
