"""Many agents in one process, for tests of a server with more nodes than a machine has room for.

usage: light_agents.py --ip HOST --port N --agents N [--workers N] [--seconds S] [--within S]

They are real agents with real connections; only their workers are not: those live in this process and
answer a number with its square, at once or ``--seconds`` later. All agents share one loop. The key is
in PARASNAKE_SECRET_KEY. Ends when all agents have left; prints their number for each reason.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import time
from typing import Any, NamedTuple, cast

from parasnake import agent, payload
from parasnake.agent import Agent
from parasnake.child import Closable
from parasnake.config import Config
from parasnake.core import crew as steps
from parasnake.core.ids import Attempt, NodeId, NodeKey, TaskId
from parasnake.core.messages import Cancel, Dropped, Init, Message, Ready, Result, Task, Tasks
from parasnake.loop import Loop


class NoProcess:
    """Stands where the process of a worker would be."""

    pidfd = None

    def poll(self) -> None:
        """Say that it lives."""

    def wait(self, timeout_s: float) -> None:
        """Do not wait: there is nothing to wait for."""

    def kill(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class NothingPrinted:
    """Stands where the output of a worker would be."""

    is_open = False

    def last_lines(self) -> str:
        """Return nothing."""
        return ""

    def close(self) -> None:
        """Do nothing."""


class NoStaff:
    """Says how many workers there are, and starts none."""

    replaces = True

    def __init__(self, size: int) -> None:
        self.size = size

    def start(self, closing: list[Closable]) -> Any:
        """Raise: nobody should ask."""
        raise NotImplementedError


class LightWorker:
    """A worker without a process; for its agent it is the channel to one."""

    receiving = paused = False

    def __init__(self, owner: LightAgent, node: NodeKey, seconds: float) -> None:
        self._owner = owner
        self._node = node
        self._seconds = seconds
        self._free_at = 0.0
        self._cancelled: set[tuple[TaskId, Attempt]] = set()

    def send(self, message: Message) -> None:
        """Answer a task when its time has passed, and the init data with ``Ready``."""
        loop = self._owner.loop
        if isinstance(message, Init):
            loop.call_in(0, lambda: self._owner.hear(self._node, Ready(self._node)))
        elif isinstance(message, Task):
            self._take(message)
        elif isinstance(message, Tasks):
            for task in message.run:
                self._take(Task(self._node, *task))
        elif isinstance(message, Cancel):
            self._cancelled.add((message.task, message.attempt))

    def send_at_once(self, message: Message) -> None:
        """Do the same."""
        self.send(message)

    def _take(self, task: Task) -> None:
        loop = self._owner.loop
        self._free_at = max(self._free_at, loop.now()) + self._seconds
        loop.call_at(self._free_at, lambda: self._owner.hear(self._node, self._answer(task)))

    def _answer(self, task: Task) -> Message:
        named = task.node, task.task, task.attempt
        if (task.task, task.attempt) in self._cancelled:
            self._cancelled.remove((task.task, task.attempt))
            return Dropped(*named)
        number = payload.loads(b"".join(task.payload))
        parts = tuple(payload.dumps(number * number).parts)
        return Result(*named, self._seconds, parts)

    def pause(self, paused: bool) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def drain(self) -> None:
        """Do nothing."""


class Post(NamedTuple):
    """What an agent has of a worker."""

    process: NoProcess
    channel: LightWorker
    printed: NothingPrinted


class LightAgent(Agent):
    """An agent in a loop that it shares with others."""

    def __init__(self, name: str, config: Config, key: bytes, loop: Loop, seconds: float) -> None:
        super().__init__(name, "", config, key, NoStaff(config.worker_count), loop=loop)
        self.loop = loop
        self._seconds = seconds
        self.left_at: float | None = None

    def begin(self) -> None:
        """Call the server."""
        self._give_up_at = self._loop.now() + self._config.connect_timeout
        self._search.begin()

    def hear(self, node: NodeKey, message: Message) -> None:
        """A worker has said something."""
        if node in self._crew.workers:
            self._from_worker(node, [message])

    def work(self) -> bool:
        """Do what there is to do; false when it is over."""
        if not self._over:
            self._work()
        if self._over and self.left_at is None:
            self.left_at = self._loop.now()
            if self._connection is not None:
                self._connection.close_when_sent()
        return not self._over

    @property
    def reason(self) -> str:
        """Why it has left."""
        return str(self._error) if self._error is not None else "the job is done"

    def _start_worker(self, step: steps.StartWorker) -> None:
        node = NodeKey(NodeId(bytes=os.urandom(16)).bytes)
        worker = LightWorker(self, node, self._seconds)
        self._posts[node] = cast("agent._Post", Post(NoProcess(), worker, NothingPrinted()))
        self._crew.started(step.slot, node)


def run(given: argparse.Namespace) -> collections.Counter[str]:
    """Let so many agents work until all have left; count why."""
    config = Config(ip=given.ip, port=given.port, workers=given.workers)
    key = os.environ["PARASNAKE_SECRET_KEY"].encode()
    with Loop() as loop:
        agents = [
            LightAgent(given.app, config, key, loop, given.seconds) for _ in range(given.agents)
        ]
        for one in agents:
            loop.call_in(random.uniform(0, given.within), one.begin)
        there = agents
        while there := [one for one in there if one.work()]:
            loop.wait()
        until = time.monotonic() + 1
        while any(one._connection and one._connection.is_open for one in agents):
            loop.wait(until)
            if time.monotonic() > until:
                break
    return collections.Counter(one.reason for one in agents)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    parser = argparse.ArgumentParser()
    parser.add_argument("--app", default="thousand")
    parser.add_argument("--ip", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--within", type=float, default=0.5)
    for text, number in run(parser.parse_args()).items():
        print(f"{number} agents: {text}")
