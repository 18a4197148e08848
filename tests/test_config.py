"""Settings: what each may be, where they come from, and what an error says."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parasnake.config import Config, available_cores
from parasnake.errors import ConfigurationError

KEY = bytes(range(200, 232))
TYPED = "an old key of 32 characters, 0.1"
LINE = "parasnake-key:yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc"


def load(arguments: dict[str, Any] | None = None, **places: Any) -> Config:
    """Load without the environment of whoever runs the tests."""
    return Config.load(arguments or {}, **{"environ": {}} | places)


def error_of(arguments: dict[str, Any] | None = None, **places: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(arguments, **places)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    return str(caught.value)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# --- the object


def test_defaults() -> None:
    config = load()
    assert config == Config()
    assert dataclasses.asdict(config) == {
        "ip": "127.0.0.1",
        "port": 3100,
        "access": None,
        "bind": None,
        "workers": 1,
        "start_method": "auto",
        "heartbeat_timeout": 300.0,
        "connect_timeout": 300.0,
        "reconnect_timeout": 300.0,
        "compression": "auto",
        "max_attempts": 3,
        "max_losses": 10,
        "task_timeout": None,
        "speculate": True,
        "secret_key": None,
        "key_file": None,
        "journal": None,
        "chaos": None,
        "accept_new_code": False,
        "progress": None,
        "verbose": 0,
        "sources": {},
    }


def test_it_cannot_be_changed_but_copied_with_changes() -> None:
    config = Config(port=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 2  # type: ignore[misc]
    assert dataclasses.replace(config, port=2, secret_key=KEY).port == 2
    with pytest.raises(ConfigurationError, match="port = -1"):
        dataclasses.replace(config, port=-1)


def test_it_survives_pickling_and_can_be_hashed() -> None:
    config = load({"workers": 4}, environ={"PARASNAKE_PORT": "1"})
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(Config(workers=4, port=1))


def test_repr_has_no_key() -> None:
    assert "secret_key" not in repr(Config(secret_key=KEY))
    assert "port=3100" in repr(Config())


# --- what each setting may be


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("ip", "10.1.2.3", "10.1.2.3"),
        ("ip", "::1", "::1"),
        ("ip", "[2001:db8::1]", "2001:db8::1"),
        ("ip", "fe80::1%eth0", "fe80::1%eth0"),
        ("ip", "node-01.cluster.example", "node-01.cluster.example"),
        ("ip", "rechner_7", "rechner_7"),
        ("ip", "müller.example.", "müller.example."),
        ("ip", "4a", "4a"),
        ("ip", "10.0.0.1:3100", "10.0.0.1:3100"),
        ("ip", "login1, [::1]:80 ,::2", "login1,[::1]:80,::2"),
        ("ip", ["login1", "login2:7,::1"], "login1,login2:7,::1"),
        ("ip", ("login1",), "login1"),
        ("access", "job.access", Path("job.access")),
        ("access", None, None),
        ("bind", None, None),
        ("bind", "::", "::"),
        ("bind", "0.0.0.0", "0.0.0.0"),
        ("port", 0, 0),
        ("port", 65535, 65535),
        ("port", np.int64(80), 80),
        ("workers", 1, 1),
        ("workers", "8", 8),
        ("workers", "auto", "auto"),
        ("start_method", "fork", "fork"),
        ("start_method", "spawn", "spawn"),
        ("heartbeat_timeout", 0.5, 0.5),
        ("heartbeat_timeout", 10, 10.0),
        ("heartbeat_timeout", np.float32(2), 2.0),
        ("connect_timeout", 0, 0.0),
        ("reconnect_timeout", 0, 0.0),
        ("max_attempts", 1, 1),
        ("compression", "off", "off"),
        ("compression", "zstd", "zstd"),
        ("max_losses", 1, 1),
        ("task_timeout", 1, 1.0),
        ("chaos", -1, -1),
        ("speculate", False, False),
        ("accept_new_code", True, True),
        ("secret_key", KEY, KEY),
        ("secret_key", LINE, KEY),
        ("secret_key", LINE + "\n", KEY),
        ("secret_key", TYPED, TYPED.encode()),
        ("key_file", "my.key", Path("my.key")),
        ("key_file", Path("/my.key"), Path("/my.key")),
        ("key_file", "~/my.key", Path.home() / "my.key"),
        ("progress", True, True),
        ("progress", False, False),
        ("verbose", 2, 2),
        ("verbose", True, 1),
    ],
)
def test_allowed(field: str, value: object, kept: object) -> None:
    config = load({field: value})
    assert getattr(config, field) == kept
    assert type(getattr(config, field)) is type(kept)
    assert load(environ={}, command_line={field: value}) == config


HOST = (
    "an IPv4 or IPv6 address or a host name, or more than one with commas between them, each with a "
    "port of its own if need be: host:3100, [::1]:3100"
)
PORT = "a whole number from 0 to 65535; 0 lets a server take any free port"
WORKERS = "a whole number from 1, or 'auto' for every core that this process may use"
CHAOS = "a whole number, which says what will happen to the local run"
FROM_ONE = "a whole number from 1"
ABOVE_ZERO = "a number of seconds above 0"


@pytest.mark.parametrize(
    ("field", "value", "shown", "allowed"),
    [
        ("ip", "", "''", HOST),
        ("ip", "host:", "'host:'", HOST),
        ("ip", "host:0", "'host:0'", HOST),
        ("ip", "host:65536", "'host:65536'", HOST),
        ("ip", ":3100", "':3100'", HOST),
        ("ip", "::1:2:", "'::1:2:'", HOST),
        ("ip", "a,,b", "'a,,b'", HOST),
        ("ip", ["a", 7], "['a', 7]", HOST),
        ("ip", [], "[]", HOST),
        ("ip", "http://host", "'http://host'", HOST),
        ("ip", "two words", "'two words'", HOST),
        ("ip", "-host", "'-host'", HOST),
        ("ip", "a..b", "'a..b'", HOST),
        ("ip", "a\0b", r"'a\x00b'", HOST),
        ("ip", "192.168.1.300", "'192.168.1.300'", HOST),
        ("ip", "10.1", "'10.1'", HOST),
        ("ip", "[host]", "'[host]'", HOST),
        ("ip", 127, "127", HOST),
        ("bind", "*", "'*'", "an address or host name of this machine, without a port"),
        ("chaos", True, "True", CHAOS),
        ("chaos", 1.0, "1.0", CHAOS),
        ("port", -1, "-1", PORT),
        ("port", 65536, "65536", PORT),
        ("port", 80.0, "80.0", PORT),
        ("port", "80", "'80'", PORT),
        ("port", True, "True", PORT),
        ("workers", 0, "0", WORKERS),
        ("workers", "0", "'0'", WORKERS),
        ("workers", "all", "'all'", WORKERS),
        ("workers", "1_0", "'1_0'", WORKERS),
        ("workers", "٣", "'٣'", WORKERS),
        ("workers", 1.5, "1.5", WORKERS),
        ("start_method", "forkserver", "'forkserver'", "'auto', 'fork' or 'spawn'"),
        ("compression", "gzip", "'gzip'", "'auto', 'off' or 'zstd'"),
        ("heartbeat_timeout", 0, "0", ABOVE_ZERO),
        ("heartbeat_timeout", float("nan"), "nan", ABOVE_ZERO),
        ("heartbeat_timeout", float("inf"), "inf", ABOVE_ZERO),
        ("heartbeat_timeout", True, "True", ABOVE_ZERO),
        ("heartbeat_timeout", "10", "'10'", ABOVE_ZERO),
        ("connect_timeout", -1, "-1", "a number of seconds from 0"),
        ("reconnect_timeout", -1, "-1", "a number of seconds from 0"),
        ("max_attempts", 0, "0", FROM_ONE),
        ("max_losses", 0, "0", FROM_ONE),
        ("key_file", "", "''", "the name of a file that holds a key"),
        ("key_file", "a\0b", r"'a\x00b'", "the name of a file that holds a key"),
        ("key_file", 1, "1", "the name of a file that holds a key"),
        ("progress", 1, "1", "true or false; as text also yes or no, on or off, 1 or 0"),
        ("verbose", -1, "-1", "a whole number from 0"),
    ],
)
def test_not_allowed(field: str, value: object, shown: str, allowed: str) -> None:
    assert error_of({field: value}) == f"{field} = {shown} (argument); allowed: {allowed}"


def test_number_too_large_for_a_float() -> None:
    assert "allowed: a number of seconds" in error_of({"connect_timeout": 10**400})


def test_long_values_are_cut_and_stay_on_one_line() -> None:
    assert len(error_of({"ip": "x y" * 1000})) < 300
    assert len(error_of({"port": np.zeros((100, 100))})) < 300


def test_home_that_is_not_known() -> None:
    assert "key_file = '~nobody-at-all/key'" in error_of({"key_file": "~nobody-at-all/key"})


@pytest.mark.parametrize("value", [b"short", TYPED[:31], LINE[:-1], LINE + "x", 1, bytearray(32)])
def test_wrong_secret_key_is_not_shown(value: object) -> None:
    kind = type(value).__name__
    assert error_of({"secret_key": value}) == (
        f"secret_key = <a {kind} that is not shown> (argument); allowed: 32 bytes, or as text one "
        f"line of text: 'parasnake-key:' and 32 bytes in base64url, as 'parasnake keygen' writes "
        f"it, or exactly 32 ASCII characters that are the key itself"
    )


@pytest.mark.parametrize("field", ["key_file", "config", "ip"])
def test_key_in_the_wrong_place_is_not_shown(field: str) -> None:
    text = error_of({field: LINE})
    assert text.startswith(f"{field} = <a str that is not shown> (argument); allowed: ")
    assert LINE[14:20] not in text


# --- helpers


def test_worker_count() -> None:
    assert Config(workers=3).worker_count == 3
    assert Config(workers="auto").worker_count == available_cores() >= 1


def test_available_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)
    assert available_cores() == 5
    monkeypatch.setattr(os, "process_cpu_count", lambda: None)
    assert available_cores() == 1

    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4}, raising=False)
    assert available_cores() == 3

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert available_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_places_where_a_node_looks_for_its_server() -> None:
    assert Config(ip="host", port=1).server_places == [("host", 1)]
    assert Config(ip="a:7,[::1]:8,10.0.0.1", port=1).server_places == [
        ("a", 7),
        ("::1", 8),
        ("10.0.0.1", 1),
    ]
    assert load(environ={"PARASNAKE_IP": "a:7", "PARASNAKE_PORT": "0"}).server_places == [("a", 7)]


def test_a_node_needs_the_port_of_its_server() -> None:
    config = load(environ={"PARASNAKE_PORT": "0"})
    with pytest.raises(ConfigurationError) as caught:
        _ = config.server_places
    assert str(caught.value) == (
        "port = 0 (environment variable PARASNAKE_PORT); allowed: for a node the port that its "
        "server listens on"
    )


class TestAccess:
    def test_no_address_is_looked_at_but_those_that_were_given(self) -> None:
        assert load({"access": "file"}).server_places == []
        assert load({"access": "file", "ip": "127.0.0.1"}).server_places == [("127.0.0.1", 0)]
        assert load({"access": "file", "ip": "a,b:7", "port": 5}).server_places == [
            ("a", 5),
            ("b", 7),
        ]

    def test_any_free_port_unless_one_was_given(self, tmp_path: Path) -> None:
        assert load({"access": "file"}).port == 0
        assert load({"access": "file", "port": 5}).port == 5
        assert load({"access": "file"}, environ={"PARASNAKE_PORT": "6"}).port == 6
        settings = write(tmp_path / "job.toml", "port = 7")
        assert load({"access": "file", "config": settings}).port == 7
        assert load({"access": None}).port == 3100

    def test_a_file_named_in_a_file_is_beside_it(self, tmp_path: Path) -> None:
        settings = write(tmp_path / "job.toml", 'access = "job.access"')
        assert load({"config": settings}).access == tmp_path / "job.access"


# --- where settings come from


def test_arguments_over_command_line_over_environment_over_file_over_defaults(
    tmp_path: Path,
) -> None:
    file = write(
        tmp_path / "squares.toml",
        "port = 1\nworkers = 1\nmax_losses = 1\nmax_attempts = 1\n",
    )
    config = Config.load(
        {"port": 4},
        command_line={"port": "3", "workers": "3"},
        environ={
            "PARASNAKE_PORT": "2",
            "PARASNAKE_WORKERS": "2",
            "PARASNAKE_MAX_LOSSES": "2",
            "PARASNAKE_CONFIG": str(file),
            "OTHER": "x",
        },
    )
    assert config == Config(port=4, workers=3, max_losses=2, max_attempts=1)
    assert config.sources == {
        "port": "argument",
        "workers": "command line, --workers",
        "max_losses": "environment variable PARASNAKE_MAX_LOSSES",
        "max_attempts": f"file {file}",
    }


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARASNAKE_PORT", "7")
    assert Config.load({}).port == 7


def test_none_stands_for_not_given(tmp_path: Path) -> None:
    file = write(tmp_path / "file.json", '{"port": null, "workers": 3}')
    config = load(
        {"port": None, "workers": None, "config": None},
        command_line={"workers": None, "config": str(file)},
    )
    assert config == Config(workers=3)


def test_a_wrong_value_that_does_not_count_is_no_error() -> None:
    assert load({"port": 1}, environ={"PARASNAKE_PORT": "first"}).port == 1


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("IP", "::1", "::1"),
        ("BIND", "localhost", "localhost"),
        ("PORT", "80", 80),
        ("WORKERS", "auto", "auto"),
        ("WORKERS", "2", 2),
        ("START_METHOD", "spawn", "spawn"),
        ("HEARTBEAT_TIMEOUT", "1.5", 1.5),
        ("CONNECT_TIMEOUT", "1e3", 1000.0),
        ("SECRET_KEY", TYPED, TYPED.encode()),
        ("SECRET_KEY", LINE, KEY),
        ("KEY_FILE", "/my.key", Path("/my.key")),
        ("PROGRESS", "Yes", True),
        ("PROGRESS", "off", False),
        ("VERBOSE", "1", 1),
    ],
)
def test_text_of_the_environment_and_the_command_line(field: str, text: str, value: object) -> None:
    for places in (
        {"environ": {f"PARASNAKE_{field}": text}},
        {"command_line": {field.lower(): text}},
    ):
        assert getattr(load(**places), field.lower()) == value


@pytest.mark.parametrize(
    ("field", "text", "shown"),
    [
        ("PORT", "", "''"),
        ("PORT", "80.0", "'80.0'"),
        ("PORT", "8_0", "'8_0'"),
        ("PORT", "٨", "'٨'"),
        ("PORT", "70000", "70000"),
        ("HEARTBEAT_TIMEOUT", "five", "'five'"),
        ("HEARTBEAT_TIMEOUT", "1_0", "'1_0'"),
        ("HEARTBEAT_TIMEOUT", "nan", "nan"),
        ("PROGRESS", "maybe", "'maybe'"),
        ("PROGRESS", "", "''"),
        ("IP", "", "''"),
    ],
)
def test_text_that_is_not_allowed(field: str, text: str, shown: str) -> None:
    variable = f"PARASNAKE_{field}"
    assert error_of(environ={variable: text}).startswith(
        f"{field.lower()} = {shown} (environment variable {variable}); allowed: "
    )


def test_error_names_the_option() -> None:
    text = error_of(command_line={"start_method": "thread"})
    assert text.startswith("start_method = 'thread' (command line, --start-method); allowed: ")


# --- names that are not known


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("prot", "port"),
        ("key-file", "key_file"),
        ("Workers", "workers"),
        ("server_address", "ip"),  # as in 0.1
        ("server_port", "port"),
        ("key", "key_file"),
        ("sources", None),
        ("quit_counter", None),
    ],
)
def test_unknown_argument(name: str, meant: str | None) -> None:
    hint = f"did you mean {meant!r}? " if meant else ""
    assert error_of({name: 1}) == (
        f"unknown setting {name!r} (argument); {hint}allowed: accept_new_code, access, bind, "
        f"chaos, compression, config, connect_timeout, heartbeat_timeout, ip, journal, key_file, "
        f"max_attempts, max_losses, port, progress, reconnect_timeout, secret_key, speculate, "
        f"start_method, task_timeout, verbose, workers"
    )


def test_unknown_environment_variable_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"PARASNAKE_WORKER": "1", "PARASNAKE_FRUIT": TYPED, "parasnake_port": "1"}
    assert load(environ=environ) == Config()
    assert caplog.messages == [
        "the environment variable PARASNAKE_WORKER is no setting; did you mean PARASNAKE_WORKERS?",
        "the environment variable PARASNAKE_FRUIT is no setting",
    ]


# --- the file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", 'ip = "host"\nport = 1\n'),
        ("a.toml", '[parasnake]\nip = "host"\nport = 1\n[mine]\nport = "harbour"\n'),
        ("a.json", json.dumps({"ip": "host", "port": 1})),
        ("a.json", json.dumps({"parasnake": {"ip": "host", "port": 1}, "mine": 1})),
        ("settings", 'ip = "host"\nport = 1\n'),
        ("settings", '\n {"ip": "host", "port": 1}'),
        ("a.toml", '\ufeffip = "host"\nport = 1\n'),  # as some editors begin a file
    ],
)
def test_toml_or_json(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    expected = Config(ip="host", port=1)
    assert load({"config": path}) == expected
    assert load(command_line={"config": str(path)}) == expected
    assert load(environ={"PARASNAKE_CONFIG": str(path)}) == expected


def test_the_highest_place_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "port = 1")
    assert load({"config": path}, environ={"PARASNAKE_CONFIG": "nowhere"}).port == 1


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.toml"
    assert error_of(command_line={"config": str(path)}) == (
        f"config = '{path}' (command line, --config): cannot be read: No such file or directory"
    )
    assert "cannot be read: Is a directory" in error_of({"config": tmp_path})


@pytest.mark.parametrize("value", ["", 1])
def test_config_that_is_no_file_name(value: object) -> None:
    assert error_of({"config": value}) == (
        f"config = {value!r} (argument); allowed: the name of a TOML or JSON file"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", b"port = "),
        ("a.json", b"port = 1"),
        ("a.json", b"[1]"),
        ("settings", b"{"),
        ("settings", LINE.encode()),
        ("settings", b"\xff\xfe"),
    ],
)
def test_file_that_is_not_valid(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    text = error_of({"config": tmp_path / name})
    assert "(argument): is neither valid TOML nor valid JSON: " in text
    assert LINE[14:20] not in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "prot = 1",
            "unknown setting 'prot' (file {}); did you mean 'port'? allowed: accept_new_code, ",
        ),
        ('config = "b.toml"', "unknown setting 'config' (file {}); "),
        ("parasnake = 1", "unknown setting 'parasnake' (file {}); "),
        ("port = '80'", "port = '80' (file {}); allowed: a whole number"),
        ("workers = 0", "workers = 0 (file {}); allowed: "),
        ("secret_key = 'typed'", "secret_key = <a str that is not shown> (file {}); allowed: "),
    ],
)
def test_error_names_the_file(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path / "a.toml", text)
    assert error_of({"config": path}).startswith(problem.format(path))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("my.key", "{folder}/my.key"),
        ("../my.key", "{folder}/../my.key"),
        ("/etc/my.key", "/etc/my.key"),
        ("~/my.key", "{home}/my.key"),
    ],
)
def test_key_file_in_a_file_is_relative_to_that_file(
    tmp_path: Path, written: str, expected: str
) -> None:
    path = write(tmp_path / "a.toml", f"key_file = {written!r}")
    wanted = expected.format(folder=tmp_path, home=Path.home())
    assert load({"config": path}).key_file == Path(wanted)


def test_key_file_in_a_file_that_is_no_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "key_file = 1")
    assert error_of({"config": path}).startswith(f"key_file = 1 (file {path}); ")


@pytest.mark.parametrize("key", [TYPED, LINE])
def test_secret_key_in_a_file_that_others_can_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    text = f'secret_key = "{key}"\n'
    private = write(tmp_path / "private.toml", text)
    exposed = write(tmp_path / "exposed.toml", text, mode=0o644)

    assert load({"config": private}) == load({"config": exposed})
    assert caplog.messages == [
        f"the configuration file {exposed} holds a secret key and is open to other users "
        f"(mode 0644); run: chmod 600 {exposed}"
    ]


# --- two ways to give one key


def test_the_first_place_with_a_key_wins_whichever_way_it_is_given(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", 'key_file = "low.key"')
    config = load(
        command_line={"key_file": "/high.key", "config": str(file)},
        environ={"PARASNAKE_SECRET_KEY": TYPED},
    )
    assert (config.secret_key, config.key_file) == (None, Path("/high.key"))
    assert config.sources == {"key_file": "command line, --key-file"}

    config = load({"secret_key": KEY}, environ={"PARASNAKE_KEY_FILE": "/low.key"})
    assert (config.secret_key, config.key_file) == (KEY, None)


def test_both_in_one_place(tmp_path: Path) -> None:
    assert error_of({"secret_key": KEY, "key_file": "a"}) == (
        "secret_key and key_file are both given (argument); allowed: one of the two"
    )
    assert error_of(environ={"PARASNAKE_SECRET_KEY": TYPED, "PARASNAKE_KEY_FILE": "a"}) == (
        "secret_key and key_file are both given (environment variable PARASNAKE_SECRET_KEY and "
        "environment variable PARASNAKE_KEY_FILE); allowed: one of the two"
    )
    file = write(tmp_path / "a.toml", f'key_file = "a"\nsecret_key = "{TYPED}"')
    assert f"both given (file {file});" in error_of({"config": file})
