"""The way from a node to its server: all addresses are tried until one proves to be the server's.

What answers at an address may be another service, a forwarder with nothing behind it, or the server of
somebody else: only who proves to hold the key counts. The next address is begun before the last one
has failed, so that one that swallows everything costs a moment only ("happy eyeballs", RFC 8305).
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from parasnake import net
from parasnake.addresses import Place
from parasnake.core.messages import Message
from parasnake.core.session import Session
from parasnake.errors import RefusedError
from parasnake.links import Connection
from parasnake.loop import Loop, Timer

NEXT_SECONDS = 0.25
"""How long one address may take to accept before the next is called as well (RFC 8305, section 5)."""
NEXT_ANSWER_SECONDS = 3.0
"""How long one that has accepted may take to answer before the next is called as well."""
ANSWER_SECONDS = 60.0
"""How long a server may take to answer the handshake: it may be busy in a hook."""


class Failure(NamedTuple):
    """What became of one address.

    Attributes
    ----------
    place: which of the places it belongs to, or is
    text: the address and what happened
    refusal: set if what answered there will never be our server
    """

    place: Place
    text: str
    refusal: RefusedError | None = None


class Dial:
    """One try to reach the server by all of its places.

    Either ``on_connected`` is called, with a connection whose other end holds the key, its address and
    what became of the addresses before it; or ``on_failed``, with what became of all. Neither is called
    before the loop waits next, nor after ``cancel``.

    Parameters
    ----------
    places: in the order in which they are to be tried
    key: the secret key, 32 bytes
    on_messages, on_end: of the connection, see ``Link``
    """

    def __init__(
        self,
        loop: Loop,
        places: Sequence[Place],
        key: bytes,
        *,
        on_connected: Callable[[Connection, str, list[Failure]], None],
        on_failed: Callable[[list[Failure]], None],
        on_messages: Callable[[list[Message]], None],
        on_end: Callable[[str, Exception | None], None],
    ) -> None:
        self.loop = loop
        self.key = key
        self.on_messages = on_messages
        self.on_end = on_end
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._places = deque(places)
        self._addresses: deque[tuple[Place, net.Address]] = deque()
        self._attempts: list[_Attempt] = []
        self._failures: list[Failure] = []
        self._over = False
        self._timer: Timer | None = loop.call_in(0, self._try_next)

    def cancel(self) -> None:
        """Give up silently."""
        self._over = True
        self._next_in(None)
        for attempt in self._attempts:
            attempt.drop()
        self._attempts.clear()

    def _next_in(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_in(seconds, self._try_next) if seconds is not None else None

    def _try_next(self) -> None:
        self._timer = None
        self._look_up()
        if self._addresses:
            self._attempts.append(_Attempt(self, *self._addresses.popleft()))
            self._next_in(NEXT_SECONDS)
        elif not self._attempts and not self._over:
            self._over = True
            self._on_failed(self._failures)

    def _look_up(self) -> None:
        """Get addresses from the next place that has some."""
        while self._places and not self._addresses:
            place = self._places.popleft()
            try:
                found = net.resolve(*place)
            except OSError as error:  # the name may come up later: a machine that boots
                self._failures.append(Failure(place, f"{place.host}: {error.strerror or error}"))
            else:
                self._addresses.extend((place, address) for address in found)

    # ---- what attempts tell

    def accepted(self) -> None:
        """Somebody is there, and has more time to answer than another has to be there."""
        if self._timer is not None:
            self._next_in(NEXT_ANSWER_SECONDS)

    def failed(self, attempt: _Attempt, failure: Failure) -> None:
        """One address has come to nothing."""
        self._attempts.remove(attempt)
        self._failures.append(failure)
        self._next_in(0)

    def proven(self, attempt: _Attempt, connection: Connection) -> None:
        """The server is found."""
        self._attempts.remove(attempt)
        self.cancel()
        self._on_connected(connection, attempt.text, self._failures)


class _Attempt:
    """One address: a connection, a handshake, and then it is the server's or nothing."""

    def __init__(self, dial: Dial, place: Place, address: net.Address) -> None:
        self._dial = dial
        self._place = place
        self._connection: Connection | None = None
        self._timer: Timer | None = None
        self._proven = False
        self.text = net.address_text(address[1])
        self._call = net.Call(
            dial.loop, address, on_connected=self._accepted, on_failed=self._failed
        )

    def drop(self) -> None:
        """Let go of it silently."""
        self._call.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.close()

    def _accepted(self, sock: socket.socket) -> None:
        net.prepare(sock)
        loop = self._dial.loop
        connection = self._connection = Connection(
            loop,
            sock,
            Session(initiator=True, psk=self._dial.key, ephemeral=os.urandom(32)),
            on_messages=self._dial.on_messages,
            on_end=self._ended,
            on_heard=self._heard,
        )
        loop.before_wait(connection.flush)
        self._timer = loop.call_in(ANSWER_SECONDS, self._no_answer)
        self._dial.accepted()

    def _heard(self) -> None:
        if not self._proven:
            self._proven = True
            connection, self._connection = self._connection, None
            assert connection is not None and self._timer is not None
            self._timer.cancel()
            self._dial.proven(self, connection)

    def _no_answer(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._failed(f"no answer within {ANSWER_SECONDS:.0f} s")

    def _ended(self, reason: str, error: Exception | None) -> None:
        if self._proven:
            self._dial.on_end(reason, error)
            return
        assert self._timer is not None
        self._timer.cancel()
        self._failed(reason, error if isinstance(error, RefusedError) else None)

    def _failed(self, reason: str, refusal: RefusedError | None = None) -> None:
        self._dial.failed(self, Failure(self._place, f"{self.text}: {reason}", refusal))
