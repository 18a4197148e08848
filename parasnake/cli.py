"""The command lines: the options of ``app.main()``, its errors and its log, and ``parasnake``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from parasnake import keys, tracebacks
from parasnake.config import available_cores
from parasnake.errors import (
    ConfigurationError,
    HookError,
    Interrupted,
    ParasnakeError,
    RemoteError,
)

Mode = Literal["server", "node"] | int
"""What a script is to be: the server, a node, or both on this machine with so many workers."""

_Value = TypeVar("_Value")

# A script's own option or positional argument called "workers", say, must not mix with ours.
_PREFIX = "parasnake_"
_MODE = _PREFIX + "mode"


class _Gather(argparse.Action):
    """An option that may come more than once: its values, with commas between them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


# Values stay text here: Config checks them, in the same way wherever they come from.
_SETTINGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--access",),
        {
            "metavar": "FILE",
            "help": "the server says in this file where it is, with its key; nodes wait for it (none)",
        },
    ),
    (
        ("--ip",),
        {
            "metavar": "HOST",
            "action": _Gather,
            "help": "where nodes find the server; more than one: HOST,HOST:PORT (127.0.0.1)",
        },
    ),
    (
        ("--port",),
        {"metavar": "PORT", "help": "the server's port (3100; with --access any free one)"},
    ),
    (
        ("--bind",),
        {"metavar": "ADDRESS", "help": "the address that the server listens on (all interfaces)"},
    ),
    (
        ("--workers",),
        {"metavar": "N", "help": "worker processes of a node; auto: one for every core (1)"},
    ),
    (
        ("--start-method",),
        {"metavar": "HOW", "help": "how workers start: fork, spawn or auto (auto)"},
    ),
    (("--key-file",), {"metavar": "FILE", "help": "the file with the secret key"}),
    (("--config",), {"metavar": "FILE", "help": "a TOML or JSON file with settings"}),
    (
        ("--heartbeat-timeout",),
        {"metavar": "SECONDS", "help": "silence after which a node counts as lost (300)"},
    ),
    (
        ("--connect-timeout",),
        {"metavar": "SECONDS", "help": "how long a node waits for its server (300)"},
    ),
    (
        ("--task-timeout",),
        {"metavar": "SECONDS", "help": "how long a task may take (as long as it needs)"},
    ),
    (
        ("--speculate",),
        {
            "action": argparse.BooleanOptionalAction,
            "help": "give tasks that take long to idle nodes as well (yes)",
        },
    ),
    (
        ("--reconnect-timeout",),
        {"metavar": "SECONDS", "help": "how long a node waits for a lost server (300)"},
    ),
    (
        ("--compression",),
        {
            "metavar": "HOW",
            "help": "compress what is sent: auto (where it pays), off or zstd (auto)",
        },
    ),
    (
        ("--max-attempts",),
        {"metavar": "N", "help": "failures of its own that a task may have (3)"},
    ),
    (
        ("--max-losses",),
        {"metavar": "N", "help": "lost nodes that a task may have been running on (10)"},
    ),
    (
        ("--journal",),
        {"metavar": "FILE", "help": "go on from this file after any end of the server (none)"},
    ),
    (
        ("--chaos",),
        {"metavar": "SEED", "help": "with --local: kill and stop workers at random (none)"},
    ),
    (
        ("--accept-new-code",),
        {
            "action": argparse.BooleanOptionalAction,
            "help": "go on from a journal though the code of process has changed (no)",
        },
    ),
    (
        ("--progress",),
        {
            "action": argparse.BooleanOptionalAction,
            "help": "show a progress line (on a terminal only)",
        },
    ),
    (("-v", "--verbose"), {"action": "count", "help": "log in more detail"}),
)

_BATCH: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--submit",
        {
            "metavar": "SYSTEM",
            "choices": ("slurm", "pbs"),
            "help": "submit nodes to a batch system, slurm or pbs; with --server: as many as its "
            "job is worth. What follows a -- are options for that system",
        },
    ),
    ("--nodes", {"metavar": "N", "help": "how many nodes to submit"}),
    (
        "--max-nodes",
        {"metavar": "N", "help": "with --server: so many nodes at a time at the most"},
    ),
    (
        "--time",
        {
            "metavar": "TIME",
            "help": "how long a node may run: 8:00:00, 90m, 2d (as the system says)",
        },
    ),
    ("--dry-run", {"action": "store_true", "help": "show what would be submitted, and stop"}),
)
"""The options that go with ``--submit``: no settings, or a node that gets them would submit, too."""
_BATCH_PREFIX = "submit_" + _PREFIX

_OF_THE_SERVER = (
    *("bind", "journal", "chaos", "accept_new_code", "progress", "task_timeout", "speculate"),
    *("compression", "max_attempts", "max_losses"),
)
"""Settings that a node has no use for."""


def _batch_dest(name: str) -> str:
    return _BATCH_PREFIX + name.removeprefix("--").replace("-", "_")


_NOT_FOR_NODES = {
    *(_PREFIX + name for name in (*_OF_THE_SERVER, "workers", "mode")),
    *(_batch_dest(name) for name, _ in _BATCH),
}
"""The ``dest`` of all options that a node that is submitted does not get."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of Parasnake to the parser of a script, as a group of their own.

    A short option that the script has already is left out; so is ``--version``. A parser that has
    the options already, such as one of `make_parser`, is left as it is.

    Raises
    ------
    ConfigurationError: the script has an option of the same name; rename it there
    """
    if parser.get_default(_MODE) is not None:
        return
    group = parser.add_argument_group("Parasnake", conflict_handler="error")
    _add_modes(group)
    for names, details in _SETTINGS:
        dest = _PREFIX + names[-1].removeprefix("--").replace("-", "_")
        _add_option(group, *names, dest=dest, default=None, **details)
    for name, details in _BATCH:
        _add_batch_option(group, name, **details)
    _add_version(group)


def make_parser(app_name: str, description: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options of Parasnake, for a script that has none of its own."""
    script = _command_to_start()
    parser = argparse.ArgumentParser(
        description=description or f"{app_name}: number crunching on many machines.",
        epilog=(
            "everything on this machine, with every core:\n"
            f"  {script} --local\n\n"
            "the server here, and on each other machine a node that works for it:\n"
            f"  {script} --server\n"
            f"  {script} --ip HOST\n"
            f"  {script} --ip HOST --workers auto\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    return parser


def settings_from(namespace: argparse.Namespace) -> tuple[Mode, dict[str, object]]:
    """Take the options of Parasnake out of what a parser returned.

    Returns
    -------
    what the script is to be, and the settings that were given, for `Config.load`
    """
    given = {
        name.removeprefix(_PREFIX): value
        for name, value in vars(namespace).items()
        if name.startswith(_PREFIX) and value is not None
    }
    mode: Mode = given.pop("mode", "node")
    return mode, given


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of a script, and those behind a ``--`` that are for a batch system."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    if any(word.partition("=")[0] == "--submit" for word in words[:end]):
        return words[:end], words[end + 1 :]
    return words, []


def batch_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the options that go with ``--submit``, by name; nothing without that.

    Raises
    ------
    ConfigurationError: there are some without it
    """
    given = {name: getattr(namespace, _batch_dest(name)) for name, _ in _BATCH}
    wanted = [name for name, value in given.items() if value]
    if given["--submit"] is None and wanted:
        raise ConfigurationError(f"{wanted[0]} is given without --submit; allowed: both, or none")
    if wanted and settings_from(namespace)[0] not in ("server", "node"):
        raise ConfigurationError("--submit and --local are both given; allowed: one of the two")
    return given if wanted else {}


def node_options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Return the options that a node that is submitted gets: the script's own, and some of ours.

    Raises
    ------
    ConfigurationError: ours are written in a way that hides one
    """
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            kept += [word, *words]
            break
        name, equals, _ = word.partition("=")
        action = parser._option_string_actions.get(name)
        if action is None or action.dest not in _NOT_FOR_NODES:
            kept.append(word)
        elif action.nargs is None and not equals:
            next(words, None)  # its value
    namespace = parser.parse_args(kept)
    if settings_from(namespace)[0] != "node" or batch_options(namespace):
        raise ConfigurationError(
            "options cannot be told apart; allowed with --submit: all of Parasnake's in full and "
            "apart, as in --server --verbose"
        )
    return kept


def run_main(body: Callable[[], _Value]) -> _Value:
    """Return what ``body()`` returns; turn what it says went wrong into a line and an exit.

    Raises
    ------
    SystemExit: with the ``exit_status`` of a `ParasnakeError`, or 130 after Ctrl-C. What went wrong
        is on stderr then, after the traceback of the user's code that failed, if that is why.
    """
    try:
        return body()
    except KeyboardInterrupt:
        _exit("interrupted", 130)
    except Interrupted as error:
        _exit(str(error), error.exit_status)
    except ParasnakeError as error:
        sys.stderr.write(_user_traceback(error))
        _exit(f"error: {error}", error.exit_status)


def command(argv: Sequence[str] | None = None) -> None:
    """Run the ``parasnake`` command.

    Arguments
    ---------
    argv: its arguments; None: those that this process was started with

    Raises
    ------
    SystemExit: as `run_main` does, and with 2 for arguments that are not understood
    """
    arguments = _command_parser().parse_args(argv)
    run_main(lambda: arguments.run(arguments))


def _add_modes(group: argparse._ArgumentGroup) -> None:
    modes = group.add_mutually_exclusive_group()
    _add_option(
        modes,
        "-s",
        "--server",
        dest=_MODE,
        action="store_const",
        const="server",
        default="node",
        help="be the server: hand out the data and collect the results",
    )
    _add_option(
        modes,
        "--local",
        dest=_MODE,
        nargs="?",
        metavar="N",
        type=_local_count,
        const="auto",
        default=argparse.SUPPRESS,  # the one of --server holds for both
        help="everything on this machine, with N workers; without N one for every core",
    )


def _add_option(group: argparse._ArgumentGroup, *names: str, **details: Any) -> None:
    try:
        group.add_argument(*names, **details)
    except argparse.ArgumentError as error:
        long_names = [name for name in names if name.startswith("--")]
        if len(long_names) < len(names):
            _add_option(group, *long_names, **details)
            return
        raise ConfigurationError(
            f"the script's own parser has an option that Parasnake adds: {error.message}; allowed: "
            f"another name for it in the script"
        ) from None


def _add_batch_option(group: argparse._ArgumentGroup, name: str, **details: Any) -> None:
    dest = _batch_dest(name)
    try:
        group.add_argument(name, dest=dest, **details)
    except argparse.ArgumentError:  # the script has had it for longer
        if name == "--submit":
            raise
        _add_option(group, f"--submit-{name.removeprefix('--')}", dest=dest, **details)


def _add_version(group: argparse._ArgumentGroup) -> None:
    from parasnake import __version__  # the package is complete by now

    with contextlib.suppress(argparse.ArgumentError):  # the script's own says more
        group.add_argument("--version", action="version", version=f"parasnake {__version__}")


def _local_count(text: str) -> int:
    if text == "auto":
        return available_cores()
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is no number of workers; allowed: a whole number from 1, 'auto' or nothing"
    )


def _command_to_start() -> str:
    script = Path(sys.argv[0])
    if script.suffix != ".py":
        return _script_name()
    if not os.access(script, os.X_OK):
        return f"python {script}"
    return str(script) if script.is_absolute() else f"./{script}"


def _script_name() -> str:
    script = Path(sys.argv[0])
    return script.parent.name if script.name == "__main__.py" else script.name


def _exit(line: str, status: int) -> NoReturn:
    sys.stderr.write(f"{_script_name()}: {line}\n")
    raise SystemExit(status)


def _user_traceback(error: ParasnakeError) -> str:
    """Return the traceback of the user's code that ``error`` tells about, or nothing."""
    cause = error.__cause__
    if isinstance(cause, RemoteError):
        text = str(cause).rstrip()
        return "" if text in str(error) else f"{text}\n"
    if isinstance(error, HookError) and cause is not None:
        return tracebacks.of_user_code(cause)
    return ""


def _command_parser() -> argparse.ArgumentParser:
    from parasnake import __version__  # the package is complete by now

    parser = argparse.ArgumentParser(
        prog="parasnake",
        description="What Parasnake has beside your scripts: secret keys, and what is in journals.",
        epilog=(
            "examples:\n"
            "  parasnake keygen                  a key in your configuration folder\n"
            "  parasnake keygen my.key           a key in a file, for --key-file my.key\n"
            "  parasnake journal my.journal      what is in a journal, also while it is written\n"
            "  parasnake replay my.journal 17 script.py\n"
            "                                    compute task 17 of a journal again, here\n"
            "  ./script.py --help                how to start a script of yours\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"parasnake {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_keygen(commands)
    _add_journal(commands)
    _add_replay(commands)
    return parser


def _add_keygen(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "keygen",
        help="write a fresh random secret key to a file",
        description=(
            "Write a fresh random secret key to a new file that only you can read. Server and nodes "
            "must hold the same key, and whoever holds it can run code on their machines."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="the file to write (in your configuration folder, where scripts look for it)",
    )
    parser.set_defaults(run=_keygen)


def _keygen(arguments: argparse.Namespace) -> None:
    if arguments.file is None:
        path = keys.write_user_key_file()
        print(f"A new secret key is in {path}")
        print("Your scripts find it there. On every other machine, copy it to the same place,")
        print("or anywhere and name it: ./script.py --ip HOST --key-file FILE")
        return
    keys.write_key_file(arguments.file)
    import shlex  # scripts need none

    name = shlex.quote(arguments.file)
    print(f"A new secret key is in {arguments.file}")
    print(f"For the server:    ./script.py --server --key-file {name}")
    print(f"For every node:    ./script.py --ip HOST --key-file {name}")
    print("On other machines with a copy of the file, which must stay secret.")


def _add_journal(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "journal",
        help="tell what is in a journal",
        description=(
            "Tell what is in the journal of a job: whose it is, how far the job has come and which "
            "nodes have computed it. A server may be writing it meanwhile."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="the journal")
    parser.set_defaults(run=_journal)


def _journal(arguments: argparse.Namespace) -> None:
    from parasnake.survey import Survey  # scripts need none

    for line in Survey.of(Path(arguments.file)).lines():
        print(line)


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "replay",
        help="compute one task of a journal again, in this process",
        description=(
            "Compute one task of a journal again, in this process, with the data and the seed that it "
            "had; print the result, or the traceback, and say whether it is the recorded result. Of "
            "the script's hooks init_data, node_init and process are called, no other. The exit status "
            "is 1 if it raised or the result is another one."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--pdb",
        action="store_true",
        help="stop in Python's debugger where process begins, and where it raises",
    )
    parser.add_argument("file", metavar="JOURNAL", help="the journal")
    parser.add_argument("task", metavar="TASK", type=int, help="the task's number, as in the log")
    parser.add_argument("script", metavar="SCRIPT", help="the script, whose journal it is")
    parser.add_argument(
        "options", metavar="...", nargs=argparse.REMAINDER, help="the script's own options"
    )
    parser.set_defaults(run=_replay)


def _replay(arguments: argparse.Namespace) -> None:
    from parasnake.rerun import Rerun  # it imports a debugger

    rerun = Rerun(Path(arguments.file), arguments.task, debug=arguments.pdb)
    rerun.start(arguments.script, arguments.options)
