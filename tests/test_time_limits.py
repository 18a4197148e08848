"""Agents whose time is over: they go by themselves, and that costs nobody anything but their time."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from helpers import wait_until
from programs import Program
from test_faults import Start, gone, serve, start, started

from parasnake.batch import end_of_job, end_told_by_scontrol

__all__ = ["start"]  # a fixture


@pytest.mark.once
def test_a_job_on_nodes_that_live_shortly_loses_nothing(start: Start) -> None:
    """One after the other, two at a time: each gets what it can finish, and makes room."""
    tasks = ("--count", "120", "--seconds", "0.1")
    server, node = serve(start, "naps.py", *tasks, "--max-attempts", "1", "--max-losses", "1")
    agents: list[Program] = []

    def is_over() -> bool:
        if server.status is not None:
            return True
        running = sum(agent.status is None for agent in agents)
        agents.extend(
            start("naps.py", *node, *tasks, "--time-limit", "3") for _ in range(2 - running)
        )
        return False

    wait_until(is_over, 240)
    assert (server.wait(), server.out) == (0, "True\n"), server.err
    assert "0 retries" in server.err.splitlines()[-1]
    assert "WARNING" not in re.sub("WARNING.* tasks take longer than", "", server.err)
    assert "too little time left for another task" in server.err, "before their time is over"
    over = [agent for agent in agents if "left after" in agent.err and "job is" not in agent.err]
    assert len(over) >= 2
    assert {agent.wait() for agent in over} == {0}
    wait_until(lambda: all(gone(agent) for agent in over))


def test_tasks_that_no_node_lives_long_enough_for_are_tried_and_told_of(start: Start) -> None:
    server, node = serve(start, "naps.py", "--seconds", "3600")
    told = r"tasks take longer than nodes may run .[0-9.]+ m?s at the most.: they are tried"
    agents = 0
    while not re.search(told, server.err):  # one that got its task late does not show that
        agent = start("naps.py", *node, "--seconds", "3600", "--time-limit", "2.5")
        assert agent.wait() == 0, agent.err
        agents += 1
        assert agents < 20, server.err
    assert agents > 1, "before that it is not known"
    server.send(signal.SIGTERM)
    assert server.wait() == 143
    assert "of computing lost with nodes" in server.err


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_the_warnings_of_batch_systems_hand_tasks_back_at_no_cost(
    start: Start, tmp_path: Path, name: str
) -> None:
    """Some send them to all processes of a job: that kills no worker at work."""
    number = getattr(signal, name)
    server, node = serve(start, "patient.py", "--max-attempts", "1", "--max-losses", "1")
    first = start("patient.py", *node)
    old = wait_until(lambda: started(tmp_path, 0))
    for worker in psutil.Process(first.pid).children(recursive=True):
        os.kill(worker.pid, number)
    first.send(number)
    assert first.wait() == 128 + number
    server.wait_for(rf"stopped by signal {int(number)}; 1 of its tasks will run elsewhere")
    second = start("patient.py", *node)  # a job that was put into the queue again
    wait_until(lambda: started(tmp_path, 0) - old)
    (tmp_path / "go").touch()
    assert (server.wait(), second.wait()) == (0, 0)
    assert "0 retries" in server.err.splitlines()[-1]
    assert "died" not in server.err


def test_many_signals_on_end_are_one_reason_to_go(start: Start, tmp_path: Path) -> None:
    """Of a warning, the end itself, and those who pass on what they get."""
    server, node = serve(start, "patient.py", "--max-losses", "1")
    first = start("patient.py", *node)
    old = wait_until(lambda: started(tmp_path, 0))
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGXCPU):
        first.send(number)
    status = first.wait()  # the last may come when its handlers are gone already
    assert status > 128 or -status in (signal.SIGTERM, signal.SIGXCPU)
    server.wait_for(r"left: stopped by signal \d+; 1 of its tasks will run elsewhere")
    second = start("patient.py", *node)
    wait_until(lambda: started(tmp_path, 0) - old)
    (tmp_path / "go").touch()
    assert (server.wait(), second.wait()) == (0, 0)


def test_the_end_of_a_batch_job_is_heeded(start: Start, tmp_path: Path) -> None:
    server, node = serve(start, "patient.py")
    # It goes some seconds earlier.
    agent = start("patient.py", *node, PBS_JOBID="4711", PBS_WALLTIME="12")
    wait_until(lambda: started(tmp_path, 0))
    server.wait_for("left: its time limit is over; 1 of its tasks will run elsewhere")
    assert agent.wait() == 0


def test_slurm_is_asked_if_the_environment_does_not_tell(start: Start, tmp_path: Path) -> None:
    """By a command that it brings: here is one that answers likewise."""
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(
        f"#!{sys.executable}\n"
        "import sys, time\n"
        f"print(*sys.argv[1:], file=open('{tmp_path}/asked', 'w'))\n"
        "end = time.localtime(time.time() + 12)\n"
        "print(time.strftime('JobId=4 EndTime=%Y-%m-%dT%H:%M:%S X=1', end))\n"
    )
    tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    server, node = serve(start, "patient.py")
    agent = start("patient.py", *node, SLURM_JOB_ID="4711", PATH=path)
    server.wait_for("left: its time limit is over")
    assert agent.wait() == 0
    assert (tmp_path / "asked").read_text() == "-o show job 4711\n"


def test_a_local_run_has_no_end(start: Start) -> None:
    end = str(int(time.time()) + 5)
    run = start("naps.py", "--local", "2", "--count", "4", SLURM_JOB_END_TIME=end)
    assert (run.wait(), run.out) == (0, "True\n"), run.err


@pytest.mark.parametrize(
    ("environ", "end"),
    [
        ({}, None),
        ({"SLURM_JOB_END_TIME": "1700000000"}, 1.7e9),
        ({"PBS_WALLTIME": "3600"}, 4600.0),
        ({"SLURM_JOB_END_TIME": "1700000000", "PBS_WALLTIME": "3600"}, 1.7e9),
        ({"SLURM_JOB_END_TIME": "soon"}, None),
    ],
)
def test_what_the_environment_tells(environ: dict[str, str], end: float | None) -> None:
    assert end_of_job(environ, started=1000.0) == end


@pytest.mark.parametrize("answer", ["", "EndTime=Unknown", "EndTime=", "JobId=5 State=RUNNING"])
def test_what_scontrol_does_not_tell(answer: str) -> None:
    assert end_told_by_scontrol(answer) is None
