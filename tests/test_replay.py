"""Jobs that end before they are done, and go on from their journals."""

from __future__ import annotations

import itertools
import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from helpers import wait_until

from parasnake import (
    ConfigurationError,
    HookError,
    Interrupted,
    JournalError,
    NodeId,
    Parasnake,
    ReplayError,
    TaskFailed,
    journal,
    server,
)
from parasnake.core.ids import JobId, NodeKey, TaskId
from parasnake.core.journal import (
    Charged,
    Checkpoint,
    Entry,
    Exhausted,
    Failed,
    HandedOut,
    Merged,
    Nothing,
    TakenBack,
    TimedOut,
)
from parasnake.core.messages import Parts
from parasnake.core.tasks import OpenTask, Policy
from parasnake.journal import Facts, Journal, Stored
from parasnake.payload import compressed, dumps
from parasnake.replay import Replay


class Stop(Exception):
    """Ends a server at a moment that the test has chosen."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my.journal"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "parasnake")
    return caplog


def run(app: Parasnake, path: Path, workers: int = 2, **settings: Any) -> Any:
    """Run here, with workers that have the closures of the test."""
    return app.run(local=workers, start_method="fork", progress=False, journal=path, **settings)


def entries(path: Path) -> list[Entry]:
    with Stored.read(path) as stored:
        return [entry for row in stored.rows() for entry in row.entries]


def kinds(path: Path) -> list[type[Entry]]:
    return [type(entry) for entry in entries(path)]


def write(path: Path, *written: Entry, app: str = "test") -> None:
    """Write a journal as a server would have."""
    file = Journal(path, Facts(app, JobId(bytes(16)), "", "0.2", 1e9))
    for entry in written:
        file.note(entry)
    file.close()


def handed_out(number: int, data: object, node: bytes = b"n" * 16) -> HandedOut:
    return HandedOut(TaskId(number), NodeKey(node), tuple(dumps(data).parts))


def merged(number: int, result: object, node: bytes = b"n" * 16) -> Merged:
    return Merged(TaskId(number), NodeKey(node), 1.0, tuple(dumps(result).parts))


def same(data: Any) -> Any:
    return data


def double(data: Any) -> Any:
    return 2 * data


def stop() -> NoReturn:
    raise Stop


def collector(
    give: Callable[[], Iterator[Any]],
    stop_after: int | None = None,
    *,
    process: Callable[[Any], Any] = same,
    end: Callable[[], object] = stop,
) -> tuple[Parasnake, list[Any]]:
    """An app with a generator that collects results, and is ended when it has so many new ones."""
    app = Parasnake("test")
    app.process(process)
    app.new_data(give)
    found: list[Any] = []
    new = itertools.count(1)

    @app.result
    def merge(result: Any) -> None:
        found.append(result)
        if not app.replaying and next(new) == stop_after:
            end()

    app.finish(lambda: list(found))
    return app, found


def numbers() -> Iterator[int]:
    yield from range(300)


def many() -> Iterator[int]:
    """More than can be computed and written down before the first of them is merged."""
    yield from range(20_000)


class TestResume:
    def test_a_generator(self, path: Path) -> None:
        many = numbers_of(*range(5000))
        for _ in range(3):
            app, _ = collector(many, stop_after=40)
            with pytest.raises(HookError):
                run(app, path)
        app, found = collector(many)
        assert sorted(run(app, path)) == list(range(5000))
        order = list(found)
        assert [entry.task for entry in entries(path) if isinstance(entry, Merged)] == order

        app, _ = collector(many)
        assert run(app, path) == order, "a complete one is replayed, and finish called again"

    def test_nothing_that_was_merged_is_computed_again(self, path: Path, tmp_path: Path) -> None:
        def compute(data: int) -> int:
            with (tmp_path / "computed").open("a") as file:
                file.write(f"{data}\n")
            return data

        app, found = collector(numbers, stop_after=100, process=compute)
        with pytest.raises(HookError):
            run(app, path)
        known = {str(entry.task) for entry in entries(path) if isinstance(entry, Merged)}
        assert len(known) >= len(found) == 100
        (tmp_path / "computed").write_text("")

        app, _ = collector(numbers, process=compute)
        assert sorted(run(app, path)) == list(range(300))
        computed = set((tmp_path / "computed").read_text().split())
        assert not known & computed
        assert known | computed == {str(number) for number in range(300)}

    @pytest.mark.parametrize("by_node", [False, True])
    def test_plain_functions(self, path: Path, by_node: bool) -> None:
        def make(stop_after: int | None) -> tuple[Parasnake, dict[NodeId, list[int]], list[int]]:
            app = Parasnake("test")
            app.process(lambda data: data)
            left = list(range(200))
            at_work: dict[NodeId, list[int]] = {}
            found: list[int] = []
            calls = itertools.count(1)

            def give(node_id: NodeId) -> int | None:
                if next(calls) % 3 == 0 or not left:
                    return None
                at_work.setdefault(node_id, []).append(left[-1])
                return left.pop()

            nobody = NodeId(bytes=bytes(16))
            app.new_data(give if by_node else lambda: give(nobody))

            @app.result
            def merge(result: int, node_id: NodeId) -> None:
                at_work[node_id if by_node else nobody].remove(result)
                found.append(result)
                if not app.replaying and len(found) == stop_after:
                    raise Stop

            app.job_done(lambda: len(found) == 200)
            return app, at_work, found

        for stop_after in (50, 120):
            app, _, found = make(stop_after)
            with pytest.raises(HookError):
                run(app, path)
        app, at_work, found = make(None)
        run(app, path)
        assert sorted(found) == list(range(200))
        assert not any(at_work.values())

    def test_job_done_in_the_middle_ends_the_replay_where_it_was(self, path: Path) -> None:
        def make() -> Parasnake:
            app, found = collector(numbers)
            app.job_done(lambda: len(found) >= 30)
            return app

        first = run(make(), path)
        assert run(make(), path) == first

    def test_results_behind_the_end_of_a_job_are_not_merged_after_all(self, path: Path) -> None:
        tasks = [0, 1, 2, 3]
        write(
            path,
            *(handed_out(task, task) for task in tasks),
            *(merged(task, task) for task in tasks),
        )
        file = Journal(path, Facts("test", JobId(bytes(16)), "", "0.2", 1e9))
        file.finish(2)
        file.close()
        app, _ = collector(numbers)
        assert run(app, path) == [0, 1]

    def test_the_job_is_the_same(self, path: Path) -> None:
        app, _ = collector(numbers, stop_after=1)
        with pytest.raises(HookError):
            run(app, path)
        with Stored.read(path) as stored:
            job = stored.facts.job
        app, _ = collector(numbers)
        seen = []

        @app.init_data
        def init() -> None:
            seen.append(app._running._farm.job.id)  # type: ignore[union-attr]

        run(app, path)
        assert seen == [job]

    def test_what_it_says(self, path: Path, log: pytest.LogCaptureFixture) -> None:
        app, _ = collector(numbers, stop_after=7)
        with pytest.raises(HookError):
            run(app, path)
        assert f"test: a new journal {path}" in log.messages
        app, _ = collector(numbers)
        run(app, path)
        assert f"test: going on from the journal {path}" in log.messages
        assert "known from the journal" in log.messages[-1]

    def test_data_and_ids_are_given_to_hooks_that_ask(self, path: Path) -> None:
        def make(stop: bool) -> tuple[Parasnake, list[Any]]:
            app = Parasnake("test")
            app.process(lambda data: -data)
            app.new_data(numbers)
            seen: list[Any] = []

            @app.result
            def merge(result: int, data: int, node_id: NodeId) -> None:
                seen.append((result, data, node_id))
                if stop and len(seen) == 20:
                    raise Stop

            return app, seen

        app, before = make(True)
        with pytest.raises(HookError):
            run(app, path)
        app, seen = make(False)
        run(app, path)
        assert seen[:20] == before
        assert {(result, data) for result, data, _ in seen} == {(-n, n) for n in range(300)}

    def test_a_task_that_failed(self, path: Path) -> None:
        def make(stop: bool) -> tuple[Parasnake, list[str]]:
            app = Parasnake("test")

            @app.process
            def process(n: int) -> int:
                return 12 // (n % 4)

            @app.new_data
            def data() -> Iterator[Any]:
                yield threading.Lock()
                yield from range(40)

            seen: list[str] = []

            @app.result
            def merge(result: int) -> None:
                seen.append("merged")
                if stop and len(seen) >= 20:
                    raise Stop

            @app.failed
            def failed(error: TaskFailed) -> None:
                seen.append(f"{error}: {error.__cause__}")

            return app, seen

        app, before = make(True)
        with pytest.raises(HookError):
            run(app, path, max_attempts=1)
        app, seen = make(False)
        run(app, path, max_attempts=1)
        assert seen[: len(before)] == before
        assert seen.count("merged") == 30
        assert len(seen) == 41
        assert sum("ZeroDivisionError" in line for line in seen) == 10
        assert sum("cannot pickle" in line for line in seen) == 1

    def test_without_a_failed_hook_a_restart_tries_again(self, path: Path) -> None:
        def make(works: bool) -> Parasnake:
            def process(n: int) -> int:
                if not works and n == 2:
                    raise ValueError
                return n

            return collector(numbers_of(1, 2, 3), process=process)[0]

        for _ in range(2):
            with pytest.raises(TaskFailed):
                run(make(False), path)
        assert sorted(run(make(True), path)) == [1, 2, 3]

    def test_attempts_still_count(self, path: Path) -> None:
        write(path, handed_out(0, 1), Charged(TaskId(0), 2, 0), Charged(TaskId(9), 1, 1))
        app, _ = collector(numbers_of(1), process=lambda data: data / 0)
        with pytest.raises(TaskFailed, match="after 3 failed attempts"):
            run(app, path)

    def test_sigterm_while_it_runs(self, path: Path, log: pytest.LogCaptureFixture) -> None:
        def end() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        app, _ = collector(many, 20, end=end)
        with pytest.raises(Interrupted):
            run(app, path)
        assert "test: start it again with the same journal to go on" in log.messages
        app, _ = collector(many)
        assert sorted(run(app, path)) == list(many())

    def test_a_stop_during_replay(self, path: Path) -> None:
        app, _ = collector(numbers, stop_after=50)
        with pytest.raises(HookError):
            run(app, path)
        before = entries(path)
        seen: list[bool] = []

        def give() -> Iterator[int]:
            for number in numbers():
                seen.append(app.replaying)
                app.stop()
                yield number

        app, _ = collector(give)
        assert run(app, path) is None
        assert seen
        assert all(seen)
        assert entries(path) == before


def numbers_of(*values: Any) -> Callable[[], Iterator[Any]]:
    def give() -> Iterator[Any]:
        yield from values

    return give


class Plain:
    """Without an ``__eq__`` of its own."""

    def __init__(self, value: Any) -> None:
        self.value = value


class TestCompression:
    """What was compressed is what it was before."""

    @staticmethod
    def arrays() -> Iterator[Any]:
        yield from (np.arange(1 << 15) + number for number in range(30))

    @pytest.mark.parametrize(("before", "after"), [("zstd", "off"), ("off", "zstd")])
    def test_data_and_results_in_a_journal(self, path: Path, before: str, after: str) -> None:
        app, _ = collector(self.arrays, stop_after=10, process=double)
        with pytest.raises(HookError):
            run(app, path, compression=before)
        size = len(b"".join(next(e for e in entries(path) if isinstance(e, HandedOut)).payload))
        assert (size < 1 << 17) == (before == "zstd")
        app, _ = collector(self.arrays, process=double)
        found = run(app, path, compression=after)
        assert sorted(int(array[0]) for array in found) == [2 * n for n in range(30)]

    def test_other_data_is_noticed(self, path: Path) -> None:
        app, _ = collector(self.arrays, stop_after=3)
        with pytest.raises(HookError):
            run(app, path, compression="zstd")

        def others() -> Iterator[Any]:
            yield from (array + 1 for array in self.arrays())

        app, _ = collector(others)
        with pytest.raises(ReplayError, match="new_data gave"):
            run(app, path, compression="zstd")

    def test_data_of_a_lost_node_that_is_handed_out_again(self) -> None:
        """In the manner of 0.1: it is known again, though it was compressed for one node only."""
        data = np.arange(1 << 15)
        plain = tuple(dumps(data).parts)
        small = tuple(compressed(dumps(data), 0.0).parts)
        assert sum(map(len, small)) < sum(map(len, plain))
        policy = Policy(by_node=True, user_reassigns=True, plain=server._plain)
        lost, other = NodeKey(b"l" * 16), NodeKey(b"o" * 16)
        replay = Replay(Path("journal"), _Old(data), policy, None)
        replay.take(
            [
                HandedOut(TaskId(0), lost, small),
                Charged(TaskId(0), 2, 0),
                TimedOut(lost),
                HandedOut(TaskId(1), other, plain),
            ]
        )
        assert not replay.forgotten
        assert replay.open[TaskId(1)].failures == 2


class TestChangedScripts:
    @pytest.mark.parametrize(
        "now",
        [
            numbers_of(0, 1, 99, 3),
            numbers_of(0, 1),
            numbers_of(0, 1, None, 2),
            numbers_of(0, 1, threading.Lock()),
            numbers_of(),
        ],
    )
    def test_other_data(self, path: Path, now: Callable[[], Iterator[Any]]) -> None:
        write(path, *(handed_out(number, number) for number in range(4)), merged(0, 0))
        before = path.read_bytes()
        app, found = collector(now)
        with pytest.raises(ReplayError, match=r"after [012] tasks .* gave the data [012], and now"):
            run(app, path)
        assert found == []
        assert path.read_bytes() == before

    def test_more_data_than_there_was(self, path: Path) -> None:
        write(path, handed_out(0, 0), Exhausted())
        app, _ = collector(numbers_of(0, 1))
        with pytest.raises(ReplayError, match="gave its end, and now the data 1"):
            run(app, path)

    def test_data_where_there_was_nothing(self, path: Path) -> None:
        write(path, handed_out(0, 0), Nothing(1, (NodeKey(b"n" * 16),)))
        app, _ = collector(numbers_of(0, 1))
        with pytest.raises(
            ReplayError, match=r"gave None \(nothing just now\), and now the data 1"
        ):
            run(app, path)

    def test_random_data(self, path: Path) -> None:
        def give() -> Iterator[float]:
            while True:
                yield random.random()

        app, _ = collector(give, stop_after=3)
        with pytest.raises(HookError):
            run(app, path)
        app, _ = collector(give)
        with pytest.raises(ReplayError, match="random numbers without a fixed seed") as caught:
            run(app, path)
        assert caught.value.exit_status == 2

    def test_data_that_was_not_sendable(self, path: Path) -> None:
        write(path, HandedOut(TaskId(0), NodeKey(b"n" * 16), ()))
        app, _ = collector(numbers_of(1))
        with pytest.raises(ReplayError, match="gave something that cannot be sent, and now"):
            run(app, path)
        app, _ = collector(numbers_of(threading.Lock()))
        with pytest.raises(TaskFailed, match="cannot be sent"):
            run(app, path)

    def test_data_that_says_nothing_of_itself(self, path: Path) -> None:
        class Mute:
            def __repr__(self) -> str:
                raise ValueError

            def __reduce__(self) -> Any:
                return (int, ())

        write(path, handed_out(0, 5))
        app, _ = collector(numbers_of(Mute()))
        with pytest.raises(ReplayError):
            run(app, path)

    def test_data_that_cannot_be_rebuilt_any_more(self, path: Path) -> None:
        content = b"\x80\x05cno_such_module\nThing\n."
        write(path, HandedOut(TaskId(0), NodeKey(b"n" * 16), (content,)))
        app, _ = collector(numbers_of(5))
        with pytest.raises(ReplayError, match="no_such_module"):
            run(app, path)

    @pytest.mark.parametrize(
        ("then", "now"),
        [
            ({"b", "a", "c"}, {"c", "b", "a"}),
            ({"x": 1, "y": 2}, {"y": 2, "x": 1}),
            (1, 1.0),
            (np.arange(5), np.arange(5)),
            ([np.arange(3), "a" * 3], [np.arange(3), "aa" + "a"]),
            (Plain([1]), Plain([1])),
        ],
    )
    def test_the_same_data_in_another_form(self, path: Path, then: Any, now: Any) -> None:
        write(path, handed_out(0, then), merged(0, "result"))
        app, found = collector(numbers_of(now))
        run(app, path)
        assert found == ["result"]

    @pytest.mark.parametrize(
        ("then", "now"),
        [
            (np.arange(5), np.arange(1, 6)),
            (np.arange(5), np.arange(5.0)),
            (Plain(1), Plain(2)),
            ("1", 1),
        ],
    )
    def test_other_data_of_such_kinds(self, path: Path, then: Any, now: Any) -> None:
        write(path, handed_out(0, then))
        app, _ = collector(numbers_of(now))
        with pytest.raises(ReplayError):
            run(app, path)

    def test_another_process(self, path: Path, log: pytest.LogCaptureFixture) -> None:
        app, known = collector(many, stop_after=7)
        with pytest.raises(HookError):
            run(app, path)
        for _ in range(2):
            app, found = collector(many, process=lambda data: -data)
            with pytest.raises(ReplayError, match=r"code of the process hook .* --accept-new-code"):
                run(app, path)
            assert found == []

        app, found = collector(many, 5, process=lambda data: -data)
        with pytest.raises(HookError):
            run(app, path, accept_new_code=True)
        assert "test: the code of the process hook is not what it was: accepted" in log.messages
        assert found[: len(known)] == known
        app, found = collector(many)  # the first one is the changed one now
        with pytest.raises(ReplayError, match="code of the process hook"):
            run(app, path)

    def test_a_changed_process_is_not_accepted_with_other_data(self, path: Path) -> None:
        app, _ = collector(numbers, stop_after=7)
        with pytest.raises(HookError):
            run(app, path)
        app, _ = collector(numbers_of(*"abc"), process=lambda data: data * 2)
        with pytest.raises(ReplayError, match="gave the data 0"):
            run(app, path, accept_new_code=True)
        app, found = collector(numbers)
        run(app, path)
        assert sorted(found) == list(range(300))

    def test_another_seed(self, path: Path) -> None:
        app, _ = collector(numbers, stop_after=7)
        with pytest.raises(HookError):
            run(app, path)
        app, _ = collector(numbers)
        app._hooks.seed = 1
        with pytest.raises(ReplayError, match="seed= of the app is not what it was"):
            run(app, path)

    def test_another_app(self, path: Path) -> None:
        write(path, app="other")
        app, _ = collector(numbers)
        with pytest.raises(ConfigurationError, match="is a journal of the app 'other'"):
            run(app, path)

    @pytest.mark.parametrize("wrong", [handed_out(2, 1), merged(7, 7)])
    def test_a_journal_that_makes_no_sense(self, path: Path, wrong: Entry) -> None:
        write(path, handed_out(0, 0), wrong)
        app, _ = collector(numbers)
        with pytest.raises(JournalError, match="out of order"):
            run(app, path)


class TestDisk:
    def test_a_write_that_fails_stops_the_job_and_nothing_is_lost(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fill_the_disk() -> None:
            monkeypatch.setattr(journal, "_ADD_ROW", "INSERT INTO full VALUES (?, ?, ?, ?)")

        many = numbers_of(*range(2000))
        app, found = collector(many, 20, end=fill_the_disk)
        with pytest.raises(JournalError, match="cannot be written") as caught:
            run(app, path)
        assert caught.value.exit_status == 1
        known = [entry.task for entry in entries(path) if isinstance(entry, Merged)]
        assert known[: len(found)] == found, "no hook has seen what is not in the journal"

        monkeypatch.undo()
        app, _ = collector(many)
        assert sorted(run(app, path)) == list(range(2000))

    def test_hand_outs_are_written_before_long(self, path: Path, tmp_path: Path) -> None:
        """Also while nothing is merged: nodes may hold their results for a server that comes back."""

        def process(data: int) -> int:
            wait_until((tmp_path / "go").exists)
            return data

        app, found = collector(numbers, process=process)
        done = threading.Thread(target=run, args=(app, path))
        done.start()
        wait_until(lambda: app.status is not None and len(app.status.nodes) == 2)  # it is made
        wait_until(lambda: kinds(path).count(HandedOut) >= 2)
        assert Merged not in kinds(path)
        (tmp_path / "go").touch()
        done.join()
        assert sorted(found) == list(range(300))


class TestLostNodes:
    """In the manner of 0.1: the user is told of lost nodes and hands their data out again."""

    @staticmethod
    def make(
        process: Callable[[int], int] = same, stop_after: int = 3
    ) -> tuple[Parasnake, list[int], list[Any]]:
        app = Parasnake("test")
        app.process(process)
        left = [3, 2, 1]
        told: list[Any] = []
        at_work: dict[NodeId, int] = {}

        @app.new_data
        def give(node_id: NodeId) -> int | None:
            if not left:
                return None
            at_work[node_id] = left.pop()
            return at_work[node_id]

        @app.node_timeout
        def timeout(node_id: NodeId) -> None:
            told.append(node_id)
            if node_id in at_work:
                left.append(at_work.pop(node_id))

        found: list[int] = []

        @app.result
        def merge(result: int, node_id: NodeId) -> None:
            found.append(result)
            assert at_work.pop(node_id) == result

        @app.job_done
        def done() -> bool:
            if len(found) == stop_after < 3:
                raise Stop
            return len(found) == 3

        return app, found, told

    def test_data_that_was_handed_out_again(self, path: Path) -> None:
        lost, other = b"l" * 16, b"o" * 16
        write(
            path,
            handed_out(0, 1, lost),
            handed_out(1, 2, other),
            Charged(TaskId(0), 2, 0),
            TimedOut(NodeKey(lost)),
            handed_out(2, 1, b"p" * 16),
        )
        app, found, told = self.make()
        run(app, path)
        assert sorted(found) == [1, 2, 3]
        assert told[0] == NodeId(bytes=lost)

    def test_data_that_was_taken_back(self, path: Path) -> None:
        lost = b"l" * 16
        write(
            path, handed_out(0, 1, lost), TimedOut(NodeKey(lost)), TakenBack(), merged(0, 1, lost)
        )
        app, found, _ = self.make()
        with pytest.raises(HookError) as caught:  # this user had forgotten it
            run(app, path)
        assert isinstance(caught.value.__cause__, KeyError)
        assert found == [1]

    def test_workers_that_die(self, path: Path, tmp_path: Path) -> None:
        """All of it for real: what was charged and told is in the journal."""

        def make(stop_after: int) -> tuple[Parasnake, list[int]]:
            def process(n: int) -> int:
                died = tmp_path / f"{n}.died"
                if not died.exists():
                    died.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return n

            app, found, _ = self.make(process, stop_after)
            return app, found

        app, _ = make(2)
        with pytest.raises(HookError):
            run(app, path, 1)
        assert {HandedOut, Charged, TimedOut, Merged} <= set(kinds(path))
        told = [entry for entry in entries(path) if isinstance(entry, Charged)]
        assert told[0] == Charged(TaskId(0), 1, 0)
        app, found = make(3)
        run(app, path, 1)
        assert sorted(found) == [1, 2, 3]

    def test_forgetful_hooks(self, path: Path, tmp_path: Path) -> None:
        app = Parasnake("test")
        left = [1]
        found: list[int] = []

        @app.process
        def process(n: int) -> int:
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return n

        app.new_data(lambda node_id: left.pop() if left else None)
        app.node_timeout(lambda node_id: None)
        app.result(found.append)
        app.job_done(lambda: bool(found))
        run(app, path, 1)
        assert TakenBack in kinds(path)
        assert TimedOut in kinds(path)


class TestResultsThatCannotBeRebuilt:
    def test_they_are_kept_until_they_can_be(self, path: Path) -> None:
        content = b"\x80\x05cno_such_module\nThing\n."
        write(path, handed_out(0, 5), Merged(TaskId(0), NodeKey(b"n" * 16), 1.0, (content,)))
        app, _ = collector(numbers_of(5))
        with pytest.raises(TaskFailed, match="no_such_module"):
            run(app, path)
        app, found = collector(numbers_of(5))
        app.failed(lambda error: found.append(str(error)))
        (told,) = run(app, path)
        assert "no_such_module" in told
        assert Failed not in kinds(path)


class _Old:
    """A user in the manner of 0.1 who does not care for lost nodes."""

    def __init__(self, data: object = 7) -> None:
        self.merged: list[int] = []
        self._data = data

    def next_data(self, node: NodeKey) -> object:
        return self._data

    def merge(self, task: OpenTask, parts: Parts, node: NodeKey, seconds: float) -> None:
        self.merged.append(task.id)

    def give_up(self, task: OpenTask, error: TaskFailed) -> None:
        raise error

    def tell_timeout(self, node: NodeKey) -> None:
        pass

    def restore(self, checkpoint: Checkpoint) -> None:
        raise AssertionError("there is none")


def test_a_task_that_was_taken_back_is_not_left_to_the_user_with_its_node_again() -> None:
    first, other = NodeKey(b"a" * 16), NodeKey(b"b" * 16)
    data = tuple(dumps(7).parts)
    user = _Old()
    replay = Replay(Path("journal"), user, Policy(by_node=True, user_reassigns=True), None)
    replay.take(
        [
            HandedOut(TaskId(0), first, data),
            TimedOut(first),
            TakenBack(),
            TimedOut(first),  # it had come back, and went again
            Merged(TaskId(0), other, 1.0, data),
        ]
    )
    assert user.merged == [0]
    assert not replay.open
    assert not replay.forgotten
