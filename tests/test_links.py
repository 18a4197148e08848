"""Links: messages through real sockets, in both directions, to their very end."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from parasnake import compression, payload
from parasnake.core.ids import Attempt, NodeKey, TaskId
from parasnake.core.linkspeed import FAST
from parasnake.core.messages import (
    OWN_BUFFER,
    Failure,
    Goodbye,
    Heartbeat,
    Init,
    Message,
    Pace,
    Quit,
    QuitKind,
    Ready,
    Result,
    Results,
    Task,
    encode,
)
from parasnake.core.session import Session
from parasnake.errors import HandshakeError, MessageError, RecordError, WrongKeyError
from parasnake.hooks import Hook
from parasnake.links import LINGER_SECONDS, SEND_BYTES, Channel, Connection, Link
from parasnake.loop import READ, Loop
from parasnake.worker import NodeHooks, Worker, WorkerEnd

KEY = b"k" * 32
NODE = NodeKey(b"n" * 16)
KERNEL_BYTES = 1 << 16
SOON_S = 20.0
"""No test waits that long; only one that fails."""


@dataclass
class Heard:
    """What a link told its owner."""

    messages: list[Message] = field(default_factory=list)
    ends: list[tuple[str, Exception | None]] = field(default_factory=list)
    signs_of_life: int = 0

    def on_messages(self, messages: list[Message]) -> None:
        self.messages += messages

    def on_end(self, reason: str, error: Exception | None) -> None:
        self.ends.append((reason, error))

    def on_heard(self) -> None:
        self.signs_of_life += 1


Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture(params=["pair", "TCP"])
def sockets(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two connected sockets for which the kernel buffers little."""
    pair = socket.socketpair() if request.param == "pair" else tcp_pair()
    yield pair
    for sock in pair:
        sock.close()


@pytest.fixture
def tcp() -> Iterator[Pair]:
    pair = tcp_pair()
    yield pair
    for sock in pair:
        sock.close()


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    return ours, theirs


def connection(
    loop: Loop, sock: socket.socket, heard: Heard, *, initiator: bool, key: bytes = KEY
) -> Connection:
    link = Connection(
        loop,
        sock,
        Session(initiator=initiator, psk=key, ephemeral=os.urandom(32)),
        on_messages=heard.on_messages,
        on_end=heard.on_end,
        on_heard=heard.on_heard,
    )
    loop.before_wait(link.flush)
    return link


@dataclass
class Both:
    """An agent's and a server's end in one loop."""

    loop: Loop
    agent: Connection
    server: Connection
    by_agent: Heard
    by_server: Heard

    def wait_for(self, condition: Callable[[], object]) -> None:
        wait_for(self.loop, condition)


@pytest.fixture
def both(loop: Loop, sockets: Pair) -> Iterator[Both]:
    yield from connected(loop, sockets)


@pytest.fixture
def both_local(loop: Loop) -> Iterator[Both]:
    yield from connected(loop, socket.socketpair())


@pytest.fixture
def both_tcp(loop: Loop, tcp: Pair) -> Iterator[Both]:
    yield from connected(loop, tcp)


def connected(loop: Loop, sockets: Pair) -> Iterator[Both]:
    by_agent, by_server = Heard(), Heard()
    both = Both(
        loop,
        connection(loop, sockets[0], by_agent, initiator=True),
        connection(loop, sockets[1], by_server, initiator=False),
        by_agent,
        by_server,
    )
    both.wait_for(lambda: both.agent.authenticated and both.server.authenticated)
    yield both
    both.agent.close()
    both.server.close()


def wait_for(loop: Loop, condition: Callable[[], object]) -> None:
    until = loop.now() + SOON_S
    while not condition():
        assert loop.now() < until, "it did not happen"
        loop.wait(until)


def look(loop: Loop, times: int = 10) -> None:
    """Handle whatever is ready, and what comes of it."""
    for _ in range(times):
        loop.wait(loop.now())


def task(number: int, data: bytes) -> Task:
    return Task(NODE, TaskId(number), Attempt(0), (data,))


def result(number: int, *parts: bytes) -> Result:
    return Result(NODE, TaskId(number), Attempt(0), 0.5, parts)


def data_of(message: Message) -> bytes:
    assert isinstance(message, Task | Result)
    return b"".join(message.payload)


def singly(message: Message) -> list[Message]:
    if not isinstance(message, Results):
        return [message]
    return [Result(message.node, *answer) for answer in message.run]


def reset(link: Link) -> None:
    """Close so that the other side gets a reset and not an end of file."""
    link.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


# --- connections: messages


def test_messages_go_both_ways_in_order(both: Both) -> None:
    for number in range(500):
        both.server.send(task(number, b"to the agent"))
        both.agent.send(result(number, b"to the server"))
    both.wait_for(lambda: len(both.by_agent.messages) == 500 == len(both.by_server.messages))
    assert both.by_agent.messages == [task(number, b"to the agent") for number in range(500)]
    assert both.by_server.messages == [result(number, b"to the server") for number in range(500)]
    assert both.by_agent.ends == both.by_server.ends == []


def test_large_payloads_pass_each_other(both: Both) -> None:
    """Both sides are in the middle of sending, and neither waits for the other to take it."""
    down, up = os.urandom(5 << 20), os.urandom(3 << 20)
    both.server.send(task(0, down))
    both.agent.send(result(0, up))
    both.wait_for(lambda: both.by_agent.messages and both.by_server.messages)
    assert data_of(both.by_agent.messages[0]) == down
    assert data_of(both.by_server.messages[0]) == up


def test_many_messages_are_one_write(both_local: Both) -> None:
    """What is sent between two waits shares records, which is what makes small tasks cheap."""
    raw = both_local.server.raw
    both_local.server.pause(True)
    for number in range(100):
        both_local.agent.send(result(number, b"small"))
    look(both_local.loop, 1)
    received = raw.recv(1 << 20)
    length = int.from_bytes(received[:4], "big")
    assert len(received) == 4 + length


def test_bytes_of_a_peer_are_a_sign_of_life_before_its_message_is_complete(
    both_tcp: Both,
) -> None:
    before = both_tcp.by_server.signs_of_life
    both_tcp.agent.send(result(0, bytes(8 << 20)))
    both_tcp.wait_for(lambda: both_tcp.by_server.signs_of_life >= before + 2)
    assert both_tcp.by_server.messages == []


def test_nobody_is_heard_before_the_proof(loop: Loop, tcp: Pair) -> None:
    heard = Heard()
    server = connection(loop, tcp[1], heard, initiator=False)
    agent = Session(initiator=True, psk=KEY, ephemeral=os.urandom(32))
    tcp[0].sendall(agent.data_to_send())
    answer = bytearray()
    loop.watch(tcp[0], READ, lambda _: answer.extend(tcp[0].recv(100)))
    wait_for(loop, lambda: len(answer) >= 48)
    assert (heard.signs_of_life, server.authenticated) == (0, False)
    loop.watch(tcp[0], 0, lambda _: None)
    server.close()


# --- how fast it is, on a clock that the test moves


def carry(both: Both, size: int, *, sender: Connection) -> float:
    """Send a message, as if each wait took some time; returns the bytes per second of that."""
    loop, wait, begin = both.loop, Loop.wait, both.loop.waited

    def long_wait(until: float | None = None) -> None:
        wait(loop, until)
        loop.waited += 0.05

    heard = both.by_server if sender is both.agent else both.by_agent
    count = len(heard.messages) + 1
    sender.send((result if sender is both.agent else task)(0, bytes(size)))
    loop.wait = long_wait  # type: ignore[method-assign]
    try:
        both.wait_for(lambda: len(heard.messages) == count)
    finally:
        del loop.wait
    return size / (loop.waited - begin)


def test_a_link_knows_how_fast_it_sends_and_receives(both_tcp: Both) -> None:
    told: list[float] = []
    server, agent = both_tcp.server, both_tcp.agent
    server.on_pace = lambda: told.append(server.receiving.bytes_per_second)
    speed = carry(both_tcp, 20 << 20, sender=server)
    assert speed / 3 < server.sending.bytes_per_second < 3 * speed
    assert speed / 3 < agent.receiving.bytes_per_second < 3 * speed
    assert server.receiving.bytes_per_second == agent.sending.bytes_per_second == FAST
    assert told == []
    speed = carry(both_tcp, 20 << 20, sender=agent)
    assert told[-1] == server.receiving.bytes_per_second
    assert speed / 3 < told[-1] < 3 * speed


def test_a_link_that_is_not_waited_for_is_fast(
    both_tcp: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time that goes by elsewhere, such as in a hook, is no fault of the link."""
    loop, select = both_tcp.loop, both_tcp.loop._select

    def at_once(until: float | None) -> Any:
        before = loop.waited
        ready = select(until)
        loop.waited = before
        return ready

    monkeypatch.setattr(loop, "_select", at_once)
    for number in range(20):
        both_tcp.server.send(task(number, bytes(1 << 20)))
    both_tcp.wait_for(lambda: len(both_tcp.by_agent.messages) == 20)
    both_tcp.loop.waited += 1000
    both_tcp.server.send(task(20, b""))
    both_tcp.wait_for(lambda: len(both_tcp.by_agent.messages) == 21)
    assert both_tcp.server.sending.bytes_per_second == FAST
    assert both_tcp.agent.receiving.bytes_per_second == FAST


# --- what waits is bounded, or at least known


def test_a_link_counts_what_waits(both_tcp: Both) -> None:
    data = bytes(20 << 20)
    both_tcp.agent.pause(True)
    both_tcp.server.send(task(0, data))
    both_tcp.server.send(task(1, data))
    assert 2 * len(data) < both_tcp.server.queued_bytes < 2 * len(data) + 200
    look(both_tcp.loop)
    left = both_tcp.server.queued_bytes
    assert left > 1.5 * len(data), "the kernel buffers little, and nothing else buffers"
    both_tcp.agent.pause(False)
    both_tcp.wait_for(lambda: len(both_tcp.by_agent.messages) == 2)
    assert both_tcp.server.queued_bytes == 0


def test_a_peer_that_does_not_read_costs_one_record(both_tcp: Both) -> None:
    """A payload is encrypted piece by piece as the socket takes it, and never copied whole."""
    data = bytes(30 << 20)
    both_tcp.agent.pause(True)
    both_tcp.server.send(task(0, data))
    look(both_tcp.loop)
    encrypted = len(data) - both_tcp.server.queued_bytes
    assert encrypted < 8 << 20, "what the kernel took, and one record"


def test_a_link_gives_way_to_others(loop: Loop) -> None:
    """With a fast peer one turn of the loop ends after ``SEND_BYTES``."""
    ours, theirs = socket.socketpair()
    link = Channel(loop, ours, on_messages=lambda _: None, on_end=lambda *_: None)
    taken = 0

    class Fast:
        """A socket whose other side takes whatever comes."""

        def __getattr__(self, name: str) -> object:
            return getattr(ours, name)

        def sendmsg(self, pieces: list[memoryview]) -> int:
            nonlocal taken
            taken += min(sum(map(len, pieces)), 1 << 16)
            return min(sum(map(len, pieces)), 1 << 16)

        def send(self, piece: memoryview) -> int:
            return self.sendmsg([piece])

    link._socket = Fast()  # type: ignore[assignment]  # it stands in for one
    link.send(task(0, bytes(10 * SEND_BYTES)))
    link.flush()
    assert SEND_BYTES <= taken < SEND_BYTES + (1 << 17)
    loop.watch(ours, 0, lambda _: None)
    ours.close()
    theirs.close()


def test_a_paused_link_reads_nothing_and_still_writes(both: Both) -> None:
    both.server.pause(True)
    both.agent.send(Ready(NODE))
    both.server.send(Quit(QuitKind.DONE, "done"))
    both.wait_for(lambda: both.by_agent.messages)
    look(both.loop)
    assert both.by_server.messages == []
    both.server.pause(False)
    both.wait_for(lambda: both.by_server.messages)
    assert both.by_server.messages == [Ready(NODE)]


def test_unsent_messages_can_be_dropped_and_what_was_begun_is_completed(both_tcp: Both) -> None:
    begun, dropped, last = task(0, bytes(6 << 20)), task(1, b"dropped"), task(2, b"last")
    both_tcp.agent.pause(True)
    both_tcp.server.send(begun)
    look(both_tcp.loop)
    both_tcp.server.send(dropped)
    both_tcp.server.drop_unsent()
    both_tcp.server.send(last)
    both_tcp.agent.pause(False)
    both_tcp.wait_for(lambda: len(both_tcp.by_agent.messages) == 2)
    assert [data_of(message) for message in both_tcp.by_agent.messages] == [
        bytes(6 << 20),
        b"last",
    ]


# --- the end of a connection


def test_closing_when_sent_delivers_everything(both: Both) -> None:
    data = os.urandom(4 << 20)
    for number in range(3):
        both.server.send(task(number, data))
    both.server.close_when_sent()
    both.wait_for(lambda: both.by_agent.ends)
    assert [data_of(message) == data for message in both.by_agent.messages] == [True] * 3
    assert both.by_agent.ends == [("the other side closed the connection", None)]
    assert not both.server.is_open
    assert both.by_server.ends == [], "we closed it ourselves"


def test_closing_with_nothing_to_send_closes_at_once(both: Both) -> None:
    both.server.close_when_sent()
    assert not both.server.is_open


def test_unread_input_does_not_eat_the_last_words(both_tcp: Both) -> None:
    """A socket that is closed with something unread sends a reset, which overtakes what was sent."""
    both_tcp.server.pause(True)
    both_tcp.agent.send(result(0, bytes(1000)))
    look(both_tcp.loop)
    both_tcp.server.send(Quit(QuitKind.FAILED, "why"))
    both_tcp.server.close_when_sent()
    both_tcp.wait_for(lambda: both_tcp.by_agent.ends)
    assert both_tcp.by_agent.messages == [Quit(QuitKind.FAILED, "why")]
    assert both_tcp.by_agent.ends[0][1] is None


def test_closing_does_not_wait_for_a_peer_that_sends_for_ever(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    received = 0

    class Endless:
        """A socket that always has more to read."""

        def __getattr__(self, name: str) -> object:
            return getattr(ours, name)

        def recv(self, size: int) -> bytes:
            nonlocal received
            received += size
            assert received < 1 << 30, "it reads for ever"
            return bytes(size)

    link = Channel(loop, ours, on_messages=lambda _: None, on_end=lambda *_: None)
    link._socket = Endless()  # type: ignore[assignment]  # it stands in for one
    link.close_when_sent()
    assert not link.is_open
    theirs.close()


def test_closing_does_not_wait_for_ever_for_a_peer_that_does_not_read(
    both_tcp: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parasnake.links.LINGER_SECONDS", 0.05)
    both_tcp.agent.pause(True)
    both_tcp.server.send(task(0, bytes(20 << 20)))
    both_tcp.server.close_when_sent()
    both_tcp.server.close_when_sent()
    assert both_tcp.server.is_open
    both_tcp.wait_for(lambda: not both_tcp.server.is_open)
    assert both_tcp.by_server.ends == []
    assert LINGER_SECONDS >= 1, "outside of tests it gets time"


def test_a_closed_link_is_silent(both: Both) -> None:
    both.agent.send(Ready(NODE))
    both.agent.flush()
    both.server.close()
    both.server.close()
    both.server.send(task(0, b"too late"))
    both.server.pause(True)
    both.server.flush()
    both.wait_for(lambda: both.by_agent.ends)
    look(both.loop)
    assert (both.by_server.messages, both.by_server.ends) == ([], [])


def test_a_reset_is_told_once_with_its_name(both_tcp: Both) -> None:
    reset(both_tcp.agent)
    both_tcp.wait_for(lambda: both_tcp.by_server.ends)
    both_tcp.server.send(Quit(QuitKind.DONE, "done"))
    look(both_tcp.loop)
    [(reason, error)] = both_tcp.by_server.ends
    assert isinstance(error, ConnectionResetError)
    assert "ECONNRESET" in reason


def test_a_reset_while_sending_is_told_once(both_tcp: Both) -> None:
    both_tcp.server.send(task(0, bytes(30 << 20)))
    both_tcp.agent.pause(True)
    look(both_tcp.loop)
    reset(both_tcp.agent)
    both_tcp.wait_for(lambda: both_tcp.by_server.ends)
    look(both_tcp.loop)
    [(_, error)] = both_tcp.by_server.ends
    assert isinstance(error, ConnectionResetError | BrokenPipeError)
    assert not both_tcp.server.is_open


def test_the_wait_in_which_sending_fails_is_not_a_long_one(loop: Loop) -> None:
    """The owner may have to act on it, and nothing else may ever wake the loop."""
    ours, theirs = socket.socketpair()
    heard = Heard()
    link = Channel(loop, ours, on_messages=heard.on_messages, on_end=heard.on_end)
    link.pause(True)
    theirs.close()
    link.send(task(0, b"for nobody"))
    assert heard.ends == []
    loop.wait()
    assert len(heard.ends) == 1


def test_last_words_are_heard_though_nothing_can_be_sent_any_more(both_local: Both) -> None:
    """A server that says why it leaves, and an agent that was just about to say something."""
    agent, heard = both_local.agent, both_local.by_agent
    agent.pause(True)
    both_local.server.send(Quit(QuitKind.DONE, "done"))
    both_local.server.close_when_sent()
    agent.send(Ready(NODE))
    both_local.wait_for(lambda: heard.ends)
    assert heard.messages == [Quit(QuitKind.DONE, "done")]
    assert [type(error) for _, error in heard.ends] == [BrokenPipeError]


def test_an_end_inside_a_message_is_an_end(both_tcp: Both) -> None:
    both_tcp.agent.send(result(0, bytes(8 << 20)))
    both_tcp.agent.flush()
    both_tcp.agent.close()
    both_tcp.wait_for(lambda: both_tcp.by_server.ends)
    assert both_tcp.by_server.messages == []
    assert len(both_tcp.by_server.ends) == 1


# --- rules broken


def test_a_forged_record_ends_the_connection_once(both: Both) -> None:
    both.agent.raw.send(bytes([0, 0, 0, 20]) + bytes(20) + bytes([0, 0, 0, 20]) + bytes(20))
    both.wait_for(lambda: both.by_server.ends)
    look(both.loop)
    [(reason, error)] = both.by_server.ends
    assert isinstance(error, RecordError)
    assert reason == str(error)
    assert both.by_server.messages == []


def test_a_message_that_its_side_may_not_send_ends_the_connection(both: Both) -> None:
    both.agent.send(Quit(QuitKind.DONE, "says an agent"))
    both.agent.send(Ready(NODE))
    both.wait_for(lambda: both.by_server.ends)
    [(_, error)] = both.by_server.ends
    assert isinstance(error, MessageError)
    assert both.by_server.messages == []


def test_an_error_of_the_owner_ends_the_connection(loop: Loop, sockets: Pair) -> None:
    """What comes in may be a message and yet not allowed just then: the owner says so."""
    ends: list[tuple[str, Exception | None]] = []

    def refuse(_: list[Message]) -> None:
        raise MessageError("not now")

    agent = connection(loop, sockets[0], Heard(), initiator=True)
    server = Connection(
        loop,
        sockets[1],
        Session(initiator=False, psk=KEY, ephemeral=os.urandom(32)),
        on_messages=refuse,
        on_end=lambda reason, error: ends.append((reason, error)),
        on_heard=lambda: None,
    )
    wait_for(loop, lambda: agent.authenticated)
    agent.send(Heartbeat())
    agent.send(Heartbeat())
    wait_for(loop, lambda: ends)
    assert [reason for reason, _ in ends] == ["not now"]
    assert not server.is_open
    agent.close()


def test_another_key_ends_both_sides_and_each_knows_why(loop: Loop, sockets: Pair) -> None:
    by_agent, by_server = Heard(), Heard()
    agent = connection(loop, sockets[0], by_agent, initiator=True, key=b"x" * 32)
    server = connection(loop, sockets[1], by_server, initiator=False)
    wait_for(loop, lambda: by_agent.ends and by_server.ends)
    assert [type(error) for _, error in by_agent.ends] == [WrongKeyError]
    assert [type(error) for _, error in by_server.ends] == [HandshakeError]
    assert by_agent.signs_of_life == by_server.signs_of_life == 0
    assert not agent.is_open
    assert not server.is_open


def test_an_unproven_peer_that_sends_much_is_read_a_little(loop: Loop, tcp: Pair) -> None:
    heard = Heard()
    connection(loop, tcp[1], heard, initiator=False)
    tcp[0].setblocking(False)
    tcp[0].send(bytes(1 << 16))
    wait_for(loop, lambda: heard.ends)
    assert isinstance(heard.ends[0][1], HandshakeError)


# --- channels to workers


@dataclass
class Work:
    """A channel whose other end is a real worker, in a thread."""

    loop: Loop
    channel: Channel
    heard: Heard

    def wait_for(self, count: int) -> list[Message]:
        wait_for(self.loop, lambda: len(self.messages) >= count)
        return self.messages

    @property
    def messages(self) -> list[Message]:
        """What the worker has said, one by one."""
        return [single for message in self.heard.messages for single in singly(message)]


@pytest.fixture(params=[True, False], ids=["with a pipe", "by socket alone"])
def work(loop: Loop, request: pytest.FixtureRequest) -> Iterator[Work]:
    ours, theirs = socket.socketpair()
    answers, pipe = os.pipe() if request.param else (None, None)
    if answers is not None:
        os.set_blocking(answers, False)
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    heard = Heard()
    hooks = NodeHooks(Hook("process", reverse), None)
    thread = threading.Thread(target=Worker(NODE, hooks, WorkerEnd(theirs, pipe)).run)
    thread.start()
    channel = Channel(
        loop, ours, answers=answers, on_messages=heard.on_messages, on_end=heard.on_end
    )
    yield Work(loop, channel, heard)
    channel.close()
    thread.join()
    theirs.close()
    if pipe is not None:
        os.close(pipe)


def reverse(data: bytes) -> bytes:
    return data[::-1]


def packed(obj: object) -> bytes:
    return b"".join(bytes(part) for part in payload.dumps(obj).parts)


def test_a_worker_answers_in_order(work: Work) -> None:
    work.channel.send(Init(NODE, bytes(16), ()))
    for number in range(200):
        work.channel.send(task(number, packed(b"data %d" % number)))
    ready, *results = work.wait_for(201)
    assert ready == Ready(NODE)
    assert [payload.loads(data_of(message)) for message in results] == [
        (b"data %d" % number)[::-1] for number in range(200)
    ]


def test_large_data_passes_a_channel_both_ways(work: Work) -> None:
    """The worker reads nothing while it writes: the agent must take what comes while it sends."""
    data = os.urandom(6 << 20)
    work.channel.send(Init(NODE, bytes(16), ()))
    for number in range(4):
        work.channel.send(task(number, packed(data)))
    _, *results = work.wait_for(5)
    assert [payload.loads(data_of(message)) == data[::-1] for message in results] == [True] * 4


def test_a_worker_compresses_results_for_a_slow_link_only(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    data = os.urandom(1 << 17) + bytes(1 << 20)  # large when it is compressed, too
    for speed, is_compressed in ((None, False), (0.0, True), (FAST, False), (1e6, True)):
        if speed is not None:
            work.channel.send(Pace(speed))
        work.channel.send(task(0, packed(data)))
        before = len(work.heard.messages)
        answer = data_of(work.wait_for(before + 1)[before])
        assert payload.loads(answer) == data[::-1]
        assert (len(answer) < len(data) / 4) == is_compressed


def test_a_worker_takes_compressed_data(work: Work) -> None:
    data = bytes(1 << 20)
    form = b"".join(payload.compressed(payload.dumps(data), 0.0).parts)
    assert len(form) < len(data) / 100
    work.channel.send(task(0, form))
    [answer] = work.wait_for(1)
    assert payload.loads(data_of(answer)) == data


def test_an_exception_of_the_users_comes_as_a_failure(work: Work) -> None:
    work.channel.send(task(7, packed(None)))
    [failure] = work.wait_for(1)
    assert isinstance(failure, Failure)
    assert (failure.task, failure.attempt) == (7, 0)
    assert "not subscriptable" in failure.reason


def test_a_dead_workers_last_words_are_read(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    heard = Heard()
    channel = Channel(loop, ours, on_messages=heard.on_messages, on_end=heard.on_end)
    channel.pause(True)
    theirs.sendall(b"".join(bytes(piece) for piece in encode(result(3, bytes(100_000)))))
    theirs.sendall(b"".join(bytes(piece) for piece in encode(Ready(NODE)))[:-1])
    theirs.close()
    channel.drain()
    channel.drain()
    assert heard.messages == [result(3, bytes(100_000))]
    assert heard.ends == [], "whoever drains knows of the end"
    channel.close()
    channel.drain()


def test_small_answers_come_by_the_pipe_and_long_ones_by_the_socket(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    answers, pipe = os.pipe()
    os.set_blocking(answers, False)
    heard = Heard()
    channel = Channel(
        loop, ours, answers=answers, on_messages=heard.on_messages, on_end=heard.on_end
    )
    end = WorkerEnd(theirs, pipe)
    parts = bytes(OWN_BUFFER), b"", os.urandom(10)
    said = [result(1, b"one"), result(2, *parts), result(3, b"three"), Ready(NODE)]
    for message in said:
        end.say(encode(message))
    wait_for(loop, lambda: len(heard.messages) == len(said))
    assert [single for message in heard.messages for single in singly(message)] == [
        said[0], result(2, b"".join(parts)), *said[2:]
    ]  # fmt: skip
    os.close(pipe)
    wait_for(loop, lambda: heard.ends)
    assert not channel.is_open
    with pytest.raises(OSError):
        os.fstat(answers)
    theirs.close()


def test_the_last_words_of_a_worker_that_dies_in_a_long_answer_are_read(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    answers, pipe = os.pipe()
    os.set_blocking(answers, False)
    heard = Heard()
    channel = Channel(
        loop, ours, answers=answers, on_messages=heard.on_messages, on_end=heard.on_end
    )
    head, payload_ = encode(result(2, bytes(2 * OWN_BUFFER)))
    os.write(pipe, b"".join((*encode(result(1, b"one")), head)))
    theirs.sendall(payload_[:OWN_BUFFER])
    os.close(pipe)
    theirs.close()
    channel.drain()
    assert [single for message in heard.messages for single in singly(message)] == [
        result(1, b"one")
    ]
    channel.close()


def test_a_worker_that_goes_is_told(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    heard = Heard()
    channel = Channel(loop, ours, on_messages=heard.on_messages, on_end=heard.on_end)
    theirs.close()
    wait_for(loop, lambda: heard.ends)
    assert [error for _, error in heard.ends] == [None]
    assert not channel.is_open


@pytest.mark.parametrize(
    "message",
    [Heartbeat(), Goodbye("", ""), Task(NODE, TaskId(0), Attempt(0), ())],
    ids=lambda message: type(message).__name__,
)
def test_a_worker_may_say_only_what_workers_say(loop: Loop, message: Message) -> None:
    ours, theirs = socket.socketpair()
    heard = Heard()
    Channel(loop, ours, on_messages=heard.on_messages, on_end=heard.on_end)
    theirs.sendall(b"".join(bytes(piece) for piece in encode(message)))
    wait_for(loop, lambda: heard.ends)
    assert isinstance(heard.ends[0][1], MessageError)
    theirs.close()


def test_pieces_of_any_sizes_arrive_as_they_were(loop: Loop) -> None:
    """More pieces than one gathering write takes, and cuts in any place."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    channel = Channel(loop, ours, on_messages=lambda _: None, on_end=lambda *_: None)
    bounds = [0, 1, 2, 5000, 5001, 200_000, *range(200_001, 200_301, 3)]
    data = os.urandom(bounds[-1])
    pieces = tuple(data[start:end] for start, end in pairwise(bounds))
    message = Task(NODE, TaskId(1), Attempt(0), (b"", *pieces, b""))
    channel.send(message)
    expected = b"".join(bytes(piece) for piece in encode(message))
    received = bytearray()
    loop.watch(theirs, READ, lambda _: received.extend(theirs.recv(777)))
    wait_for(loop, lambda: len(received) >= len(expected))
    assert received == expected
    loop.watch(theirs, 0, lambda _: None)
    channel.close()
    theirs.close()


def test_a_link_says_whose_socket_it_is(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    link: Link = Channel(loop, ours, on_messages=lambda _: None, on_end=lambda *_: None)
    assert link.raw is ours
    link.close()
    theirs.close()
