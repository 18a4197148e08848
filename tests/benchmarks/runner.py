"""Runs one measurement in a fresh process and waits until all that it started is gone."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
from figures import GONE, Effort, Found, Values
from measurements import MEASUREMENTS
from peers import PEERS
from work import KILLED

HERE = Path(__file__).parent
PR_SET_CHILD_SUBREAPER = 36


class MeasurementFailed(Exception):
    """The process ended badly, or took too long; the text is the reason."""


class JobLost(Exception):
    """The process ended without the results after one of its workers was killed; the text is how."""


class Runner:
    """Starts measurements one after another.

    While it is entered, this process becomes the parent of all orphans below it (Linux): so it knows
    to the millisecond when the last process of a peer is gone, daemons included.

    Parameters
    ----------
    effort: how much each measurement does
    limit_s: what takes longer is killed
    """

    def __init__(self, effort: Effort, limit_s: float) -> None:
        self._effort = effort
        self._limit_s = limit_s
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)

    def __enter__(self) -> Runner:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave nothing behind
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        _kill_all()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wake_in)
        os.close(self._wake_out)

    def measure(self, name: str, peer: str) -> Values:
        """Return the figures of a measurement.

        Raises
        ------
        JobLost: the peer did not survive that one of its workers was killed
        MeasurementFailed: it gave none for another reason
        """
        measurement = MEASUREMENTS[name]
        launcher = PEERS[peer].load().launcher() if measurement.launched else [sys.executable]
        effort = (str(self._effort.seconds), str(self._effort.scale))
        with tempfile.TemporaryDirectory() as given:
            folder = Path(given)
            output, log = folder / "values.json", folder / "log"
            command = [*launcher, str(HERE / "one.py"), peer, name, *effort, str(output)]
            status, gone_at = self._run(command, folder, log)
            if not output.exists():
                kind = JobLost if (folder / KILLED).exists() else MeasurementFailed
                raise kind(f"{status}: {_last_line(log)}")
            found = Found(**json.loads(output.read_text()))
        if any(figure.key == GONE for figure in measurement.figures):
            found.values[GONE] = 1e3 * (gone_at - found.last)
        return found.values

    def _run(self, command: list[str], folder: Path, log: Path) -> tuple[str, float]:
        """Return how the command ended, and when the last process was gone."""
        environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith("PARASNAKE_")},
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, *HERE.parents[:2]))),
        }
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        status = "no answer in time"
        until = time.monotonic() + self._limit_s
        for pid, code in self._ends(until):
            if pid == process.pid:
                status = f"exit status {os.waitstatus_to_exitcode(code)}"
        gone_at = time.monotonic()
        _kill_all()
        process.returncode = 0  # it was waited for above, without the Popen
        return status, gone_at

    def _ends(self, until: float) -> Iterator[tuple[int, int]]:
        """Yield the id and status of each process that ends, until there is none left."""
        while (left := until - time.monotonic()) > 0:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid:
                yield pid, status
                continue
            select.select([self._wake_in], [], [], left)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_in, 4096)


def _kill_all() -> None:
    """End what is left of all processes that were started from here."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _last_line(log: Path) -> str:
    """The last line that is more than a rule."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if re.search(r"\w", line)), "no output")
