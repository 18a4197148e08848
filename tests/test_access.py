"""The access file: how it is written and removed, and what a node makes of one."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parasnake import access as module
from parasnake.access import UNFINISHED_SECONDS, Access, AccessFile, Guide
from parasnake.addresses import Place
from parasnake.errors import ConfigurationError

KEY = bytes(range(200, 232))
LINE = "parasnake-key:yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc"
PLACES = (Place("10.0.0.1", 4000), Place("::1", 4000), Place("gate.example", 22000))
ACCESS = Access(PLACES, 4000, KEY, app="squares", job="0f" * 16, host="login1", pid=4711)
OTHER = Access((Place("10.0.0.2", 5000),), 5000, bytes(32), app="squares", job="ff" * 16)
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.access"


def put(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def changed(**fields: Any) -> str:
    """The text of an access file with other values of these fields; None leaves one out."""
    table = json.loads(ACCESS.text()) | fields
    return json.dumps({name: value for name, value in table.items() if value is not None})


def look(path: Path, *named: Place) -> Guide:
    guide = Guide(path, named, None)
    assert guide.look(0.0) == ""
    return guide


class TestItsText:
    def test_it_is_json_that_people_can_read_and_change(self) -> None:
        table = json.loads(ACCESS.text())
        assert table.pop("written")
        assert table == {
            "format": "parasnake access",
            "version": 1,
            "app": "squares",
            "job": "0f" * 16,
            "host": "login1",
            "pid": 4711,
            "addresses": ["10.0.0.1", "::1", "gate.example:22000"],
            "port": 4000,
            "key": LINE,
        }

    def test_the_key_is_in_no_repr(self) -> None:
        assert "key" not in repr(ACCESS)


class TestANode:
    def test_it_learns_places_and_key(self, path: Path) -> None:
        guide = look(put(path, ACCESS.text()))
        assert (guide.places, guide.key) == (list(PLACES), KEY)

    def test_fields_of_later_versions_are_passed_over(self, path: Path) -> None:
        assert look(put(path, changed(colour="blue"))).key == KEY

    def test_only_what_is_needed_has_to_be_there(self, path: Path) -> None:
        text = changed(app=None, job=None, host=None, pid=None, written=None)
        assert look(put(path, text)).places == list(PLACES)

    def test_places_that_were_named_come_first(self, path: Path) -> None:
        guide = look(put(path, ACCESS.text()), Place("near", 0), Place("far", 7), Place("::1", 0))
        assert guide.places == [("near", 4000), ("far", 7), PLACES[1], PLACES[0], PLACES[2]]

    def test_without_a_file_it_goes_where_it_was_told(self) -> None:
        guide = Guide(None, PLACES, KEY)
        assert guide.look(0.0) == ""
        assert (guide.places, guide.key) == (list(PLACES), KEY)
        assert guide.told("", ["one", "two"]) == "one; two"

    def test_it_waits_for_a_file(self, path: Path) -> None:
        guide = Guide(path, (), None)
        for _ in range(2):
            assert guide.look(0.0) == f"there is no access file {path}"
        assert (guide.places, guide.key) == ([], None)
        put(path, ACCESS.text())
        assert guide.look(1000.0) == ""
        assert guide.key == KEY

    def test_it_waits_for_a_folder_too(self, path: Path) -> None:
        guide = Guide(path.parent / "later" / "job.access", (), None)
        assert guide.look(0.0).startswith("there is no access file")

    def test_a_new_file_takes_the_place_of_the_old_one(self, path: Path) -> None:
        guide = look(put(path, ACCESS.text()))
        put(path, OTHER.text())
        assert guide.look(1.0) == ""
        assert (guide.places, guide.key) == (list(OTHER.places), OTHER.key)

    def test_a_file_that_is_gone_is_not_forgotten(self, path: Path) -> None:
        guide = look(put(path, ACCESS.text()))
        path.unlink()
        assert guide.look(1.0) == f"there is no access file {path}"
        assert (guide.places, guide.key) == (list(PLACES), KEY)

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
    def test_a_file_that_is_being_copied_is_waited_for(self, path: Path, share: float) -> None:
        text = ACCESS.text()
        put(path, text[: int(share * len(text))])
        guide = Guide(path, (), None)
        assert guide.look(0.0) == f"access file {path} is incomplete"
        assert guide.look(UNFINISHED_SECONDS - 1) == f"access file {path} is incomplete"
        put(path, text)
        assert guide.look(UNFINISHED_SECONDS) == ""

    def test_a_file_that_stays_incomplete_is_an_error(self, path: Path) -> None:
        guide = Guide(put(path, ACCESS.text()[:50]), (), None)
        guide.look(0.0)
        with pytest.raises(ConfigurationError, match=r"job\.access is incomplete; remove it"):
            guide.look(UNFINISHED_SECONDS)

    def test_each_incomplete_file_has_its_time(self, path: Path) -> None:
        guide = Guide(put(path, ""), (), None)
        guide.look(0.0)
        path.unlink()
        guide.look(UNFINISHED_SECONDS - 1)
        put(path, "")
        assert guide.look(UNFINISHED_SECONDS) == f"access file {path} is incomplete"

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("port = 3100", "is no access file"),
            ("[1]", "is no access file"),
            ('{"port": 3100}', "is no access file"),
            ("[" * 60_000, "is no access file"),
            (b"\x89PNG\r\n", "is no access file"),
            (changed(version=2), "has version 2 of the format, and this .* reads version 1"),
            (changed(version=None), "has version None"),
            (changed(port=None), "is damaged"),
            (changed(port=0), "is damaged"),
            (changed(port="4000"), "is damaged"),
            (changed(port=65536), "is damaged"),
            (changed(addresses=[]), "is damaged"),
            (changed(addresses="host"), "is damaged"),
            (changed(addresses=["a b"]), "is damaged"),
            (changed(addresses=[7]), "is damaged"),
            (changed(addresses=["host"] * 101), "is damaged"),
            (changed(key=LINE[:-1]), "is damaged"),
            (changed(key=None), "is damaged"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_what_cannot_be_used(self, path: Path, content: str, problem: str) -> None:
        with pytest.raises(ConfigurationError, match=f"^access file {path} {problem}") as caught:
            look(put(path, content))
        assert "\n" not in str(caught.value)
        assert LINE[20:30] not in str(caught.value)

    @pytest.mark.parametrize("mode", [0o644, 0o620, 0o604, 0o640])
    def test_what_others_can_read_or_write(self, path: Path, mode: int) -> None:
        put(path, ACCESS.text(), mode)
        with pytest.raises(
            ConfigurationError, match=rf"open to other users \(mode {mode:04o}\).*chmod 600 {path}"
        ):
            look(path)

    @only_root
    def test_what_belongs_to_somebody_else(self, path: Path) -> None:
        os.chown(put(path, ACCESS.text()), 12345, -1)
        with pytest.raises(ConfigurationError, match=r"belongs to another user.*12345"):
            look(path)
        with pytest.raises(ConfigurationError, match=r"belongs to another user.*12345"):
            AccessFile(path).check()

    def test_what_is_no_file(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(ConfigurationError, match="is no file"):
            look(path)

    def test_a_pipe_is_no_file_and_nobody_waits_for_its_other_end(self, path: Path) -> None:
        os.mkfifo(path)
        with pytest.raises(ConfigurationError, match="is no file"):
            look(path)

    @not_root
    def test_what_may_not_be_read(self, path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
            look(put(path, ACCESS.text(), 0o000))

    def test_a_path_through_a_file(self, path: Path) -> None:
        put(path, "")
        with pytest.raises(ConfigurationError, match="cannot be read: Not a directory"):
            look(path / "job.access")

    def test_a_file_server_that_does_not_answer_is_waited_for(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        guide = look(put(path, ACCESS.text()))
        with monkeypatch.context() as patched:

            def fail(_: Path) -> int:
                raise OSError(5, "Input/output error")

            patched.setattr(module, "_open", fail)
            assert guide.look(0.0) == f"access file {path} cannot be read: Input/output error"
        assert guide.look(0.0) == ""

    def test_what_came_of_a_search(self, path: Path) -> None:
        guide = Guide(path, (), None)
        assert guide.told("there is none", []) == "there is none"
        assert guide.told("there is none", ["one"]) == "there is none; one"
        assert guide.told("", ["one", "two"]) == f"by access file {path}: one; two"


class TestAServer:
    def test_it_writes_what_nodes_read(self, path: Path) -> None:
        file = AccessFile(path)
        assert file.check() is None
        file.write(ACCESS)
        assert look(path).places == list(PLACES)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.remove()
        assert list(path.parent.iterdir()) == []

    def test_whatever_the_umask_it_is_never_open_to_others(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes = []
        fill = AccessFile._fill

        def look_and_fill(self: AccessFile, descriptor: int, content: bytes) -> None:
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
            fill(self, descriptor, content)

        monkeypatch.setattr(AccessFile, "_fill", look_and_fill)
        before = os.umask(0)
        try:
            file = AccessFile(path)
            file.write(ACCESS)
            file.close()
        finally:
            os.umask(before)
        assert [*modes, stat.S_IMODE(path.stat().st_mode)] == [0o600, 0o600]

    def test_it_is_there_whole_or_not_at_all(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk is full in the middle of it, and nothing but what was there is there."""
        put(path, OTHER.text())

        def full(descriptor: int, data: bytes) -> int:
            if len(data) < 100:
                raise OSError(28, "No space left on device")
            return write(descriptor, data[:50])

        write = os.write
        monkeypatch.setattr(os, "write", full)
        file = AccessFile(path)
        with pytest.raises(ConfigurationError, match="cannot be written: No space left"):
            file.write(ACCESS)
        file.remove()
        assert path.read_text() == OTHER.text()
        assert list(path.parent.iterdir()) == [path]

    def test_a_file_system_without_modes(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_FOR_OTHERS", 0o700)  # as if those of the owner were theirs
        with pytest.raises(ConfigurationError, match="keeps no modes"):
            AccessFile(path).write(ACCESS)
        assert list(path.parent.iterdir()) == []

    def test_it_removes_only_its_own(self, path: Path) -> None:
        file = AccessFile(path)
        file.write(ACCESS)
        put(path, OTHER.text())
        file.remove()
        assert path.read_text() == OTHER.text()

    def test_one_that_is_gone_needs_no_removal(self, path: Path) -> None:
        file = AccessFile(path)
        file.remove()
        file.write(ACCESS)
        path.unlink()
        file.remove()
        file.remove()

    def test_one_that_shall_stay_stays(self, path: Path) -> None:
        file = AccessFile(path)
        file.write(ACCESS)
        file.close()
        file.remove()
        assert look(path).key == KEY

    def test_one_that_was_found_can_be_taken_over(self, path: Path) -> None:
        """And is removed then, if it is still the same."""
        for content in (ACCESS.text(), OTHER.text()):
            file = AccessFile(put(path, ACCESS.text()))
            file.check()
            file.take_over()
            put(path, content)
            file.remove()
            assert path.exists() == (content == OTHER.text())

    def test_the_folder_of_the_start_counts(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent)
        file = AccessFile(Path(path.name))
        guide = Guide(Path(path.name), (), None)
        (path.parent / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        file.write(ACCESS)
        assert guide.look(0.0) == ""
        file.remove()
        assert not path.exists()

    def test_what_a_server_has_left_there_is_told(self, path: Path) -> None:
        assert AccessFile(put(path, ACCESS.text())).check() == ACCESS

    @pytest.mark.parametrize("content", ["", "\n"])
    def test_an_empty_file_may_be_filled(self, path: Path, content: str) -> None:
        """Such as one of ``mktemp``."""
        assert AccessFile(put(path, content)).check() is None

    def test_a_key_that_others_may_have_read_is_used_no_more(self, path: Path) -> None:
        assert AccessFile(put(path, ACCESS.text(), 0o644)).check() is None

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("my thesis", "is no access file"),
            (ACCESS.text()[:40], "is incomplete"),
            (changed(version=9), "has version 9"),
        ],
    )
    def test_another_file_is_not_overwritten(self, path: Path, content: str, problem: str) -> None:
        put(path, content)
        with pytest.raises(ConfigurationError, match=f"is there already and {problem}.*another"):
            AccessFile(path).check()
        assert path.read_text() == content

    def test_a_folder_that_is_not_there(self, path: Path) -> None:
        with pytest.raises(ConfigurationError, match="there is no such folder"):
            AccessFile(path.parent / "later" / "job.access").check()

    @not_root
    def test_a_folder_where_nobody_may_write(self, path: Path) -> None:
        path.parent.chmod(0o500)
        with pytest.raises(ConfigurationError, match="Permission denied"):
            AccessFile(path).check()

    def test_what_cannot_be_read(self, path: Path) -> None:
        path.symlink_to(path)
        with pytest.raises(ConfigurationError, match="cannot be read: Too many levels"):
            AccessFile(path).check()

    def test_one_that_a_living_server_uses(self, path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from parasnake.access import *\n"
            "from parasnake.addresses import Place\n"
            "access = Access((Place('a', 1),), 1, bytes(32), app='other', host='here', pid=4711)\n"
            "AccessFile(Path(sys.argv[1])).write(access)\n"
            "print('written', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"written\n"
            with pytest.raises(
                ConfigurationError, match=r"in use by the server of app 'other' on here.*4711;"
            ):
                AccessFile(path).check()
            server.kill()
        assert AccessFile(path).check() is not None, "the lock has died with it"

    def test_a_file_system_without_locks(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_locks(*_: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(fcntl, "lockf", no_locks)
        AccessFile(path).write(ACCESS)
        assert AccessFile(path).check() == ACCESS
