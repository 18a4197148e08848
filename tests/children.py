"""Child processes and scripts for tests, and the fixtures that start them."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest

from parasnake import processes
from parasnake.processes import Child, Death, Method

TIMEOUT_S = 120

StartChild = Callable[..., Child]
RunScript = Callable[..., list[str]]


def write_script(folder: Path, code: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def hear(child: Child) -> Any:
    """What the child tells."""
    line = bytearray()
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([child.channel], [], [], TIMEOUT_S)
        assert readable, "the child says nothing"
        part = child.channel.recv(10_000)
        assert part, f"the child has hung up: {child.wait(TIMEOUT_S)}"
        line += part
    return json.loads(line)


def wait_for_death(child: Child) -> Death:
    death = child.wait(TIMEOUT_S)
    assert death is not None
    return death


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(params=["fork", "spawn"])
def start_method(request: pytest.FixtureRequest) -> Method:
    """Each way to start a process."""
    method: Method = request.param
    return method


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    """``processes.start``, whose children end with the test."""
    started: list[Child] = []

    def start(entry: Any, **conditions: Any) -> Child:
        started.append(processes.start(entry, **conditions))
        return started[-1]

    yield start
    for child in started:
        # Whoever leaves in order has its coverage counted.
        with suppress(OSError):
            child.channel.shutdown(socket.SHUT_WR)
        child.wait(1)
        child.close()


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run a script of its own in a fresh interpreter; give the lines that it printed."""

    def run(code: str, *arguments: str, name: str = "script.py", check: bool = True) -> list[str]:
        path = write_script(tmp_path, code, name)
        finished = subprocess.run(
            [sys.executable, "-W", "error", str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            check=False,
        )
        if check:
            assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
        return (finished.stdout + finished.stderr).splitlines()

    return run
