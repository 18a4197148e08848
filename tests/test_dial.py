"""From places to a connection with somebody who holds the key, past all others."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
from callees import FakeServer, black_hole, free_port

from parasnake import dial as module
from parasnake import net
from parasnake.addresses import Place
from parasnake.core.ids import PeerId
from parasnake.core.messages import Heartbeat, Message
from parasnake.core.session import REFUSAL
from parasnake.dial import Dial, Failure
from parasnake.errors import NotParasnakeError, WrongKeyError
from parasnake.gate import Gate
from parasnake.links import Connection
from parasnake.loop import Loop

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
LOOPBACK = "127.0.0.1"
SOON_S = 20.0


class Host:
    """A server: a gate, and what came through it."""

    def __init__(self, loop: Loop, key: bytes, port: int = 0, *, has_local: bool = False) -> None:
        self.gate = Gate("dial", loop, self)
        self.gate.open(LOOPBACK, port, key, has_local=has_local)
        self.here = Place(LOOPBACK, self.gate.port)
        self.connections: list[Connection] = []
        self.messages: list[Message] = []
        self.left: list[str] = []

    def admitted(self, _: PeerId, connection: Connection, __: str) -> None:
        self.connections.append(connection)

    def heard(self, _: PeerId) -> None:
        pass

    def received(self, _: PeerId, messages: list[Message]) -> None:
        self.messages += messages

    def ended(self, _: PeerId, reason: str, __: Exception | None) -> None:
        self.left.append(reason)

    def close(self) -> None:
        self.gate.shut()
        for connection in self.connections:
            connection.close()


class Outcome:
    """What became of a dial."""

    def __init__(self) -> None:
        self.connected: list[tuple[Connection, str, list[Failure]]] = []
        self.failed: list[list[Failure]] = []
        self.messages: list[Message] = []
        self.ends: list[str] = []

    def connect(self, connection: Connection, address: str, failures: list[Failure]) -> None:
        self.connected.append((connection, address, failures))

    def __bool__(self) -> bool:
        return bool(self.connected or self.failed)

    def texts(self) -> list[str]:
        """What was told of the addresses that came to nothing."""
        failures = self.connected[0][2] if self.connected else self.failed[0]
        return [failure.text for failure in failures]


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture
def host(loop: Loop) -> Iterator[Host]:
    host = Host(loop, KEY)
    yield host
    host.close()


@pytest.fixture
def outcome() -> Iterator[Outcome]:
    outcome = Outcome()
    yield outcome
    for connection, _, _ in outcome.connected:
        connection.close()


def dial(loop: Loop, outcome: Outcome, *places: Place) -> Dial:
    return Dial(
        loop,
        places,
        KEY,
        on_connected=outcome.connect,
        on_failed=outcome.failed.append,
        on_messages=outcome.messages.extend,
        on_end=lambda reason, _: outcome.ends.append(reason),
    )


def wait_for(loop: Loop, condition: object) -> None:
    assert callable(condition)
    until = loop.now() + SOON_S
    while not condition():
        assert loop.now() < until, "it did not happen"
        loop.wait(until)


def text_of(place: Place) -> str:
    return f"{place.host}:{place.port}"


def test_a_connection_with_who_holds_the_key(loop: Loop, host: Host, outcome: Outcome) -> None:
    dial(loop, outcome, host.here)
    assert not outcome, "nothing is called before the loop runs"
    wait_for(loop, lambda: outcome)
    [(connection, address, failures)] = outcome.connected
    assert (address, failures) == (text_of(host.here), [])
    assert connection.authenticated
    connection.send(Heartbeat())
    wait_for(loop, lambda: host.messages)
    assert host.messages == [Heartbeat()]


def test_what_comes_later_and_the_end_are_told_to_the_owner(
    loop: Loop, host: Host, outcome: Outcome
) -> None:
    dial(loop, outcome, host.here)
    wait_for(loop, lambda: host.connections)
    host.connections[0].close()
    wait_for(loop, lambda: outcome.ends)
    assert outcome.ends == ["the other side closed the connection"]
    assert not outcome.failed


def test_places_are_tried_in_their_order(loop: Loop, host: Host, outcome: Outcome) -> None:
    nobody = Place(LOOPBACK, free_port())
    dial(loop, outcome, nobody, Place("no-such-host.invalid", 1), host.here, nobody)
    wait_for(loop, lambda: outcome)
    first, second = outcome.texts()
    assert first == f"{text_of(nobody)}: Connection refused"
    assert second.startswith("no-such-host.invalid: ")
    assert outcome.connected[0][1] == text_of(host.here)


def test_all_addresses_of_a_name_are_tried(
    loop: Loop, host: Host, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, ("127.0.0.2", host.here.port)), (socket.AF_INET, host.here)]
    monkeypatch.setattr(net, "resolve", lambda *_: found)
    dial(loop, outcome, Place("server.example", host.here.port))
    wait_for(loop, lambda: outcome)
    assert outcome.texts() == [f"127.0.0.2:{host.here.port}: Connection refused"]


def test_nobody_anywhere(loop: Loop, outcome: Outcome) -> None:
    places = [Place(LOOPBACK, free_port()) for _ in range(3)]
    dial(loop, outcome, *places)
    wait_for(loop, lambda: outcome)
    assert outcome.texts() == [f"{text_of(place)}: Connection refused" for place in places]
    assert [failure.refusal for failure in outcome.failed[0]] == [None] * 3
    loop.wait(loop.now())
    assert len(outcome.failed) == 1


def test_no_place_at_all(loop: Loop, outcome: Outcome) -> None:
    dial(loop, outcome)
    wait_for(loop, lambda: outcome)
    assert outcome.failed == [[]]


def test_an_address_that_swallows_everything_costs_a_moment(
    loop: Loop, host: Host, outcome: Outcome
) -> None:
    with black_hole() as silent:
        dial(loop, outcome, Place(*silent), host.here)
        wait_for(loop, lambda: outcome)
        assert outcome.connected[0][1] == text_of(host.here)
        assert outcome.texts() == [], "it has not failed, it was only slower"
        assert len(loop.descriptors()) == len({*loop.descriptors()})


def test_who_takes_the_connection_and_says_nothing_costs_a_moment(
    loop: Loop, host: Host, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a forwarder whose other end does not answer."""
    monkeypatch.setattr(module, "NEXT_ANSWER_SECONDS", 0.05)
    with socket.create_server((LOOPBACK, 0)) as silent:
        dial(loop, outcome, Place(*silent.getsockname()), host.here)
        wait_for(loop, lambda: outcome)
    assert outcome.connected[0][1] == text_of(host.here)


def test_a_server_that_is_slow_to_answer_is_waited_for(
    loop: Loop, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are called meanwhile, and the first that answers is taken."""
    monkeypatch.setattr(module, "NEXT_ANSWER_SECONDS", 0.05)
    nobody = Place(LOOPBACK, free_port())
    with Loop() as its_loop:
        host = Host(its_loop, KEY)
        trying = dial(loop, outcome, host.here, nobody)
        wait_for(loop, lambda: trying._failures)
        assert not outcome
        until = loop.now() + SOON_S
        while not outcome:
            assert loop.now() < until
            its_loop.wait(loop.now())
            loop.wait(loop.now())
        assert outcome.connected[0][1] == text_of(host.here)
        host.close()


def test_a_silent_one_is_given_up_some_time(
    loop: Loop, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    with socket.create_server((LOOPBACK, 0)) as silent:
        dial(loop, outcome, Place(*silent.getsockname()))
        wait_for(loop, lambda: outcome)
    [text] = outcome.texts()
    assert "no answer within" in text


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(REFUSAL, WrongKeyError), (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", NotParasnakeError)],
)
def test_strangers_are_passed_by_and_told_as_such(
    loop: Loop, host: Host, outcome: Outcome, answer: bytes, kind: type
) -> None:
    def greet(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer)

    with FakeServer(greet, times=2) as stranger:
        there = Place(LOOPBACK, int(stranger.port))
        dial(loop, outcome, there, host.here)
        wait_for(loop, lambda: outcome)
        [failure] = outcome.connected[0][2]
        assert failure.place == there
        assert isinstance(failure.refusal, kind)

        alone = Outcome()
        dial(loop, alone, there)
        wait_for(loop, lambda: alone)
        assert isinstance(alone.failed[0][0].refusal, kind)


def test_the_server_of_another_job_at_the_first_address(
    loop: Loop, host: Host, outcome: Outcome
) -> None:
    other = Host(loop, OTHER_KEY)
    dial(loop, outcome, other.here, host.here)
    wait_for(loop, lambda: outcome)
    assert isinstance(outcome.connected[0][2][0].refusal, WrongKeyError)
    assert outcome.connected[0][1] == text_of(host.here)
    other.close()


def test_a_forwarder_with_nothing_behind_it(loop: Loop, host: Host, outcome: Outcome) -> None:
    with FakeServer(lambda _: None) as forwarder:
        dial(loop, outcome, Place(LOOPBACK, int(forwarder.port)), host.here)
        wait_for(loop, lambda: outcome)
    [failure] = outcome.connected[0][2]
    assert failure.refusal is None, "something may be behind it some time"


def test_who_loses_the_race_is_no_stranger_to_the_server(
    loop: Loop,
    host: Host,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A node that called two addresses of one server takes the first answer and hangs up the other."""
    monkeypatch.setattr(module, "NEXT_ANSWER_SECONDS", 0.0)
    two = [Place(LOOPBACK, host.here.port), Place("localhost", host.here.port)]
    monkeypatch.setattr(net, "resolve", lambda _, port: [(socket.AF_INET, (LOOPBACK, port))])
    for _ in range(10):
        one = Outcome()
        dial(loop, one, *two)
        wait_for(loop, lambda one=one: one)
        one.connected[0][0].close()
    wait_for(loop, lambda: len(host.left) == 10)
    wait_for(loop, lambda: not host.gate._unproven)
    assert "turned away" not in caplog.text


def test_a_cancelled_dial_is_never_heard_of(loop: Loop, host: Host, outcome: Outcome) -> None:
    before = {*loop.descriptors()}
    with black_hole() as silent, socket.create_server((LOOPBACK, 0)) as mute:
        trying = dial(loop, outcome, Place(*silent), Place(*mute.getsockname()), host.here)
        wait_for(loop, lambda: len(trying._attempts) == 2)
        trying.cancel()
        trying.cancel()
        loop.wait(loop.now() + 2 * module.NEXT_SECONDS)
    assert not outcome
    assert {*loop.descriptors()} == before


def test_a_dial_cancelled_before_it_began(loop: Loop, host: Host, outcome: Outcome) -> None:
    dial(loop, outcome, host.here).cancel()
    loop.wait(loop.now())
    assert not outcome


@pytest.mark.skipif(sys.platform != "linux", reason="Unix sockets without files: Linux only")
class TestOnTheServersMachine:
    """The agent of a local run comes by a Unix socket, or else by TCP."""

    @pytest.fixture
    def port(self) -> int:
        return free_port()

    @pytest.fixture
    def host(self, loop: Loop, port: int) -> Iterator[Host]:
        host = Host(loop, KEY, port, has_local=True)
        yield host
        host.close()

    @pytest.fixture
    def stranger(self, port: int) -> Iterator[socket.socket]:
        """Somebody who has taken the name of the server's socket before it."""
        [(family, name)] = net.resolve(net.THIS_MACHINE, port)
        with socket.socket(family) as stranger:
            stranger.bind(name)
            yield stranger

    def by_both(self, loop: Loop, outcome: Outcome, port: int) -> None:
        """Come by one of the two ways."""
        dial(loop, outcome, Place(net.THIS_MACHINE, port), Place(LOOPBACK, port))
        wait_for(loop, lambda: outcome)

    def test_no_network(self, loop: Loop, host: Host, outcome: Outcome, port: int) -> None:
        self.by_both(loop, outcome, port)
        [(connection, address, failures)] = outcome.connected
        assert (connection.raw.family, address, failures) == (socket.AF_UNIX, "this machine", [])
        connection.send(Heartbeat())
        wait_for(loop, lambda: host.messages)

    def test_a_stranger_has_its_name(
        self, loop: Loop, stranger: socket.socket, host: Host, outcome: Outcome, port: int
    ) -> None:
        self.by_both(loop, outcome, port)
        assert outcome.connected[0][1] == text_of(host.here)
        assert outcome.texts() == ["this machine: Connection refused"]

    def test_a_stranger_lets_all_others_wait(
        self, loop: Loop, stranger: socket.socket, host: Host, outcome: Outcome, port: int
    ) -> None:
        stranger.listen(0)
        with socket.socket(stranger.family) as first:
            first.connect(stranger.getsockname())  # and there is room for no other
            self.by_both(loop, outcome, port)
        assert outcome.connected[0][1] == text_of(host.here)
        assert outcome.texts() == ["this machine: Connection refused"]


def test_without_such_sockets_it_is_tcp(
    loop: Loop, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "another")
    host = Host(loop, KEY, has_local=True)
    assert len(host.gate.listeners) == 1
    dial(loop, outcome, Place(net.THIS_MACHINE, host.here.port), host.here)
    wait_for(loop, lambda: outcome)
    assert outcome.connected[0][1] == text_of(host.here)
    host.close()
