"""One connection, on either side: bytes in, messages out; messages in, bytes out.

The shell that owns the socket calls ``receive`` with what it read (at most ``read_limit`` bytes) and
gets messages; it calls ``send`` with messages, and as long as ``wants_to_send`` it offers
``data_to_send`` to the socket and tells by ``sent`` how much of it went.

The first record of each direction is empty. The server takes an agent for authenticated when that
record opens, because the first handshake message alone may be the replay of a recording; until then a
connection can make the server hold no more than ``HANDSHAKE_BYTES`` and one empty record.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from ..errors import HandshakeError, NotParasnakeError, RecordError, WrongKeyError
from .memory import allocate
from .messages import (
    FROM_AGENT,
    FROM_SERVER,
    OWN_BUFFER,
    Buffer,
    Message,
    MessageReader,
    encode,
)
from .noise import HANDSHAKE_BYTES, TAG_BYTES, Handshake
from .records import (
    LENGTH_BYTES,
    MAX_PLAINTEXT,
    OVERHEAD,
    Opener,
    Sealer,
    ciphertext_length,
)

REFUSAL = b"parasnake: the secret key is not the one of this server\n"
"""What a server answers, in clear, to a first message that does not open; then it closes."""

TELLING_BYTES = 20
"""An answer that begins with this many bytes of text is none of a Parasnake server.

A handshake message begins with 32 random bytes; one in 200 million looks like text for that long. And
the greeting of an SSH server, which then waits for ours, is no shorter.
"""

READ_BYTES = 1 << 22
"""Bytes that are worth reading at a time: records that are whole then need not be copied."""

GATHER_BYTES = 1 << 18
"""Small messages share a record of up to this many bytes."""

_EMPTY = memoryview(b"")
_TEXT = frozenset(range(32, 127)) | frozenset(b"\r\n\t")


class State(Enum):
    """How far a connection has come."""

    HANDSHAKE = auto()
    """Waiting for the other side's handshake message."""
    PROOF = auto()
    """Waiting for the other side's first record, which must be empty."""
    OPEN = auto()
    """Both sides have proven that they hold the key."""
    BROKEN = auto()
    """A rule was broken; nothing more is taken in."""


_SENDING = (State.PROOF, State.OPEN)


class Session:
    """One end of a connection.

    Parameters
    ----------
    initiator: true for the agent, which speaks first
    psk: the secret key, 32 bytes
    ephemeral: 32 fresh random bytes
    """

    def __init__(self, *, initiator: bool, psk: bytes, ephemeral: bytes) -> None:
        self._initiator = initiator
        self._handshake = Handshake(initiator=initiator, psk=psk, ephemeral=ephemeral)
        self._state = State.HANDSHAKE
        self._reader = MessageReader(FROM_SERVER if initiator else FROM_AGENT)
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._received = bytearray()
        self._record: _PartialRecord | None = None
        self._sealed: memoryview | None = None  # where records are made
        self._messages: deque[deque[Buffer]] = deque()
        self._cut = False  # whether the first of _messages has been sent in part
        self._outgoing = memoryview(self._handshake.write()) if initiator else _EMPTY
        self._queued_bytes = 0

    @property
    def state(self) -> State:
        """How far this connection has come."""
        return self._state

    @property
    def authenticated(self) -> bool:
        """Whether the other side has proven that it holds the key."""
        return self._state is State.OPEN

    # ---- receiving

    @property
    def read_limit(self) -> int:
        """How many bytes may be read from the socket now: few before the peer is authenticated.

        And no more than to the end of a long payload: once that has been dealt with, the next may lie
        in the same memory.
        """
        if self._state is State.OPEN:
            target = self._reader.target
            if target is None:
                return READ_BYTES
            records = -(-len(target) // MAX_PLAINTEXT)
            return min(len(target) + records * OVERHEAD - len(self._received), READ_BYTES)
        if self._state is State.HANDSHAKE:
            return HANDSHAKE_BYTES - len(self._received)
        return OVERHEAD - len(self._received) if self._state is State.PROOF else 0

    @property
    def space(self) -> memoryview | None:
        """Where the next bytes belong, if a long record is being received (else None).

        Reading from the socket straight into it and calling ``filled`` spares a copy.
        """
        return self._record.free if self._record else None

    def receive(self, data: Buffer) -> list[Message]:
        """Take bytes from the peer and return the messages that they complete, in order.

        Raises ``ProtocolError`` (the peer broke a rule) or, on the agent's side, ``RefusedError`` (it
        holds another key, or is no Parasnake server). The connection must be closed then, on the
        server's side after ``data_to_send`` has been sent.
        """
        try:
            view = memoryview(data)
            return self._take_records(view) if self._state is State.OPEN else self._take(view)
        except Exception:
            self._state = State.BROKEN
            raise

    def filled(self, count: int) -> list[Message]:
        """Take note that the first ``count`` bytes of ``space`` have been filled; as ``receive``."""
        record = self._record
        assert record is not None
        record.free = record.free[count:]
        if len(record.free):
            return []
        self._record = None
        try:
            return self._open(record.ciphertext)
        except Exception:
            self._state = State.BROKEN
            raise

    def receive_end(self) -> None:
        """Take note that the peer closed its side; raises if that says what kind of peer it was.

        Raises ``NotParasnakeError`` when an agent had got an answer that is no handshake.
        """
        if self._initiator and self._state is State.HANDSHAKE and self._received:
            self._judge_answer(complete=True)

    def _take(self, data: memoryview) -> list[Message]:
        if self._state is State.HANDSHAKE:
            data = self._take_handshake(data)
        if self._state is State.PROOF:
            data = self._take_proof(data)
        return self._take_records(data) if self._state is State.OPEN else []

    def _take_handshake(self, data: memoryview) -> memoryview:
        count = HANDSHAKE_BYTES - len(self._received)
        self._received += data[:count]
        if self._initiator:
            self._judge_answer(complete=len(self._received) == HANDSHAKE_BYTES)
        if len(self._received) < HANDSHAKE_BYTES:
            return _EMPTY
        try:
            self._handshake.read(bytes(self._received))
        except HandshakeError as error:
            if self._initiator:
                raise NotParasnakeError("what answers there is no Parasnake server") from error
            self._outgoing = memoryview(REFUSAL)
            raise
        self._received.clear()
        self._begin_records()
        return data[count:]

    def _judge_answer(self, *, complete: bool) -> None:
        answer = bytes(self._received)
        if REFUSAL.startswith(answer):
            if complete:
                raise WrongKeyError("the server holds another secret key")
            return
        too_short = complete and len(answer) < HANDSHAKE_BYTES
        text = answer[:TELLING_BYTES]
        if too_short or (len(text) == TELLING_BYTES and all(byte in _TEXT for byte in text)):
            raise NotParasnakeError("what answers there is no Parasnake server")

    def _begin_records(self) -> None:
        answer = b"" if self._initiator else self._handshake.write()
        keys = self._handshake.keys()
        self._sealer, self._opener = Sealer(keys.send), Opener(keys.receive)
        proof = self._sealer.seal(b"")
        self._outgoing = memoryview(bytes(self._outgoing) + answer + proof)
        self._state = State.PROOF

    def _take_proof(self, data: memoryview) -> memoryview:
        count = OVERHEAD - len(self._received)
        self._received += data[:count]
        length = int.from_bytes(self._received[:LENGTH_BYTES], "big")
        if len(self._received) >= LENGTH_BYTES and length != TAG_BYTES:
            raise HandshakeError("the first record is not empty")
        if len(self._received) < OVERHEAD:
            return _EMPTY
        assert self._opener is not None
        try:
            self._opener.open(bytes(self._received[LENGTH_BYTES:]))
        except RecordError as error:
            raise HandshakeError("the first record does not open") from error
        self._received.clear()
        self._state = State.OPEN
        return data[count:]

    def _take_records(self, data: memoryview) -> list[Message]:
        messages: list[Message] = []
        if self._record:
            count = min(len(data), len(self._record.free))
            self._record.free[:count] = data[:count]
            messages += self.filled(count)
            data = data[count:]
        if self._received:  # the first bytes of a length
            data = memoryview(bytes(self._received) + data)
            self._received.clear()
        position, end = 0, len(data)
        while end - position >= LENGTH_BYTES:
            start = position + LENGTH_BYTES
            position = start + ciphertext_length(data, position)
            if position <= end:
                messages += self._open(data[start:position])
            else:
                self._record = _PartialRecord(position - start, data[start:])
        if position < end:
            self._received += data[position:]
        return messages

    def _open(self, ciphertext: memoryview) -> list[Message]:
        assert self._opener is not None
        target = self._reader.target
        size = len(ciphertext) - TAG_BYTES
        if target is None or size > len(target):
            return self._reader.feed(self._opener.open(ciphertext))
        self._opener.open_into(ciphertext, target[:size])
        return self._reader.filled(size)

    # ---- sending

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages that have not been encrypted yet."""
        return self._queued_bytes

    @property
    def wants_to_send(self) -> bool:
        """Whether ``data_to_send`` has something."""
        if len(self._outgoing):
            return True
        return self._state in _SENDING and bool(self._messages)

    def send(self, message: Message) -> None:
        """Queue a message. Its payload is not copied: it must not change until it is sent."""
        head, *payload = encode(message)
        pieces: deque[Buffer] = deque([head])
        self._messages.append(pieces)
        self._queued_bytes += len(head)
        for piece in payload:
            if len(piece):
                view = memoryview(piece).cast("B")
                pieces.append(view)
                self._queued_bytes += len(view)

    def drop_unsent(self) -> None:
        """Forget all queued messages but the one that has been sent in part, if there is one."""
        keep = 1 if self._cut else 0
        while len(self._messages) > keep:
            self._queued_bytes -= sum(map(len, self._messages.pop()))

    def data_to_send(self) -> memoryview:
        """Return the next bytes for the socket; the same again until ``sent`` tells of progress."""
        if not self._outgoing and self._messages and self._state in _SENDING:
            self._seal_next()
        return self._outgoing

    def sent(self, count: int) -> None:
        """Take note that the first ``count`` bytes of ``data_to_send`` have gone out."""
        self._outgoing = self._outgoing[count:]
        if not len(self._outgoing) and not self._messages:
            self._sealed, self._outgoing = None, _EMPTY

    def _seal_next(self) -> None:
        """Make records: one long, with a short one before and one behind it where there are such."""
        assert self._sealer is not None
        if len(self._messages) == 1 and self._queued_bytes < OWN_BUFFER:  # mostly
            self._outgoing = memoryview(self._sealer.seal(b"".join(self._messages.popleft())))
            self._queued_bytes, self._cut = 0, False
            return
        plaintexts = [self._next_plaintext()]
        size = len(plaintexts[0])
        while self._messages:
            is_short = len(self._messages[0][0]) < OWN_BUFFER
            if size >= GATHER_BYTES and (not is_short or len(plaintexts[-1]) <= GATHER_BYTES):
                break
            plaintexts.append(self._next_plaintext())
            size += len(plaintexts[-1])
        self._queued_bytes -= size
        size += OVERHEAD * len(plaintexts)
        if self._sealed is None or len(self._sealed) < size:
            self._sealed = allocate(size)
        rest = self._outgoing = self._sealed[:size]
        for plaintext in plaintexts:
            rest = rest[self._sealer.seal_into(plaintext, rest) :]

    def _next_plaintext(self) -> Buffer:
        """A slice of a long piece, uncopied, or as many short pieces as fit into a record."""
        gathered: list[Buffer] = []
        size = 0
        while self._messages:
            pieces = self._messages[0]
            while pieces:
                piece = pieces[0]
                if len(piece) >= OWN_BUFFER:
                    if gathered:
                        break
                    return self._slice(pieces)
                if size + len(piece) > GATHER_BYTES:
                    break
                gathered.append(pieces.popleft())
                size += len(piece)
                self._cut = True
            if pieces:
                break
            self._messages.popleft()
            self._cut = False
        return b"".join(gathered)

    def _slice(self, pieces: deque[Buffer]) -> memoryview:
        piece = memoryview(pieces[0])
        if len(piece) > MAX_PLAINTEXT:
            pieces[0] = piece[MAX_PLAINTEXT:]
        else:
            pieces.popleft()
        self._cut = bool(pieces)
        if not pieces:
            self._messages.popleft()
        return piece[:MAX_PLAINTEXT]


class _PartialRecord:
    """A record of which the end has not arrived."""

    def __init__(self, length: int, start: memoryview) -> None:
        self.ciphertext = allocate(length)
        self.ciphertext[: len(start)] = start
        self.free = self.ciphertext[len(start) :]
