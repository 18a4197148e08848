"""Running the commands of a batch system, which may take long or hang."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from os import environ
from pathlib import Path
from typing import IO

from parasnake.errors import BatchError
from parasnake.loop import READ, Loop, Timer

MAX_SECONDS = 120.0
"""How long a command may take: a busy batch system takes a minute."""
END_SECONDS = 0.05
"""How often it is looked whether a command that has closed its output has ended."""
MAX_WORDS = 500

_OF_THE_USER = (
    "SLURM_CONF",
    "SLURM_CLUSTERS",
    "PBS_CONF_FILE",
    "PBS_DEFAULT",
    "PBS_EXEC",
    "PBS_SERVER",
)


def run(command: list[str], folder: Path | None = None) -> str:
    """Run a command in a folder and return what it has written to standard output.

    Raises
    ------
    BatchError: it is not there, it hangs or it has failed; the text has its words
    """
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, stdin=subprocess.DEVNULL,
            timeout=MAX_SECONDS, env=environment(environ), cwd=folder,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise no_answer(command) from None
    except OSError as error:
        raise not_run(command, error) from error
    return answer(command, done.returncode, done.stdout, done.stderr)


def environment(here: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a command.

    If this process is a batch job itself, what they say of it must not be taken for what is to be
    submitted, and not be handed on to that.
    """
    return {
        name: value
        for name, value in here.items()
        if not name.startswith(("SLURM_", "SLURMD_", "PBS_")) or name in _OF_THE_USER
    }


def not_run(command: list[str], error: OSError) -> BatchError:
    """Return the error of a command that could not even be started."""
    if isinstance(error, FileNotFoundError):
        return BatchError(
            f"there is no {command[0]} here; submit from a machine of the cluster that has it"
        )
    return BatchError(f"{command[0]} cannot be run: {error.strerror}")


def no_answer(command: list[str]) -> BatchError:
    """Return the error of a command that hangs."""
    return BatchError(f"{command[0]} has not answered in {MAX_SECONDS:.0f} s")


def answer(command: list[str], status: int, out: bytes, err: bytes) -> str:
    """Return what a command that has ended wrote to standard output.

    Raises
    ------
    BatchError: it has failed
    """
    text = out.decode(errors="replace")
    if status == 0:
        return text
    said = " ".join((err.decode(errors="replace").strip() or text).split())
    said = f"...{said[-MAX_WORDS:]}" if len(said) > MAX_WORDS else said
    raise BatchError(f"{command[0]} has failed: {said or f'exit status {status}, without a word'}")


class Command:
    """A command that runs beside a loop, which goes on meanwhile.

    Parameters
    ----------
    on_done: gets what it has written to standard output, or why it has failed; from the loop
    folder: where it runs
    """

    def __init__(
        self,
        loop: Loop,
        command: list[str],
        on_done: Callable[[str | BatchError], None],
        folder: Path | None = None,
    ) -> None:
        self._loop = loop
        self._command = command
        self._on_done = on_done
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: dict[IO[bytes], bytearray] = {}
        self._open: set[IO[bytes]] = set()
        self._timer: Timer | None = None
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                bufsize=0, start_new_session=True, env=environment(environ), cwd=folder,
            )  # fmt: skip
        except OSError as error:
            failed = not_run(command, error)
            self._timer = loop.call_in(0.0, lambda: on_done(failed))
            return
        self._timer = loop.call_in(MAX_SECONDS, self._hangs)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            self._pipes[pipe] = bytearray()
            self._open.add(pipe)
            loop.watch(pipe.fileno(), READ, functools.partial(self._readable, pipe))

    def stop(self) -> None:
        """End it, if it still runs, and forget it."""
        if self._timer is not None:
            self._timer.cancel()
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in self._open:
            self._loop.watch(pipe.fileno(), 0, lambda _: None)
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in self._pipes:
            pipe.close()

    def _readable(self, pipe: IO[bytes], _: int) -> None:
        data = os.read(pipe.fileno(), 1 << 16)
        self._pipes[pipe] += data
        if not data:
            self._open.discard(pipe)
            self._loop.watch(pipe.fileno(), 0, lambda _: None)
            self._look()

    def _look(self) -> None:
        """See whether it has ended, once it has closed its output."""
        if self._process is None or self._open:
            return
        status = self._process.poll()
        if status is None:
            self._loop.call_in(END_SECONDS, self._look)
            return
        out, err = self._pipes.values()
        self.stop()
        said: str | BatchError
        try:
            said = answer(self._command, status, bytes(out), bytes(err))
        except BatchError as error:
            said = error
        self._on_done(said)

    def _hangs(self) -> None:
        self.stop()
        self._on_done(no_answer(self._command))
