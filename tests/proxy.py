"""A cable that tests can cut, or make slow."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time

SLOW_BUFFER = 1 << 16
"""What a slow cable holds in each direction, besides what the ends hold."""
SLOW_PIECE = 1 << 14
SLACK_S = 0.01
"""What a slow cable may make up for if it was late."""


class Proxy:
    """A cable between agents and their server, in a thread: it can be cut, and mended.

    Parameters
    ----------
    bytes_per_second: what it lets through in each direction of each connection; None: all

    Attributes
    ----------
    sent: how many bytes have gone to agents
    returned: how many have come from them
    """

    def __init__(self, server_port: str, *, bytes_per_second: float | None = None) -> None:
        self._server = "127.0.0.1", int(server_port)
        self._seconds_per_byte = 1 / bytes_per_second if bytes_per_second else 0.0
        self._resting: dict[socket.socket, float] = {}
        self._free_at: dict[socket.socket, float] = {}
        self.sent = self.returned = 0
        self._callers: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        if self._seconds_per_byte:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        self.port = str(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._is_cut = False
        self._ends: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake, self._stop = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self.refused = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def cut(self) -> None:
        """Break all connections, and let no new one come about."""
        with self._lock:
            self._is_cut = True
            for end in list(self._ends):
                self._drop(end)

    def mend(self, server_port: str | None = None) -> None:
        """Let connections through again, to this server if one is named."""
        with self._lock:
            self._is_cut = False
            if server_port is not None:
                self._server = "127.0.0.1", int(server_port)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._time_left()):
                if key.fileobj is self._wake:
                    return
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._ends:
                        self._pass_on(key.fileobj)
            self._wake_the_rested()

    def _time_left(self) -> float | None:
        return max(0.0, min(self._resting.values()) - time.monotonic()) if self._resting else None

    def _wake_the_rested(self) -> None:
        with self._lock:
            for end, until in list(self._resting.items()):
                if until <= time.monotonic():
                    del self._resting[end]
                    self._selector.register(end, selectors.EVENT_READ)

    def _accept(self) -> None:
        caller, _ = self._listener.accept()
        if self._is_cut:
            self.refused += 1
            caller.close()
            return
        callee = socket.socket()
        if self._seconds_per_byte:
            callee.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        callee.settimeout(60)
        callee.connect(self._server)
        self._callers.add(caller)
        for end, other in ((caller, callee), (callee, caller)):
            self._ends[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = end.recv(SLOW_PIECE if self._seconds_per_byte else 1 << 16)
            self._ends[end].sendall(data)
        if not data:
            self._drop(end)
            return
        if end in self._callers:
            self.returned += len(data)
        else:
            self.sent += len(data)
        if self._seconds_per_byte:
            self._selector.unregister(end)
            begin = max(self._free_at.get(end, 0.0), time.monotonic() - SLACK_S)
            self._free_at[end] = begin + len(data) * self._seconds_per_byte
            self._resting[end] = self._free_at[end]

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._ends.get(end)):
            if one is not None and self._ends.pop(one, None) is not None:
                if self._resting.pop(one, None) is None:
                    self._selector.unregister(one)
                self._callers.discard(one)
                self._free_at.pop(one, None)
                one.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join(60)
        self.cut()
        self._listener.close()
        self._selector.close()
        self._wake.close()
