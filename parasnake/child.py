"""The child's side of a process start: what happens in it before and after its entry is called.

A child is joined to its parent by one channel, leads a process group of its own, and holds
nothing else of its parent's. ``processes.start`` brings a process here, by ``forked`` or by
``spawned``; neither ever returns.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import NoReturn, Protocol

from parasnake import isolation, payload, script
from parasnake.isolation import ParentWatch

Entry = Callable[[socket.socket], object]
BootErrorReport = Callable[[socket.socket, str], object]

# EX_SOFTWARE of sysexits.h.
BOOT_FAILED = 70

_LENGTH = struct.Struct(">Q")


class Closable(Protocol):
    """A socket, a selector, a file: whatever gives its descriptors up when it is closed."""

    def close(self) -> object:
        """Give the descriptors up, in this process only."""


class Role(Enum):
    """What a child is there for."""

    WORKER = "worker"
    """It runs user code: SIGINT and SIGTERM do nothing, its random generators are reseeded, its
    thread pools are limited."""
    AGENT = "agent"
    """It is an agent: it installs its signal handlers itself and starts workers of its own."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a child must know about its life.

    Attributes
    ----------
    role: what it is there for
    parent_pid: the process that started it
    parent_watch: how it learns of that one's death
    pool_size: how many threads a numeric library may use, ``None`` to leave that alone
    on_boot_error: is called with the channel and a text when the script or the entry cannot be
        loaded; without it, or when it fails, the text goes to standard error
    """

    role: Role
    parent_pid: int
    parent_watch: ParentWatch
    pool_size: int | None
    on_boot_error: BootErrorReport | None


@dataclass(frozen=True, slots=True)
class BootRecord:
    """The first thing that a spawned child gets through its channel.

    ``entry`` stays in bytes until the script is loaded, for it may refer to it.
    """

    conditions: Conditions
    arguments: list[str]
    script: script.Script | None
    entry: bytes


def forked(
    entry: Entry,
    channel: socket.socket,
    conditions: Conditions,
    closing: Iterable[Closable],
    *,
    output: tuple[int, int] | None,
    limit_pools: Callable[[], None] | None,
) -> NoReturn:
    """Live as a forked child: prepare, call ``entry(channel)``, leave.

    ``closing`` are the objects of the parent whose descriptors the child must not hold. They are
    closed as objects, so that none of them can close a later file that got its number. ``output``
    are the pipes that become standard output and standard error; ``limit_pools`` holds the thread
    pools of numeric libraries to their size.
    """
    status = BOOT_FAILED
    try:
        for stream, descriptor in enumerate(output or (), start=1):
            os.dup2(descriptor, stream)
        with suppress(OSError):
            os.setpgid(0, 0)
        shed = partial(_shed_inheritance, entry, channel, closing, limit_pools)
        status = _live(channel, conditions, shed)
    finally:
        _leave(status)


def spawned(descriptor: int) -> NoReturn:
    """Live as a spawned child, in a fresh interpreter whose channel has this descriptor."""
    status = BOOT_FAILED
    try:
        os.set_inheritable(descriptor, False)
        channel = socket.socket(fileno=descriptor)
        record: BootRecord = payload.loads(_receive(channel))
        status = _live(channel, record.conditions, partial(_load, record))
    finally:
        _leave(status)


def _live(channel: socket.socket, conditions: Conditions, boot: Callable[[], Entry]) -> int:
    """Make the process ready, call its entry and return the exit status."""
    runs_user_code = conditions.role is Role.WORKER
    try:
        isolation.die_with_parent(
            conditions.parent_watch, parent_pid=conditions.parent_pid, channel=channel.fileno()
        )
        isolation.set_signal_handlers(deaf=runs_user_code)
        isolation.let_output_through()
        # Left open in a process that user code forks, the channel would hide this one's death
        # from the parent.
        os.register_at_fork(after_in_child=channel.close)
        if runs_user_code:
            isolation.hear_in_forks()
            isolation.tell_of_crashes()
        entry = boot()
        if runs_user_code:
            # A script may have set handlers and seeds of its own while it was loaded.
            isolation.set_signal_handlers(deaf=True)
            isolation.reseed_random_generators()
    except KeyboardInterrupt:  # whoever sent it knows
        return 128 + signal.SIGINT
    except BaseException as error:
        _report_boot_error(channel, conditions, error)
        return BOOT_FAILED
    return _call(entry, channel)


def _shed_inheritance(
    entry: Entry,
    channel: socket.socket,
    closing: Iterable[Closable],
    limit_pools: Callable[[], None] | None,
) -> Entry:
    isolation.collect_no_inheritance()
    for resource in closing:
        resource.close()
    isolation.seal_descriptors(keep=channel.fileno())
    isolation.read_nothing()
    if limit_pools is not None:
        limit_pools()
    return entry


def _load(record: BootRecord) -> Entry:
    sys.argv[:] = record.arguments
    if record.script is not None:
        script.load(record.script)
    entry: Entry = payload.loads(record.entry)
    return entry


def _call(entry: Entry, channel: socket.socket) -> int:
    try:
        entry(channel)
    except SystemExit as exit_:
        return _exit_status(exit_.code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit_status(code: str | int | None) -> int:
    """What ``sys.exit(code)`` means to the interpreter."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _leave(status: int) -> NoReturn:
    """End the process without what a forked child has from its parent.

    The parent's ``atexit`` functions, test runners and half-written files must not run or be
    written twice. Threads that user code left running end here too.
    """
    flush_output()
    os._exit(status)


def flush_output() -> None:
    """Write out what stands in the buffers of stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        # Streams may be None, closed, replaced by anything, or lead to a broken pipe.
        with suppress(Exception):
            stream.flush()


def _report_boot_error(
    channel: socket.socket, conditions: Conditions, error: BaseException
) -> None:
    text = script.explain_failure(error)
    if conditions.on_boot_error is not None:
        with suppress(Exception):
            conditions.on_boot_error(channel, text)
            return
    print(text, file=sys.stderr, end="")


def serialised(value: object) -> bytes:
    """The bytes of an entry or a record; see ``payload.dumps`` for what can be in it."""
    return b"".join(payload.dumps(value, name="entry").parts)


def framed(record: BootRecord) -> bytes:
    """The bytes that carry a record through the channel."""
    data = serialised(record)
    return _LENGTH.pack(len(data)) + data


def _receive(channel: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))
    return _receive_exactly(channel, length)


def _receive_exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = channel.recv(length - len(data))
        if not part:
            raise EOFError("the parent has gone before it had sent the boot record")
        data += part
    return bytes(data)
