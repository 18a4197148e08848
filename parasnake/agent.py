"""The agent: one connection to the server and the worker processes of its nodes."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from parasnake import __version__, batch, net, processes, worker
from parasnake.access import Guide
from parasnake.addresses import Place
from parasnake.child import Closable
from parasnake.config import Config
from parasnake.core import crew as steps
from parasnake.core.crew import Crew
from parasnake.core.ids import NodeId, NodeKey
from parasnake.core.messages import (
    PROTOCOL_VERSION,
    Heartbeat,
    Hello,
    Message,
    Result,
    Results,
    Task,
)
from parasnake.death import Death
from parasnake.dial import Failure
from parasnake.errors import (
    ConnectError,
    Interrupted,
    ParasnakeError,
    PayloadError,
    ProtocolError,
    RefusedError,
    WrongKeyError,
)
from parasnake.garbage import seldom_searched
from parasnake.links import Channel, Connection, Link
from parasnake.loop import READ, Loop, Timer
from parasnake.output import Printed, outlets_of
from parasnake.search import Search
from parasnake.timelimit import TimeLimit
from parasnake.worker import NodeHooks

log = logging.getLogger(__name__)

GOODBYE_SECONDS = 2.0
"""How long the last message may take to go out."""
END_SECONDS = 1.0
"""How long an idle worker may take to end by itself."""
OUTPUT_SECONDS = 2.0
"""How long whoever reads the output may take for the rest of it."""
MANY_RESULTS, REST_SECONDS = 8, 0.002
"""A worker that had so many results ready, or has plenty to do, is read again after this time."""
MAX_UNSENT_BYTES = 1 << 26
"""With more results than this waiting for the network, workers are not read."""
HOST_LETTERS = 100
ALONE = (Task, Result)


class WorkerProcess(Protocol):
    """A started worker; ``processes.Child`` is one."""

    channel: socket.socket
    pidfd: int | None

    def poll(self) -> Death | None:
        """How it died, or None while it lives."""

    def wait(self, timeout_s: float) -> Death | None:
        """Wait for its death."""

    def take_output(self) -> tuple[int, int] | None:
        """Hand over the pipes to what it prints, if they are the agent's business."""

    def open_answers(self) -> int | None:
        """Give it a pipe by which to answer, if it takes one; returns the end to read."""

    def kill(self) -> None:
        """End it and whatever it started."""

    def close(self) -> None:
        """Kill it if need be and free what is left of it."""


class Staff(Protocol):
    """Where an agent gets its workers from."""

    size: int
    replaces: bool

    def start(self, closing: list[Closable]) -> tuple[NodeKey, WorkerProcess]:
        """Start one; a fork closes these objects of the agent's."""


@dataclass(slots=True)
class ForkedStaff:
    """Worker processes by fork or spawn, replaced when they die."""

    hooks: NodeHooks
    size: int
    start_method: str
    script_arguments: argparse.Namespace | None
    replaces: bool = True
    on_machine: int = 0
    """Workers that share the machine, if there are more than these."""

    def start(self, closing: list[Closable]) -> tuple[NodeKey, processes.Child]:
        """Start a worker under a new node id."""
        node = NodeKey(NodeId.from_random(os.urandom(16)).bytes)
        child = processes.start(
            functools.partial(worker.main, node, self.hooks, self.script_arguments),
            method=processes.choose_method(self.start_method),
            workers_on_machine=max(self.size, self.on_machine),
            closing=closing,
            on_boot_error=functools.partial(worker.report_broken, node),
            pipe_output=True,
        )
        return node, child


@dataclass(slots=True)
class _Post:
    """A worker of ours, as the loop sees it."""

    process: WorkerProcess
    channel: Channel
    printed: Printed


class Agent:
    """One agent from its first try to reach the server to its end.

    Parameters
    ----------
    app_name: the server must have the same
    digest: of the process hook, hexadecimal, or ""
    config: settings
    key: the secret key, 32 bytes; None: that in the access file
    staff: where the workers come from
    has_end: whether it goes when its time is over; not if its server goes then, too
    places: where the server is, if it is not where the settings say
    loop: what it lives in, if it shall not be one of its own
    """

    def __init__(
        self,
        app_name: str,
        digest: str,
        config: Config,
        key: bytes | None,
        staff: Staff,
        *,
        has_end: bool = True,
        places: Sequence[Place] | None = None,
        loop: Loop | None = None,
    ) -> None:
        self._name = app_name
        self._digest = digest
        self._config = config
        self._staff = staff
        self._started_at = time.time()
        guide = Guide(config.access, places or config.server_places, key)
        self._loop = loop if loop is not None else Loop()
        self._search = Search(
            self._loop,
            guide,
            on_found=self._connected,
            on_nothing=self._not_connected,
            on_messages=self._received,
            on_end=self._server_ended,
        )
        self._has_end = has_end
        self._ends_at: float | None = None
        self._end_timer: Timer | None = None
        self._crew = self._new_crew()
        self._connection: Connection | None = None
        self._address = ""
        self._posts: dict[NodeKey, _Post] = {}
        self._outlets = outlets_of(self._loop)
        self._left_over: list[Printed] = []  # of workers that are gone, but not all they started
        self._give_up_at = 0.0
        self._give_up_timer: Timer | None = None
        self._beat_timer: Timer | None = None
        self._lost_because = ""
        self._told_waiting = False
        self._paused = False
        self._resting: list[Channel] = []
        self._computed = 0
        self._over = False
        self._stopped = False
        self._abandoned = False
        self._error: ParasnakeError | None = None
        self._perform = self._table()

    def stop(self) -> None:
        """Hand back what is running and have ``run`` return; from any thread."""
        self._stopped = True
        self._loop.wake()

    def abandon(self) -> None:
        """Have ``run`` return without a word to the server, as if it had died; from any thread."""
        self._abandoned = self._over = True
        self._loop.wake()

    def run(self) -> None:
        """Serve until the server says quit.

        Raises
        ------
        ConnectError: no server within ``connect_timeout``
        ConnectionLostError: the connection broke, and no other came about in ``reconnect_timeout``
        RefusedError: wrong key, another app or protocol, or no Parasnake server there
        NodeFailed: workers cannot start here
        Interrupted: SIGINT or SIGTERM came
        """
        try:
            with (
                seldom_searched(),
                # Batch systems and launchers repeat theirs: that must not cut the goodbye short.
                self._loop.signals(
                    batch.signals_of_the_end(), self._signalled, insistent=[signal.SIGINT]
                ),
            ):
                try:
                    self._serve()
                finally:
                    self._end_workers()  # a signal now must not leave them to themselves
        finally:
            with contextlib.suppress(OSError):
                self._loop.close()
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        self._give_up_at = self._loop.now() + self._config.connect_timeout
        if self._has_end:
            TimeLimit(self._loop, self._config.time_limit, self._must_go_at).watch()
        self._search.begin()
        while not self._over:
            if self._stopped:
                self._go("stopped", None)
            self._work()
            if not self._over:
                now = self._loop.now()
                self._loop.wait(self._crew.deadline)
                self._tick(now)
        if not self._abandoned:
            self._say_goodbye()

    def _tick(self, listened_at: float) -> None:
        """Look whose task takes too long; what was not read until now may be its end."""
        if self._crew.deadline is None:
            return
        for node, post in self._posts.items():
            if post.channel.paused or post.channel.receiving:
                self._crew.answering(node, listened_at)
        self._crew.tick(listened_at, lambda node: self._posts[node].printed.last_lines())

    def _must_go_at(self, when: float) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._ends_at = when
        self._end_timer = self._loop.call_at(when, self._time_is_over)
        self._crew.ends(when, self._loop.now())

    def _time_is_over(self) -> None:
        self._go("its time limit is over", None)

    def _signalled(self, number: int) -> None:
        error = Interrupted(number)
        limit = ""
        if number != signal.SIGINT:
            limit = batch.time_limit(os.environ, now=time.time(), started=self._started_at)
        self._go(f"{error}: {limit}" if limit else str(error), error)

    def _go(self, reason: str, error: ParasnakeError | None) -> None:
        if self._crew.welcome is not None:
            self._crew.leave(reason, error)
        else:  # there is nothing to hand back, and each new connection would have a new crew
            self._error, self._over = error, True
            log.info("%s: %s", self._name, reason)

    def _new_crew(self) -> Crew:
        hello = Hello(
            PROTOCOL_VERSION,
            os.getpid(),
            __version__,
            platform.python_version(),
            self._name,
            self._digest,
            socket.gethostname()[:HOST_LETTERS],
        )
        crew = Crew(hello, self._staff.size, replace=self._staff.replaces)
        if self._ends_at is not None:
            crew.ends(self._ends_at, self._loop.now())
        return crew

    # ---- reaching the server

    def _connected(self, connection: Connection, address: str, failures: list[Failure]) -> None:
        self._address = address
        if failures:
            texts = "; ".join(failure.text for failure in failures)
            log.info("%s: no way to the server by %s", self._name, texts)
        if self._crew.welcome is None:
            self._crew = self._new_crew()
        else:
            self._crew.connected()
        self._connection = connection

    def _not_connected(self, tried: str, refusal: RefusedError | None) -> None:
        if self._crew.welcome is not None:
            self._lost_because = tried
            self._search.again(strict=False)
            return
        if refusal is not None:
            self._error = type(refusal)(f"{tried}; {_what_to_do(refusal)}")
            self._over = True
            return
        if self._loop.now() + self._search.longest_pause > self._give_up_at:
            waited = self._config.connect_timeout
            self._error = ConnectError(f"no server within {waited:g} s: {tried}")
            self._over = True
            return
        if not self._told_waiting:
            self._told_waiting = True
            left = self._config.connect_timeout
            log.info("%s: waiting up to %g s for the server: %s", self._name, left, tried)
        self._search.again(strict=True)

    def _server_ended(self, reason: str, error: Exception | None) -> None:
        self._connection = None
        if self._crew.welcome is not None:
            if self._crew.was_served:  # it was not in vain, nor will be the next tries
                self._search.start_over()
            self._crew.lost_server(reason)
        if not self._over:
            self._not_connected(self._search.told(f"{self._address}: {reason}"), None)

    # ---- messages

    def _received(self, messages: list[Message]) -> None:
        for message in messages:
            self._crew.message(message, self._loop.now())

    def _from_worker(self, node: NodeKey, messages: list[Message]) -> None:
        now = self._loop.now()
        for message in messages:
            self._crew.worker_message(node, message, now)
            if isinstance(message, Result):
                self._computed += 1
                self._rest(node, 1)
            elif isinstance(message, Results):
                self._computed += len(message.run)
                self._rest(node, len(message.run))

    def _rest(self, node: NodeKey, results: int) -> None:
        """Leave a worker that answers fast alone for a moment: then more answers come at a time."""
        if results < MANY_RESULTS and not self._crew.has_plenty(node, REST_SECONDS):
            return
        channel = self._posts[node].channel
        channel.pause(True)
        if not self._resting:
            self._loop.call_in(REST_SECONDS, self._rested)
        self._resting.append(channel)

    def _rested(self) -> None:
        for channel in self._resting:
            channel.pause(self._paused)
        self._resting.clear()

    def _beat(self) -> None:
        if self._connection is not None:
            unheard = net.unheard_seconds(self._connection.raw)
            if unheard > net.KEEPALIVE_SECONDS:
                self._connection.close()
                self._server_ended(f"its machine has answered nothing for {unheard:.0f} s", None)
                return
        welcome = self._crew.welcome
        if self._connection is not None and welcome is not None and self._crew.is_in:
            self._connection.send(Heartbeat())
            self._beat_timer = self._loop.call_in(welcome.heartbeat_interval, self._beat)

    # ---- what the crew wants done

    def _table(self) -> dict[type, Callable[[Any], None]]:
        return {
            steps.ToServer: self._to_server,
            steps.ToWorker: self._to_worker,
            steps.StartWorker: self._start_worker,
            steps.EndWorker: self._end_worker,
            steps.Joined: self._joined,
            steps.Away: self._away,
            steps.HangUp: self._hang_up,
            steps.WorkerDied: self._worker_died,
            steps.Leave: self._leave,
        }

    def _work(self) -> None:
        if self._connection is None and self._crew.welcome is None:
            return  # what the crew wants to say needs a connection first
        while not self._over and (step := self._crew.next_step()) is not None:
            self._perform[type(step)](step)
        self._throttle()

    def _throttle(self) -> None:
        connection = self._connection
        paused = connection is not None and connection.queued_bytes > MAX_UNSENT_BYTES
        if paused != self._paused:
            self._paused = paused
            for post in self._posts.values():
                post.channel.pause(paused)

    def _to_server(self, step: steps.ToServer) -> None:
        if self._connection is not None:
            self._pass_on(self._connection, step.message)

    def _to_worker(self, step: steps.ToWorker) -> None:
        post = self._posts.get(step.node)
        if post is not None:
            self._pass_on(post.channel, step.message)

    @staticmethod
    def _pass_on(link: Link, message: Message) -> None:
        """Send a message; one task or result alone at once, for somebody may wait for it."""
        if isinstance(message, ALONE):
            link.send_at_once(message)
        else:
            link.send(message)

    def _start_worker(self, step: steps.StartWorker) -> None:
        closing: list[Closable] = [self._loop]
        if self._connection is not None:
            self._connection.flush()  # a fork takes its time, and a death was told perhaps
            closing.append(self._connection.raw)
        try:
            node, process = self._staff.start(closing)
        except (OSError, PayloadError) as error:
            self._crew.not_started(step.slot, f"no new process: {_text(error)}")
            return
        channel = Channel(
            self._loop,
            process.channel,
            answers=process.open_answers(),
            on_messages=lambda messages: self._from_worker(node, messages),
            on_end=lambda reason, error: self._worker_ended(node, reason, error),
        )
        printed = Printed(self._loop, self._outlets, process.take_output())
        self._posts[node] = _Post(process, channel, printed)
        if process.pidfd is not None:
            self._loop.watch(process.pidfd, READ, lambda _: self._worker_ended(node, "", None))
        self._crew.started(step.slot, node)

    def _worker_ended(self, node: NodeKey, reason: str, error: Exception | None) -> None:
        post = self._posts.get(node)
        if post is None:
            return
        post.channel.drain()
        death = post.process.wait(END_SECONDS)
        if isinstance(error, ProtocolError):
            reason = f"it broke the protocol: {error}"
        text = f"it has closed its channel ({reason})"
        if death is not None:
            text = death.in_full
        output = post.printed.last_lines()
        self._dismiss(node)
        self._crew.worker_gone(node, text, output)

    def _end_worker(self, step: steps.EndWorker) -> None:
        if step.reason:
            log.debug("%s: a worker was ended: %s", self._name, step.reason)
        self._dismiss(step.node)

    def _dismiss(self, node: NodeKey) -> None:
        post = self._posts.pop(node, None)
        if post is not None:
            if post.process.pidfd is not None:
                self._loop.watch(post.process.pidfd, 0, lambda _: None)
            post.channel.close()
            post.process.close()
            post.printed.last_lines()
            self._left_over = [p for p in (*self._left_over, post.printed) if p.is_open]

    def _joined(self, step: steps.Joined) -> None:
        size = self._staff.size
        workers = f"{size} worker{'s' if size != 1 else ''}"
        what = "joined the server"
        if step.back:
            what = "is back, connected to the server"
        elif step.afresh:
            what = "found another job, begins afresh and joined the server"
        log.info("%s: %s at %s with %s", self._name, what, self._address, workers)
        for difference in step.differences:
            log.warning("%s: %s", self._name, difference)
        if not step.back:
            self._search.start_over()
        for timer in (self._give_up_timer, self._beat_timer):
            if timer is not None:
                timer.cancel()
        self._beat()

    def _away(self, step: steps.Away) -> None:
        timeout, now = self._config.reconnect_timeout, self._loop.now()
        log.warning(
            "%s: the connection to the server at %s was lost: %s; workers go on, and it is tried "
            "again for up to %g s",
            *(self._name, self._address, step.reason, timeout),
        )
        self._give_up_timer = self._loop.call_at(now + timeout, self._give_up)

    def _give_up(self) -> None:
        timeout = self._config.reconnect_timeout
        self._crew.give_up(f"it did not come back within {timeout:g} s: {self._lost_because}")

    def _hang_up(self, step: steps.HangUp) -> None:
        if self._connection is not None:
            self._connection.close()
            self._server_ended(step.reason, None)

    def _worker_died(self, step: steps.WorkerDied) -> None:
        level = logging.WARNING if self._staff.replaces else logging.DEBUG
        doing = "while it was computing a task" if step.busy else "while it was idle"
        log.log(level, "%s: a worker died %s: %s", self._name, doing, step.reason)

    def _leave(self, step: steps.Leave) -> None:
        self._over = True
        self._error = step.error
        log.info("%s: left after %d results: %s", self._name, self._computed, step.reason)

    # ---- the end

    def _say_goodbye(self) -> None:
        """Get the last message out, not for long, and let go of the server."""
        self._search.cancel()
        connection = self._connection
        if connection is None:
            return
        until = self._loop.now() + GOODBYE_SECONDS
        connection.close_when_sent()
        self._kill_busy()
        while connection.is_open and self._loop.now() < until:
            self._loop.wait(until)

    def _kill_busy(self) -> None:
        for node, post in self._posts.items():
            worker_state = self._crew.workers.get(node)
            if worker_state is None or worker_state.open or not worker_state.ready:
                post.process.kill()

    def _end_workers(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._kill_busy()
        for post in self._posts.values():
            post.channel.close()  # an idle worker takes that as its end
        until = self._loop.now() + END_SECONDS
        for post in self._posts.values():
            post.process.wait(max(0.0, until - self._loop.now()))
        for node in list(self._posts):
            self._dismiss(node)
        self._finish_output()

    def _finish_output(self) -> None:
        """Whoever reads our output has a moment to take what is left of that of the workers."""
        until = self._loop.now() + OUTPUT_SECONDS
        while any(printed.unwritten for printed in self._left_over) and self._loop.now() < until:
            self._loop.wait(until)
        for printed in self._left_over:
            printed.close()


def _text(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _what_to_do(error: RefusedError) -> str:
    if isinstance(error, WrongKeyError):
        return "give this node the key file of the server (--key-file)"
    return "check the address and the port (--ip, --port)"
