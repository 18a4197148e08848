"""What only Parasnake can be asked: the start of an agent, the price of a journal, very many nodes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import journal
import nodes
from figures import MB, NODE_COUNTS, Effort, Found, Values
from many_agents import Crowd
from peers.base import WORKERS, Peer
from programs import Program, environment

FIRST_TASK = Path(__file__).parent / "first_task.py"
JOURNAL_PAIRS = 3


def agent_start(_: Peer, __: Effort) -> Found:
    """An agent is started for a server that waits: when does its first task begin?"""
    folder = Path.cwd()
    environ = environment(folder)
    serve = ("--server", "--port", "0", "--bind", "127.0.0.1", "--no-progress")
    with Program(FIRST_TASK, serve, folder, environ=environ) as server:
        join = ("--port", server.port(), "--workers", str(WORKERS))
        begin = time.monotonic()
        with Program(FIRST_TASK, join, folder, environ=environ):
            server.wait()
        began = float(server.out)
    return Found({"agent": 1e3 * (began - begin)})


def journal_price(_: Peer, effort: Effort) -> Found:
    """The same small tasks with a journal and without, in pairs."""
    tasks = effort.count(50_000)
    in_all, own = [], []
    for turn in range(JOURNAL_PAIRS):
        path = Path.cwd() / f"{turn}.journal"
        kept, without = (journal.seconds_of(tasks, 100, WORKERS, kind) for kind in (path, None))
        in_all.append(1e6 * (kept[0] - without[0]) / tasks)
        own.append(1e6 * (kept[1] - without[1]) / tasks)
    return Found({"journal": statistics.median(in_all), "journal_own": statistics.median(own)})


def more_nodes(_: Peer, effort: Effort) -> Found:
    """Small tasks for more and more nodes, light ones that share a few processes; then all idle."""
    values: Values = {}
    for number in NODE_COUNTS:
        folder = Path.cwd() / str(number)
        folder.mkdir()
        count = effort.count(number)
        with Crowd(folder, tasks=effort.count(100_000)) as crowd:
            crowd.join(count)
            crowd.wait_for_connections(count)
            done = nodes.work(crowd)
            values[f"nodes_{number}"] = done.rate
            values[f"nodes_{number}_own"] = 1e6 * done.own
            values[f"nodes_{number}_memory"] = crowd.memory_grown / MB
            if number == NODE_COUNTS[-1]:
                values["nodes_each"] = crowd.memory_grown / count / 1000
                values["nodes_idle"] = 100 * crowd.load(5 * effort.seconds)
    return Found(values)
