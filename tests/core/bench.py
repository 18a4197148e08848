"""A scheduler with a user: every step is done at once and written down as a short line of words.

ask a             new_data is asked for node a
send 3.1 to a     task 3 goes to node a; it was sent once before
withdraw 3.0 from a   it need not compute that any more
merge 3 of a by b     the result hook is called with a's id for what b has computed
fail 3 by b: why      the failed hook
retry 3 by b: why     told only
timeout a         the node_timeout hook
reclaim 2         told only
aside 1 for 10: why   told only: agent 1
too long: 20      told only: nodes are there for 20 s at the most
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from parasnake.core.ids import Attempt, NodeKey, PeerId, TaskId
from parasnake.core.messages import Parts
from parasnake.core.scheduler import LAST_PAUSE_S, Scheduler
from parasnake.core.tasks import (
    AskData,
    Assign,
    Fail,
    Holding,
    Loss,
    Merge,
    OpenTask,
    Policy,
    Reclaimed,
    Retry,
    SetAside,
    Step,
    TellTimeout,
    TooLong,
    Withdraw,
    digest_of,
)


def key(letter: str) -> NodeKey:
    return NodeKey(letter.encode() * 16)


def letter(node: NodeKey) -> str:
    return chr(node[0])


class Unsendable:
    """Data that cannot be serialised."""


UNSENDABLE = Unsendable()


class Bench:
    """A scheduler, the data that its user has (``None``: nothing just now), and what was done.

    With ``generator`` the user's data comes to an end.
    """

    def __init__(
        self, data: Iterable[object] = (), policy: Policy | None = None, *, generator: bool = False
    ) -> None:
        self.scheduler = Scheduler(policy or Policy())
        self.data = deque(data)
        self.generator = generator
        self.now = 0.0
        self.tasks: dict[int, OpenTask] = {}  # all that have been sent
        self.wanted = False  # whether the last answer of a node was
        self.still_wanted: list[bool] = []  # of what the last node that returned holds

    # ---- what happens to it; what it does then

    def join(
        self, letters: str, peer: int = 0, *, life: float | None = None, delay: float = 0.0
    ) -> list[str]:
        ends_at = None if life is None else self.now + life
        for name in letters:
            self.scheduler.join(key(name), PeerId(peer), ends_at=ends_at, delay=delay)
        return self.work()

    def come_back(self, name: str, *held: Holding) -> list[str]:
        self.still_wanted = self.scheduler.join(key(name), PeerId(1), held)
        return self.work()

    def result(
        self, name: str, task: int, attempt: int = 0, *, seconds: float = 1.0, size: int = 0
    ) -> list[str]:
        payload = (bytes(size),) if size else ()
        self.wanted = self.scheduler.result(
            key(name), TaskId(task), Attempt(attempt), seconds, payload
        )
        return self.work()

    def failure(
        self, name: str, task: int, attempt: int = 0, *, final: bool = False, reason: str = "oops"
    ) -> list[str]:
        self.wanted = self.scheduler.failure(
            key(name), TaskId(task), Attempt(attempt), reason, "traceback", final=final
        )
        return self.work()

    def lose(self, letters: str, loss: Loss = Loss.LOST, reason: str = "gone") -> list[str]:
        for name in letters:
            self.scheduler.lose(key(name), loss, reason)
        return self.work()

    def pass_time(self, seconds: float) -> list[str]:
        self.now += seconds
        self.scheduler.tick(self.now)
        return self.work()

    def grow_impatient(self) -> None:
        """Let ``new_data`` say "nothing" until the pauses between two questions are the longest."""
        for _ in range(6):
            self.pass_time(LAST_PAUSE_S)

    def reclaim(self) -> list[str]:
        self.grow_impatient()
        self.scheduler.reclaim()
        return self.work()

    def restore(
        self,
        *tasks: OpenTask,
        handed_out: int,
        exhausted: bool = False,
        forgotten: Iterable[OpenTask] = (),
    ) -> None:
        """Go on with a job that another scheduler has begun."""
        self.scheduler.restore(
            tasks, forgotten=forgotten, handed_out=handed_out, exhausted=exhausted, now=self.now
        )

    # ---- what it does

    def work(self) -> list[str]:
        """Do all steps, like the shell; return them in words."""
        done = []
        while (step := self.scheduler.next_step()) is not None:
            done += self.perform(step)
        return done

    def perform(self, step: Step) -> list[str]:
        match step:
            case AskData(node, pieces):
                return [f"ask {letter(node)}", *self.answer(pieces)]
            case Assign(node, tasks):
                self.tasks |= {task.id: task for task in tasks}
                return [f"send {task.id}.{task.newest} to {letter(node.key)}" for task in tasks]
            case Merge(task, node, _, _):
                self.scheduler.settled(task)
                return [f"merge {task.id} of {letter(task.owner)} by {letter(node)}"]
            case Fail(task, node, reason, _):
                self.scheduler.settled(task)
                return [f"fail {task.id} by {letter(node)}: {reason}"]
            case Withdraw(node, task_id, attempt):
                return [f"withdraw {task_id}.{attempt} from {letter(node.key)}"]
            case Retry(task, node, reason, _):
                return [f"retry {task.id} by {letter(node)}: {reason}"]
            case SetAside(_, peer, _, seconds, reason):
                return [f"aside {peer} for {seconds:g}: {reason}"]
            case TooLong(longest_life):
                return [f"too long: {longest_life:g}"]
            case TellTimeout(node):
                return [f"timeout {letter(node)}"]
            case Reclaimed(tasks):
                return [f"reclaim {tasks}"]

    def answer(self, pieces: int) -> list[str]:
        """Give what ``new_data`` gives when it is asked up to so many times."""
        given: list[object] = []
        while self.data and len(given) < pieces and self.data[0] not in (None, UNSENDABLE):
            given.append(self.data.popleft())
        sent = []
        if given:
            sent = self.perform(self.scheduler.give([(payload_of(data), data) for data in given]))
        if len(given) == pieces:
            return sent
        if not self.data and self.generator:
            self.scheduler.exhaust()
        elif not self.data or self.data[0] is None:
            self.scheduler.nothing(self.now)
        else:
            self.scheduler.refuse(self.data[0], "no pickle", "traceback")
        if self.data:
            self.data.popleft()
        return sent


def holding(task: int, data: object, *, attempt: int = 0, finished: bool = False) -> Holding:
    """What a node that has returned says of a task that it got with this data."""
    return Holding(TaskId(task), Attempt(attempt), digest_of(payload_of(data)), finished)


def payload_of(data: object) -> Parts:
    return data if isinstance(data, tuple) else (repr(data).encode(),)
