"""Entries of a journal: what is written can be read, and an idle job writes little."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cut, cuts, nodes, payloads, seconds, tasks, texts

from parasnake.core.ids import NodeKey, TaskId
from parasnake.core.journal import (
    LAYOUTS,
    Charged,
    Checkpoint,
    Computed,
    Entry,
    Exhausted,
    Failed,
    HandedOut,
    Left,
    Merged,
    Met,
    Nothing,
    Quiet,
    SentHome,
    TakenBack,
    TimedOut,
    nodes_of,
    write,
    write_handed_out,
    write_merged,
)
from parasnake.core.messages import Buffer, MessageReader, encode
from parasnake.errors import MessageError

counts = st.integers(0, 2**32 - 1)
sizes = st.integers(0, 2**64 - 1)
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(HandedOut, tasks, nodes, payloads),
    st.builds(Nothing, counts, st.lists(nodes, max_size=3).map(tuple)),
    st.builds(Exhausted),
    st.builds(Merged, tasks, nodes, seconds, payloads),
    st.builds(Failed, tasks, nodes, counts, counts, texts, texts, texts),
    st.builds(Charged, tasks, counts, counts),
    st.builds(TimedOut, nodes),
    st.builds(TakenBack),
    st.builds(Met, nodes, texts),
    st.builds(Checkpoint, sizes, sizes, st.booleans(), sizes, sizes, seconds, payloads),
    st.builds(Left, tasks, nodes, counts, counts, st.booleans(), payloads),
    st.builds(Computed, sizes, seconds, texts),
    st.builds(SentHome),
)


def plain(entry: Entry) -> tuple[object, ...]:
    """Return an entry so that two compare equal when they say the same, however it is cut."""
    fields: tuple[Any, ...] = tuple(entry)
    if LAYOUTS[type(entry)].payload:
        fields = (*fields[:-1], b"".join(fields[-1]))
    return (type(entry), *fields)


def put(entry: Entry, pieces: list[Buffer]) -> int:
    """Write it in the way that its kind is written."""
    match entry:
        case HandedOut():
            return write_handed_out(*entry, pieces)
        case Merged():
            return write_merged(*entry, pieces)
        case _:
            return write(entry, pieces)


def test_every_kind_is_tried() -> None:
    assert len(LAYOUTS) == len({layout.kind for layout in LAYOUTS.values()}) == 13


@given(st.lists(entries, max_size=6), cuts)
def test_what_is_written_is_read_however_it_is_cut(written: list[Entry], steps: list[int]) -> None:
    pieces: list[Buffer] = []
    size = sum(put(entry, pieces) for entry in written)
    stream = b"".join(pieces)
    assert len(stream) == size
    assert stream == b"".join(piece for entry in written for piece in encode(entry, LAYOUTS))

    reader = MessageReader(frozenset(LAYOUTS), LAYOUTS)
    read: list[Entry] = []
    position = 0
    for step in cut(steps):
        if position >= len(stream):
            break
        read += reader.feed(stream[position : position + step])
        position += step
    assert [plain(entry) for entry in read] == [plain(entry) for entry in written]
    assert not reader.unfinished


def test_an_entry_without_an_end_is_noticed() -> None:
    pieces: list[Buffer] = []
    write(HandedOut(TaskId(1), NodeKey(bytes(16)), (b"x" * 100_000,)), pieces)
    stream = b"".join(pieces)
    for end in (1, 20, len(stream) - 1):
        reader = MessageReader(frozenset(LAYOUTS), LAYOUTS)
        assert reader.feed(stream[:end]) == []
        assert reader.unfinished


def test_messages_of_the_wire_are_no_entries() -> None:
    with pytest.raises(MessageError, match="kind 64"):
        MessageReader(frozenset(LAYOUTS), LAYOUTS).feed(b"\x40" + bytes(8))


def key(letter: str) -> NodeKey:
    return NodeKey(letter.encode() * 16)


def quiet(letters: str) -> list[str]:
    """Write all of the answers "nothing just now" down, and return the entries in short."""
    together = Quiet()
    for letter in letters:
        together.add(key(letter))
    found = together.take()
    assert together.take() == []
    names = ["".join(chr(node[0]) for node in nodes_of(entry)) for entry in found]
    return [f"{entry.times} {name}" for entry, name in zip(found, names, strict=True)]


def test_rounds_of_the_same_nodes_make_one_entry() -> None:
    assert quiet("") == []
    assert quiet("aaaaa") == ["5 a"]
    assert quiet("abcabcabc") == ["3 abc"]
    assert quiet("ababcabca") == ["1 ab", "2 abc", "1 a"]


@given(st.text("abc", max_size=30))
def test_all_answers_are_kept_in_their_order(letters: str) -> None:
    told = (entry.split() for entry in quiet(letters))
    assert "".join(int(times) * names for times, names in told) == letters
