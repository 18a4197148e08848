"""The server: sockets and the user's hooks around the farm's decisions."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from parasnake import __version__, net, payload
from parasnake.config import Config
from parasnake.core import farm as steps
from parasnake.core import scheduler as tasks
from parasnake.core.farm import Farm, Job
from parasnake.core.ids import JobId, NodeId, NodeKey, PeerId
from parasnake.core.messages import Message, Quit, QuitKind
from parasnake.core.scheduler import Policy
from parasnake.core.session import Session
from parasnake.errors import (
    HandshakeError,
    HookError,
    Interrupted,
    PayloadError,
    ProtocolError,
    TaskFailed,
)
from parasnake.hooks import Hook, HookTable, process_digest
from parasnake.links import Connection
from parasnake.loop import READ, Loop, Timer
from parasnake.report import OnceAMinute, Progress, Tally, line_wanted

log = logging.getLogger(__name__)

WORK_SECONDS = 0.01
"""How long hooks run on end before the sockets are looked at again."""
MAX_UNMERGED_BYTES = 1 << 26
"""With more results than this waiting for the result hook, nothing more is read."""
MAX_UNPROVEN = 512
"""Connections that have not proven yet that they hold the key."""
UNPROVEN_SECONDS = 10.0
"""How long a connection has to prove it ..."""
CROWDED_SECONDS = 1.0
"""... and how long when all slots are taken and others wait."""
ACCEPTS_AT_ONCE = 64
ACCEPT_PAUSE_S = 0.5
"""Pause of accepting when descriptors are used up."""
GOODBYE_SECONDS = 2.0
"""How long agents have to take in that the job is over."""
JOB_DONE_SHARE = 100
"""While nodes are busy, ``job_done`` is asked so seldom that it costs 1 / this of the time."""


class Helper(Protocol):
    """Something that lives beside the server, such as the agent of a local run."""

    def start(self, loop: Loop, port: int) -> None:
        """The server listens on this port."""

    def stop(self) -> None:
        """The job is over, and agents have been told."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the server is at just now.

    Attributes
    ----------
    done: tasks merged
    failed: tasks that have failed for good
    running: tasks on nodes
    waiting: tasks that wait to be sent again
    total: how many there will be, if ``new_data`` was registered with ``total=``
    nodes: for each node that is ready, seconds since its agent was last heard
    """

    done: int
    failed: int
    running: int
    waiting: int
    total: int | None
    nodes: dict[NodeId, float]


class Server:
    """One job, from its first socket to its last merge.

    Parameters
    ----------
    app_name: nodes must have the same
    hooks: the user's functions, checked for the role
    config: settings
    key: the secret key, 32 bytes
    key_source: where the key is from, for the log
    helper: started when the server listens, stopped at its end
    """

    def __init__(
        self,
        app_name: str,
        hooks: HookTable,
        config: Config,
        key: bytes,
        *,
        key_source: str,
        helper: Helper | None = None,
    ) -> None:
        self._name = app_name
        self._hooks = hooks
        self._config = config
        self._key = key
        self._key_source = key_source
        self._helper = helper
        self._farm = Farm(self._make_job())
        self._scheduler = self._farm.scheduler
        self._loop = Loop()
        self._listeners: list[socket.socket] = []
        self._unproven: dict[PeerId, tuple[Connection, float, str]] = {}
        self._connections: dict[PeerId, Connection] = {}
        self._next_peer = 0
        self._accepting = False
        self._accept_timer: Timer | None = None
        self._unproven_timer: Timer | None = None
        self._paused = False
        self._generator: Iterator[Any] | None = None
        self._tally = Tally(self._loop.now())
        self._may_log = OnceAMinute()
        self._changed = True
        self._job_done_at = 0.0
        self._over = False
        self._stopped_by: int | None = None
        self._progress: Progress | None = None
        self._perform = self._table()

    def _make_job(self) -> Job:
        hooks = self._hooks
        wanted = [hook.asks_for for hook in (hooks.result, hooks.failed) if hook]
        return Job(
            id=JobId(os.urandom(16)),
            app=self._name,
            digest=process_digest(hooks.process).hex() if hooks.process else "",
            library=__version__,
            python=platform.python_version(),
            heartbeat_timeout=self._config.heartbeat_timeout,
            init_per_node=hooks.init_per_node,
            has_init=hooks.init_data is not None,
            policy=Policy(
                by_node=hooks.by_node,
                user_reassigns=hooks.user_reassigns,
                keep_data=any("data" in asked for asked in wanted),
                max_attempts=self._config.max_attempts,
                max_losses=self._config.max_losses,
            ),
        )

    # ---- from outside

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before ``run``."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    def stop(self) -> None:
        """Send the nodes home and have ``run`` return; from any thread, or from a hook."""
        self._over = True
        self._loop.wake()

    def status(self) -> Status:
        """Tell what is going on; from a hook, or roughly from any thread."""
        now = self._loop.now()
        heard, scheduler = self._farm.heard_at, self._scheduler
        nodes = {
            NodeId(bytes=key): now - heard.get(node.peer, now)
            for key, node in list(scheduler.nodes.items())
        }
        return Status(
            done=self._tally.merged,
            failed=self._tally.failed,
            running=scheduler.running,
            waiting=scheduler.waiting,
            total=self._hooks.total,
            nodes=nodes,
        )

    def run(self) -> bool:
        """Serve the job; true when it is done, false when ``stop`` was called.

        Raises
        ------
        ConfigurationError: it cannot listen there
        TaskFailed: a task has failed for good, and there is no ``failed`` hook
        HookError: a hook raised; the cause is its exception
        Interrupted: SIGINT or SIGTERM came
        """
        try:
            with self._loop.signals((signal.SIGINT, signal.SIGTERM), self._signalled):
                self._open()
                done = self._serve()
        finally:
            self._close()
        if self._stopped_by is not None:
            raise Interrupted(self._stopped_by)
        return done

    def _signalled(self, number: int) -> None:
        log.warning("%s: signal %d: stopping", self._name, number)
        self._stopped_by = number
        self._over = True

    # ---- its life

    def _open(self) -> None:
        _raise_descriptor_limit()
        config = self._config
        self._listeners = net.listen(config.bind, config.port)
        for listener in self._listeners:
            listener.setblocking(False)
        self._accept_more()
        where = config.bind or "all interfaces"
        log.info("%s: server on port %d of %s, %s", self._name, self.port, where, self._key_source)
        line = line_wanted(config.progress)
        total = self._hooks.total
        self._progress = Progress(self._name, total, self._tally, self._scheduler, line=line)
        self._show_progress()
        if self._helper is not None:
            self._helper.start(self._loop, self.port)

    def _serve(self) -> bool:
        try:
            done = self._serve_until_over()
        except BaseException as error:
            self._send_home(QuitKind.FAILED, f"the job was stopped on the server: {_brief(error)}")
            raise
        if done:
            self._send_home(QuitKind.DONE, "the job is done")
        else:
            self._send_home(QuitKind.STOPPED, "the server was stopped")
        log.info("%s: %s", self._name, self._tally.summary(self._loop.now()))
        return done

    def _serve_until_over(self) -> bool:
        while True:
            more = self._work()
            if self._is_done():
                return True
            if self._over:
                return False
            now = self._loop.now()
            self._loop.wait(now if more else self._deadline(now))
            if self._farm.tick(self._loop.now()):
                self._changed = True
            self._throttle()

    def _work(self) -> bool:
        """Do what the farm wants done; false when there is nothing left but to wait."""
        until = self._loop.now() + WORK_SECONDS
        while not self._over:
            step = self._farm.next_step()
            if step is None:
                return False
            self._perform[type(step)](step)
            if self._changed and self._hooks.job_done and self._is_done():
                return True
            if self._loop.now() >= until:
                return True
        return True

    def _deadline(self, now: float) -> float | None:
        times = [self._farm.deadline]
        if self._changed and self._hooks.job_done:
            times.append(max(now, self._job_done_at))
        return min((time for time in times if time is not None), default=None)

    def _throttle(self) -> None:
        """Do not read results faster than the result hook takes them."""
        paused = self._scheduler.unmerged_bytes > MAX_UNMERGED_BYTES
        if paused or self._paused:
            self._farm.forgive(self._loop.now())
        if paused != self._paused:
            self._paused = paused
            for connection in self._connections.values():
                connection.pause(paused)

    def _is_done(self) -> bool:
        if self._scheduler.complete:
            return True
        hook, now = self._hooks.job_done, self._loop.now()
        if not self._changed or hook is None:
            return False
        busy = self._scheduler.busy
        if busy and now < self._job_done_at:
            return False
        self._changed = False
        done = bool(self._call(hook))
        after = self._loop.now()
        self._job_done_at = after + JOB_DONE_SHARE * (after - now)
        return done or (self._scheduler.reclaim() and False)

    def _send_home(self, kind: QuitKind, reason: str) -> None:
        """Tell all agents to leave and wait, not for long, until they have heard it."""
        self._stop_accepting()
        for connection, _, _ in self._unproven.values():
            connection.close()
        self._unproven.clear()
        self._tally.dropped += self._farm.quit(kind, reason)
        while (step := self._farm.next_step()) is not None:
            self._perform[type(step)](step)
        until = self._loop.now() + GOODBYE_SECONDS
        for connection in self._connections.values():
            connection.pause(False)
        while self._connections and self._loop.now() < until:
            self._loop.wait(until)

    def _close(self) -> None:
        if self._helper is not None:
            self._helper.stop()
        if self._progress is not None:
            self._progress.close()
        self._stop_accepting()
        for listener in self._listeners:
            listener.close()
        for connection in self._connections.values():
            connection.close()
        if self._generator is not None and hasattr(self._generator, "close"):
            self._generator.close()
        self._loop.close()

    def _show_progress(self) -> None:
        progress = self._progress
        if progress is not None:
            progress.show(self._loop.now())
            self._loop.call_in(progress.pause, self._show_progress)

    # ---- connections

    def _accept_more(self) -> None:
        self._accept_timer = None
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                self._loop.watch(listener, READ, self._acceptable)

    def _stop_accepting(self) -> None:
        self._accepting = False
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self._loop.watch(listener, 0, self._acceptable)

    def _accept_later(self, seconds: float) -> None:
        self._stop_accepting()
        if self._accept_timer is None:
            self._accept_timer = self._loop.call_in(seconds, self._accept_more)

    def _acceptable(self, _: int) -> None:
        for listener in self._listeners:
            for _ in range(ACCEPTS_AT_ONCE):
                if not self._room_for_another():
                    return
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        self._out_of_descriptors(error)
                        return
                    continue  # that one went away before it was taken
                self._accepted(sock, net.address_text(address))

    def _room_for_another(self) -> bool:
        if len(self._unproven) < MAX_UNPROVEN:
            return True
        peer_id, (connection, since, address) = next(iter(self._unproven.items()))
        waited = self._loop.now() - since
        if waited < CROWDED_SECONDS:
            self._accept_later(CROWDED_SECONDS - waited)
            return False
        connection.close()
        self._forget_unproven(peer_id, address, "silent, and others wait")
        return True

    def _out_of_descriptors(self, error: OSError) -> None:
        if self._may_log("descriptors", self._loop.now()):
            log.warning(
                "%s: no more connections for now: %s; those who are in go on "
                "(a higher 'ulimit -n' helps)",
                self._name,
                error.strerror,
            )
        self._accept_later(ACCEPT_PAUSE_S)

    def _accepted(self, sock: socket.socket, address: str) -> None:
        net.prepare(sock)
        peer_id = PeerId(self._next_peer)
        self._next_peer += 1
        connection = Connection(
            self._loop,
            sock,
            Session(initiator=False, psk=self._key, ephemeral=os.urandom(32)),
            on_messages=lambda messages: self._received(peer_id, messages),
            on_end=lambda reason, error: self._ended(peer_id, reason, error),
            on_heard=lambda: self._heard(peer_id),
        )
        self._unproven[peer_id] = (connection, self._loop.now(), address)
        if self._unproven_timer is None:
            self._unproven_timer = self._loop.call_in(UNPROVEN_SECONDS, self._drop_unproven)

    def _drop_unproven(self) -> None:
        """Close what has not proven in time that it holds the key."""
        self._unproven_timer = None
        now = self._loop.now()
        for peer_id, (connection, since, address) in list(self._unproven.items()):
            if now - since < UNPROVEN_SECONDS:
                when = since + UNPROVEN_SECONDS
                self._unproven_timer = self._loop.call_at(when, self._drop_unproven)
                return
            connection.close()
            self._forget_unproven(peer_id, address, f"no proof within {UNPROVEN_SECONDS:.0f} s")

    def _forget_unproven(self, peer_id: PeerId, address: str, reason: str) -> None:
        del self._unproven[peer_id]
        if self._may_log(address.rpartition(":")[0], self._loop.now()):
            log.warning("%s: turned away %s: %s", self._name, address, reason)

    def _heard(self, peer_id: PeerId) -> None:
        now = self._loop.now()
        unproven = self._unproven.pop(peer_id, None)
        if unproven is not None:
            connection, _, address = unproven
            self._connections[peer_id] = connection
            self._farm.connected(peer_id, address, now)
        self._farm.heard(peer_id, now)

    def _received(self, peer_id: PeerId, messages: list[Message]) -> None:
        for message in messages:
            self._farm.message(peer_id, message)

    def _ended(self, peer_id: PeerId, reason: str, error: Exception | None) -> None:
        if peer_id in self._unproven:
            _, _, address = self._unproven[peer_id]
            if isinstance(error, HandshakeError):
                reason = "it holds another secret key, or is no Parasnake node"
            self._forget_unproven(peer_id, address, reason)
            return
        if isinstance(error, ProtocolError):
            reason = f"it broke the protocol: {reason}"
        self._connections.pop(peer_id, None)
        self._farm.gone(peer_id, reason)

    # ---- what the farm wants done

    def _table(self) -> dict[type, Callable[[Any], None]]:
        return {
            steps.Send: self._send,
            steps.Drop: self._drop,
            steps.CallInit: self._call_init,
            steps.AgentJoined: self._tell_joined,
            steps.AgentRefused: self._tell_refused,
            steps.AgentLeft: self._tell_left,
            steps.NodeJoined: self._tell_node,
            steps.NodeDied: self._tell_death,
            tasks.AskData: self._ask_data,
            tasks.Merge: self._merge,
            tasks.Fail: self._fail,
            tasks.Retry: self._tell_retry,
            tasks.TellTimeout: self._tell_timeout,
            tasks.Reclaimed: self._tell_reclaimed,
        }

    def _send(self, step: steps.Send) -> None:
        connection = self._connections.get(step.peer)
        if connection is None:
            return  # it has ended, and the farm hears of that
        if isinstance(step.message, Quit):
            connection.drop_unsent()
        connection.send(step.message)

    def _drop(self, step: steps.Drop) -> None:
        connection = self._connections.pop(step.peer, None)
        if connection is not None:
            connection.close_when_sent()

    def _call_init(self, step: steps.CallInit) -> None:
        hook = self._hooks.init_data
        node_id = NodeId(bytes=step.node) if step.node is not None else None
        value = self._call(hook, node_id=node_id) if hook else None
        try:
            parts = tuple(payload.dumps(value).parts)
        except PayloadError as error:
            raise PayloadError(f"what @app.init_data returned cannot be sent: {error}") from error
        self._farm.init_given(step.peer, step.node, parts)

    def _ask_data(self, step: tasks.AskData) -> None:
        data = self._next_data(step.node)
        if data is None:
            self._scheduler.nothing(self._loop.now())
            return
        if data is _EXHAUSTED:
            self._scheduler.exhaust()
            return
        try:
            parts = tuple(payload.dumps(data).parts)
        except PayloadError as error:
            self._scheduler.refuse(data, str(error), _traceback(error))
            return
        self._send(self._farm.give(parts, data))

    def _next_data(self, node: NodeKey) -> Any:
        hook = self._hooks.new_data
        assert hook is not None
        if not hook.is_generator:
            return self._call(hook, node_id=self._id_for(hook, node))
        try:
            if self._generator is None:
                self._generator = iter(hook())
            return next(self._generator, _EXHAUSTED)
        except Exception as error:
            raise HookError("new_data") from error

    def _merge(self, step: tasks.Merge) -> None:
        task, hook = step.task, self._hooks.result
        if hook is not None:
            try:
                result = payload.loads(step.payload[0])
            except PayloadError as error:
                reason = f"its result cannot be rebuilt on the server: {error}"
                self._fail(tasks.Fail(task, step.node, reason, _traceback(error)))
                return
            node_id = self._id_for(hook, task.owner)
            self._call(hook, result=result, data=task.data, node_id=node_id)
        self._tally.merged += 1
        self._tally.process_seconds += step.seconds
        self._changed = True
        self._scheduler.settled(task)

    def _fail(self, step: tasks.Fail) -> None:
        task, hook = step.task, self._hooks.failed
        error = TaskFailed(
            task_id=task.id,
            attempts=task.failures,
            losses=task.losses,
            reason=step.reason,
            host=self._host_of(step.node),
            remote=step.remote or step.reason,
        )
        self._tally.failed += 1
        if hook is None:
            raise error
        log.error("%s: %s\n%s", self._name, error, step.remote)
        self._call(hook, data=task.data, error=error, node_id=self._id_for(hook, task.owner))
        self._changed = True
        self._scheduler.settled(task)

    def _host_of(self, node: NodeKey) -> str:
        known = self._scheduler.nodes.get(node)
        peer = self._farm.peers.get(known.peer) if known else None
        return peer.name if peer else ""

    # ---- what the farm wants told

    def _tell_joined(self, step: steps.AgentJoined) -> None:
        self._tally.agents += 1
        log.info("%s: %s joined", self._name, step.peer.name)
        for difference in step.differences:
            log.warning("%s: %s: %s", self._name, step.peer.name, difference)

    def _tell_refused(self, step: steps.AgentRefused) -> None:
        if self._may_log(step.peer.address.rpartition(":")[0], self._loop.now()):
            log.warning("%s: refused %s: %s", self._name, step.peer.name, step.reason)

    def _tell_left(self, step: steps.AgentLeft) -> None:
        self._changed = True
        again = f"; {step.tasks} of its tasks will run elsewhere" if step.tasks else ""
        if step.lost:
            self._tally.lost_agents += 1
            self._tally.lost_tasks += step.tasks
            log.warning("%s: lost %s: %s%s", self._name, step.peer.name, step.reason, again)
            return
        level = logging.ERROR if step.remote else logging.INFO
        text = f"{step.reason}{again}" + (f"\n{step.remote}" if step.remote else "")
        log.log(level, "%s: %s left: %s", self._name, step.peer.name, text)

    def _tell_node(self, step: steps.NodeJoined) -> None:
        self._tally.nodes += 1
        self._changed = True
        log.debug("%s: node %s of %s", self._name, NodeId(bytes=step.node), step.peer.name)

    def _tell_death(self, step: steps.NodeDied) -> None:
        self._tally.dead_workers += 1
        self._changed = True
        log.warning("%s: a worker on %s died: %s", self._name, step.peer.name, step.reason)

    def _tell_retry(self, step: tasks.Retry) -> None:
        self._tally.retries += 1
        log.warning(
            "%s: task %d will be tried again (%d of %d attempts failed): %s%s",
            self._name,
            step.task.id,
            step.task.failures,
            self._config.max_attempts,
            step.reason,
            f"\n{step.remote}" if step.remote else "",
        )

    def _tell_timeout(self, step: tasks.TellTimeout) -> None:
        self._changed = True
        hook = self._hooks.node_timeout
        if hook is not None:
            self._call(hook, node_id=NodeId(bytes=step.node))

    def _tell_reclaimed(self, step: tasks.Reclaimed) -> None:
        log.warning(
            "%s: %d tasks of lost nodes were not handed out again by new_data, though all nodes "
            "are idle: they are sent to other nodes now (see @app.node_timeout)",
            self._name,
            step.tasks,
        )

    # ---- small parts

    def _call(self, hook: Hook, **things: Any) -> Any:
        try:
            return hook(**things)
        except Exception as error:
            raise HookError(hook.name) from error

    @staticmethod
    def _id_for(hook: Hook, node: NodeKey) -> NodeId | None:
        return NodeId(bytes=node) if "node_id" in hook.asks_for else None


_EXHAUSTED = object()


def _brief(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, HookError) and error.__cause__ else error
    return traceback.format_exception_only(cause)[-1].strip()


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _raise_descriptor_limit() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
