"""What goes wrong, and when."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from .agents import BOOT_S, Machine, Network
from .invariants import Books
from .job import Plan
from .network import NOTICED_LATE_S, Wire
from .servers import Disk, End, Life
from .world import World

POINTS = 60
"""A server that is to crash does so at one of its next points, at most this many on."""
SOON_S = 0.5


@dataclass
class Scene:
    """All that takes part in a history."""

    world: World
    plan: Plan
    books: Books
    network: Network
    disk: Disk
    machines: list[Machine] = field(default_factory=list)
    life: Life | None = None
    loses_journal: bool = False
    """Whether the journal is gone when the next server starts."""
    started: int = 0

    def start_machine(self) -> None:
        """Somebody starts an agent."""
        self.machines = [machine for machine in self.machines if machine.alive]
        self.started += 1
        name, workers = f"agent {self.started}", self.world.random.choice([1, 1, 2, 3])
        self.machines.append(
            Machine(self.world, self.plan, self.network, self.books, name=name, workers=workers)
        )

    def a_machine(self) -> Machine | None:
        """One that is on, by chance."""
        alive = [machine for machine in self.machines if machine.alive]
        return self.world.random.choice(alive) if alive else None

    def a_wire(self) -> Wire | None:
        """The connection of an agent, by chance."""
        machine = self.a_machine()
        return machine.wire if machine is not None else None


def kill_agent(scene: Scene) -> None:
    """kill -9 for an agent."""
    if (machine := scene.a_machine()) is not None:
        machine.kill()


def power_off(scene: Scene) -> None:
    """A machine is off, without a word."""
    if (machine := scene.a_machine()) is not None:
        machine.power_off()


def freeze_agent(scene: Scene) -> None:
    """SIGSTOP for an agent, and SIGCONT sooner or later than the heartbeat timeout."""
    if (machine := scene.a_machine()) is not None:
        machine.freeze(scene.plan.heartbeat_timeout * scene.world.random.choice([0.5, 1.0, 3.0]))


def kill_worker(scene: Scene) -> None:
    """kill -9 for a worker."""
    machine = scene.a_machine()
    alive = [w for w in machine.workers if w.death is None] if machine is not None else []
    if alive:
        scene.world.random.choice(alive).die("killed by signal 9")


def cut(scene: Scene) -> None:
    """A connection breaks, and both ends hear of it."""
    if (wire := scene.a_wire()) is not None:
        random = scene.world.random
        wire.cut(agent_hears=random.uniform(0, SOON_S), server_hears=random.uniform(0, SOON_S))


def reset(scene: Scene) -> None:
    """A connection breaks by a reset from in between."""
    if (wire := scene.a_wire()) is not None:
        wire.cut(agent_hears=1e9, server_hears=1e9)
        wire.agent.fail(errno.ECONNRESET)
        wire.server.fail(errno.ECONNRESET)


def half_open(scene: Scene) -> None:
    """A connection breaks, and one end hears of it much later."""
    if (wire := scene.a_wire()) is not None:
        random = scene.world.random
        soon, late = random.uniform(0, SOON_S), random.uniform(*NOTICED_LATE_S)
        if random.random() < 0.5:
            soon, late = late, soon
        wire.cut(agent_hears=soon, server_hears=late)


def hold_up(scene: Scene) -> None:
    """Nothing gets through for a while."""
    if (wire := scene.a_wire()) is not None:
        wire.hold_up(scene.plan.heartbeat_timeout * scene.world.random.choice([0.3, 1.0, 2.0]))


def cut_off(scene: Scene) -> None:
    """An agent does not reach the server for a while."""
    machine = scene.a_machine()
    if machine is not None:
        machine.offline = True
        scene.world.after(scene.world.random.uniform(1, 30), machine.back_online)
        if machine.wire is not None:
            machine.wire.cut(agent_hears=SOON_S, server_hears=SOON_S)


def send_home(scene: Scene) -> None:
    """SIGTERM for an agent: it hands back what it has."""
    if (machine := scene.a_machine()) is not None:
        machine.stop()


def start_agent(scene: Scene) -> None:
    """Somebody starts an agent."""
    scene.start_machine()


def kill_server(scene: Scene) -> None:
    """kill -9 for the server."""
    if scene.life is not None:
        scene.life.doom(scene.world.random.randrange(POINTS), End.KILLED)


def power_cut(scene: Scene) -> None:
    """The server's machine loses its power."""
    if scene.life is not None:
        scene.life.doom(scene.world.random.randrange(POINTS), End.POWER_CUT)


def freeze_server(scene: Scene) -> None:
    """SIGSTOP for the server, and SIGCONT sooner or later than the heartbeat timeout."""
    if scene.life is not None:
        scene.life.freeze(scene.plan.heartbeat_timeout * scene.world.random.choice([0.5, 1.0, 3.0]))


def terminate_server(scene: Scene) -> None:
    """SIGTERM for the server."""
    if scene.life is not None:
        scene.life.terminate()


def another_job(scene: Scene) -> None:
    """The server is killed and comes back without its journal."""
    scene.loses_journal = True
    kill_server(scene)


FAULTS: dict[Callable[[Scene], None], int] = {
    kill_agent: 2,
    power_off: 1,
    freeze_agent: 3,
    kill_worker: 4,
    cut: 3,
    reset: 2,
    half_open: 2,
    hold_up: 2,
    cut_off: 1,
    send_home: 1,
    start_agent: 3,
    kill_server: 5,
    power_cut: 3,
    freeze_server: 1,
    terminate_server: 1,
    another_job: 1,
}
"""How often each of them happens, compared to the others."""


def plan_faults(scene: Scene) -> float:
    """Draw what goes wrong and when; returns when that is over."""
    world = scene.world
    random = world.random
    job = BOOT_S[1] + sum(scene.plan.seconds) / 3  # about as long as it takes if nothing happens
    span = job * random.choice([0.5, 1.0, 2.0])
    kinds, weights = list(FAULTS), list(FAULTS.values())
    for kind in random.choices(kinds, weights, k=random.choice([0, 1, 3, 6, 12])):
        world.after(random.uniform(0.0, span), _happening(scene, kind))
    return world.now + span


def _happening(scene: Scene, kind: Callable[[Scene], None]) -> Callable[[], None]:
    def happen() -> None:
        scene.world.tell(f"fault: {kind.__name__}")
        kind(scene)

    return happen
