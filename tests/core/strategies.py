"""What Hypothesis draws messages and the cuts of a byte stream from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from parasnake.core.ids import Attempt, JobId, NodeKey, TaskId
from parasnake.core.messages import (
    LAYOUTS,
    OWN_BUFFER,
    PROTOCOL_VERSION,
    AskInit,
    Cancel,
    Dropped,
    Failure,
    Goodbye,
    Heartbeat,
    Held,
    Hello,
    Init,
    Message,
    NodeBroken,
    NodeGone,
    Pace,
    Parts,
    Quit,
    Ready,
    Refused,
    Result,
    Results,
    Taken,
    Task,
    Tasks,
    Want,
    Welcome,
)


def pattern(size: int) -> bytes:
    """Return so many bytes of which no two neighbouring blocks are alike."""
    counters = (number.to_bytes(4, "big") for number in range(size // 4 + 1))
    return b"".join(counters)[:size]


def one_of_size(size: int) -> Parts:
    return (pattern(size),)


def near(*limits: int) -> list[int]:
    """Return sizes around these limits."""
    return [limit + difference for limit in limits for difference in (-41, -1, 0, 1, 41)]


nodes = st.binary(min_size=16, max_size=16).map(NodeKey)
jobs = st.binary(min_size=16, max_size=16).map(JobId)
tasks = st.integers(0, 2**64 - 1).map(TaskId)
attempts = st.integers(0, 2**32 - 1).map(Attempt)
seconds = st.floats(0, allow_nan=False, allow_infinity=False)
texts = st.text(max_size=30)
codes = st.integers(0, 255)
small_payloads: st.SearchStrategy[Parts] = st.lists(st.binary(max_size=50), max_size=3).map(tuple)
edge_payloads: st.SearchStrategy[Parts] = st.one_of(
    st.sampled_from(near(OWN_BUFFER)).map(one_of_size),
    st.just((pattern(40_000), pattern(70_000), b"", b"end")),
)
payloads = small_payloads | edge_payloads
one_piece = st.binary(min_size=1, max_size=50).map(lambda data: (data,))


def of_kind(kind: type[Message], payload: st.SearchStrategy[Parts]) -> st.SearchStrategy[Message]:
    """Return a strategy for one kind of message with such payloads."""
    fields: dict[type[Message], list[st.SearchStrategy[Any]]] = {
        Hello: [st.just(PROTOCOL_VERSION), st.integers(0, 2**32 - 1), *[texts] * 6],
        Held: [nodes, tasks, attempts, jobs, st.booleans()],
        AskInit: [nodes],
        Ready: [nodes],
        Result: [nodes, tasks, attempts, seconds, payload],
        Failure: [nodes, tasks, attempts, seconds, codes, texts, texts, texts],
        NodeGone: [nodes, st.booleans(), st.booleans(), texts, texts],
        NodeBroken: [nodes, texts, texts],
        Heartbeat: [],
        Goodbye: [texts, texts],
        Welcome: [jobs, seconds, st.booleans(), jobs, seconds, texts, texts, payload],
        Refused: [codes, texts],
        Init: [nodes, jobs, payload],
        Task: [nodes, tasks, attempts, payload],
        Cancel: [nodes, tasks, attempts],
        Dropped: [nodes, tasks, attempts],
        Tasks: [nodes, st.lists(st.tuples(tasks, attempts, one_piece), max_size=5)],
        Results: [nodes, st.lists(st.tuples(tasks, attempts, seconds, one_piece), max_size=5)],
        Want: [nodes, tasks, attempts],
        Taken: [tasks],
        Pace: [seconds],
        Quit: [codes, texts],
    }
    return st.builds(kind, *fields[kind])


def messages(
    kinds: frozenset[type[Message]], payload: st.SearchStrategy[Parts] = payloads
) -> st.SearchStrategy[Message]:
    """Return a strategy for any message of these kinds."""
    in_order = sorted(kinds, key=lambda kind: LAYOUTS[kind].kind)
    return st.one_of([of_kind(kind, payload) for kind in in_order])


def plain(message: Message) -> tuple[object, ...]:
    """Return a message so that two compare equal when they say the same, however it is cut."""
    fields: tuple[Any, ...] = tuple(message)
    if LAYOUTS[type(message)].payload:
        fields = (*fields[:-1], b"".join(fields[-1]))
    return (type(message), *fields)


def cut(sizes: list[int]) -> Iterator[int]:
    """Return these sizes of pieces over and over."""
    return itertools.cycle(sizes)


cuts = st.lists(st.integers(1, 100) | st.integers(1, 1 << 17), max_size=6).map(
    lambda sizes: [*sizes, 1 << 14]  # now and then a larger one, or a megabyte takes minutes
)
