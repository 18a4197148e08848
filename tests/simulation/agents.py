"""Agents and their workers: the real ``Agent`` and the real ``Worker``, but no processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from parasnake import agent as shell
from parasnake import payload
from parasnake.child import Closable
from parasnake.config import Config
from parasnake.core.ids import NodeId, NodeKey
from parasnake.core.messages import (
    TO_WORKER,
    Failure,
    Init,
    Message,
    MessageReader,
    Parts,
    Result,
    encode,
)
from parasnake.death import Death
from parasnake.errors import ParasnakeError, ProtocolError
from parasnake.hooks import Hook
from parasnake.loop import READ
from parasnake.worker import LOOK_SECONDS, Item, NodeHooks, Worker

from .invariants import Books
from .job import APP, Data, Plan, Whim, serial
from .network import Listener, VirtualLoop, Wire
from .world import Violation, World

KEY = b"the secret key of all these tests"[:32]
BOOT_S = (0.01, 3.0)


@dataclass
class Network:
    """Where the server can be found, as long as it can."""

    listener: Listener | None = None
    wires: list[Wire] = field(default_factory=list)
    """The connections to the server that is there now."""


class VirtualWorker:
    """A worker process."""

    pidfd = None

    def __init__(self, machine: Machine, node: NodeKey) -> None:
        self.node = node
        self.death: str | None = None
        self._machine = machine
        wire = Wire(machine.world, latency=0.0)
        channel: Any = wire.agent  # it does what a socket does
        self.channel = channel
        self._end = wire.server
        self._loop = VirtualLoop(machine.world)
        self._loop.watch(self._end, READ, self._read)
        self._loop._on_ready = self._wake
        self._reader = MessageReader(TO_WORKER)
        hooks = NodeHooks(Hook("process", self._process), None)
        self._worker = Worker(node, hooks, channel)
        self._arrived: list[Message] = []
        self._looked_at = 0.0
        self._busy = False
        self._raises = False
        self.computing: int | None = None

    # ---- as a process, for the agent

    def poll(self) -> Death | None:
        """How it died."""
        return None if self.death is None else Death(None, 9)

    def wait(self, timeout_s: float) -> Death | None:
        """Wait for its death, which comes at once if it comes."""
        del timeout_s
        return self.poll()

    def take_output(self) -> None:
        """It prints nothing."""

    def kill(self) -> None:
        """End it."""
        self.die("killed by its agent")

    def close(self) -> None:
        """Free what is left of it."""
        self.die("dismissed")

    # ---- its life

    def die(self, how: str) -> None:
        """It ends."""
        if self.death is None:
            self.death = how
            self._machine.world.tell(f"{self._machine.name}: worker {self.node.hex()[:6]}: {how}")
            self._machine.books.worker_died(self.node)
            self._end.close()

    def _wake(self) -> None:
        self._machine.world.after(0.0, self._run)

    def _run(self) -> None:
        if self.death is None and self._loop.due(None) is not None:
            self._loop.handle()
            self._wake()

    def _read(self, _: int) -> None:
        data = self._end.recv(1 << 16)
        if not data:
            self.die("its agent has gone")
            return
        self._arrived += self._reader_feed(data)
        self._next()

    def _reader_feed(self, data: bytes) -> list[Message]:
        reader, messages = self._reader, list[Message]()
        view = memoryview(data)
        while view:
            target = reader.target
            if target is None:
                return messages + reader.feed(view)
            count = min(len(target), len(view))
            target[:count] = view[:count]
            messages += reader.filled(count)
            view = view[count:]
        return messages

    def _look(self) -> None:
        """As ``Worker._look``: one that has more to do looks now and then what has come."""
        worker, now = self._worker, self._machine.world.now
        if not worker._queue:
            worker._cancelled.clear()
        elif now <= self._looked_at + LOOK_SECONDS:
            return
        self._looked_at = now
        arrived, self._arrived = self._arrived, []
        worker.take(arrived)

    def _next(self) -> None:
        if self._busy or self.death is not None:
            return
        self._look()
        if not self._worker._queue:
            return
        item = self._worker._queue.popleft()
        self._busy = True
        machine = self._machine
        if isinstance(item, Init):
            answer = self._worker.answer(item)
            machine.world.after(machine.world.random.uniform(*BOOT_S), lambda: self._say(answer))
            return
        task, attempt, wire = item
        if (task, attempt) in self._worker._cancelled:
            self._say(self._worker.answer(item))
            return
        index = machine.index_of(wire)
        self.computing = index
        seconds = machine.plan.seconds[index] * machine.slowness
        machine.world.after(seconds, lambda: self._finish(item, index, seconds))

    def _finish(self, item: Item, index: int, seconds: float) -> None:
        if self.death is not None:
            return
        plan, truth = self._machine.plan, self._machine.books.truth
        truth.computed[index] += 1
        if index in plan.deadly:
            self.die(f"killed by data {index}")
            return
        self._raises = index in plan.poison or truth.computed[index] <= plan.moods.get(index, 0)
        answer = self._worker._compute(*item)
        assert isinstance(answer, Result | Failure)
        if isinstance(answer, Failure):
            truth.failures[index] += 1
        self._machine.books.computed(self.node, index)
        self.computing = None
        self._say(answer._replace(seconds=seconds))

    def _process(self, data: Data) -> tuple[int, int]:
        index, _ = data
        if self._raises:
            raise Whim(f"process does not like data {index}")
        return index, serial(index)

    def _say(self, answer: Message) -> None:
        if self.death is not None:
            return
        data = memoryview(b"".join(encode(answer)))
        while data:
            data = data[self._end.send(data) :]
        self._busy = False
        self._next()


class Call:
    """What ``net.Call`` is."""

    def __init__(
        self,
        loop: VirtualLoop,
        machine: Machine,
        *,
        on_connected: Callable[[Any, str], None],
        on_failed: Callable[[list[str]], None],
    ) -> None:
        self._machine = machine
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._timer = loop.call_in(machine.world.random.choice([0.001, 0.05]), self._try)

    def cancel(self) -> None:
        """Give up silently."""
        self._timer.cancel()

    def _try(self) -> None:
        machine, listener = self._machine, self._machine.network.listener
        if listener is None or not listener.open or machine.offline:
            self._on_failed(["10.0.0.1:3100: Connection refused"])
            return
        wire = machine.wire = Wire(machine.world)
        machine.network.wires.append(wire)
        listener.connect(wire.server)
        self._on_connected(wire.agent, "10.0.0.1:3100")


class Machine:
    """A machine with one agent on it, from its start to its end.

    Its turns are what ``Agent._serve`` and what follows do, cut where those wait.
    """

    def __init__(
        self,
        world: World,
        plan: Plan,
        network: Network,
        books: Books,
        *,
        name: str,
        workers: int,
    ) -> None:
        self.world = world
        self.plan = plan
        self.network = network
        self.books = books
        self.name = name
        self.size = workers
        self.replaces = True
        self.slowness = world.random.choice([0.5, 1.0, 1.0, 2.0, 10.0])
        self.wire: Wire | None = None
        self.offline = False
        self.workers: list[VirtualWorker] = []
        self.alive = True
        self.frozen_until = 0.0
        self._leaving_until: float | None = None
        self._listened_at = world.now
        self._planned: float | None = None
        self._plans = 0
        self.loop = VirtualLoop(world, on_ready=self._plan)
        world.tell(f"{name}: starts with {workers} workers, slowness {self.slowness}")
        config = Config(
            heartbeat_timeout=plan.heartbeat_timeout,
            reconnect_timeout=plan.reconnect_timeout,
            task_timeout=plan.task_timeout,
            connect_timeout=600.0,
        )
        self.agent = shell.Agent(APP, "", config, KEY, self)
        self.agent._loop = self.loop  # type: ignore[assignment]  # it does what a Loop does
        self.agent._dial = self._dial  # type: ignore[method-assign]  # no net.Call without sockets
        self.agent._server_ended = self._server_ended  # type: ignore[method-assign]
        self.agent._received = self._received  # type: ignore[method-assign]  # the books look first
        self.agent._give_up_at = world.now + config.connect_timeout
        self._dial()
        self._plan()

    def _dial(self) -> None:
        agent = self.agent
        agent._call = Call(  # type: ignore[assignment]
            self.loop, self, on_connected=agent._connected, on_failed=agent._not_connected
        )

    def _received(self, messages: list[Message]) -> None:
        for message in messages:
            self.books.told_agent(self.agent, message)
            self.agent._crew.message(message, self.world.now)

    def _server_ended(self, reason: str, error: Exception | None) -> None:
        if isinstance(error, ProtocolError):
            raise Violation("nobody breaks the protocol", reason)
        shell.Agent._server_ended(self.agent, reason, error)

    def start(self, closing: list[Closable]) -> tuple[NodeKey, Any]:
        """Start a worker, as the agent's ``Staff``."""
        del closing
        if self.world.chance(0.01):
            raise OSError("no memory for another process")
        node = NodeKey(NodeId.from_random(self.world.random.randbytes(16)).bytes)
        worker = VirtualWorker(self, node)
        self.workers = [other for other in self.workers if other.death is None] + [worker]
        return node, worker

    def index_of(self, wire: Parts) -> int:
        """What data this is."""
        index: int = payload.loads(wire[0])[0]
        return index

    # ---- faults

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long; its workers go on."""
        self.trouble()
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)

    def trouble(self) -> None:
        """Something happens that may look like a loss."""
        if self.wire is not None:
            self.wire.troubled = True

    def kill(self) -> None:
        """kill -9: its workers end, and the system closes its connection."""
        self._die()
        if self.wire is not None:
            self.wire.agent.close()

    def stop(self) -> None:
        """SIGTERM: it hands back what it has."""
        self.trouble()
        self.agent.stop()

    def back_online(self) -> None:
        """It can reach the server again."""
        self.offline = False

    def power_off(self) -> None:
        """The machine is off: nobody says anything any more."""
        if self.wire is not None:
            late = self.world.random.uniform(5.0, 60.0)
            self.wire.cut(agent_hears=0.0, server_hears=late)
        self._die()

    def _die(self) -> None:
        self.alive = False
        self.trouble()
        self.world.tell(f"{self.name}: ends")
        for worker in self.workers:
            worker.die("its machine or agent has gone")

    # ---- turns

    def _plan(self) -> None:
        """See that the next turn comes when it is due."""
        due = self.loop.due(None if self._leaving_until else self.agent._crew.deadline)
        if self._leaving_until is not None:
            due = min(due, self._leaving_until) if due is not None else self._leaving_until
        if due is None or not self.alive:
            return
        due = max(due, self.frozen_until, self.world.now)
        if self._planned is None or due < self._planned:
            self._planned = due
            self._plans += 1
            number = self._plans
            self.world.at(due, lambda: self._turn(number))

    def _turn(self, number: int) -> None:
        if number != self._plans or not self.alive:
            return
        self._planned = None
        if self.world.now >= self.frozen_until:
            if self._leaving_until is None:
                self._serve()
            else:
                self._say_goodbye()
            if self.alive:
                self.loop.flush()
                self._listened_at = self.world.now
                self.books.look_at_agent(self.agent, self.wire)
        self._plan()

    def _serve(self) -> None:
        agent = self.agent
        self.loop.handle()
        agent._tick(self._listened_at)
        if not agent._over and agent._stopped:
            agent._go("stopped", None)
        agent._work()
        if agent._over:
            self._begin_to_leave()

    def _begin_to_leave(self) -> None:
        """The first half of ``Agent._say_goodbye``."""
        agent = self.agent
        self._leaving_until = self.world.now + shell.GOODBYE_SECONDS
        if agent._call is not None:
            agent._call.cancel()
        if agent._connection is not None:
            agent._connection.close_when_sent()
            agent._kill_busy()
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        self.loop.handle()
        connection, until = self.agent._connection, self._leaving_until
        assert until is not None
        if connection is None or not connection.is_open or self.world.now >= until:
            self.agent._end_workers()
            self._die()

    @property
    def error(self) -> ParasnakeError | None:
        """Why it ended."""
        return self.agent._error
