"""One task of a journal, computed again in this process: ``parasnake replay``.

The script is executed as ever; where it would begin to run its app, the task is computed instead.
"""

from __future__ import annotations

import contextlib
import pdb
import reprlib
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from parasnake import instead, payload
from parasnake.core.ids import NodeId, NodeKey, TaskId
from parasnake.core.journal import Checkpoint, Failed, HandedOut, Left, Merged
from parasnake.core.messages import Parts
from parasnake.core.seeds import job_seed, task_seed
from parasnake.errors import ConfigurationError, HookError
from parasnake.hooks import Hook, HookTable
from parasnake.journal import Facts, Overtaken, Stored
from parasnake.replay import same
from parasnake.script import MODULE_NAME
from parasnake.tracebacks import of_user_code


@dataclass(slots=True)
class Recorded:
    """What a journal knows of one task.

    Attributes
    ----------
    data: its data; None if it was never handed out, or if that is not known any more
    node: under whose id it was handed out
    merged, failed: how it ended, if it has
    handed_out: how many tasks there are
    removed: whether a checkpoint has removed it
    """

    facts: Facts
    data: Parts | None = None
    node: NodeKey | None = None
    merged: Merged | None = None
    failed: Failed | None = None
    handed_out: int = 0
    removed: bool = False

    @classmethod
    def find(cls, path: Path, task: TaskId) -> Recorded:
        """Look for a task in a journal, which a server may be writing meanwhile.

        Raises
        ------
        ConfigurationError: there is no such file, it is no journal, or has not (any more) that task
        JournalError: it is damaged
        """
        with Stored.read(path) as stored:
            while True:
                with contextlib.suppress(Overtaken):
                    found = cls._read(stored, task)
                    break
        if found.removed:
            raise ConfigurationError(
                f"journal {path}: task {task} was merged before the last checkpoint, which has "
                "removed its data"
            )
        if found.data is None:
            there = (
                f"it has tasks 0 to {found.handed_out - 1}" if found.handed_out else "it has none"
            )
            raise ConfigurationError(f"journal {path}: there is no task {task}; {there}")
        if not found.data:
            raise ConfigurationError(f"journal {path}: the data of task {task} could not be sent")
        return found

    @classmethod
    def _read(cls, stored: Stored, task: TaskId) -> Recorded:
        found = cls(stored.facts)
        for row in stored.rows():
            for entry in row.entries:
                found._take(entry, task)
        return found

    def _take(self, entry: object, task: TaskId) -> None:
        match entry:
            case HandedOut():
                self.handed_out += 1
                if entry.task == task:
                    self.data, self.node = entry.payload, entry.node
            case Left() if entry.task == task:
                self.data, self.node, self.removed = entry.payload, entry.node, False
            case Checkpoint():
                self.handed_out = entry.handed_out
                self.removed = 0 <= task < entry.handed_out
            case Merged() if entry.task == task:
                self.merged = entry
            case Failed() if entry.task == task:
                self.failed = entry
            case _:
                pass


class Rerun:
    """One task that shall be computed again.

    Parameters
    ----------
    path: the journal
    task: the task's number
    debug: stop in a debugger where ``process`` begins, and where something raises

    Raises
    ------
    ConfigurationError, JournalError: see ``Recorded.find``
    """

    def __init__(self, path: Path, task: int, *, debug: bool) -> None:
        self._path = path
        self._task = TaskId(task)
        self._debug = debug
        self._recorded = Recorded.find(path, self._task)

    def start(self, script: str, options: Sequence[str]) -> NoReturn:
        """Execute the script, which computes the task where it would run its app.

        Raises
        ------
        SystemExit: that is done; 1 if it raised, or the result is not the recorded one
        ConfigurationError: the script cannot be read, or did not come so far
        """
        if not Path(script).is_file():
            raise ConfigurationError(f"script {script}: there is no such file")
        sys.argv[:] = [script, *options]
        sys.path.insert(0, str(Path(script).absolute().parent))
        instead.action = self.compute
        try:
            runpy.run_path(script, run_name="__main__")
        finally:
            instead.action = None
        raise ConfigurationError(
            f"script {script}: it has ended without app.main() or app.run(); are these its options "
            f"for that: {' '.join(options) or 'none'}?"
        )

    def compute(self, app_name: str, hooks: HookTable) -> NoReturn:
        """Compute it with the hooks of an app.

        Raises
        ------
        SystemExit: see ``start``
        ConfigurationError: it is another app
        HookError: ``init_data`` raised
        PayloadError: the data or the init data cannot be rebuilt here
        """
        sys.modules[MODULE_NAME] = sys.modules["__main__"]  # what spawned workers call it
        facts = self._recorded.facts
        if facts.app != app_name or hooks.process is None:
            raise ConfigurationError(
                f"journal {self._path}: it is a journal of the app {facts.app!r}, and this is the app "
                f"{app_name!r}" + ("" if hooks.process else ", which has no process hook")
            )
        if facts.digest and hooks.digest and facts.digest != hooks.digest:
            print("the code of the process hook is not what it was")
        things = self._things(hooks)
        print(f"task {self._task}: {reprlib.repr(things['data'])}", flush=True)
        if hooks.node_init is not None:
            self._call(hooks.node_init, things)
        result = self._call(hooks.process, things, debug=self._debug)
        print(f"result: {result!r}")
        raise SystemExit(self._compare(result))

    def _things(self, hooks: HookTable) -> dict[str, Any]:
        """What ``process`` and ``node_init`` may ask for, as the node had it."""
        recorded = self._recorded
        assert recorded.data is not None
        node = recorded.merged.node if recorded.merged else recorded.node
        assert node is not None
        node_id = NodeId(bytes=node)
        seed = task_seed(recorded.facts.seed or job_seed(hooks.seed), self._task)
        data = payload.loads(bytearray(b"".join(recorded.data)))
        init_data = self._init_data(hooks.init_data, node_id) if hooks.init_data else None
        return {"data": data, "seed": seed, "init_data": init_data, "node_id": node_id}

    @staticmethod
    def _init_data(hook: Hook, node_id: NodeId) -> Any:
        try:
            value = hook(node_id=node_id)
        except Exception as error:
            raise HookError(hook.name) from error
        return payload.loads(bytearray(b"".join(payload.dumps(value, name="init_data").parts)))

    def _call(self, hook: Hook, things: dict[str, Any], *, debug: bool = False) -> Any:
        try:
            return _debugged(hook, things) if debug else hook(**things)
        except _Quit:
            raise SystemExit(1) from None
        except (Exception, SystemExit) as error:
            sys.stdout.flush()
            sys.stderr.write(of_user_code(error))
            if self._debug:
                pdb.post_mortem(error.__traceback__)
            raise SystemExit(1) from None

    def _compare(self, result: object) -> int:
        """Say whether it is the recorded result; returns the exit status."""
        recorded = self._recorded
        if recorded.merged is None:
            why = (
                f"it had failed: {recorded.failed.reason}" if recorded.failed else "not merged yet"
            )
            print(f"there is no recorded result: {why}")
            return 0
        if same(recorded.merged.payload, result):
            print("it equals the recorded result")
            return 0
        print(f"the recorded result was another one: {_described(recorded.merged.payload)}")
        return 1


class _Quit(BaseException):
    """Whoever debugs has had enough."""


def _debugged(hook: Hook, things: dict[str, Any]) -> Any:
    results: list[Any] = []
    # In the frames of this package there is nothing to see.
    debugger = pdb.Pdb(skip=["parasnake", "parasnake.*"])
    debugger.runcall(lambda: results.append(hook(**things)))
    if not results:  # that is how it tells
        raise _Quit
    return results[0]


def _described(recorded: Parts) -> str:
    return repr(payload.loads(b"".join(recorded)))
