"""Many tasks, and large ones: what they cost. The jobs are in heavy.py, each with real processes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from heavy import HUGE_BYTES
from programs import Program, environment

# Rates and memory would be those of the measurement of coverage.
pytestmark = [pytest.mark.once, pytest.mark.usefixtures("unmeasured")]

HEAVY = Path(__file__).parent / "heavy.py"
MEGABYTE = 1 << 20
TRIES = 3
"""A busy machine may disturb a measurement: the best of so many counts."""


def run_local(folder: Path, job: str) -> dict[str, Any]:
    """Run a job with two workers here; return what it says of itself."""
    options = [job, "--local=2"]
    with Program(HEAVY, options, folder, environ=environment(folder)) as program:
        assert program.wait(120) == 0, program.err
        report: dict[str, Any] = json.loads(program.out)
    assert report["right"]
    return report


def test_many_small_tasks(tmp_path: Path) -> None:
    """Memory stays flat, and the rate is at least that of the standard library's pool."""
    ratios = []
    for _ in range(TRIES):
        report = run_local(tmp_path, "small")
        assert len(report["early"]) == 4, "server, agent and two workers"
        for early, late in zip(report["early"], report["late"], strict=True):
            assert late < early + 10 * MEGABYTE
        ratios.append(report["rate"] / report["pool rate"])
        if ratios[-1] >= 1:
            return
    pytest.fail(f"slower than a pool: {ratios}")


def test_many_large_tasks(tmp_path: Path) -> None:
    """A gigabyte goes through each process in both directions, and little of it is ever there."""
    samples = run_local(tmp_path, "large")["samples"]
    for process in zip(*samples, strict=True):
        assert max(process) < min(process[:5]) + 64 * MEGABYTE
        assert max(process) < 256 * MEGABYTE


@pytest.mark.parametrize("kind", ["bytes", "array"])
def test_a_huge_object_there_and_back(tmp_path: Path, kind: str) -> None:
    """It arrives whole, in less than three times its memory, and other nodes work meanwhile."""
    environ = environment(tmp_path)
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Program:
            return stack.enter_context(Program(HEAVY, options, tmp_path, environ=environ))

        server = start(kind, "--server", "--bind=127.0.0.1", "--port=0")
        agents = [start(kind, "--ip=127.0.0.1", f"--port={server.port()}") for _ in range(2)]
        assert server.wait(120) == 0, server.err
        assert [agent.wait() for agent in agents] == [0, 0]
        report = json.loads(server.out)
    assert report["right"], "another digest"
    assert (report["peak"] - report["base"]) * 1024 < 3 * HUGE_BYTES
    assert report["meanwhile"] >= 100, report
