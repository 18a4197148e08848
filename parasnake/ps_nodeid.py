"""PSNodeId: the name of one node, as 0.1 had it."""

from __future__ import annotations

import uuid


class PSNodeId:
    """The name of one node; two are equal if their ``id`` is.

    Attributes
    ----------
    id: a random UUID (version 4); another one may be assigned before the node runs
    """

    def __init__(self) -> None:
        self.id: uuid.UUID = uuid.uuid4()

    @classmethod
    def of(cls, node_id: uuid.UUID) -> PSNodeId:
        """The name of the node with this UUID."""
        named = cls.__new__(cls)
        named.id = uuid.UUID(int=node_id.int)
        return named

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PSNodeId):
            return NotImplemented
        return self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PSNodeId({self.id})"
