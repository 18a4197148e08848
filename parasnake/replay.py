"""Replay: the user's hooks are called again as the journal says that they were."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from parasnake import payload
from parasnake.core.census import Census
from parasnake.core.ids import NodeKey, TaskId
from parasnake.core.journal import (
    NODE_BYTES,
    Charged,
    Checkpoint,
    Computed,
    Entry,
    Exhausted,
    Failed,
    HandedOut,
    Left,
    Merged,
    Met,
    Nothing,
    SentHome,
    TakenBack,
    TimedOut,
    nodes_of,
)
from parasnake.core.messages import Parts
from parasnake.core.tasks import OpenTask, Policy
from parasnake.errors import JournalError, PayloadError, ReplayError, TaskFailed

EXHAUSTED = object()
"""What stands for data when a generator has ended."""


class Caller(Protocol):
    """Who calls the user's hooks."""

    def next_data(self, node: NodeKey) -> Any:
        """Ask for new data for this node: it, None for nothing just now, or ``EXHAUSTED``."""

    def merge(self, task: OpenTask, parts: Parts, node: NodeKey, seconds: float) -> None:
        """Give this result to the user."""

    def give_up(self, task: OpenTask, error: TaskFailed) -> None:
        """Tell the user that a task has failed for good."""

    def tell_timeout(self, node: NodeKey) -> None:
        """Tell the user that a node was lost."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Give the user the state of a checkpoint; a generator will be asked from its beginning."""


class Replay:
    """What a job has come to, as its journal tells it.

    Parameters
    ----------
    path: the journal, for errors
    caller: calls the hooks
    policy: of the scheduler
    done: stop after so many merges and failures, None: after the last

    Attributes
    ----------
    open: tasks that were handed out and have not been settled
    forgotten: those of them that wait for the user to hand out their data again
    handed_out: how many tasks there were
    exhausted: whether the generator has ended
    told: merges and failures of which the hooks were told
    census: where they were computed
    sent_home: whether no agent may still be computing any of them
    """

    def __init__(self, path: Path, caller: Caller, policy: Policy, done: int | None) -> None:
        self._path = path
        self._caller = caller
        self._policy = policy
        self._done = done
        self.open: dict[TaskId, OpenTask] = {}
        self.forgotten: dict[TaskId, OpenTask] = {}
        self.handed_out = 0
        self.exhausted = False
        self.told = 0
        self.census = Census()
        self.sent_home = False
        self._take: dict[type[Entry], Callable[[Any], None]] = {
            HandedOut: self._handed_out,
            Nothing: self._nothing,
            Exhausted: self._exhausted,
            Merged: self._merged,
            Failed: self._failed,
            Charged: self._charged,
            TimedOut: self._timed_out,
            TakenBack: self._taken_back,
            Met: self._met,
            Checkpoint: self._checkpoint,
            Left: self._left,
            Computed: self._computed,
            SentHome: self._sent_home,
        }

    def take(self, entries: Iterable[Entry]) -> None:
        """Do again what was done then.

        Raises
        ------
        ReplayError: the hooks do something else
        HookError: a hook raised
        TaskFailed: a task had failed, and there is no ``failed`` hook
        JournalError: the entries make no sense
        """
        for entry in entries:
            if self.told == self._done:
                return  # what came later was dropped: the job was done
            self._take[type(entry)](entry)

    def _handed_out(self, entry: HandedOut) -> None:
        if entry.task != self.handed_out:
            raise self._senseless(entry.task)
        data = self._caller.next_data(entry.node)
        if data is None or data is EXHAUSTED or not same(entry.payload, data):
            raise self._differs(_described(entry.payload), _brief(data))
        size = sum(map(len, entry.payload))
        kept = data if self._policy.keep_data else None
        task = OpenTask(entry.task, entry.node, entry.payload, size, kept)
        again = self._take_forgotten(task)
        if again is not None:
            task.failures, task.losses = again.failures, again.losses
        self.open[task.id] = task
        self.handed_out += 1

    def _take_forgotten(self, task: OpenTask) -> OpenTask | None:
        """Return the task of a lost node that had the same data, which is the user's no more."""
        for other in self.forgotten.values():
            if self._plain(other) == self._plain(task):
                return self.forgotten.pop(other.id)
        return None

    def _plain(self, task: OpenTask) -> bytes:
        return b"".join(self._policy.plain(task.payload))

    def _nothing(self, entry: Nothing) -> None:
        nodes = nodes_of(entry)
        for _ in range(entry.times):
            for node in nodes:
                data = self._caller.next_data(node)
                if data is not None:
                    raise self._differs(_brief(None), _brief(data))

    def _exhausted(self, entry: Exhausted) -> None:
        data = self._caller.next_data(NodeKey(bytes(NODE_BYTES)))
        if data is not EXHAUSTED:
            raise self._differs(_brief(EXHAUSTED), _brief(data))
        self.exhausted = True

    def _merged(self, entry: Merged) -> None:
        task = self._settle(entry.task)
        self.census.merged(entry.node, entry.seconds)
        self._caller.merge(task, entry.payload, entry.node, entry.seconds)

    def _failed(self, entry: Failed) -> None:
        task = self._settle(entry.task)
        error = TaskFailed(
            task_id=task.id,
            attempts=entry.failures,
            losses=entry.losses,
            reason=entry.reason,
            host=entry.host,
            remote=entry.remote or entry.reason,
        )
        self._caller.give_up(task, error)

    def _settle(self, task_id: TaskId) -> OpenTask:
        task = self.open.pop(task_id, None)
        if task is None:
            raise self._senseless(task_id)
        self.told += 1
        return task

    def _charged(self, entry: Charged) -> None:
        # A task that failed in the same moment is settled already.
        task = self.open.get(entry.task)
        if task is not None:
            task.failures, task.losses = entry.failures, entry.losses

    def _timed_out(self, entry: TimedOut) -> None:
        if self._policy.user_reassigns:
            node = entry.node
            left = [t for t in self.open.values() if t.owner == node and not t.reclaimed]
            self.forgotten.update((self.open.pop(task.id).id, task) for task in left)
        self._caller.tell_timeout(entry.node)

    def _taken_back(self, entry: TakenBack) -> None:
        for task in self.forgotten.values():
            task.reclaimed = True
        self.open |= self.forgotten
        self.forgotten.clear()

    def _met(self, entry: Met) -> None:
        self.sent_home = False
        self.census.met(entry.node, entry.name)

    def _sent_home(self, _: SentHome) -> None:
        self.sent_home = True

    def _computed(self, entry: Computed) -> None:
        self.census.add(*entry)

    def _checkpoint(self, entry: Checkpoint) -> None:
        if self.handed_out or self.told:
            raise self._damaged("a checkpoint in the middle")
        self._caller.restore(entry)
        self._draw(entry)
        self.handed_out, self.exhausted = entry.handed_out, entry.exhausted
        self.told = entry.merged + entry.failed

    def _draw(self, entry: Checkpoint) -> None:
        """Bring a new generator to where the old one was."""
        given = 0
        for _ in range(entry.drawn):
            data = self._caller.next_data(NodeKey(bytes(NODE_BYTES)))
            if data is EXHAUSTED:
                break
            given += data is not None
        if entry.drawn and given != entry.handed_out:
            raise self._not_as_it_was(
                f"the first {entry.drawn} times that new_data was asked it gave the data of "
                f"{entry.handed_out} tasks, and now of {given}"
            )
        if entry.drawn and entry.exhausted:
            self._exhausted(Exhausted())

    def _left(self, entry: Left) -> None:
        kept = self._rebuilt(entry) if self._policy.keep_data else None
        size = sum(map(len, entry.payload))
        task = OpenTask(entry.task, entry.node, entry.payload, size, kept)
        task.failures, task.losses = entry.failures, entry.losses
        (self.forgotten if entry.forgotten else self.open)[task.id] = task

    def _rebuilt(self, entry: Left) -> object:
        try:
            return payload.loads(b"".join(entry.payload))
        except PayloadError as error:
            raise self._not_as_it_was(f"the data of task {entry.task}: {error}") from error

    def _differs(self, then: str, now: str) -> ReplayError:
        return self._not_as_it_was(
            f"after {self.handed_out} tasks handed out and {self.told} merged, new_data gave "
            f"{then}, and now {now}"
        )

    def _not_as_it_was(self, what: str) -> ReplayError:
        return ReplayError(
            f"journal {self._path}: the script does not do what it did when the journal was written: "
            f"{what}. Have the script, its parameters or its input changed, or does "
            "new_data use random numbers without a fixed seed? The journal is as it was; to begin "
            "anew, name another file"
        )

    def _senseless(self, task_id: TaskId) -> JournalError:
        return self._damaged(f"task {task_id} is out of order")

    def _damaged(self, what: str) -> JournalError:
        return JournalError(f"journal {self._path}: it is damaged: {what}")


def same(recorded: Parts, data: object) -> bool:
    """Whether an object is what was recorded, which may have been pickled in another order (a set)."""
    try:
        now = b"".join(payload.dumps(data).parts)
    except PayloadError:
        return not recorded
    try:
        then = payload.plain(b"".join(recorded))
        if now == then:
            return True
        before = payload.loads(then)
    except PayloadError:
        return False
    try:
        if bool(before == data):
            return True
    except Exception:  # an array, say, has no truth value
        pass
    # What went through pickle has lost which of its parts had been one object by chance.
    return _normal(before) == _normal(payload.loads(now))


def _normal(data: object) -> bytes:
    return b"".join(payload.dumps(data).parts)


def _described(recorded: Parts) -> str:
    if not recorded:
        return "something that cannot be sent"
    try:
        return _brief(payload.loads(b"".join(recorded)))
    except PayloadError as error:
        return f"something else ({error})"


def _brief(data: object) -> str:
    if data is None:
        return "None (nothing just now)"
    if data is EXHAUSTED:
        return "its end"
    try:
        return f"the data {reprlib.repr(data)}"
    except Exception:
        return f"data of the type {type(data).__name__}"
