"""Chaos: a local run whose workers and agents are killed, stopped and cut off at random.

``strikes`` says what shall happen, ``Chaos`` does it to the agents of a local run. What a strike
breaks is charged to no task, so that no task fails by chaos alone.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

from parasnake.agent import ForkedStaff
from parasnake.config import Config
from parasnake.core.farm import Peer
from parasnake.core.ids import NodeId, NodeKey
from parasnake.death import Death
from parasnake.local import TOLD, LocalAgent
from parasnake.loop import READ, Loop
from parasnake.server import Inside
from parasnake.strikes import Kind, Pace, Strike

log = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT_S = 2.0
"""With chaos, unless the user has set another: agents shall be lost while people look on."""
LOOK_AGAIN_S = 0.05
"""How often to look for somebody whom a strike could hit."""


def settings_for_chaos(config: Config) -> Config:
    """Give a config the heartbeat timeout of chaos, unless the user has set one."""
    if "heartbeat_timeout" in config.sources:
        return config
    return dataclasses.replace(config, heartbeat_timeout=HEARTBEAT_TIMEOUT_S)


class _Worker:
    """The process of a worker, which is a child of an agent's: by a handle, or else its number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stopped = False
        self._closed = False
        self._pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                self._pidfd = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        """Whether it has not died, as far as can be seen."""
        return self.send(0)

    def send(self, number: int) -> bool:
        """Send it a signal; false if it has died."""
        if self._closed:
            return False
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                os.kill(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def go_on(self) -> None:
        """Wake it if it is stopped."""
        if self.stopped:
            self.stopped = False
            self.send(signal.SIGCONT)

    def close(self) -> None:
        """Let go of it."""
        self.go_on()
        self._closed = True
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class Target(LocalAgent):
    """An agent of a local run with chaos, which can be struck."""

    def __init__(
        self, app_name: str, digest: str, config: Config, key: bytes, staff: ForkedStaff
    ) -> None:
        super().__init__(app_name, digest, config, key, staff)
        self.stopped = False
        self._tells = True
        self._workers: dict[NodeKey, _Worker] = {}
        self._heard = b""
        self._struck = False
        self._over = False
        self._replace_after = 0.0

    @property
    def pid(self) -> int | None:
        """Its process, None while it is being replaced."""
        return self._child.pid if self._child is not None else None

    @property
    def workers(self) -> dict[NodeKey, _Worker]:
        """Its workers, also some that have died; not to be changed."""
        return self._workers

    def start(self, loop: Loop, port: int, inside: Inside | None = None) -> None:
        """Start it, and listen to which workers it starts."""
        self._heard = b""
        super().start(loop, port, inside)
        assert self._child is not None
        loop.watch(self._child.channel, READ, self._told)

    def _told(self, _: int) -> None:
        child = self._child
        assert child is not None
        try:
            data = child.channel.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._heard += data
            self._take_note()
        elif child.pidfd is None:
            self._ended(0)
        elif self._loop is not None:  # its death is told by another descriptor
            self._loop.watch(child.channel, 0, self._told)

    def _take_note(self) -> None:
        for key, worker in list(self._workers.items()):
            if not worker.alive:
                worker.close()
                del self._workers[key]
        while len(self._heard) >= TOLD.size:
            key, pid = TOLD.unpack_from(self._heard)
            self._heard = self._heard[TOLD.size :]
            self._workers[NodeKey(key)] = _Worker(pid)

    def send(self, number: int) -> None:
        """Send the agent a signal, not its workers."""
        if self.pid is not None:  # it is not reaped, so that the number is certainly its own
            os.kill(self.pid, number)

    def kill(self, replace_after: float) -> None:
        """Kill it; its workers end with it. Another one is started after so many seconds."""
        self._struck, self._replace_after = True, replace_after
        self.send(signal.SIGKILL)

    def cut_off(self) -> None:
        """Its connection is being broken: if it ends, it is not to blame."""
        self._struck = True

    def has_ended(self, death: Death | None) -> None:
        """Replace it, after a while if it was killed."""
        if not self._struck:
            super().has_ended(death)
            return
        pause, self._struck, self._replace_after = self._replace_after, False, 0.0
        assert self._loop is not None
        self._loop.call_in(pause, self._start_another)

    def _start_another(self) -> None:
        if not self._over:
            self.restart()

    def expect_end(self) -> None:
        """The job is over: have all go on that are stopped."""
        self._over = True
        self.go_on()
        super().expect_end()

    def go_on(self) -> None:
        """Wake it and its workers, whichever of them are stopped."""
        for worker in self._workers.values():
            worker.go_on()
        if self.stopped:
            self.stopped = False
            self.send(signal.SIGCONT)

    def _free(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self.stopped = False
        super()._free()

    def _watch_no_more(self) -> None:
        super()._watch_no_more()
        if self._child is not None and self._loop is not None:
            self._loop.watch(self._child.channel, 0, self._told)


class Chaos:
    """A helper of the server: the agents of a local run, and the strikes against them.

    The pauses between strikes grow as long as no task ends between two of them.

    Parameters
    ----------
    app_name: for the log
    strikes: see the function of this name
    targets: the agents
    """

    def __init__(self, app_name: str, strikes: Iterator[Strike], targets: list[Target]) -> None:
        self._name = app_name
        self._strikes = strikes
        self._targets = targets
        self._pace = Pace()
        self._over = False
        self._inside: Inside
        self._loop: Loop
        self._strike: Strike

    def start(self, loop: Loop, port: int, inside: Inside) -> None:
        """Start the agents and wait for the first node."""
        self._loop, self._inside = loop, inside
        for target in self._targets:
            target.start(loop, port, inside)
        self._await_first_node()

    def expect_end(self) -> None:
        """The job is over, and so is chaos: nobody is left stopped."""
        self._over = True
        for target in self._targets:
            target.expect_end()

    def stop(self) -> None:
        """See all agents off."""
        self._over = True
        for target in self._targets:
            target.expect_end()
            target.ask_to_leave()
        for target in self._targets:
            target.see_off()

    # ---- when

    def _await_first_node(self) -> None:
        if self._inside.farm.scheduler.nodes:
            self._strike = next(self._strikes)
            self._loop.call_in(self._strike.pause, self._act)
        elif not self._over:
            self._loop.call_in(LOOK_AGAIN_S, self._await_first_node)

    def _act(self) -> None:
        """Do the strike that is due, as soon as there is anybody whom it could hit."""
        if self._over:
            return
        if not self._do(self._strike):
            self._loop.call_in(LOOK_AGAIN_S, self._act)
            return
        self._inside.tally.strikes += 1
        self._strike = next(self._strikes)
        done = self._inside.farm.scheduler.settled_so_far
        self._loop.call_in(self._pace.next_pause(self._strike.pause, done), self._act)

    # ---- what

    def _do(self, strike: Strike) -> bool:
        if strike.kind in (Kind.KILL_WORKER, Kind.STOP_WORKER):
            return self._strike_worker(strike)
        return self._strike_agent(strike)

    def _strike_worker(self, strike: Strike) -> bool:
        nodes = self._inside.farm.scheduler.nodes
        found = [
            (key, worker)
            for target in self._targets
            if not target.stopped
            for key, worker in target.workers.items()
            if key in nodes and not worker.stopped and worker.alive
        ]
        if not found:
            return False
        key, worker = found[int(strike.pick * len(found))]
        self._inside.farm.scheduler.spare(key)
        name = f"{NodeId(bytes=key)} (pid {worker.pid})"
        if strike.kind is Kind.KILL_WORKER:
            worker.send(signal.SIGKILL)
            self._tell(strike.kind, name)
            return True
        worker.stopped = worker.send(signal.SIGSTOP)
        self._loop.call_in(strike.seconds, worker.go_on)
        self._tell(strike.kind, name, strike.seconds)
        return True

    def _strike_agent(self, strike: Strike) -> bool:
        found = [
            target
            for target in self._targets
            if not target.stopped and any(peer.nodes for peer in self._peers(target))
        ]
        if not found:
            return False
        target = found[int(strike.pick * len(found))]
        peers = self._peers(target)
        for peer in peers:
            self._inside.farm.scheduler.spare(peer.id, *peer.nodes)
        name = f"(pid {target.pid})"
        match strike.kind:
            case Kind.KILL_AGENT:
                target.kill(strike.seconds)
                self._tell(strike.kind, name)
            case Kind.CUT_AGENT:
                target.cut_off()
                self._cut(peers)
                self._tell(strike.kind, name)
            case _:
                target.stopped = True
                target.send(signal.SIGSTOP)
                self._loop.call_in(strike.seconds, target.go_on)
                self._tell(strike.kind, name, strike.seconds)
        return True

    def _peers(self, target: Target) -> list[Peer]:
        """The connections of an agent; an old one may not have ended yet."""
        return [
            peer
            for peer in self._inside.farm.peers.values()
            if peer.hello is not None and peer.hello.pid == target.pid
        ]

    def _cut(self, peers: list[Peer]) -> None:
        for peer in peers:
            connection = self._inside.connections.get(peer.id)
            if connection is not None:
                with suppress(OSError):
                    connection.raw.shutdown(socket.SHUT_RDWR)

    def _tell(self, kind: Kind, whom: str, seconds: float = 0.0) -> None:
        how_long = f" for {seconds:.1f} s" if seconds else ""
        log.warning("%s: chaos: %s %s%s", self._name, kind.value, whom, how_long)
