"""PSServer: what its methods are told, how it runs and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time

import pytest
from class_programs import (
    KEY,
    HeldNode,
    SquareNode,
    SquareServer,
    configuration,
    listening,
    threads_of_ours,
    until,
)
from helpers import wait_until

from parasnake import ConfigurationError, Parasnake, PayloadError, PSNodeId, PSServer, TaskFailed
from parasnake.adapters import APP_NAME

SQUARES = {number: number**2 for number in range(40)}


def free_port() -> int:
    with socket.create_server(("", 0)) as sock:
        return int(sock.getsockname()[1])


def test_a_job_in_one_event_loop() -> None:
    server = SquareServer(configuration(), range(40))

    async def main() -> list[SquareNode]:
        task, port = await listening(server)
        nodes = [SquareNode(configuration(port)) for _ in range(3)]
        await asyncio.gather(task, *(node.ps_start_tasks() for node in nodes))
        return nodes

    nodes = asyncio.run(main())
    assert server.squares == SQUARES
    assert server.ps_error is None
    assert server.saved == 0, "that is ps_run's"
    assert (server.quit, server.quit_counter) == (True, 0)
    assert server.timed_out == []
    assert set(server.initialised) <= {node.node_id for node in nodes}
    assert len(server.initialised) == len(set(server.initialised))
    assert len(server.threads) == 1
    assert threading.get_ident() not in server.threads
    assert sorted(number for node in nodes for number in node.computed) == list(range(40))
    wait_until(lambda: not threads_of_ours())


def test_ps_run_saves_when_all_nodes_have_gone() -> None:
    seen: list[tuple[bool, int, int]] = []

    class Saving(SquareServer):
        def ps_save_data(self) -> None:
            super().ps_save_data()
            seen.append((self.quit, self.quit_counter, len(self.squares)))

    server = Saving(configuration(quit_counter=7), range(40))
    assert (server.quit, server.quit_counter) == (False, 7)
    thread = threading.Thread(target=server.ps_run)
    thread.start()
    node = SquareNode(configuration(wait_until(lambda: server.server_port)))
    node.ps_run()
    thread.join(60)
    assert seen == [(True, 0, 40)]
    assert server.saved == 1
    assert server.server_port == 0, "as it was set"


def test_nodes_that_come_too_late_do_not_keep_the_program_waiting() -> None:
    """The job is done before most of the nodes have found the server."""
    server = SquareServer(configuration(), [1])

    async def main() -> list[SquareNode]:
        task, port = await listening(server)
        nodes = [SquareNode(configuration(port)) for _ in range(6)]
        await asyncio.wait_for(asyncio.gather(task, *(node.ps_start_tasks() for node in nodes)), 60)
        return nodes

    nodes = asyncio.run(main())
    assert server.squares == {1: 1}
    assert [node.ps_error for node in nodes] == [None] * 6
    assert server.timed_out == []


def test_the_port_can_be_bound_again_at_once() -> None:
    port = free_port()
    for _ in range(2):
        server = SquareServer(configuration(port), range(5))
        thread = threading.Thread(target=server.ps_run)
        thread.start()
        SquareNode(configuration(port)).ps_run()  # which waits for the server
        thread.join(60)
        assert len(server.squares) == 5


def test_it_runs_with_what_was_assigned_last() -> None:
    class Done(PSServer):
        def ps_is_job_done(self) -> bool:
            status = self._ps_app.status if self._ps_app else None
            ports.append(status.port if status else 0)
            return True

    ports: list[int] = []
    server = Done(configuration(1))
    server.server_port = free_port()
    server.ps_run()
    assert ports == [server.server_port]
    assert server.ps_error is None


def test_a_job_may_be_done_from_the_start() -> None:
    server = SquareServer(configuration(), [])
    server.ps_run()
    assert server.saved == 1
    assert server.quit


def test_all_nodes_while_they_are_there() -> None:
    server = SquareServer(configuration(), [1, 2])
    assert server.all_nodes == {}

    async def main() -> None:
        task, port = await listening(server)
        nodes = [HeldNode(configuration(port)) for _ in range(2)]
        tasks = [asyncio.create_task(node.ps_start_tasks()) for node in nodes]
        await until(lambda: all(node.begun.is_set() for node in nodes))
        heard = server.all_nodes
        assert set(heard) == {node.node_id for node in nodes}
        assert all(abs(time.time() - when) < 60 for when in heard.values())
        for node in nodes:
            node.go_on.set()
        await asyncio.gather(task, *tasks)

    asyncio.run(main())
    assert server.all_nodes == {}


@pytest.mark.parametrize("method", ["ps_get_init_data", "ps_get_new_data", "ps_process_result"])
def test_what_a_method_raises_comes_out_of_ps_run(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = LookupError("a mistake of the user's")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(SquareServer, method, fail)
    server = SquareServer(configuration(), range(5))

    async def main() -> None:
        task, port = await listening(server)
        node = SquareNode(configuration(port))
        ended = asyncio.create_task(node.ps_start_tasks())
        with pytest.raises(LookupError) as caught:
            await task
        assert caught.value is error
        await ended
        assert node.ps_error is None

    asyncio.run(main())
    assert (server.quit, server.quit_counter) == (True, 0)


def test_what_ps_save_data_raises_comes_out_too() -> None:
    class Full(SquareServer):
        def ps_save_data(self) -> None:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        Full(configuration(), []).ps_run()


def test_an_error_of_the_library_is_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("", 0)) as other:
        server = SquareServer(configuration(other.getsockname()[1]), [])
        server.ps_run()
    assert isinstance(server.ps_error, ConfigurationError)
    assert server.saved == 0
    [record] = [record for record in caplog.records if record.name == "parasnake.ps_server"]
    assert record.levelno == logging.ERROR
    assert "SquareServer: port" in record.message
    assert "is in use" in record.message


def test_init_data_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SquareServer, "ps_get_init_data", lambda *_: threading.Lock())
    server = SquareServer(configuration(), [1])

    async def main() -> None:
        task, port = await listening(server)
        await asyncio.gather(task, SquareNode(configuration(port)).ps_start_tasks())

    asyncio.run(main())
    assert isinstance(server.ps_error, PayloadError)


def test_a_task_that_always_fails_is_told_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(SquareNode):
        def ps_process_data(self, data: int) -> int:
            raise ArithmeticError(f"no square of {data}")

    server = SquareServer(configuration(), [13])

    async def main() -> None:
        task, port = await listening(server)
        await asyncio.gather(task, Failing(configuration(port)).ps_start_tasks())

    asyncio.run(main())
    assert isinstance(server.ps_error, TaskFailed)
    [record] = [record for record in caplog.records if record.name == "parasnake.ps_server"]
    assert "in ps_process_data" in record.message
    assert "no square of 13" in record.message


def test_a_lost_node_without_ps_node_timeout() -> None:
    """The library gives its data to another node, and the id stays the first one's."""
    results: list[tuple[PSNodeId, int]] = []

    class Simple(PSServer):
        given = False

        def ps_get_init_data(self, node_id: PSNodeId) -> dict[str, int]:
            return {"exponent": 2}

        def ps_get_new_data(self, node_id: PSNodeId) -> int | None:
            if self.given:
                return None
            self.given = True
            return 12

        def ps_process_result(self, node_id: PSNodeId, result: int) -> None:
            results.append((node_id, result))

        def ps_is_job_done(self) -> bool:
            return bool(results)

    server = Simple(configuration())

    async def main() -> tuple[SquareNode, SquareNode]:
        task, port = await listening(server)
        first = HeldNode(configuration(port))
        lost = asyncio.create_task(first.ps_start_tasks())
        await until(first.begun.is_set)
        second = SquareNode(configuration(port))
        ended = asyncio.create_task(second.ps_start_tasks())
        await until(lambda: len(server.all_nodes) == 2)
        lost.cancel()
        await asyncio.gather(task, ended)
        first.go_on.set()
        return first, second

    first, second = asyncio.run(main())
    assert results == [(first.node_id, 144)]
    assert second.computed == [12]


def test_cancelling_stops_the_server_and_frees_its_port() -> None:
    port = free_port()
    server = SquareServer(configuration(port), [1])
    server.total = 2

    async def main() -> None:
        task = asyncio.create_task(server.ps_main_loop())
        node = SquareNode(configuration(port))
        ended = asyncio.create_task(node.ps_start_tasks())
        await until(lambda: server.squares)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        socket.create_server(("", port)).close()
        await ended
        assert node.ps_error is None

    asyncio.run(main())
    assert (server.quit, server.saved) == (True, 0)


def test_cancelling_before_it_has_begun() -> None:
    server = SquareServer(configuration(), [1])

    async def main() -> None:
        task = asyncio.create_task(server.ps_main_loop())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: not threads_of_ours())


def test_a_decorated_node_is_refused() -> None:
    """A class program is an app like any other, under a name of its own."""
    server = SquareServer(configuration(), [1])
    assert APP_NAME != "mandelbrot"

    async def main() -> None:
        task, port = await listening(server)
        app = Parasnake("mandelbrot")
        app.process(lambda data: data)
        with pytest.raises(Exception, match=APP_NAME):
            await asyncio.to_thread(app.run_here, port=port, secret_key=KEY.encode())
        task.cancel()

    asyncio.run(main())
