"""The life of a server: the real one, until it is done, is told to stop, raises or crashes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any

from parasnake import journal as journals
from parasnake import server as shell
from parasnake.config import Config
from parasnake.errors import HookError, Interrupted, ParasnakeError, TaskFailed
from parasnake.keys import FoundKey

from .agents import KEY, Network
from .invariants import Books, Watch
from .job import APP, Plan, User
from .network import NOTICED_LATE_S, Listener, VirtualLoop
from .world import Violation, World


class Crash(BaseException):
    """The server ends here, in the middle of whatever it is doing."""


class End(Enum):
    """How a server ended."""

    DONE = auto()
    STOPPED = auto()
    RAISED = auto()
    KILLED = auto()
    POWER_CUT = auto()


class ServerLoop(VirtualLoop):
    """The server waits while the world goes on."""

    def __init__(self, world: World, life: Life) -> None:
        super().__init__(world)
        self._life = life
        self._in_vain = 0

    def wait(self, until: float | None = None) -> None:
        """As ``Loop.wait``."""
        world, life = self._world, self._life
        life.point()
        self.flush()
        life.point()
        life.waits(until)
        while (due := self.due(until)) is None or due > world.now:
            world.step(due)
            life.point()
        life.waits_no_more(something_came=bool(self._ready()))
        self.handle()


class WatchedJournal(journals.Journal):
    """The real one; the server may end before and after each commit."""

    point: Callable[[], None]

    def commit(self) -> None:
        """As ``Journal.commit``."""
        if self._pending:
            self.point()
        super().commit()
        self.point()


class Disk:
    """The files of the journal, and what a crash leaves of them."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self.path = folder / "journal"
        self._files: dict[Path, bytes] | None = None

    def crash(self, *, power_cut: bool) -> None:
        """Take note of what is on the disk at this moment."""
        names = [self.path, self._log]
        self._files = {name: name.read_bytes() for name in names if name.exists()}
        if power_cut:
            self._tear()

    @property
    def _log(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _tear(self) -> None:
        """What had not been forced to the disk may be there in part, or as something else."""
        files, random = self._files, self._world.random
        assert files is not None
        log = files.get(self._log, b"")
        if not log:
            return
        at = random.choice([0, len(log), random.randrange(len(log)), random.randrange(len(log))])
        noise = random.randbytes(random.choice([0, 1, 100, 5000]))
        files[self._log] = log[:at] + noise + log[at + len(noise) :][: random.choice([0, 10000])]
        self._world.tell(f"disk: of {len(log)} bytes, {at} are left")

    def come_back(self) -> None:
        """Put the files to where they were, after what the dying process has still written."""
        files, self._files = self._files, None
        if files is None:
            return
        for name in self.path.parent.iterdir():
            name.unlink()
        for name, content in files.items():
            name.write_bytes(content)

    def lose(self) -> None:
        """Somebody takes the journal away."""
        for name in self.path.parent.iterdir():
            name.unlink()


class Life:
    """One server process, and the user's script in it."""

    def __init__(
        self, world: World, plan: Plan, network: Network, books: Books, disk: Disk
    ) -> None:
        self.world = world
        self.plan = plan
        self.network = network
        self.books = books
        self.disk = disk
        self.frozen_until = 0.0
        self.dead = False
        self._doom: tuple[int, End] | None = None
        self._server: shell.Server | None = None
        self.user = User(plan, world, books.truth, self._in_hook)

    # ---- faults

    def doom(self, steps: int, end: End) -> None:
        """It crashes after so many more points."""
        if self._doom is None:
            self._doom = steps, end

    def freeze(self, seconds: float) -> None:
        """It is stopped for so long."""
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)

    def terminate(self) -> None:
        """SIGTERM."""
        if self._server is not None:
            self._server._signalled(signal.SIGTERM)

    def point(self) -> None:
        """Somewhere between two steps: it may be stopped here, or end."""
        if self.dead:
            raise Crash
        while self.frozen_until > self.world.now:
            self._is_away()
            self.world.step(self.frozen_until)
        if self._doom is not None:
            steps, end = self._doom
            self._doom = steps - 1, end
            if not steps:
                self._crash(end)

    def waits(self, until: float | None) -> None:
        """The server has nothing more to do, until then at least."""
        if self.books.watch is not None and self._server is not None:
            self.books.watch.waits(until)

    def waits_no_more(self, *, something_came: bool) -> None:
        """It looks what there is to do."""
        if self.books.watch is not None:
            self.books.watch.waits_no_more(something_came=something_came)

    def _in_hook(self) -> None:
        assert self._server is not None
        self.point()
        if self.plan.hook_seconds and not self._server.replaying:
            self._is_away()
            self.world.pass_time(self.plan.hook_seconds)
            self.point()
        if self.plan.slow_hooks and not self._server.replaying and self.world.chance(0.2):
            self._is_away()
            self.world.pass_time(self.world.random.uniform(0.0, 2 * self.plan.slow_hooks))
            self.point()

    def _is_away(self) -> None:
        if self.books.watch is not None:
            self.books.watch.was_away()

    def _crash(self, end: End) -> None:
        self.world.tell(f"server: {end.name}")
        self.dead = True
        self.disk.crash(power_cut=end is End.POWER_CUT)
        self.end = end
        for wire in self.network.wires:
            if wire.server.closed:
                continue
            wire.troubled = True
            if end is End.POWER_CUT:
                random = self.world.random
                late = random.uniform(*random.choice([(0.0, 1.0), NOTICED_LATE_S]))
                wire.cut(agent_hears=late, server_hears=0.0)
            else:
                wire.server.close()
        self._vanish()
        raise Crash

    def _vanish(self) -> None:
        if self.network.listener is not None:
            self.network.listener.close()
        self.network.listener = None
        self.network.wires.clear()

    # ---- its run

    def run(self) -> End:
        """Start it, and return how it ended."""
        self.world.tell("server: starts")
        self.end = End.DONE
        try:
            self._run()
        except Crash:
            self.disk.come_back()
        except Interrupted:
            self.end = End.STOPPED
        except ParasnakeError as error:
            text = str(error).replace(str(self.disk.path), "journal")
            self.world.tell(f"server: {type(error).__name__}: {text}")
            self._check_error(error)
            self.end = End.RAISED
        for wire in self.network.wires:
            wire.troubled = True
        self._vanish()
        watch = self.books.watch
        self.books.watch = None
        if watch is not None and watch.restored:
            self.books.memory = watch.remember(power_cut=self.end is End.POWER_CUT)
        elif self.end is End.POWER_CUT and self.books.memory is not None:
            self.books.memory.power_cut = True
        return self.end

    def _check_error(self, error: ParasnakeError) -> None:
        """The server may raise what its user deserves, and nothing else."""
        expected = isinstance(error, HookError) or (
            isinstance(error, TaskFailed) and not self.plan.with_failed
        )
        if not expected:
            text = str(error).replace(str(self.disk.path), "journal")
            raise Violation("no error without a reason", f"{type(error).__name__}: {text}")

    def _run(self) -> None:
        plan = self.plan
        config = Config(
            heartbeat_timeout=plan.heartbeat_timeout,
            task_timeout=plan.task_timeout,
            speculate=plan.speculate,
            max_attempts=plan.max_attempts,
            max_losses=plan.max_losses,
            journal=self.disk.path if plan.journal else None,
            progress=False,
        )
        hooks = self.user.hooks()
        self._server = server = shell.Server(APP, hooks, config, FoundKey(KEY, ""))
        self.books.watch = Watch(self.books, server, self.user, self.point)
        if not plan.journal:
            self.books.watch.restored = True
            self.books.memory = None
        server.run()

    def listen(self) -> list[Any]:
        """What ``net.listen`` gives."""
        self.network.listener = Listener()
        return [self.network.listener]
