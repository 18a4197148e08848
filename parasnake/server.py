"""The server: sockets and the user's hooks around the farm's decisions."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from parasnake import __version__, keys, net, payload
from parasnake.access import MAX_ADDRESSES, Access, AccessFile
from parasnake.addresses import Place
from parasnake.checkpoints import Checkpoints
from parasnake.config import Config
from parasnake.core import farm as steps
from parasnake.core import tasks
from parasnake.core.farm import Farm, Job, Peer
from parasnake.core.fleet import Work
from parasnake.core.ids import JobId, NodeId, NodeKey, PeerId, TaskId
from parasnake.core.journal import Checkpoint, Exhausted
from parasnake.core.linkspeed import FAST, together
from parasnake.core.memory import LARGE_BYTES
from parasnake.core.messages import Failure, Message, Pace, Parts, Quit, QuitKind
from parasnake.core.rhythm import Rhythm
from parasnake.core.scheduler import RETURN_GRACE_S
from parasnake.core.seeds import job_seed
from parasnake.core.tasks import OpenTask, Policy
from parasnake.errors import (
    ConfigurationError,
    HookError,
    Interrupted,
    PayloadError,
    ProtocolError,
    ReplayError,
    TaskFailed,
)
from parasnake.garbage import seldom_searched
from parasnake.gate import Gate
from parasnake.hooks import Hook, HookTable
from parasnake.interfaces import reachable_at
from parasnake.keys import FoundKey
from parasnake.links import Connection
from parasnake.loop import Loop
from parasnake.recorder import RECORDED, Recorder
from parasnake.replay import EXHAUSTED, Replay
from parasnake.report import Progress, Reporter, Tally, line_wanted
from parasnake.tracebacks import last_line, of_user_code

if TYPE_CHECKING:
    from parasnake.cluster.feeder import Feeder
    from parasnake.journal import Journal

log = logging.getLogger(__name__)

ASK_SECONDS = 0.0003
"""How long new data is got for one node on end."""
ASK_BYTES = 1 << 20
"""So many bytes of data for one node are enough for a moment."""
WORK_SECONDS = 0.003
"""How long hooks run on end before the sockets are looked at again."""
SLOW_BYTES = 1 << 23
"""To copy so much takes some milliseconds."""
MAX_UNMERGED_BYTES = 1 << 26
"""With more results than this waiting for the result hook, nothing more is read."""
GOODBYE_SECONDS = 2.0
"""How long agents have to take in that the job is over."""
JOB_DONE_SHARE = 100
"""While nodes are busy, ``job_done`` is asked so seldom that it costs 1 / this of the time."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a helper may see of the server.

    Attributes
    ----------
    farm: who is there and what they do
    connections: those of the farm's peers
    tally: what the summary will tell
    """

    farm: Farm
    connections: Mapping[PeerId, Connection]
    tally: Tally


class Helper(Protocol):
    """Something that lives beside the server, such as the agent of a local run."""

    def start(self, loop: Loop, port: int, inside: Inside) -> None:
        """The server listens on this port."""

    def expect_end(self) -> None:
        """The job is over, and agents are about to be told."""

    def stop(self) -> None:
        """The server ends."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the server is at just now.

    Attributes
    ----------
    port: the port that it listens on; 0 before it does
    done: tasks merged
    failed: tasks that have failed for good
    running: tasks on nodes
    waiting: tasks that wait to be sent again
    total: how many there will be, if ``new_data`` was registered with ``total=``
    nodes: for each node that is ready, seconds since its agent was last heard
    """

    port: int
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
    key: the secret key and where it is from; None: that of the access file, or a fresh one for it
    helper: started when the server listens, stopped at its end
    feeder: submits nodes to a batch system
    """

    def __init__(
        self,
        app_name: str,
        hooks: HookTable,
        config: Config,
        key: FoundKey | None,
        *,
        helper: Helper | None = None,
        feeder: Feeder | None = None,
    ) -> None:
        self._name = app_name
        self._hooks = hooks
        self._config = config
        self._key = key
        self._access = AccessFile(config.access) if config.access is not None else None
        self._access_before: Access | None = None
        self._helper = helper
        self._feeder = feeder
        self._farm = Farm(self._make_job())
        self._scheduler = self._farm.scheduler
        self._loop = Loop()
        self._gate = Gate(app_name, self._loop, self)
        self._connections: dict[PeerId, Connection] = {}
        self._fixed_pace = _fixed_pace(config, is_local=helper is not None)
        self._paused = False
        self._generator: Iterator[Any] | None = None
        self._drawn = 0
        self._tally = Tally(self._loop.now())
        self._reporter = Reporter(
            *(app_name, self._tally, config.max_attempts, self._host_of),
            nodes=lambda: len(self._scheduler.nodes),
            later=self._loop.call_in,
        )
        self._changed = True
        self._job_done_at = 0.0
        self._done = False
        self._over = False
        self._stopped_by: int | None = None
        self._progress: Progress | None = None
        self._journal: Journal | None = None
        self._recorder: Recorder | None = None
        self._checkpoints: Checkpoints | None = None
        self.replaying = False
        """Whether hooks are being called again as the journal tells."""
        self._perform = self._table()

    def _make_job(self) -> Job:
        hooks = self._hooks
        wanted = [hook.asks_for for hook in (hooks.result, hooks.failed) if hook]
        return Job(
            id=JobId(os.urandom(16)),
            app=self._name,
            digest=hooks.digest,
            library=__version__,
            python=platform.python_version(),
            heartbeat_timeout=self._config.heartbeat_timeout,
            init_per_node=hooks.init_per_node,
            has_init=hooks.init_data is not None,
            seed=job_seed(hooks.seed),
            task_timeout=self._config.task_timeout or 0.0,
            policy=Policy(
                by_node=hooks.by_node,
                user_reassigns=hooks.user_reassigns,
                keep_data=any("data" in asked for asked in wanted),
                keep_payloads=hooks.checkpoint is not None and self._config.journal is not None,
                ordered=hooks.ordered,
                failure_ends_job=hooks.failed is None,
                plain=_plain,
                speculate=self._config.speculate and not hooks.by_node,
                max_attempts=self._config.max_attempts,
                max_losses=self._config.max_losses,
            ),
        )

    # ---- from outside

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before ``run``."""
        return self._gate.port

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
            port=self.port,
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
        JournalError: the journal cannot be written, or is damaged
        ReplayError: the hooks do not do what the journal says that they did
        """
        try:
            with (
                seldom_searched(),
                self._loop.signals((signal.SIGINT, signal.SIGTERM), self._signalled),
            ):
                done = self._run()
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

    def _run(self) -> bool:
        if self._access is not None:
            self._access_before = self._access.check()
        if self._config.journal is not None and self._resume(self._config.journal):
            self._close_generator()
            if self._access is not None and self._server_before is not None:
                self._access.take_over()  # so that it is removed
            log.info("%s: the job was done: %s", self._name, self._summary())
            self._feed_no_more()
            return True
        if self._over:  # it was told to stop while it called the hooks again
            return False
        self._open()
        return self._serve()

    def _resume(self, path: Path) -> bool:
        """Go on from a journal, or begin one; true if its job was done already."""
        from parasnake.journal import Facts, Journal  # with SQLite, for those who keep one

        job = self._farm.job
        facts = Facts(job.app, job.id, job.digest, job.library, time.time(), job.seed)
        journal = self._journal = Journal(path, facts)
        what = "a new journal" if journal.is_new else "going on from the journal"
        where = f", on {journal.file_system}: slower commits" if journal.file_system else ""
        log.info("%s: %s %s%s", self._name, what, path, where)
        self._refuse_other_code(journal)
        self._farm.job = dataclasses.replace(job, id=journal.stored.facts.job)
        done = journal.stored.done
        replay = Replay(path, self, job.policy, done)
        begin, size = self._loop.now(), 0
        self.replaying = True
        try:
            for row in journal.stored.rows():
                replay.take(row.entries)
                size += row.size
                self._loop.wait(self._loop.now())  # for a signal; nothing else can come yet
                if self._over:
                    return False
        finally:
            self.replaying = False
        self._record(journal, replay, size, self._loop.now() - begin)
        self._restore(replay)
        return done is not None

    def _refuse_other_code(self, journal: Journal) -> None:
        job, facts = self._farm.job, journal.stored.facts
        if facts.seed and facts.seed != job.seed:
            raise ReplayError(
                f"journal {journal.path}: seed= of the app is not what it was, so that the results "
                "would not fit together; give it the same seed, or name another file to begin anew"
            )
        if not facts.digest or not job.digest or facts.digest == job.digest:
            return
        if not self._config.accept_new_code:
            raise ReplayError(
                f"journal {journal.path}: the code of the process hook is not what it was, so that "
                "results of two programs would be mixed. If they fit together (a bug was repaired "
                "that had made tasks fail, say), start with --accept-new-code, or "
                "accept_new_code=True; to compute everything anew, name another file"
            )
        log.warning("%s: the code of the process hook is not what it was: accepted", self._name)

    def _record(self, journal: Journal, replay: Replay, size: int, seconds: float) -> None:
        """From now on the journal is written; a replay of its ``size`` bytes took so long."""
        if self._farm.job.digest not in ("", journal.stored.facts.digest):
            journal.accept(self._farm.job.digest)
        hook = self._hooks.checkpoint
        census = replay.census if hook is not None else None
        recorder = Recorder(journal, self._scheduler, self._hooks, self._host_of, census)
        self._recorder = recorder
        if hook is None:
            return
        last = journal.stored.checkpoint_bytes
        journal.grown = size - last
        self._checkpoints = Checkpoints(
            self._name, hook, recorder, journal, Rhythm(last, seconds),
            done=self._come_to, clock=self._loop.now,
        )  # fmt: skip

    def _come_to(self, state: Parts) -> Checkpoint:
        tally, scheduler = self._tally, self._scheduler
        counts = (scheduler.handed_out, self._drawn, scheduler.exhausted)
        return Checkpoint(*counts, tally.merged, tally.failed, tally.process_seconds, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Give the user the state of a checkpoint, and be where the job was then."""
        hook, new_data = self._hooks.restore, self._hooks.new_data
        if hook is None:
            raise self._other_script("it has a checkpoint, and the script has no restore hook")
        assert new_data is not None
        was_generator = bool(checkpoint.drawn or checkpoint.exhausted)
        if checkpoint.handed_out and was_generator != new_data.is_generator:
            raise self._other_script("new_data was a generator, or is one now")
        try:
            state = payload.loads(bytearray(b"".join(checkpoint.payload)))  # arrays can be changed
        except PayloadError as error:
            raise self._other_script(f"the state of its checkpoint: {error}") from error
        self._call(hook, state=state)
        self._tally.merged, self._tally.failed = checkpoint.merged, checkpoint.failed
        self._tally.process_seconds = checkpoint.seconds

    def _other_script(self, what: str) -> ReplayError:
        return ReplayError(
            f"journal {self._config.journal}: the script is not what it was when the journal was "
            f"written: {what}. The journal is as it was; to begin anew, name another file"
        )

    def _restore(self, replay: Replay) -> None:
        self._tally.replayed = self._tally.merged + self._tally.failed
        self._scheduler.restore(
            replay.open.values(),
            forgotten=replay.forgotten.values(),
            handed_out=replay.handed_out,
            exhausted=replay.exhausted,
            now=self._loop.now(),
            grace=0.0 if replay.sent_home or self._helper is not None else RETURN_GRACE_S,
        )
        if replay.handed_out:
            log.info(
                "%s: %d tasks merged before, %d handed out and not merged",
                self._name,
                self._tally.merged,
                len(replay.open) + len(replay.forgotten),
            )

    def _summary(self) -> str:
        self._tally.lost_seconds = self._scheduler.lost_seconds
        return self._tally.summary(self._loop.now())

    def _open(self) -> None:
        config = self._config
        key = self._listen()
        where = config.bind or "all interfaces"
        log.info("%s: server on port %d of %s, %s", self._name, self.port, where, key.source)
        if self._access is not None:
            self._say_where(self._access, key)
        elif config.bind is None:
            host = socket.gethostname()
            log.info("%s: nodes reach it with --ip %s --port %d", self._name, host, self.port)
        if self._helper is not None:
            # Before there is a line that it could garble.
            inside = Inside(self._farm, self._connections, self._tally)
            self._helper.start(self._loop, self.port, inside)
        line = line_wanted(config.progress)
        total = self._hooks.total
        self._progress = Progress(self._name, total, self._tally, self._scheduler, line=line)
        self._show_progress()
        if self._feeder is not None:
            self._feeder.start(self._loop, self._farm.job.id, self._work_left)

    def _work_left(self) -> Work:
        """Tell those who submit nodes what is left."""
        scheduler, tally = self._scheduler, self._tally
        nodes = scheduler.nodes.values()
        known = scheduler.handed_out if scheduler.exhausted else self._hooks.total
        done = tally.merged + tally.failed
        return Work(
            left=max(known, scheduler.handed_out) - done if known is not None else None,
            seconds=tally.process_seconds / tally.merged if tally.merged else None,
            workers=len(nodes) // max(1, len({node.peer for node in nodes})),
            idle=bool(scheduler.idle),
        )

    def _feed_no_more(self) -> None:
        """No node is needed any more: batch jobs that are still there are cancelled."""
        if self._feeder is not None:
            self._feeder.stop()
            self._feeder.clear(self._farm.job.id)

    @property
    def _server_before(self) -> Access | None:
        """The access file that an earlier server of this job has left, if it has."""
        before = self._access_before
        return before if before is not None and before.job == self._farm.job.id.hex() else None

    def _listen(self) -> FoundKey:
        """Listen, where nodes expect the server of this job if there was one before."""
        config, before = self._config, self._server_before
        if before is None:
            key = self._key or FoundKey(keys.generate_key(), "fresh key for the access file")
            self._gate.open(config.bind, config.port, key.key, has_local=self._helper is not None)
            return key
        key = self._key or FoundKey(before.key, "key of the access file that was there")
        try:
            self._gate.open(config.bind, config.port or before.port, key.key)
        except ConfigurationError:
            if config.port:
                raise
            self._gate.open(config.bind, 0, key.key)
        return key

    def _say_where(self, file: AccessFile, key: FoundKey) -> None:
        host = socket.gethostname()
        found = reachable_at(self._gate.listeners, host)
        places = [Place(named, port or self.port) for named, port in self._config.server_places]
        places += [Place(address, self.port) for address in found]
        job = self._farm.job
        file.write(
            Access(
                tuple(dict.fromkeys(places))[:MAX_ADDRESSES], self.port, key.key,
                app=job.app, job=job.id.hex(), host=host, pid=os.getpid(),
            )
        )  # fmt: skip
        log.info("%s: nodes reach it with --access %s", self._name, file.path)
        log.debug("%s: the access file has %s", self._name, ", ".join(map(str, places)))

    def _serve(self) -> bool:
        try:
            done = self._serve_until_over()
            if self._checkpoints is not None and not done:
                self._checkpoints.stopping()
            self._close_generator()
            if done and self._journal is not None:
                self._journal.finish(self._tally.merged + self._tally.failed)
        except BaseException as error:
            self._send_home(QuitKind.FAILED, f"the job was stopped on the server: {_brief(error)}")
            raise
        if done:
            self._send_home(QuitKind.DONE, "the job is done")
        elif self._journal is not None and self._stopped_by == signal.SIGTERM:
            self._leave_for_a_while()
        else:
            self._send_home(QuitKind.STOPPED, "the server was stopped")
        self._reporter.flush()
        log.info("%s: %s", self._name, self._summary())
        return done

    def _leave_for_a_while(self) -> None:
        """The machine is about to be booted, say: agents are not told that the job has ended."""
        if self._helper is not None:
            self._helper.expect_end()
        self._gate.shut()
        if self._access is not None:
            self._access.close()
        log.info("%s: start it again with the same journal to go on", self._name)

    def _serve_until_over(self) -> bool:
        while True:
            self._farm.acknowledge()
            begin = self._loop.now()
            more = self._work()
            if self._over:
                return False
            if self._is_done():
                return True
            if not (more or self._changed):  # job_done has said no, and new_data had nothing
                more = self._scheduler.reclaim()
            if self._checkpoints is not None:
                self._checkpoints.worked_since(begin)
            if self._journal is not None:
                self._journal.commit()  # hand-outs are on the disk before they go out, in the wait
            self._throttle()
            now = self._loop.now()
            deadline = now if more else self._deadline(now)
            self._loop.wait(deadline)
            if deadline is not None and now >= deadline:
                self._tick(now)

    def _tick(self, listened_at: float) -> None:
        """Look who had been silent until it was last looked what has come.

        Not until now: this process may have been stopped, or slow, since then.
        """
        if self._paused:
            self._farm.forgive(listened_at)
        if self._farm.tick(listened_at):
            self._changed = True

    def _work(self) -> bool:
        """Do what the farm wants done; false when there is nothing left but to wait."""
        now, next_step, perform = self._loop.now, self._farm.next_step, self._perform
        recorder, ends_by_hook = self._recorder, self._hooks.job_done is not None
        self._scheduler.now = begin = now()
        until = begin + WORK_SECONDS
        while not self._over:
            step = next_step()
            if step is None:
                return False
            if type(step) is tasks.Merge:
                self._merge(step, until)
            else:
                if recorder is not None and type(step) in RECORDED:
                    recorder.before(step)
                perform[type(step)](step)
            if ends_by_hook and self._changed and self._is_done():
                return True
            if now() >= until:
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
        if paused != self._paused:
            self._paused = paused
            for connection in self._connections.values():
                connection.pause(paused)

    def _is_done(self) -> bool:
        """Whether the job is done; once it is, it stays so, and ``job_done`` is asked no more."""
        self._done = self._done or self._scheduler.complete or self._hook_says_done()
        return self._done

    def _hook_says_done(self) -> bool:
        hook, now = self._hooks.job_done, self._loop.now()
        if not self._changed or hook is None:
            return False
        if self._scheduler.busy and now < self._job_done_at:
            return False
        self._changed = False
        done: bool = self._call(hook, into=bool)
        after = self._loop.now()
        self._job_done_at = after + JOB_DONE_SHARE * (after - now)
        return done

    def _send_home(self, kind: QuitKind, reason: str) -> None:
        """Tell all agents to leave and wait, not for long, until they have heard it."""
        self._feed_no_more()
        if self._helper is not None:
            self._helper.expect_end()
        self._gate.shut()
        if self._access is not None:
            self._access.remove()
        if self._recorder is not None and kind is not QuitKind.DONE:
            self._recorder.sent_home()
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
        if self._feeder is not None:
            self._feeder.stop()
        self._reporter.flush()
        if self._progress is not None:
            self._progress.close()
        with contextlib.suppress(HookError):  # why the run ends is known already
            self._close_generator()
        self._gate.shut()
        if self._access is not None:
            self._access.remove()
        for connection in self._connections.values():
            connection.close()
        self._loop.close()
        if self._journal is not None:
            self._journal.close()

    def _close_generator(self) -> None:
        generator, self._generator = self._generator, None
        if isinstance(generator, Generator):
            try:
                generator.close()
            except Exception as error:
                raise HookError("new_data") from error

    def _show_progress(self) -> None:
        progress = self._progress
        if progress is not None:
            progress.show(self._loop.now())
            self._loop.call_in(progress.pause, self._show_progress)

    # ---- connections

    def admitted(self, peer: PeerId, connection: Connection, address: str) -> None:
        """A peer has proven that it holds the key."""
        self._connections[peer] = connection
        connection.pause(self._paused)
        delay = net.round_trip_seconds(connection.raw)
        self._farm.connected(peer, address, self._loop.now(), delay=delay)

    def heard(self, peer: PeerId) -> None:
        """It lives."""
        self._farm.heard(peer, self._loop.now())

    def received(self, peer: PeerId, messages: list[Message]) -> None:
        """It has said something."""
        for message in messages:
            if isinstance(message, Failure) and message.module:
                message = _with_own_version(message)  # noqa: PLW2901
            self._farm.message(peer, message)

    def ended(self, peer: PeerId, reason: str, error: Exception | None) -> None:
        """Its connection has ended."""
        if isinstance(error, ProtocolError):
            reason = f"it broke the protocol: {reason}"
        self._connections.pop(peer, None)
        self._farm.gone(peer, reason)

    # ---- how fast its links are

    def _pace_to(self, peer: PeerId) -> float:
        """Tell how fast the link to an agent counts as, for what is sent to it."""
        if self._fixed_pace is not None:
            return self._fixed_pace
        connection = self._connections.get(peer)
        if connection is None:
            return FAST
        return together(connection.sending, (each.sending for each in self._connections.values()))

    def _tell_pace(self, connection: Connection) -> None:
        """Tell the workers of an agent how fast their results come here."""
        pace = self._fixed_pace
        if pace is None:
            links = (each.receiving for each in self._connections.values())
            pace = together(connection.receiving, links)
        connection.send(Pace(pace))

    def _tell_pace_at_first(self, peer: Peer) -> None:
        """To who has just joined it is fast; or was, for who has returned, what it was before."""
        connection = self._connections.get(peer.id)
        if connection is None:
            return
        if self._fixed_pace is None:
            connection.on_pace = functools.partial(self._tell_pace, connection)
        if peer.returned or self._fixed_pace == 0.0:
            self._tell_pace(connection)

    # ---- what the farm wants done

    def _table(self) -> dict[type, Callable[[Any], None]]:
        return {
            steps.Send: self._send,
            steps.Drop: self._drop,
            steps.CallInit: self._call_init,
            **dict.fromkeys(Reporter.TELLS, self._tell),
            tasks.AskData: self._ask_data,
            tasks.Fail: self._fail,
            tasks.TellTimeout: self._lost_node,
        }

    def _send(self, step: steps.Send, *, at_once: bool = False) -> None:
        connection = self._connections.get(step.peer)
        if connection is None:
            return  # it has ended, and the farm hears of that
        if isinstance(step.message, Quit):
            connection.drop_unsent()
        if at_once:
            connection.send_at_once(step.message)
        else:
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
            parts = payload.wire_form(value, bytes_per_second=self._pace_to(step.peer))
        except PayloadError as error:
            raise PayloadError(f"what @app.init_data returned cannot be sent: {error}") from error
        self._farm.init_given(step.peer, step.node, parts)

    def _ask_data(self, step: tasks.AskData) -> None:
        """Get data until there is enough, or getting it takes a while: others may be idle."""
        now, asked = self._loop.now, self._scheduler.nodes[step.node]
        if asked.mean_bytes >= SLOW_BYTES and asked.peer in self._connections:
            self._connections[asked.peer].flush()  # what was said before does not wait for a copy
        until = now() + ASK_SECONDS
        pace = self._pace_to(asked.peer)
        given: list[tuple[Parts, Any]] = []
        size = 0
        data: Any = None
        for _ in range(step.pieces):
            data = self.next_data(step.node)
            if data is None or data is EXHAUSTED:
                break
            try:
                parts = payload.wire_form(data, bytes_per_second=pace)
            except PayloadError as error:
                self._give(step.node, given)
                self._refuse(step.node, data, error)
                return
            given.append((parts, data))
            size += len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
            if size > ASK_BYTES or now() > until:
                break
        self._give(step.node, given)
        if data is None or data is EXHAUSTED:
            self._nothing_given(step.node, exhausted=data is EXHAUSTED)

    def _give(self, node: NodeKey, pieces: list[tuple[Parts, Any]]) -> None:
        if not pieces:
            return
        self._scheduler.now = self._loop.now()  # it may have taken its time to give them
        if self._recorder is not None:
            first = self._scheduler.handed_out
            for task, (parts, _) in enumerate(pieces, first):
                self._recorder.handed_out(TaskId(task), node, parts)
        waits = not (
            self._scheduler.nodes[node].open or self._recorder
        )  # what is recorded comes first
        for send in self._farm.give(pieces):
            self._send(send, at_once=waits)

    def _refuse(self, node: NodeKey, data: object, error: PayloadError) -> None:
        self._scheduler.refuse(data, str(error), of_user_code(error))
        if self._recorder is not None:
            self._recorder.handed_out(self._scheduler.newest, node, ())

    def _nothing_given(self, node: NodeKey, *, exhausted: bool) -> None:
        if exhausted:
            self._scheduler.exhaust()
        else:
            self._scheduler.nothing(self._loop.now())
        if self._journal is None:
            return
        if exhausted:
            self._journal.note(Exhausted())
        else:
            self._journal.nothing(node)

    def next_data(self, node: NodeKey) -> Any:
        """Ask ``new_data``: it gives data, None for nothing just now, or ``EXHAUSTED``."""
        generator = self._generator
        if generator is None:
            hook = self._hooks.new_data
            assert hook is not None
            if not hook.is_generator:
                return self._call(hook, node_id=self._id_for(hook, node))
            generator = self._generator = self._call(hook, into=iter)
        try:
            data = next(generator, EXHAUSTED)
        except Exception as error:
            raise HookError("new_data") from error
        self._drawn += data is not EXHAUSTED
        return data

    def _merge(self, step: tasks.Merge, until: float) -> None:
        """Merge a result, and those that come next, while there is time and nobody wants an end."""
        now, scheduler, recorder = self._loop.now, self._scheduler, self._recorder
        one_by_one = self._hooks.job_done is not None
        following: tasks.Merge | None = step
        self._changed = True
        while following is not None:
            if recorder is not None:
                recorder.before(following)
            task, node, seconds, parts = following
            self.merge(task, parts, node, seconds)
            scheduler.settled(task)
            if task.size >= LARGE_BYTES:
                self._farm.acknowledge()  # before the agent needs memory for more
            if one_by_one or self._over or now() >= until:
                return
            following = scheduler.next_merge()

    def merge(self, task: OpenTask, parts: Parts, node: NodeKey, seconds: float) -> None:
        """Give a result to the ``result`` hook; one that cannot be rebuilt here is a failure."""
        hook = self._hooks.result
        if hook is not None:
            try:
                result = payload.loads(parts[0])
            except PayloadError as error:
                reason = f"its result cannot be rebuilt on the server: {error}"
                self.give_up(task, self._task_failed(task, node, reason, of_user_code(error)))
                return
            try:
                if hook.only == "result":  # the quick way
                    hook.function(result)
                else:
                    node_id = self._id_for(hook, task.owner)
                    hook(result=result, data=task.data, node_id=node_id)
            except Exception as error:
                raise HookError(hook.name) from error
        self._tally.merged += 1
        self._tally.process_seconds += seconds

    def _fail(self, step: tasks.Fail) -> None:
        self.give_up(step.task, self._task_failed(*step))
        self._changed = True
        self._scheduler.settled(step.task)

    def _task_failed(self, task: OpenTask, node: NodeKey, reason: str, remote: str) -> TaskFailed:
        return TaskFailed(
            task_id=task.id,
            attempts=task.failures,
            losses=task.losses,
            reason=reason,
            host=self._host_of(node),
            remote=remote or reason,
        )

    def give_up(self, task: OpenTask, error: TaskFailed) -> None:
        """Tell the ``failed`` hook of a task; without the hook this is the end of the job."""
        hook = self._hooks.failed
        self._tally.failed += 1
        if hook is None:
            raise error
        if not self.replaying:
            remote = str(error.__cause__)
            log.error(
                "%s: %s%s", self._name, error, "" if remote == error.reason else f"\n{remote}"
            )
        self._call(hook, data=task.data, error=error, node_id=self._id_for(hook, task.owner))

    def _host_of(self, node: NodeKey) -> str:
        known = self._scheduler.nodes.get(node)
        peer = self._farm.peers.get(known.peer) if known else None
        return peer.name if peer else ""

    def _tell(self, step: Any) -> None:
        self._changed = True
        self._reporter.tell(step)
        if self._feeder is not None:
            self._feeder.tell(step)
        if isinstance(step, steps.AgentJoined):
            self._tell_pace_at_first(step.peer)
        if self._recorder is not None and isinstance(step, steps.NodeJoined):
            self._recorder.met(step.node, step.peer.name)

    def _lost_node(self, step: tasks.TellTimeout) -> None:
        self._changed = True
        self.tell_timeout(step.node)

    def tell_timeout(self, node: NodeKey) -> None:
        """Tell the ``node_timeout`` hook of a node that was lost."""
        hook = self._hooks.node_timeout
        if hook is not None:
            self._call(hook, node_id=NodeId(bytes=node))

    # ---- small parts

    def _call(self, hook: Hook, *, into: Callable[[Any], Any] | None = None, **things: Any) -> Any:
        try:
            value = hook(**things)
            return into(value) if into else value
        except Exception as error:
            raise HookError(hook.name) from error

    @staticmethod
    def _id_for(hook: Hook, node: NodeKey) -> NodeId | None:
        return NodeId(bytes=node) if "node_id" in hook.asks_for else None


def _fixed_pace(config: Config, *, is_local: bool) -> float | None:
    """Tell how fast all links count as, if that need not be measured."""
    if config.compression == "zstd":
        return 0.0
    return FAST if config.compression == "off" or is_local else None


def _plain(parts: Parts) -> Parts:
    """Return data as it was before it was compressed."""
    return (payload.plain(b"".join(parts)),) if parts else ()


def _with_own_version(failure: Failure) -> Failure:
    """The node could not rebuild the data: say what the server has of the module in question."""
    version = payload.version_of(failure.module)
    here = f"{failure.module} {version}" if version else f"no module {failure.module}"
    text = f"{failure.reason}; the server has {here}, Python {platform.python_version()}"
    return failure._replace(reason=text)


def _brief(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, HookError) and error.__cause__ else error
    return last_line(cause)
