"""What the scheduler keeps books of: tasks and nodes, and the steps that it wants done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import blake2b
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from .durations import Durations
from .ids import Attempt, NodeKey, PeerId, TaskId
from .memory import LARGE_BYTES
from .messages import Parts
from .suspects import MAX_FAILED_TASKS

LOOK_AHEAD_S = 0.01
"""A node is sent tasks for about this long in advance, and for as long as its link takes."""
MAX_DEPTH = 2048
"""Open tasks of one node at the most."""
TURNAROUND_S, MAX_PAUSE = 0.0005, 0.01
"""It has at least one in advance if it had to wait for this share of its time between two others."""
MAX_BYTES_AHEAD = 3 << 24
"""A node is sent no more data in advance than this (one task is always allowed)."""
NEAR_BYTES, FAST_LINK_BYTES_PER_S = 1 << 23, 1e9
"""More than one task in advance needs so much at the most, and what a fast link carries meanwhile: what
lies in the caches of a processor is moved at half the cost."""
_MAC_KEY, _MAC_NONCE = b"parasnake digest", bytes(12)
_MAC_STEP = 1 << 30
SMOOTHING = 0.2
"""Weight of the newest task in a node's running means."""


class Loss(Enum):
    """How a node went, which says what its first open task is charged with."""

    DIED = auto()
    """Its worker process ended at work: that counts as a failure of the task."""
    IDLE = auto()
    """Its worker process ended before it had got any task: no charge for one on its way."""
    LOST = auto()
    """Its agent fell silent or its connection broke: counts towards ``max_losses``."""
    LEFT = auto()
    """It said goodbye: no charge."""


@dataclass(eq=False)
class OpenTask:
    """A task from its hand-out to its end.

    What few tasks ever set stays in the class until then: that makes one in less than half the time.
    """

    id: TaskId
    owner: NodeKey
    """The node under whose id ``new_data`` handed it out."""
    payload: Parts
    size: int
    data: object
    """The object itself, kept for hooks that ask for it."""
    running: NodeKey | None = field(default=None, init=False)
    """The node that has it; None while it waits, and when it is over."""
    also: frozenset[NodeKey] = field(default=frozenset(), init=False)
    """More nodes that have it: the first result counts."""
    newest: Attempt = field(default=Attempt(-1), init=False)
    """The number of its newest attempt; -1 before the first."""
    failures: int = field(default=0, init=False)
    losses: int = field(default=0, init=False)
    tried: frozenset[NodeKey | PeerId] = field(default=frozenset(), init=False)
    """Nodes and agents on which it went wrong: others come first."""
    reclaimed: bool = field(default=False, init=False)
    """In the manner of 0.1: the user forgot it, so that it is the library's from then on."""
    lost_with: frozenset[NodeKey] = field(default=frozenset(), init=False)
    """Nodes whose loss is charged to it; taken back for one that returns with it."""
    ran_for: float = field(default=0.0, init=False)
    """For how long a node that had to go had computed it in vain, in seconds."""

    def taken_by(self, key: NodeKey) -> None:
        """A node has it (too)."""
        if self.running is None:
            self.running = key
        else:
            self.also |= {key}

    def left_by(self, key: NodeKey) -> None:
        """A node does not have it any more."""
        if not self.also:
            self.running = None if self.running == key else self.running
            return
        if self.running == key:
            self.running = min(self.also)  # not any: runs shall not differ
        self.also -= {key, self.running}


@dataclass(slots=True, eq=False)
class Node:
    """A worker process somewhere."""

    key: NodeKey
    peer: PeerId
    delay: float = 0.0
    """Seconds that a message and its answer are on their way."""
    open: dict[TaskId, Attempt] = field(default_factory=dict)
    """In the order of sending; the first is being computed."""
    leaving: set[TaskId] = field(default_factory=set)
    """Of these: what was given to another node as well, and shall not be begun here."""
    begun_at: float = 0.0
    """When it began the first of these, or a bit earlier."""
    unwanted: set[tuple[TaskId, Attempt]] = field(default_factory=set)
    """What it returned with, still computes and need not: until it is through, it is not free."""
    mean_seconds: float | None = None
    mean_bytes: float = 0.0
    depth: int = 1
    """How many open tasks it should have: one until it is known how long they take."""
    owes: TaskId | None = None
    """Strict alternation: the task handed out under its name that is not merged yet."""
    joined_at: float = 0.0
    ends_at: float | None = None
    """When it has to go, if that is known."""
    took: Durations = field(default_factory=Durations)
    """How long its tasks have taken."""

    @property
    def load(self) -> int:
        """How many tasks it has to compute, as far as is known.

        The first of those that are leaving may have begun before it could be taken.
        """
        count = len(self.open) + len(self.unwanted)
        if not self.leaving:
            return count
        begun = not self.unwanted and next(iter(self.open)) in self.leaving
        return count - len(self.leaving) + begun

    @property
    def refill(self) -> int:
        """With this load or less it shall get more: not one at a time when it can have many."""
        return self.depth // 2 if self.depth > 3 else self.depth - 1

    def learn(self, seconds: float, size: int, count: int = 1) -> None:
        """Take the measure of finished tasks into the running means, and into the depth.

        ``seconds`` and ``size`` are those of all ``count`` together.
        """
        seconds, mean_size = seconds / count, size / count
        if self.mean_seconds is None:
            self.mean_seconds, self.mean_bytes = seconds, mean_size
        else:
            weight = 1 - (1 - SMOOTHING) ** count
            self.mean_seconds += weight * (seconds - self.mean_seconds)
            self.mean_bytes += weight * (mean_size - self.mean_bytes)
        by_time = (LOOK_AHEAD_S + self.delay) / max(self.mean_seconds, LOOK_AHEAD_S / MAX_DEPTH)
        if by_time < 1 and TURNAROUND_S + self.delay > MAX_PAUSE * self.mean_seconds:
            by_time = 1.0
        mean_bytes = max(self.mean_bytes, 1.0)
        enough = min(NEAR_BYTES + self.delay * FAST_LINK_BYTES_PER_S, MAX_BYTES_AHEAD)
        by_bytes = enough / mean_bytes
        if by_bytes < 1:
            by_bytes = min(MAX_BYTES_AHEAD / mean_bytes, 1.0)
        self.depth = 1 + int(min(by_time, by_bytes, MAX_DEPTH - 1))


class Holding(NamedTuple):
    """What a node that has returned says of one task that it still holds."""

    task: TaskId
    attempt: Attempt
    digest: bytes
    """Of the data, see ``digest_of``."""
    finished: bool
    """Whether it has the result already; else it computes it, or will."""


class Assign(NamedTuple):
    """Step: send these tasks to this node, each as its newest attempt."""

    node: Node
    tasks: list[OpenTask]


class AskData(NamedTuple):
    """Step: ask the user for new data for this node, so often at the most.

    Each time call ``give`` or ``refuse``; or call ``nothing`` or ``exhaust``, and ask no more.
    """

    node: NodeKey
    pieces: int = 1


class Merge(NamedTuple):
    """Step: call the ``result`` hook, then ``merged``. ``node`` is the one that computed it."""

    task: OpenTask
    node: NodeKey
    seconds: float
    payload: Parts


class Fail(NamedTuple):
    """Step: the task has failed for good; tell the user, then call ``settled``."""

    task: OpenTask
    node: NodeKey
    reason: str
    remote: str


class Retry(NamedTuple):
    """Step: nothing to do but to tell: the task will be tried again."""

    task: OpenTask
    node: NodeKey
    reason: str
    remote: str


class Withdraw(NamedTuple):
    """Step: tell the node that this attempt is not wanted any more; it may end it or go on."""

    node: Node
    task: TaskId
    attempt: Attempt


class SetAside(NamedTuple):
    """Step: nothing to do but to warn: the agent of this node gets nothing more for a while.

    ``reason`` is that of the last of its ``failures`` in a row, which count for no task.
    """

    node: NodeKey
    peer: PeerId
    failures: int
    seconds: float
    reason: str


class TooLong(NamedTuple):
    """Step: nothing to do but to warn, once: tasks take longer than any of these nodes lives."""

    longest_life: float


class TellTimeout(NamedTuple):
    """Step: call the ``node_timeout`` hook."""

    node: NodeKey


class Reclaimed(NamedTuple):
    """Step: nothing to do but to warn: the user's hooks forgot these tasks; they run again."""

    tasks: int


Step = (
    Assign
    | AskData
    | Merge
    | Fail
    | Retry
    | Withdraw
    | SetAside
    | TooLong
    | TellTimeout
    | Reclaimed
)


def as_it_is(payload: Parts) -> Parts:
    """Return the very same."""
    return payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user's hooks and settings mean for the scheduler."""

    by_node: bool = False
    """``new_data`` asks for ``node_id``: for each node, hand-out and merge alternate."""
    user_reassigns: bool = False
    """The manner of 0.1: the user hands out the data of lost nodes again."""
    keep_data: bool = False
    """A hook asks for ``data``."""
    keep_payloads: bool = False
    """The data of a task is still wanted when its result is there: a checkpoint tells it."""
    ordered: bool = False
    """Merges come in the order of the tasks; not together with ``by_node``."""
    failure_ends_job: bool = False
    """There is no ``failed`` hook: the user hears of a failed task at once, also with ``ordered``."""
    max_held: int = 1000
    """In order: with so many results waiting for their predecessors no new data is asked for."""
    max_failed_tasks: int = MAX_FAILED_TASKS
    plain: Callable[[Parts], Parts] = as_it_is
    """Gives data in one form in which it is known again: it may come in several, compressed or not."""
    speculate: bool = False
    """Tasks that take long are given to idle nodes as well; not together with ``by_node``."""
    max_attempts: int = 3
    max_losses: int = 10


def digest_of(payload: Parts) -> bytes:
    """Return the digest by which data is known again, 16 bytes.

    Agents compute that of all large data that comes: AES-GMAC (NIST SP 800-38D) is ten times as fast as
    a cryptographic hash. Its key is no secret: nobody who has the key of the job would gain anything by
    data that differ and have the same digest, and others cannot send any.
    """
    if sum(map(len, payload)) < LARGE_BYTES:
        digest = blake2b(digest_size=16)
        for part in payload:
            digest.update(part)
        return digest.digest()
    mac = Cipher(AES(_MAC_KEY), GCM(_MAC_NONCE)).encryptor()
    for part in payload:
        for start in range(0, len(part), _MAC_STEP):  # it takes no more than 2 GiB at a time
            mac.authenticate_additional_data(memoryview(part)[start : start + _MAC_STEP])
    mac.finalize()
    return mac.tag
