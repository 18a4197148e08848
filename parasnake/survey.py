"""What is in a journal, for people."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .core.census import Census
from .core.journal import (
    Checkpoint,
    Computed,
    Entry,
    Exhausted,
    Failed,
    HandedOut,
    Merged,
    Met,
)
from .journal import Facts, Overtaken, Row, Stored
from .report import duration

MAX_LINES = 50
"""Lines about places where tasks were computed."""


@dataclass(slots=True)
class Survey:
    """The sums over a journal.

    Attributes
    ----------
    facts: whose journal it is
    done: after how many merges and failures the job was done; None if it was not
    last_write: when entries came last, in seconds since 1970; None if there are none
    stored_bytes: of all entries together
    cut_at: when the last checkpoint was made, in seconds since 1970; None if there is none
    cut_after: after how many merges and failures that was
    cut_bytes: of this checkpoint
    census: where the tasks were computed that were merged
    """

    facts: Facts
    done: int | None = None
    handed_out: int = 0
    exhausted: bool = False
    failed: int = 0
    last_write: float | None = None
    stored_bytes: int = 0
    cut_at: float | None = None
    cut_after: int = 0
    cut_bytes: int = 0
    census: Census = field(default_factory=Census)

    @classmethod
    def of(cls, path: Path) -> Survey:
        """Read a journal.

        Raises
        ------
        ConfigurationError: there is no such file, or it is no journal
        JournalError: it is damaged
        """
        with Stored.read(path) as stored:
            while True:
                with contextlib.suppress(Overtaken):
                    return cls._read(stored)

    @classmethod
    def _read(cls, stored: Stored) -> Survey:
        survey = cls(stored.facts, stored.done)
        for row in stored.rows():
            survey.last_write = row.at
            survey.stored_bytes += row.size
            for entry in row.entries:
                survey._take(entry, row)
        survey.cut_bytes = stored.checkpoint_bytes
        return survey

    @property
    def merged_tasks(self) -> int:
        """How many tasks were merged."""
        return self.census.tasks.total()

    def _take(self, entry: Entry, row: Row) -> None:
        match entry:
            case HandedOut():
                self.handed_out += 1
            case Merged(_, node, seconds):
                self.census.merged(node, seconds)
            case Met(node, name):
                self.census.met(node, name)
            case Failed():
                self.failed += 1
            case Exhausted():
                self.exhausted = True
            case Checkpoint():
                self.handed_out, self.exhausted = entry.handed_out, entry.exhausted
                self.failed = entry.failed
                self.cut_at, self.cut_after = row.at, entry.merged + entry.failed
            case Computed():
                self.census.add(*entry)
            case _:
                pass

    def lines(self) -> Iterator[str]:
        """Tell it line by line."""
        facts, merged = self.facts, self.merged_tasks
        left = self.handed_out - merged - self.failed
        yield f"app          {facts.app}"
        yield f"job          {facts.job.hex()}"
        yield f"begun        {_date(facts.started)} with Parasnake {facts.library}"
        yield f"last write   {_date(self.last_write) if self.last_write else 'none'}"
        yield f"size         {self.stored_bytes:,} bytes of entries"
        if self.cut_at is not None:
            tasks = f"after {self.cut_after} tasks"
            yield f"checkpoint   {_date(self.cut_at)} {tasks}, {self.cut_bytes:,} bytes"
        more = ", which is all of them" if self.exhausted else ""
        yield f"handed out   {self.handed_out}{more}"
        yield f"merged       {merged}"
        yield f"failed       {self.failed}"
        yield f"open         {left}"
        yield f"state        {'the job is done' if self.done is not None else 'not done'}"
        if merged:
            yield "computed by"
        places = self.census.tasks
        for place, count in places.most_common(MAX_LINES):
            yield f"  {count:>10}  in {duration(self.census.seconds[place])}  {place}"
        if len(places) > MAX_LINES:
            yield f"  and {len(places) - MAX_LINES} more"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
