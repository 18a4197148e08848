"""A cable that tests can cut."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class Proxy:
    """A cable between agents and their server, in a thread: it can be cut, and mended."""

    def __init__(self, server_port: str) -> None:
        self._server = "127.0.0.1", int(server_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
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
            for key, _ in self._selector.select():
                if key.fileobj is self._wake:
                    return
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._ends:
                        self._pass_on(key.fileobj)

    def _accept(self) -> None:
        caller, _ = self._listener.accept()
        if self._is_cut:
            self.refused += 1
            caller.close()
            return
        callee = socket.create_connection(self._server, timeout=60)
        for end, other in ((caller, callee), (callee, caller)):
            self._ends[end] = other
            self._selector.register(end, selectors.EVENT_READ)

    def _pass_on(self, end: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = end.recv(1 << 16)
            self._ends[end].sendall(data)
        if not data:
            self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._ends.get(end)):
            if one is not None and self._ends.pop(one, None) is not None:
                self._selector.unregister(one)
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
