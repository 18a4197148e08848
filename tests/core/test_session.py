"""One connection: whatever happens to its bytes, messages arrive as they were sent or not at all."""

from __future__ import annotations

import mmap
import tracemalloc
from collections.abc import Callable
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    cut,
    cuts,
    edge_payloads,
    messages,
    one_of_size,
    pattern,
    plain,
    small_payloads,
)
from wire import (
    KEY,
    OTHER_KEY,
    connected,
    deliver,
    deliveries,
    new_agent,
    new_server,
    output,
    shake_hands,
)

from parasnake.core.ids import Attempt, NodeKey, TaskId
from parasnake.core.messages import (
    FROM_AGENT,
    FROM_SERVER,
    OWN_BUFFER,
    Heartbeat,
    Message,
    Quit,
    QuitKind,
    Ready,
    Result,
    Task,
    encode,
)
from parasnake.core.noise import HANDSHAKE_BYTES, TAG_BYTES, Handshake
from parasnake.core.records import (
    LENGTH_BYTES,
    MAX_CIPHERTEXT,
    MAX_PLAINTEXT,
    OVERHEAD,
    Sealer,
)
from parasnake.core.session import GATHER_BYTES, READ_BYTES, REFUSAL, Session, State
from parasnake.errors import (
    HandshakeError,
    MessageError,
    NotParasnakeError,
    ProtocolError,
    RecordError,
    RefusedError,
    WrongKeyError,
)

NODE = NodeKey(bytes(range(16)))
PROOF_BYTES = OVERHEAD


def task(size: int, task_id: int = 1) -> Task:
    return Task(NODE, TaskId(task_id), Attempt(0), one_of_size(size))


def all_plain(several: list[Message]) -> list[tuple[object, ...]]:
    return list(map(plain, several))


# ---- the handshake


def test_the_agent_speaks_first_and_the_server_believes_its_first_record() -> None:
    agent, server = new_agent(), new_server()
    assert not server.wants_to_send
    assert not agent.authenticated

    first = output(agent)
    assert len(first) == HANDSHAKE_BYTES
    deliver(server, first)
    assert not server.authenticated

    answer = output(server)
    assert len(answer) == HANDSHAKE_BYTES + PROOF_BYTES
    deliver(agent, answer)
    assert agent.authenticated

    proof = output(agent)
    assert len(proof) == PROOF_BYTES
    deliver(server, proof)
    assert server.authenticated


def test_messages_may_be_queued_before_the_handshake_is_over() -> None:
    agent, server = new_agent(), new_server()
    agent.send(Heartbeat())
    first = output(agent)
    assert len(first) == HANDSHAKE_BYTES
    deliver(server, first)
    deliver(agent, output(server))
    assert deliver(server, output(agent)) == [Heartbeat()]


def test_a_server_reads_no_more_than_handshake_and_proof_before_it_knows_its_peer() -> None:
    first, rest, _ = recorded_stream(from_agent=True)
    server = new_server()
    for taken, byte in enumerate((first + rest)[: HANDSHAKE_BYTES + PROOF_BYTES]):
        assert 0 < server.read_limit <= HANDSHAKE_BYTES + PROOF_BYTES - taken
        assert not server.authenticated
        assert server.receive(bytes([byte])) == []
    assert server.authenticated
    assert server.read_limit == READ_BYTES


def test_what_comes_with_the_handshake_is_not_lost() -> None:
    """The shell reads no further than ``read_limit``; a session does not depend on that."""
    first, rest, sent = recorded_stream(from_agent=True)
    assert all_plain(new_server().receive(first + rest)) == all_plain(sent)


# ---- the wrong key, and what is no Parasnake server


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_another_key_is_answered_by_one_plain_line(size: int) -> None:
    agent, server = new_agent(OTHER_KEY), new_server()
    with pytest.raises(HandshakeError, match="does not open with this key"):
        deliver(server, output(agent), repeat(size))
    assert server.state is State.BROKEN
    assert server.read_limit == 0
    assert output(server) == REFUSAL

    with pytest.raises(WrongKeyError, match="another secret key"):
        deliver(agent, REFUSAL, repeat(size))
    assert agent.state is State.BROKEN


def test_a_refusal_cut_short_by_the_end_says_the_same() -> None:
    agent = new_agent()
    deliver(agent, REFUSAL[:30])
    with pytest.raises(WrongKeyError):
        agent.receive_end()


STRANGERS = {
    "http": b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_8.7\r\n",
    "smtp": b"220 mail.example.org ESMTP Postfix\r\n",
    "random": bytes(7 * number % 256 for number in range(48)),
}


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("answer", STRANGERS.values(), ids=STRANGERS)
def test_an_answer_that_is_no_parasnake_servers(answer: bytes, size: int) -> None:
    agent = new_agent()
    with pytest.raises(NotParasnakeError):
        deliver(agent, answer, repeat(size))
    assert agent.state is State.BROKEN


@pytest.mark.parametrize(
    "answer",
    [b"\x15\x03\x01\x00\x02\x02\x50", b"parasites\n", b"\n", b"\xff\xfd\x18", bytes(47)],
    ids=["a TLS alert", "almost", "a line", "telnet", "zeros"],
)
def test_a_short_answer_is_judged_when_it_has_ended(answer: bytes) -> None:
    agent = new_agent()
    assert deliver(agent, answer) == []
    with pytest.raises(NotParasnakeError):
        agent.receive_end()


def test_an_end_without_an_answer_says_nothing() -> None:
    """A server that restarts, an ssh tunnel with nothing behind it: the agent tries again."""
    agent = new_agent()
    output(agent)
    agent.receive_end()


def test_an_end_after_the_handshake_says_nothing() -> None:
    agent, server = new_agent(), new_server()
    deliver(server, output(agent))
    deliver(agent, output(server)[: HANDSHAKE_BYTES + 3])
    agent.receive_end()
    server.receive_end()


def test_an_end_at_a_server_says_nothing() -> None:
    server = new_server()
    deliver(server, b"GET / HTTP/1.1\r\n\r\n")
    server.receive_end()


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_handshake_that_happens_to_look_like_text_is_no_stranger(size: int) -> None:
    """With the eight bytes that were once looked at, one true server in two thousand was refused."""
    server = new_server(ephemeral=(10554).to_bytes(32, "big"))
    agent = new_agent()
    deliver(server, output(agent))
    answer = output(server)
    assert answer.startswith(b"\nDqa\rYZk9%*p")
    deliver(agent, answer, repeat(size))
    assert agent.authenticated


# ---- replays and rogues


def test_a_first_message_sent_again_gets_an_answer_and_no_further() -> None:
    first, rest, _ = recorded_stream(from_agent=True)
    again = new_server(ephemeral=b"another one for each connection!")
    assert deliver(again, first) == []
    assert not again.authenticated
    assert len(output(again)) == HANDSHAKE_BYTES + PROOF_BYTES
    assert again.read_limit == PROOF_BYTES
    with pytest.raises(HandshakeError, match="does not open"):
        deliver(again, rest)
    assert again.state is State.BROKEN
    assert output(again) == b""


class KeyHolder:
    """A peer of a server's that holds the key and can break any other rule."""

    def __init__(self) -> None:
        self.server = new_server()
        handshake = Handshake(initiator=True, psk=KEY, ephemeral=b"K" * 32)
        deliver(self.server, handshake.write())
        handshake.read(output(self.server)[:HANDSHAKE_BYTES])
        self._sealer = Sealer(handshake.keys().send)

    def record(self, plaintext: bytes) -> bytes:
        record = bytearray(len(plaintext) + OVERHEAD)
        self._sealer.seal_into(plaintext, memoryview(record))
        return bytes(record)

    def prove(self) -> Session:
        deliver(self.server, self.record(b""))
        assert self.server.authenticated
        return self.server


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_the_first_record_must_be_empty(size: int) -> None:
    """So that nothing is taken in, not even for a short while, from who has not proven the key."""
    rogue = KeyHolder()
    with pytest.raises(HandshakeError, match="not empty"):
        deliver(rogue.server, rogue.record(b"something"), repeat(size))


@pytest.mark.parametrize("length", [0, TAG_BYTES + 1, MAX_CIPHERTEXT, 2**32 - 1])
def test_a_first_record_of_any_other_length_is_refused_by_its_length(length: int) -> None:
    rogue = KeyHolder()
    with pytest.raises(HandshakeError, match="not empty"):
        deliver(rogue.server, length.to_bytes(LENGTH_BYTES, "big"))


@pytest.mark.parametrize("length", [0, TAG_BYTES - 1, MAX_CIPHERTEXT + 1, 2**32 - 1])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_record_of_an_impossible_length_ends_the_connection(length: int, size: int) -> None:
    server = KeyHolder().prove()
    with pytest.raises(RecordError, match=f"claims {length} bytes"):
        deliver(server, length.to_bytes(LENGTH_BYTES, "big"), repeat(size))
    assert server.state is State.BROKEN


def test_empty_records_do_no_harm() -> None:
    rogue = KeyHolder()
    server = rogue.prove()
    message = Result(NODE, TaskId(1), Attempt(0), 1.0, one_of_size(2 * OWN_BUFFER))
    first, *rest = (bytes(piece) for piece in encode(message))
    records = [b"", first, b"", *rest, b"", b""]
    found = [message for text in records for message in deliver(server, rogue.record(text))]
    assert all_plain(found) == [plain(message)]


def test_what_is_no_message_ends_the_connection() -> None:
    rogue = KeyHolder()
    server = rogue.prove()
    with pytest.raises(MessageError):
        deliver(server, rogue.record(b"\xff" * 20))
    assert server.state is State.BROKEN
    assert server.receive(rogue.record(b"more")) == []


def test_what_is_no_message_ends_the_connection_also_in_a_long_record() -> None:
    rogue = KeyHolder()
    server = rogue.prove()
    with pytest.raises(MessageError):
        deliver(server, rogue.record(b"\xff" * MAX_PLAINTEXT))
    assert server.state is State.BROKEN


@pytest.mark.parametrize("message", [Quit(QuitKind.DONE, ""), task(0)], ids=["Quit", "Task"])
def test_an_agent_may_not_speak_as_a_server(message: Message) -> None:
    agent, server = connected()
    agent.send(message)
    with pytest.raises(MessageError, match="may not come from this side"):
        deliver(server, output(agent))


def test_a_server_may_not_speak_as_an_agent() -> None:
    agent, server = connected()
    server.send(Ready(NODE))
    with pytest.raises(MessageError, match="may not come from this side"):
        deliver(agent, output(server))


# ---- any cutting of the stream

large_payloads = st.sampled_from(
    [MAX_PLAINTEXT - 29, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 5 * MAX_PLAINTEXT // 2]
).map(one_of_size)
all_payloads = small_payloads | edge_payloads | large_payloads


@settings(max_examples=40)
@given(
    said=st.lists(messages(FROM_AGENT, all_payloads), max_size=6),
    answered=st.lists(messages(FROM_SERVER, all_payloads), max_size=6),
    written=cuts,
    read=cuts,
)
def test_any_cutting_gives_the_same_messages(
    said: list[Message], answered: list[Message], written: list[int], read: list[int]
) -> None:
    agent, server = new_agent(), new_server()
    for message in said:
        agent.send(message)
    shaken = deliver(server, output(agent, cut(written)), cut(read))
    deliver(agent, output(server, cut(written)), cut(read))
    heard = deliver(server, output(agent, cut(written)), cut(read))
    assert all_plain(shaken + heard) == all_plain(said)

    for message in answered:
        server.send(message)
    assert all_plain(deliver(agent, output(server, cut(written)), cut(read))) == all_plain(answered)
    assert agent.queued_bytes == server.queued_bytes == 0


@settings(max_examples=20)
@given(several=st.lists(messages(FROM_AGENT, small_payloads), min_size=1, max_size=4))
def test_byte_by_byte(several: list[Message]) -> None:
    agent, server = connected()
    for message in several:
        agent.send(message)
    assert all_plain(deliver(server, output(agent, repeat(1)), repeat(1))) == all_plain(several)


@pytest.mark.parametrize("size", [1, 1000, 70_000, 1 << 20])
def test_bytes_may_also_be_received_past_the_space_where_they_belong(size: int) -> None:
    first, rest, sent = recorded_stream(from_agent=True)
    stream, server = first + rest, new_server()
    found = []
    for start in range(0, len(stream), size):
        found += server.receive(stream[start : start + size])
    assert all_plain(found) == all_plain(sent)


# ---- any harm to the stream


def recorded_stream(*, from_agent: bool) -> tuple[bytes, bytes, list[Message]]:
    """Return what one side of a conversation sent: its handshake, the rest, and the messages in it."""
    agent, server = new_agent(), new_server()
    first = output(agent)
    deliver(server, first)
    answer = output(server)
    deliver(agent, answer)
    rest = output(agent) if from_agent else answer[HANDSHAKE_BYTES:]
    speaker = agent if from_agent else server
    sent: list[Message] = []
    for size in (0, 5, 300, OWN_BUFFER + 1000, 2, 70):
        message: Message = (
            Result(NODE, TaskId(size), Attempt(0), 1.0, one_of_size(size))
            if from_agent
            else task(size, task_id=size)
        )
        sent.append(message)
        speaker.send(message)
        rest += output(speaker)
    return (first if from_agent else answer[:HANDSHAKE_BYTES]), rest, sent


def listener(*, to_agent: bool) -> Session:
    """Return the session to which a recorded stream was sent, as it was before."""
    if not to_agent:
        return new_server()
    agent = new_agent()
    output(agent)
    return agent


Harm = Callable[[bytes, int, int], bytes]


def flip(stream: bytes, where: int, other: int) -> bytes:
    return stream[:where] + bytes([stream[where] ^ 1 << other % 8]) + stream[where + 1 :]


def lose(stream: bytes, where: int, _: int) -> bytes:
    return stream[:where] + stream[where + 1 :]


def lose_several(stream: bytes, where: int, other: int) -> bytes:
    first, last = sorted((where, other))
    return stream[:first] + stream[last:]


def repeat_byte(stream: bytes, where: int, _: int) -> bytes:
    return stream[: where + 1] + stream[where:]


def repeat_several(stream: bytes, where: int, other: int) -> bytes:
    first, last = sorted((where, other))
    return stream[:last] + stream[first:]


def swap(stream: bytes, where: int, other: int) -> bytes:
    first, last = sorted((where, other))
    if first == last:
        return stream
    a, b = stream[first : first + 1], stream[last : last + 1]
    return stream[:first] + b + stream[first + 1 : last] + a + stream[last + 1 :]


@pytest.mark.parametrize("from_agent", [True, False], ids=["from agent", "from server"])
@pytest.mark.parametrize(
    "harm",
    [flip, lose, lose_several, repeat_byte, repeat_several, swap],
    ids=lambda harm: harm.__name__,
)
@given(data=st.data())
def test_harm_to_the_stream_ends_the_connection(
    harm: Harm, from_agent: bool, data: st.DataObject
) -> None:
    first, rest, _ = recorded_stream(from_agent=from_agent)
    stream = first + rest
    # The handshake and the small records would hardly be hit in so many bytes.
    place = st.integers(0, 500) | st.integers(0, len(stream) - 1)
    harmed = harm(stream, data.draw(place), data.draw(place))
    if harmed == stream:
        return
    session = listener(to_agent=not from_agent)
    arrived: list[Message] = []
    endless = harmed + bytes(MAX_CIPHERTEXT + OVERHEAD)  # a listener may wait for more
    with pytest.raises((ProtocolError, RefusedError)):
        arrived.extend(deliveries(session, endless, cut(data.draw(cuts))))
    assert session.state is State.BROKEN

    pairs = enumerate(zip(stream, harmed, strict=False))
    untouched = next((at for at, (was, now) in pairs if was != now), len(harmed))
    expected = deliver(listener(to_agent=not from_agent), stream[:untouched])
    assert all_plain(arrived) == all_plain(expected)[: len(arrived)]


@pytest.mark.parametrize("from_agent", [True, False], ids=["from agent", "from server"])
def test_no_byte_before_the_first_message_can_be_changed(from_agent: bool) -> None:
    first, rest, _ = recorded_stream(from_agent=from_agent)
    stream = first + rest
    for position in range(HANDSHAKE_BYTES + PROOF_BYTES):
        session = listener(to_agent=not from_agent)
        with pytest.raises((HandshakeError, RefusedError)):
            deliver(session, flip(stream, position, 0))
        assert not session.authenticated


@pytest.mark.parametrize("from_agent", [True, False], ids=["from agent", "from server"])
@given(data=st.data())
def test_a_stream_that_ends_early_gives_a_prefix(from_agent: bool, data: st.DataObject) -> None:
    first, rest, sent = recorded_stream(from_agent=from_agent)
    stream = first + rest
    end = data.draw(st.integers(0, 500) | st.integers(0, len(stream)))
    found = deliver(listener(to_agent=not from_agent), stream[:end])
    assert all_plain(found) == all_plain(sent)[: len(found)]
    assert len(found) == len(sent) or end < len(stream)


# ---- sending


def test_the_same_bytes_are_offered_until_they_are_sent() -> None:
    agent, server = connected()
    agent.send(Heartbeat())
    once, again = bytes(agent.data_to_send()), bytes(agent.data_to_send())
    assert once == again
    agent.sent(5)
    assert bytes(agent.data_to_send()) == once[5:]
    agent.sent(len(once) - 5)
    assert not agent.wants_to_send
    assert deliver(server, once) == [Heartbeat()]


def test_small_messages_share_a_record() -> None:
    agent, server = connected()
    for _ in range(100):
        agent.send(Heartbeat())
    record = bytes(agent.data_to_send())
    agent.sent(len(record))
    assert not agent.wants_to_send
    assert len(record) == 100 * len(encode(Heartbeat())[0]) + OVERHEAD
    assert len(deliver(server, record)) == 100


def test_a_shared_record_has_a_limit() -> None:
    agent, server = connected()
    sent = [Result(NODE, TaskId(n), Attempt(0), 0.0, (pattern(50_000),)) for n in range(20)]
    for message in sent:
        agent.send(message)
    found: list[Message] = []
    while agent.wants_to_send:
        data = bytes(agent.data_to_send())
        assert all(len(record) <= GATHER_BYTES + OVERHEAD for record in records_of(data))
        agent.sent(len(data))
        found += deliver(server, data)
    assert all_plain(found) == all_plain(list(sent))


def records_of(data: bytes) -> list[bytes]:
    """Cut what was to be sent where its records end."""
    records: list[bytes] = []
    while data:
        length = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
        records.append(data[:length])
        data = data[length:]
    return records


def test_a_long_payload_goes_out_together_with_what_is_around_it() -> None:
    agent, server = connected()
    sent: list[Message] = [
        Heartbeat(),
        Result(NODE, TaskId(1), Attempt(0), 0.0, (pattern(MAX_PLAINTEXT),)),
        Heartbeat(),
        Result(NODE, TaskId(2), Attempt(0), 0.0, (pattern(3 * MAX_PLAINTEXT),)),
    ]
    for message in sent:
        agent.send(message)
    found: list[Message] = []
    lengths: list[list[int]] = []
    while agent.wants_to_send:
        data = bytes(agent.data_to_send())
        lengths.append([len(record) - OVERHEAD for record in records_of(data)])
        agent.sent(len(data))
        found += deliver(server, data)
    first, *rest = lengths
    assert len(first) == 3
    assert first[1] == MAX_PLAINTEXT
    assert first[0] + first[2] < GATHER_BYTES
    assert rest == [[MAX_PLAINTEXT]] * 3
    assert all_plain(found) == all_plain(list(sent))


def test_what_was_sent_holds_no_memory() -> None:
    agent, _ = connected()
    agent.send(Result(NODE, TaskId(1), Attempt(0), 0.0, (pattern(MAX_PLAINTEXT),)))
    data = agent.data_to_send()
    piece = data.obj
    assert isinstance(piece, bytearray)
    agent.sent(len(data))
    del data
    piece.append(0)  # a BufferError if anybody could still look into it


@given(st.lists(messages(FROM_SERVER), max_size=5), cuts)
def test_queued_bytes_are_those_not_yet_encrypted(several: list[Message], sizes: list[int]) -> None:
    _, server = connected()
    total = 0
    for message in several:
        server.send(message)
        total += sum(map(len, encode(message)))
        assert server.queued_bytes == total
    output(server, cut(sizes))
    assert server.queued_bytes == 0


@given(
    several=st.lists(messages(FROM_SERVER, all_payloads), max_size=5),
    steps=st.integers(0, 10),
    count=st.integers(1, 1 << 20),
)
def test_what_has_not_been_begun_can_be_dropped_at_any_time(
    several: list[Message], steps: int, count: int
) -> None:
    """So that an agent hears Quit at once, behind half a gigabyte of data for it."""
    agent, server = connected()
    for message in several:
        server.send(message)
    total = server.queued_bytes
    gone = bytearray()
    for _ in range(steps):
        data = server.data_to_send()[:count]
        gone += data
        server.sent(len(data))

    encrypted = total - server.queued_bytes
    begun, start = 0, 0
    for message in several:
        begun += start < encrypted
        start += sum(map(len, encode(message)))
    server.drop_unsent()
    server.send(Quit(QuitKind.DONE, ""))
    gone += output(server)

    assert all_plain(deliver(agent, bytes(gone))) == [
        *all_plain(several[:begun]),
        plain(Quit(QuitKind.DONE, "")),
    ]
    assert server.queued_bytes == 0


# ---- memory


def test_a_large_payload_is_copied_nowhere() -> None:
    """Sealed from where it lies, opened to where it stays: in between are a few records."""
    agent, server = connected()
    size = 64 * MAX_PLAINTEXT
    payload = bytearray(size)
    payload[-3:] = b"end"
    found: list[Message] = []
    tracemalloc.start()
    try:
        server.send(Task(NODE, TaskId(1), Attempt(0), (payload,)))
        while server.wants_to_send:
            record = server.data_to_send()
            found += agent_reads(agent, record)
            server.sent(len(record))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * MAX_PLAINTEXT
    (message,) = found
    assert isinstance(message, Task)
    (received,) = message.payload
    assert isinstance(received, memoryview)
    assert isinstance(received.obj, mmap.mmap)  # which tracemalloc does not see
    assert received == payload


def agent_reads(agent: Session, record: memoryview) -> list[Message]:
    """As a socket does: what it has beyond the start of a record, straight into ``space``."""
    found = agent.receive(record[:100])
    if agent.space is not None:
        agent.space[:] = record[100:]
        found += agent.filled(len(record) - 100)
    return found


def test_both_ends_shake_hands_only_once_for_any_number_of_messages() -> None:
    agent, server = new_agent(), new_server()
    shake_hands(agent, server)
    for _ in range(3):
        agent.send(Heartbeat())
        server.send(task(10))
        assert deliver(server, output(agent)) == [Heartbeat()]
        assert all_plain(deliver(agent, output(server))) == [plain(task(10))]
