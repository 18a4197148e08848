"""Two ends of a connection without one: bytes go from session to session as sockets would do it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from parasnake.core.messages import Message
from parasnake.core.session import Session

KEY = b"the secret key of all these tests"[:32]
OTHER_KEY = b"another secret key, of a stranger"[:32]


def new_agent(psk: bytes = KEY, ephemeral: bytes = b"A" * 32) -> Session:
    return Session(initiator=True, psk=psk, ephemeral=ephemeral)


def new_server(psk: bytes = KEY, ephemeral: bytes = b"S" * 32) -> Session:
    return Session(initiator=False, psk=psk, ephemeral=ephemeral)


def output(session: Session, sizes: Iterator[int] | None = None) -> bytes:
    """Take all that a session wants to send, as a socket that accepts so many bytes at a time."""
    taken = bytearray()
    while session.wants_to_send:
        data = session.data_to_send()
        assert len(data), "it wants to send, but has nothing"
        count = min(len(data), next(sizes)) if sizes else len(data)
        taken += data[:count]
        session.sent(count)
    assert not len(session.data_to_send())
    return bytes(taken)


def deliver(session: Session, data: bytes, sizes: Iterator[int] | None = None) -> list[Message]:
    """Give bytes to a session in pieces of these sizes; return the messages that came out.

    Like the shell, it never hands over more than ``read_limit``, and fills ``space`` if there is one.
    """
    return list(deliveries(session, data, sizes or itertools.repeat(1 << 20)))


def deliveries(session: Session, data: bytes, sizes: Iterator[int]) -> Iterator[Message]:
    """As ``deliver``, message by message: what came out before an error is not lost."""
    view = memoryview(data)
    while view:
        space = session.space
        room = session.read_limit if space is None else len(space)
        assert room > 0
        count = min(len(view), room, next(sizes))
        if space is None:
            yield from session.receive(view[:count])
        else:
            space[:count] = view[:count]
            yield from session.filled(count)
        view = view[count:]


def shake_hands(agent: Session, server: Session) -> None:
    """Pass the handshake and both proofs, so that messages can follow."""
    assert deliver(server, output(agent)) == []
    assert deliver(agent, output(server)) == []
    assert deliver(server, output(agent)) == []
    assert agent.authenticated
    assert server.authenticated


def connected() -> tuple[Session, Session]:
    """Return an agent's and a server's session that have proven each other the key."""
    agent, server = new_agent(), new_server()
    shake_hands(agent, server)
    return agent, server
