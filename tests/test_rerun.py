"""Tasks of a journal that are computed again in one process: ``parasnake replay``."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from programs import environment
from test_checkpoints import checkpoint, left
from test_journal import NODE
from test_replay import handed_out, merged, write

from parasnake.core.ids import TaskId
from parasnake.core.journal import Failed, HandedOut
from parasnake.core.seeds import job_seed, task_seed

SCRIPT = """
    import argparse
    import sys
    from dataclasses import dataclass
    from parasnake import Parasnake

    app = Parasnake("test", seed=5)
    factor = 1

    @dataclass
    class Square:
        value: int

    @app.init_data
    def init(node_id):
        return {"node": node_id, "base": app.args.base}

    @app.node_init
    def begin(init_data):
        global factor
        factor = init_data["base"]

    @app.new_data
    def never():
        raise AssertionError("a hook that is not called")
        yield

    @app.process
    def square(data, init_data, node_id, seed):
        assert init_data["node"] == node_id
        if data == 13:
            raise ValueError("thirteen")
        if data == 14:
            sys.exit("fourteen")
        if data == 15:
            return seed
        return Square(factor * data * data)

    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        parser.add_argument("--base", type=int, default=1)
        parser.add_argument("--nothing", action="store_true")
        if "--nothing" not in sys.argv:
            app.main(parser)
            raise AssertionError("nothing comes after it")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    return tmp_path


def replay(
    folder: Path, *options: str, typed: str = "", python: tuple[str, ...] = ("-m", "parasnake")
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "replay", *options],
        cwd=folder,
        input=typed,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def again(folder: Path, task: int, *options: str) -> tuple[int, str, str]:
    done = replay(folder, "my.journal", str(task), "script.py", *options)
    return done.returncode, done.stdout, done.stderr


def test_a_task_of_a_real_job(folder: Path) -> None:
    """What was pickled by workers has the classes of the script."""
    job = """
        @app.result
        def merge(result): pass
    """
    text = textwrap.dedent(SCRIPT).replace(
        'raise AssertionError("a hook that is not called")\n    yield', "yield from range(5)"
    )
    (folder / "script.py").write_text(
        text.replace("\nif __name", textwrap.dedent(job) + "\nif __name")
    )
    for start_method in ("fork", "spawn"):
        name = f"{start_method}.journal"
        options = ("--local", "1", "--start-method", start_method, "--base", "3", "--journal", name)
        ended = subprocess.run(
            [sys.executable, "script.py", *options], cwd=folder, capture_output=True, text=True,
            env=environment(folder), check=False,
        )  # fmt: skip
        assert "nothing comes after it" in ended.stderr
        done = replay(folder, name, "4", "script.py", "--base", "3")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "task 4: 4",
            "result: Square(value=48)",
            "it equals the recorded result",
        ]
    done = replay(folder, name, "4", "script.py", "--base", "2")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        "result: Square(value=32)",
        "the recorded result was another one: Square(value=48)",
    ]


def test_a_task_that_raises(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 13), Failed(TaskId(0), NODE, 3, 0, "why", "", ""))
    status, out, err = again(folder, 0)
    assert (status, out) == (1, "task 0: 13\n")
    assert err.startswith("Traceback")
    assert 'script.py", line' in err
    assert "/parasnake/" not in err
    assert err.endswith("ValueError: thirteen\n")


def test_a_task_that_exits(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 14))
    status, _, err = again(folder, 0)
    assert (status, err.splitlines()[-1]) == (1, "SystemExit: fourteen")


def test_the_seed_is_that_of_the_job(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 1), handed_out(1, 15))
    status, out, _ = again(folder, 1)
    assert status == 0
    assert out.splitlines()[1:] == [
        f"result: {task_seed(job_seed(5), TaskId(1))}",
        "there is no recorded result: not merged yet",
    ]


def test_a_task_that_had_failed(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 1), Failed(TaskId(0), NODE, 3, 0, "why", "", ""))
    status, out, _ = again(folder, 0)
    assert (status, out.splitlines()[-1]) == (0, "there is no recorded result: it had failed: why")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (0, "task 0 was merged before the last checkpoint, which has removed its data"),
        (9, "there is no task 9; it has tasks 0 to 3"),
        (-1, "there is no task -1; it has tasks 0 to 3"),
        (3, "the data of task 3 could not be sent"),
    ],
)
def test_tasks_that_are_not_there(folder: Path, task: int, says: str) -> None:
    write(folder / "my.journal", checkpoint([], 2), left(1, 1), handed_out(2, 2), unsendable(3))
    status, out, err = again(folder, task)
    assert (status, out) == (2, "")
    assert err.strip().endswith(f"error: journal my.journal: {says}")


def unsendable(number: int) -> HandedOut:
    return HandedOut(TaskId(number), NODE, ())


def test_a_task_that_a_checkpoint_has_kept(folder: Path) -> None:
    write(folder / "my.journal", checkpoint([], 2), left(1, 7), merged(1, 49))
    assert again(folder, 1)[1].splitlines()[:2] == ["task 1: 7", "result: Square(value=49)"]


def test_mistakes(folder: Path) -> None:
    write(folder / "other.journal", handed_out(0, 1), app="other")
    for options, says in [
        (
            ("other.journal", "0", "script.py"),
            "journal of the app 'other', and this is the app 'test'",
        ),
        (("other.journal", "0", "no.py"), "script no.py: there is no such file"),
        (("no.journal", "0", "script.py"), "journal no.journal: there is no such file"),
        (("other.journal", "0", "script.py", "--nothing"), "it has ended without app.main()"),
    ]:
        done = replay(folder, *options)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_init_data_that_raises(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 1))
    script = folder / "script.py"
    script.write_text(script.read_text().replace('return {"node"', 'raise KeyError; {"node"'))
    status, _, err = again(folder, 0)
    assert status == 1
    assert "KeyError" in err
    assert "@app.init_data raised" in err


def test_a_debugger_stops_where_process_begins(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 6))
    typed = "next\np 'data is', data\ncontinue\n"
    done = replay(folder, "--pdb", "my.journal", "0", "script.py", "--base", "2", typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "script.py" in done.stdout
    assert "('data is', 6)" in done.stdout
    assert "result: Square(value=72)" in done.stdout


def test_and_where_it_raises(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 13))
    typed = "continue\np 'data is', data\nquit\n"
    done = replay(folder, "--pdb", "my.journal", "0", "script.py", typed=typed)
    assert done.returncode == 1
    assert "('data is', 13)" in done.stdout
    assert done.stderr.endswith("ValueError: thirteen\n")


def test_who_quits_the_debugger_wants_no_traceback(folder: Path) -> None:
    write(folder / "my.journal", handed_out(0, 6))
    done = replay(folder, "--pdb", "my.journal", "0", "script.py", typed="quit\n")
    assert (done.returncode, done.stderr) == (1, "")


def test_a_changed_process_is_told(folder: Path) -> None:
    from parasnake.core.ids import JobId
    from parasnake.journal import Facts, Journal

    file = Journal(folder / "my.journal", Facts("test", JobId(bytes(16)), "other", "0.2", 1e9))
    file.note(handed_out(0, 1))
    file.close()
    assert again(folder, 0)[1].startswith("the code of the process hook is not what it was\n")
