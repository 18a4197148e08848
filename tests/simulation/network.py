"""Sockets that are none, with what networks do to them, and the loop that waits for them.

A ``Wire`` is one connection. Bytes arrive in order, after some time, and are read in pieces of any
size. It can be slow, be cut (both ends hear of it soon, or one of them much later), or go dead
without a word; what was on its way is lost then.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol

from parasnake.loop import READ, WRITE, Handler, Timer

from .world import World

SCRATCH_BYTES = 1 << 16
WINDOW = 1 << 16
"""A sender is stopped when so many bytes are on their way."""
PAIR_WINDOW = 1 << 30
"""Nobody waits until the other process on the same machine has read what it was told."""
LATENCIES = (0.0002, 0.01, 0.2)
NOTICED_LATE_S = (5.0, 60.0)
"""When the end of a connection is noticed where no reset arrives."""


class Wire:
    """One connection: two ends and how it is with the network between them.

    Parameters
    ----------
    is_pair: both ends are on one machine, where a reset leaves what has arrived
    """

    def __init__(self, world: World, *, is_pair: bool = False) -> None:
        self.world = world
        self.is_pair = is_pair
        self.window = PAIR_WINDOW if is_pair else WINDOW
        self.latency = 0.0 if is_pair else world.random.choice(LATENCIES)
        self.dead = False
        self.held_up_until = 0.0
        self.troubled = False
        """Whether anything happened to it, or to the agent at its end, that may look like a loss."""
        self.agent = End(self, "agent")
        self.server = End(self, "server")
        self.agent.other, self.server.other = self.server, self.agent

    def arrival(self) -> float:
        """When arrives what is sent now."""
        return max(self.world.now, self.held_up_until) + self.latency

    def hold_up(self, seconds: float) -> None:
        """Nothing arrives for so long; nothing is lost."""
        self.troubled = True
        self.held_up_until = max(self.held_up_until, self.world.now + seconds)

    def cut(self, *, agent_hears: float, server_hears: float) -> None:
        """Lose all that is on its way; the two ends hear of it after so many seconds."""
        self.troubled = self.dead = True
        self.world.after(agent_hears, lambda: self.agent.fail(errno.ETIMEDOUT))
        self.world.after(server_hears, lambda: self.server.fail(errno.ETIMEDOUT))


class Notified(Protocol):
    """Who waits for an end of a connection."""

    def notify(self, source: End, /) -> None:
        """It may have become ready."""


class End:
    """One end of a connection, with the methods of a socket that links.py uses."""

    other: End

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self.loop: Notified | None = None
        self.closed = False
        self._shut = False
        self._inbox = bytearray()
        self._ended = False
        self._error: int | None = None
        self._on_way = 0
        self._last_arrival = 0.0

    # ---- as a socket

    def setblocking(self, _: bool) -> None:
        """It never blocks."""

    def fileno(self) -> int:
        """Below any limit."""
        return 0

    def getsockopt(self, *_: int) -> bytes:
        """It is no socket of TCP, and does not tell what is unanswered: ``cut`` tells the ends."""
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def send(self, data: memoryview) -> int:
        """Take some of these bytes."""
        self._check()
        if self._shut:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        window = self.wire.window
        if self._on_way >= window:
            raise BlockingIOError
        random = self.wire.world.random
        taken = bytes(data[: window if random.random() < 0.9 else random.randint(1, len(data))])
        self._on_way += len(taken)
        self._later(lambda: self._arrive(taken))
        return len(taken)

    def sendmsg(self, pieces: Iterable[memoryview]) -> int:
        """Take some of these bytes."""
        return self.send(memoryview(b"".join(pieces)))

    def recv_into(self, room: memoryview, nbytes: int = 0) -> int:
        """Give some of the bytes that have arrived, at most ``nbytes`` if that is not 0."""
        if not self._inbox:
            self._check()
            if self._ended:
                return 0
            raise BlockingIOError
        size = min(nbytes or len(room), len(self._inbox))
        random = self.wire.world.random
        if random.random() < 0.2:
            size = random.randint(1, size)
        room[:size] = self._inbox[:size]
        del self._inbox[:size]
        return size

    def recv(self, size: int) -> bytes:
        """Give some of the bytes that have arrived."""
        room = bytearray(size)
        return bytes(room[: self.recv_into(memoryview(room))])

    def shutdown(self, _: int) -> None:
        """Nothing more will be sent."""
        self._check()
        self._end_stream()

    def close(self) -> None:
        """Close; if bytes were unread, the other end gets a reset."""
        if self.closed:
            return
        unread = bool(self._inbox)
        if self.name == "agent":
            self.wire.troubled = True
        self._end_stream()
        self.closed = True
        if unread:
            self._later(lambda: self.other.fail(errno.ECONNRESET))

    # ---- what the network does

    def ready(self) -> int:
        """Events for which it is ready."""
        if self._error is not None:
            return READ | WRITE
        readable = READ if self._inbox or self._ended else 0
        return readable | (WRITE if self._on_way < self.wire.window else 0)

    def fail(self, code: int) -> None:
        """The network says that this connection has ended so."""
        if self.closed or self._error is not None:
            return
        self._error = code
        if code == errno.ECONNRESET and not self.wire.is_pair and self.wire.world.chance(0.5):
            self._inbox.clear()
        self._notify()

    def _end_stream(self) -> None:
        if not self._shut:
            self._shut = True
            self._later(self.other.hear_end)

    def hear_end(self) -> None:
        """The other side has said all."""
        if not self.closed:
            self._ended = True
            self._notify()

    def _arrive(self, data: bytes) -> None:
        other = self.other
        self._on_way -= len(data)
        self._notify()
        if other.closed:
            self._later(lambda: self.fail(errno.ECONNRESET))
            return
        other._inbox += data
        other._notify()

    def _later(self, event: Callable[[], None]) -> None:
        """Let this happen at the other end when what was sent until now is there."""
        wire = self.wire
        when = self._last_arrival = max(self._last_arrival, wire.arrival())

        def happen() -> None:
            if wire.dead:
                return
            if wire.held_up_until > wire.world.now:
                wire.world.at(wire.held_up_until, happen)
            else:
                event()

        wire.world.at(when, happen)

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if self._error is not None:
            raise OSError(self._error, "the network says so")

    def _notify(self) -> None:
        if self.loop is not None:
            self.loop.notify(self)


class Listener:
    """A listening socket."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None
        self.open = True
        self._pending: list[End] = []

    def setblocking(self, _: bool) -> None:
        """It never blocks."""

    def getsockname(self) -> tuple[str, int]:
        """Where it listens."""
        return "", 3100

    def ready(self) -> int:
        """Events for which it is ready."""
        return READ if self._pending else 0

    def accept(self) -> tuple[End, tuple[str, int]]:
        """Take the next connection."""
        if not self._pending:
            raise BlockingIOError
        return self._pending.pop(0), ("10.0.0.1", 40000)

    def connect(self, end: End) -> None:
        """Somebody has connected."""
        self._pending.append(end)
        if self.loop is not None:
            self.loop.notify(self)

    def close(self) -> None:
        """Listen no more."""
        self.open = False
        for end in self._pending:
            end.close()
        self._pending.clear()


Source = End | Listener


class VirtualLoop:
    """What ``parasnake.loop.Loop`` is, on the clock of the world.

    Parameters
    ----------
    on_ready: is called when something has become ready
    machine: whose loop it is, if it is that of an agent
    """

    def __init__(
        self, world: World, on_ready: Callable[[], None] = lambda: None, machine: Any = None
    ) -> None:
        self.machine = machine
        self._world = world
        self._on_ready = on_ready
        self._watched: dict[Source, tuple[int, Handler]] = {}
        self._perhaps: dict[Source, None] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._before_wait: dict[Callable[[], None], None] = {}
        self._woken = False
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))

    def now(self) -> float:
        """The time."""
        return self._world.now

    @property
    def waited(self) -> float:
        """The time that was spent in waiting: nothing else takes any."""
        return self._world.now

    def close(self) -> None:
        """Watch nothing any more."""
        self._watched.clear()

    @contextlib.contextmanager
    def signals(self, _: Iterable[int], __: Callable[[int], None], **___: object) -> Iterator[None]:
        """Signals come from the faults."""
        yield

    def wake(self) -> None:
        """End the current wait."""
        self._woken = True
        self._on_ready()

    def watch(self, source: Source, events: int, handler: Handler) -> None:
        """As ``Loop.watch``."""
        if not events:
            self._watched.pop(source, None)
            return
        self._watched[source] = events, handler
        source.loop = self
        self.notify(source)

    def notify(self, source: Source) -> None:
        """This one may have become ready."""
        if source in self._watched:
            self._perhaps[source] = None
            self._on_ready()

    def before_wait(self, callback: Callable[[], None]) -> None:
        """As ``Loop.before_wait``."""
        self._before_wait[callback] = None
        self._on_ready()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """As ``Loop.call_at``."""
        timer = Timer(when, callback)
        heappush(self._timers, (when, next(self._order), timer))
        self._on_ready()
        return timer

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """As ``Loop.call_in``."""
        return self.call_at(self.now() + seconds, callback)

    # ---- the wait, in parts

    def flush(self) -> None:
        """Do what is to be done before a wait."""
        while self._before_wait:
            callback = next(iter(self._before_wait))
            del self._before_wait[callback]
            callback()

    def due(self, until: float | None) -> float | None:
        """When this wait ends if nothing comes; now, if something is ready."""
        if self._woken or self._ready():
            return self._world.now
        while self._timers and self._timers[0][2].callback is None:
            heappop(self._timers)
        times = [t for t in (until, *(timer[0] for timer in self._timers[:1])) if t is not None]
        return max(min(times), self._world.now) if times else None

    def handle(self) -> None:
        """Do what is due and what is ready."""
        self._woken = False
        for source, events in self._ready():
            if source in self._watched:
                self._watched[source][1](events)
        while self._timers and self._timers[0][0] <= self._world.now:
            _, _, timer = heappop(self._timers)
            if timer.callback is not None:
                timer.callback()

    def _ready(self) -> list[tuple[Source, int]]:
        found = []
        for source in list(self._perhaps):
            wanted = self._watched.get(source)
            events = source.ready() & wanted[0] if wanted is not None else 0
            if events:
                found.append((source, events))
            else:
                del self._perhaps[source]
        return found
