"""The hooks on the server, from the first to the last, with real workers of a local run."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from helpers import wait_until

from parasnake import (
    HookError,
    NodeId,
    Parasnake,
    PayloadError,
    RemoteError,
    TaskFailed,
)


def run(app: Parasnake, workers: int = 1, **settings: Any) -> Any:
    """Run here, with workers that have the closures of the test."""
    return app.run(local=workers, start_method="fork", progress=False, **settings)


def die() -> NoReturn:
    """End this worker as the kernel would when there is no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def first_time(path: Path) -> bool:
    """Whether nobody has asked this before, in any process."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture
def app() -> Parasnake:
    """An app that has no hooks yet."""
    return Parasnake("test")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of the server, with all that everybody wants to know."""
    caplog.set_level(logging.INFO, "parasnake")
    return caplog


def all_there(app: Parasnake, nodes: int) -> bool:
    """Whether so many nodes are ready."""
    return app.status is not None and len(app.status.nodes) == nodes


def echo(app: Parasnake) -> None:
    """Add a process that returns its data."""
    app.process(lambda data: data)


def numbers(app: Parasnake, count: int) -> None:
    """Add a generator of so many numbers."""

    @app.new_data
    def data() -> Iterator[int]:
        yield from range(count)


class TestNewData:
    def test_a_generator_and_what_finish_returns(self, app: Parasnake) -> None:
        numbers(app, 100)
        app.process(lambda n: n * n)
        merged: list[int] = []
        app.result(merged.append)
        app.finish(lambda: sorted(merged))
        assert run(app, 2) == [n * n for n in range(100)]

    def test_what_it_gave_may_be_changed_afterwards(self, app: Parasnake) -> None:
        """Data is sent ahead of need, and again after a loss: long after it was given."""

        @app.new_data
        def data() -> Iterator[Any]:
            array = np.zeros(1 << 16)
            for n in range(100):
                array[:] = n
                yield array

        app.process(lambda data: (float(data[0]), float(data[-1])))
        merged: list[tuple[float, float]] = []
        app.result(merged.append)
        run(app, 2)
        assert sorted(merged) == [(n, n) for n in range(100)]

    def test_an_empty_generator_is_a_job_that_is_done(self, app: Parasnake) -> None:
        numbers(app, 0)
        echo(app)
        app.finish(lambda: "done")
        assert run(app) == "done"

    def test_a_plain_function_and_job_done(self, app: Parasnake) -> None:
        left = list(range(50))
        merged: list[int] = []
        app.new_data(lambda: left.pop() if left else None)
        echo(app)
        app.result(merged.append)
        app.job_done(lambda: len(merged) == 50)
        run(app, 2)
        assert sorted(merged) == list(range(50))

    @pytest.mark.parametrize("as_generator", [True, False])
    def test_it_is_asked_again_after_each_merge(self, app: Parasnake, as_generator: bool) -> None:
        asked = 0
        known = [1]  # each piece of data is made of the result before it
        waiting = False

        def give() -> int | None:
            nonlocal asked, waiting
            asked += 1
            if waiting:
                return None
            waiting = True
            return known[-1]

        @app.process
        def add(n: int) -> int:
            return n + 1

        @app.result
        def take(n: int) -> None:
            nonlocal waiting
            waiting = False
            known.append(n)

        app.job_done(lambda: len(known) > 200)
        if as_generator:

            @app.new_data
            def data() -> Iterator[int | None]:
                while True:
                    yield give()

        else:
            app.new_data(give)
        run(app, 2)
        assert known == list(range(1, 202))
        assert asked < 5000, "it was polled"

    def test_it_is_asked_again_while_nothing_happens(self, app: Parasnake) -> None:
        answers: list[str | None] = [None, None, None, "at last"]
        merged: list[str] = []
        app.new_data(lambda: answers.pop(0) if answers else None)
        echo(app)
        app.result(merged.append)
        app.job_done(lambda: bool(merged))
        run(app)
        assert merged == ["at last"]

    def test_with_a_node_hand_out_and_merge_alternate(self, app: Parasnake) -> None:
        events: dict[NodeId, list[str]] = defaultdict(list)
        left = list(range(90))

        @app.new_data
        def give(node_id: NodeId) -> int | None:
            if left and all_there(app, 3):
                events[node_id].append("out")
                return left.pop()
            return None

        echo(app)

        @app.result
        def take(result: int, node_id: NodeId) -> None:
            events[node_id].append("in")

        app.job_done(lambda: sum(len(list_) for list_ in events.values()) == 180)
        run(app, 3)
        assert len(events) == 3
        for list_ in events.values():
            assert list_ == ["out", "in"] * (len(list_) // 2)

    def test_total_is_in_the_status(self, app: Parasnake) -> None:
        @app.new_data(total=3)
        def data() -> Iterator[str]:
            yield from "abc"

        echo(app)
        seen = []
        app.result(lambda result: seen.append(app.status))
        run(app)
        assert [status and (status.done, status.total) for status in seen] == [
            (0, 3),
            (1, 3),
            (2, 3),
        ]
        assert seen[0] is not None
        assert len(seen[0].nodes) == 1
        assert all(silence >= 0 for silence in seen[0].nodes.values())


class TestInitData:
    def test_it_may_be_compressed(self, app: Parasnake) -> None:
        """As data and results may be; a worker can write to all of them, and so can the server."""
        numbers = np.arange(1 << 16)
        app.init_data(lambda: numbers)

        @app.new_data
        def data() -> Iterator[Any]:
            yield from (numbers + n for n in range(20))

        @app.process
        def add(data: Any, init_data: Any) -> Any:
            init_data += 1
            data -= init_data
            init_data -= 1
            return data

        merged: list[int] = []

        @app.result
        def merge(result: Any) -> None:
            result += 1
            merged.append(int(result[0]))
            assert (result == result[0]).all()

        run(app, 2, compression="zstd")
        assert sorted(merged) == list(range(20))

    def test_once_for_an_agent(self, app: Parasnake) -> None:
        calls: list[None] = []

        @app.init_data
        def init() -> dict[str, int]:
            calls.append(None)
            return {"factor": 7}

        numbers(app, 20)

        @app.process
        def times(data: int, init_data: dict[str, int]) -> int:
            return data * init_data["factor"]

        merged: list[int] = []
        app.result(merged.append)
        run(app, 3)
        assert len(calls) == 1
        assert sorted(merged) == [7 * n for n in range(20)]

    def test_once_for_each_node_that_asks(self, app: Parasnake) -> None:
        given: list[NodeId] = []

        @app.init_data
        def init(node_id: NodeId) -> NodeId:
            given.append(node_id)
            return node_id

        numbers(app, 40)

        @app.process
        def compare(data: int, init_data: NodeId, node_id: NodeId) -> bool:
            return init_data == node_id

        merged: list[bool] = []
        app.result(merged.append)
        run(app, 3, speculate=False)
        assert all(merged)
        assert len(set(given)) == len(given) <= 3

    def test_what_cannot_be_sent(self, app: Parasnake) -> None:
        app.init_data(lambda: {"a": [threading.Lock()]})
        numbers(app, 1)
        echo(app)
        with pytest.raises(PayloadError, match=r"@app\.init_data returned .*lock") as caught:
            run(app)
        assert "data['a'][0]" in str(caught.value).replace('"', "'")

    def test_node_init_runs_once_before_the_first_task(self, app: Parasnake) -> None:
        app.init_data(lambda: "init data")
        seen: list[object] = []
        app.node_init(lambda init_data, node_id: seen.append((init_data, node_id)))
        numbers(app, 30)
        app.process(lambda data, node_id: (os.getpid(), node_id, tuple(seen)))
        merged: list[tuple[int, NodeId, object]] = []
        app.result(merged.append)
        run(app, 2)
        assert seen == [], "it ran in the workers"
        for _, node_id, inits in merged:
            assert inits == (("init data", node_id),)


class TestResult:
    def test_it_may_be_missing(self, app: Parasnake, log: pytest.LogCaptureFixture) -> None:
        numbers(app, 3)
        echo(app)
        app.finish(lambda: "done")
        assert run(app) == "done"
        assert "3 tasks merged" in log.text

    def test_it_gets_what_it_asks_for(self, app: Parasnake) -> None:
        numbers(app, 10)
        app.process(lambda n: -n)
        merged: list[tuple[int, int]] = []
        app.result(lambda data, result: merged.append((data, result)))
        run(app, 2)
        assert sorted(merged) == [(n, -n) for n in range(10)]

    def test_all_hooks_run_in_the_thread_that_called_run(self, app: Parasnake) -> None:
        threads: set[int] = set()

        def note() -> None:
            threads.add(threading.get_ident())

        app.init_data(note)

        @app.new_data
        def data() -> Iterator[int]:
            note()
            yield 1

        echo(app)
        app.result(lambda result: note())
        app.finish(note)
        run(app)
        assert threads == {threading.get_ident()}

    def test_it_gets_the_id_of_the_hand_out_when_another_node_computed_it(
        self, app: Parasnake, tmp_path: Path
    ) -> None:
        out: dict[int, NodeId] = {}
        merged: dict[int, tuple[NodeId, NodeId]] = {}
        left = [0, 1, 2]

        @app.new_data
        def give(node_id: NodeId) -> int | None:
            if not left:
                return None
            out[left[-1]] = node_id
            return left.pop()

        @app.process
        def work(data: int, node_id: NodeId) -> NodeId:
            if data == 2 and first_time(tmp_path / "died"):
                die()
            return node_id

        @app.result
        def take(result: NodeId, data: int, node_id: NodeId) -> None:
            merged[data] = (result, node_id)

        app.job_done(lambda: len(merged) == 3)
        run(app, 2)
        assert {data: owner for data, (_, owner) in merged.items()} == out
        computed_by, owner = merged[2]
        assert computed_by != owner

    def test_a_slow_task_does_not_hold_back_the_results_before_it(
        self, app: Parasnake, tmp_path: Path
    ) -> None:
        """Neither where many travel together: it ends when all those of its node are merged."""
        numbers(app, 300)

        @app.process
        def work(n: int) -> int:
            if n == 200:
                wait_until((tmp_path / "merged").exists)
            return n

        merged: list[int] = []

        @app.result
        def merge(n: int) -> None:
            merged.append(n)
            if len(merged) == 200:
                (tmp_path / "merged").touch()

        run(app, 1)
        assert merged == list(range(300))


class TestSlowHooks:
    def test_who_is_not_listened_to_is_not_lost(
        self,
        app: Parasnake,
        monkeypatch: pytest.MonkeyPatch,
        log: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("parasnake.server.MAX_UNMERGED_BYTES", 1)
        numbers(app, 200)
        echo(app)
        merged: list[int] = []
        both_wait: list[bool] = []

        @app.result
        def merge(n: int) -> None:
            merged.append(n)
            if len(merged) > 50 and len(both_wait) < 2:
                both_wait.append(True)
                threading.Event().wait(3.5)

        run(app, 2, heartbeat_timeout=3)
        assert sorted(merged) == list(range(200))
        assert "WARNING" not in log.text

    def test_nodes_are_listened_to_again_when_their_results_are_merged(
        self, app: Parasnake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At once, and not when somebody's heartbeat is due: that would be hours later here."""
        monkeypatch.setattr("parasnake.server.MAX_UNMERGED_BYTES", 1)
        merged: list[int] = []

        @app.new_data
        def give() -> Iterator[int | None]:
            for n in range(10):
                yield n
                while len(merged) <= n:
                    yield None

        echo(app)
        app.result(merged.append)
        run(app, 1, heartbeat_timeout=100_000)
        assert merged == list(range(10))


class TestJobDone:
    def test_it_ends_the_job_at_once(self, app: Parasnake, log: pytest.LogCaptureFixture) -> None:
        merged: list[int] = []
        left = [0, 1]
        app.new_data(lambda: left.pop() if left and all_there(app, 2) else None)

        @app.process
        def work(n: int) -> int:
            if n:
                threading.Event().wait()
            return n

        app.result(merged.append)
        app.job_done(lambda: bool(merged))
        app.finish(lambda: "done")
        assert run(app, 2) == "done"
        assert merged == [0]
        assert "1 still running at the end, dropped" in log.messages[-1]

    def test_it_is_not_asked_for_more_data_once_it_is_done(self, app: Parasnake) -> None:
        done = False
        late: list[int] = []

        @app.new_data
        def give(node_id: NodeId) -> int:
            if done:
                late.append(1)
            return 1

        echo(app)
        merged: list[int] = []
        app.result(merged.append)

        @app.job_done
        def is_done() -> bool:
            nonlocal done
            done = bool(merged)
            return done

        run(app)
        assert merged == [1]
        assert not late

    def test_it_ends_a_generator_too(self, app: Parasnake) -> None:
        merged: list[int] = []
        closed: list[bool] = []

        @app.new_data
        def data() -> Iterator[int]:
            try:
                yield from itertools.count()
            finally:
                closed.append(True)

        echo(app)
        app.result(merged.append)
        app.job_done(lambda: bool(merged))
        app.finish(lambda: "done")
        assert run(app) == "done"
        assert closed == [True], "its generator was closed"

    def test_it_may_be_true_from_the_start(self, app: Parasnake) -> None:
        numbers(app, 5)
        echo(app)
        app.job_done(lambda: True)
        app.finish(lambda: "done")
        assert run(app) == "done"

    def test_what_it_returns_may_be_neither_true_nor_false(self, app: Parasnake) -> None:
        class Both:
            def __bool__(self) -> bool:
                raise ValueError("the truth value is ambiguous")

        numbers(app, 5)
        echo(app)
        app.job_done(Both)
        with pytest.raises(HookError, match=r"@app\.job_done") as caught:
            run(app)
        assert isinstance(caught.value.__cause__, ValueError)

    def test_a_slow_one_is_asked_seldom(self, app: Parasnake) -> None:
        asked = 0
        merged: list[int] = []
        numbers(app, 300)
        echo(app)
        app.result(merged.append)

        @app.job_done
        def is_done() -> bool:
            nonlocal asked
            asked += 1
            threading.Event().wait(0.001)  # a hook that takes long
            return len(merged) == 300

        run(app, 2)
        assert len(merged) == 300
        assert asked < 100


class TestLostNodes:
    def test_node_timeout_is_told_and_the_library_retries(
        self, app: Parasnake, tmp_path: Path
    ) -> None:
        lost: list[NodeId] = []
        owners: list[tuple[int, NodeId]] = []
        numbers(app, 20)

        @app.process
        def work(data: int, node_id: NodeId) -> tuple[int, NodeId]:
            if data == 7 and first_time(tmp_path / "died"):
                (tmp_path / "who").write_text(str(node_id))
                die()
            return data, node_id

        app.result(owners.append)
        app.node_timeout(lost.append)
        run(app, 2, speculate=False)
        assert sorted(data for data, _ in owners) == list(range(20))
        assert [str(node_id) for node_id in lost] == [(tmp_path / "who").read_text()]
        assert lost[0] not in {node for data, node in owners if data == 7}

    def test_only_the_task_that_was_being_computed_is_charged(self, app: Parasnake) -> None:
        numbers(app, 400)

        @app.process
        def work(n: int) -> int:
            if n == 200:
                die()
            return n

        merged: list[int] = []
        failed: list[tuple[int, TaskFailed]] = []
        app.result(merged.append)
        app.failed(lambda data, error: failed.append((data, error)))
        run(app, 2, max_attempts=2)
        assert sorted(merged) == [n for n in range(400) if n != 200]
        ((data, error),) = failed
        assert (data, error.task_id, error.attempts, error.losses) == (200, 200, 2, 0)
        assert "SIGKILL" in error.reason

    def test_the_manner_of_0_1_leaves_lost_data_to_the_user(
        self, app: Parasnake, tmp_path: Path
    ) -> None:
        works_on: dict[NodeId, int] = {}
        left = list(range(12))
        merged: list[int] = []
        lost: list[NodeId] = []

        @app.new_data
        def give(node_id: NodeId) -> int | None:
            assert node_id not in works_on
            if not left:
                return None
            works_on[node_id] = left.pop()
            return works_on[node_id]

        @app.process
        def work(n: int) -> int:
            if n in (3, 6) and first_time(tmp_path / str(n)):
                die()
            return n

        @app.result
        def take(result: int, node_id: NodeId) -> None:
            assert works_on.pop(node_id) == result
            merged.append(result)

        @app.node_timeout
        def gone(node_id: NodeId) -> None:
            lost.append(node_id)
            left.append(works_on.pop(node_id))

        app.job_done(lambda: len(merged) == 12)
        run(app, 2)
        assert sorted(merged) == list(range(12))
        assert len(set(lost)) == 2

    def test_a_forgetful_hook_loses_nothing(
        self, app: Parasnake, tmp_path: Path, log: pytest.LogCaptureFixture
    ) -> None:
        left = list(range(6))
        merged: list[int] = []
        app.new_data(lambda node_id: left.pop() if left else None)

        @app.process
        def work(n: int) -> int:
            if n == 4 and first_time(tmp_path / "died"):
                die()
            return n

        app.result(merged.append)
        app.node_timeout(lambda node_id: None)
        app.job_done(lambda: len(merged) == 6)
        run(app, 2)
        assert sorted(merged) == list(range(6))
        assert "new_data did not hand the data out again" in log.text

    def test_an_exception_is_tried_again_under_the_same_id(
        self, app: Parasnake, tmp_path: Path
    ) -> None:
        works_on: dict[NodeId, int] = {}
        left = list(range(8))
        merged: list[int] = []

        @app.new_data
        def give(node_id: NodeId) -> int | None:
            if not left:
                return None
            works_on[node_id] = left.pop()
            return works_on[node_id]

        @app.process
        def work(n: int) -> int:
            if n == 5 and first_time(tmp_path / "raised"):
                raise ValueError("not yet")
            return n

        @app.result
        def take(result: int, node_id: NodeId) -> None:
            assert works_on.pop(node_id) == result
            merged.append(result)

        lost: list[NodeId] = []
        app.node_timeout(lost.append)
        app.job_done(lambda: len(merged) == 8)
        run(app, 2)
        assert sorted(merged) == list(range(8))
        assert not lost


class TestFailures:
    def test_an_exception_is_tried_again_elsewhere(
        self, app: Parasnake, tmp_path: Path, log: pytest.LogCaptureFixture
    ) -> None:
        pids = tmp_path / "pids"

        @app.new_data
        def data() -> Iterator[int | None]:
            while not all_there(app, 3):
                yield None
            yield 0

        @app.process
        def work(n: int) -> int:
            with pids.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if len(pids.read_text().split()) < 3:
                raise ValueError("not yet")
            return n

        merged: list[int] = []
        app.result(merged.append)
        run(app, 3)
        assert merged == [0]
        assert len(set(pids.read_text().split())) == 3, "on three different nodes"
        assert re.search(r"1 of 3 attempts failed, .*\): ValueError: not yet\nTraceback", log.text)
        assert "2 of 3 attempts failed" in log.text
        assert "2 retries" in log.messages[-1]

    def test_it_is_tried_again_on_the_only_node(self, app: Parasnake, tmp_path: Path) -> None:
        numbers(app, 1)

        @app.process
        def work(n: int) -> int:
            if first_time(tmp_path / "raised"):
                raise ValueError("not yet")
            return n

        merged: list[int] = []
        app.result(merged.append)
        run(app)
        assert merged == [0]

    def test_without_a_failed_hook_the_job_stops(self, app: Parasnake) -> None:
        numbers(app, 10)

        @app.process
        def work(n: int) -> float:
            return 1 / (n - 4)

        finished: list[None] = []
        app.finish(lambda: finished.append(None))
        with pytest.raises(TaskFailed, match="task 4 has failed after 3 failed attempts") as caught:
            run(app)
        error = caught.value
        assert (error.task_id, error.attempts, error.exit_status) == (4, 3, 1)
        assert error.reason == "ZeroDivisionError: division by zero"
        assert isinstance(error.__cause__, RemoteError)
        assert "return 1 / (n - 4)" in str(error.__cause__)
        assert f"{os.sep}parasnake{os.sep}" not in str(error.__cause__), "only the user's frames"
        assert not finished

    def test_with_a_failed_hook_the_job_goes_on(self, app: Parasnake) -> None:
        nodes: set[NodeId] = set()
        numbers(app, 10)

        @app.process
        def work(data: int, node_id: NodeId) -> int:
            if data % 4 == 3:
                raise ValueError(data)
            return data

        failed: list[tuple[int, str]] = []
        merged: list[int] = []

        @app.failed
        def fail(data: int, error: TaskFailed, node_id: NodeId) -> None:
            failed.append((data, error.reason))
            nodes.add(node_id)

        app.result(merged.append)
        app.finish(lambda: "done")
        assert run(app, 2) == "done"
        assert sorted(failed) == [(3, "ValueError: 3"), (7, "ValueError: 7")]
        assert sorted(merged) == [0, 1, 2, 4, 5, 6, 8, 9]
        assert all(isinstance(node, NodeId) for node in nodes)

    @pytest.mark.parametrize("attempts", [1, 4])
    def test_max_attempts(self, app: Parasnake, tmp_path: Path, attempts: int) -> None:
        calls = tmp_path / "calls"
        numbers(app, 1)

        @app.process
        def work(n: int) -> None:
            with calls.open("a") as file:
                file.write("x")
            raise ValueError

        with pytest.raises(TaskFailed):
            run(app, 2, max_attempts=attempts)
        assert calls.read_text() == "x" * attempts

    def test_data_that_cannot_be_sent(self, app: Parasnake) -> None:
        @app.new_data
        def data() -> Iterator[object]:
            yield "good"
            yield {"key": [1, threading.Lock()]}
            yield "good too"

        echo(app)
        failed: list[tuple[Any, TaskFailed]] = []
        merged: list[str] = []
        app.failed(lambda data, error: failed.append((data, error)))
        app.result(merged.append)
        run(app)
        assert sorted(merged) == ["good", "good too"]
        ((culprit, error),) = failed
        assert isinstance(culprit, dict)
        assert error.task_id == 1
        assert "lock" in error.reason
        assert "[1]" in error.reason

    def test_a_result_that_cannot_be_sent_is_not_computed_again(
        self, app: Parasnake, tmp_path: Path
    ) -> None:
        calls = tmp_path / "calls"
        numbers(app, 1)

        @app.process
        def work(n: int) -> object:
            with calls.open("a") as file:
                file.write("x")
            return [threading.Lock()]

        with pytest.raises(
            TaskFailed, match=r"task 0 .*result cannot be sent: result\[0\]: .*lock"
        ):
            run(app, 2)
        assert calls.read_text() == "x"

    def test_a_result_that_the_server_cannot_rebuild(self, app: Parasnake) -> None:
        numbers(app, 2)
        app.process(lambda n: OnlyInWorkers(os.getpid()) if n else 0)
        failed: list[tuple[int, TaskFailed]] = []
        app.failed(lambda data, error: failed.append((data, error)))
        app.result(lambda result: None)
        app.finish(lambda: "done")
        OnlyInWorkers.home = os.getpid()
        assert run(app) == "done"
        ((data, error),) = failed
        assert data == 1
        assert "cannot be rebuilt on the server" in error.reason
        assert "OnlyInWorkers" in error.reason
        assert "not at home" in error.reason

    def test_data_that_a_node_cannot_rebuild(self, app: Parasnake) -> None:
        @app.new_data
        def data() -> Iterator[object]:
            yield OnlyAtHome()

        echo(app)
        OnlyAtHome.home = os.getpid()
        with pytest.raises(TaskFailed, match="data cannot be rebuilt on the node") as caught:
            run(app)
        assert "_only_at_home" in caught.value.reason
        assert "not here" in caught.value.reason
        remote = str(caught.value.__cause__)
        assert "in _only_at_home" in remote
        assert f"{os.sep}parasnake{os.sep}" not in remote, "only the user's frames"
        assert "Python " + sys.version.split()[0] in caught.value.reason

    def test_an_exception_that_cannot_even_be_printed(self, app: Parasnake) -> None:
        class Awful(Exception):
            def __str__(self) -> str:
                raise ValueError("no text")

        @app.process
        def work(n: int) -> None:
            raise Awful

        numbers(app, 1)
        with pytest.raises(TaskFailed, match="Awful"):
            run(app, max_attempts=1)


class TestTasksThatTakeTooLong:
    def test_they_are_ended_and_fail_in_the_end_and_others_go_on(self, app: Parasnake) -> None:
        numbers(app, 20)

        @app.process
        def work(n: int) -> int:
            while n == 5:
                signal.pause()
            return n

        merged: list[int] = []
        failed: list[TaskFailed] = []
        app.result(merged.append)
        app.failed(lambda data, error: failed.append(error))
        run(app, 2, task_timeout=1, max_attempts=2)
        assert sorted(merged) == [n for n in range(20) if n != 5]
        (error,) = failed
        assert (error.task_id, error.attempts) == (5, 2)
        assert "task_timeout of 1 s exceeded" in error.reason


class TestStragglers:
    def test_a_task_whose_node_does_not_come_to_an_end_is_computed_by_another(
        self, app: Parasnake, tmp_path: Path
    ) -> None:
        numbers(app, 10)

        @app.process
        def work(n: int) -> int:
            while n == 9 and first_time(tmp_path / "hangs"):
                signal.pause()
            return n

        merged: list[int] = []
        app.result(merged.append)
        run(app, 2)
        assert sorted(merged) == list(range(10))


class OnlyInWorkers:
    """Cannot be rebuilt in the process that is ``home``."""

    home = 0

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() == self.home:
            raise ValueError("not at home")


class OnlyAtHome:
    """Can be rebuilt only in the process that is ``home``."""

    home = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _only_at_home, ()


def _only_at_home() -> OnlyAtHome:
    if os.getpid() != OnlyAtHome.home:
        raise ValueError("not here")
    return OnlyAtHome()


class TestHooksThatRaise:
    @pytest.mark.parametrize(
        "hook", ["init_data", "new_data", "result", "job_done", "node_timeout", "failed", "finish"]
    )
    def test_the_job_stops_and_the_cause_is_the_users(
        self, app: Parasnake, hook: str, tmp_path: Path
    ) -> None:
        def maybe(name: str) -> None:
            if name == hook:
                raise LookupError(f"raised by {name}")

        app.init_data(lambda: maybe("init_data"))

        @app.new_data
        def data() -> Iterator[int]:
            yield 0
            maybe("new_data")
            yield 1

        @app.process
        def work(n: int) -> int:
            if n == 0 and hook == "node_timeout" and first_time(tmp_path / "died"):
                die()
            if hook == "failed":
                raise ValueError
            return n

        finished: list[None] = []
        app.result(lambda result: maybe("result"))
        app.job_done(lambda: maybe("job_done"))
        app.node_timeout(lambda node_id: maybe("node_timeout"))
        app.failed(lambda data: maybe("failed"))

        @app.finish
        def finish() -> None:
            finished.append(None)
            maybe("finish")

        with pytest.raises(HookError, match=rf"@app\.{hook}") as caught:
            run(app)
        assert caught.value.hook == hook
        assert caught.value.exit_status == 1
        assert isinstance(caught.value.__cause__, LookupError)
        assert str(caught.value.__cause__) == f"raised by {hook}"
        assert bool(finished) == (hook == "finish")

    def test_a_generator_that_will_not_be_closed(self, app: Parasnake) -> None:
        @app.new_data
        def data() -> Iterator[int]:
            try:
                yield from itertools.count()
            finally:
                raise LookupError("not now")

        echo(app)
        merged: list[int] = []
        app.result(merged.append)
        app.job_done(lambda: bool(merged))
        with pytest.raises(HookError, match=r"@app\.new_data") as caught:
            run(app)
        assert isinstance(caught.value.__cause__, LookupError)


class TestTheEnd:
    @pytest.mark.parametrize("how", ["done", "done early", "stopped", "hook", "task"])
    def test_nobody_waits_for_time_to_pass(
        self, app: Parasnake, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for constant in (
            "server.GOODBYE_SECONDS",
            "agent.GOODBYE_SECONDS",
            "agent.END_SECONDS",
            "local.LEAVE_SECONDS",
        ):
            monkeypatch.setattr(f"parasnake.{constant}", 3600.0)  # a wait would not go unnoticed
        merged: list[int] = []

        @app.new_data
        def data() -> Iterator[int | None]:
            while not all_there(app, 3):
                yield None
            yield from range(30)

        @app.process
        def work(n: int) -> int:
            if n and how != "done":
                threading.Event().wait()
            if how == "task":
                raise LookupError
            return n

        @app.result
        def merge(n: int) -> None:
            merged.append(n)
            if how == "stopped":
                app.stop()
            if how == "hook":
                raise LookupError

        if how == "done early":
            app.job_done(lambda: bool(merged))
        expected: tuple[type[Exception], ...] = {"hook": (HookError,), "task": (TaskFailed,)}.get(
            how, ()
        )
        with contextlib.suppress(*expected):
            run(app, 3, max_attempts=1)
            assert not expected
        assert len(merged) == {"done": 30, "task": 0}.get(how, 1)


class TestSummary:
    def test_it_counts(self, app: Parasnake, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
        numbers(app, 30)

        @app.process
        def work(n: int) -> int:
            if n == 3:
                raise ValueError
            if n == 5 and first_time(tmp_path / "died"):
                die()
            return n

        app.failed(lambda data: None)
        run(app, 2, max_attempts=2, speculate=False)
        summary = log.messages[-1]
        assert summary.startswith("test: 29 tasks merged in ")
        for part in (
            r"[23] nodes from 1 agent",  # the third may come too late
            "2 retries",
            "1 worker died",
            "1 task failed",
        ):
            assert re.search(part, summary)
        assert Counter(record.levelname for record in log.records)["ERROR"] == 1
