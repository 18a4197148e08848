"""A node in the calling process: ``app.run_here``, and the ways to end it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from helpers import wait_until
from proxy import Proxy

from parasnake import (
    ConnectError,
    ConnectionLostError,
    NodeFailed,
    NodeId,
    Parasnake,
    RefusedError,
    WrongKeyError,
)
from parasnake.core.ids import NodeKey
from parasnake.here import NodeHere

KEY = b"the 32 bytes of the tests' key.."


class Job:
    """An app whose server runs in a thread: numbers to be doubled."""

    def __init__(self, count: int, **options: Any) -> None:
        self.app = Parasnake("double", **options)
        self.numbers = list(range(count))
        self.results: list[int] = []
        self.nodes: list[uuid.UUID] = []
        self.lost: list[uuid.UUID] = []
        self.app.new_data(self.next_number)
        self.app.result(self.add)
        self.app.job_done(lambda: len(self.results) == count)
        self.app.node_timeout(self.lost.append)

    def next_number(self) -> int | None:
        return self.numbers.pop() if self.numbers else None

    def add(self, result: int, node_id: uuid.UUID) -> None:
        self.results.append(result)
        self.nodes.append(node_id)

    @contextlib.contextmanager
    def served(self) -> Iterator[int]:
        """Yield the port of the server, and wait for its end."""
        thread = threading.Thread(
            target=lambda: self.app.run(server=True, port=0, secret_key=KEY, progress=False)
        )
        thread.start()
        try:
            yield wait_until(lambda: status.port if (status := self.app.status) else 0)
            thread.join(60)
        finally:
            self.app.stop()
            thread.join(60)


class Node:
    """An app that computes for ``Job`` in the test's own process."""

    def __init__(self, name: str = "double", **options: Any) -> None:
        self.app = Parasnake(name, **options)
        self.app.process(self.double)
        self.computed: list[int] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: BaseException | None = None

    def double(self, data: int) -> int:
        self.computed.append(data)
        self.begun.set()
        assert self.go_on.wait(60)
        return 2 * data

    def start(self, port: int) -> threading.Thread:
        """Run in a thread."""

        def run() -> None:
            try:
                self.app.run_here(port=port, secret_key=KEY)
            except BaseException as error:
                self.error = error

        thread = threading.Thread(target=run)
        thread.start()
        return thread


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]


def test_it_computes_here_under_its_own_id() -> None:
    job, node = Job(10), Node()
    chosen = uuid.uuid4()
    with job.served() as port:
        node.app.run_here(chosen, port=port, secret_key=KEY)
    assert sorted(job.results) == list(range(0, 20, 2))
    assert set(job.nodes) == {NodeId(int=chosen.int)}
    assert sorted(node.computed) == list(range(10))
    assert children() == []


def test_an_id_is_made_if_none_is_given() -> None:
    job, node = Job(3), Node()
    with job.served() as port:
        node.app.run_here(port=port, secret_key=KEY)
    [made] = set(job.nodes)
    assert made.version == 4


def test_stop_hands_the_task_back_at_no_loss() -> None:
    job, first, second = Job(1), Node(), Node()
    first.go_on.clear()
    with job.served() as port:
        thread = first.start(port)
        assert first.begun.wait(60)
        first.app.stop()
        second.app.run_here(port=port, secret_key=KEY)
        first.go_on.set()
        thread.join(60)
    assert job.results == [0]
    assert job.lost == []
    assert first.error is None


def test_abandon_is_a_loss_to_the_server() -> None:
    job, first, second = Job(1), Node(), Node()
    first.go_on.clear()
    with job.served() as port:
        thread = first.start(port)
        assert first.begun.wait(60)
        first.app.abandon()
        wait_until(lambda: job.lost)
        second.app.run_here(port=port, secret_key=KEY)
        first.go_on.set()
        thread.join(60)
    assert job.results == [0]
    assert len(job.lost) == 1
    assert first.error is None


@pytest.mark.parametrize("way", ["stop", "abandon"])
def test_an_end_before_the_beginning(way: str) -> None:
    node = Node()
    getattr(node.app, way)()
    node.app.run_here(port=1, secret_key=KEY)
    assert children() == []


@pytest.mark.parametrize("way", ["stop", "abandon"])
def test_an_end_while_it_waits_for_the_server(way: str) -> None:
    node = Node()
    thread = node.start(1)
    wait_until(children)
    getattr(node.app, way)()
    thread.join(60)
    assert node.error is None
    assert children() == []


def test_ctrl_c_hands_the_task_back() -> None:
    job, second = Job(1), Node()
    first = Parasnake("double")

    @first.process
    def interrupted(data: int) -> int:
        raise KeyboardInterrupt

    with job.served() as port:
        with pytest.raises(KeyboardInterrupt):
            first.run_here(port=port, secret_key=KEY)
        second.app.run_here(port=port, secret_key=KEY)
    assert job.results == [0]
    assert job.lost == []


def test_what_goes_wrong_in_the_helper_is_raised_here() -> None:
    job = Job(1)
    with job.served() as port:
        with pytest.raises(WrongKeyError, match="key"):
            Node().app.run_here(port=port, secret_key=b"x" * 32)
        with pytest.raises(RefusedError, match=r"'double'.*'halve'"):
            Node("halve").app.run_here(port=port, secret_key=KEY)
        with pytest.raises(ConnectError, match=r"no server within 0\.1 s"):
            Node().app.run_here(port=1, secret_key=KEY, connect_timeout=0.1)
        Node().app.run_here(port=port, secret_key=KEY)


def test_a_node_init_that_raises() -> None:
    job, node = Job(1), Node()

    @node.app.node_init
    def fail() -> None:
        raise LookupError("something is missing")

    with job.served() as port:
        with pytest.raises(NodeFailed, match="something is missing") as caught:
            node.app.run_here(port=port, secret_key=KEY)
        Node().app.run_here(port=port, secret_key=KEY)
    assert "in fail" in caught.value.remote
    assert caught.value.exit_status == 1


def test_a_connection_that_breaks_costs_nothing() -> None:
    job, node = Job(1), Node()
    node.go_on.clear()
    with job.served() as port, Proxy(str(port)) as proxy:
        thread = node.start(int(proxy.port))
        assert node.begun.wait(60)
        proxy.cut()
        wait_until(lambda: job.lost)
        wait_until(lambda: proxy.refused)
        node.go_on.set()
        proxy.mend()
        thread.join(60)
    assert node.error is None
    assert (node.computed, job.results) == ([0], [0])


def test_another_job_is_not_for_a_node_that_has_begun() -> None:
    job, other, node = Job(1), Job(1), Node()
    node.go_on.clear()
    with job.served() as port, other.served() as other_port, Proxy(str(port)) as proxy:
        thread = node.start(int(proxy.port))
        assert node.begun.wait(60)
        proxy.cut()
        wait_until(lambda: job.lost)
        proxy.mend(str(other_port))
        node.go_on.set()
        thread.join(60)
        assert isinstance(node.error, ConnectionLostError)
        assert "another job" in str(node.error)
        for at in (port, other_port):
            Node().app.run_here(port=at, secret_key=KEY)


def test_a_helper_that_is_killed() -> None:
    job, node = Job(1), Node()
    node.go_on.clear()
    with job.served() as port:
        thread = node.start(port)
        assert node.begun.wait(60)
        [helper] = children()
        helper.kill()
        wait_until(lambda: job.lost)
        node.go_on.set()
        thread.join(60)
        assert isinstance(node.error, ConnectionLostError)
        Node().app.run_here(port=port, secret_key=KEY)


def test_its_log_is_as_verbose_as_the_caller_s(caplog: pytest.LogCaptureFixture) -> None:
    for level, expected in ((logging.INFO, True), (logging.WARNING, False)):
        caplog.clear()
        caplog.set_level(level, "parasnake")
        job = Job(1)
        with job.served() as port:
            Node().app.run_here(port=port, secret_key=KEY)
        told = [record for record in caplog.records if record.name == "parasnake.agent"]
        assert bool(told) is expected
        assert all(record.filename == "agent.py" for record in told)


@pytest.mark.parametrize(("compare", "warned"), [(True, True), (False, False)])
def test_code_is_compared_unless_the_app_says_no(
    compare: bool, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    job, node = Job(1, compare_code=compare), Node(compare_code=compare)
    job.app.process(lambda data: 3 * data)
    with job.served() as port:
        node.app.run_here(port=port, secret_key=KEY)
    assert ("code of the process hook" in caplog.text) is warned


def test_a_second_abandon_does_nothing() -> None:
    node: Any = None  # its hooks are never called
    here = NodeHere("double", "", node, KEY, hooks=node, node=NodeKey(os.urandom(16)))
    here.abandon()
    here.abandon()
    here.run()
