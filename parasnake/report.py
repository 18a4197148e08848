"""What the server tells people: the progress line, a log line now and then, the summary."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from parasnake.core import farm, tasks
from parasnake.core.ids import NodeId, NodeKey
from parasnake.core.scheduler import Scheduler
from parasnake.crowd import Crowd

if TYPE_CHECKING:
    import tqdm

log = logging.getLogger("parasnake.server")

LINE_SECONDS = 0.5
"""How often the progress line is drawn anew."""
FIRST_LOG_S, LAST_LOG_S = 10.0, 600.0
"""Without a terminal a line comes after this time, then ever more seldom up to the second one."""
ONCE_A = 60.0
LEAST_LOST_SECONDS = 0.001
MAX_CAUSES = 3
"""So many different causes of workers' deaths are in the summary."""
MAX_SOURCES = 100
"""With lines about so many sources in a minute, there are no others: addresses cost nothing."""


@dataclass(slots=True)
class Tally:
    """Counts of one job on the server."""

    started_at: float
    merged: int = 0
    failed: int = 0
    dropped: int = 0
    replayed: int = 0
    """Tasks merged or failed that the journal knew already."""
    retries: int = 0
    process_seconds: float = 0.0
    agents: int = 0
    nodes: int = 0
    lost_agents: int = 0
    dead_workers: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    """Of the deaths of workers."""
    lost_seconds: float = 0.0
    """How long nodes that were lost, or had to go, had computed in vain."""
    strikes: int = 0
    """Of chaos."""

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
            dead = f"{self.dead_workers} {_plural('worker', self.dead_workers)} died"
            parts.append(f"{dead} ({self._common_causes()})" if self.causes else dead)
        if self.lost_seconds >= LEAST_LOST_SECONDS:
            parts.append(f"{duration(self.lost_seconds)} of computing lost with nodes")
        if self.strikes:
            parts.append(f"{self.strikes} {_plural('strike', self.strikes)} of chaos")
        if self.replayed:
            parts.append(f"{self.replayed} known from the journal")
        if self.failed:
            parts.append(f"{self.failed} {_plural('task', self.failed)} failed")
        if self.dropped:
            parts.append(f"{self.dropped} still running at the end, dropped")
        return ", ".join(parts)

    def note_death(self, reason: str) -> None:
        """A worker has died."""
        self.dead_workers += 1
        self.causes[reason.partition(";")[0].partition(": the kernel")[0]] += 1

    def _common_causes(self) -> str:
        causes = self.causes.most_common(MAX_CAUSES)
        others = self.causes.total() - sum(count for _, count in causes)
        texts = [f"{count} times {cause}" if count > 1 else cause for cause, count in causes]
        return "; ".join([*texts, f"{others} otherwise"] if others else texts)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else noun + "s"


def duration(seconds: float) -> str:
    """Write a time for people: ``85 ms``, ``7.3 s``, ``12:05 min``, ``3:20:00 h``."""
    if seconds < 0.9995:  # as rounded
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
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
        self, name: str, total: int | None, tally: Tally, source: Scheduler, *, line: bool
    ) -> None:
        self._name = name
        self._total = total
        self._tally = tally
        self._scheduler = source
        self._log_pause = FIRST_LOG_S
        self._logged = tally.replayed
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
        source = self._scheduler
        nodes = len(source.nodes)
        text = f"{source.running} running, {nodes} {_plural('node', nodes)}"
        return f"{text}, {source.waiting} waiting" if source.waiting else text

    def _text(self, now: float) -> str:
        elapsed = max(now - self._tally.started_at, 1e-9)
        rate = (self._done - self._tally.replayed) / elapsed
        text = f"{self._done} of {self._total} done" if self._total else f"{self._done} done"
        text += f", {self._state()}, {rate:.3g} tasks/s"
        if self._total and rate:
            text += f", {duration(max(self._total - self._done, 0) / rate)} left"
        return text


_OF_MANY = {
    "joined": "{} agents joined{ending}",
    "is back": "{} agents are back{ending}",
    "differ": "{} agents differ{ending}",
    "refused": "refused {} agents{ending}",
    "lost": "lost {} agents{ending}",
    "left": "{} agents left{ending}",
    "died": "{} workers died{ending}",
    "retry": "{} tasks will be tried again{ending}",
}


class Reporter:
    """Counts and logs what the farm says about agents, nodes and tasks.

    What very many agents do in the same second is told in one line, and at DEBUG in full.

    Parameters
    ----------
    name: of the app
    max_attempts: how many failures of its own a task may have
    host_of: says where a node is, for people, or "" if it is not there any more
    nodes: says how many nodes there are
    later: calls something after so many seconds, as ``Loop.call_in`` does
    """

    TELLS: ClassVar[tuple[type, ...]] = (
        farm.AgentJoined,
        farm.AgentRefused,
        farm.AgentLeft,
        farm.NodeJoined,
        farm.NodeDied,
        farm.NodeEnded,
        tasks.Retry,
        tasks.SetAside,
        tasks.TooLong,
        tasks.Reclaimed,
    )
    """The steps that ``tell`` takes."""

    def __init__(
        self,
        name: str,
        tally: Tally,
        max_attempts: int,
        host_of: Callable[[NodeKey], str],
        *,
        nodes: Callable[[], int],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._name = name
        self._tally = tally
        self._max_attempts = max_attempts
        self._host_of = host_of
        self._nodes = nodes
        self._crowd = Crowd(later, self._tell_of_many)

    def flush(self) -> None:
        """Tell now what was only counted so far."""
        self._crowd.flush()

    def _tell_of_many(self, level: int, kind: str, count: int, ending: str) -> None:
        text = _OF_MANY[kind].format(f"{count} more", ending=ending)
        nodes = self._nodes()
        log.log(level, "%s: %s; %d %s in all", self._name, text, nodes, _plural("node", nodes))

    def tell(self, step: farm.Step) -> None:
        """Take note of one of ``TELLS``."""
        match step:
            case farm.AgentJoined(peer, differences):
                self._joined(peer, differences)
            case farm.AgentRefused(peer, reason):
                level = self._crowd.level("refused", logging.WARNING, reason)
                log.log(level, "%s: refused %s: %s", self._name, peer.name, reason)
            case farm.AgentLeft():
                self._left(step)
            case farm.NodeJoined(peer, node):
                self._tally.nodes += 1
                log.debug("%s: node %s of %s", self._name, NodeId(bytes=node), peer.name)
            case farm.NodeDied(peer, _, reason, output):
                self._tally.note_death(reason)
                cause = f"{reason}; {output}" if output else reason
                level = self._crowd.level("died", logging.WARNING, reason)
                log.log(level, "%s: a worker on %s died: %s", self._name, peer.name, cause)
            case farm.NodeEnded(peer, node):
                log.debug("%s: node %s of %s ended", self._name, NodeId(bytes=node), peer.name)
            case tasks.Retry():
                self._retry(step)
            case tasks.SetAside(node, _, failures, seconds, reason):
                log.warning(
                    "%s: %s gets nothing for %.0f s: %d tasks in a row went wrong there, while others "
                    "succeed elsewhere; the last: %s",
                    self._name,
                    self._host_of(node) or "the agent of a worker that died",
                    seconds,
                    failures,
                    reason,
                )
            case tasks.TooLong(longest_life):
                log.warning(
                    "%s: tasks take longer than nodes may run (%s at the most): they are tried all the "
                    "same, and may never end; give the nodes more time, or make tasks smaller",
                    self._name,
                    duration(longest_life),
                )
            case tasks.Reclaimed(count):
                log.warning(
                    "%s: %d %s of lost nodes: new_data did not hand the data out again, though "
                    "all nodes are idle; other nodes get it now (see @app.node_timeout)",
                    self._name,
                    count,
                    _plural("task", count),
                )

    def _joined(self, peer: farm.Peer, differences: list[str]) -> None:
        self._tally.agents += not peer.returned
        what = "is back" if peer.returned else "joined"
        level = self._crowd.level(what, logging.INFO)
        log.log(level, "%s: %s %s", self._name, peer.name, what)
        for difference in differences:
            level = self._crowd.level("differ", logging.WARNING, difference)
            log.log(level, "%s: %s: %s", self._name, peer.name, difference)

    def _left(self, step: farm.AgentLeft) -> None:
        again = ""
        if step.tasks:
            again = f"; {step.tasks} of its tasks will run elsewhere"
        if step.lost:
            self._tally.lost_agents += 1
            level = self._crowd.level("lost", logging.WARNING, step.reason, step.tasks)
            log.log(level, "%s: lost %s: %s%s", self._name, step.peer.name, step.reason, again)
            return
        level = logging.ERROR if step.remote else logging.INFO
        level = self._crowd.level("left", level, step.reason, step.tasks)
        text = f"{step.reason}{again}" + (f"\n{step.remote}" if step.remote else "")
        log.log(level, "%s: %s left: %s", self._name, step.peer.name, text)

    def _retry(self, step: tasks.Retry) -> None:
        task = step.task
        self._tally.retries += 1
        charged = f"{task.failures} of {self._max_attempts} attempts failed"
        if host := self._host_of(step.node):
            charged += f", the last on {host}"
        remote = f"\n{step.remote}" if step.remote else ""
        log.log(
            self._crowd.level("retry", logging.WARNING),
            "%s: task %d will be tried again (%s): %s%s",
            self._name,
            task.id,
            charged,
            step.reason,
            remote,
        )


def line_wanted(setting: bool | None) -> bool:
    """Whether to draw a progress line: as set, or else if somebody sits at a terminal."""
    if setting is not None:
        return setting
    with contextlib.suppress(AttributeError, ValueError):
        return sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    return False


@dataclass(slots=True)
class OnceAMinute:
    """Lets one log line a minute through for each source, and not too many for all of them."""

    _last: dict[str, float] = field(default_factory=dict)  # the oldest first

    def __call__(self, source: str, now: float) -> bool:
        """Whether a line about this source may be written now."""
        while self._last and now - next(iter(self._last.values())) >= ONCE_A:
            del self._last[next(iter(self._last))]
        if source in self._last or len(self._last) >= MAX_SOURCES:
            return False
        self._last[source] = now
        return True
