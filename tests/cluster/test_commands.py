"""Commands of a batch system that run beside a loop: they may fail, take long or hang."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest

from parasnake.cluster import commands
from parasnake.cluster.commands import Command
from parasnake.errors import BatchError
from parasnake.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


def result_of(loop: Loop, *words: str, folder: Path | None = None) -> str | BatchError:
    """Run a command to its end, the loop turning meanwhile."""
    results: list[str | BatchError] = []
    Command(loop, list(words), results.append, folder)
    deadline = loop.now() + 60
    while not results:
        assert loop.now() < deadline
        loop.wait(deadline)
    return results[0]


def test_what_it_writes_to_standard_output_is_its_answer(loop: Loop, tmp_path: Path) -> None:
    script = "echo a warning >&2; pwd"
    assert result_of(loop, "sh", "-c", script, folder=tmp_path) == f"{tmp_path}\n"
    assert commands.run(["sh", "-c", script], tmp_path) == f"{tmp_path}\n"


def test_long_answers_come_whole(loop: Loop) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo 4711_$i RUNNING; i=$((i + 1)); done"
    answer = result_of(loop, "sh", "-c", script)
    assert isinstance(answer, str)
    assert answer.count("\n") == 20000


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo no; echo 'Invalid\n  account' >&2; exit 3", "sh has failed: Invalid account"),
        ("echo closed today; exit 1", "sh has failed: closed today"),
        ("exit 7", "sh has failed: exit status 7, without a word"),
    ],
)
def test_why_it_has_failed_is_told_in_its_own_words(loop: Loop, script: str, words: str) -> None:
    error = result_of(loop, "sh", "-c", script)
    assert isinstance(error, BatchError)
    assert str(error) == words
    with pytest.raises(BatchError) as caught:
        commands.run(["sh", "-c", script])
    assert str(caught.value) == words


def test_many_words_are_cut(loop: Loop) -> None:
    error = result_of(
        loop, "sh", "-c", "i=0; while [ $i -lt 999 ]; do echo $i >&2; i=$((i + 1)); done; exit 1"
    )
    assert str(error).endswith(" 997 998")
    assert len(str(error)) < 600


def test_one_that_is_not_there(loop: Loop, tmp_path: Path) -> None:
    error = result_of(loop, "no-such-sbatch")
    assert str(error).startswith("there is no no-such-sbatch here; submit from a machine")
    (tmp_path / "sbatch").touch(mode=0o644)
    error = result_of(loop, str(tmp_path / "sbatch"))
    assert str(error).endswith("sbatch cannot be run: Permission denied")


def test_one_that_hangs_is_ended_with_all_that_it_has_started(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_SECONDS", 1)
    turns: list[float] = []

    def turn() -> None:
        turns.append(loop.now())
        loop.call_in(0.01, turn)

    turn()
    error = result_of(loop, "sh", "-c", "sleep 60 & sleep 60")
    assert str(error) == "sh has not answered in 1 s"
    assert len(turns) > 2, "the loop has gone on meanwhile"
    assert not psutil.Process().children(recursive=True)
    with pytest.raises(BatchError, match="sh has not answered in 1 s"):
        commands.run(["sh", "-c", "exec sleep 60"])


def test_one_that_closes_its_output_and_goes_on_is_waited_for(loop: Loop) -> None:
    assert result_of(loop, "sh", "-c", "echo 1; exec >&- 2>&-; sleep 0.2") == "1\n"


def test_one_that_is_stopped_says_nothing_more(loop: Loop) -> None:
    results: list[str | BatchError] = []
    command = Command(loop, ["sleep", "60"], results.append)
    command.stop()
    command.stop()
    loop.wait(loop.now() + 0.01)
    assert not results
    assert not psutil.Process().children(recursive=True)
