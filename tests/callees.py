"""Whom tests call instead of a Parasnake server, and what they need to know to do so."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    return port


@contextlib.contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that takes no connection and does not say so."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):  # until its queue is full
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address


class FakeServer:
    """Listens and does with each connection what the test says, in a thread."""

    def __init__(self, answer: Callable[[socket.socket], None], times: int = 1) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._listener.getsockname()[1])
        self._answer = answer
        self._times = times
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._listener:
            self._listener.settimeout(60)
            for _ in range(self._times):
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(60)
                    self._answer(connection)

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
