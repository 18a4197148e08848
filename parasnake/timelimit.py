"""When an agent has to go: after the time that it was given, or when its batch job ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from parasnake import batch
from parasnake.loop import READ, Loop, Timer

if TYPE_CHECKING:
    import subprocess

EARLY_SECONDS = 5.0
"""An agent goes so long before the end of its batch job, which is no exact time."""
ASK_SECONDS = 60.0
"""So long before it goes it asks whether the end of its job has been put off."""
ANSWER_SECONDS = 20.0
"""How long Slurm may take to answer."""
MAX_ANSWER = 1 << 16


class TimeLimit:
    """Watches the end of an agent's time.

    Parameters
    ----------
    loop: the agent's
    seconds: how long it may run, if somebody has said that
    on_end: is called with the time, on the clock of the loop, when the agent has to go; again when
        that has changed
    """

    def __init__(self, loop: Loop, seconds: float | None, on_end: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._own = None if seconds is None else loop.now() + seconds
        self._job = os.environ.get("SLURM_JOB_ID", "")
        self._at: float | None = None
        self._asked: subprocess.Popen[bytes] | None = None
        self._patience: Timer | None = None
        self._answer = b""

    def watch(self) -> None:
        """Find out, now and while the loop runs."""
        end = batch.end_of_job(os.environ, started=time.time())
        self._found(None if end is None else self._on_loop(end))
        if end is None:
            self._ask()

    def _on_loop(self, end: float) -> float:
        return self._loop.now() + end - time.time() - EARLY_SECONDS

    def _found(self, job_end: float | None) -> None:
        at = min((t for t in (self._own, job_end) if t is not None), default=None)
        if at is None or at == self._at:
            return
        self._at = at
        self._on_end(at)
        ask_at = at - ASK_SECONDS
        if at == job_end and ask_at > self._loop.now():
            self._loop.call_at(ask_at, self._ask)

    def _ask(self) -> None:
        """Ask Slurm, without waiting for it."""
        if not self._job.isdecimal():
            return
        import subprocess  # most agents need it never

        try:
            self._asked = subprocess.Popen(
                ["scontrol", "-o", "show", "job", self._job],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return  # there is none
        assert self._asked.stdout is not None
        self._answer = b""
        self._loop.watch(self._asked.stdout.fileno(), READ, self._answers)
        self._patience = self._loop.call_in(ANSWER_SECONDS, self._no_answer)

    def _answers(self, _: int) -> None:
        asked = self._asked
        assert asked is not None and asked.stdout is not None
        data = os.read(asked.stdout.fileno(), MAX_ANSWER)
        if data and len(self._answer) < MAX_ANSWER:
            self._answer += data
            return
        self._no_answer()
        end = batch.end_told_by_scontrol(self._answer.decode(errors="replace"))
        if end is not None:
            self._found(self._on_loop(end))

    def _no_answer(self) -> None:
        """It has said all, or takes too long."""
        asked, self._asked = self._asked, None
        if self._patience is not None:
            self._patience.cancel()
        if asked is not None and asked.stdout is not None:
            self._loop.watch(asked.stdout.fileno(), 0, self._answers)
            asked.stdout.close()
            asked.kill()
            asked.wait()
