"""One server with a thousand nodes, and what a restart does with a hundred that wait for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import wait_until
from many_agents import Crowd
from test_faults import free_port

AGENTS = 1000
GONE = 750
EVERY_DAY = re.compile("lost|will be tried again")


def test_a_thousand_agents_come_work_and_vanish(tmp_path: Path) -> None:
    """With descriptors for 1,024; nobody is refused or called dead, and the log can be read."""
    with Crowd(tmp_path, "--heartbeat-timeout", "3") as crowd:
        processes = crowd.join(AGENTS)
        crowd.wait_for_connections(AGENTS)
        crowd.part("first")
        crowd.wait_for("first.done")
        crowd.load(4)  # longer than the heartbeat timeout
        assert crowd.connections == AGENTS
        crowd.part("second")
        crowd.wait_for("second.begun")
        for one in processes[1:]:
            one.kill()
        assert crowd.server.wait(120) == 0, crowd.server.err
        assert crowd.server.out == crowd.expected
        assert processes[0].wait() == 0
        assert processes[0].out == "250 agents: the job is done\n", processes[0].err
        lines = crowd.lines
    assert len(lines) < 60, "\n".join(lines)
    warnings = [line for line in lines if "WARNING" in line or "ERROR" in line]
    assert all(EVERY_DAY.search(line) for line in warnings), "\n".join(warnings)
    assert not any("heartbeat_timeout" in line for line in lines)
    assert f"{AGENTS} nodes from {AGENTS} agents" in lines[-1]
    assert f"{GONE} agents lost" in lines[-1]


@pytest.mark.parametrize("kills", [3])
def test_a_restart_with_a_hundred_waiting(tmp_path: Path, kills: int) -> None:
    """They come back one by one, with what they have computed, and the job ends right."""
    port = str(free_port())
    journal = ("--journal", str(tmp_path / "journal"))
    with Crowd(tmp_path, *journal, port=port, processes=2, tasks=4000) as crowd:
        processes = crowd.join(100, "--seconds", "0.05")
        crowd.part("first")
        crowd.part("second")
        for turn in range(kills):
            crowd.wait_for_connections(100)
            before = crowd.merged
            wait_until(lambda before=before: crowd.merged > before)  # type: ignore[misc]
            crowd.server.kill()
            crowd.server.wait()
            if turn:
                wait_until(lambda: not crowd.waiting_calls, 5)
            crowd.serve()
        assert crowd.server.wait(120) == 0, crowd.server.err
        assert crowd.server.out == crowd.expected
        assert [one.wait() for one in processes] == [0, 0]
        assert [one.out for one in processes] == ["50 agents: the job is done\n"] * 2
