"""The journal's file: what is committed is there, and what is wrong with a file is said."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parasnake import cli, journal
from parasnake.core.ids import JobId, NodeId, NodeKey, TaskId
from parasnake.core.journal import Entry, Exhausted, Failed, HandedOut, Merged, Met, Nothing
from parasnake.errors import ConfigurationError, JournalError
from parasnake.journal import Facts, Journal, Stored, network_file_system

FACTS = Facts("test", JobId(bytes(range(16))), "digest", "0.2", 1e9)
NODE, OTHER = NodeKey(b"n" * 16), NodeKey(b"o" * 16)


@contextlib.contextmanager
def opened(path: Path, facts: Facts = FACTS) -> Iterator[Journal]:
    with contextlib.closing(Journal(path, facts)) as file:
        yield file


def merged(number: int, content: bytes = b"result") -> Merged:
    return Merged(TaskId(number), NODE, 0.5, (content,))


def read(path: Path) -> list[Entry]:
    with Stored.read(path) as stored:
        return [entry for row in stored.rows() for entry in row.entries]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my.journal"


class TestFile:
    def test_what_was_noted_is_read_in_its_order(self, path: Path) -> None:
        with opened(path) as file:
            assert file.is_new
            file.note(HandedOut(TaskId(0), NODE, (b"da", b"ta")))
            file.nothing(NODE)
            file.nothing(NODE)
            file.note(merged(0))
            file.commit()
            file.nothing(OTHER)
            file.note(Exhausted())
        told = [
            HandedOut(TaskId(0), NODE, (b"data",)),
            Nothing(2, (NODE,)),
            merged(0),
            Nothing(1, (OTHER,)),
            Exhausted(),
        ]
        assert read(path) == told
        with opened(path) as again:
            assert not again.is_new
            assert [entry for row in again.stored.rows() for entry in row.entries] == told
            again.note(merged(1))
        assert read(path) == [*told, merged(1)]

    def test_the_job_stays_the_same(self, path: Path) -> None:
        with opened(path):
            pass
        with opened(path, Facts("test", JobId(bytes(16)), "another", "0.3", 2e9)) as again:
            assert again.stored.facts == FACTS
            assert again.stored.done is None
            again.finish(17)
            assert again.stored.done == 17

    def test_it_can_be_read_while_it_is_written(self, path: Path) -> None:
        with opened(path) as file:
            file.note(merged(0))
            assert file.waiting
            assert read(path) == []
            file.commit()
            assert not file.waiting
            assert read(path) == [merged(0)]

    @pytest.mark.parametrize("network", [None, "nfs4"])
    def test_payloads_longer_than_a_row(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, network: str | None
    ) -> None:
        monkeypatch.setattr(journal, "ROW_BYTES", 1000)
        monkeypatch.setattr(journal, "PENDING_BYTES", 5000)
        monkeypatch.setattr(journal, "network_file_system", lambda _: network)
        contents = [bytes([number]) * size for number, size in enumerate((0, 967, 9000, 70_000, 5))]
        with opened(path) as file:
            assert file.file_system == network
            for number, content in enumerate(contents):
                file.note(HandedOut(TaskId(number), NODE, (content[:50], memoryview(content)[50:])))
            assert file.waiting  # the last is short, and all before it are written
        found = read(path)
        assert [
            b"".join(entry.payload) for entry in found if isinstance(entry, HandedOut)
        ] == contents

    def test_an_empty_file_becomes_a_journal(self, path: Path) -> None:
        path.touch()
        with opened(path) as file:
            assert file.is_new


class TestRefusals:
    def test_two_servers(self, path: Path) -> None:
        with opened(path) as first:
            with pytest.raises(ConfigurationError, match="another server is using it"):
                Journal(path, FACTS)
            first.note(merged(0))
        assert read(path) == [merged(0)]

    def test_another_app(self, path: Path) -> None:
        with opened(path):
            pass
        with pytest.raises(ConfigurationError, match="of the app 'test', and this is the app 'x'"):
            Journal(path, Facts("x", FACTS.job, "", "", 0.0))
        with opened(path):
            pass  # it was closed

    def test_no_journal(self, path: Path) -> None:
        path.write_text("my precious results\n" * 100)
        for attempt in (lambda: Journal(path, FACTS), lambda: read(path)):
            with pytest.raises(ConfigurationError, match="this file is no journal"):
                attempt()
        assert path.read_text() == "my precious results\n" * 100

    def test_a_database_of_somebody_else(self, path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE mine (text)")
        before = path.read_bytes()
        for attempt in (lambda: Journal(path, FACTS), lambda: read(path)):
            with pytest.raises(ConfigurationError, match="this file is no journal"):
                attempt()
        assert path.read_bytes() == before

    def test_another_format(self, path: Path) -> None:
        with opened(path):
            pass
        with contextlib.closing(sqlite3.connect(path)) as newer:
            newer.execute("PRAGMA user_version = 99")
        with pytest.raises(ConfigurationError, match="format 99"):
            Journal(path, FACTS)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            Journal(tmp_path / "nowhere" / "my.journal", FACTS)
        with pytest.raises(ConfigurationError, match="there is no such file"):
            read(tmp_path / "nowhere" / "my.journal")

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE stream SET bytes = zeroblob(length(bytes)) WHERE seq = 2",
            "DELETE FROM stream WHERE seq = 2",
            "UPDATE stream SET bytes = 'text' WHERE seq = 2",
            "DELETE FROM stream WHERE seq = 3",
            "DELETE FROM meta WHERE name = 'job'",
            "DROP TABLE stream",
        ],
    )
    def test_damage(self, path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
        monkeypatch.setattr(journal, "ROW_BYTES", 100)
        with opened(path) as file:
            file.note(merged(0, b"x" * 230))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(damage)
        with pytest.raises(JournalError, match="damaged"):
            read(path)

    def test_nonsense_in_good_order(self, path: Path) -> None:
        with opened(path) as file:
            file._pending.append(b"\xff" * 20)
            file._size = 20
        with pytest.raises(JournalError, match="damaged: a message of kind 255"):
            read(path)


class TestDisk:
    def test_a_log_that_was_cut_anywhere_has_its_first_commits(
        self, path: Path, tmp_path: Path
    ) -> None:
        """As a power cut leaves it: some of the write-ahead log never came to the disk."""
        whole = tmp_path / "whole"
        log_of = Path(f"{path}-wal")
        ends = []
        with opened(path) as file:
            for number in range(6):
                file.note(merged(number, bytes([number]) * 1500))
                file.commit()
                ends.append(log_of.stat().st_size)
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{whole}{suffix}")
        log = Path(f"{whole}-wal").read_bytes()
        base = whole.read_bytes()

        @given(st.integers(ends[0], ends[-1]) | st.sampled_from(ends) | st.integers(0, ends[-1]))
        @settings(max_examples=150)
        def check(end: int) -> None:
            cut = tmp_path / "cut"
            cut.write_bytes(base)
            Path(f"{cut}-wal").write_bytes(log[:end])
            Path(f"{cut}-shm").unlink(missing_ok=True)
            with opened(cut) as file:
                found = [entry for row in file.stored.rows() for entry in row.entries]
                count = sum(end >= complete for complete in ends)
                assert found == [merged(n, bytes([n]) * 1500) for n in range(count)]
                file.note(merged(99))
            assert read(cut)[-1] == merged(99)

        check()

    def test_a_file_that_was_cut_is_refused(self, path: Path) -> None:
        with opened(path) as file:
            for number in range(20):
                file.note(merged(number, bytes(2000)))
                file.commit()
        content = path.read_bytes()
        for end in (1, 99, 4096, 10_000, len(content) // 2, len(content) - 4096):
            path.write_bytes(content[:end])
            with pytest.raises((JournalError, ConfigurationError)):
                read(path)

    def test_a_full_disk_stops_it_and_what_was_written_is_there(self, tmp_path: Path) -> None:
        """A child that may not write files of more than a few hundred kilobytes."""
        path = tmp_path / "my.journal"
        code = f"""
            from pathlib import Path
            from parasnake.errors import JournalError
            from test_journal import FACTS, Journal, merged
            file = Journal(Path({str(path)!r}), FACTS)
            number = 0
            try:
                while True:
                    file.note(merged(number, bytes(5000)))
                    file.commit()
                    number += 1
            except JournalError as error:
                print(error)
            file.close()
            print(number)
        """

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=Path(__file__).parent,
            preexec_fn=limit,
            capture_output=True,
            text=True,
            check=True,
        )
        said, number = done.stdout.splitlines()
        assert "cannot be written" in said
        assert int(number) > 10
        assert len(read(path)) == int(number)
        with opened(path) as again:  # there is room now
            again.note(merged(0))

    def test_file_systems(self, tmp_path: Path) -> None:
        mounts = tmp_path / "mountinfo"
        line = "36 35 98:0 / {} rw,noatime master:1 - {} server:/x rw\n"
        kinds = {"/": "ext4", "/home": "nfs4", "/home/me/local\\040disk": "xfs", "/s": "fuse.sshfs"}
        mounts.write_text("".join(line.format(*item) for item in kinds.items()))
        assert network_file_system(Path("/var/x"), mounts) is None
        assert network_file_system(Path("/home/me/x"), mounts) == "nfs4"
        assert network_file_system(Path("/home/me/local disk/x"), mounts) is None
        assert network_file_system(Path("/s/x"), mounts) == "fuse.sshfs"
        assert network_file_system(Path("/s/x"), tmp_path / "nowhere") is None
        mounts.write_text("")
        assert network_file_system(Path("/s/x"), mounts) is None


class TestCommand:
    def test_it_tells_what_is_in_one(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with opened(path) as file:
            file.note(Met(NODE, "cobra (pid 7, 192.0.2.7)"))
            for number in range(4):
                file.note(HandedOut(TaskId(number), NODE, (b"data",)))
            file.note(merged(0))
            file.note(merged(2))
            file.note(Merged(TaskId(1), OTHER, 7.0, (b"result",)))
            file.note(Failed(TaskId(3), OTHER, 3, 0, "why", "", ""))
            file.note(Exhausted())
            file.nothing(NODE)
            file.note(HandedOut(TaskId(4), NODE, (b"data",)))
            file.commit()
            cli.command(["journal", str(path)])
            text = capsys.readouterr().out
        lines = dict(line.split(None, 1) for line in text.splitlines() if "  " in line[:14])
        assert lines["app"] == "test"
        assert lines["job"] == FACTS.job.hex()
        assert squeezed(text)[5:] == [
            "handed out 5, which is all of them",
            "merged 3",
            "failed 1",
            "open 1",
            "state not done",
            "computed by",
            "2 in 1.0 s cobra (pid 7, 192.0.2.7)",
            f"1 in 7.0 s node {NodeId(bytes=OTHER)}",
        ]

    def test_many_places(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with opened(path) as file:
            for number in range(60):
                file.note(Merged(TaskId(0), NodeKey(bytes([number] * 16)), 0.0, (b"result",)))
            file.finish(60)
        cli.command(["journal", str(path)])
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "  and 10 more"
        assert "state        the job is done" in lines

    def test_an_empty_one_and_none(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with opened(path):
            pass
        cli.command(["journal", str(path)])
        assert "last write   none" in capsys.readouterr().out
        with pytest.raises(SystemExit) as caught:
            cli.command(["journal", f"{path}.other"])
        assert caught.value.code == 2
        assert capsys.readouterr().err.endswith("my.journal.other: there is no such file\n")


def squeezed(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]
