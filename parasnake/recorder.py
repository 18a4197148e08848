"""Writes into the journal what the scheduler wants done, before it is done."""

from __future__ import annotations

from collections.abc import Callable

from parasnake.core import journal as entries
from parasnake.core import scheduler as tasks
from parasnake.core.farm import Step
from parasnake.core.ids import NodeKey, TaskId
from parasnake.core.messages import Parts
from parasnake.core.scheduler import Scheduler
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
    """

    def __init__(
        self,
        journal: Journal,
        scheduler: Scheduler,
        hooks: HookTable,
        host_of: Callable[[NodeKey], str],
    ) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._hooks = hooks
        self._host_of = host_of
        self._ahead = 0

    def before(self, step: Step) -> None:
        """See that this step is in the journal; together with all that come after it for certain.

        One commit for many results is what makes a journal cheap. Only for steps in ``RECORDED``.
        """
        if self._ahead:
            self._ahead -= 1
            return
        self._note(step)
        for later in self._scheduler.pending:
            if type(later) in RECORDED:
                self._note(later)
                self._ahead += 1
        self._journal.commit()

    def handed_out(self, node: NodeKey, payload: Parts) -> None:
        """``new_data`` has given the newest task, for this node."""
        if payload or self._hooks.failed is not None:
            task = TaskId(self._scheduler.handed_out - 1)
            self._journal.handed_out(task, node, payload)

    def _note(self, step: Step) -> None:
        if type(step) is tasks.Merge:
            task, node, seconds, payload = step
            self._journal.merged(task.id, node, seconds, payload)
        else:
            self._note_trouble(step)

    def _note_trouble(self, step: Step) -> None:
        note = self._journal.note
        match step:
            case tasks.Retry(task):
                note(entries.Charged(task.id, task.failures, task.losses))
            case tasks.Fail(task, node, reason, remote):
                # Without the hook the job stops here, and shall have another try at a restart.
                if self._hooks.failed is not None:
                    counts = (task.failures, task.losses)
                    host = self._host_of(node)
                    note(entries.Failed(task.id, node, *counts, reason, host, remote))
            case tasks.TellTimeout(node):
                for task in self._scheduler.left_to_user(node):
                    note(entries.Charged(task.id, task.failures, task.losses))
                if self._hooks.node_timeout is not None:
                    note(entries.TimedOut(node))
            case _:
                note(entries.TakenBack())
