"""One server with very many nodes, and what a restart does with a hundred that wait for it.

The environment variable MANY_AGENTS says how many, 300 by default. ``benchmarks/nodes.py`` measures.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from callees import free_port
from helpers import wait_until
from many_agents import Crowd

from parasnake.core.journal import Merged
from parasnake.journal import Stored

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("unmeasured")]

AGENTS = int(os.environ.get("MANY_AGENTS", "300"))
STAY = AGENTS // 4
EVERY_DAY = re.compile("lost|will be tried again")


def test_very_many_agents_come_work_and_vanish(tmp_path: Path) -> None:
    """With fewer descriptors at the start than agents: nobody is refused or called dead."""
    options = ("--heartbeat-timeout", "6", "--no-speculate", "--gate")
    with Crowd(tmp_path, *options, descriptors=AGENTS, tasks=20 * AGENTS) as crowd:
        processes = crowd.join(AGENTS)
        crowd.wait_for_connections(AGENTS)
        crowd.part("first")
        crowd.wait_for("first.done")
        crowd.load(7)  # longer than the heartbeat timeout
        assert crowd.connections == AGENTS
        crowd.part("second")
        crowd.wait_for("second.begun")
        for one in processes[1:]:
            one.kill()
        crowd.wait_for_connections(at_most=STAY)
        crowd.part("rest")
        assert crowd.server.wait(120) == 0, crowd.server.err
        assert crowd.server.out == crowd.expected
        assert processes[0].wait() == 0
        assert processes[0].out == f"{STAY} agents: the job is done\n", processes[0].err
        lines = crowd.lines
    assert len(lines) < AGENTS // 2, "\n".join(lines)
    warnings = [line for line in lines if "WARNING" in line or "ERROR" in line]
    assert all(EVERY_DAY.search(line) for line in warnings), "\n".join(warnings)
    assert not any("heartbeat_timeout" in line for line in lines)
    assert f"{AGENTS} nodes from {AGENTS} agents" in lines[-1]
    assert f"{AGENTS - STAY} agents lost" in lines[-1]


def merged(journal: Path) -> int:
    """How many results a journal has."""
    with Stored.read(journal) as stored:
        entries = [entry for row in stored.rows() for entry in row.entries]
    return sum(isinstance(entry, Merged) for entry in entries)


def test_a_restart_with_a_hundred_waiting(tmp_path: Path) -> None:
    """They come back one by one, nobody is lost or refused, and the job ends right."""
    journal, port = tmp_path / "journal", str(free_port())
    (tmp_path / "first").touch()  # a job with a journal must do the same each time
    options = ("-v", "--no-speculate", "--journal", str(journal))
    with Crowd(tmp_path, *options, port=port, processes=2, tasks=3000) as crowd:

        def all_are_in() -> bool:
            return len(set(re.findall(r": node (\S+) of", crowd.server.err))) == 100

        processes = crowd.join(100, "--seconds", "0.05")
        for least in (300, 1500):
            wait_until(lambda least=least: merged(journal) > least)  # type: ignore[misc]
            crowd.server.kill()
            crowd.server.wait()
            crowd.serve()
            wait_until(all_are_in)
        crowd.part("second")
        assert crowd.server.wait(120) == 0, crowd.server.err
        assert crowd.server.out == crowd.expected
        assert [one.wait() for one in processes] == [0, 0]
        assert [one.out for one in processes] == ["50 agents: the job is done\n"] * 2
        lines = crowd.lines
    assert not any("WARNING" in line for line in lines), "\n".join(lines)
    *_, summary = [line for line in lines if " tasks merged in " in line]
    assert "100 nodes from 0 agents" in summary, "all of them had been there before"
