"""The agent of a local run: a child process beside the server, on the same machine."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import struct
import sys
from collections.abc import Sequence

from parasnake import logs, processes
from parasnake.addresses import Place
from parasnake.agent import Agent, ForkedStaff
from parasnake.config import Config
from parasnake.core.ids import NodeKey
from parasnake.death import Death
from parasnake.errors import ConnectionLostError, NodeFailed, ParasnakeError
from parasnake.loop import READ, Loop
from parasnake.net import THIS_MACHINE
from parasnake.server import Inside

log = logging.getLogger(__name__)

LEAVE_SECONDS = 3.0
"""How long the agent may take to end after it has been told that the job is over."""
MAX_RESTARTS = 3
"""An agent that dies is started again this often."""
LOOPBACK = "127.0.0.1"
TOLD = struct.Struct("!16sI")
"""A node and the process of its worker, as an agent may tell them."""


def _be_agent(  # noqa: PLR0917  # a partial fills them in
    app_name: str,
    digest: str,
    config: Config,
    key: bytes,
    staff: ForkedStaff,
    places: Sequence[Place],
    verbosity: int | None,
    tells: bool,
    channel: socket.socket,
) -> None:
    """The entry of the agent's process; the channel tells each side that the other lives."""
    if verbosity is not None:
        logs.set_up_logging(verbosity)
    if not log.isEnabledFor(logging.DEBUG):  # its server says the same
        logging.getLogger(Agent.__module__).setLevel(logging.ERROR)
    try:
        told = _Telling(staff, channel) if tells else staff
        Agent(app_name, digest, config, key, told, has_end=False, places=places).run()
    except ParasnakeError as error:
        log.debug("%s: local agent: %s", app_name, error)
        sys.exit(error.exit_status)


class _Telling:
    """A staff that says through a channel which worker has which process."""

    def __init__(self, staff: ForkedStaff, channel: socket.socket) -> None:
        self._staff = staff
        self._channel = channel
        self.size = staff.size
        self.replaces = staff.replaces

    def start(self, closing: list[processes.Closable]) -> tuple[NodeKey, processes.Child]:
        node, child = self._staff.start(closing)
        with contextlib.suppress(OSError):  # the server has died, and so will this process
            self._channel.sendall(TOLD.pack(node, child.pid))
        return node, child


class LocalAgent:
    """A helper of the server: starts its agent, watches it, ends it.

    Parameters are those of ``Agent``.
    """

    def __init__(
        self, app_name: str, digest: str, config: Config, key: bytes, staff: ForkedStaff
    ) -> None:
        self._name = app_name
        self._digest = digest
        self._config = config
        self._key = key
        self._staff = staff
        self._port = 0
        self._tells = False
        self._loop: Loop | None = None
        self._child: processes.Child | None = None
        self._restarts = 0

    def start(self, loop: Loop, port: int, inside: Inside | None = None) -> None:
        """Start the agent; it finds the server by this port, within the machine."""
        self._loop, self._port = loop, port
        places = [Place(host, port) for host in (THIS_MACHINE, LOOPBACK)]
        facts = (self._name, self._digest, self._config, self._key, self._staff, places)
        entry = functools.partial(_be_agent, *facts, logs.verbosity(), self._tells)
        self._child = processes.start(
            entry,
            method=processes.choose_method(self._config.start_method),
            role=processes.Role.AGENT,
            closing=[loop],
        )
        loop.watch(self._watched(self._child), READ, self._ended)

    @staticmethod
    def _watched(child: processes.Child) -> int | socket.socket:
        return child.pidfd if child.pidfd is not None else child.channel

    def _ended(self, _: int) -> None:
        assert self._child is not None
        death = self._child.wait(LEAVE_SECONDS)
        self._free()
        self.has_ended(death)

    def has_ended(self, death: Death | None) -> None:
        """It has ended though the job is not over: start another, if that is of any use."""
        self._restarts += 1
        given_up = death is not None and death.exit_status == ConnectionLostError.exit_status
        failed = death is not None and death.exit_status and not given_up
        if failed or self._restarts > MAX_RESTARTS:
            raise NodeFailed(f"the local agent has ended: {death}; its last lines say why")
        log.warning("%s: the local agent has died (%s): starting another", self._name, death)
        self.restart()

    def restart(self) -> None:
        """Start another agent in place of the one that has ended."""
        assert self._loop is not None
        self.start(self._loop, self._port)

    def expect_end(self) -> None:
        """The job is over: an agent that ends now has not died."""
        self._watch_no_more()

    def _watch_no_more(self) -> None:
        child, loop = self._child, self._loop
        if child is not None and loop is not None:
            loop.watch(self._watched(child), 0, self._ended)

    def stop(self) -> None:
        """See the agent off. It has been told to leave, unless it has not reached the server yet."""
        self.ask_to_leave()
        self.see_off()

    def ask_to_leave(self) -> None:
        """Send it the signal for that, only once: a second one would interrupt its goodbye."""
        if self._child is not None:
            self._child.terminate()

    def see_off(self) -> None:
        """Wait until it has left, not for long."""
        if self._child is not None:
            self._child.wait(LEAVE_SECONDS)
            self._free()

    def _free(self) -> None:
        self._watch_no_more()
        if self._child is not None:
            self._child.close()
            self._child = None
