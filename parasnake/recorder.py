"""Writes into the journal what the scheduler wants done, before it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from parasnake.core import journal as entries
from parasnake.core import tasks
from parasnake.core.census import Census
from parasnake.core.farm import Step
from parasnake.core.ids import NodeKey, TaskId
from parasnake.core.messages import Parts
from parasnake.core.scheduler import Scheduler
from parasnake.errors import JournalError
from parasnake.hooks import HookTable
from parasnake.journal import Journal

RECORDED = frozenset({tasks.Merge, tasks.Retry, tasks.Fail, tasks.TellTimeout, tasks.Reclaimed})
"""The steps that are written down before they are done."""


class Recorder:
    """What stands between a server and its journal.

    Parameters
    ----------
    journal: where to write
    scheduler: whose steps are done
    hooks: those that are there say what must be written
    host_of: says where a node is, for people, or "" if it is not there any more
    census: counts what is merged, for checkpoints; None if there will be none
    """

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        hooks: HookTable,
        host_of: Callable[[NodeKey], str],
        census: Census | None = None,
    ) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._hooks = hooks
        self._host_of = host_of
        self._census = census
        self._ahead = 0

    def before(self, step: Step) -> None:
        """See that this step is in the journal; together with all that come after it for certain.

        One commit for many results is what makes a journal cheap. Only for steps in ``RECORDED``.
        """
        if self._census is not None and type(step) is tasks.Merge:
            self._census.merged(step.node, step.seconds)
        if self._ahead:
            self._ahead -= 1
            return
        self._note([step])
        self._ahead = self._note(self._scheduler.pending)
        self._journal.commit()

    def handed_out(self, task: TaskId, node: NodeKey, payload: Parts) -> None:
        """``new_data`` has given this task, for this node."""
        if payload or self._hooks.failed is not None:
            self._journal.handed_out(task, node, payload)

    def met(self, node: NodeKey, name: str) -> None:
        """A node has joined."""
        self._journal.note(entries.Met(node, name))
        if self._census is not None:
            self._census.met(node, name)

    def sent_home(self) -> None:
        """All agents are about to be told to go."""
        if self._journal.is_usable:
            with contextlib.suppress(JournalError):  # why the job ends is known already
                self._journal.note(entries.SentHome())
                self._journal.commit()

    def checkpoint(self, done: Callable[[], entries.Checkpoint]) -> int | None:
        """Put what the job has come to, which ``done`` tells, in the place of all in the journal.

        What is written already and not done yet is written again behind it. Returns how many bytes
        it has become; None if it cannot be just now, because a task whose data could not be sent is
        about to fail, and ``failed`` shall get that data.

        Raises
        ------
        JournalError: it could not be written, and the journal is as it was
        """
        left = sorted(self._scheduler.unsettled_tasks(), key=lambda item: item[0].id)
        if not all(task.payload for task, _ in left):
            return None
        steps = [step for step in self._scheduler.pending if type(step) in RECORDED]
        written: list[entries.Entry] = [done()]
        written += (
            entries.Left(task.id, task.owner, task.failures, task.losses, is_users, task.payload)
            for task, is_users in left
        )
        if self._census is not None:
            nodes = {step.node for step in steps if type(step) is tasks.Merge}
            written += self._census.cut(nodes | self._scheduler.nodes.keys())
        for step in steps:
            written += self._told(step)
        size = self._journal.start_over(written)
        self._ahead = len(steps)
        return size

    def _note(self, steps: Iterable[Step]) -> int:
        """Write what there is to write about these; returns how many of them are recorded."""
        count, merged = 0, self._journal.merged
        for step in steps:
            if type(step) is tasks.Merge:  # nearly all are
                merged(step[0].id, step[1], step[2], step[3])
            elif type(step) in RECORDED:
                for entry in self._told(step):
                    self._journal.note(entry)
            else:
                continue
            count += 1
        return count

    def _told(self, step: Step) -> Iterator[entries.Entry]:
        """What there is to write about a step."""
        match step:
            case tasks.Merge(task, node, seconds, payload):
                yield entries.Merged(task.id, node, seconds, payload)
            case tasks.Retry(task):
                yield entries.Charged(task.id, task.failures, task.losses)
            case tasks.Fail(task, node, reason, remote):
                # Without the hook the job stops here, and shall have another try at a restart.
                if self._hooks.failed is not None:
                    counts = (task.failures, task.losses)
                    host = self._host_of(node)
                    yield entries.Failed(task.id, node, *counts, reason, host, remote)
            case tasks.TellTimeout(node):
                for task in self._scheduler.left_to_user(node):
                    yield entries.Charged(task.id, task.failures, task.losses)
                if self._hooks.node_timeout is not None:
                    yield entries.TimedOut(node)
            case _:
                yield entries.TakenBack()
