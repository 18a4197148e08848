"""What a journal holds: entries, in the order in which they happened, and their bytes.

Entries are written as messages are (messages.py), with ``LAYOUTS`` below as the whole format. An
entry is on the disk before the hook is called that it tells of.
"""

from __future__ import annotations

from typing import NamedTuple

from .ids import NodeKey, TaskId
from .messages import HEADER, Buffer, Layout, Parts, encode

NODE_BYTES = 16


class HandedOut(NamedTuple):
    """``new_data`` gave data for this node. No payload: it gave something that cannot be sent."""

    task: TaskId
    node: NodeKey
    payload: Parts


class Nothing(NamedTuple):
    """``new_data`` gave None for these nodes, one after the other, and that so many times."""

    times: int
    nodes: Parts


class Exhausted(NamedTuple):
    """The generator has ended."""


class Merged(NamedTuple):
    """A result came for ``result``; ``node`` has computed it in so many seconds."""

    task: TaskId
    node: NodeKey
    seconds: float
    payload: Parts


class Failed(NamedTuple):
    """A task has failed for good, of which the ``failed`` hook is told."""

    task: TaskId
    node: NodeKey
    failures: int
    losses: int
    reason: str
    host: str
    remote: str


class Charged(NamedTuple):
    """What a task has been charged with so far."""

    task: TaskId
    failures: int
    losses: int


class TimedOut(NamedTuple):
    """``node_timeout`` is called; in the manner of 0.1 the node's task is the user's again."""

    node: NodeKey


class TakenBack(NamedTuple):
    """The library hands out itself what had been left to the user."""


class Met(NamedTuple):
    """This node takes tasks; ``name`` says where it is."""

    node: NodeKey
    name: str


class Checkpoint(NamedTuple):
    """What the job had come to; all entries before this one are gone.

    ``drawn`` tells how often the generator has given something, None included; ``seconds`` were spent
    in ``process`` for what was merged. The payload is the user's own state.
    """

    handed_out: int
    drawn: int
    exhausted: bool
    merged: int
    failed: int
    seconds: float
    payload: Parts


class Left(NamedTuple):
    """After a ``Checkpoint``: a task that was not settled then, ``forgotten`` if it was the user's."""

    task: TaskId
    node: NodeKey
    failures: int
    losses: int
    forgotten: bool
    payload: Parts


class Computed(NamedTuple):
    """After a ``Checkpoint``: so many of the merged tasks came from this place."""

    tasks: int
    seconds: float
    place: str


class SentHome(NamedTuple):
    """All agents were told to go: what they were computing need not be waited for."""


Entry = (
    HandedOut
    | Nothing
    | Exhausted
    | Merged
    | Failed
    | Charged
    | TimedOut
    | TakenBack
    | Met
    | Checkpoint
    | Left
    | Computed
    | SentHome
)

LAYOUTS: dict[type[Entry], Layout] = {
    HandedOut: Layout(1, "Q16s", payload=True),
    Nothing: Layout(2, "I", payload=True),
    Exhausted: Layout(3, ""),
    Merged: Layout(4, "Q16sd", payload=True),
    Failed: Layout(5, "Q16sII", texts=3),
    Charged: Layout(6, "QII"),
    TimedOut: Layout(7, "16s"),
    TakenBack: Layout(8, ""),
    Met: Layout(9, "16s", texts=1),
    Checkpoint: Layout(10, "QQ?QQd", payload=True),
    Left: Layout(11, "Q16sII?", payload=True),
    Computed: Layout(12, "Qd", texts=1),
    SentHome: Layout(13, ""),
}


# Nearly all entries are of two kinds, and what they cost is what a journal costs: these two are
# written without being made first.

_HANDED_OUT, _MERGED = LAYOUTS[HandedOut], LAYOUTS[Merged]
_HANDED_OUT_KIND, _MERGED_KIND = _HANDED_OUT.kind, _MERGED.kind
_HANDED_OUT_BYTES, _MERGED_BYTES = _HANDED_OUT.struct.size, _MERGED.struct.size
_pack_handed_out, _pack_merged = _HANDED_OUT.head.pack, _MERGED.head.pack
_HEADER_BYTES = HEADER.size


def write_handed_out(task: TaskId, node: NodeKey, payload: Parts, pieces: list[Buffer]) -> int:
    """Append the bytes of a ``HandedOut`` to ``pieces``; returns how many they are."""
    size = _HANDED_OUT_BYTES
    for part in payload:
        size += len(part)
    pieces.append(_pack_handed_out(_HANDED_OUT_KIND, size, task, node))
    pieces += payload
    return _HEADER_BYTES + size


def write_merged(
    task: TaskId, node: NodeKey, seconds: float, payload: Parts, pieces: list[Buffer]
) -> int:
    """Append the bytes of a ``Merged`` to ``pieces``; returns how many they are."""
    size = _MERGED_BYTES
    for part in payload:
        size += len(part)
    pieces.append(_pack_merged(_MERGED_KIND, size, task, node, seconds))
    pieces += payload
    return _HEADER_BYTES + size


def write(entry: Entry, pieces: list[Buffer]) -> int:
    """Append the bytes of any entry to ``pieces``; returns how many they are."""
    content = encode(entry, LAYOUTS)
    pieces += content
    return sum(map(len, content))


def nodes_of(entry: Nothing) -> list[NodeKey]:
    """Return the nodes of an entry, however its payload is cut."""
    joined = b"".join(entry.nodes)
    starts = range(0, len(joined), NODE_BYTES)
    return [NodeKey(joined[start : start + NODE_BYTES]) for start in starts]


class Quiet:
    """Puts answers of "nothing just now" together: an idle job shall not fill the disk.

    Idle nodes are asked round and round; rounds of the same nodes make one entry.
    """

    def __init__(self) -> None:
        self._round: dict[NodeKey, None] = {}
        self._nodes: tuple[NodeKey, ...] = ()
        self._times = 0
        self._entries: list[Nothing] = []

    def add(self, node: NodeKey) -> None:
        """There was nothing for this node."""
        if node in self._round:
            self._end_round()
        self._round[node] = None

    def take(self) -> list[Nothing]:
        """Return the entries of all that was added since the last call."""
        if self._round:
            self._end_round()
        self._end_rounds()
        entries, self._entries = self._entries, []
        return entries

    def _end_round(self) -> None:
        nodes = tuple(self._round)
        self._round = {}
        if nodes != self._nodes:
            self._end_rounds()
            self._nodes = nodes
        self._times += 1

    def _end_rounds(self) -> None:
        if self._times:
            self._entries.append(Nothing(self._times, self._nodes))
        self._nodes, self._times = (), 0
