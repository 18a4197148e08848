"""Parasnake: an app, its hooks, and how it is run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import operator
import os
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from parasnake import arguments, cli, instead, keys, logs, script
from parasnake.config import Config
from parasnake.core.ids import NodeId, NodeKey
from parasnake.errors import ConfigurationError, HookError
from parasnake.hooks import HookTable, Role

# A shell is imported where it is run: they are most of the package, and a process is one of them.
if TYPE_CHECKING:
    from parasnake.agent import Agent, ForkedStaff
    from parasnake.cluster.feeder import Feeder
    from parasnake.cluster.order import Order
    from parasnake.here import NodeHere
    from parasnake.server import Helper, Server, Status
    from parasnake.worker import NodeHooks

_Shell: TypeAlias = "Server | Agent | NodeHere"
_AnyShell = TypeVar("_AnyShell", bound=_Shell)

Function = TypeVar("Function", bound=Callable[..., Any])


class Parasnake:
    """A job for many machines: a name and the functions that make it up.

    Register plain functions with the decorators, then call ``main()`` (which reads the command line)
    or ``run()``. A decorator returns the function unchanged. A hook gets what its parameters ask for
    by name; docs/hooks.md has the table.

    Parameters
    ----------
    name: of the app; server and nodes must have the same, so that a node never joins a foreign job
    compare_code: warn when the code of ``process`` is not the same on the server and on a node
    seed: any int; from it and the number of a task comes the ``seed`` for which ``process`` may
        ask. That of the server counts

    Raises
    ------
    ConfigurationError: the name is empty or longer than 100 characters, or the seed is no int
    """

    def __init__(self, name: str, *, compare_code: bool = True, seed: int = 0) -> None:
        if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
            raise ConfigurationError(
                f"app name {name!r}: it must be a text of 1 to 100 printable characters"
            )
        self._name = name
        self._hooks = HookTable(name, compare_code=compare_code, seed=_checked_seed(seed))
        self._running: _Shell | None = None
        self._server: Server | None = None
        self._lock = threading.Lock()
        self._has_run = False
        self._stopped_before = False

    def __repr__(self) -> str:
        return f"Parasnake({self._name!r})"

    @property
    def name(self) -> str:
        """The app's name."""
        return self._name

    @property
    def args(self) -> argparse.Namespace:
        """The script's own command line arguments, as its parser understood them.

        They are there once ``main(parser)`` was called, on server and nodes and in their workers.

        Raises
        ------
        ConfigurationError: ``main`` was not called
        """
        if arguments.current is None:
            raise ConfigurationError(
                "app.args is there only after app.main(parser) has read the command line"
            )
        return arguments.current

    # ---- hooks

    def init_data(self, function: Function) -> Function:
        """Server, once for an agent (for each node if it asks for ``node_id``): give init data.

        What it returns goes to ``process`` and ``node_init`` as ``init_data``.
        """
        return self._register("init_data", function)

    @overload
    def new_data(self, function: Function, /) -> Function: ...
    @overload
    def new_data(self, /, *, total: int | None = None) -> Callable[[Function], Function]: ...
    def new_data(self, function: Any = None, /, *, total: int | None = None) -> Any:
        """Server: give the next piece of data, or None if there is nothing just now.

        A generator function over all data is the simplest: the job is done when it is exhausted and
        every result is merged. A plain function needs ``job_done`` beside it. If it asks for
        ``node_id``, each node gets its next data only when its last result has been merged.

        Parameters
        ----------
        total: how many pieces there will be, for the progress line
        """
        if function is not None:
            return self._register("new_data", function)
        return lambda decorated: self._register("new_data", decorated, total=total)

    def process(self, function: Function) -> Function:
        """Node: compute; gets ``data``, ``init_data``, ``node_id``, ``seed``; returns the result."""
        return self._register("process", function)

    @overload
    def result(self, function: Function, /) -> Function: ...
    @overload
    def result(self, /, *, ordered: bool = False) -> Callable[[Function], Function]: ...
    def result(self, function: Any = None, /, *, ordered: bool = False) -> Any:
        """Server, once for a task: merge; gets ``result``, ``data``, ``node_id``.

        Parameters
        ----------
        ordered: merge in the order in which ``new_data`` gave the tasks, whichever was done first
        """
        if function is not None:
            return self._register("result", function)
        return lambda decorated: self._register("result", decorated, ordered=ordered)

    def job_done(self, function: Function) -> Function:
        """Server: say whether the job is done; true ends it at once."""
        return self._register("job_done", function)

    def node_init(self, function: Function) -> Function:
        """Node, once before its first task: set up; gets ``init_data``, ``node_id``."""
        return self._register("node_init", function)

    def node_timeout(self, function: Function) -> Function:
        """Server, when a node is lost: gets its ``node_id``."""
        return self._register("node_timeout", function)

    def failed(self, function: Function) -> Function:
        """Server, when a task has failed for good: gets ``data``, ``error``, ``node_id``.

        Without this hook such a task ends the job with ``TaskFailed``.
        """
        return self._register("failed", function)

    def finish(self, function: Function) -> Function:
        """Server, once after the last merge: what it returns, ``run`` returns."""
        return self._register("finish", function)

    def checkpoint(self, function: Function) -> Function:
        """Server with a journal, now and then: give the state of the job so far, as an object.

        All that the other hooks have changed and need again. It takes the place of what the journal
        has up to there. See docs/reliability.md.
        """
        return self._register("checkpoint", function)

    def restore(self, function: Function) -> Function:
        """Server with a journal, first thing after a restart: gets the ``state`` again."""
        return self._register("restore", function)

    def _register(self, name: str, function: Function, **options: Any) -> Function:
        try:
            self._hooks.register(name, function, **options)
        except ConfigurationError as error:
            # A mistake in the script: our frames below this one say nothing about it.
            raise error.with_traceback(None) from None
        return function

    # ---- running

    def run(self, server: bool = False, *, local: int | str | None = None, **settings: Any) -> Any:
        """Be the server, or a node, or both.

        Parameters
        ----------
        server: be the server; else an agent with ``workers`` nodes
        local: server and this many nodes ("auto": one for each core) here and now, with a fresh
            key and any free port; ``server`` and the settings of the network do not matter then
        settings: see ``Config`` (``ip``, ``port``, ``workers``, ``key_file`` and so on), and
            ``config``: a file with them. They go before the environment (``PARASNAKE_...``) and
            the file

        Returns
        -------
        what the ``finish`` hook returned (None for a node, and after ``stop``)

        Raises
        ------
        ConfigurationError: a setting, a key or a hook is wrong or missing
        TaskFailed: a task has failed for good, and there is no ``failed`` hook
        HookError: a hook on the server raised; the cause is its exception
        ConnectError, ConnectionLostError, RefusedError, NodeFailed: see there; only on a node
        JournalError: the journal cannot be written, or is damaged
        ReplayError: the script does not do what its journal says it did (a ``ConfigurationError``)
        Interrupted: SIGINT or SIGTERM came
        """
        return self._run(server, local, Config.load(settings))

    def run_here(self, node_id: uuid.UUID | None = None, **settings: Any) -> None:
        """Be one node whose ``process`` and ``node_init`` are called in this process and thread.

        So they can change objects that the caller reads afterwards, and a debugger can step into
        them. The connection and its heartbeat are kept by a helper process, which ends with this
        one. Signals are left alone: Ctrl-C hands back the task and raises ``KeyboardInterrupt``.

        Parameters
        ----------
        node_id: the node's own id; a random one if None
        settings: as for ``run``; those of worker processes do not matter

        Raises
        ------
        ConfigurationError, ConnectError, ConnectionLostError, RefusedError, NodeFailed: as ``run``
        Interrupted: SIGTERM came to the helper
        """
        from parasnake.here import NodeHere

        if instead.action is not None:
            instead.action(self._name, self._hooks)
        self._hooks.check(Role.NODE)
        self._hooks.freeze()
        config = Config.load(settings)
        _refuse_chaos(config)
        key = _key_of_node(config)
        chosen = node_id if node_id is not None else NodeId.from_random(os.urandom(16))
        node = NodeKey(chosen.bytes)
        facts = (self._name, self._hooks.digest, config, key)
        hooks = self._node_hooks()
        with _Running(self, lambda: NodeHere(*facts, hooks=hooks, node=node)) as shell:
            shell.run()

    def _run(
        self,
        server: bool,
        local: int | str | None,
        config: Config,
        feeder: Feeder | None = None,
    ) -> Any:
        _refuse_in_worker()
        if instead.action is not None:
            instead.action(self._name, self._hooks)
        role = Role.LOCAL if local is not None else Role.SERVER if server else Role.NODE
        self._hooks.check(role)
        if role is not Role.LOCAL:
            _refuse_chaos(config)
        self._hooks.freeze()
        if role is Role.NODE:
            self._run_node(config)
            return None
        if role is Role.LOCAL:
            return self._run_local(local, config)
        try:
            return self._run_server(config, _key_of_server(config), None, feeder)
        finally:
            if feeder is not None:
                feeder.wait()

    def _run_local(self, workers: Any, config: Config) -> Any:
        from parasnake.local import LOOPBACK

        # Config checks the number of workers.
        config = dataclasses.replace(config, access=None, bind=LOOPBACK, port=0, workers=workers)
        found = keys.FoundKey(keys.generate_key(), "for this run only")
        if (seed := config.chaos) is None:
            return self._run_server(config, found, self._local_agent(config, found.key))
        from parasnake.chaos import settings_for_chaos

        config = settings_for_chaos(config)
        return self._run_server(config, found, self._chaos(config, seed, found.key))

    def _run_server(
        self,
        config: Config,
        found: keys.FoundKey | None,
        helper: Helper | None,
        feeder: Feeder | None = None,
    ) -> Any:
        from parasnake.server import Server

        facts = (self._name, self._hooks, config, found)
        with _Running(self, lambda: Server(*facts, helper=helper, feeder=feeder)) as server:
            self._server = server
            done = server.run()
        return self._finish() if done else None

    def _local_agent(self, config: Config, key: bytes) -> Helper:
        from parasnake.local import LocalAgent

        return LocalAgent(self._name, self._hooks.digest, config, key, self._staff(config))

    def _chaos(self, config: Config, seed: int, key: bytes) -> Helper:
        from parasnake.chaos import Chaos, Target
        from parasnake.strikes import sizes_of_agents, strikes

        facts = (self._name, self._hooks.digest, config, key)
        staff = self._staff(config)
        targets = [
            Target(*facts, dataclasses.replace(staff, size=size, on_machine=staff.size))
            for size in sizes_of_agents(staff.size)
        ]
        return Chaos(self._name, strikes(seed, config.heartbeat_timeout), targets)

    def _finish(self) -> Any:
        hook = self._hooks.finish
        if hook is None:
            return None
        try:
            return hook()
        except Exception as error:
            raise HookError("finish") from error

    def _run_node(self, config: Config) -> None:
        from parasnake.agent import Agent

        facts = (self._name, self._hooks.digest, config, _key_of_node(config))
        with _Running(self, lambda: Agent(*facts, self._staff(config))) as agent:
            agent.run()

    def _staff(self, config: Config) -> ForkedStaff:
        from parasnake.agent import ForkedStaff

        hooks = self._node_hooks()
        return ForkedStaff(hooks, config.worker_count, config.start_method, arguments.current)

    def _node_hooks(self) -> NodeHooks:
        from parasnake.worker import NodeHooks

        process = self._hooks.process
        assert process is not None
        return NodeHooks(process, self._hooks.node_init)

    def stop(self) -> None:
        """End ``run`` soon; from any thread, or from a hook.

        A server sends its nodes home and does not call ``finish``; a node hands back its tasks. A
        stop that comes before the first run ends that at its beginning.
        """
        with self._lock:
            if self._running is not None:
                self._running.stop()
            else:
                self._stopped_before = not self._has_run

    def abandon(self) -> None:
        """As ``stop``, but without a word: to its server a node is lost, as if it had died.

        For those who test what a server does then. A server is stopped.
        """
        from parasnake.agent import Agent
        from parasnake.here import NodeHere

        with self._lock:
            if isinstance(self._running, Agent | NodeHere):
                self._running.abandon()
                return
        self.stop()

    @property
    def status(self) -> Status | None:
        """What the server is at just now; None if this app is not running as a server."""
        server = self._server
        return server.status() if server is not None else None

    @property
    def replaying(self) -> bool:
        """Whether hooks are just being called again as a journal tells, and not for the first time."""
        return self._server is not None and self._server.replaying

    def main(
        self, parser: argparse.ArgumentParser | None = None, argv: Sequence[str] | None = None
    ) -> Any:
        """Run as the command line says: ``--server``, ``--local``, or as a node; see ``--help``.

        Parameters
        ----------
        parser: the script's own parser, if it has options of its own; they are in ``app.args`` then
        argv: the arguments, without the program's name; those of the process if None

        Returns
        -------
        what ``run`` returns

        Raises
        ------
        SystemExit: after an error, which has been written to standard error; its code is the
            ``exit_status`` of the error
        """
        _refuse_in_worker()  # with a traceback, which the loader of the script shortens
        return cli.run_main(lambda: self._main(parser, argv))

    def _main(self, parser: argparse.ArgumentParser | None, argv: Sequence[str] | None) -> Any:
        if parser is None:
            parser = cli.make_parser(self._name, _script_doc())
        else:
            cli.add_options(parser)
        words, options = cli.split(sys.argv[1:] if argv is None else argv)
        namespace = parser.parse_args(words)
        mode, given = cli.settings_from(namespace)
        logs.set_up_logging(1 if given.get("verbose") else 0)
        arguments.current = namespace
        config = Config.load({}, command_line=given)
        logs.set_up_logging(config.verbose)
        if batch := cli.batch_options(namespace):
            from parasnake.cluster import order  # for those who submit

            kept = cli.node_options(parser, words)
            if config.access is None and (mode == "server" or "ip" not in config.sources):
                access = f"{order.stem()}.access"
                config = Config.load({"access": access}, command_line=given)
                kept = ["--access", access, *kept]
            wanted = order.take(batch, options, words, kept, server=mode == "server")
            return self._submit(wanted, config)
        local = mode if mode not in ("server", "node") else None
        return self._run(mode == "server", local, config)

    def _submit(self, order: Order, config: Config) -> Any:
        from parasnake.cluster import submit

        self._hooks.check(Role.NODE)
        cpus = None if config.workers == "auto" else config.workers
        cpus = cpus if "workers" in config.sources else None
        if order.dry_run:
            submit.show(order, cpus)
            return None
        if order.server:
            from parasnake.cluster.feeder import Feeder

            return self._run(True, None, config, Feeder(self._name, order, cpus))
        key = _key_of_node(config)  # if there is none, nodes will not find one either
        del key
        submit.submit(order, cpus)
        return None


class _Running(Generic[_AnyShell]):
    """While a server or an agent runs, its app knows it, and will not make another."""

    def __init__(self, app: Parasnake, make: Callable[[], _AnyShell]) -> None:
        self._app = app
        self._make = make

    def __enter__(self) -> _AnyShell:
        with self._app._lock:
            if self._app._running is not None:
                raise ConfigurationError(f"{self._app!r} is running already")
            shell = self._make()
            self._app._running = shell
            self._app._has_run = True
            if self._app._stopped_before:
                self._app._stopped_before = False
                shell.stop()
            return shell

    def __exit__(self, *_: object) -> None:
        with self._app._lock:
            self._app._running = self._app._server = None


def _checked_seed(seed: Any) -> int:
    if not isinstance(seed, bool):
        with contextlib.suppress(TypeError):
            return operator.index(seed)
    raise ConfigurationError(f"app seed {seed!r}: it must be an int")


def _key_of_server(config: Config) -> keys.FoundKey | None:
    """Find the server's key; without one a server with an access file has one of its own."""
    own = config.access is not None and config.secret_key is None and config.key_file is None
    return None if own else keys.find_key(config, create=True)


def _key_of_node(config: Config) -> bytes | None:
    """Find a node's key; where there is an access file, that has it."""
    return None if config.access is not None else keys.find_key(config, create=False).key


def _refuse_chaos(config: Config) -> None:
    if config.chaos is not None:
        source = config.sources.get("chaos", "argument")
        raise ConfigurationError(
            f"chaos = {config.chaos} ({source}); allowed: only in a local run, whose workers it "
            "disturbs: app.run(local=4, chaos=1), or --local 4 --chaos 1"
        )


def _refuse_in_worker() -> None:
    loaded = script.being_loaded()
    if loaded is not None:
        raise ConfigurationError(
            f"{loaded} runs its app while a worker loads it: "
            'put app.main() or app.run() under if __name__ == "__main__":'
        )


def _script_doc() -> str | None:
    main = sys.modules.get("__main__")
    return main.__doc__ if main is not None else None
