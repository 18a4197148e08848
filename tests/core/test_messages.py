"""Messages and their bytes: every kind comes back as it was, and nothing else does."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterator
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cut, cuts, messages, of_kind, pattern, payloads, plain

from parasnake.core import messages as core_messages
from parasnake.core.ids import Attempt, NodeId, NodeKey, TaskId
from parasnake.core.memory import Memory
from parasnake.core.messages import (
    FROM_AGENT,
    FROM_SERVER,
    FROM_WORKER,
    HEADER,
    LAYOUTS,
    MAX_TEXT,
    OWN_BUFFER,
    PROTOCOL_VERSION,
    SMALL_PAYLOAD,
    TO_WORKER,
    AnswerReader,
    Dropped,
    Failure,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    MessageReader,
    NodeGone,
    Quit,
    Ready,
    Result,
    Results,
    Task,
    Tasks,
    Welcome,
    encode,
)
from parasnake.errors import MessageError

ALL = frozenset(LAYOUTS)
NODE = NodeKey(bytes(range(16)))


def to_bytes(*several: Message) -> bytes:
    return b"".join(piece for message in several for piece in encode(message))


def read(
    data: bytes, allowed: frozenset[type[Message]] = ALL, sizes: Iterator[int] | None = None
) -> list[Message]:
    """Return the messages in a byte stream that comes in pieces of these sizes."""
    reader, found = MessageReader(allowed), []
    view = memoryview(data)
    while view:
        count = next(sizes) if sizes else len(view)
        found += reader.feed(view[:count])
        view = view[count:]
    return found


def raw(kind: type[Message], body: bytes, length: int | None = None) -> bytes:
    """Return a message with a body, and perhaps a length, that need not be right."""
    return HEADER.pack(LAYOUTS[kind].kind, len(body) if length is None else length) + body


# ---- there and back


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_kind_comes_back_as_it_was(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(of_kind(kind, payloads))
    (found,) = read(to_bytes(message))
    assert plain(found) == plain(message)


@given(several=st.lists(messages(ALL), max_size=6), sizes=cuts)
def test_any_cutting_gives_the_same_messages(several: list[Message], sizes: list[int]) -> None:
    found = read(to_bytes(*several), sizes=cut(sizes))
    assert list(map(plain, found)) == list(map(plain, several))


@given(several=st.lists(messages(ALL, st.just((b"some", b"data"))), min_size=1, max_size=4))
def test_byte_by_byte(several: list[Message]) -> None:
    found = read(to_bytes(*several), sizes=repeat(1))
    assert list(map(plain, found)) == list(map(plain, several))


def test_kinds_have_numbers_of_their_own() -> None:
    assert len({layout.kind for layout in LAYOUTS.values()}) == len(LAYOUTS)


def test_a_payload_arrives_as_one_piece_or_none() -> None:
    several = [task_of(size) for size in (0, 1, OWN_BUFFER, OWN_BUFFER + 1)]
    found = read(to_bytes(*several))
    pieces = [len(message.payload) for message in found if isinstance(message, Task)]
    assert pieces == [0, 1, 1, 1]


def task_of(size: int) -> Task:
    return Task(NODE, TaskId(1), Attempt(0), (pattern(size),))


def test_what_a_script_prints_need_not_be_valid_unicode() -> None:
    """Such texts come from file names and from undecodable output."""
    (found,) = read(to_bytes(NodeGone(NODE, True, True, "caf\udce9", "")))
    assert found == NodeGone(NODE, True, True, "caf\\udce9", "")


LONG_TEXT = "the beginning" + "é" * (3 * MAX_TEXT) + "the end"


@pytest.mark.parametrize(
    "message",
    [
        NodeGone(NODE, False, False, LONG_TEXT, LONG_TEXT),
        Failure(NODE, TaskId(1), Attempt(0), 1.0, 0, LONG_TEXT, LONG_TEXT, LONG_TEXT),
        Goodbye(LONG_TEXT, LONG_TEXT),
        Hello(PROTOCOL_VERSION, 1, *[LONG_TEXT] * 6),
    ],
    ids=lambda message: type(message).__name__,
)
def test_of_a_very_long_text_the_middle_is_left_out(message: Message) -> None:
    """An exception may carry a whole array in its text; its node must not be dropped for that."""
    (found,) = read(to_bytes(message))
    for field in tuple(found):
        if isinstance(field, str):
            assert field.startswith("the beginning")
            assert field.endswith("the end")
            assert "bytes left out" in field


# ---- long payloads


def test_long_payloads_are_not_copied_to_be_sent() -> None:
    parts = (bytearray(OWN_BUFFER), memoryview(bytes(OWN_BUFFER)))
    head, *pieces = encode(Task(NODE, TaskId(1), Attempt(0), parts))
    assert pieces[0] is parts[0]
    assert pieces[1] is parts[1]
    assert len(head) < 100


def test_a_long_payload_is_received_straight_into_its_own_memory() -> None:
    message = task_of(3 * OWN_BUFFER)
    head, payload = (bytes(piece) for piece in encode(message))
    reader = MessageReader(TO_WORKER)
    assert reader.target is None
    assert reader.feed(head[:5]) == []
    assert reader.unfinished
    assert reader.feed(head[5:] + payload[:10]) == []
    assert reader.unfinished

    target = reader.target
    assert target is not None
    assert len(target) == len(payload) - 10
    target[:5] = payload[10:15]
    assert reader.filled(5) == []
    rest = reader.target
    assert rest is not None
    rest[:] = payload[15:]
    (found,) = reader.filled(len(rest))
    assert plain(found) == plain(message)
    assert found[-1][0].obj is target.obj
    assert reader.target is None
    assert not reader.unfinished


def test_a_long_message_may_begin_byte_by_byte() -> None:
    message = task_of(OWN_BUFFER + 1)
    data = to_bytes(message)
    sizes = itertools.chain(repeat(1, 100), repeat(len(data)))
    assert list(map(plain, read(data, sizes=sizes))) == [plain(message)]


def test_a_long_payload_costs_no_memory_before_it_comes() -> None:
    """Ten times a gigabyte is claimed here, and a few bytes are sent."""
    readers = [MessageReader(TO_WORKER) for _ in range(10)]
    for reader in readers:
        reader.feed(raw(Task, bytes(28), length=28 + (1 << 30)))
        assert reader.target is not None
        assert len(reader.target) == 1 << 30


@pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1])
def test_a_length_that_no_memory_has(length: int) -> None:
    with pytest.raises(MessageError, match="no memory for it"):
        MessageReader(TO_WORKER).feed(raw(Task, bytes(28), length=length))


def test_more_than_there_is_memory_for_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> memoryview:
        raise MemoryError(size)

    monkeypatch.setattr(core_messages, "allocate", refuse)
    reader = MessageReader(TO_WORKER)
    assert reader.feed(raw(Task, bytes(28), length=28 + (1 << 30))) == []
    with pytest.raises(MessageError, match="no memory for it"):
        reader.feed(b"more")


def test_a_long_payload_may_take_the_memory_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its start comes together with the end of the other, which is dealt with before more is read."""
    monkeypatch.setattr(core_messages, "allocate", Memory().allocate)
    size = 10 * OWN_BUFFER
    reader = MessageReader(TO_WORKER)
    reader.feed(raw(Task, bytes(28) + bytes(10), length=28 + size))
    assert reader.in_payload
    target = reader.target
    assert target is not None
    place = id(target.obj)
    [task] = reader.feed(bytes(size - 10) + raw(Task, bytes(28) + b"start", length=28 + size))
    del target, task
    assert reader.target is not None
    assert id(reader.target.obj) == place
    [task] = reader.feed(bytes(size - 5))
    assert bytes(task.payload[0]) == b"start" + bytes(size - 5)
    assert not reader.in_payload


WELCOME_FIELDS = LAYOUTS[Welcome].struct.size


def test_the_texts_before_a_long_payload_may_fill_what_is_looked_at() -> None:
    texts = struct.pack(">I", 1 << 14) * 2
    body = bytes(WELCOME_FIELDS) + texts[:4] + b"p" * (1 << 14) + texts[4:] + b"d" * (1 << 14)
    payload = pattern(2 * OWN_BUFFER)
    (found,) = read(raw(Welcome, body + payload), sizes=cut([1000]))
    assert isinstance(found, Welcome)
    assert found.server_python == "p" * (1 << 14)
    assert found.digest == "d" * (1 << 14)
    assert b"".join(found.payload) == payload


def test_texts_that_claim_the_room_of_the_payload() -> None:
    body = bytes(WELCOME_FIELDS) + struct.pack(">I", OWN_BUFFER) + bytes(2 * OWN_BUFFER)
    with pytest.raises(MessageError, match="ends inside its texts"):
        read(raw(Welcome, body))


# ---- runs


@pytest.mark.parametrize(
    ("kind", "fields"), [(Tasks, ">QII"), (Results, ">QIdI")], ids=["Tasks", "Results"]
)
def test_a_run_that_lies_about_itself(kind: type[Message], fields: str) -> None:
    """About how many items it has, or how long their payloads are."""
    numbers = [1, 0, 0.5][: len(fields) - 2]
    item = struct.pack(fields, *numbers, 4) + b"data"
    (found,) = read(raw(kind, NODE + struct.pack(">I", 1) + item))
    assert tuple(found) == (NODE, [(*numbers, (b"data",))])
    for count in (0, 2, 1 << 20, (1 << 32) - 1):
        with pytest.raises(MessageError, match=r"ends inside its run|as long as it says"):
            read(raw(kind, NODE + struct.pack(">I", count) + item))
    for length in (0, 3, 5, (1 << 32) - 1):
        lying = struct.pack(fields, *numbers, length) + b"data"
        with pytest.raises(MessageError, match="as long as it says"):
            read(raw(kind, NODE + struct.pack(">I", 1) + lying))


@pytest.mark.parametrize("kind", [Tasks, Results], ids=lambda kind: kind.__name__)
def test_a_run_may_be_empty(kind: type[Message]) -> None:
    (found,) = read(raw(kind, NODE + struct.pack(">I", 0)))
    assert tuple(found) == (NODE, [])


def test_an_empty_payload_in_a_run_has_a_piece_all_the_same() -> None:
    """So that who reads it may look at the first piece."""
    several: list[Message] = [
        Tasks(NODE, [(TaskId(1), Attempt(0), (b"",)), (TaskId(2), Attempt(0), (b"data",))]),
        Results(NODE, [(TaskId(1), Attempt(0), 0.5, (b"",))]),
    ]
    assert read(to_bytes(*several)) == several


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_one_time_in_a_run_that_cannot_be(seconds: float) -> None:
    times = [0.5, seconds, 0.5]
    run = [(TaskId(task), Attempt(0), time, (b"4",)) for task, time in enumerate(times)]
    with pytest.raises(MessageError, match="time that cannot be"):
        read(to_bytes(Results(NODE, run)))


# ---- the answers of a worker


def one_by_one(several: list[Message]) -> list[object]:
    """Take runs of results apart."""
    apart: list[object] = []
    for message in several:
        if isinstance(message, Results):
            apart += [plain(Result(message.node, *answer)) for answer in message.run]
        else:
            apart.append(plain(message))
    return apart


def read_answers(data: bytes, sizes: Iterator[int]) -> list[Message]:
    reader, found = AnswerReader(), []
    view = memoryview(data)
    while view:
        count = next(sizes)
        found += reader.feed(view[:count])
        view = view[count:]
    return found


@given(several=st.lists(messages(FROM_WORKER), max_size=8), sizes=cuts)
def test_answers_are_the_same_in_runs(several: list[Message], sizes: list[int]) -> None:
    found = read_answers(to_bytes(*several), cut(sizes))
    assert one_by_one(found) == list(map(plain, several))


def test_small_results_that_come_together_are_one_message() -> None:
    results = [result_of(number, 10) for number in range(100)]
    large = result_of(100, SMALL_PAYLOAD + 1)
    dropped = Dropped(NODE, TaskId(101), Attempt(0))
    several: list[Message] = [*results, large, dropped, *results]
    found = read_answers(to_bytes(*several), repeat(1 << 20))
    assert list(map(type, found)) == [Results, Result, Dropped, *[Result] * 100]
    assert one_by_one(found) == list(map(plain, several))


def test_a_single_one_stays_as_it_is() -> None:
    """It is quicker to write and to read, and somebody may wait for it."""
    [found] = read_answers(to_bytes(result_of(1, 10)), repeat(1 << 20))
    assert found == result_of(1, 10)


def test_but_no_more_of_them_than_fit_into_a_message() -> None:
    results = [result_of(number, SMALL_PAYLOAD) for number in range(1000)]
    found = read_answers(to_bytes(*results), repeat(1 << 30))
    assert one_by_one(found) == list(map(plain, results))
    assert len(found) > 100
    assert max(len(to_bytes(message)) for message in found) < MAX_TEXT


def test_a_worker_cannot_tell_impossible_times() -> None:
    with pytest.raises(MessageError, match="time that cannot be"):
        read_answers(to_bytes(result_of(1, 1)._replace(seconds=-1.0)), repeat(100))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_nor_after_some_that_are_possible(seconds: float, before: int) -> None:
    several = [result_of(number, 1) for number in range(before)]
    several.append(result_of(before, 1)._replace(seconds=seconds))
    with pytest.raises(MessageError, match="time that cannot be"):
        read_answers(to_bytes(*several), repeat(1000))


def test_a_worker_does_not_write_runs_itself() -> None:
    with pytest.raises(MessageError, match="may not come from this side"):
        read_answers(to_bytes(Results(NODE, [])), repeat(1000))


def test_a_result_without_a_payload_is_in_no_run() -> None:
    """The farm shall see it as it is."""
    several: list[Message] = [result_of(number, number != 2) for number in range(4)]
    found = read_answers(to_bytes(*several), repeat(1000))
    assert [list(map(type, found)), one_by_one(found)] == [
        [Results, Result, Result],
        list(map(plain, several)),
    ]


def test_small_results_before_and_after_a_very_large_one() -> None:
    """Most of that is read straight into its own memory."""
    several: list[Message] = [result_of(1, 5), result_of(2, 3 * OWN_BUFFER), result_of(3, 5)]
    data = to_bytes(*several)
    reader = AnswerReader()
    found = reader.feed(data[:OWN_BUFFER])
    assert list(map(type, found)) == [Result]
    target = reader.target
    assert target is not None
    rest = data[OWN_BUFFER:]
    target[:] = rest[: len(target)]
    found += reader.filled(len(target))
    found += reader.feed(rest[len(target) :])
    assert one_by_one(found) == list(map(plain, several))
    assert list(map(type, found)) == [Result, Result, Result]


@pytest.mark.parametrize("at_a_time", [7, 1000, 10**6])
def test_long_payloads_may_come_another_way_than_all_else(at_a_time: int) -> None:
    """As from a worker that was faster than its reader: what follows is there before the payload."""
    several: list[Message] = [
        *(result_of(1, 5), result_of(2, 3 * OWN_BUFFER), result_of(3, OWN_BUFFER + 1)),
        *(
            result_of(4, OWN_BUFFER // 2),
            Ready(NODE),
            result_of(5, 2 * OWN_BUFFER),
            result_of(6, 1),
        ),
    ]
    stream, aside = b"", b""
    for message in several:
        head, *payload = encode(message)
        stream += head
        aside += b"".join(payload)
    reader = AnswerReader(apart=True)
    found: list[Message] = []
    while len(found) < len(several):
        if reader.target is None:
            found += reader.feed(stream[:at_a_time])
            stream = stream[at_a_time:]
        else:
            count = min(len(reader.target), at_a_time)
            reader.target[:count] = aside[:count]
            found += reader.filled(count)
            aside = aside[count:]
    assert one_by_one(found) == list(map(plain, several))
    assert not (stream or aside or reader.unfinished)


small_results = st.builds(
    Result,
    st.sampled_from([NODE, NodeKey(bytes(16))]),
    st.integers(0, 9).map(TaskId),
    st.integers(0, 9).map(Attempt),
    st.floats(0, 9),
    st.sampled_from([0, 1, 7, SMALL_PAYLOAD, SMALL_PAYLOAD + 1]).map(lambda size: (pattern(size),)),
)


@given(
    several=st.lists(small_results | messages(FROM_WORKER), max_size=40),
    sizes=st.lists(st.integers(1, 300), max_size=6),
)
def test_answers_are_the_same_in_runs_wherever_they_are_cut(
    several: list[Message], sizes: list[int]
) -> None:
    found = read_answers(to_bytes(*several), cut([*sizes, 1 << 14]))
    assert one_by_one(found) == list(map(plain, several))
    for message in found:
        if isinstance(message, Results):
            assert all(0 < len(payload) <= SMALL_PAYLOAD for *_, (payload,) in message.run)


def test_results_of_two_nodes_are_never_one_message() -> None:
    several: list[Message] = [result_of(1, 1), result_of(2, 1)._replace(node=NodeKey(bytes(16)))]
    found = read_answers(to_bytes(*several), repeat(1000))
    assert one_by_one(found) == list(map(plain, several))


def result_of(number: int, size: int) -> Result:
    return Result(NODE, TaskId(number), Attempt(0), 0.5, (pattern(size),))


# ---- what is no message


def test_unknown_kinds() -> None:
    for code in set(range(256)) - {layout.kind for layout in LAYOUTS.values()}:
        with pytest.raises(MessageError, match=f"kind {code} may not come"):
            read(HEADER.pack(code, 0))


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_kinds_from_the_wrong_side(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(of_kind(kind, payloads))
    for side in (FROM_AGENT, FROM_SERVER, FROM_WORKER, TO_WORKER):
        if kind in side:
            assert list(map(plain, read(to_bytes(message), side))) == [plain(message)]
        else:
            with pytest.raises(MessageError, match="may not come from this side"):
                read(to_bytes(message), side)


def test_a_forbidden_kind_is_refused_by_its_header_alone() -> None:
    with pytest.raises(MessageError):
        read(to_bytes(task_of(1 << 20))[: HEADER.size], FROM_AGENT)


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_bodies_that_are_too_short(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(of_kind(kind, st.just(())))
    body = to_bytes(message)[HEADER.size :]
    if body:
        length = data.draw(st.integers(0, len(body) - 1))
        with pytest.raises(
            MessageError, match=r"too short|ends inside its (texts|run)|not as long as it says"
        ):
            read(raw(kind, body[:length]))


@pytest.mark.parametrize(
    "kind",
    [kind for kind, layout in LAYOUTS.items() if not layout.payload],
    ids=lambda kind: kind.__name__,
)
@given(data=st.data())
def test_bodies_that_are_too_long(kind: type[Message], data: st.DataObject) -> None:
    body = to_bytes(data.draw(of_kind(kind, payloads)))[HEADER.size :]
    with pytest.raises(MessageError, match=r"too long|not as long as it says"):
        read(raw(kind, body + b"\0"))


@pytest.mark.parametrize("claimed", [3, 2**31, 2**32 - 1])
def test_texts_that_lie_about_their_length(claimed: int) -> None:
    with pytest.raises(MessageError, match="ends inside its texts"):
        read(raw(NodeGone, NODE + b"\1\1" + struct.pack(">I", claimed) + b"no"))


def test_texts_that_are_shorter_than_they_could_be() -> None:
    with pytest.raises(MessageError, match="too long"):
        read(raw(NodeGone, NODE + b"\1\1" + struct.pack(">I", 1) + b"n" + bytes(4) + b"o"))


def test_texts_that_are_no_utf_8_are_shown_as_well_as_can_be() -> None:
    (found,) = read(raw(NodeGone, NODE + b"\1\1" + struct.pack(">I", 4) + b"ok \xff" + bytes(4)))
    assert found == NodeGone(NODE, True, True, "ok \N{REPLACEMENT CHARACTER}", "")


@pytest.mark.parametrize(
    "kind", [NodeGone, Heartbeat, Quit, Tasks, Results, Dropped], ids=lambda kind: kind.__name__
)
def test_a_huge_length_of_a_kind_without_payload_is_refused_by_its_header(
    kind: type[Message],
) -> None:
    with pytest.raises(MessageError, match=f"claims {MAX_TEXT + 1} bytes"):
        read(raw(kind, b"", length=MAX_TEXT + 1))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_times_that_cannot_be(seconds: float) -> None:
    """The server computes with them."""
    for message in (
        Result(NODE, TaskId(1), Attempt(0), seconds, ()),
        Result(NODE, TaskId(1), Attempt(0), seconds, (bytes(2 * OWN_BUFFER),)),
        Failure(NODE, TaskId(1), Attempt(0), seconds, 0, "", "", ""),
        Results(NODE, [(TaskId(1), Attempt(0), seconds, (b"4",))]),
    ):
        with pytest.raises(MessageError, match="time that cannot be"):
            read(to_bytes(message))


@given(st.binary(max_size=200))
def test_random_bytes_give_messages_or_the_one_error(data: bytes) -> None:
    with contextlib.suppress(MessageError):
        read(data)


# ---- Hello


@given(
    protocol=st.integers(0, 2**16 - 1).filter(lambda number: number != PROTOCOL_VERSION),
    pid=st.integers(0, 2**32 - 1),
    library=st.text(max_size=20),
    rest=st.binary(max_size=100),
)
def test_a_hello_of_another_protocol_keeps_its_frozen_fields_whatever_follows(
    protocol: int, pid: int, library: str, rest: bytes
) -> None:
    name = library.encode()
    body = struct.pack(">HII", protocol, pid, len(name)) + name + rest
    (found,) = read(raw(Hello, body))
    assert found == Hello(protocol, pid, library, "", "", "", "")


def test_the_bytes_of_a_hello_begin_like_this_for_ever() -> None:
    hello = Hello(PROTOCOL_VERSION, 0x01020304, "0.2.0", "3.11.7", "squares", "", "host")
    start = b"\x01" + (52).to_bytes(8, "big") + b"\x00\x01" + b"\x01\x02\x03\x04"
    assert to_bytes(hello).startswith(start + b"\x00\x00\x00\x050.2.0")


def test_a_hello_of_this_protocol_must_be_whole() -> None:
    with pytest.raises(MessageError):
        read(raw(Hello, struct.pack(">HII", PROTOCOL_VERSION, 1, 0)))


# ---- names


def test_a_node_id_is_a_random_uuid_that_says_what_it_is() -> None:
    node_id = NodeId.from_random(b"0123456789abcdef")
    assert node_id.version == 4
    assert repr(node_id) == f"NodeId({node_id})"
    (found,) = read(to_bytes(Ready(NodeKey(node_id.bytes))))
    assert isinstance(found, Ready)
    assert NodeId(bytes=found.node) == node_id


def test_the_messages_of_a_connection_and_of_a_worker_cover_all_kinds() -> None:
    assert FROM_AGENT | FROM_SERVER | FROM_WORKER == ALL
    assert TO_WORKER < FROM_SERVER
    assert not FROM_AGENT & FROM_SERVER
