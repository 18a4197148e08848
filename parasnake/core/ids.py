"""The names of things on the wire and in the scheduler."""

from __future__ import annotations

import uuid
from typing import NewType

TaskId = NewType("TaskId", int)
"""A task's ordinal in the order of the hand-outs, from 0."""

Attempt = NewType("Attempt", int)
"""How many times a task was sent before, from 0; with the task id it names one sending."""

NodeKey = NewType("NodeKey", bytes)
"""The 16 bytes of a ``NodeId``: what the wire and the scheduler use."""

PeerId = NewType("PeerId", int)
"""One connection to the server, counted from 0; never used twice."""

JobId = NewType("JobId", bytes)
"""16 random bytes, minted by the server when a job begins."""


class NodeId(uuid.UUID):
    """One node, which is one worker process. A replacement worker has a new one."""

    __slots__ = ()

    @classmethod
    def from_random(cls, sixteen_bytes: bytes) -> NodeId:
        """Make a version 4 UUID from 16 random bytes."""
        return cls(bytes=sixteen_bytes, version=4)

    def __repr__(self) -> str:
        return f"NodeId({self})"
