"""A server and a node as users of 0.1 write them, and how tests run them in one event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from parasnake import PSConfiguration, PSNode, PSNodeId, PSServer

KEY = "the class programs of the tests."


def configuration(port: int = 0, **values: Any) -> PSConfiguration:
    """Settings for loopback."""
    made = PSConfiguration(KEY)
    made.server_port = port
    for name, value in values.items():
        setattr(made, name, value)
    return made


class SquareServer(PSServer):
    """Has numbers squared; writes down all that its methods are told.

    Keeps what each node works on, as the users of 0.1 do: an order of calls that they do not expect
    ends in a ``KeyError``.
    """

    def __init__(self, configuration: PSConfiguration, numbers: Iterable[int]) -> None:
        super().__init__(configuration)
        self.to_do = list(numbers)
        self.total = len(self.to_do)
        self.works_on: dict[PSNodeId, int] = {}
        self.squares: dict[int, int] = {}
        self.initialised: list[PSNodeId] = []
        self.timed_out: list[PSNodeId] = []
        self.threads: set[int] = set()
        self.saved = 0

    def ps_get_init_data(self, node_id: PSNodeId) -> dict[str, int]:
        self.initialised.append(node_id)
        return {"exponent": 2}

    def ps_get_new_data(self, node_id: PSNodeId) -> int | None:
        assert node_id not in self.works_on
        self.threads.add(threading.get_ident())
        if not self.to_do:
            return None
        self.works_on[node_id] = self.to_do.pop(0)
        return self.works_on[node_id]

    def ps_process_result(self, node_id: PSNodeId, result: int) -> None:
        self.threads.add(threading.get_ident())
        number = self.works_on.pop(node_id)
        assert number not in self.squares
        self.squares[number] = result

    def ps_node_timeout(self, node_id: PSNodeId) -> None:
        self.timed_out.append(node_id)
        if node_id in self.works_on:
            self.to_do.append(self.works_on.pop(node_id))

    def ps_is_job_done(self) -> bool:
        return len(self.squares) == self.total

    def ps_save_data(self) -> None:
        self.saved += 1


class SquareNode(PSNode):
    """Squares numbers; the count and the place of its calls can be read afterwards."""

    def __init__(self, configuration: PSConfiguration) -> None:
        super().__init__(configuration)
        self.exponent = 0
        self.computed: list[int] = []
        self.places: set[tuple[int, int]] = set()

    def ps_init(self, data: dict[str, int]) -> None:
        self.exponent = data["exponent"]

    def ps_process_data(self, data: int) -> int:
        self.computed.append(data)
        self.places.add((os.getpid(), threading.get_ident()))
        return int(data**self.exponent)


class HeldNode(SquareNode):
    """Begins to compute, and goes on when it is allowed to."""

    def __init__(self, configuration: PSConfiguration) -> None:
        super().__init__(configuration)
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def ps_process_data(self, data: int) -> int:
        result = super().ps_process_data(data)
        self.begun.set()
        assert self.go_on.wait(60)
        return result


async def until(condition: Callable[[], object], timeout: float = 60) -> None:
    """Wait until the condition is true; the event loop goes on meanwhile."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not true after {timeout} s")
        await asyncio.sleep(0.005)


async def listening(server: PSServer) -> tuple[asyncio.Task[None], int]:
    """Start a server; its task and the port that it found."""
    task = asyncio.create_task(server.ps_main_loop())
    await until(lambda: server.server_port or task.done())
    return task, server.server_port


def threads_of_ours() -> list[threading.Thread]:
    """The threads in which the library runs what is awaited."""
    return [thread for thread in threading.enumerate() if thread.name == "parasnake"]
