"""The script that a batch system runs on each node."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parasnake.cluster.systems import BatchSystem, Request


@dataclass(frozen=True, slots=True)
class Start:
    """How a node is started.

    Attributes
    ----------
    command: the interpreter, the script and its options
    folder: where it is started
    written_by: the command line that asked for it, for people
    """

    command: tuple[str, ...]
    folder: Path
    written_by: str


def text(system: BatchSystem, request: Request, start: Start, environ: Mapping[str, str]) -> str:
    """Return the script: the options for the batch system, then one node that takes its place.

    As the node replaces the shell, signals of the batch system reach it, and its exit status is
    that of the batch job.
    """
    header = [
        f"{system.mark} {' '.join(map(system.quote, words))}" for words in system.options(request)
    ]
    exports = [
        f"export {name}={shlex.quote(value)}" for name, value in system.exports(environ).items()
    ]
    body = [
        *system.prepare(request),
        *exports,
        f"cd {shlex.quote(str(start.folder))} || exit 1",
        f"exec {shlex.join(start.command)}",
    ]
    comment = " ".join(f"Written by: {start.written_by}".split())
    return "\n".join(["#!/bin/sh", f"# {comment}", *header, "", *body, ""])
