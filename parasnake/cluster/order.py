"""What a user wants of a batch system, and how a node is started that does the same as this process."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parasnake.cluster.script import Start
from parasnake.errors import ConfigurationError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Order:
    """The options of ``--submit``, checked.

    Attributes
    ----------
    system: the name of the batch system
    server: whether it is a server that wants them
    nodes: how many nodes; for a server: how many at the same time at the most
    seconds: how long each may run; None: as long as the batch system gives
    dry_run: show what would be submitted, and do nothing
    options: for the batch system as they are
    start: how a node is started
    stem: the name of the script, for names of files and jobs
    """

    system: str
    server: bool
    nodes: int
    seconds: int | None
    dry_run: bool
    options: tuple[str, ...]
    start: Start
    stem: str

    @property
    def folder(self) -> Path:
        """Where the script and the output of nodes go."""
        return self.start.folder / f"{self.stem}.nodes"


def take(
    given: Mapping[str, Any],
    options: Sequence[str],
    argv: Sequence[str],
    node_options: Sequence[str],
    *,
    server: bool,
) -> Order:
    """Check what was asked for, and find out how a node is started.

    Parameters
    ----------
    given: the options that go with ``--submit``, by name
    options: those for the batch system
    argv: all options of this script but those
    node_options: those that a node gets
    server: whether it is a server that wants them

    Raises
    ------
    ConfigurationError: options do not go together, have a wrong value, or this program cannot be
        started again
    """
    system = given["--submit"]
    wanted, other = ("--max-nodes", "--nodes") if server else ("--nodes", "--max-nodes")
    if given[other] is not None:
        raise ConfigurationError(
            f"{other} with {'--server' if server else '--submit'}; allowed: {wanted} N there"
            + ("" if server else f", {other} N for a --server")
        )
    for word in options:
        if "\n" in word or "\0" in word:
            raise ConfigurationError(f"{word!r}: options for {system} are in one line")
    seconds = read_time(given["--time"]) if given["--time"] is not None else None
    count = read_count(wanted, given[wanted])
    # The number of workers comes first: at the end there may be positional arguments.
    command = again(argv, ["--workers", "auto", *node_options])
    start = Start(command, working_folder(), written_by())
    dry_run = bool(given["--dry-run"])
    return Order(system, server, count, seconds, dry_run, tuple(options), start, stem())


def stem() -> str:
    """Return what the script is called, without its ending."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.stem


def read_time(value: str) -> int:
    """Return the seconds of ``8:00:00``, ``30:00``, ``1-12:00:00``, ``90m``, ``8h`` or ``2d``.

    Raises
    ------
    ConfigurationError: it is none of these. Neither is a bare number: minutes for Slurm and
        seconds for PBS
    """
    if match := re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d\d)", value, re.ASCII):
        days, hrs, minutes, seconds = (int(part or 0) for part in match.groups())
        total = ((days * 24 + hrs) * 60 + minutes) * 60 + seconds
    elif match := re.fullmatch(r"(\d+)([smhd])", value, re.ASCII):
        total = int(match[1]) * _UNITS[match[2]]
    else:
        total = 0
    if not 0 < total < 10**9:
        raise ConfigurationError(
            f"time = {value!r} (command line, --time); allowed: 8:00:00, 1-12:00:00 (a day and 12 "
            "hours), 30:00 (minutes), or a number with its unit: 90m, 8h, 2d"
        )
    return total


def read_count(option: str, value: str | None) -> int:
    """Return how many nodes an option says, from 1.

    Raises
    ------
    ConfigurationError: it says something else, or nothing
    """
    if value is not None and re.fullmatch(r"\d{1,6}", value, re.ASCII) and int(value):
        return int(value)
    given = "is missing" if value is None else f"is {value!r}"
    raise ConfigurationError(f"{option} {given}; allowed with --submit: a whole number from 1")


def again(argv: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
    """Return the command that starts this program with these options in the place of ``argv``.

    Raises
    ------
    ConfigurationError: it cannot be started again
    """
    return sys.executable, *_interpreted(argv), *options


def _interpreted(argv: Sequence[str]) -> list[str]:
    """Return what the interpreter was started with, but for the options of the script."""
    own = len(sys.argv) - 1
    before, after = sys.orig_argv[: len(sys.orig_argv) - own], sys.orig_argv[-own:] if own else []
    known = after == sys.argv[1:] and after[: len(argv)] == list(argv)
    if len(before) < 2 or "-c" in before or not known:
        raise ConfigurationError(
            "submit: this program is no script that can be started again with other options; "
            "allowed: a file, or python -m and a module, that leaves sys.argv alone"
        )
    return before[1:]


def written_by() -> str:
    """Return the command line of this process, for people."""
    return shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])


def working_folder() -> Path:
    """Return the folder that this process is in, by the name that the user knows it by.

    Not where symbolic links lead: on other machines they may lead elsewhere.
    """
    with contextlib.suppress(OSError):
        folder = Path(os.environ.get("PWD", ""))
        if folder.is_absolute() and folder.samefile("."):
            return folder
    return Path.cwd()
