"""Tasks of lost nodes whose data the user is to hand out again, in the manner of 0.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .ids import NodeKey, TaskId
from .messages import Parts
from .tasks import OpenTask, as_it_is, digest_of


class Forgotten:
    """These tasks, which are known again by their data.

    Parameters
    ----------
    plain: gives data in one form, whatever form it was sent in
    """

    def __init__(self, plain: Callable[[Parts], Parts] = as_it_is) -> None:
        self._plain = plain
        self._tasks: dict[bytes, list[OpenTask]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._tasks.values()))

    def __iter__(self) -> Iterator[OpenTask]:
        for tasks in self._tasks.values():
            yield from tasks

    def add(self, task: OpenTask) -> None:
        """From now on it is the user's."""
        self._tasks.setdefault(digest_of(self._plain(task.payload)), []).append(task)

    def take(self, payload: Parts) -> OpenTask | None:
        """Take out one with the same data, if there is one."""
        if not self._tasks:
            return None  # most jobs need no digests
        digest = digest_of(self._plain(payload))
        tasks = self._tasks.get(digest)
        if tasks is None:
            return None
        task = tasks.pop(0)
        if not tasks:
            del self._tasks[digest]
        return task

    def of(self, owner: NodeKey) -> Iterator[OpenTask]:
        """All that were handed out for this node."""
        return (task for task in self if task.owner == owner)

    def find(self, task_id: TaskId) -> OpenTask | None:
        """The one with this id, if it is here."""
        return next((task for task in self if task.id == task_id), None)

    def clear(self) -> None:
        """They are the user's no more."""
        self._tasks.clear()
