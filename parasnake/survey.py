"""What is in a journal, for people."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .core.ids import NodeId, NodeKey
from .core.journal import Entry, Exhausted, Failed, HandedOut, Merged, Met
from .journal import Facts, Stored
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
    merged: how many tasks each place has computed that were merged; "" if no name is known
    seconds: spent in ``process`` for these
    """

    facts: Facts
    done: int | None = None
    handed_out: int = 0
    exhausted: bool = False
    failed: int = 0
    last_write: float | None = None
    stored_bytes: int = 0
    merged: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    _names: dict[NodeKey, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Survey:
        """Read a journal.

        Raises
        ------
        ConfigurationError: there is no such file, or it is no journal
        JournalError: it is damaged
        """
        with Stored.read(path) as stored:
            survey = cls(stored.facts, stored.done)
            for row in stored.rows():
                survey.last_write = row.at
                survey.stored_bytes += row.size
                for entry in row.entries:
                    survey._take(entry)
        return survey

    @property
    def merged_tasks(self) -> int:
        """How many tasks were merged."""
        return self.merged.total()

    def _take(self, entry: Entry) -> None:
        match entry:
            case HandedOut():
                self.handed_out += 1
            case Merged(_, node, seconds):
                where = self._names.get(node) or f"node {NodeId(bytes=node)}"
                self.merged[where] += 1
                self.seconds[where] += seconds  # type: ignore[assignment]  # it counts seconds
            case Met(node, name):
                self._names[node] = name
            case Failed():
                self.failed += 1
            case Exhausted():
                self.exhausted = True
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
        more = ", which is all of them" if self.exhausted else ""
        yield f"handed out   {self.handed_out}{more}"
        yield f"merged       {merged}"
        yield f"failed       {self.failed}"
        yield f"open         {left}"
        yield f"state        {'the job is done' if self.done is not None else 'not done'}"
        if merged:
            yield "computed by"
        for place, count in self.merged.most_common(MAX_LINES):
            yield f"  {count:>10}  in {duration(self.seconds[place])}  {place}"
        if len(self.merged) > MAX_LINES:
            yield f"  and {len(self.merged) - MAX_LINES} more"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
