"""Journals and what disks do to them: full, cut off by a power cut, under two names."""

from __future__ import annotations

import contextlib
import itertools
import os
import runpy
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from callees import free_port
from helpers import wait_until
from test_faults import Start, start
from test_journal import FACTS, merged, read

from parasnake import Parasnake
from parasnake.core.ids import JobId, NodeKey, TaskId
from parasnake.core.journal import HandedOut, Merged
from parasnake.errors import ConfigurationError
from parasnake.journal import Facts, Journal
from parasnake.payload import dumps

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("unmeasured")]

__all__ = ["start"]  # a fixture

Resize = Callable[[str], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A folder that is a file system of its own, of 300 KiB, and what makes it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        command = ("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    try:
        mount("size=300k")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no file systems for tests here: {error}")
    yield folder, lambda size: mount(f"remount,size={size}")
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def test_a_full_disk_costs_time_only(
    start: Start, small_disk: tuple[Path, Resize], tmp_path: Path
) -> None:
    disk, resize = small_disk
    port = ("--port", str(free_port()))
    options = ("--server", "--bind", "127.0.0.1", *port, "--journal", str(disk / "rows.journal"))
    agent = start("rows.py", *port, "--workers", "2")
    full = start("rows.py", *options)
    assert full.wait() == 1
    last = full.err.splitlines()[-1]
    assert f"journal {disk / 'rows.journal'}: it cannot be written" in last
    assert "full" in last
    assert "start again with it" in last
    assert agent.wait() == 0, "it was told that the job had been stopped"
    still_full = start("rows.py", *options)
    again = start("rows.py", *port, "--workers", "2")
    assert still_full.wait() == 1
    assert "Traceback" not in still_full.err
    again.wait()
    resize("20m")
    server = start("rows.py", *options)
    last_agent = start("rows.py", *port, "--workers", "2")
    assert (server.wait(), last_agent.wait()) == (0, 0), server.err
    expected = runpy.run_path(str(Path(__file__).parent / "scripts" / "rows.py"))["expected"]()
    assert server.out == f"{expected}\n"


def numbers(path: Path) -> list[int]:
    """The tasks that a journal tells of."""
    return [entry.task for entry in read(path) if isinstance(entry, Merged)]


def test_a_tail_that_was_cut_at_any_byte(tmp_path: Path) -> None:
    """As a power cut leaves it: the end of the write-ahead log never came to the disk."""
    path, cut = tmp_path / "my.journal", tmp_path / "cut"
    log = Path(f"{path}-wal")
    journal = Journal(path, FACTS)
    ends = []
    for number in range(4):
        journal.note(merged(number, bytes([number]) * 100))
        journal.commit()
        ends.append(log.stat().st_size)
    shutil.copy(path, cut)
    content = log.read_bytes()
    journal.close()
    for end in range(ends[-2], ends[-1] + 1):
        Path(f"{cut}-wal").write_bytes(content[:end])
        assert numbers(cut) == ([0, 1, 2, 3] if end == ends[-1] else [0, 1, 2])


COMMITS = 4


def write_commits(path: Path) -> list[int]:
    """Write a journal with a task in each commit, and copy it; returns the ends of its log."""
    with contextlib.closing(sqlite3.connect(path)) as empty:
        empty.execute("PRAGMA page_size = 512")  # fewer bytes to cut at
        empty.execute("VACUUM")
    facts, node = Facts("cut", JobId(bytes(16)), "", "0.2", 1e9), NodeKey(b"n" * 16)
    ends = []
    with contextlib.closing(Journal(path, facts)) as journal:
        for number in range(COMMITS):
            task = TaskId(number)
            journal.note(HandedOut(task, node, tuple(dumps(number).parts)))
            journal.note(Merged(task, node, 0.5, tuple(dumps(number * number).parts)))
            journal.commit()
            ends.append(Path(f"{path}-wal").stat().st_size)
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path}.copy{suffix}")
    return ends


def resume(path: Path) -> list[int]:
    """Have a server go on from a journal; returns what it has merged, and ends it."""
    app = Parasnake("cut")
    merges: list[int] = []

    @app.new_data
    def data() -> Iterator[int]:
        yield from range(COMMITS)

    @app.result
    def merge(result: int) -> None:
        merges.append(result)

    @app.job_done
    def done() -> bool:
        return True

    app.run(
        server=True, port=0, bind="127.0.0.1", progress=False, secret_key=b"k" * 32, journal=path
    )
    return merges


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: no disk to wait for."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def test_a_server_goes_on_from_a_log_that_was_cut_at_any_byte(in_memory: Path) -> None:
    """Each byte of the last two commits, by the server's own way of going on."""
    path, cut = in_memory / "whole", in_memory / "cut"
    ends = write_commits(path)
    base, log = Path(f"{path}.copy").read_bytes(), Path(f"{path}.copy-wal").read_bytes()
    assert len(log) == ends[-1]
    for end in range(ends[-3], ends[-1] + 1):
        for left in in_memory.glob("cut*"):
            left.unlink()
        cut.write_bytes(base)
        Path(f"{cut}-wal").write_bytes(log[:end])
        whole = sum(end >= complete for complete in ends)
        assert resume(cut) == [number * number for number in range(whole)], end


def test_a_tail_with_one_changed_byte(tmp_path: Path) -> None:
    """A torn write: what has not come to the disk is what was there before, or nonsense."""
    path, torn = tmp_path / "my.journal", tmp_path / "torn"
    log = Path(f"{path}-wal")
    journal = Journal(path, FACTS)
    ends = []
    for number in range(3):
        journal.note(merged(number, bytes([number]) * 100))
        journal.commit()
        ends.append(log.stat().st_size)
    shutil.copy(path, torn)
    content = log.read_bytes()
    journal.close()
    for place in itertools.chain(range(ends[-2], ends[-2] + 64), range(ends[-2], ends[-1], 97)):
        changed = bytearray(content)
        changed[place] ^= 0x40
        Path(f"{torn}-wal").write_bytes(changed)
        assert numbers(torn) in ([0, 1], [0, 1, 2])  # some bytes of a frame's header say nothing


class TestTwoNames:
    def test_a_link_is_the_same_journal(self, tmp_path: Path) -> None:
        path, link = tmp_path / "my.journal", tmp_path / "other.journal"
        journal = Journal(path, FACTS)
        link.symlink_to(path)
        with pytest.raises(ConfigurationError, match="another server is using it just now"):
            Journal(link, FACTS)
        journal.close()
        Journal(link, FACTS).close()

    def test_a_hard_link_is_refused(self, tmp_path: Path) -> None:
        path, link = tmp_path / "my.journal", tmp_path / "other.journal"
        Journal(path, FACTS).close()
        os.link(path, link)
        for name in (path, link):
            with pytest.raises(ConfigurationError, match="it has more than one name"):
                Journal(name, FACTS)
        link.unlink()
        Journal(path, FACTS).close()


def test_a_killed_server_leaves_no_lock(start: Start, tmp_path: Path) -> None:
    options = ("--server", "--port", "0", "--bind", "127.0.0.1", "--journal", "rows.journal")
    first = start("rows.py", *options)
    first.wait_for("server on port")
    first.kill()
    first.wait()
    second = start("rows.py", *options)
    wait_until(lambda: "server on port" in second.err or second.status is not None)
    assert second.status is None, second.err
