"""The server's decisions: connections and their messages on one side, the scheduler on the other.

The shell tells the farm what it heard (``message``, ``heard``, ``gone``) and what its hooks answered,
and takes from it what to do (``next_step``): messages to send, hooks to call, things to tell the user.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import MessageError
from .ids import Attempt, JobId, NodeKey, PeerId, TaskId
from .messages import (
    PROTOCOL_VERSION,
    RUN_BYTES,
    SMALL_PAYLOAD,
    AskInit,
    Cancel,
    Dropped,
    Failure,
    FailureKind,
    Goodbye,
    Heartbeat,
    Held,
    Hello,
    Init,
    Message,
    NodeGone,
    Parts,
    Quit,
    QuitKind,
    Ready,
    RefusalKind,
    Refused,
    Result,
    Results,
    Taken,
    Task,
    Tasks,
    TimeLeft,
    Want,
    Welcome,
)
from .scheduler import Scheduler
from .tasks import MAX_DEPTH, Assign, Holding, Loss, Policy, Withdraw
from .tasks import Step as SchedulerStep

HEARTBEATS_PER_TIMEOUT = 3
"""An agent that has nothing to say sends this many heartbeats in one heartbeat timeout."""
MAX_HELD = 4 * MAX_DEPTH
"""Tasks that a node can return with: what it had been sent, and answers on their way."""
NO_TIME = "there is too little time left for another task"
TAKEN_ANSWERS, TAKEN_BYTES = 16, 1 << 18
"""An agent hears that its answers are safe after this many, or so many bytes of what it keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the farm must know of the job that it serves."""

    id: JobId
    app: str
    digest: str
    library: str
    python: str
    heartbeat_timeout: float
    init_per_node: bool
    has_init: bool
    seed: bytes
    """See ``seeds.job_seed``."""
    task_timeout: float
    """Seconds that a task may take; 0: as many as it needs."""
    policy: Policy


@dataclass(slots=True, eq=False)
class Peer:
    """An authenticated connection to an agent."""

    id: PeerId
    address: str
    hello: Hello | None = None
    nodes: dict[NodeKey, None] = field(default_factory=dict)
    """In the order in which they became ready."""
    welcomed: bool = False
    returned: bool = False
    """Whether it worked for this job before, on a connection that broke."""
    held: dict[NodeKey, list[Holding]] = field(default_factory=dict)
    """What nodes that are not ready yet have returned with."""
    answers: int = 0
    """How many have come."""
    taken: int = 0
    """Of how many it has been told that they are safe."""
    bytes: int = 0
    """Of the results since then, and of their data: what it keeps until it hears more."""
    delay: float = 0.0
    """Seconds that a message and its answer are on their way."""
    ends_at: float | None = None
    """When it has to go, if that is known."""

    @property
    def name(self) -> str:
        """Where it is, for people: host, process and address."""
        if self.hello is None:
            return self.address
        return f"{self.hello.host} (pid {self.hello.pid}, {self.address})"


class Send(NamedTuple):
    """Step: send this message."""

    peer: PeerId
    message: Message


class Drop(NamedTuple):
    """Step: close this connection, once what was sent before has gone out."""

    peer: PeerId


class CallInit(NamedTuple):
    """Step: call ``init_data`` for an agent (``node`` is None) or a node, then ``init_given``."""

    peer: PeerId
    node: NodeKey | None


class AgentJoined(NamedTuple):
    """Step: tell that an agent has been welcomed; ``differences`` are worth a warning."""

    peer: Peer
    differences: list[str]


class AgentRefused(NamedTuple):
    """Step: tell that an agent was sent away."""

    peer: Peer
    reason: str


class AgentLeft(NamedTuple):
    """Step: tell that an agent is gone; ``lost``: it was in and did not say goodbye."""

    peer: Peer
    lost: bool
    reason: str
    remote: str
    tasks: int


class NodeJoined(NamedTuple):
    """Step: tell that a node takes tasks now."""

    peer: Peer
    node: NodeKey


class NodeDied(NamedTuple):
    """Step: tell that a worker process has died; ``output`` is what it printed last, for people."""

    peer: Peer
    node: NodeKey
    reason: str
    output: str


class NodeEnded(NamedTuple):
    """Step: tell that a worker was ended because what it computed was not wanted any more."""

    peer: Peer
    node: NodeKey


Step = (
    SchedulerStep
    | Send
    | Drop
    | CallInit
    | AgentJoined
    | AgentRefused
    | AgentLeft
    | NodeJoined
    | NodeDied
    | NodeEnded
)


class Farm:
    """One job on its server: who is there, what they do, what to do next."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.scheduler = Scheduler(job.policy)
        self._peers: dict[PeerId, Peer] = {}
        self._heard: dict[PeerId, float] = {}  # when, the longest silent first
        self._steps: deque[Step] = deque()
        self._quit: Quit | None = None
        self._due: dict[PeerId, None] = {}  # who should hear that its answers are safe
        self._safe_at: tuple[int, dict[PeerId, int]] | None = None

    # ---- what is

    @property
    def peers(self) -> dict[PeerId, Peer]:
        """All authenticated connections; not to be changed."""
        return self._peers

    @property
    def heard_at(self) -> dict[PeerId, float]:
        """When each agent was last heard; not to be changed."""
        return self._heard

    @property
    def deadline(self) -> float | None:
        """When ``tick`` should be called at the latest."""
        times = [self.scheduler.deadline] if self._quit is None else []
        if self._heard:
            times.append(next(iter(self._heard.values())) + self.job.heartbeat_timeout)
        return min((time for time in times if time is not None), default=None)

    # ---- what happened

    def connected(self, peer_id: PeerId, address: str, now: float, *, delay: float = 0.0) -> None:
        """A connection has been authenticated; a message and its answer take ``delay`` seconds."""
        self._peers[peer_id] = Peer(peer_id, address, delay=delay)
        self._heard[peer_id] = now

    def heard(self, peer_id: PeerId, now: float) -> None:
        """Some bytes have come from an agent: it lives."""
        if self._heard.pop(peer_id, None) is not None:
            self._heard[peer_id] = now
            self.scheduler.now = now

    def forgive(self, now: float) -> None:
        """The server itself did not listen until now: nobody's silence counts."""
        self._heard = dict.fromkeys(self._heard, now)

    def gone(self, peer_id: PeerId, reason: str) -> None:
        """A connection has ended without a goodbye."""
        peer = self._peers.get(peer_id)
        if peer is not None:
            self._remove(peer, Loss.LOST, reason)

    def tick(self, now: float) -> bool:
        """Time has passed: the silent are lost. True if it is time to ask for new data again."""
        while self._heard:
            peer_id, heard = next(iter(self._heard.items()))
            if now < heard + self.job.heartbeat_timeout:  # the very sum that is the deadline
                break
            self._steps.append(Drop(peer_id))
            silence = f"nothing heard for {now - heard:.0f} s (heartbeat_timeout)"
            self._remove(self._peers[peer_id], Loss.LOST, silence)
        if self._quit is not None:
            return False
        ask_again = self.scheduler.tick(now)
        self._let_go()
        return ask_again

    def _let_go(self) -> None:
        """Agents that have too little time left for any task need not wait for its end."""
        for peer_id, idle in self.scheduler.out_of_time().items():
            peer = self._peers[peer_id]
            if idle == len(peer.nodes):
                self._steps += [Send(peer_id, Quit(QuitKind.OUT_OF_TIME, NO_TIME)), Drop(peer_id)]
                self._remove(peer, Loss.LEFT, NO_TIME)

    def message(self, peer_id: PeerId, message: Message) -> None:
        """An agent has said something.

        Raises ``MessageError`` if it may not say that now; its connection must be closed then.
        """
        peer = self._peers.get(peer_id)
        if peer is None or self._quit is not None:
            return  # it has just been dropped, or all are being sent home
        if isinstance(message, Hello):
            self._hello(peer, message)
            return
        if not peer.welcomed and not isinstance(message, Goodbye):
            raise MessageError(f"{type(message).__name__} before the welcome")
        if isinstance(message, Results):
            self._results(peer, message.node, message.run)
        elif isinstance(message, Result):
            if not message.payload:
                raise MessageError("a Result without a payload")
            self._results(peer, message.node, [message[1:]])
        else:
            self._other(peer, message)

    def _results(
        self,
        peer: Peer,
        node: NodeKey,
        answers: Sequence[tuple[TaskId, Attempt, float, Parts]],
    ) -> None:
        self._own(peer, node)
        _, size = self.scheduler.results(node, answers)
        self._answered(peer, len(answers), size)

    def _other(self, peer: Peer, message: Message) -> None:
        match message:
            case Failure(node, task, attempt, _, kind, reason, remote, _):
                self._own(peer, node)
                final = kind == FailureKind.UNPICKLABLE_RESULT
                self._answered(peer, 1, self.scheduler.size_of(task))
                self.scheduler.failure(node, task, attempt, reason, remote, final=final)
            case Dropped(node, task, attempt):
                self._own(peer, node)
                self.scheduler.dropped(node, task, attempt)
            case TimeLeft(seconds):
                peer.ends_at = self.scheduler.now + seconds
                for node in peer.nodes:
                    self.scheduler.ends(node, peer.ends_at)
            case Held():
                self._hold(peer, message)
            case Ready(node):
                self._ready(peer, node)
            case AskInit(node):
                self._ask_init(peer, node)
            case NodeGone():
                self._node_gone(peer, message)
            case Goodbye(reason, remote):
                self._steps.append(Drop(peer.id))
                self._remove(peer, Loss.LEFT, reason, remote)
            case Heartbeat():
                if peer.answers > peer.taken:
                    self._due[peer.id] = None
            case _:
                raise MessageError(f"an agent may not send {type(message).__name__}")

    def _hello(self, peer: Peer, hello: Hello) -> None:
        if peer.hello is not None:
            raise MessageError("a second Hello")
        peer.hello = hello
        refusal = self._refusal(hello)
        if refusal is not None:
            self._steps += [
                Send(peer.id, refusal),
                Drop(peer.id),
                AgentRefused(peer, refusal.reason),
            ]
            self._forget(peer)
            return
        peer.returned = hello.job == self.job.id.hex()
        if self.job.init_per_node or not self.job.has_init or peer.returned:
            self.init_given(peer.id, None, ())
        else:
            self._steps.append(CallInit(peer.id, None))

    def _refusal(self, hello: Hello) -> Refused | None:
        job = self.job
        if hello.protocol != PROTOCOL_VERSION:
            return Refused(
                RefusalKind.PROTOCOL,
                f"the server speaks protocol {PROTOCOL_VERSION} (Parasnake {job.library}), "
                f"the node protocol {hello.protocol} (Parasnake {hello.library})",
            )
        if hello.app != job.app:
            return Refused(
                RefusalKind.APP,
                f"the server runs the app {job.app!r}, the node belongs to the app {hello.app!r}",
            )
        return None

    def init_given(self, peer_id: PeerId, node: NodeKey | None, payload: Parts) -> None:
        """Answer to ``CallInit``."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return
        if node is not None:
            self._steps.append(Send(peer_id, Init(node, self.job.seed, payload)))
            return
        job = self.job
        interval = job.heartbeat_timeout / HEARTBEATS_PER_TIMEOUT
        welcome = Welcome(
            job.id,
            interval,
            job.init_per_node,
            job.seed,
            job.task_timeout,
            job.python,
            job.digest,
            payload,
        )
        peer.welcomed = True
        self._steps += [Send(peer_id, welcome), AgentJoined(peer, self._differences(peer))]

    def _differences(self, peer: Peer) -> list[str]:
        hello = peer.hello
        assert hello is not None
        return differences(self.job.python, self.job.digest, hello.python, hello.digest)

    def _ask_init(self, peer: Peer, node: NodeKey) -> None:
        self._own(peer, node)
        if not self.job.init_per_node:
            raise MessageError("AskInit, but the init data came with the welcome")
        self._steps.append(CallInit(peer.id, node))

    def _hold(self, peer: Peer, held: Held) -> None:
        self._take_over(peer, held.node)
        if not peer.returned or held.node in self.scheduler.nodes:
            raise MessageError("Held, but its node has not returned to this job")
        holdings = peer.held.setdefault(held.node, [])
        if len(holdings) >= MAX_HELD:
            raise MessageError(f"a node that holds more than {MAX_HELD} tasks")
        holding = Holding(*held[1:])
        if self._has_other_code(peer):
            holding = holding._replace(digest=b"")  # nothing that is wanted
        holdings.append(holding)

    def _has_other_code(self, peer: Peer) -> bool:
        """Whether what it has computed, or is computing, was made by another ``process``."""
        assert peer.hello is not None
        return bool(self.job.digest and peer.hello.digest) and self.job.digest != peer.hello.digest

    def _ready(self, peer: Peer, node: NodeKey) -> None:
        self._take_over(peer, node)
        if node in self.scheduler.nodes:
            raise MessageError("Ready for a node that is there already")
        peer.nodes[node] = None
        held = peer.held.pop(node, [])
        wanted = self.scheduler.join(node, peer.id, held, delay=peer.delay, ends_at=peer.ends_at)
        self._steps.append(NodeJoined(peer, node))
        for holding, is_wanted in zip(held, wanted, strict=True):
            named = node, holding.task, holding.attempt
            if is_wanted and holding.finished:
                self._steps.append(Send(peer.id, Want(*named)))
            elif not is_wanted and (holding.finished or not self.job.policy.by_node):
                self._steps.append(Send(peer.id, Cancel(*named)))

    def _take_over(self, peer: Peer, node: NodeKey) -> None:
        """An agent may be back before the end of its old connection has come."""
        known = self.scheduler.nodes.get(node)
        if not peer.returned or known is None or known.peer == peer.id:
            return
        self._steps.append(Drop(known.peer))
        self._remove(self._peers[known.peer], Loss.LOST, "it came back on another connection")

    def _answered(self, peer: Peer, count: int, size: int) -> None:
        """So many answers have come; with their data they were so many bytes."""
        peer.answers += count
        peer.bytes += size
        if peer.answers - peer.taken >= TAKEN_ANSWERS or peer.bytes >= TAKEN_BYTES:
            self._due[peer.id] = None

    def acknowledge(self, settled: int | None = None) -> None:
        """Have agents told which of their answers they need not keep; to be called now and then.

        An answer is safe when the hook of its task has been called. Those of the first ``settled``
        tasks that have ended are, by default ``Scheduler.settled_so_far``; with a journal: of those
        that are on disk.
        """
        if self._safe_at is None and not self._due:
            return
        scheduler = self.scheduler
        settled = scheduler.settled_so_far if settled is None else settled
        if self._safe_at is None:
            due = [self._peers[peer_id] for peer_id in self._due if peer_id in self._peers]
            self._safe_at = scheduler.ended_so_far, {peer.id: peer.answers for peer in due}
            self._due.clear()
        if settled < self._safe_at[0]:
            return
        for peer_id, count in self._safe_at[1].items():
            peer = self._peers.get(peer_id)
            if peer is not None:
                peer.taken, peer.bytes = count, 0
                self._steps.append(Send(peer_id, Taken(count)))
        self._safe_at = None

    def _node_gone(self, peer: Peer, message: NodeGone) -> None:
        node, reason = message.node, message.reason
        self._own(peer, node)
        if node not in peer.nodes:
            return  # it had not been ready
        del peer.nodes[node]
        if not message.died:
            self._steps.append(NodeEnded(peer, node))
            self.scheduler.lose(node, Loss.LEFT, reason)
            return
        output = as_last_lines(message.output)
        self._steps.append(NodeDied(peer, node, reason, output))
        loss = Loss.DIED if message.busy else Loss.IDLE
        self.scheduler.lose(node, loss, f"its worker on {peer.name} died: {reason}", output)

    def _own(self, peer: Peer, node: NodeKey) -> None:
        known = self.scheduler.nodes.get(node)
        if known is not None and known.peer != peer.id:
            raise MessageError("a message in the name of another agent's node")

    def _remove(self, peer: Peer, loss: Loss, reason: str, remote: str = "") -> None:
        tasks = 0
        where = f"{peer.name} was lost: {reason}"
        for node in peer.nodes:
            tasks += self.scheduler.lose(node, loss, where, remote)
        lost = loss is Loss.LOST and peer.welcomed and self._quit is None
        self._steps.append(AgentLeft(peer, lost, reason, remote, tasks))
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        del self._peers[peer.id]
        self._heard.pop(peer.id, None)

    # ---- what to do

    def next_step(self) -> Step | None:
        """Return the next thing to do, or None when there is nothing to do but wait."""
        if self._steps:
            return self._steps.popleft()
        step = self.scheduler.next_step() if self._quit is None else None
        if isinstance(step, Assign):
            return self.sending(step)[0]
        if isinstance(step, Withdraw):
            return Send(step.node.peer, Cancel(step.node.key, step.task, step.attempt))
        return step

    @staticmethod
    def sending(assign: Assign) -> list[Send]:
        """Turn an assignment into the messages that carry it: few, if its tasks are small."""
        node, assigned = assign
        if len(assigned) == 1:
            [task] = assigned
            return [Send(node.peer, Task(node.key, task.id, task.newest, task.payload))]
        sends: list[Send] = []
        run: list[tuple[TaskId, Attempt, Parts]] = []
        size = 0
        for task in assigned:
            if run and (task.size > SMALL_PAYLOAD or size >= RUN_BYTES):
                sends.append(Send(node.peer, Tasks(node.key, run)))
                run, size = [], 0
            if task.size > SMALL_PAYLOAD:
                message = Task(node.key, task.id, task.newest, task.payload)
                sends.append(Send(node.peer, message))
            else:
                run.append((task.id, task.newest, task.payload))
                size += task.size
        if run:
            sends.append(Send(node.peer, Tasks(node.key, run)))
        return sends

    def give(self, pieces: Iterable[tuple[Parts, object]]) -> list[Send]:
        """Answer to ``AskData``: so many new tasks; returns the messages to send."""
        return self.sending(self.scheduler.give(pieces))

    def quit(self, kind: QuitKind, reason: str) -> int:
        """The job is over: send everybody home; returns how many open tasks are dropped."""
        dropped = self.scheduler.stop()
        self._quit = Quit(kind, reason)
        # No hook is called any more, also not for those who have just come.
        self._steps = deque(step for step in self._steps if not isinstance(step, CallInit))
        self._steps += [Send(peer_id, self._quit) for peer_id in self._peers]
        return dropped


def as_last_lines(output: str) -> str:
    """Introduce and indent what a worker printed last, if it printed anything."""
    if not output:
        return ""
    return "the last lines that it printed:\n" + "\n".join(
        f"    {line}" for line in output.splitlines()
    )


def differences(
    server_python: str, server_digest: str, node_python: str, node_digest: str
) -> list[str]:
    """Say in which ways worth a warning a node differs from its server."""
    found = []
    if server_python.split(".")[:2] != node_python.split(".")[:2]:
        found.append(f"the server runs Python {server_python}, the node Python {node_python}")
    if server_digest and node_digest and server_digest != node_digest:
        found.append(
            "the code of the process hook is not the same on server and node "
            f"(digests {server_digest[:8]} and {node_digest[:8]})"
        )
    return found
