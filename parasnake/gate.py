"""The server's door: it listens, and lets in who proves that it holds the key."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import socket
import sys
from typing import Protocol

from parasnake import net
from parasnake.core.ids import PeerId
from parasnake.core.messages import Message
from parasnake.core.session import Session
from parasnake.errors import HandshakeError, ProtocolError
from parasnake.links import Connection
from parasnake.loop import READ, Loop, Timer
from parasnake.report import OnceAMinute

log = logging.getLogger(__name__)

MAX_UNPROVEN = 512
"""Connections that have not proven yet that they hold the key."""
UNPROVEN_SECONDS = 10.0
"""How long a connection has to prove it ..."""
CROWDED_SECONDS = 1.0
"""... and how long when all slots are taken and others wait."""
ACCEPTS_AT_ONCE = 64
RESERVED_DESCRIPTORS = 16
"""Connections leave so many descriptors to the user's hooks, which may want to open files."""
ACCEPT_PAUSE_S = 0.5
"""Pause of accepting when descriptors are used up."""


class Host(Protocol):
    """Who gets the connections that were let in."""

    def admitted(self, peer: PeerId, connection: Connection, address: str) -> None:
        """A peer has proven that it holds the key."""

    def heard(self, peer: PeerId) -> None:
        """Bytes have come from it, now too."""

    def received(self, peer: PeerId, messages: list[Message]) -> None:
        """Messages have come from it."""

    def ended(self, peer: PeerId, reason: str, error: Exception | None) -> None:
        """It has closed its connection, or has broken a rule."""


class Gate:
    """Listening sockets and the connections that have not proven anything yet.

    Parameters
    ----------
    name: of the app, for the log
    """

    def __init__(self, name: str, loop: Loop, host: Host) -> None:
        self._name = name
        self._key = b""
        self._loop = loop
        self._host = host
        self._listeners: list[socket.socket] = []
        self._unproven: dict[PeerId, tuple[Connection, float, str]] = {}
        self._next_peer = 0
        self._descriptors = sys.maxsize
        self._accepting = False
        self._accept_timer: Timer | None = None
        self._unproven_timer: Timer | None = None
        self._may_log = OnceAMinute()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before ``open``."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    @property
    def listeners(self) -> list[socket.socket]:
        """The sockets that it listens on; none before ``open``."""
        return self._listeners

    def open(self, bind: str | None, port: int, key: bytes, *, has_local: bool = False) -> None:
        """Listen for those who hold the key; raises ``ConfigurationError`` if it cannot there.

        With an agent of its own it also listens in the way that is the cheapest on one machine.
        """
        self._key = key
        self._descriptors = _raise_descriptor_limit() - RESERVED_DESCRIPTORS
        self._listeners = net.listen(bind, port)
        if has_local:
            self._listeners += net.listen_on_this_machine(self.port)
        for listener in self._listeners:
            listener.setblocking(False)
        self._accept_more()

    def shut(self) -> None:
        """Let nobody in any more."""
        self._stop_accepting()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection, _, _ in self._unproven.values():
            connection.close()
        self._unproven.clear()

    # ---- accepting

    def _accept_more(self) -> None:
        self._accept_timer = None
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                self._loop.watch(listener, READ, self._acceptable)

    def _stop_accepting(self) -> None:
        self._accepting = False
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None
        for listener in self._listeners:
            self._loop.watch(listener, 0, self._acceptable)

    def _accept_later(self, seconds: float) -> None:
        self._stop_accepting()
        self._accept_timer = self._loop.call_in(seconds, self._accept_more)

    def _acceptable(self, _: int) -> None:
        for listener in self._listeners:
            for _ in range(ACCEPTS_AT_ONCE):
                if not self._room_for_another():
                    return
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        self._out_of_descriptors(error.errno)
                        return
                    continue  # that one went away before it was taken
                if sock.fileno() >= self._descriptors:  # the lowest free number was this high
                    sock.close()
                    self._out_of_descriptors(errno.EMFILE)
                    return
                self._accepted(sock, net.address_text(address))

    def _room_for_another(self) -> bool:
        if len(self._unproven) < MAX_UNPROVEN:
            return True
        peer_id, (connection, since, address) = next(iter(self._unproven.items()))
        waited = self._loop.now() - since
        if waited < CROWDED_SECONDS:
            self._accept_later(CROWDED_SECONDS - waited)
            return False
        connection.close()
        self._forget_unproven(peer_id, address, "silent, and others wait")
        return True

    def _out_of_descriptors(self, code: int) -> None:
        if self._may_log("descriptors", self._loop.now()):
            log.warning(
                "%s: no more connections for now: %s; those who are in go on "
                "(a higher 'ulimit -n' helps)",
                self._name,
                os.strerror(code),
            )
        self._accept_later(ACCEPT_PAUSE_S)

    def _accepted(self, sock: socket.socket, address: str) -> None:
        net.prepare(sock)
        peer_id = PeerId(self._next_peer)
        self._next_peer += 1
        connection = Connection(
            self._loop,
            sock,
            Session(initiator=False, psk=self._key, ephemeral=os.urandom(32)),
            on_messages=functools.partial(self._host.received, peer_id),
            on_end=lambda reason, error: self._ended(peer_id, reason, error),
            on_heard=lambda: self._proven(peer_id),
        )
        self._unproven[peer_id] = (connection, self._loop.now(), address)
        if self._unproven_timer is None:
            self._unproven_timer = self._loop.call_in(UNPROVEN_SECONDS, self._drop_unproven)

    def _drop_unproven(self) -> None:
        """Close what has not proven in time that it holds the key."""
        self._unproven_timer = None
        now = self._loop.now()
        for peer_id, (connection, since, address) in list(self._unproven.items()):
            when = since + UNPROVEN_SECONDS
            if now < when:  # the very sum, or rounding would call this again and again
                self._unproven_timer = self._loop.call_at(when, self._drop_unproven)
                return
            connection.close()
            self._forget_unproven(peer_id, address, f"no proof within {UNPROVEN_SECONDS:.0f} s")

    def _forget_unproven(self, peer_id: PeerId, address: str, reason: str) -> None:
        del self._unproven[peer_id]
        if self._may_log(address.rpartition(":")[0], self._loop.now()):
            log.warning("%s: turned away %s: %s", self._name, address, reason)

    def _proven(self, peer_id: PeerId) -> None:
        connection, _, address = self._unproven.pop(peer_id)
        connection.on_heard = functools.partial(self._host.heard, peer_id)
        self._host.admitted(peer_id, connection, address)

    def _ended(self, peer_id: PeerId, reason: str, error: Exception | None) -> None:
        if peer_id not in self._unproven:
            self._host.ended(peer_id, reason, error)
            return
        connection, _, address = self._unproven[peer_id]
        if connection.begun_rightly and not isinstance(error, ProtocolError):
            # A node that tries several addresses of ours takes the one that answers first.
            del self._unproven[peer_id]
            log.debug("%s: %s has left again: %s", self._name, address, reason)
            return
        if isinstance(error, HandshakeError):
            reason = "it holds another secret key, or is no Parasnake node"
        self._forget_unproven(peer_id, address, reason)


def _raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as the system allows, and return how many."""
    with contextlib.suppress(ImportError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return soft
    return sys.maxsize
