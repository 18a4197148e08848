"""Journals that checkpoints cut short: jobs go on from them as if nothing had been cut."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_journal import NODE, merged, opened, read
from test_replay import Stop, handed_out, kinds, numbers_of, run, same, stop, write

from parasnake import (
    ConfigurationError,
    HookError,
    Interrupted,
    JournalError,
    NodeId,
    Parasnake,
    PayloadError,
    ReplayError,
    TaskFailed,
    journal,
    server,
)
from parasnake.core import rhythm
from parasnake.core.ids import TaskId
from parasnake.core.journal import (
    Checkpoint,
    Computed,
    Entry,
    Exhausted,
    Left,
    Merged,
)
from parasnake.journal import Overtaken, Stored
from parasnake.payload import dumps, loads
from parasnake.survey import Survey

MANY = 1200


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my.journal"


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint whenever there is anything new."""
    for name in ("LEAST_BYTES", "REST", "TIMES_LAST"):
        monkeypatch.setattr(rhythm, name, 0 if name != "LEAST_BYTES" else 1)


def checkpoint(
    state: object, handed_out: int = 0, *, drawn: int | None = None, **more: Any
) -> Checkpoint:
    counts = {"exhausted": False, "merged": handed_out, "failed": 0, "seconds": 1.0, **more}
    parts = tuple(dumps(state).parts)
    drawn = handed_out if drawn is None else drawn
    return Checkpoint(handed_out=handed_out, drawn=drawn, payload=parts, **counts)


def left(number: int, data: object, *, failures: int = 0, forgotten: bool = False) -> Left:
    return Left(TaskId(number), NODE, failures, 0, forgotten, tuple(dumps(data).parts))


def collector(
    give: Callable[..., Any],
    stop_after: int | None = None,
    *,
    process: Callable[[Any], Any] = same,
    ordered: bool = False,
    end: Callable[[], object] = stop,
    state: Callable[[], object] | None = None,
) -> tuple[Parasnake, list[Any]]:
    """An app that collects results, makes checkpoints and stops after so many new results."""
    app = Parasnake("test")
    app.process(process)
    app.new_data(give)
    found: list[Any] = []
    new = itertools.count(1)

    @app.result(ordered=ordered)
    def merge(result: Any) -> None:
        found.append(result)
        if not app.replaying and next(new) == stop_after:
            end()

    app.checkpoint(state or (lambda: list(found)))
    app.restore(found.extend)
    app.finish(lambda: list(found))
    return app, found


def numbers() -> Iterator[int | None]:
    """With pauses: what was given in vain counts, too."""
    for number in range(MANY):
        if number % 100 == 50:
            yield None
        yield number


@pytest.mark.usefixtures("often")
class TestJobs:
    @pytest.mark.parametrize("ordered", [False, True])
    @pytest.mark.parametrize("work_seconds", [0.0, server.WORK_SECONDS])
    def test_a_generator(
        self,
        path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        work_seconds: float,
        ordered: bool,
    ) -> None:
        """Also where checkpoints come between results that are written and their merges."""
        monkeypatch.setattr(server, "WORK_SECONDS", work_seconds)

        def compute(data: int) -> int:
            with (tmp_path / "computed").open("a") as file:
                file.write(f"{data}\n")
            return data

        known: list[int] = []
        for stop_after in (1, 200, 300):
            app, found = collector(numbers, stop_after, process=compute, ordered=ordered)
            with pytest.raises(HookError):
                run(app, path)
            assert found[: len(known)] == known
            known = list(found)
        assert kinds(path)[0] is Checkpoint
        merged_before = {entry.task for entry in read(path) if isinstance(entry, Merged)}
        (tmp_path / "computed").unlink()
        app, found = collector(numbers, process=compute, ordered=ordered)
        assert sorted(run(app, path)) == list(range(MANY))
        assert found[: len(known)] == known
        computed = [int(line) for line in (tmp_path / "computed").read_text().split()]
        assert not set(computed) & {*known, *merged_before}, "merged before, and computed again"
        if ordered:
            assert found == list(range(MANY))

        app, _ = collector(numbers, process=compute, ordered=ordered)
        assert run(app, path) == found, "the job was done"

    @pytest.mark.parametrize("by_node", [False, True])
    def test_a_plain_function_is_not_called_for_the_past(self, path: Path, by_node: bool) -> None:
        again = 0

        def make(stop_after: int | None) -> Parasnake:
            app = Parasnake("test")
            app.process(lambda data: data)
            state: dict[str, Any] = {"left": list(range(300)), "found": [], "at work": {}}
            state["calls"] = 0

            def give(node_id: NodeId) -> int | None:
                nonlocal again
                again += app.replaying
                state["calls"] += 1
                if state["calls"] % 3 == 0 or not state["left"]:
                    return None
                number: int = state["left"].pop()
                state["at work"].setdefault(node_id, []).append(number)
                return number

            nobody = NodeId(bytes=bytes(16))
            app.new_data(give if by_node else lambda: give(nobody))

            @app.result
            def merge(result: int, node_id: NodeId) -> None:
                state["at work"][node_id if by_node else nobody].remove(result)
                state["found"].append(result)
                if not app.replaying and next(new) == stop_after:
                    raise Stop

            new = itertools.count(1)
            app.job_done(lambda: len(state["found"]) == 300)
            app.checkpoint(lambda: state)
            app.restore(state.update)
            app.finish(lambda: state)
            return app

        for stop_after in (50, 70, 1):
            with pytest.raises(HookError):
                run(make(stop_after), path)
        again = 0
        end = run(make(None), path)
        assert again < 121, "it had been called so often at least"
        assert sorted(end["found"]) == list(range(300))
        assert not any(end["at work"].values())

    def test_what_waits_for_its_turn(self, path: Path, tmp_path: Path) -> None:
        """In order: results that are there too early are computed again after a restart."""

        def slow_first(data: int) -> int:
            if data == 0 and not (tmp_path / "go").exists():
                raise ValueError
            return data

        app, found = collector(numbers_of(*range(40)), ordered=True, process=slow_first)
        with pytest.raises(TaskFailed):
            run(app, path, max_attempts=200)
        assert not found
        (tmp_path / "go").touch()
        app, _ = collector(numbers_of(*range(40)), ordered=True, process=slow_first)
        assert run(app, path, accept_new_code=True) == list(range(40))

    def test_tasks_that_failed(self, path: Path) -> None:
        def make(stop: bool) -> tuple[Parasnake, list[Any]]:
            app, found = collector(
                numbers_of(threading.Lock(), *range(60)), process=lambda n: 12 // (n % 4)
            )

            @app.failed
            def failed(data: Any, error: TaskFailed) -> None:
                found.append(f"{type(data).__name__} {error.task_id}")
                if stop and not app.replaying and len(found) >= 20:
                    raise Stop

            return app, found

        app, before = make(True)
        with pytest.raises(HookError):
            run(app, path, max_attempts=1)
        app, found = make(False)
        run(app, path, max_attempts=1)
        assert found[: len(before)] == before
        assert len(found) == 61
        assert found[0] == "lock 0"
        assert Survey.of(path).failed == 16

    def test_the_manner_of_0_1(self, path: Path, tmp_path: Path) -> None:
        """Workers die, and the user hands their data out again, over restarts."""

        def process(n: int) -> int:
            died = tmp_path / f"{n}.died"
            if n % 5 == 0 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return n

        def make(stop_after: int) -> tuple[Parasnake, dict[str, Any]]:
            app = Parasnake("test")
            app.process(process)
            state: dict[str, Any] = {"left": list(range(40)), "found": [], "at work": {}}

            @app.new_data
            def give(node_id: NodeId) -> int | None:
                if not state["left"]:
                    return None
                number: int = state["left"].pop()
                state["at work"][node_id] = number
                return number

            @app.node_timeout
            def timeout(node_id: NodeId) -> None:
                if node_id in state["at work"]:
                    state["left"].append(state["at work"].pop(node_id))

            @app.result
            def merge(result: int, node_id: NodeId) -> None:
                assert state["at work"].pop(node_id) == result
                state["found"].append(result)

            @app.job_done
            def done() -> bool:
                if stop_after <= len(state["found"]) < 40:  # it is not asked after each merge
                    raise Stop
                return len(state["found"]) == 40

            app.checkpoint(lambda: state)
            app.restore(state.update)
            return app, state

        for stop_after in (7, 15, 31):
            with pytest.raises(HookError):
                run(make(stop_after)[0], path)
        app, state = make(40)
        run(app, path)
        assert sorted(state["found"]) == list(range(40))

    def test_summary_progress_and_survey_know_what_was_cut(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "parasnake")
        app, _ = collector(numbers, 500)
        with pytest.raises(HookError):
            run(app, path)
        survey = Survey.of(path)
        assert survey.merged_tasks >= 500
        assert survey.cut_at is not None
        assert any("after" in line for line in survey.lines() if line.startswith("checkpoint"))
        app, _ = collector(numbers)
        run(app, path)
        assert f"test: {MANY} tasks merged in" in caplog.messages[-1]
        assert "known from the journal" in caplog.messages[-1]
        survey = Survey.of(path)
        assert (survey.handed_out, survey.merged_tasks, survey.failed) == (MANY, MANY, 0)
        assert sum(survey.census.tasks.values()) == MANY
        assert all("pid" in place for place in survey.census.tasks)


class TestWhen:
    def test_none_while_there_is_little(self, path: Path) -> None:
        app, _ = collector(numbers)
        assert len(run(app, path)) == MANY
        assert Checkpoint not in kinds(path)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_at_a_clean_stop(self, path: Path, number: int) -> None:
        def end() -> None:
            os.kill(os.getpid(), number)

        app, known = collector(numbers, 30, end=end)
        with pytest.raises(Interrupted):
            run(app, path)
        assert kinds(path)[0] is Checkpoint
        # What is left, if not all that was handed out has been merged, comes before its results.
        assert Merged not in itertools.takewhile(lambda kind: kind is not Left, kinds(path))
        app, found = collector(numbers)
        assert sorted(run(app, path)) == list(range(MANY))
        assert found[: len(known)] == known

    def test_not_at_a_stop_before_anything_has_happened(self, path: Path) -> None:
        app, _ = collector(numbers)
        app.stop()
        assert run(app, path) is None
        assert kinds(path) == []

    def test_when_a_replay_would_take_long(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rhythm, "REPLAY_S", 0.001)
        app, _ = collector(numbers)
        run(app, path)
        assert kinds(path)[0] is Checkpoint

    @pytest.mark.usefixtures("often")
    def test_without_a_journal_the_hooks_are_not_called(self) -> None:
        app = Parasnake("test")
        app.process(same)
        app.new_data(numbers)
        app.checkpoint(stop)
        app.restore(stop)
        app.run(local=1, progress=False, start_method="fork")


class TestMistakes:
    @pytest.mark.parametrize(
        ("one", "other"), [("checkpoint", "restore"), ("restore", "checkpoint")]
    )
    def test_one_hook_without_the_other(self, one: str, other: str) -> None:
        app = Parasnake("test")
        app.new_data(numbers)
        app.process(same)
        getattr(app, one)(lambda: 1)
        with pytest.raises(ConfigurationError, match=f"@app.{one} is there, .* no {other} hook"):
            app.run(local=1)

    def test_a_hook_that_raises_stops_the_job_and_the_journal_is_as_it_was(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rhythm, "REPLAY_S", 0.0)
        app, _ = collector(numbers, state=stop)
        with pytest.raises(HookError, match=r"@app\.checkpoint raised") as caught:
            run(app, path)
        assert isinstance(caught.value.__cause__, Stop)
        assert Checkpoint not in kinds(path)
        app, _ = collector(numbers)
        assert sorted(run(app, path)) == list(range(MANY))

    def test_a_state_that_cannot_be_kept(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rhythm, "REPLAY_S", 0.0)
        app, found = collector(numbers)
        found.append(threading.Lock())
        with pytest.raises(PayloadError, match=r"@app.checkpoint returned .*state\[0\].*lock"):
            run(app, path)
        assert Checkpoint not in kinds(path)

    def test_at_a_clean_stop_it_is_told_and_the_stop_goes_on(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def end() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        app, found = collector(numbers, 10, end=end)
        found.append(threading.Lock())
        with pytest.raises(Interrupted):
            run(app, path)
        assert "@app.checkpoint returned cannot be kept" in caplog.text
        assert Checkpoint not in kinds(path)

    @pytest.mark.parametrize(
        ("entries", "give", "match"),
        [
            ([checkpoint([], 3)], numbers_of(0, 1), "the data of 3 tasks, and now of 2"),
            ([checkpoint([], 2, drawn=3)], numbers_of(0, 1, 2), "2 tasks, and now of 3"),
            (
                [checkpoint([], 2, exhausted=True)],
                numbers_of(0, 1, 2),
                "its end, and now the data 2",
            ),
            ([checkpoint([], 2, drawn=0)], numbers_of(0, 1), "was a generator, or is one now"),
            ([checkpoint([], 2)], lambda: 5, "was a generator, or is one now"),
            (
                [checkpoint([], 1), handed_out(1, 7)],
                numbers_of(0, 8),
                "the data 7, and now the data 8",
            ),
        ],
    )
    def test_changed_scripts(
        self, path: Path, entries: list[Entry], give: Callable[[], Any], match: str
    ) -> None:
        write(path, *entries)
        before = path.read_bytes()
        app, _ = collector(give)
        app.job_done(lambda: False)
        with pytest.raises(ReplayError, match=match):
            run(app, path)
        assert path.read_bytes() == before

    def test_no_hook_for_it_any_more(self, path: Path) -> None:
        write(path, checkpoint([]))
        app = Parasnake("test")
        app.new_data(numbers)
        app.process(same)
        with pytest.raises(ReplayError, match="no restore hook"):
            run(app, path)

    def test_what_cannot_be_rebuilt(self, path: Path) -> None:
        content = (b"\x80\x05cno_such_module\nThing\n.",)
        write(path, checkpoint([])._replace(payload=content))
        app, _ = collector(numbers)
        with pytest.raises(ReplayError, match=r"state of its checkpoint.*no_such_module"):
            run(app, path)
        path.unlink()
        write(path, checkpoint([], 1, merged=0), left(0, 0)._replace(payload=content))
        app, _ = collector(numbers)
        app.failed(lambda data: None)
        with pytest.raises(ReplayError, match=r"data of task 0.*no_such_module"):
            run(app, path)

    def test_a_checkpoint_in_the_middle(self, path: Path) -> None:
        write(path, handed_out(0, 0), checkpoint([]))
        app, _ = collector(numbers)
        with pytest.raises(JournalError, match="damaged: a checkpoint in the middle"):
            run(app, path)

    def test_a_hook_that_raises_at_the_restart(self, path: Path) -> None:
        write(path, checkpoint(5))
        app, _ = collector(numbers)
        with pytest.raises(HookError, match="restore"):
            run(app, path)


class TestRestart:
    def test_what_was_left_goes_on(self, path: Path) -> None:
        write(
            path,
            checkpoint([10, 11], 4, exhausted=True, merged=1, failed=1, drawn=5),
            left(1, 1, failures=2),
            left(3, 3),
            Computed(2, 1.0, "cobra"),
        )
        app, _ = collector(numbers_of(0, None, 1, 2, 3), process=lambda n: 1 / (n - 1))
        seen: list[Any] = []
        app.failed(lambda data, error: seen.append((data, str(error).split(";")[0])))
        assert run(app, path) == [10, 11, 0.5]
        assert seen == [(1, "task 1 has failed after 3 failed attempts")]

    def test_arrays_of_the_state_can_be_changed(self, path: Path) -> None:
        write(path, checkpoint({"small": np.zeros(3), "large": np.zeros(3000)}))
        app = Parasnake("test")
        app.process(same)
        app.new_data(numbers_of(1.0))
        state: dict[str, Any] = {}
        app.checkpoint(lambda: state)
        app.restore(state.update)

        @app.result
        def add(result: float) -> None:
            for array in state.values():
                np.add(array, result, out=array)

        run(app, path)
        assert [array.sum() for array in state.values()] == [3.0, 3000.0]

    def test_replaying_is_true_in_restore(self, path: Path) -> None:
        write(path, checkpoint([]))
        seen = []
        app = Parasnake("test")
        app.process(same)
        app.new_data(numbers_of(1))
        app.checkpoint(stop)
        app.restore(lambda state: seen.append(app.replaying))
        run(app, path)
        assert seen == [True]


class TestFile:
    def test_it_takes_the_place_of_all_that_was_written_and_waits(self, path: Path) -> None:
        with opened(path) as file:
            file.note(merged(0))
            file.commit()
            file.note(merged(1))
            file.nothing(NODE)
            assert file.grown > 0
            size = file.start_over([checkpoint(1), merged(2)])
            assert (file.grown, file.waiting) == (0, False)
            assert file.stored.checkpoint_bytes == size
            file.note(Exhausted())
        assert read(path) == [checkpoint(1), merged(2), Exhausted()]
        with opened(path) as again:
            again.note(merged(3))
        assert read(path)[-1] == merged(3)

    def test_one_that_is_larger_than_a_row(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journal, "ROW_BYTES", 1000)
        state = os.urandom(10_000)
        with opened(path) as file:
            file.start_over([checkpoint(state), merged(1)])
        found, _ = read(path)
        assert isinstance(found, Checkpoint)
        assert loads(b"".join(found.payload)) == state

    def test_the_first_rows_may_not_be_missing(self, path: Path) -> None:
        with opened(path) as file:
            for number in range(5):
                file.note(merged(number))
                file.commit()
            file.start_over([checkpoint(1)])
            file._connection.execute("DELETE FROM stream")
            file.note(merged(9))
        with pytest.raises(JournalError, match="row 6 is missing"):
            read(path)

    def test_a_reader_that_is_overtaken_begins_again(self, path: Path) -> None:
        with opened(path) as file:
            for number in range(3):
                file.note(merged(number))
                file.commit()
            with Stored.read(path) as stored:
                rows = stored.rows()
                assert next(rows).entries == [merged(0)]
                file.start_over([checkpoint(1)])
                with pytest.raises(Overtaken):
                    next(rows)

            def overtaken(stored: Stored) -> Iterator[Any]:
                monkeypatch.undo()
                raise Overtaken

            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(Stored, "rows", overtaken)
                assert Survey.of(path).cut_at is not None

    @pytest.mark.parametrize("network", [None, "nfs4"])
    def test_the_file_does_not_grow_for_ever(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, network: str | None
    ) -> None:
        monkeypatch.setattr(journal, "network_file_system", lambda _: network)
        sizes = []
        with opened(path) as file:
            for turn in range(12):
                for number in range(40):
                    file.note(merged(number, bytes(20_000)))
                    if number % 10 == 0:
                        file.commit()
                file.start_over([checkpoint(bytes(300_000), turn)])
                if network is None:
                    file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                sizes.append(path.stat().st_size)
        assert sizes[-1] == max(sizes[:3])
        assert sizes[-1] < 3_000_000

    def test_a_failure_in_the_middle_leaves_all_as_it_was(self, path: Path) -> None:
        def entries() -> Iterator[Entry]:
            yield checkpoint(1)
            yield merged(7, bytes(20_000_000))

        with opened(path) as file:
            file.note(merged(0))
            file.commit()
            file._connection.execute(
                "CREATE TRIGGER t BEFORE INSERT ON stream WHEN new.seq > 2 "
                "BEGIN SELECT raise(FAIL, 'no room'); END"
            )
            with pytest.raises(JournalError, match="no room"):
                file.start_over(entries())
        assert read(path) == [merged(0)]

    def test_a_log_that_was_cut_anywhere_has_the_old_or_the_new(
        self, path: Path, tmp_path: Path
    ) -> None:
        """As a power cut leaves it: some of the write-ahead log never came to the disk."""
        whole = tmp_path / "whole"
        states: list[list[Entry]] = [[]]
        with opened(path) as file:
            for number in range(8):
                if number % 3 == 2:
                    states.append([checkpoint(bytes(9000), number), merged(number)])
                    file.start_over(states[-1])
                else:
                    states.append([*states[-1], merged(number, bytes([number]) * 3000)])
                    file.note(states[-1][-1])
                    file.commit()
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{whole}{suffix}")
        log = Path(f"{whole}-wal").read_bytes()
        known = [[plain(entry) for entry in state] for state in states]
        seen = set()

        @given(st.integers(0, len(log)))
        @settings(max_examples=150)
        def check(end: int) -> None:
            cut = tmp_path / "cut"
            shutil.copy(whole, cut)
            Path(f"{cut}-wal").write_bytes(log[:end])
            Path(f"{cut}-shm").unlink(missing_ok=True)
            with opened(cut) as file:
                found = [plain(entry) for row in file.stored.rows() for entry in row.entries]
            assert found in known
            seen.add(known.index(found))

        check()
        for end in range(32, len(log) + 1, 24 + 4096):  # the end of each page in it
            check.hypothesis.inner_test(end)  # type: ignore[attr-defined]
        assert len(seen) == len(known)


def plain(entry: Entry) -> tuple[Any, ...]:
    """However its payload is cut."""
    fields: tuple[Any, ...] = tuple(entry)
    return (type(entry), *fields[:-1], b"".join(fields[-1]))
