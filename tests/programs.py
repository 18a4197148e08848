"""Scripts as their users run them: processes with options, output and an end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from helpers import wait_until

KEY = "the key of tests, 32 characters."
"""For ``PARASNAKE_SECRET_KEY``."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who has a key and no settings."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("PARASNAKE_")}
    return own | {"XDG_CONFIG_HOME": str(home), "PARASNAKE_SECRET_KEY": KEY, **more}


class Program:
    """A Python script that runs as a process of its own; its output goes to files.

    Parameters
    ----------
    script: the file
    options: of the script
    folder: where it runs, and where the files with its output are
    environ: its whole environment
    python: the interpreter and its options

    Leaving the context kills it, with all that it started, if it still runs.
    """

    _count = 0

    def __init__(
        self,
        script: Path | str,
        options: Sequence[str],
        folder: Path,
        *,
        environ: Mapping[str, str],
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        Program._count += 1
        self._out = folder / f"{Program._count}.out"
        self._err = folder / f"{Program._count}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*python, str(script), *options],
                cwd=folder,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.kill()
            self._process.wait(30)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def out(self) -> str:
        """What it has written to standard output so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has written to standard error so far."""
        return self._err.read_text()

    @property
    def status(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Kill this one process, as ``kill -9`` would."""
        self._process.send_signal(signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send this one process a signal."""
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Do as a terminal does after Ctrl-C: a SIGINT to the whole foreground process group."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, timeout: float = 120) -> int:
        """Wait for its end and return its exit status."""
        return self._process.wait(timeout)

    def wait_for(self, pattern: str, timeout: float = 120) -> re.Match[str]:
        """Wait until standard error has a match of ``pattern``.

        Raises
        ------
        AssertionError: the program has ended without it
        """

        def look() -> re.Match[str] | bool | None:
            ended = self.status is not None
            return re.search(pattern, self.err) or ended

        found = wait_until(look, timeout)
        assert isinstance(found, re.Match), f"no {pattern!r} before the end:\n{self.err}"
        return found

    def port(self) -> str:
        """Wait until this server says on which port it listens."""
        return self.wait_for(r"server on port (\d+)")[1]
