"""Keys: their text, their files, and where they are looked for."""

from __future__ import annotations

import base64
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from parasnake import keys
from parasnake.config import Config
from parasnake.errors import ConfigurationError

KEY = bytes(range(200, 232))
DIGITS = base64.urlsafe_b64encode(KEY).decode().rstrip("=")
LINE = f"parasnake-key:{DIGITS}"
TYPED = "an old key of 32 characters, 0.1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the user's that is not there yet."""
    folder = tmp_path / "configuration"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def key_file(path: Path, text: str | bytes = LINE + "\n", mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


# --- the text of a key


def test_generated_keys_are_32_bytes_and_never_the_same() -> None:
    assert len(keys.generate_key()) == 32
    assert keys.generate_key() != keys.generate_key()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("padding", ["", "="])
def test_line_of_a_key_file(padding: str, end: str) -> None:
    assert keys.parse_key(LINE + padding + end) == KEY


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_32_ascii_characters_are_the_key_itself(end: str) -> None:
    assert keys.parse_key(TYPED + end) == TYPED.encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        TYPED[:-1],
        TYPED[:-1] + "\n",  # a newline does not make up for a missing character
        TYPED + "x",
        TYPED + "\n\n",
        TYPED[:-1] + "é",
        DIGITS,
        LINE[:-1],
        LINE[:32],  # a torn line is no typed key, though it has 32 characters
        LINE + "A",
        LINE + "==",
        LINE[:-1] + "!",
        LINE[:-1] + "é",
        LINE[:-1] + chr(ord(LINE[-1]) + 1),  # changes only bits that stand for nothing
        LINE.replace("_", "/").replace("-", "+"),
        f"parasnake-key:{base64.b64encode(KEY).decode()}",
        LINE.upper(),
    ],
)
def test_anything_else_is_no_key_and_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="a key is one line of text: 'parasnake-key:'") as caught:
        keys.parse_key(text)
    for part in (DIGITS[:16], TYPED[:16]):
        assert part not in str(caught.value)


# --- key files


def test_written_key_file_is_one_line_that_only_the_owner_can_read(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        keys.write_key_file(tmp_path / "key")
    finally:
        os.umask(old_mask)

    text = (tmp_path / "key").read_text()
    assert text.startswith("parasnake-key:")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert mode_of(tmp_path / "key") == 0o600
    assert len(keys.read_key_file(tmp_path / "key")) == 32
    assert names_in(tmp_path) == ["key"]


def test_every_written_key_is_another(tmp_path: Path) -> None:
    for name in "ab":
        keys.write_key_file(tmp_path / name)
    assert keys.read_key_file(tmp_path / "a") != keys.read_key_file(tmp_path / "b")


@pytest.mark.parametrize("existing", ["file", "folder", "dangling link"])
def test_nothing_that_exists_is_overwritten(tmp_path: Path, existing: str) -> None:
    path = tmp_path / "key"
    if existing == "file":
        path.write_text("precious")
    elif existing == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")

    with pytest.raises(ConfigurationError, match="key: exists already and is not overwritten"):
        keys.write_key_file(path)

    assert names_in(tmp_path) == ["key"]
    assert existing != "file" or path.read_text() == "precious"


def test_key_file_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be written: No such file.*--key-file"):
        keys.write_key_file(tmp_path / "nowhere" / "key")


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left"):
        keys.write_key_file(tmp_path / "key")
    assert names_in(tmp_path) == []


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_hard_links")
def test_file_system_without_hard_links(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keys.write_key_file(path)
    key = keys.read_key_file(path)

    with pytest.raises(ConfigurationError, match="exists already"):
        keys.write_key_file(path)

    assert keys.read_key_file(path) == key
    assert mode_of(path) == 0o600
    assert names_in(tmp_path) == ["key"]


@pytest.mark.usefixtures("no_hard_links")
def test_failed_renaming_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ConfigurationError, match="Input/output error"):
        keys.write_key_file(tmp_path / "key")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "key"), [(LINE + "\n", KEY), (LINE, KEY), (TYPED + "\n", TYPED.encode())]
)
def test_read_key_file(tmp_path: Path, text: str, key: bytes) -> None:
    assert keys.read_key_file(key_file(tmp_path / "key", text)) == key


@pytest.mark.parametrize(
    "content", ["", TYPED[:-1], LINE[:-4], LINE + "\n" + LINE, b"\xff" * 32, b"x" * 100_000]
)
def test_file_that_holds_no_key(tmp_path: Path, content: str | bytes) -> None:
    path = key_file(tmp_path / "my.key", content)
    with pytest.raises(ConfigurationError) as caught:
        keys.read_key_file(path, source="command line, --key-file")

    text = str(caught.value)
    assert text.startswith(f"key file {path} (command line, --key-file): ")
    assert "a key is one line of text: 'parasnake-key:' and 32 bytes in base64url" in text
    assert "\n" not in text
    assert DIGITS[:8] not in text
    assert TYPED[:8] not in text


def test_key_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read: No such file.*keygen"):
        keys.read_key_file(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        keys.read_key_file(tmp_path)


def test_key_from_a_pipe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``--key-file <(password-manager show parasnake)``"""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end), os.fdopen(write_end, "w") as writer:
        writer.write(LINE)
        writer.close()
        assert keys.read_key_file(f"/dev/fd/{read_end}") == KEY
    assert caplog.messages == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_warning_about_a_file_that_is_open_to_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    path = key_file(tmp_path / "my key", mode=mode)
    assert keys.read_key_file(path) == KEY
    assert caplog.messages == [
        f"the key file {path} holds a secret key and is open to other users (mode {mode:04o}); "
        f"run: chmod 600 '{path}'"
    ]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o611])
def test_no_warning_about_a_private_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    keys.read_key_file(key_file(tmp_path / "key", mode=mode))
    assert caplog.messages == []


def test_no_warning_where_modes_mean_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = key_file(tmp_path / "key", mode=0o666)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        keys.warn_if_exposed(path, 0o100666, "key file")
    assert caplog.messages == []


# --- the user's own key file


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_CONFIG_HOME": "/settings"}, "/settings/parasnake/key"),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, "/home/eve/.config/parasnake/key"),
        ("linux", {"XDG_CONFIG_HOME": ""}, "/home/eve/.config/parasnake/key"),
        ("linux", {}, "/home/eve/.config/parasnake/key"),
        ("darwin", {"XDG_CONFIG_HOME": "/settings"}, "/settings/parasnake/key"),
        ("darwin", {}, "/home/eve/Library/Application Support/parasnake/key"),
        ("win32", {"APPDATA": "/roaming"}, "/roaming/parasnake/key"),
        ("win32", {}, "/home/eve/AppData/Roaming/parasnake/key"),
    ],
)
def test_place_of_the_users_own_key(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", "/home/eve")
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert keys.user_key_file() == Path(expected)


def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigurationError, match=r"no home folder.*--key-file"):
        keys.user_key_file()


def test_write_user_key_file_once(home: Path) -> None:
    path = keys.write_user_key_file()

    assert path == home / "parasnake" / "key"
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    with pytest.raises(ConfigurationError, match="exists already"):
        keys.write_user_key_file()


def test_configuration_folder_that_cannot_be_made(home: Path) -> None:
    home.write_text("a file where a folder should be")
    with pytest.raises(ConfigurationError, match=r"cannot be written.*keygen FILE"):
        keys.write_user_key_file()
    with pytest.raises(ConfigurationError, match=r"cannot be"):
        keys.find_key(Config(), create=True)


# --- the look-up


def test_first_a_key_that_was_given(home: Path, tmp_path: Path) -> None:
    config = Config(secret_key=KEY, key_file=tmp_path / "not looked at")
    assert keys.find_key(config, create=True) == keys.FoundKey(KEY, "argument")
    assert not home.exists()


def test_source_of_a_key_that_was_given() -> None:
    config = Config.load({}, environ={"PARASNAKE_SECRET_KEY": LINE})
    assert keys.find_key(config, create=False) == keys.FoundKey(
        KEY, "environment variable PARASNAKE_SECRET_KEY"
    )


def test_then_a_key_file_that_was_named(home: Path, tmp_path: Path) -> None:
    path = key_file(tmp_path / "my.key")
    found = keys.find_key(Config(key_file=path), create=True)
    assert found == keys.FoundKey(KEY, f"key file {path}")
    assert not home.exists()


def test_a_named_key_file_is_never_made_by_looking(home: Path, tmp_path: Path) -> None:
    config = Config.load({}, command_line={"key_file": str(tmp_path / "typo")}, environ={})
    with pytest.raises(ConfigurationError, match=r"typo \(command line, --key-file\): cannot be"):
        keys.find_key(config, create=True)
    assert names_in(tmp_path) == []


def test_last_the_users_own(home: Path) -> None:
    path = home / "parasnake" / "key"
    path.parent.mkdir(parents=True)
    key_file(path)
    for create in (True, False):
        assert keys.find_key(Config(), create=create) == keys.FoundKey(KEY, f"key file {path}")


def test_first_start_of_a_server_leaves_a_key(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first = keys.find_key(Config(), create=True)
    node = keys.find_key(Config(), create=False)
    second = keys.find_key(Config(), create=True)

    path = home / "parasnake" / "key"
    assert first == node == second
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert caplog.messages == [
        f"made a new secret key: {path}; nodes on other machines need a copy of it"
    ]


def test_node_that_finds_no_key_says_what_to_do(home: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        keys.find_key(Config(), create=False)

    assert str(caught.value) == (
        f"no secret key: there is no {home}/parasnake/key, where the first start of a server leaves "
        f"one; copy that file from the server's machine to here, or name a copy of it with "
        f"--key-file FILE"
    )
    assert not home.exists()


def test_home_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot be written: Permission denied.*keygen"):
        keys.find_key(Config(), create=True)


def test_server_that_comes_second_takes_the_key_of_the_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "parasnake" / "key"
    path.parent.mkdir(parents=True)

    def other_server_is_quicker(name: object) -> bool:
        key_file(path)
        return False

    monkeypatch.setattr(os.path, "lexists", other_server_is_quicker)
    assert keys.find_key(Config(), create=True).key == KEY


START_SERVER = """
import sys
from parasnake.config import Config
from parasnake.keys import find_key

print("ready", flush=True)
sys.stdin.readline()
sys.stdout.write(find_key(Config(), create=True).key.hex())
"""


def test_servers_that_start_at_once_get_the_same_key(home: Path) -> None:
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", START_SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("go\n")
        server.stdin.flush()
    outputs = [server.communicate(timeout=60) for server in servers]

    key = keys.read_key_file(home / "parasnake" / "key")
    assert outputs == [(key.hex(), "")] * len(servers)
    assert names_in(home / "parasnake") == ["key"]


def test_a_found_key_is_not_shown() -> None:
    assert repr(keys.FoundKey(KEY, "argument")) == "FoundKey(source='argument')"
