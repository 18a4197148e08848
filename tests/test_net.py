"""Sockets: where a server listens, how a node finds it, how sockets are set up."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from callees import black_hole, free_port, needs_ipv6

from parasnake import net
from parasnake.errors import ConfigurationError
from parasnake.loop import Loop

SOON_S = 20.0
NOT_OURS = "192.0.2.1"
"""An address for documentation (RFC 5737): no machine has it."""
FOUR = socket.AF_INET

Listen = Callable[[str | None, int], list[socket.socket]]
Resolver = Callable[[str, list[tuple[str, int]]], None]


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture
def listen() -> Iterator[Listen]:
    """``net.listen``, whose sockets are closed after the test."""
    made: list[socket.socket] = []

    def listen(bind: str | None, port: int) -> list[socket.socket]:
        sockets = net.listen(bind, port)
        made.extend(sockets)
        return sockets

    yield listen
    for sock in made:
        sock.close()


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def reach(host: str, port: int) -> str:
    """Connect there; return the address as text."""
    with socket.create_connection((host, port), timeout=SOON_S) as sock:
        return net.address_text(sock.getpeername())


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Give a name the addresses that a test wants."""
    names: dict[str, list[tuple[str, int]]] = {}
    original = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: object, **kwargs: object) -> list[object]:
        if host not in names:
            return list(original(host, port, *args, **kwargs))  # type: ignore[arg-type]
        return [
            (FOUR, socket.SOCK_STREAM, 6, "", (address, own_port or port))
            for address, own_port in names[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names.__setitem__


# --- listening


def test_all_interfaces_can_be_reached_by_ipv4(
    listen: Listen,
) -> None:
    [listener] = listen(None, 0)
    assert reach("127.0.0.1", port_of(listener)) == f"127.0.0.1:{port_of(listener)}"


@needs_ipv6
def test_all_interfaces_can_be_reached_by_ipv6(
    listen: Listen,
) -> None:
    [listener] = listen(None, 0)
    assert reach("::1", port_of(listener)) == f"[::1]:{port_of(listener)}"


@needs_ipv6
def test_all_interfaces_by_their_address_of_ipv6(listen: Listen) -> None:
    """``--bind ::`` does not lock IPv4 out."""
    [listener] = listen("::", 0)
    reach("::1", port_of(listener))
    reach("127.0.0.1", port_of(listener))


@needs_ipv6
def test_ipv6_alone_where_a_socket_cannot_serve_both(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    [listener] = listen("::", 0)
    reach("::1", port_of(listener))
    with pytest.raises(ConnectionRefusedError):
        reach("127.0.0.1", port_of(listener))


def test_without_ipv6_all_interfaces_are_those_of_ipv4(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    [listener] = listen(None, 0)
    assert listener.family == FOUR
    reach("127.0.0.1", port_of(listener))


def test_a_kernel_that_has_ipv6_but_no_addresses_of_it(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = socket.create_server

    def create_server(
        address: tuple[str, int], *, family: int = FOUR, **options: int
    ) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return original(address, family=family, backlog=options["backlog"])

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    monkeypatch.setattr(socket, "create_server", create_server)
    [listener] = listen(None, 0)
    assert listener.family == FOUR


def test_a_named_address_and_no_other(
    listen: Listen,
) -> None:
    [listener] = listen("127.0.0.1", 0)
    reach("127.0.0.1", port_of(listener))
    with pytest.raises(ConnectionRefusedError):
        reach("127.0.0.2", port_of(listener))


def test_all_addresses_of_a_name_get_the_same_port(listen: Listen, resolve: Resolver) -> None:
    resolve("server.example", [("127.0.0.1", 0), ("127.0.0.2", 0), ("127.0.0.1", 0)])
    one, two = listen("server.example", 0)
    assert port_of(one) == port_of(two) != 0
    reach("127.0.0.1", port_of(one))
    reach("127.0.0.2", port_of(one))


def test_an_address_of_a_name_that_this_machine_lacks_is_left_out(
    listen: Listen, resolve: Resolver
) -> None:
    """``localhost`` often means ``::1`` too, on machines without IPv6 as well."""
    resolve("server.example", [(NOT_OURS, 0), ("127.0.0.1", 0)])
    [listener] = listen("server.example", 0)
    reach("127.0.0.1", port_of(listener))


def test_listening_again_right_after_the_end(
    listen: Listen,
) -> None:
    """Old connections in TIME_WAIT do not keep a restarted server from its port."""
    [listener] = listen("127.0.0.1", 0)
    port = port_of(listener)
    with socket.create_connection(("127.0.0.1", port)):
        listener.accept()[0].close()
    listener.close()
    [again] = listen("127.0.0.1", port)
    reach("127.0.0.1", port_of(again))


@pytest.mark.parametrize("bind", [None, "127.0.0.1"])
def test_a_port_in_use_is_said_with_what_to_do(listen: Listen, bind: str | None) -> None:
    [listener] = listen(bind, 0)
    port = port_of(listener)
    with pytest.raises(ConfigurationError, match=rf"port {port} is in use.*--port"):
        net.listen(bind, port)


def test_a_port_in_use_on_one_address_of_a_name_leaves_none_open(
    listen: Listen, resolve: Resolver
) -> None:
    [listener] = listen("127.0.0.2", 0)
    port = port_of(listener)
    resolve("server.example", [("127.0.0.1", 0), ("127.0.0.2", 0)])
    with pytest.raises(ConfigurationError, match="in use"):
        net.listen("server.example", port)
    with pytest.raises(ConnectionRefusedError):
        reach("127.0.0.1", port)


@needs_ipv6
def test_a_port_in_use_on_ipv6_alone_is_in_use() -> None:
    """Else nodes that come by IPv6 would talk to somebody else's server."""
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6) as other,
        pytest.raises(ConfigurationError, match="in use"),
    ):
        net.listen(None, port_of(other))


@pytest.mark.parametrize("bind", [NOT_OURS, "no such name.invalid", "a..b"])
def test_an_address_of_another_machine(bind: str) -> None:
    with pytest.raises(ConfigurationError, match=r"bind='.*address of this machine"):
        net.listen(bind, 0)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may listen on any port"
)
def test_a_port_for_root_only() -> None:
    with pytest.raises(ConfigurationError, match=r"port 81 .*root"):
        net.listen("127.0.0.1", 81)


def test_a_port_that_the_system_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", deny)
    with pytest.raises(ConfigurationError, match=r"port 81 .*root"):
        net.listen(None, 81)


# --- calling


class Outcome:
    """What became of a call."""

    def __init__(self) -> None:
        self.connected: list[socket.socket] = []
        self.failed: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.connected or self.failed)

    def close(self) -> None:
        for sock in self.connected:
            sock.close()


@pytest.fixture
def outcome() -> Iterator[Outcome]:
    outcome = Outcome()
    yield outcome
    outcome.close()


def call(loop: Loop, outcome: Outcome, host: str, port: int) -> net.Call:
    return net.Call(
        loop,
        (FOUR, (host, port)),
        on_connected=outcome.connected.append,
        on_failed=outcome.failed.append,
    )


def wait_for(loop: Loop, condition: Callable[[], object]) -> None:
    until = loop.now() + SOON_S
    while not condition():
        assert loop.now() < until, "it did not happen"
        loop.wait(until)


def test_a_call_gives_a_socket(loop: Loop, outcome: Outcome, listen: Listen) -> None:
    [listener] = listen("127.0.0.1", 0)
    port = port_of(listener)
    call(loop, outcome, "127.0.0.1", port)
    assert not outcome, "nothing is called before the loop runs"
    wait_for(loop, lambda: outcome)
    [sock] = outcome.connected
    assert sock.getpeername() == ("127.0.0.1", port)
    assert loop.descriptors().count(sock.fileno()) == 0, "it is the caller's now"


def test_a_call_that_reaches_itself_has_reached_nobody(
    loop: Loop, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()

    class Unlucky(socket.socket):
        def connect(self, address: Any, /) -> None:
            self.bind(("127.0.0.1", port))  # the port that the system might have chosen
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Unlucky)
    call(loop, outcome, "127.0.0.1", port)
    wait_for(loop, lambda: outcome)
    assert outcome.failed == ["Connection refused"]


def test_the_wait_in_which_a_call_fails_is_not_a_long_one(loop: Loop, outcome: Outcome) -> None:
    """Its owner may want to do something about it, or to end."""
    call(loop, outcome, "no address", 3100)
    loop.wait()
    assert outcome.failed


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that takes no connection and does not say so."""
    with black_hole() as address:
        yield address


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address gets no ten seconds here."""
    monkeypatch.setattr(net, "CALL_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_silent_address_is_told_as_such(
    loop: Loop, outcome: Outcome, silent: tuple[str, int]
) -> None:
    call(loop, outcome, *silent)
    wait_for(loop, lambda: outcome)
    [text] = outcome.failed
    assert text.startswith("no answer within")


@pytest.mark.usefixtures("impatient")
def test_a_cancelled_call_is_never_heard_of(
    loop: Loop, outcome: Outcome, silent: tuple[str, int]
) -> None:
    before = set(loop.descriptors())
    trying = call(loop, outcome, *silent)
    loop.wait()
    assert set(loop.descriptors()) != before
    trying.cancel()
    trying.cancel()
    loop.wait(loop.now() + 2 * net.CALL_SECONDS)
    assert not outcome
    assert set(loop.descriptors()) == before


def test_a_call_cancelled_before_it_began(loop: Loop, outcome: Outcome) -> None:
    call(loop, outcome, "127.0.0.1", free_port()).cancel()
    loop.wait(loop.now())
    assert not outcome


# --- names


def test_all_addresses_of_a_name_are_found_once(resolve: Resolver) -> None:
    resolve("server.example", [("127.0.0.1", 0), ("127.0.0.2", 0), ("127.0.0.1", 0)])
    assert net.resolve("server.example", 7) == [
        (FOUR, ("127.0.0.1", 7)),
        (FOUR, ("127.0.0.2", 7)),
    ]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example", "\0"])
def test_what_is_no_name(host: str) -> None:
    with pytest.raises(OSError, match=r"\w"):
        net.resolve(host, 3100)


# --- sockets and addresses


def test_a_socket_is_set_up_for_small_messages_and_dead_peers(
    listen: Listen,
) -> None:
    [listener] = listen("127.0.0.1", 0)
    with socket.create_connection(listener.getsockname()) as sock:
        net.prepare(sock)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            interval = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
            probes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
            assert idle + interval * probes == 180
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="it cannot be chosen here")
def test_within_one_machine_nothing_is_sent_by_a_timer(listen: Listen) -> None:
    [listener] = listen("127.0.0.1", 0)
    with socket.create_connection(listener.getsockname()) as sock:
        net.prepare(sock)
        chosen = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert chosen.rstrip(b"\0") == b"reno"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_unix_socket_takes_much_at_a_time() -> None:
    one, two = socket.socketpair()
    before = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    net.prepare(one)
    assert not one.getblocking()
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= before
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("10.0.0.7", 3100), "10.0.0.7:3100"),
        (("::1", 3100, 0, 0), "[::1]:3100"),
        (("fe80::1%eth0", 3100, 0, 2), "[fe80::1%eth0]:3100"),
        (("::ffff:10.0.0.7", 3100, 0, 0), "10.0.0.7:3100"),
        ("", "this machine"),
        (b"\0parasnake-3100", "this machine"),
    ],
)
def test_addresses_are_written_as_people_do(address: Sequence[object], text: str) -> None:
    assert net.address_text(address) == text


class TestUnheard:
    def test_nothing_waits_for_an_answer(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as sock,
        ):
            assert net.unheard_seconds(sock) == 0.0

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
    def test_the_kernel_knows_how_far_the_other_side_is(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as sock,
        ):
            assert 0 < net.round_trip_seconds(sock) < 10

    def test_where_nobody_tells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one, other = socket.socketpair()
        with one, other:
            assert net.unheard_seconds(one) == 0.0
            monkeypatch.delattr(socket, "TCP_INFO")
            assert net.unheard_seconds(other) == 0.0
            assert net.round_trip_seconds(other) == 0.0
