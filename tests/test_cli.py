"""The command lines: what a user types, and what a user sees when something is wrong."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tqdm import tqdm

from parasnake import __version__, cli, keys, logs
from parasnake.config import Config, available_cores
from parasnake.errors import (
    ConfigurationError,
    HookError,
    Interrupted,
    NodeFailed,
    ParasnakeError,
    RemoteError,
    TaskFailed,
    WrongKeyError,
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The script that the user has started: ./squares.py"""
    path = tmp_path / "squares.py"
    path.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["./squares.py"])
    return path


def parse(*words: str) -> tuple[cli.Mode, dict[str, object]]:
    return cli.settings_from(cli.make_parser("squares").parse_args(words))


def usage_error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# --- the options of a script


def test_nothing_given() -> None:
    assert parse() == ("node", {})


def test_every_setting_has_an_option_and_none_is_for_a_key() -> None:
    mode, settings = parse(
        *("--access", "job.access"),
        *("--ip", "host"),
        *("--ip", "::1,other:7"),
        *("--port", "1"),
        *("--bind", "::"),
        *("--workers", "auto"),
        *("--start-method", "fork"),
        *("--key-file", "my.key"),
        *("--config", "my.toml"),
        *("--heartbeat-timeout", "10"),
        *("--connect-timeout", "0"),
        *("--reconnect-timeout", "5"),
        *("--max-attempts", "1"),
        *("--compression", "off"),
        *("--max-losses", "2"),
        *("--task-timeout", "1.5"),
        "--no-speculate",
        *("--journal", "my.journal"),
        *("--chaos", "7"),
        "--accept-new-code",
        "--no-progress",
        "-vv",
    )
    assert mode == "node"
    assert settings.pop("config") == "my.toml"
    config = Config.load({}, command_line=settings, environ={})
    assert config == Config(
        access=Path("job.access"),
        ip="host,::1,other:7",
        port=1,
        bind="::",
        workers="auto",
        start_method="fork",
        key_file=Path("my.key"),
        heartbeat_timeout=10.0,
        connect_timeout=0.0,
        reconnect_timeout=5.0,
        max_attempts=1,
        compression="off",
        max_losses=2,
        task_timeout=1.5,
        speculate=False,
        journal=Path("my.journal"),
        chaos=7,
        accept_new_code=True,
        progress=False,
        verbose=2,
    )
    assert {*config.sources} == {*Config.__slots__} - {"secret_key", "sources"}


@pytest.mark.parametrize(
    ("words", "mode", "settings"),
    [
        (["--server"], "server", {}),
        (["-s", "--port", "0"], "server", {"port": "0"}),
        (["--local"], available_cores(), {}),
        (["--local", "auto"], available_cores(), {}),
        (["--local", "4"], 4, {}),
        (["--local=4"], 4, {}),
        (["--local", "--progress"], available_cores(), {"progress": True}),
        (["--local", "4", "-v"], 4, {"verbose": 1}),
    ],
)
def test_modes(words: list[str], mode: cli.Mode, settings: dict[str, object]) -> None:
    assert parse(*words) == (mode, settings)


@pytest.mark.parametrize("count", ["0", "-1", "many", "2.5", "٣"])
def test_wrong_number_of_local_workers(capsys: pytest.CaptureFixture[str], count: str) -> None:
    assert usage_error(capsys, f"--local={count}").endswith(
        f"error: argument --local: '{count}' is no number of workers; allowed: a whole number "
        f"from 1, 'auto' or nothing"
    )


def test_server_and_local_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not allowed with argument" in usage_error(capsys, "--server", "--local")


def test_options_cannot_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: --work" in usage_error(capsys, "--work", "3")


@pytest.mark.usefixtures("script")
def test_help_shows_how_to_start_this_script() -> None:
    text = cli.make_parser("squares").format_help()
    assert text.startswith("usage: squares.py [-h] [-s | --local [N]]")
    assert "squares: number crunching on many machines." in text
    for line in (
        "  ./squares.py --local\n",
        "  ./squares.py --server\n",
        "  ./squares.py --ip HOST\n",
        "  ./squares.py --ip HOST --workers auto\n",
    ):
        assert line in text


def test_description_of_the_scripts_own() -> None:
    assert "Adds 100 % of it." in cli.make_parser("squares", "Adds 100 % of it.").format_help()


@pytest.mark.parametrize(
    ("executable", "started_as", "shown"),
    [
        (True, "./squares.py", "./squares.py --local"),
        (True, "squares.py", "./squares.py --local"),
        (True, "{folder}/squares.py", "{folder}/squares.py --local"),
        (False, "squares.py", "python squares.py --local"),
        (True, "/usr/bin/squares", "  squares --local"),
        (True, "/somewhere/squares/__main__.py", "--local"),
    ],
)
def test_name_of_the_script_in_the_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, executable: bool, started_as: str, shown: str
) -> None:
    script.chmod(0o755 if executable else 0o644)
    monkeypatch.setattr(sys, "argv", [started_as.format(folder=script.parent)])
    text = cli.make_parser("squares").format_help()
    assert f"{shown.format(folder=script.parent)}\n" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"parasnake {__version__}\n"


# --- a script with options of its own


@pytest.mark.parametrize("handler", ["error", "resolve"])
def test_option_that_the_script_has_already(handler: str) -> None:
    for option in ("--port", "--server", "--local", "--no-progress", "--verbose"):
        parser = argparse.ArgumentParser(conflict_handler=handler)
        parser.add_argument(option)
        with pytest.raises(ConfigurationError) as caught:
            cli.add_options(parser)
        assert str(caught.value) == (
            f"the script's own parser has an option that Parasnake adds: conflicting option "
            f"string: {option}; allowed: another name for it in the script"
        )


@pytest.mark.parametrize("handler", ["error", "resolve"])
def test_short_options_and_version_of_the_script_stay_its_own(handler: str) -> None:
    parser = argparse.ArgumentParser(conflict_handler=handler)
    parser.add_argument("-s", type=int)
    parser.add_argument("-v", action="store_true")
    parser.add_argument("--version", action="store_true")
    cli.add_options(parser)

    namespace = parser.parse_args(["-s", "3", "-v", "--version", "--server", "--verbose"])
    assert (namespace.s, namespace.v, namespace.version) == (3, True, True)
    assert cli.settings_from(namespace) == ("server", {"verbose": 1})


def test_arguments_of_the_script_may_be_called_as_settings_are() -> None:
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    parser.add_argument("config")
    parser.add_argument("--threads", dest="workers", type=int)
    cli.add_options(parser)

    namespace = parser.parse_args(["image.png", "--threads", "4", "--workers", "2"])
    assert (namespace.config, namespace.workers) == ("image.png", 4)
    assert cli.settings_from(namespace) == ("node", {"workers": "2"})
    assert cli.settings_from(parser.parse_args(["image.png"])) == ("node", {})


def test_options_are_added_once() -> None:
    parser = cli.make_parser("squares")
    before = parser.format_help()
    cli.add_options(parser)
    assert parser.format_help() == before


def test_namespace_of_a_parser_without_our_options() -> None:
    assert cli.settings_from(argparse.Namespace(port=1)) == ("node", {})


# --- the log


@contextmanager
def fresh_log() -> Iterator[logging.Logger]:
    """The logger of Parasnake as it is in a fresh process, without pytest's own handlers."""
    logger = logging.getLogger("parasnake")
    level = logger.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        patch.setattr(logger, "handlers", [])
        yield logger
    logger.setLevel(level)


def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_log():
        logs.set_up_logging(0)
        child = logging.getLogger("parasnake.server")
        child.debug("detail")
        child.info("node %s has come", 7)
        child.warning("careful")

    output = capsys.readouterr()
    assert output.out == ""
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d node 7 has come\n\d\d:\d\d:\d\d WARNING: careful\n", output.err
    )


def test_verbose_log(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_log() as logger:
        logs.set_up_logging(0)
        logs.set_up_logging(1)  # known later, from the environment say
        logger.debug("detail")
        assert len(logger.handlers) == 1

    assert re.fullmatch(r"\d\d:\d\d:\d\d detail\n", capsys.readouterr().err)


@pytest.mark.parametrize("where", ["", "parasnake"])
def test_log_of_the_script_is_left_alone(where: str) -> None:
    handler = logging.StreamHandler(io.StringIO())
    with fresh_log() as logger:
        level = logger.level
        logging.getLogger(where).addHandler(handler)
        logs.set_up_logging(1)
        assert [*logging.getLogger().handlers, *logger.handlers] == [handler]
        assert logger.level == level


def test_a_null_handler_is_no_log() -> None:
    with fresh_log() as logger:
        logger.addHandler(logging.NullHandler())
        logs.set_up_logging(0)
        assert len(logger.handlers) == 2


def test_log_lines_stand_above_a_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # a thread that stays forbids later forks
    with fresh_log() as logger, tqdm(total=3, file=sys.stderr, ncols=40):
        logs.set_up_logging(0)
        capsys.readouterr()
        logger.info("a node has come")
        text = capsys.readouterr().err

    # The bar is wiped, the line has a line of its own, the bar is drawn again.
    assert re.match(r"\r +\r\d\d:\d\d:\d\d a node has come\n\r +0%\|", text)


def test_log_without_tqdm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tqdm")
    with fresh_log() as logger:
        logs.set_up_logging(0)
        logger.info("a node has come")
    assert capsys.readouterr().err.endswith(" a node has come\n")


def test_log_line_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    with fresh_log() as logger:
        logs.set_up_logging(0)
        logger.info("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err


# --- how a script ends


def ending(capsys: pytest.CaptureFixture[str], error: BaseException) -> tuple[object, str]:
    """Return the exit status and the stderr of a script in which ``error`` was raised."""

    def body() -> NoReturn:
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run_main(body)
    return caught.value.code, capsys.readouterr().err


def test_value_of_the_body_is_returned() -> None:
    assert cli.run_main(lambda: 42) == 42


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigurationError("port = 0"), 2, "squares.py: error: port = 0\n"),
        (WrongKeyError("another key"), 4, "squares.py: error: another key\n"),
        (ParasnakeError("something"), 1, "squares.py: error: something\n"),
        (Interrupted(15), 143, "squares.py: stopped by signal 15\n"),
        (KeyboardInterrupt(), 130, "squares.py: interrupted\n"),
    ],
)
def test_one_line_and_an_exit_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, text: str
) -> None:
    assert ending(capsys, error) == (status, text)


def test_other_exceptions_are_not_touched() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run_main(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("argv", "name"),
    [("/a/squares.py", "squares.py"), ("/a/squares/__main__.py", "squares")],
)
def test_name_of_the_script_in_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [argv])
    assert ending(capsys, ParasnakeError("x")) == (1, f"{name}: error: x\n")


@pytest.mark.usefixtures("script")
def test_failed_task_shows_the_remote_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    remote = 'Traceback (most recent call last):\n  File "squares.py", line 3\nValueError: no\n\n'
    error = TaskFailed(
        task_id=7, attempts=3, losses=0, reason="ValueError: no", host="node1", remote=remote
    )
    assert ending(capsys, error) == (1, f"{remote.rstrip()}\nsquares.py: error: {error}\n")


@pytest.mark.usefixtures("script")
def test_failed_node_shows_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    error = NodeFailed("node_init raised")
    error.__cause__ = RemoteError("ImportError: numpy")
    assert ending(capsys, error) == (1, "ImportError: numpy\nsquares.py: error: node_init raised\n")


def library_calls(hook: Any) -> None:
    """Call a hook as the library does: from frames of its own, here those of `run_main`."""
    try:
        cli.run_main(hook)
    except Exception as error:
        failure = HookError("result")
        failure.__cause__ = error
        raise failure from error


@pytest.mark.usefixtures("script")
def test_failed_hook_shows_the_users_frames_only(capsys: pytest.CaptureFixture[str]) -> None:
    def helper() -> None:
        json.loads("{")

    def hook() -> None:
        try:
            cli.run_main(helper)
        except ValueError as error:
            raise KeyError("wrong") from error

    with pytest.raises(HookError) as caught:
        library_calls(hook)
    status, text = ending(capsys, caught.value)

    assert status == 1
    assert text.count("Traceback (most recent call last):") == 2
    assert "in helper" in text
    assert "in hook" in text
    assert "KeyError: 'wrong'\n" in text
    assert "Expecting property name" in text
    assert f"{os.sep}parasnake{os.sep}cli.py" not in text
    assert text.endswith(
        "squares.py: error: the hook @app.result raised an exception; the job has been stopped\n"
    )


@pytest.mark.usefixtures("script")
def test_exceptions_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    failure = HookError("finish")
    failure.__cause__ = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    _, text = ending(capsys, failure)
    assert "ValueError: a" in text
    assert "KeyError: 'b'" in text


@pytest.mark.usefixtures("script")
def test_failed_hook_without_a_cause(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = ending(capsys, HookError("finish"))
    assert text.startswith("squares.py: error: the hook @app.finish")


# --- the command


def parasnake(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``parasnake`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "parasnake", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def key_in(path: Path) -> str:
    return path.read_text().removeprefix("parasnake-key:").rstrip()


def test_keygen_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    done = parasnake("keygen", str(path))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"A new secret key is in {path}\n")
    assert f"./script.py --server --key-file {path}\n" in done.stdout
    assert key_in(path) not in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(keys.read_key_file(path)) == 32

    before = path.read_text()
    again = parasnake("keygen", str(path))
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == (
        f"parasnake: error: key file {path}: exists already and is not overwritten; remove it first "
        f"if no server or node needs its key any more\n"
    )
    assert path.read_text() == before


def test_keygen_into_the_configuration_folder(tmp_path: Path) -> None:
    done = parasnake("keygen", XDG_CONFIG_HOME=str(tmp_path))

    path = tmp_path / "parasnake" / "key"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"A new secret key is in {path}\n")
    assert key_in(path) not in done.stdout
    assert len(keys.read_key_file(path)) == 32


def test_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.command(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: parasnake [-h] [--version] COMMAND ...")
    assert "examples:\n  parasnake keygen " in text


def test_version_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.command(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"parasnake {__version__}\n"


def test_command_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.command([])
    assert caught.value.code == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err


def test_command_in_this_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    cli.command(["keygen"])
    cli.command(["keygen", str(tmp_path / "my.key")])
    assert capsys.readouterr().out.count("A new secret key is in ") == 2
