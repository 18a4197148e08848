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

    def richest(self, now: float) -> tuple[Node, int] | None:
        """Who has most to give away, and how many tasks; None if it is not worth it just now."""
        best, wait = None, WORTH_S
        for node in self._deep.values():
            if (its_wait := _wait(node, now)) > wait:
                best, wait = node, its_wait
        if best is not None:
            return best, best.load // 2
        silent_until = [node.begun_at + _patience(node) for node in self._deep.values()]
        self.look_at = min((time for time in silent_until if time > now), default=None)
        return None

    def put_off(self, now: float) -> None:
        """What the richest has cannot be given away."""
        self.look_at = now + WORTH_S

    def clear(self) -> None:
        """Nothing more is handed out."""
        self._deep.clear()
        self.look_at = None


def _patience(node: Node) -> float:
    mean = node.mean_seconds or 0.0
    return max(WORTH_S, PATIENCE_MEANS * mean) + 2 * node.delay


def _wait(node: Node, now: float) -> float:
    """For how long the last of its tasks will wait, as far as that can be known."""
    silent = now - node.begun_at
    each = silent if silent > _patience(node) else node.mean_seconds or 0.0
    return (node.load - 1) * each
