"""What the server tells people: the progress line, a log line now and then, the summary."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parasnake.core.scheduler import Scheduler

if TYPE_CHECKING:
    import tqdm

log = logging.getLogger("parasnake.server")

LINE_SECONDS = 0.5
"""How often the progress line is drawn anew."""
FIRST_LOG_S, LAST_LOG_S = 10.0, 600.0
"""Without a terminal a line comes after this time, then ever more seldom up to the second one."""
ONCE_A = 60.0
MAX_REMEMBERED = 1000


@dataclass(slots=True)
class Tally:
    """Counts of one job on the server."""

    started_at: float
    merged: int = 0
    failed: int = 0
    dropped: int = 0
    retries: int = 0
    process_seconds: float = 0.0
    agents: int = 0
    nodes: int = 0
    lost_agents: int = 0
    lost_tasks: int = 0
    dead_workers: int = 0

    def summary(self, now: float) -> str:
        """One line for the end of the job."""
        elapsed = now - self.started_at
        parts = [
            f"{self.merged} {_plural('task', self.merged)} merged in {duration(elapsed)}",
            f"{duration(self.process_seconds)} in process",
            f"{self.nodes} {_plural('node', self.nodes)} from "
            f"{self.agents} {_plural('agent', self.agents)}",
            f"{self.retries} {'retry' if self.retries == 1 else 'retries'}",
        ]
        if self.lost_agents:
            parts.append(f"{self.lost_agents} {_plural('agent', self.lost_agents)} lost")
        if self.dead_workers:
            parts.append(f"{self.dead_workers} {_plural('worker', self.dead_workers)} died")
        if self.failed:
            parts.append(f"{self.failed} {_plural('task', self.failed)} failed")
        if self.dropped:
            parts.append(f"{self.dropped} still running when the job was done, dropped")
        return ", ".join(parts)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else noun + "s"


def duration(seconds: float) -> str:
    """Write a time for people: ``85 ms``, ``7.3 s``, ``12:05 min``, ``3:20:00 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h"


class Progress:
    """Tells how far the job is: a line that is drawn anew on a terminal, else log lines.

    Parameters
    ----------
    name: of the app
    total: how many tasks there will be, if that is known
    line: draw the line (True), do not (False), or do on a terminal (None)
    """

    def __init__(
        self, name: str, total: int | None, tally: Tally, scheduler: Scheduler, *, line: bool
    ) -> None:
        self._name = name
        self._total = total
        self._tally = tally
        self._scheduler = scheduler
        self._log_pause = FIRST_LOG_S
        self._logged = 0
        self._bar: tqdm.tqdm[Any] | None = self._make_bar() if line else None

    @property
    def pause(self) -> float:
        """Seconds until ``show`` should be called again."""
        return LINE_SECONDS if self._bar is not None else self._log_pause

    def show(self, now: float) -> None:
        """Draw the line, or log one."""
        if self._bar is not None:
            self._bar.n = self._done
            self._bar.set_postfix_str(self._state(), refresh=False)
            self._bar.refresh()
            return
        self._log_pause = min(2 * self._log_pause, LAST_LOG_S)
        if self._done > self._logged:
            self._logged = self._done
            log.info("%s: %s", self._name, self._text(now))

    def close(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.n = self._done
            self._bar.close()

    def _make_bar(self) -> tqdm.tqdm[Any]:
        # A lock that needs no semaphore of the system, and no monitoring thread: a thread would
        # forbid the fork of workers.
        import tqdm

        tqdm.tqdm.monitor_interval = 0
        tqdm.tqdm.set_lock(threading.RLock())
        return tqdm.tqdm(
            total=self._total, desc=self._name, unit=" tasks", file=sys.stderr, leave=False,
            dynamic_ncols=True, smoothing=0.1, miniters=0, mininterval=0,
        )  # fmt: skip

    @property
    def _done(self) -> int:
        return self._tally.merged + self._tally.failed

    def _state(self) -> str:
        scheduler = self._scheduler
        nodes = len(scheduler.nodes)
        text = f"{scheduler.running} running, {nodes} {_plural('node', nodes)}"
        return f"{text}, {scheduler.waiting} waiting" if scheduler.waiting else text

    def _text(self, now: float) -> str:
        elapsed = max(now - self._tally.started_at, 1e-9)
        rate = self._done / elapsed
        text = f"{self._done} of {self._total} done" if self._total else f"{self._done} done"
        text += f", {self._state()}, {rate:.3g} tasks/s"
        if self._total and rate:
            text += f", {duration(max(self._total - self._done, 0) / rate)} left"
        return text


def line_wanted(setting: bool | None) -> bool:
    """Whether to draw a progress line: as set, or else if somebody sits at a terminal."""
    if setting is not None:
        return setting
    with contextlib.suppress(AttributeError, ValueError):
        return sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    return False


@dataclass(slots=True)
class OnceAMinute:
    """Lets one log line a minute through for each source."""

    _last: dict[str, float] = field(default_factory=dict)

    def __call__(self, source: str, now: float) -> bool:
        """Whether a line about this source may be written now."""
        last = self._last.get(source)
        if last is not None and now - last < ONCE_A:
            return False
        self._last.pop(source, None)
        if len(self._last) >= MAX_REMEMBERED:
            del self._last[next(iter(self._last))]
        self._last[source] = now
        return True
