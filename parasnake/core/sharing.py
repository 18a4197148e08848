"""Which node has more to do than others should wait for: what is in its queue can be given away."""

from __future__ import annotations

from .ids import NodeKey
from .tasks import Node

WORTH_S = 0.005
"""Tasks are given away when the last of them would have to wait for longer than this."""
PATIENCE_MEANS = 4.0
"""A node is taken to be at a slow task when it has answered nothing for so many times its mean."""


class Sharing:
    """Nodes with more than one task."""

    def __init__(self) -> None:
        self._deep: dict[NodeKey, Node] = {}
        self.look_at: float | None = None
        """When somebody may have something to give away."""
        self._is_put_off = False

    def note(self, node: Node) -> None:
        """It has more or fewer tasks than before."""
        if node.load < 2:
            self._deep.pop(node.key, None)
        elif node.key not in self._deep:
            self._deep[node.key] = node
            self.look_at = 0.0

    def gone(self, key: NodeKey) -> None:
        """A node is gone."""
        self._deep.pop(key, None)

    def rich(self, now: float) -> list[Node]:
        """Who has something that it would be worth to give away just now, the most first."""
        waits = {node.key: _wait(node, now) for node in self._deep.values()}
        found = [node for node in self._deep.values() if waits[node.key] >= WORTH_S]
        if not found:
            times = map(_silent_from, self._deep.values())
            self.look_at = min((time for time in times if time > now), default=None)
        return sorted(found, key=lambda node: -waits[node.key])

    def somebody_is_idle(self) -> None:
        """There is one more who may take what others could not."""
        if self._is_put_off:
            self.look_at, self._is_put_off = 0.0, False

    def put_off(self, rich: list[Node], now: float) -> None:
        """What these have cannot be given away: look again ever more seldom, or at who falls silent."""
        silent = min(now - node.begun_at for node in rich)
        times = [now + max(WORTH_S, silent / 2), *map(_silent_from, self._deep.values())]
        self.look_at, self._is_put_off = min(time for time in times if time > now), True

    def clear(self) -> None:
        """Nothing more is handed out."""
        self._deep.clear()
        self.look_at = None


def _silent_from(node: Node) -> float:
    """When it has answered nothing for so long that it must be at a slow task."""
    patience = max(WORTH_S, PATIENCE_MEANS * (node.mean_seconds or 0.0))
    return node.begun_at + patience + 2 * node.delay


def _wait(node: Node, now: float) -> float:
    """For how long the last of its tasks will wait, as far as that can be known."""
    is_silent = now >= _silent_from(node)
    each = max(WORTH_S, now - node.begun_at) if is_silent else node.mean_seconds or 0.0
    return (node.load - 1) * each
