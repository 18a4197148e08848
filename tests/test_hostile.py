"""What others may do to a server, with the key and without, while a job goes on.

The server and its agent are real processes, whoever attacks them is a bare socket of the test's.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import platform
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from helpers import wait_until
from programs import KEY, Program, environment

from parasnake.core.ids import Attempt, NodeKey, TaskId
from parasnake.core.messages import (
    FROM_SERVER,
    HEADER,
    LAYOUTS,
    PROTOCOL_VERSION,
    AskInit,
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    MessageReader,
    Quit,
    QuitKind,
    Ready,
    Result,
    Task,
    Welcome,
    encode,
)
from parasnake.core.noise import HANDSHAKE_BYTES, Handshake
from parasnake.core.records import LENGTH_BYTES, OVERHEAD, Opener, Sealer
from parasnake.core.session import REFUSAL
from parasnake.gate import MAX_UNPROVEN

STEADY = Path(__file__).parent / "steady.py"
PSK = KEY.encode()
OTHER_PSK = b"this is another key, 32 letters."
NODE = NodeKey(b"a hostile node!!")
SOON_S = 30.0
MEGABYTE = 1 << 20


# --- a job, and those who disturb it


class Job:
    """A running job: a server, and agents when there shall be some."""

    def __init__(
        self, folder: Path, size: int, patch: dict[str, object], *server_options: str
    ) -> None:
        self._folder = folder
        self._environ = environment(folder, STEADY_PATCH=json.dumps(patch))
        self._options = [f"--folder={folder}", f"--bytes={size}"]
        self._agents: list[Program] = []
        self._begin = time.monotonic()
        self.server = self._start("--server", "--bind=127.0.0.1", "--port=0", *server_options)
        self.port = int(self.server.port())
        self.process = psutil.Process(self.server.pid)

    def _start(self, *options: str) -> Program:
        options = (*options, *self._options)
        return Program(STEADY, options, self._folder, environ=self._environ)

    def start_agent(self, port: int | None = None) -> Program:
        """Start an agent with one worker."""
        self._agents.append(self._start("--ip=127.0.0.1", f"--port={port or self.port}"))
        return self._agents[-1]

    @property
    def age(self) -> float:
        """How long it has been running, in seconds."""
        return time.monotonic() - self._begin

    @property
    def merged(self) -> int:
        """How many results have been merged."""
        with contextlib.suppress(FileNotFoundError):
            data = (self._folder / "merged").read_bytes()
            if data:
                return int(struct.unpack("=Q", data)[0])
        return 0

    def goes_on(self, results: int = 20) -> None:
        """See that the agents still work."""
        before = self.merged
        wait_until(lambda: self.merged >= before + results, SOON_S)

    def ends_rightly(self) -> None:
        """Let it end, and see that nothing was lost or merged twice and that all went in peace."""
        (self._folder / "end").touch()
        assert self.server.wait(SOON_S) == 0, self.server.err
        assert [agent.wait(SOON_S) for agent in self._agents] == [0] * len(self._agents)
        outcome = json.loads(self.server.out)
        assert outcome["right"], self.server.err
        assert outcome["merged"] >= 20

    def close(self) -> None:
        for program in (*self._agents, self.server):
            program.__exit__(None, None, None)


StartJob = Callable[..., Job]


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[StartJob]:
    with contextlib.ExitStack() as stack:

        def start(
            *, agents: int = 1, size: int = 10, patch: dict[str, object] | None = None
        ) -> Job:
            job = Job(tmp_path, size, patch or {})
            stack.callback(job.close)
            for _ in range(agents):
                job.start_agent()
            if agents:
                job.goes_on()
            return job

        yield start


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    """Closes the sockets of a test."""
    with contextlib.ExitStack() as stack:
        yield stack


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SOON_S)


def first_message() -> bytes:
    """A valid one: what somebody has recorded who does not hold the key."""
    return Handshake(initiator=True, psk=PSK, ephemeral=os.urandom(32)).write()


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            received += data
    return received


def send_all(sock: socket.socket, data: bytes) -> None:
    """Send, though the other side may have had enough of it."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)


class Peer:
    """A connection of somebody who holds the key, and who says what he likes."""

    def __init__(self, port: int, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(SOON_S)
        self.socket.connect(("127.0.0.1", port))
        host, own_port = self.socket.getsockname()
        self.address = f"{host}:{own_port}"
        handshake = Handshake(initiator=True, psk=PSK, ephemeral=os.urandom(32))
        self.socket.sendall(handshake.write())
        handshake.read(self._exactly(HANDSHAKE_BYTES))
        keys = handshake.keys()
        self._sealer, self._opener = Sealer(keys.send), Opener(keys.receive)
        self._reader = MessageReader(FROM_SERVER)
        self._messages: deque[Message] = deque()
        self.send_bytes(b"")
        assert self._next_record() == b""

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the server has closed the connection"
            data += more
        return data

    def _next_record(self) -> bytes:
        length = int.from_bytes(self._exactly(LENGTH_BYTES), "big")
        return self._opener.open(self._exactly(length))

    def send_bytes(self, plaintext: bytes) -> None:
        """Send one record with whatever in it."""
        record = memoryview(bytearray(len(plaintext) + OVERHEAD))
        self._sealer.seal_into(plaintext, record)
        send_all(self.socket, bytes(record))

    def send(self, *messages: Message) -> None:
        self.send_bytes(b"".join(bytes(piece) for m in messages for piece in encode(m)))

    def read(self) -> Message:
        """The server's next message."""
        while not self._messages:
            self._messages += self._reader.feed(self._next_record())
        return self._messages.popleft()

    def join(self, node: NodeKey | None = None) -> None:
        """Say what an agent says, until it is welcome, and with a node it is ready for tasks."""
        self.send(HELLO)
        assert isinstance(self.read(), Welcome)
        if node is not None:
            self.send(Ready(node))

    def is_dropped(self) -> None:
        """See that the server closes this connection."""
        read_all(self.socket)


HELLO = Hello(PROTOCOL_VERSION, 1, "0.2.0", platform.python_version(), "steady", "", "hostile")


def result_of(task: Message) -> Result:
    """A result that is right in its form."""
    assert isinstance(task, Task)
    return Result(task.node, task.task, task.attempt, 0.001, (pickle.dumps((0, 10)),))


Meet = Callable[..., Peer]


@pytest.fixture
def meet() -> Iterator[Meet]:
    """Makes a peer of a server, whose connection ends with the test at the latest."""
    with contextlib.ExitStack() as stack:

        def make(job: Job, receive_bytes: int | None = None) -> Peer:
            peer = Peer(job.port, receive_bytes)
            stack.callback(peer.socket.close)
            return peer

        yield make


# --- without the key


class Canary:
    """Whoever loads its pickle makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._path),)


def attacks(canary: bytes) -> list[bytes]:
    """What they send, each in one connection."""
    first = first_message()
    canary_result = b"".join(
        bytes(piece) for piece in encode(Result(NODE, TaskId(0), Attempt(0), 0.0, (canary,)))
    )
    return [
        b"",
        random.randbytes(300),
        random.randbytes(HANDSHAKE_BYTES),
        first[:24],
        first,
        b"\xff" * 8,
        b"GET / HTTP/1.1\r\nHost: parasnake\r\nConnection: keep-alive\r\n\r\n",
        first + b"\xff\xff\xff\xff",
        first + (1 << 29).to_bytes(4, "big") + bytes(1000),
        first + (16).to_bytes(4, "big") + random.randbytes(16),
        canary,
        canary_result,
        first[:24] + canary,
        first + canary,
        first + canary_result,
        first + (16).to_bytes(4, "big") + canary,
        first + len(canary).to_bytes(4, "big") + canary,
        first + (16).to_bytes(4, "big") + bytes(16) + canary_result,
    ]


def test_ten_thousand_connections_of_others(
    start_job: StartJob, tmp_path: Path, sockets: contextlib.ExitStack
) -> None:
    job = start_job()
    pickles = attacks(pickle.dumps(Canary(tmp_path / "loaded")))
    for attack in pickles:  # what is loaded or allocated only once is no leak
        with connect(job.port) as sock:
            send_all(sock, attack)
    before = job.process.memory_info().rss, job.process.num_fds()
    still_open: deque[socket.socket] = deque()
    for number in range(10_000):
        sock = sockets.enter_context(connect(job.port))
        send_all(sock, pickles[number % len(pickles)])
        still_open.append(sock)
        if len(still_open) == 100:
            oldest = still_open.popleft()
            if number % 3 == 0:
                oldest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            oldest.close()
    job.goes_on()
    for sock in still_open:
        sock.close()
    wait_until(lambda: job.process.num_fds() <= before[1], SOON_S)
    job.goes_on()
    assert job.process.memory_info().rss < before[0] + 20 * MEGABYTE
    job.ends_rightly()
    assert not (tmp_path / "loaded").exists()
    assert len(job.server.err.splitlines()) < 20, "the log stays short"
    assert 1 <= job.server.err.count("turned away") <= 1 + job.age // 60, "a line a minute"


def test_a_canary_would_sing(tmp_path: Path) -> None:
    """Else it would prove nothing that it is never heard."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "loaded")))
    assert (tmp_path / "loaded").exists()


def test_a_pickle_of_somebody_with_another_key_is_not_loaded(
    start_job: StartJob, tmp_path: Path
) -> None:
    job = start_job()
    canary = pickle.dumps(Canary(tmp_path / "loaded"))
    handshake = Handshake(initiator=True, psk=OTHER_PSK, ephemeral=os.urandom(32))
    with connect(job.port) as sock:
        sock.sendall(handshake.write())
        assert read_all(sock) == REFUSAL
        send_all(sock, canary)
    handshake = Handshake(initiator=True, psk=OTHER_PSK, ephemeral=os.urandom(32))
    with connect(job.port) as sock:
        send_all(sock, handshake.write() + canary)
        assert REFUSAL.startswith(read_all(sock))
    job.ends_rightly()
    assert not (tmp_path / "loaded").exists()
    assert "it holds another secret key" in job.server.err


class Recorder:
    """Passes one agent's connection on to the server and keeps what the agent said."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.recorded = b""
        self._server_port = port
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        agent, _ = self._listener.accept()
        with agent, connect(self._server_port) as server:
            back = threading.Thread(target=self._pass_on, args=(server, agent))
            back.start()
            while data := agent.recv(1 << 16):
                self.recorded += data
                server.sendall(data)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            back.join()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        source.settimeout(None)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(SOON_S)


def test_what_was_recorded_gets_nowhere(start_job: StartJob, sockets: contextlib.ExitStack) -> None:
    job = start_job(agents=0)
    recorder = Recorder(job.port)
    sockets.callback(recorder.close)
    job.start_agent(recorder.port)
    job.goes_on()
    recorded = recorder.recorded
    assert len(recorded) > 1000
    cuts = [
        HANDSHAKE_BYTES,
        HANDSHAKE_BYTES + OVERHEAD - 1,
        HANDSHAKE_BYTES + OVERHEAD,
        HANDSHAKE_BYTES + OVERHEAD + 1,
        len(recorded),
    ]
    for cut in cuts:
        with connect(job.port) as sock:
            send_all(sock, recorded[:cut])
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
            assert len(answer) in {0, HANDSHAKE_BYTES + OVERHEAD}, "its half of the handshake"
    for cut in cuts[-2:]:  # no answer is waited for: everything in one go
        with connect(job.port) as sock:
            send_all(sock, recorded[:HANDSHAKE_BYTES])
            send_all(sock, recorded[HANDSHAKE_BYTES:cut])
            read_all(sock)
    job.goes_on()
    job.ends_rightly()
    assert job.server.err.count(" joined") == 1


@pytest.mark.parametrize("start", ["nothing", "half", "first"])
def test_an_agent_gets_in_though_more_wait_than_there_are_slots(
    start_job: StartJob, sockets: contextlib.ExitStack, start: str
) -> None:
    job = start_job(agents=0, patch={"parasnake.gate.UNPROVEN_SECONDS": 1000})  # no other way in
    first = first_message()
    said = {"nothing": b"", "half": first[:24], "first": first}[start]
    for _ in range(2 * MAX_UNPROVEN):
        send_all(sockets.enter_context(connect(job.port)), said)
    job.start_agent()
    wait_until(lambda: " joined" in job.server.err, SOON_S)
    job.goes_on()
    assert job.process.num_fds() < 2 * MAX_UNPROVEN
    job.ends_rightly()
    assert 1 <= job.server.err.count("turned away") <= 1 + job.age // 60


def test_open_handshakes_do_not_disturb_who_is_in(
    start_job: StartJob, sockets: contextlib.ExitStack, meet: Meet
) -> None:
    job = start_job()
    for _ in range(600):
        send_all(sockets.enter_context(connect(job.port)), b"half")
    job.goes_on()
    meet(job)
    job.ends_rightly()


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="no limit can be set here")
def test_used_up_descriptors_disturb_nobody_who_is_in(
    start_job: StartJob, sockets: contextlib.ExitStack
) -> None:
    job = start_job()
    limit = job.process.num_fds() + 20
    job.process.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
    others = [sockets.enter_context(connect(job.port)) for _ in range(100)]
    wait_until(lambda: "no more connections for now" in job.server.err, SOON_S)
    begin, used = time.monotonic(), sum(job.process.cpu_times()[:2])
    job.goes_on(100)
    used = sum(job.process.cpu_times()[:2]) - used
    assert used < (time.monotonic() - begin) / 2, "it does not try again and again"
    for sock in others:
        sock.close()
    job.start_agent()
    wait_until(lambda: job.server.err.count(" joined") == 2, SOON_S)
    job.ends_rightly()
    assert job.server.err.count("no more connections") == 1


@pytest.mark.parametrize("stage", ["handshake", "proof"])
def test_who_goes_slowly_goes_soon(start_job: StartJob, stage: str) -> None:
    """Byte after byte does not buy more time than silence does."""
    job = start_job(patch={"parasnake.gate.UNPROVEN_SECONDS": 2})
    with connect(job.port) as sock:
        if stage == "handshake":
            slow = first_message()
        else:
            sock.sendall(first_message())
            assert len(sock.recv(HANDSHAKE_BYTES + OVERHEAD, socket.MSG_WAITALL)) == 68
            slow = (16).to_bytes(4, "big") + bytes(16)
        sock.settimeout(0.1)
        for byte in slow[:-1]:
            try:
                assert not sock.recv(1000), "nothing is answered to that"
            except TimeoutError:
                send_all(sock, bytes([byte]))
            except ConnectionResetError:  # it went with a byte unread
                break
            else:
                break
        sock.settimeout(SOON_S)
        assert read_all(sock) == b""
    job.ends_rightly()
    assert "no proof within" in job.server.err


# --- with the key


def unwelcome(peer: Peer) -> None:
    peer.send(Ready(NODE))


def twice_ready(peer: Peer) -> None:
    peer.join(NODE)
    peer.send(Ready(NODE))


def twice_hello(peer: Peer) -> None:
    peer.join()
    peer.send(HELLO)


def unknown_kind(peer: Peer) -> None:
    peer.join()
    peer.send_bytes(HEADER.pack(200, 0))


def unknown_kind_at_once(peer: Peer) -> None:
    peer.send_bytes(HEADER.pack(200, 0))


def servers_kind(peer: Peer) -> None:
    peer.join()
    peer.send(Quit(QuitKind.DONE, "says an agent"))


def servers_other_kind(peer: Peer) -> None:
    peer.join()
    peer.send(Cancel(NODE, TaskId(0), Attempt(0)))


def huge_record(peer: Peer) -> None:
    peer.join()
    peer.socket.sendall(b"\xff\xff\xff\xff")


def tiny_record(peer: Peer) -> None:
    peer.join()
    peer.socket.sendall(b"\0\0\0\1")


def forged_record(peer: Peer) -> None:
    peer.join()
    peer.socket.sendall((16).to_bytes(4, "big") + bytes(16))


def huge_control_message(peer: Peer) -> None:
    peer.join()
    peer.send_bytes(HEADER.pack(LAYOUTS[Heartbeat].kind, 1 << 40))


def huge_text(peer: Peer) -> None:
    peer.join()
    peer.send_bytes(HEADER.pack(LAYOUTS[Goodbye].kind, 4) + b"\xff" * 4)


def impossible_result(peer: Peer) -> None:
    """No machine has so much memory."""
    peer.join(NODE)
    layout = LAYOUTS[Result]
    fields = layout.struct.pack(NODE, 0, 0, 0.0)
    peer.send_bytes(HEADER.pack(layout.kind, 1 << 62) + fields)


def negative_result(peer: Peer) -> None:
    """Shorter than the fields that it must have."""
    peer.join(NODE)
    peer.send_bytes(HEADER.pack(LAYOUTS[Result].kind, 3) + b"abc")


def result_without_payload(peer: Peer) -> None:
    peer.join(NODE)
    peer.send(result_of(peer.read())._replace(payload=()))


def result_in_no_time(peer: Peer) -> None:
    peer.join(NODE)
    peer.send(result_of(peer.read())._replace(seconds=math.nan))


def unasked_init(peer: Peer) -> None:
    peer.join()
    peer.send(AskInit(NODE))


@pytest.fixture(scope="module")
def steady_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """One job that many disturb."""
    job = Job(tmp_path_factory.mktemp("steady"), 10, {}, "-v")  # or lines of many are put together
    try:
        job.start_agent()
        job.goes_on()
        yield job
        job.ends_rightly()
    finally:
        job.close()


@pytest.mark.parametrize(
    "break_rule",
    [
        unwelcome,
        twice_ready,
        twice_hello,
        unknown_kind,
        unknown_kind_at_once,
        servers_kind,
        servers_other_kind,
        huge_record,
        tiny_record,
        forged_record,
        huge_control_message,
        huge_text,
        impossible_result,
        negative_result,
        result_without_payload,
        result_in_no_time,
        unasked_init,
    ],
    ids=lambda function: function.__name__,
)
def test_who_breaks_a_rule_is_dropped_with_one_line(
    steady_job: Job, meet: Meet, break_rule: Callable[[Peer], None]
) -> None:
    peer = meet(steady_job)
    break_rule(peer)
    peer.is_dropped()
    steady_job.goes_on()
    lines = [line for line in steady_job.server.err.splitlines() if peer.address in line]
    of_others = (
        "joined",
        "will be tried again",
        ": node ",
    )  # its coming, and what becomes of its task
    [line] = [line for line in lines if not any(text in line for text in of_others)]
    assert "broke the protocol" in line


def test_nobody_speaks_for_another(steady_job: Job, meet: Meet) -> None:
    """Nor takes the name of a node that is there."""
    victim, impostor, thief = (meet(steady_job) for _ in range(3))
    victim.join(NODE)
    task = victim.read()
    impostor.join()
    impostor.send(result_of(task))
    impostor.is_dropped()
    thief.join()
    thief.send(Ready(NODE))
    thief.is_dropped()
    victim.send(Heartbeat(), Goodbye("tired", ""))
    victim.is_dropped()
    steady_job.goes_on()
    log = steady_job.server.err
    assert log.count("broke the protocol: a message in the name of another") == 1
    assert f"{victim.address}) left: tired; 1 of its tasks" in log


def test_late_strange_and_repeated_results_count_for_nothing(steady_job: Job, meet: Meet) -> None:
    peer = meet(steady_job)
    peer.join(NODE)
    task = peer.read()
    assert isinstance(task, Task)
    wrong = pickle.dumps((10**9, 10))
    strange = result_of(task)._replace(payload=(wrong,))
    peer.send(
        strange._replace(task=TaskId(10**15)),
        strange._replace(attempt=Attempt(7)),
        strange._replace(node=NodeKey(b"x" * 16)),
    )
    number = pickle.loads(b"".join(bytes(part) for part in task.payload))[0]
    right = result_of(task)._replace(payload=(pickle.dumps((number * number, 10)),))
    peer.send(right, right)
    peer.send(right, Goodbye("enough", ""))
    peer.is_dropped()
    steady_job.goes_on()  # and its sum must be right in the end


def test_somebody_who_leaves_before_he_is_welcome_breaks_no_rule(
    steady_job: Job, meet: Meet
) -> None:
    peer = meet(steady_job)
    peer.send(HELLO, Goodbye("interrupted", ""))
    peer.is_dropped()
    steady_job.goes_on()
    assert "broke the protocol" not in "".join(
        line for line in steady_job.server.err.splitlines() if peer.address in line
    )


def test_a_claim_costs_no_memory(steady_job: Job, meet: Meet) -> None:
    before = steady_job.process.memory_info().rss
    layout = LAYOUTS[Result]
    fields = layout.struct.pack(NODE, 0, 0, 0.0)
    peers = [meet(steady_job) for _ in range(4)]
    for peer in peers:
        peer.join()
        peer.send_bytes(HEADER.pack(layout.kind, 512 * MEGABYTE) + fields + bytes(1000))
    steady_job.goes_on()
    assert steady_job.process.memory_info().rss < before + 50 * MEGABYTE


def test_who_does_not_read_delays_nobody(start_job: StartJob, meet: Meet) -> None:
    job = start_job(size=4 * MEGABYTE, patch={"parasnake.links.LINGER_SECONDS": 0.5})
    deaf = meet(job, receive_bytes=1 << 12)
    deaf.join()
    nodes = [NodeKey(bytes([number]) * 16) for number in range(8)]
    deaf.send(*(Ready(node) for node in nodes))
    fds = job.process.num_fds()
    job.goes_on(50)
    rss = job.process.memory_info().rss
    job.goes_on(50)
    assert job.process.memory_info().rss < rss + 30 * MEGABYTE
    deaf.send(Goodbye("and it still does not read", ""))
    wait_until(lambda: "it still does not read; 8 of its tasks" in job.server.err, SOON_S)
    job.goes_on()
    wait_until(lambda: job.process.num_fds() < fds, SOON_S)
    job.ends_rightly()
