"""PSNode: where its code runs, how it ends, and what its server hears of that."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from class_programs import (
    HeldNode,
    SquareNode,
    SquareServer,
    configuration,
    listening,
    threads_of_ours,
    until,
)
from helpers import wait_until

from parasnake import (
    ConnectError,
    ConnectionLostError,
    NodeFailed,
    PSConfiguration,
    PSNode,
    PSNodeId,
    WrongKeyError,
)


@contextlib.asynccontextmanager
async def serving(server: SquareServer) -> AsyncIterator[int]:
    """The server with the test's event loop around it; yields its port."""
    task, port = await listening(server)
    try:
        yield port
        await asyncio.wait_for(task, 60)
    finally:
        task.cancel()


def helpers() -> list[psutil.Process]:
    """The helper processes of this process's nodes."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "parasnake.child" in str(child.cmdline())
    ]


def test_user_code_runs_in_the_calling_thread_and_what_it_sets_can_be_read() -> None:
    server = SquareServer(configuration(), range(20))
    thread = threading.Thread(target=server.ps_run)
    thread.start()
    node = SquareNode(configuration(wait_until(lambda: server.server_port)))
    node.ps_run()
    thread.join(60)
    assert node.places == {(os.getpid(), threading.get_ident())}
    assert node.exponent == 2
    assert node.computed == list(range(20))
    assert node.ps_error is None
    assert server.initialised == [node.node_id]
    assert helpers() == []


def test_an_id_that_was_assigned_is_the_one_that_the_server_gets() -> None:
    server = SquareServer(configuration(), [3])

    async def main() -> PSNodeId:
        async with serving(server) as port:
            node = SquareNode(configuration(port))
            node.node_id.id = uuid.UUID("12345678-1234-4678-9234-567812345678")
            given = copy.deepcopy(node.node_id)
            await node.ps_start_tasks()
            assert node.node_id == given
        return given

    assert asyncio.run(main()) == server.initialised[0]


def test_cancelling_a_busy_node_breaks_it() -> None:
    """Its server hears of it once, hands the data out again, and never sees the result."""
    server = SquareServer(configuration(), [5, 6, 7])

    async def main() -> HeldNode:
        async with serving(server) as port:
            broken = HeldNode(configuration(port))
            task = asyncio.create_task(broken.ps_start_tasks())
            await until(broken.begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.timed_out)
            broken.go_on.set()
            await SquareNode(configuration(port)).ps_start_tasks()
        return broken

    broken = asyncio.run(main())
    assert server.timed_out == [broken.node_id]
    assert server.squares == {5: 25, 6: 36, 7: 49}
    assert broken.computed == [5]
    assert broken.ps_error is None
    wait_until(lambda: not threads_of_ours() and not helpers())


def test_cancelling_an_idle_node_breaks_it_too() -> None:
    server = SquareServer(configuration(), [1])
    server.total = 2

    async def main() -> SquareNode:
        async with serving(server) as port:
            node = SquareNode(configuration(port))
            task = asyncio.create_task(node.ps_start_tasks())
            await until(lambda: server.squares)
            task.cancel()
            await until(lambda: server.timed_out)
            server.to_do.append(2)
            await SquareNode(configuration(port)).ps_start_tasks()
        return node

    assert [asyncio.run(main()).node_id] == server.timed_out
    wait_until(lambda: not threads_of_ours() and not helpers())


def test_cancelling_a_node_that_waits_for_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        node = SquareNode(configuration(1))
        task = asyncio.create_task(node.ps_start_tasks())
        await until(helpers)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: not threads_of_ours() and not helpers())


def test_a_node_with_another_key(caplog: pytest.LogCaptureFixture) -> None:
    server = SquareServer(configuration(), [])
    server.total = 1

    async def main() -> SquareNode:
        task, port = await listening(server)
        other = PSConfiguration("another key of exactly 32 bytes.")
        other.server_port = port
        node = SquareNode(other)
        await node.ps_start_tasks()
        task.cancel()
        return node

    node = asyncio.run(main())
    assert isinstance(node.ps_error, WrongKeyError)
    assert node.exponent == 0
    [record] = [record for record in caplog.records if record.name == "parasnake.ps_node"]
    assert record.levelno == logging.ERROR
    assert "SquareNode: " in record.message


def test_a_node_without_a_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PARASNAKE_CONNECT_TIMEOUT", "0.2")
    node = SquareNode(configuration(1))
    node.ps_run()
    assert isinstance(node.ps_error, ConnectError)
    assert "no server within 0.2 s" in caplog.text


def test_the_log_of_the_connection_goes_on_here(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "parasnake")
    server = SquareServer(configuration(), [1])

    async def main() -> None:
        async with serving(server) as port:
            await SquareNode(configuration(port)).ps_start_tasks()

    asyncio.run(main())
    lines = [record.message for record in caplog.records if record.name == "parasnake.agent"]
    assert any("joined the server" in line for line in lines)
    assert any("the job is done" in line for line in lines)


def test_what_ps_init_raises_comes_out_of_ps_run() -> None:
    class Broken(SquareNode):
        def ps_init(self, data: dict[str, int]) -> None:
            raise FileNotFoundError("a file of the user's is missing")

    server = SquareServer(configuration(), [1])

    async def main() -> None:
        async with serving(server) as port:
            with pytest.raises(FileNotFoundError, match="user's is missing"):
                await Broken(configuration(port)).ps_start_tasks()
            await SquareNode(configuration(port)).ps_start_tasks()

    asyncio.run(main())
    assert server.squares == {1: 1}


def test_data_is_tried_again_when_ps_process_data_raises() -> None:
    class Moody(SquareNode):
        def ps_process_data(self, data: int) -> int:
            result = super().ps_process_data(data)
            if self.computed.count(data) < 2:
                raise ValueError("not now")
            return result

    server = SquareServer(configuration(), [1, 2, 3])

    async def main() -> Moody:
        async with serving(server) as port:
            node = Moody(configuration(port))
            await node.ps_start_tasks()
        return node

    node = asyncio.run(main())
    assert server.squares == {1: 1, 2: 4, 3: 9}
    assert node.computed == [1, 1, 2, 2, 3, 3]
    assert server.timed_out == []


def test_a_node_that_does_not_override_ps_process_data() -> None:
    server = SquareServer(configuration(), [1])

    async def main() -> None:
        task, port = await listening(server)
        await asyncio.gather(task, PSNode(configuration(port)).ps_start_tasks())

    asyncio.run(main())
    assert "does not override ps_process_data" in str(server.ps_error)


def test_a_killed_helper_is_a_lost_node(caplog: pytest.LogCaptureFixture) -> None:
    server = SquareServer(configuration(), [4])

    async def main() -> HeldNode:
        async with serving(server) as port:
            node = HeldNode(configuration(port))
            task = asyncio.create_task(node.ps_start_tasks())
            await until(node.begun.is_set)
            [helper] = helpers()
            helper.kill()
            await until(lambda: server.timed_out)
            node.go_on.set()
            await task
            await SquareNode(configuration(port)).ps_start_tasks()
        return node

    node = asyncio.run(main())
    assert isinstance(node.ps_error, ConnectionLostError)
    assert "SIGKILL" in str(node.ps_error)
    assert "HeldNode: " in caplog.text
    assert server.timed_out == [node.node_id]
    assert server.squares == {4: 16}


def test_sigterm_at_a_helper_hands_its_task_back() -> None:
    server = SquareServer(configuration(), [4])

    async def main() -> HeldNode:
        async with serving(server) as port:
            node = HeldNode(configuration(port))
            task = asyncio.create_task(node.ps_start_tasks())
            await until(node.begun.is_set)
            [helper] = helpers()
            helper.terminate()
            await until(lambda: server.timed_out)
            node.go_on.set()
            await task
            await SquareNode(configuration(port)).ps_start_tasks()
        return node

    node = asyncio.run(main())
    assert "signal 15" in str(node.ps_error)
    assert server.timed_out == [node.node_id]
    assert server.squares == {4: 16}


class TellingNode(SquareNode):
    """Returns where it computed, and under which id."""

    def ps_process_data(self, data: int) -> tuple[int, uuid.UUID]:  # type: ignore[override]
        return os.getpid(), self.node_id.id


class TellingServer(SquareServer):
    """Keeps whatever comes."""

    def ps_process_result(self, node_id: PSNodeId, result: tuple[int, uuid.UUID]) -> None:  # type: ignore[override]
        pid, told = result
        assert told == node_id.id
        self.squares[self.works_on.pop(node_id)] = pid


def test_workers_compute_in_processes_of_their_own(tmp_path: Path) -> None:
    server = TellingServer(configuration(), range(30))

    async def main() -> TellingNode:
        async with serving(server) as port:
            node = TellingNode(configuration(port, workers=2))
            await node.ps_start_tasks()
        return node

    node = asyncio.run(main())
    assert os.getpid() not in server.squares.values()
    assert len(server.initialised) == 2
    assert node.node_id not in server.initialised
    assert node.exponent == 0
    assert node.ps_error is None


def test_workers_that_cannot_begin(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SquareNode):
        def ps_init(self, data: dict[str, int]) -> None:
            raise FileNotFoundError("a file of the user's is missing")

    server = SquareServer(configuration(), [1])

    async def main() -> Broken:
        async with serving(server) as port:
            node = Broken(configuration(port, workers=1))
            await node.ps_start_tasks()
            await SquareNode(configuration(port)).ps_start_tasks()
        return node

    node = asyncio.run(main())
    assert isinstance(node.ps_error, NodeFailed)
    assert "user's is missing" in caplog.text


def test_cancelling_a_node_with_workers_breaks_it() -> None:
    server = SquareServer(configuration(), [1])
    server.total = 2

    async def main() -> None:
        async with serving(server) as port:
            task = asyncio.create_task(SquareNode(configuration(port, workers=2)).ps_start_tasks())
            await until(lambda: server.squares and len(server.all_nodes) == 2)
            task.cancel()
            await until(lambda: len(server.timed_out) == 2)
            server.to_do.append(2)
            await SquareNode(configuration(port)).ps_start_tasks()

    asyncio.run(main())
    assert len(set(server.timed_out)) == 2
    wait_until(lambda: not threads_of_ours())


def test_no_thread_keeps_a_program_from_ending() -> None:
    """A node whose code never ends is cancelled: the event loop closes at once all the same."""
    server = SquareServer(configuration(), [1])
    nodes: list[HeldNode] = []
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        task, port = await listening(server)
        nodes.append(HeldNode(configuration(port)))
        tasks.append(asyncio.create_task(nodes[0].ps_start_tasks()))
        await until(nodes[0].begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert all(thread.daemon for thread in threads_of_ours())
    wait_until(lambda: len(threads_of_ours()) == 1)  # the server's is just about to end
    nodes[0].go_on.set()
    wait_until(lambda: not threads_of_ours())
