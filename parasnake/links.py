"""Non-blocking links over which messages travel: encrypted to the other machine, in clear to a worker.

A link never waits. What is sent is queued by reference and goes out as the socket takes it; what comes
in is handed on as whole messages. The end of a link is told once, with its reason.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from .core.linkspeed import LinkSpeed
from .core.messages import AnswerReader, Buffer, Message, encode
from .core.session import Session, State
from .errors import ProtocolError, RefusedError
from .loop import READ, WRITE, Loop

SEND_BYTES = 1 << 22
"""A link gives way to others after it has written this much."""
IOV_PIECES = 64
"""Pieces in one gathering write to a worker."""
LINGER_SECONDS = 10.0
"""How long what is left to say may take to go out when a link is being closed."""
LAST_READS = 64
"""So many reads take what is left unread when a link ends."""

OnMessages = Callable[[list[Message]], None]
OnEnd = Callable[[str, Exception | None], None]


class Link(ABC):
    """A socket in the loop.

    Parameters
    ----------
    on_messages: is called with the messages that came in, in order
    on_end: is called once when the other side ended the link or broke a rule, with the reason as text
        and the error behind it (None for an end of file); not after ``close``
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, on_messages: OnMessages, on_end: OnEnd
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._on_messages = on_messages
        self._on_end = on_end
        self._paused = False
        self._open = True
        self._events = 0
        self._closing = False
        self._write_error: OSError | None = None
        self._watch()

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return self._open

    @property
    def raw(self) -> socket.socket:
        """The socket itself, for a forked child to close."""
        return self._socket

    @property
    def paused(self) -> bool:
        """Whether it is not read."""
        return self._paused

    def send(self, message: Message) -> None:
        """Queue a message; it goes out when the loop waits next, together with others."""
        if self._open:
            self._queue(message)
            self._loop.before_wait(self.flush)

    def send_at_once(self, message: Message) -> None:
        """Send a message to somebody who waits for it: others that may come soon go by themselves."""
        if self._open:
            self._queue(message)
            self.flush()

    def pause(self, paused: bool) -> None:
        """Stop or go on reading."""
        if self._open and paused != self._paused:
            self._paused = paused
            self._watch()

    def close(self) -> None:
        """Close at once; nothing more is told."""
        if self._open:
            self._open = False
            self._loop.watch(self._socket, 0, self._ready)
            self._socket.close()

    def close_when_sent(self) -> None:
        """Close as soon as all that was queued has gone out, in ``LINGER_SECONDS`` at the latest."""
        if not self._closing:
            self._closing = True
            self._loop.call_in(LINGER_SECONDS, self.close)
        self.flush()

    def flush(self) -> None:
        """Write as much as the socket takes now."""
        if not self._open or self._write_error is not None:
            return
        budget, more = SEND_BYTES, self._has_output()
        try:
            while more and budget > 0:
                budget -= self._write()
                more = self._has_output()
        except (BlockingIOError, InterruptedError):
            self._full()
        except OSError as error:
            # Told from the loop, never in the middle of what the owner is doing.
            self._write_error = error
            self._events = 0
            self._loop.watch(self._socket, 0, self._ready)
            self._loop.call_in(0, self._hear_last_words)
            return
        if self._closing and not more:
            self._shut()
            return
        self._watch()

    def _shut(self) -> None:
        # Unread input would turn the close into a reset, and that would eat what was just sent.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            for _ in range(LAST_READS):
                if not self._socket.recv(1 << 16):
                    break
        self.close()

    def _watch(self) -> None:
        events = READ if self._reads_socket() and not self._paused else 0
        if self._has_output():
            events |= WRITE
        if events != self._events:
            self._events = events
            self._loop.watch(self._socket, events, self._ready)

    def _reads_socket(self) -> bool:
        """Whether the socket is what is to be read just now."""
        return True

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self.flush()
        if events & READ and self._open and not self._paused:
            self._read()

    def _read(self) -> None:
        try:
            self._read_some()
        except (BlockingIOError, InterruptedError):
            pass
        except (ProtocolError, RefusedError, OSError) as error:
            self._fail(_reason(error), error)

    def _hear_last_words(self) -> None:
        """Nothing can be sent any more: take what the other side had said before it went."""
        for _ in range(LAST_READS):
            if self._open:
                self._read()
        self._end_of_file()

    def _end_of_file(self) -> None:
        error = self._write_error
        self._fail(_reason(error) if error else "the other side closed the connection", error)

    def _fail(self, reason: str, error: Exception | None) -> None:
        if self._open:
            self.close()
            self._on_end(reason, error)

    def _full(self) -> None:  # noqa: B027  # most need not know
        """The socket takes no more just now."""

    @abstractmethod
    def _queue(self, message: Message) -> None: ...

    @abstractmethod
    def _has_output(self) -> bool: ...

    @abstractmethod
    def _write(self) -> int: ...

    @abstractmethod
    def _read_some(self) -> None: ...


class Connection(Link):
    """An encrypted connection between server and agent.

    Attributes
    ----------
    on_heard: is called whenever bytes have come from an authenticated peer, before their messages
    sending, receiving: how fast it is in each direction
    on_pace: is called when ``receiving`` has another speed, if anybody wants to know
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        session: Session,
        *,
        on_messages: OnMessages,
        on_end: OnEnd,
        on_heard: Callable[[], None],
    ) -> None:
        self._session = session
        self.on_heard = on_heard
        self.sending, self.receiving = LinkSpeed(), LinkSpeed()
        self.on_pace: Callable[[], None] | None = None
        super().__init__(loop, sock, on_messages, on_end)

    @property
    def authenticated(self) -> bool:
        """Whether the peer has proven that it holds the key."""
        return self._session.authenticated

    @property
    def begun_rightly(self) -> bool:
        """Whether the peer's first message was that of one who holds the key, or a recording of it."""
        return self._session.state in (State.PROOF, State.OPEN)

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages that wait to be encrypted."""
        return self._session.queued_bytes

    def drop_unsent(self) -> None:
        """Forget the messages that have not been begun."""
        self._session.drop_unsent()

    def _queue(self, message: Message) -> None:
        self._session.send(message)

    def _has_output(self) -> bool:
        return self._session.wants_to_send

    def _write(self) -> int:
        count = self._socket.send(self._session.data_to_send())
        self._session.sent(count)
        if self.sending.is_waited_for:
            self.sending.moved(count)
            if not self._session.wants_to_send:
                self.sending.rests()
        return count

    def _full(self) -> None:
        self.sending.waits(self._loop.waited)

    def _read_some(self) -> None:
        session = self._session
        space = session.space
        room = self._loop.scratch if space is None else space
        asked = min(session.read_limit, len(room)) if space is None else len(space)
        count = self._socket.recv_into(room, asked)
        if not count:
            session.receive_end()
            self._end_of_file()
            return
        try:
            messages = session.receive(room[:count]) if space is None else session.filled(count)
        except ProtocolError:
            self._send_last_words()
            raise
        if session.authenticated:
            self.on_heard()
        if session.space is not None or self.receiving.is_waited_for:
            self._clock(count, asked)
        if session.wants_to_send:
            self._loop.before_wait(self.flush)
        if messages:
            self._on_messages(messages)

    def _clock(self, count: int, asked: int) -> None:
        """See how fast it is from what came: less than was asked for is all that there was."""
        self.receiving.moved(count)
        if self._session.space is None:
            self.receiving.rests()
        elif count < asked and self.receiving.waits(self._loop.waited) and self.on_pace:
            self.on_pace()

    def _send_last_words(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(self._session.data_to_send())
            self._socket.shutdown(socket.SHUT_WR)


class Channel(Link):
    """The agent's end of the channel to a worker: the same messages, in clear.

    Parameters
    ----------
    sock: goes to the worker and back
    answers: a pipe by which the worker says everything but long payloads, if there is one; the
        channel closes it
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        *,
        answers: int | None = None,
        on_messages: OnMessages,
        on_end: OnEnd,
    ) -> None:
        self._answers = answers
        self._reader = AnswerReader(apart=answers is not None)
        self._pieces: deque[memoryview] = deque()
        super().__init__(loop, sock, on_messages, on_end)

    @property
    def receiving(self) -> bool:
        """Whether the worker is in the middle of an answer."""
        return self._reader.unfinished

    def drain(self) -> None:
        """Read what a dead worker had written; its end is not told."""
        with contextlib.suppress(OSError, ProtocolError):
            while self._open and self._read_once():
                pass

    def close(self) -> None:
        """Close at once; nothing more is told."""
        super().close()
        answers, self._answers = self._answers, None
        if answers is not None:
            self._loop.watch(answers, 0, self._ready)
            os.close(answers)

    def _watch(self) -> None:
        super()._watch()
        if self._answers is not None:
            here = not self._paused and not self._reader.in_payload
            self._loop.watch(self._answers, READ if here else 0, self._ready)

    def _reads_socket(self) -> bool:
        return self._answers is None or self._reader.in_payload

    def _queue(self, message: Message) -> None:
        head, *payload = encode(message)
        self._pieces.append(memoryview(head))
        self._pieces += [memoryview(piece).cast("B") for piece in payload if len(piece)]

    def _has_output(self) -> bool:
        return bool(self._pieces)

    def _write(self) -> int:
        pieces = self._pieces
        if len(pieces) == 1 or not hasattr(self._socket, "sendmsg"):
            count = self._socket.send(pieces[0])
        else:
            batch = [pieces[index] for index in range(min(IOV_PIECES, len(pieces)))]
            count = self._socket.sendmsg(batch)
        left = count
        while left:
            piece = pieces[0]
            if left < len(piece):
                pieces[0] = piece[left:]
                break
            left -= len(piece)
            pieces.popleft()
        return count

    def _read_some(self) -> None:
        if not self._read_once():
            self._end_of_file()

    def _read_once(self) -> bool:
        reader, scratch = self._reader, self._loop.scratch
        was_in_payload = reader.in_payload
        if was_in_payload:
            count, messages = self._read_payload()
        elif self._answers is None:
            count = self._socket.recv_into(scratch)
            messages = reader.feed(scratch[:count])
        else:
            count = os.readv(self._answers, [scratch])
            messages = reader.feed(scratch[:count])
            if reader.in_payload:  # what fits in was sent before that
                with contextlib.suppress(OSError):  # the next read has the same to tell
                    messages += self._read_payload()[1]
        if self._answers is not None and was_in_payload != reader.in_payload:
            self._watch()
        if messages:
            self._on_messages(messages)
        return count > 0

    def _read_payload(self) -> tuple[int, list[Message]]:
        target = self._reader.target
        assert target is not None
        count = self._socket.recv_into(target)
        return count, self._reader.filled(count)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"
    return str(error)


__all__ = ["Buffer", "Channel", "Connection", "Link"]
