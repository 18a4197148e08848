"""What very many nodes cost a server: memory for each, and its load when all are idle.

usage: nodes.py [--agents N] [--tasks N] [--seconds S]

Light agents (tests/light_agents.py) in four processes join within half a second, compute some tasks,
and are idle with the default heartbeat; then three of the four processes are killed, and the rest does
as many tasks again. Server and agents share this machine, so that rates are lower bounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from many_agents import Crowd


class Work(NamedTuple):
    """What a server does with its nodes: tasks in a second, and its own seconds for each."""

    rate: float
    own: float


def work(crowd: Crowd) -> Work:
    """Have the first part of the job computed by the nodes that have joined."""
    begin, computed = time.perf_counter(), crowd.computed
    crowd.part("first")
    crowd.wait_for("first.done")
    seconds = time.perf_counter() - begin
    return Work(crowd.tasks / seconds, (crowd.computed - computed) / crowd.tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long it is idle")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Crowd(Path(folder), tasks=given.tasks) as crowd:
        begin, at_start = time.perf_counter(), crowd.computed
        processes = crowd.join(given.agents)
        crowd.wait_for_connections(given.agents)
        used, seconds = crowd.computed - at_start, time.perf_counter() - begin
        print(f"{given.agents} agents in after {seconds:.1f} s; the server computed {used:.2f} s")
        rate, own = work(crowd)
        print(f"{rate:.0f} tasks/s, {1e6 * own:.1f} us of the server's own for each")
        print(f"{crowd.memory_grown / given.agents / 1024:.1f} KiB of memory for each node")
        print(f"{100 * crowd.load(given.seconds):.2f} % of a core while all are idle")
        crowd.part("second")
        crowd.wait_for("second.begun")
        begin = time.perf_counter()
        for one in processes[1:]:
            one.kill()
        crowd.server.wait(120)
        assert crowd.server.out == crowd.expected, crowd.server.err
        print(f"done {time.perf_counter() - begin:.1f} s after three quarters were killed")
        print(f"{len(crowd.lines)} lines of log, the last:", *crowd.lines[-3:], sep="\n")


if __name__ == "__main__":
    main()
