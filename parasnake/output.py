"""What workers print: passed on at once, and the end of it kept for the report of a death.

A worker's standard output and standard error are pipes to its agent. The agent writes what comes out of
them to its own, but never waits for these: while nobody reads there, the bytes stay in the worker's
pipe, and in the end the worker waits and nobody else.

    outlets = outlets_of(loop)
    printed = Printed(loop, outlets, child.take_output())
    # the worker has died:
    printed.last_lines()
    printed.let_go()
"""

from __future__ import annotations

import os
import re
import select
from collections import deque
from collections.abc import Callable
from pathlib import Path

from parasnake.loop import READ, WRITE, Loop

PIECE_BYTES = getattr(select, "PIPE_BUF", 512)  # what POSIX promises at least
"""A pipe that can be written to takes so many bytes without a wait."""
READ_BYTES = 1 << 16
LAST_READS = 16
"""So many reads take what a dead worker has left: more than a pipe holds."""
KEPT_BYTES = 1 << 14
"""So much of the end of a worker's output is kept."""
MAX_LINES, LINE_LETTERS, TEXT_BYTES = 20, 300, 4000
"""What a report of a death may have of it."""
LINES_BEFORE_CRASH = 5
CRASH = "Fatal Python error"
"""So begins what the interpreter says about a signal like SIGSEGV: the innermost frame comes first."""

_OWN_FRAME = f'  File "{Path(__file__).parent}{os.sep}'
_ESCAPE_SEQUENCE = r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])"


class Outlet:
    """A stream of this process that other processes' output is passed on to; it never blocks.

    Parameters
    ----------
    descriptor: where to write
    """

    def __init__(self, loop: Loop, descriptor: int) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._waiting: deque[Callable[[], None]] = deque()

    def write(self, data: bytes | bytearray) -> int:
        """Write the beginning of ``data``; returns how many bytes are done with, 0 if it takes none.

        What cannot be written at all (nobody will ever read it, the disk is full) is dropped.
        """
        # Regular files, which epoll refuses, are always ready for poll.
        if not self._poll.poll(0):
            return 0
        piece = _whole_lines(data)
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:
            return 0
        except OSError:
            return len(piece)

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call this once, when something can be written again."""
        self._waiting.append(callback)
        self._loop.watch(self._descriptor, WRITE, self._ready)

    def _ready(self, _: int) -> None:
        self._loop.watch(self._descriptor, 0, self._ready)
        waiting = list(self._waiting)
        self._waiting.clear()
        for callback in waiting:
            callback()


def outlets_of(loop: Loop) -> tuple[Outlet, Outlet]:
    """Return the outlets to this process's standard output and standard error."""
    return Outlet(loop, 1), Outlet(loop, 2)


def _whole_lines(data: bytes | bytearray) -> bytes:
    """A first piece of it: lines of several workers shall not be mixed."""
    piece = bytes(data[:PIECE_BYTES])
    end = piece.rfind(b"\n") + 1
    return piece[:end] if end and len(data) > PIECE_BYTES else piece


class Tail:
    """The end of all that was printed."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._source: object = None

    def add(self, data: bytes, source: object) -> None:
        """This came from there."""
        if source is not self._source and self._data and not self._data.endswith(b"\n"):
            self._data += b"\n"
        self._source = source
        self._data += data
        if len(self._data) > 2 * KEPT_BYTES:
            del self._data[:-KEPT_BYTES]

    def text(self) -> str:
        """The last lines, for people; see ``last_lines``."""
        return last_lines(bytes(self._data[-KEPT_BYTES:]))


class _Relay:
    """One stream of a worker on its way to an outlet."""

    def __init__(self, loop: Loop, source: int, outlet: Outlet, tail: Tail) -> None:
        os.set_blocking(source, False)
        self._loop = loop
        self._source = source
        self._outlet = outlet
        self._tail = tail
        self._pending = bytearray()
        self._at_end = False
        self._blocked = False
        self.is_open = True
        loop.watch(source, READ, self._readable)

    @property
    def unwritten(self) -> bool:
        """Whether it holds something that the outlet has not taken."""
        return bool(self._pending)

    def _readable(self, _: int) -> None:
        self._read()
        self._pass_on()

    def _read(self) -> bool:
        """Take what there is; false if there is nothing (more)."""
        if self._at_end:
            return False
        try:
            data = os.read(self._source, READ_BYTES)
        except BlockingIOError:
            return False
        self._at_end = not data
        self._tail.add(data, self)
        self._pending += data
        return bool(data)

    def _pass_on(self) -> None:
        if not self.is_open or self._blocked:
            return
        while self._pending:
            count = self._outlet.write(self._pending)
            if not count:
                self._blocked = True
                self._loop.watch(self._source, 0, self._readable)
                self._outlet.when_ready(self._unblocked)
                return
            del self._pending[:count]
        if self._at_end:
            self.close()
        else:
            self._loop.watch(self._source, READ, self._readable)

    def _unblocked(self) -> None:
        self._blocked = False
        self._pass_on()

    def drain(self) -> None:
        """Take all that is there now, whether the outlet does so or not."""
        if self.is_open:
            for _ in range(LAST_READS):
                if not self._read():
                    break
            self._pass_on()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._loop.watch(self._source, 0, self._readable)
            os.close(self._source)


class Printed:
    """What one worker prints.

    Parameters
    ----------
    outlets: where its standard output and standard error go
    sources: the ends of its pipes, which belong to this object from now on; none for a worker
        whose output is no business of ours
    """

    def __init__(
        self, loop: Loop, outlets: tuple[Outlet, Outlet], sources: tuple[int, int] | None
    ) -> None:
        self._tail = Tail()
        self._relays = [
            _Relay(loop, source, outlet, self._tail)
            for source, outlet in zip(sources or (), outlets, strict=False)
        ]

    @property
    def unwritten(self) -> bool:
        """Whether something was read of it that could not be passed on yet."""
        return any(relay.is_open and relay.unwritten for relay in self._relays)

    @property
    def is_open(self) -> bool:
        """Whether more may come: also from what the worker has started, when it is dead."""
        return any(relay.is_open for relay in self._relays)

    def last_lines(self) -> str:
        """Pass on all that it has printed so far, and return the end of it as text."""
        for relay in self._relays:
            relay.drain()
        return self._tail.text()

    def close(self) -> None:
        """Take no more of it."""
        for relay in self._relays:
            relay.close()


def last_lines(output: bytes) -> str:
    """Return the end of an output as few lines that can be printed anywhere.

    Without control characters, and as a terminal would have shown it after ``\\r``. If the interpreter
    has crashed, what it said about that, without the library's own frames.
    """
    lines = [_printable(line) for line in output.decode("utf-8", "replace").split("\n")]
    lines = [line for line in lines if line.strip() and not line.startswith(_OWN_FRAME)]
    crashes = [index for index, line in enumerate(lines) if line.startswith(CRASH)]
    begin = max(0, crashes[-1] - LINES_BEFORE_CRASH) if crashes else -MAX_LINES
    lines = lines[begin:][:MAX_LINES]
    while sum(len(line.encode()) + 1 for line in lines) > TEXT_BYTES:
        lines.pop(-1 if crashes else 0)
    return "\n".join(lines)


def _printable(line: str) -> str:
    shown = line.rstrip("\r").rpartition("\r")[2]
    plain = re.sub(_ESCAPE_SEQUENCE, "", shown).expandtabs(4)
    letters = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
    text = "".join(letters).rstrip()
    return text if len(text) <= LINE_LETTERS else text[:LINE_LETTERS] + " ..."
