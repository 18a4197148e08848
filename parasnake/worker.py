"""The worker: a plain loop that reads a task, calls ``process`` and writes the result.

It runs in a process of its own at the other end of its agent's channel and knows nothing of the
network. (The node of a class program runs it in the calling process.)
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from parasnake import arguments, payload
from parasnake.core.ids import NodeId, NodeKey
from parasnake.core.linkspeed import FAST
from parasnake.core.messages import (
    TO_WORKER,
    Buffer,
    Failure,
    FailureKind,
    Init,
    Message,
    MessageReader,
    NodeBroken,
    Pace,
    Ready,
    Result,
    Task,
    encode,
)
from parasnake.core.seeds import task_seed
from parasnake.errors import PayloadError, UnreadablePayload
from parasnake.hooks import Hook
from parasnake.tracebacks import last_line, of_user_code

READ_BYTES = 1 << 16


class WorkerChannel(Protocol):
    """What a worker needs of its channel; a blocking socket has it."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for bytes and read them; 0 at the end."""

    def sendall(self, data: Buffer, /) -> None:
        """Write all of it."""


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
    Worker(node, hooks, channel).run()


def report_broken(node: NodeKey, channel: socket.socket, text: str) -> None:
    """Tell the agent that this process could not even be set up."""
    reason = text.strip().splitlines()[-1] if text.strip() else "the worker cannot begin"
    _send(channel, NodeBroken(node, reason, text))


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

    def run(self) -> None:
        """Work until the other end of the channel is closed."""
        for message in self._messages():
            if isinstance(message, Task):
                answer = self._compute(message)
            elif isinstance(message, Pace):
                self._pace = message.bytes_per_second
                continue
            else:
                assert isinstance(message, Init)
                answer = self._begin(message)
            try:
                _send(self._channel, answer)
            except (BrokenPipeError, ConnectionResetError):
                return  # the agent has gone, and nobody wants the result

    def _messages(self) -> Iterator[Message]:
        reader, buffer = self._reader, memoryview(bytearray(READ_BYTES))
        with contextlib.suppress(ConnectionResetError):
            while True:
                target = reader.target
                count = self._channel.recv_into(buffer if target is None else target)
                if not count:
                    return
                yield from reader.feed(buffer[:count]) if target is None else reader.filled(count)

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

    def _compute(self, task: Task) -> Message:
        try:
            data = payload.loads(task.payload[0])
        except UnreadablePayload as error:
            reason = f"its data cannot be rebuilt on the node: {_unreadable(error)}"
            return self._failure(
                task, 0.0, FailureKind.UNREADABLE_DATA, reason, error, module=error.module
            )
        except PayloadError as error:
            return self._failure(task, 0.0, FailureKind.UNREADABLE_DATA, str(error), error)
        return self._process(task, data)

    def _process(self, task: Task, data: object) -> Message:
        seed = task_seed(self._job_seed, task.task) if self._wants_seed else None
        begin = time.perf_counter()
        try:
            result = self._hooks.process(
                data=data, init_data=self._init_data, node_id=self._node_id, seed=seed
            )
        except Exception as error:
            seconds = time.perf_counter() - begin
            return self._failure(task, seconds, FailureKind.EXCEPTION, last_line(error), error)
        seconds = time.perf_counter() - begin
        try:
            dumped = payload.dumps(result, name="result")
            parts = tuple(payload.compressed(dumped, self._pace).parts)
        except PayloadError as error:
            reason = f"its result cannot be sent: {error}"
            return self._failure(task, seconds, FailureKind.UNPICKLABLE_RESULT, reason, error)
        return Result(self._node, task.task, task.attempt, seconds, parts)

    def _failure(
        self,
        task: Task,
        seconds: float,
        kind: FailureKind,
        reason: str,
        error: Exception,
        *,
        module: str = "",
    ) -> Failure:
        text = of_user_code(error)
        return Failure(
            self._node, task.task, task.attempt, seconds, kind, reason, text, module or ""
        )


def _send(channel: WorkerChannel, message: Message) -> None:
    for piece in encode(message):
        channel.sendall(piece)


def _unreadable(error: UnreadablePayload) -> str:
    version = f"{error.module} {error.local_version}" if error.local_version else "not installed"
    return f"{error} ({version} here, Python {platform.python_version()})"
