"""The worker: a plain loop that reads a task, calls ``process`` and writes the result.

It runs in a process of its own at the other end of its agent's channel and knows nothing of the
network. (The node of a class program runs it in the calling process.)
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from parasnake import arguments, payload
from parasnake.core.ids import Attempt, NodeId, NodeKey, TaskId
from parasnake.core.linkspeed import FAST
from parasnake.core.messages import (
    TO_WORKER,
    Buffer,
    Cancel,
    Dropped,
    Failure,
    FailureKind,
    Init,
    Message,
    MessageReader,
    NodeBroken,
    Pace,
    Parts,
    Ready,
    Result,
    Task,
    Tasks,
    encode,
)
from parasnake.core.seeds import task_seed
from parasnake.errors import PayloadError, UnreadablePayload
from parasnake.hooks import Hook
from parasnake.tracebacks import last_line, of_user_code

READ_BYTES = 1 << 16
IOV_PIECES = 64
"""Pieces in one gathering write to the agent."""
LOOK_SECONDS = 0.001
"""A worker that has more to do looks so often whether some of it has been cancelled."""


Item = tuple[TaskId, Attempt, Parts]
"""A task in a worker's queue: which one, which attempt, and its serialised data."""


class WorkerChannel(Protocol):
    """What a worker needs of its end of the channel to its agent."""

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """Read bytes, after waiting for them if the flags allow; 0 at the end."""

    def say(self, pieces: list[Buffer], /) -> None:
        """Write a message, of which these are the pieces."""


class WorkerEnd:
    """A worker's end of the channel: it answers by a pipe, and sends long payloads through the socket.

    A small write to a pipe costs a third of one to a socket and takes less room; a large one costs
    several times as much.

    Parameters
    ----------
    channel: the socket
    pipe: a descriptor to write to, if there is one
    """

    def __init__(self, channel: socket.socket, pipe: int | None = None) -> None:
        self.recv_into = channel.recv_into
        self._channel = channel
        self._pipe = pipe

    @classmethod
    def of(cls, channel: socket.socket) -> WorkerEnd:
        """Take the pipe that ``Child.open_answers`` has sent, if the system had one left.

        It is closed in processes that user code forks.
        """
        _, pipes, _, _ = socket.recv_fds(channel, 1, 1)
        for pipe in pipes:
            os.register_at_fork(after_in_child=functools.partial(os.close, pipe))
        return cls(channel, pipes[0] if pipes else None)

    def say(self, pieces: list[Buffer], /) -> None:
        """Write a message, of which these are the pieces."""
        if self._pipe is None:
            for piece in pieces:
                self._channel.sendall(piece)
            return
        first, rest = pieces[0], pieces[1:]
        if rest:  # as much as fits in comes first: it is there when the agent hears of it
            rest = self._send(rest, socket.MSG_DONTWAIT)
        while (count := os.write(self._pipe, first)) < len(first):  # a signal of the user's cut it
            first = first[count:]
        while rest:
            rest = self._send(rest)

    def _send(self, pieces: Sequence[Buffer], flags: int = 0) -> list[Buffer]:
        """Send what the socket takes; return what is left."""
        try:
            count = self._channel.sendmsg(pieces[:IOV_PIECES], (), flags)
        except BlockingIOError:
            return list(pieces)
        for index, piece in enumerate(pieces):
            if count < len(piece):
                return [memoryview(piece)[count:], *pieces[index + 1 :]]
            count -= len(piece)
        return []


@dataclass(frozen=True, slots=True)
class NodeHooks:
    """The user's functions that run on a node."""

    process: Hook
    node_init: Hook | None


def main(
    node: NodeKey,
    hooks: NodeHooks,
    script_arguments: argparse.Namespace | None,
    channel: socket.socket,
) -> None:
    """Be a worker until the agent closes the channel: the entry of a worker process."""
    arguments.current = script_arguments
    Worker(node, hooks, WorkerEnd.of(channel)).run()


def report_broken(node: NodeKey, channel: socket.socket, text: str) -> None:
    """Tell the agent that this process could not even be set up."""
    reason = text.strip().splitlines()[-1] if text.strip() else "the worker cannot begin"
    WorkerEnd.of(channel).say(encode(NodeBroken(node, reason, text)))


class Worker:
    """One node's work on one channel."""

    def __init__(self, node: NodeKey, hooks: NodeHooks, channel: WorkerChannel) -> None:
        self._node = node
        self._node_id = NodeId(bytes=node)
        self._hooks = hooks
        self._channel = channel
        self._init_data: object = None
        self._job_seed = b""
        self._pace = FAST
        self._wants_seed = "seed" in hooks.process.asks_for
        self._reader = MessageReader(TO_WORKER)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._queue: deque[Item | Init] = deque()
        self._cancelled: set[tuple[TaskId, Attempt]] = set()
        self._now = self._look_at = 0.0

    def run(self) -> None:
        """Work until the other end of the channel is closed."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while self._queue or self._read():
                self._work_off()

    def _work_off(self) -> None:
        """Do what is in the queue."""
        queue, say = self._queue, self._channel.say
        while queue:
            say(encode(self.answer(queue.popleft())))
            if not queue or self._now > self._look_at:
                self._look()

    def _look(self) -> None:
        """Take in what has come meanwhile: some of what waits here may be cancelled."""
        if self._queue:
            self._look_at = self._now + LOOK_SECONDS
            with contextlib.suppress(BlockingIOError):
                self._read(socket.MSG_DONTWAIT)
        else:
            self._cancelled.clear()  # it was for what is over

    def answer(self, item: Item | Init) -> Message:
        """Do what one of these in the queue asks for."""
        if isinstance(item, Init):
            return self._begin(item)
        task, attempt, wire = item
        if self._cancelled and (task, attempt) in self._cancelled:
            self._cancelled.remove((task, attempt))
            return Dropped(self._node, task, attempt)
        return self._compute(task, attempt, wire)

    def _read(self, flags: int = 0) -> bool:
        """Take in some of what has come; false at the end."""
        target = self._reader.target
        count = self._channel.recv_into(self._buffer if target is None else target, 0, flags)
        if target is None:
            self.take(self._reader.feed(self._buffer[:count]))
        else:
            self.take(self._reader.filled(count))
        return count > 0

    def take(self, messages: list[Message]) -> None:
        """Queue what these messages ask for."""
        for message in messages:
            match message:
                case Tasks(_, run):
                    self._queue += run
                case Task(_, task, attempt, payload):
                    self._queue.append((task, attempt, payload))
                case Init():
                    self._queue.append(message)
                case Pace(bytes_per_second):
                    self._pace = bytes_per_second
                case Cancel(_, task, attempt):
                    self._cancelled.add((task, attempt))

    def _begin(self, message: Init) -> Message:
        self._job_seed = message.seed
        try:
            self._init_data = payload.loads(message.payload[0]) if message.payload else None
            if self._hooks.node_init is not None:
                self._hooks.node_init(init_data=self._init_data, node_id=self._node_id)
        except UnreadablePayload as error:
            text = f"the init data cannot be rebuilt here: {_unreadable(error)}"
            return NodeBroken(self._node, text, of_user_code(error))
        except Exception as error:
            hook = "@app.node_init raised "
            return NodeBroken(self._node, hook + last_line(error), of_user_code(error))
        return Ready(self._node)

    def _compute(self, task: TaskId, attempt: Attempt, wire: Parts) -> Message:
        process = self._hooks.process
        try:
            data = payload.loads(wire[0])
        except UnreadablePayload as error:
            reason = f"its data cannot be rebuilt on the node: {_unreadable(error)}"
            failure = self._failed(task, attempt, FailureKind.UNREADABLE_DATA, reason, error)
            return failure._replace(module=error.module or "")
        except PayloadError as error:
            return self._failed(task, attempt, FailureKind.UNREADABLE_DATA, str(error), error)
        seed = task_seed(self._job_seed, task) if self._wants_seed else None
        begin = time.perf_counter()
        try:
            if process.only == "data":  # the quick way
                result = process.function(data)
            else:
                init_data, node_id = self._init_data, self._node_id
                result = process(data=data, init_data=init_data, node_id=node_id, seed=seed)
        except Exception as error:
            seconds = time.perf_counter() - begin
            kind, reason = FailureKind.EXCEPTION, last_line(error)
            return self._failed(task, attempt, kind, reason, error, seconds=seconds)
        self._now = time.perf_counter()
        seconds = self._now - begin
        try:
            parts = payload.parts_of(result, name="result", bytes_per_second=self._pace)
        except PayloadError as error:
            kind, reason = FailureKind.UNPICKLABLE_RESULT, f"its result cannot be sent: {error}"
            return self._failed(task, attempt, kind, reason, error, seconds=seconds)
        return Result(self._node, task, attempt, seconds, parts)

    def _failed(
        self,
        task: TaskId,
        attempt: Attempt,
        kind: FailureKind,
        reason: str,
        error: Exception,
        *,
        seconds: float = 0.0,
    ) -> Failure:
        self._now = time.perf_counter()
        of_user = of_user_code(error)
        return Failure(self._node, task, attempt, seconds, kind, reason, of_user, "")


def _unreadable(error: UnreadablePayload) -> str:
    version = f"{error.module} {error.local_version}" if error.local_version else "not installed"
    return f"{error} ({version} here, Python {platform.python_version()})"
