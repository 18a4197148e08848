"""Sockets: where to listen, whom to call, how one is set up, how an address is written.

TCP; and between a server and an agent that it has started itself a Unix socket, where there are such
without files (Linux): its name is made of the server's port. What crosses it costs the kernel less.
Whoever has taken that name before can do no harm: the handshake tells, and the agent then uses TCP.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .errors import ConfigurationError
from .loop import WRITE, Loop, Timer

BACKLOG = 4096
CALL_SECONDS = 10.0
"""How long one address may take to accept a connection."""

THIS_MACHINE = "this machine"
"""A host whose address is a Unix socket; no setting can name it."""
UNIX_BUFFER_BYTES = 1 << 21
"""The kernel's room for what one side has sent and the other not read; TCP finds its own measure."""

Address = tuple[int, Any]
"""Family, and what a socket of it is bound or connected to."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 60, 15, 8
"""A peer whose kernel answers no probe is gone: that is noticed after three minutes of silence."""

KEEPALIVE_SECONDS = KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES
_TCP_INFO = struct.Struct("=HBB52xI8xI")
"""Of Linux: tcpi_retransmits, tcpi_probes, at byte 56 tcpi_last_ack_recv in milliseconds, and at byte
68 tcpi_rtt in microseconds."""


def prepare(sock: socket.socket) -> None:
    """Set up a connected socket: no delays, and probes from the kernel when all is quiet."""
    sock.setblocking(False)
    if _is_unix(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER_BYTES)
        return
    with contextlib.suppress(OSError):  # gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _leave_pacing_to_networks(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_unix(sock: socket.socket) -> bool:
    return hasattr(socket, "AF_UNIX") and sock.family == socket.AF_UNIX


def _leave_pacing_to_networks(sock: socket.socket) -> None:
    """Within one machine, have the sender held back by nothing but its receiver.

    Where BBR is the default it doses what is sent by timers, on loopback too: data then takes half as
    much processor time again, and twice the time. Reno is in every kernel, and allowed to everybody.
    """
    same_machine = sock.getsockname()[0] == sock.getpeername()[0]
    if same_machine and hasattr(socket, "TCP_CONGESTION"):
        with contextlib.suppress(OSError):  # not on this system
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def unheard_seconds(sock: socket.socket) -> float:
    """Tell for how long the kernel of the other side has left unanswered what was sent to it.

    0.0 while nothing waits for an answer, and where the system does not tell (it is not Linux).
    Keepalive does not notice a cut cable while something is on its way, such as a heartbeat: then TCP
    only sends that again, for a quarter of an hour or more.
    """
    retransmits, probes, last_heard_ms, _ = _tcp_info(sock)
    return last_heard_ms / 1000 if retransmits or probes else 0.0


def round_trip_seconds(sock: socket.socket) -> float:
    """Tell how long bytes and their acknowledgement take; 0.0 where the system does not tell."""
    return _tcp_info(sock)[-1] / 1_000_000


def _tcp_info(sock: socket.socket) -> tuple[int, int, int, int]:
    if not hasattr(socket, "TCP_INFO"):
        return 0, 0, 0, 0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        _, retransmits, probes, last_heard_ms, round_trip_us = _TCP_INFO.unpack(info)
    except (OSError, struct.error):  # not TCP, or another layout
        return 0, 0, 0, 0
    return retransmits, probes, last_heard_ms, round_trip_us


def address_text(address: Sequence[object]) -> str:
    """Write a socket address as people do: ``10.0.0.7:3100``, ``[fe80::1]:3100``."""
    if isinstance(address, (str, bytes)):
        return THIS_MACHINE
    host, port = str(address[0]), address[1]
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")  # an IPv4 peer of a socket for both
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(bind: str | None, port: int) -> list[socket.socket]:
    """Return listening sockets for an address, or for all interfaces (None).

    ``::`` is all interfaces too, and an error where there is no IPv6.

    Raises ``ConfigurationError`` if the address is not one of this machine or the port is in use.
    """
    try:
        if bind is None:
            return [_listen_everywhere(port)]
        if bind == "::" and socket.has_dualstack_ipv6():
            return [_listen_on_both(port)]
        return _listen_on_all(resolve(bind, port, socket.AI_PASSIVE), port)
    except OSError as error:
        raise _cannot_listen(bind, port, error) from error


def listen_on_this_machine(port: int) -> list[socket.socket]:
    """Return what ``THIS_MACHINE`` with this port is connected to; nothing where that is impossible."""
    try:
        ((family, name),) = resolve(THIS_MACHINE, port)
        return [_listen(family, name)]
    except OSError:
        return []


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _listen_on_both(port)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


def _listen_on_both(port: int) -> socket.socket:
    return socket.create_server(
        ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
    )


def _listen_on_all(addresses: list[Address], port: int) -> list[socket.socket]:
    """All addresses of one name, and the same port for each; those that are not here are left out."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                sockets.append(_listen(family, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error  # "localhost" is ::1 too where there is no IPv6
            else:
                port = sockets[-1].getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    if missing is not None and not sockets:
        raise missing
    return sockets


def resolve(host: str, port: int, flags: int = 0) -> list[Address]:
    """Return the addresses of a host; raises ``OSError`` also for what can be no name."""
    if host == THIS_MACHINE:
        if sys.platform != "linux":
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return [(socket.AF_UNIX, f"\0parasnake-{port}".encode())]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except ValueError as error:
        raise OSError(0, "this is no host name") from error
    return [(family, address) for family, _, _, _, address in dict.fromkeys(found)]


def _listen(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix" and not _is_unix(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _cannot_listen(bind: str | None, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"port {port} is in use: another server runs there; "
            "choose another port (--port), or 0 for any free one"
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(f"port {port} may not be used: ports below 1024 need root")
    return ConfigurationError(
        f"bind={bind!r}: the server cannot listen there: {error.strerror or error}; "
        "it must be an address of this machine"
    )


class Call:
    """One try to connect to an address.

    Exactly one of the callbacks is called, unless ``cancel`` comes first: ``on_connected`` with the
    socket or ``on_failed`` with the reason. Neither is called before the loop waits next.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        *,
        on_connected: Callable[[socket.socket], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._family, self._address = address
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._socket: socket.socket | None = None
        self._timer: Timer | None = loop.call_in(0, self._begin)

    def cancel(self) -> None:
        """Give up silently."""
        self._drop_socket()
        self._stop_timer()

    def _begin(self) -> None:
        try:
            self._socket = socket.socket(self._family, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            self._socket.connect(self._address)
        except BlockingIOError:
            assert self._socket is not None
            self._loop.watch(self._socket, WRITE, self._answered)
            self._timer = self._loop.call_in(CALL_SECONDS, self._too_slow)
        except OSError as error:
            self._failed(error.strerror or str(error))
        else:
            self._answered(WRITE)

    def _answered(self, _: int) -> None:
        sock = self._socket
        assert sock is not None
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(os.strerror(code))
            return
        try:
            # TCP lets a socket call itself, if the system chose the very port that it dials. A Unix
            # socket that nobody accepts, though somebody listens, has no peer.
            alone = sock.getsockname() == sock.getpeername()
        except OSError:
            alone = True
        if alone:
            self._failed(os.strerror(errno.ECONNREFUSED))
            return
        self._socket = None
        self._loop.watch(sock, 0, self._answered)
        self._stop_timer()
        self._on_connected(sock)

    def _too_slow(self) -> None:
        self._failed(f"no answer within {CALL_SECONDS:.0f} s")

    def _failed(self, reason: str) -> None:
        self.cancel()
        self._on_failed(reason)

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._loop.watch(self._socket, 0, self._answered)
            self._socket.close()
            self._socket = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
