"""A node in the calling process: user code here, the connection and its heartbeat in a helper.

The helper is a fresh interpreter that runs an ordinary agent with one worker: the process that
started it. The two are joined by the worker's channel, and by a second socket over which the
helper reports: its log, which goes on here, and the error with which it ended.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import select
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from parasnake import errors, processes
from parasnake.agent import Agent
from parasnake.child import Closable
from parasnake.config import Config
from parasnake.core.ids import NodeKey
from parasnake.core.messages import Buffer
from parasnake.death import Death
from parasnake.errors import ConnectionLostError, ParasnakeError
from parasnake.worker import NodeHooks, Worker, WorkerEnd

LEAVE_SECONDS = 5.0
"""How long the helper may take to end when it has nothing more to do."""
MAX_TEXT = 8000
"""Characters of one log line or error: a report fits into a socket's buffer."""

_log = logging.getLogger("parasnake")


class NodeHere:
    """One node in the calling process, from the start of its helper to the end of that.

    Parameters are those of ``Agent``, and instead of its staff:

    hooks: the user's functions
    node: the node's own id
    """

    def __init__(
        self,
        app_name: str,
        digest: str,
        config: Config,
        key: bytes | None,
        *,
        hooks: NodeHooks,
        node: NodeKey,
    ) -> None:
        self._hooks = hooks
        self._node = node
        self._settings = (app_name, digest, config, key)
        self._lock = threading.Lock()
        self._child: processes.Child | None = None
        self._stopped = False
        self._abandoned = False

    def stop(self) -> None:
        """Hand back the task and have ``run`` return when ``process`` does; from any thread."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.terminate()

    def abandon(self) -> None:
        """Leave the server without a word; the result of a ``process`` that runs is dropped."""
        with self._lock:
            self._stopped = self._abandoned = True
            if self._child is not None:
                _hang_up(self._child.channel)

    def run(self) -> None:
        """Work until the server says quit.

        Raises
        ------
        ConnectError, ConnectionLostError, RefusedError, NodeFailed, Interrupted: as ``Agent.run``
        OSError: the system has no process, memory or descriptor left
        """
        if self._stopped:
            return
        reports, reports_to = socket.socketpair()
        with reports, reports_to:
            child = self._start(reports_to)
            reports_to.close()
            try:
                self._work(child, _Reports(reports))
            finally:
                with self._lock:
                    self._child = None
                child.close()

    def _start(self, reports_to: socket.socket) -> processes.Child:
        entry = functools.partial(_be_helper, *self._settings, self._node, _log.getEffectiveLevel())
        with self._lock:
            self._child = child = processes.start(
                entry,
                method="spawn",  # a fork would hold the caller's memory, and needs a single thread
                role=processes.Role.AGENT,
                parent_watch=processes.ParentWatch.THREAD,
                with_script=False,
            )
            child.channel.setblocking(True)
            with contextlib.suppress(OSError):  # it has died already, which is seen soon
                socket.send_fds(child.channel, [b"\0"], [reports_to.fileno()])
            if self._abandoned:
                _hang_up(child.channel)
            elif self._stopped:
                child.terminate()
        return child

    def _work(self, child: processes.Child, reports: _Reports) -> None:
        try:
            Worker(self._node, self._hooks, _Listening(child.channel, reports)).run()
        except KeyboardInterrupt:
            child.terminate()
            child.wait(LEAVE_SECONDS)
            raise
        if self._abandoned:
            return
        death = child.wait(LEAVE_SECONDS)
        reports.read_all()
        if reports.error is not None and not self._stopped:
            raise reports.error
        if not reports.ended and not self._stopped:
            raise ConnectionLostError(f"the node's helper process has ended: {death or 'hung'}")


def _hang_up(channel: socket.socket) -> None:
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)


# ---- what the helper reports, on the caller's side


class _Reports:
    """The caller's end of the socket for reports."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._begun = b""
        self.error: ParasnakeError | None = None
        self.ended = False
        """Whether the helper has said that it ends."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bool:
        """Take in what there is; false at the end."""
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return bool(data)

    def read_all(self) -> None:
        """Take in all that a helper has left that is dead or hung."""
        while _readable([self._socket], timeout_s=0) and self.read():
            pass

    def _take(self, report: dict[str, Any]) -> None:
        if "levelno" in report:
            record = logging.makeLogRecord(report)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
            return
        self.ended = True
        if report["error"] is not None:
            self.error = _rebuild(**report)


def _rebuild(error: str, text: str, facts: dict[str, Any]) -> ParasnakeError:
    kind: type[ParasnakeError] = getattr(errors, error)
    rebuilt = kind.__new__(kind)
    Exception.__init__(rebuilt, text)
    vars(rebuilt).update(facts)
    return rebuilt


class _Listening:
    """The worker's channel, which takes in reports while it waits for a message."""

    def __init__(self, channel: socket.socket, reports: _Reports) -> None:
        self._channel = channel
        self._reports = reports
        self.say: Callable[[list[Buffer]], None] = WorkerEnd(channel).say

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        if flags & socket.MSG_DONTWAIT:
            return self._channel.recv_into(buffer, nbytes, flags)
        sources: list[socket.socket | _Reports] = [self._channel, self._reports]
        while True:
            ready = _readable(sources)
            if self._reports in ready and not self._reports.read():
                sources.remove(self._reports)
            if self._channel in ready:
                return self._channel.recv_into(buffer, nbytes, flags)


def _readable(sources: Iterable[Any], timeout_s: float | None = None) -> list[Any]:
    poll = select.poll()
    by_descriptor = {source.fileno(): source for source in sources}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    events = poll.poll(None if timeout_s is None else timeout_s * 1000)
    return [by_descriptor[descriptor] for descriptor, _ in events]


# ---- the helper


def _be_helper(  # noqa: PLR0917  # a partial fills them in
    app_name: str,
    digest: str,
    config: Config,
    key: bytes | None,
    node: NodeKey,
    log_level: int,
    channel: socket.socket,
) -> None:
    """The entry of the helper. Its parent watch ends it when the caller dies or hangs up."""
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    with socket.socket(fileno=descriptors[0]) as reports:
        _log.setLevel(log_level)
        _log.propagate = False
        _log.addHandler(_ReportingHandler(reports))
        error: ParasnakeError | None = None
        try:
            Agent(app_name, digest, config, key, _Caller(node, channel)).run()
        except ParasnakeError as raised:
            error = raised
        _report(reports, _described(error))


def _described(error: ParasnakeError | None) -> dict[str, Any]:
    if error is None:
        return {"error": None}
    facts = {
        name: value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in vars(error).items()
        if isinstance(value, str | int)
    }
    return {"error": type(error).__name__, "text": str(error)[:MAX_TEXT], "facts": facts}


_FACTS = (
    *("name", "levelno", "levelname", "created", "msecs", "process", "processName"),
    *("pathname", "filename", "module", "lineno", "funcName"),
)


class _ReportingHandler(logging.Handler):
    """Sends log records to the caller, whose logging decides what becomes of them."""

    def __init__(self, reports: socket.socket) -> None:
        super().__init__()
        self._reports = reports

    def emit(self, record: logging.LogRecord) -> None:
        report = {name: getattr(record, name) for name in _FACTS}
        report["msg"] = record.getMessage()[:MAX_TEXT]
        _report(self._reports, report)


def _report(reports: socket.socket, report: dict[str, Any]) -> None:
    line = json.dumps(report).encode() + b"\n"
    # A caller that is busy for hours reads nothing; the helper must not wait for it.
    poll = select.poll()
    poll.register(reports, select.POLLOUT)
    if poll.poll(0):
        with contextlib.suppress(OSError):
            reports.sendall(line)


@dataclass(slots=True)
class _Caller:
    """The staff of the helper's agent: the one process that has started it."""

    node: NodeKey
    channel: socket.socket
    pidfd: int | None = None
    size: int = 1
    replaces: bool = False

    def start(self, closing: list[Closable]) -> tuple[NodeKey, _Caller]:
        """Lend it to the agent."""
        return self.node, self

    def poll(self) -> Death | None:
        """Nothing is known of its death but that the channel closes."""
        return None

    def wait(self, timeout_s: float) -> Death | None:
        """Nothing is known of its death, and nobody waits for it."""
        return None

    def take_output(self) -> tuple[int, int] | None:
        """What it prints is its own business."""
        return None

    def open_answers(self) -> int | None:
        """It says everything through its channel."""
        return None

    def kill(self) -> None:
        """Let it live: it is not the agent's."""

    def close(self) -> None:
        """Hang up."""
        self.channel.close()
