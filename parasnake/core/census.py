"""Where tasks were computed, as the entries of a journal tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from .ids import NodeId, NodeKey
from .journal import Computed, Met

MAX_PLACES = 1000
ELSEWHERE = "other places"
"""What stands for all places beyond so many."""


class Census:
    """Counts merged tasks by the places where they were computed.

    Attributes
    ----------
    tasks: how many each place has computed
    seconds: spent in ``process`` for these
    """

    def __init__(self) -> None:
        self.tasks: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self._names: dict[NodeKey, str] = {}

    def met(self, node: NodeKey, name: str) -> None:
        """A node is in this place."""
        self._names[node] = name

    def merged(self, node: NodeKey, seconds: float) -> None:
        """One task more, which this node has computed in so many seconds."""
        self.add(1, seconds, self._names.get(node) or f"node {NodeId(bytes=node)}")

    def add(self, tasks: int, seconds: float, place: str) -> None:
        """So many tasks more from a place."""
        self.tasks[place] += tasks
        self.seconds[place] = self.seconds.get(place, 0.0) + seconds

    def cut(self, nodes: Iterable[NodeKey]) -> Iterator[Computed | Met]:
        """Return it as entries, the places with the most tasks first.

        Only ``nodes`` are known by their names from now on.
        """
        kept = dict(self.tasks.most_common(MAX_PLACES))
        for place in self.tasks.keys() - kept:
            self.add(self.tasks.pop(place), self.seconds.pop(place), ELSEWHERE)
        self._names = {node: self._names[node] for node in nodes if node in self._names}
        for place, count in self.tasks.most_common():
            yield Computed(count, self.seconds[place], place)
        for node, name in self._names.items():
            yield Met(node, name)
