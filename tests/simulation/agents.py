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
from parasnake.core.messages import Buffer, Failure, Init, Message, Result, encode
from parasnake.death import Death
from parasnake.errors import ParasnakeError, ProtocolError
from parasnake.hooks import Hook
from parasnake.loop import READ
from parasnake.worker import Item, NodeHooks, Worker

from .invariants import Books
from .job import APP, Data, Plan, Whim, serial
from .network import End, Listener, VirtualLoop, Wire
from .world import Violation, World

KEY = b"the secret key of all these tests"[:32]
BOOT_S = (0.01, 3.0)


@dataclass
class Network:
    """Where the server can be found, as long as it can."""

    listener: Listener | None = None
    wires: list[Wire] = field(default_factory=list)
    """The connections to the server that is there now."""


class WorkerEnd:
    """A worker's end of its channel, with the methods that worker.py uses.

    It is read only when there is something, or when nobody would wait for it.
    """

    def __init__(self, end: End) -> None:
        self._end = end

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0, /) -> int:
        """As that of a socket."""
        del nbytes, flags
        return self._end.recv_into(buffer)

    def say(self, pieces: list[Buffer], /) -> None:
        """Write all of them."""
        rest = memoryview(b"".join(pieces))
        while rest:
            rest = rest[self._end.send(rest) :]


class VirtualWorker:
    """A worker process: what ``Worker.run`` does, cut where it computes and where it waits."""

    pidfd = None

    def __init__(self, machine: Machine, node: NodeKey) -> None:
        self.node = node
        self.death: str | None = None
        self._machine = machine
        wire = Wire(machine.world, is_pair=True)
        channel: Any = wire.agent  # it does what a socket does
        self.channel = channel
        self._end = wire.server
        self._end.loop = self
        hooks = NodeHooks(Hook("process", self._process), None)
        self._worker = Worker(node, hooks, WorkerEnd(self._end))
        self._planned = False
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

    def open_answers(self) -> None:
        """Its channel is enough."""

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
            self._machine.books.worker_died(self.node, self.computing)
            self._end.close()

    def notify(self, _: End | None = None) -> None:
        """Something has come, or it has time again: it will go on in a moment."""
        if not self._planned:
            self._planned = True
            self._machine.world.after(0.0, self._go_on)

    def _go_on(self) -> None:
        self._planned = False
        if self.death is not None or self._busy:
            return
        if not self._worker._queue and self._end.ready() & READ:
            self._alive(self._worker._read)
            self.notify()
        elif self._worker._queue:
            self._begin(self._worker._queue.popleft())

    def _alive(self, do: Callable[[], bool | None]) -> None:
        """Read or write; the end of the channel is its own end."""
        try:
            gone = do() is False
        except (BrokenPipeError, ConnectionResetError):
            gone = True
        if gone:
            self.die("its agent has gone")

    def _begin(self, item: Item | Init) -> None:
        self._busy = True
        world, machine = self._machine.world, self._machine
        if isinstance(item, Init):
            world.after(world.random.uniform(*BOOT_S), lambda: self._answer(item))
            return
        task, attempt, wire = item
        if (task, attempt) in self._worker._cancelled:
            self._answer(item)
            return
        index: int = payload.loads(wire[0])[0]
        self.computing = index
        seconds = machine.plan.seconds[index] * machine.slowness
        world.after(seconds, lambda: self._finish(item, index, seconds))

    def _finish(self, item: Item, index: int, seconds: float) -> None:
        if self.death is not None:
            return
        plan, truth = self._machine.plan, self._machine.books.truth
        truth.computed[index] += 1
        if index in plan.deadly:
            self.die(f"killed by data {index}")
            return
        self._raises = index in plan.poison or truth.computed[index] <= plan.moods.get(index, 0)
        self._answer(item, seconds)

    def _process(self, data: Data) -> tuple[int, int, bytes]:
        index, _ = data
        if self._raises:
            raise Whim(f"process does not like data {index}")
        return index, serial(index), bytes(self._machine.plan.swelling.get(index, 0))

    def _answer(self, item: Item | Init, seconds: float = 0.0) -> None:
        """Do what the queue asks for, and look what has come meanwhile."""
        if self.death is not None:
            return
        answer = self._worker.answer(item)
        if isinstance(answer, Result | Failure):
            answer = answer._replace(seconds=seconds)
            index, self.computing = self.computing, None
            assert index is not None
            self._machine.computed(self.node, answer, index)
        self._alive(lambda: WorkerEnd(self._end).say(encode(answer)))
        if self.death is None:
            self._alive(self._worker._look)
        self._busy = False
        self.notify()


class Call:
    """What ``net.Call`` is."""

    def __init__(
        self,
        loop: VirtualLoop,
        _: object,
        *,
        on_connected: Callable[[Any], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._machine = loop.machine
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._timer = loop.call_in(self._machine.world.random.choice([0.001, 0.05]), self._try)

    def cancel(self) -> None:
        """Give up silently."""
        self._timer.cancel()

    def _try(self) -> None:
        machine, listener = self._machine, self._machine.network.listener
        if listener is None or not listener.open or machine.offline:
            self._on_failed("Connection refused")
            return
        wire = machine.wire = Wire(machine.world)
        machine.network.wires.append(wire)
        listener.connect(wire.server)
        self._on_connected(wire.agent)


class WatchedAgent(shell.Agent):
    """The agent of a machine; the books look at what it is told."""

    def __init__(self, machine: Machine, config: Config) -> None:
        loop: Any = machine.loop  # it does what a Loop does
        super().__init__(APP, "", config, KEY, machine, loop=loop)
        self._machine = machine

    def _time_is_over(self) -> None:
        self._machine.trouble()
        self._machine.books.counts["time was over"] += 1
        super()._time_is_over()

    def _received(self, messages: list[Message]) -> None:
        books = self._machine.books
        for message in messages:
            books.told_agent(self, message)
            self._crew.message(message, self._loop.now())
            books.agent_was_told(self, message)

    def _server_ended(self, reason: str, error: Exception | None) -> None:
        if isinstance(error, ProtocolError):
            raise Violation("nobody breaks the protocol", reason)
        super()._server_ended(reason, error)


class Machine:
    """A machine with one agent on it, from its start to its end.

    Its turns are what ``Agent._serve`` and what follows do, cut where those wait. Each takes some
    time, in which answers gather.
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
        self.turn_s = world.random.choice([0.0, 0.0, 0.0003, 0.003])
        self.wire: Wire | None = None
        self.offline = False
        self.workers: list[VirtualWorker] = []
        self.alive = True
        self.frozen_until = 0.0
        self._busy_until = 0.0
        self._leaving_until: float | None = None
        self._listened_at = world.now
        self._planned: float | None = None
        self._plans = 0
        self.loop = VirtualLoop(world, on_ready=self._plan, machine=self)
        world.tell(f"{name}: starts with {workers} workers, slowness {self.slowness}")
        config = Config(
            heartbeat_timeout=plan.heartbeat_timeout,
            reconnect_timeout=plan.reconnect_timeout,
            task_timeout=plan.task_timeout,
            connect_timeout=600.0,
        )
        self.agent = WatchedAgent(self, config)
        self.agent._give_up_at = world.now + config.connect_timeout
        if plan.life is not None:
            self.agent._must_go_at(world.now + plan.life * world.random.uniform(0.5, 1.5))
        self.agent._search.begin()
        self._plan()

    def start(self, closing: list[Closable]) -> tuple[NodeKey, Any]:
        """Start a worker, as the agent's ``Staff``."""
        del closing
        if self.world.chance(0.01):
            raise OSError("no memory for another process")
        node = NodeKey(NodeId.from_random(self.world.random.randbytes(16)).bytes)
        worker = VirtualWorker(self, node)
        self.workers = [other for other in self.workers if other.death is None] + [worker]
        return node, worker

    def computed(self, node: NodeKey, answer: Result | Failure, index: int) -> None:
        """One of the workers is through with a task."""
        self.books.computed(node, answer, index)
        state = self.agent._crew.workers.get(node)
        sending = answer.task, answer.attempt
        if state is not None and sending in state.cancelled:
            self.books.counts["computed though dropped"] += 1
        elif state is not None and self.books.watch is not None:
            self.books.watch.computed(self.agent, self.wire, node, sending)

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
        for one in self.workers:
            one.die("its machine or agent has gone")

    # ---- turns

    def _plan(self) -> None:
        """See that the next turn comes when it is due."""
        due = self.loop.due(None if self._leaving_until else self.agent._crew.deadline)
        if self._leaving_until is not None:
            due = min(due, self._leaving_until) if due is not None else self._leaving_until
        if due is None or not self.alive:
            return
        due = max(due, self.frozen_until, self._busy_until, self.world.now)
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
            self._busy_until = self.world.now + self.turn_s
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
        agent._search.cancel()
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
