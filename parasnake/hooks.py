"""The user's hooks: what each one asks for, and how it is called.

``HOOKS`` is the table, a ``Hook`` is one function that was registered, a ``HookTable`` is all that
an app has registered. What is wrong with a function is said when it is registered; what a role
lacks, when the app is about to run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from parasnake import functions
from parasnake.errors import ConfigurationError

HOOKS: Mapping[str, tuple[str, ...]] = {
    "init_data": ("node_id",),
    "new_data": ("node_id",),
    "process": ("data", "init_data", "node_id", "seed"),
    "result": ("result", "data", "node_id"),
    "job_done": (),
    "node_init": ("init_data", "node_id"),
    "node_timeout": ("node_id",),
    "failed": ("data", "error", "node_id"),
    "finish": (),
    "checkpoint": (),
    "restore": ("state",),
}
"""Each hook and the things that it may ask for; the first is its main thing."""

OPTIONS: Mapping[str, tuple[str, ...]] = {"new_data": ("total",), "result": ("ordered",)}
"""The options with which a hook may be registered."""

EXAMPLES: Mapping[str, str] = {
    "new_data": "@app.new_data\ndef numbers(): yield from range(1000)",
    "process": "@app.process\ndef square(n): return n * n",
    "job_done": "@app.job_done\ndef all_there(): return len(results) == 1000",
}
"""What to write when a hook is missing that a role needs."""


class Role(Enum):
    """What an app is run as; the value is what errors call it."""

    SERVER = "a server"
    NODE = "a node"
    LOCAL = "a local run"


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """A function of the user's as one of the hooks, checked when it is made.

    Call it with keywords, ``hook(data=..., node_id=...)``: the function gets those that it asks
    for, under its own parameter names. What it returns or raises comes through unchanged.

    Arguments
    ---------
    name: one of ``HOOKS``
    function: anything that can be called

    Attributes
    ----------
    asks_for: the things that each call must give; others need not be got ready
    only: the one thing that ``function`` may be called with directly, if it asks for no other
    is_generator: a call gives an iterable over the data of the whole job (only ``new_data``)
    where: "file:line" of the function, or of its registration if it is no Python function

    Raises
    ------
    ConfigurationError: the function cannot be this hook; the text says why and what would be right
    """

    name: str
    function: Callable[..., Any]
    asks_for: frozenset[str] = field(init=False)
    only: str | None = field(init=False, repr=False)
    is_generator: bool = field(init=False)
    where: str = field(init=False)
    _positional: tuple[str, ...] = field(init=False, repr=False)
    _by_name: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        fill = functools.partial(object.__setattr__, self)
        fill("where", functions.place(self.function))
        self._refuse_wrong_kinds()
        positional, by_name = self._plan()
        fill("_positional", positional)
        fill("_by_name", by_name)
        fill("only", positional[0] if len(positional) == 1 and not by_name else None)
        fill("asks_for", frozenset((*positional, *by_name.values())))
        fill("is_generator", self._gives_generator())
        self._refuse_generator_for_nodes()

    def __call__(self, /, **things: Any) -> Any:
        """Call the function with those of the things that it asks for."""
        if self.only is not None:
            return self.function(things[self.only])
        values = [things[thing] for thing in self._positional]
        if not self._by_name:
            return self.function(*values)
        return self.function(*values, **{name: things[t] for name, t in self._by_name.items()})

    def error(self, text: str) -> ConfigurationError:
        """Make an error that begins with place and name of this hook and goes on with ``text``."""
        return ConfigurationError(f"{self.where}: @app.{self.name} {text}")

    def _refuse_wrong_kinds(self) -> None:
        if not callable(self.function):
            raise self.error(
                f"needs a function, and an object of type {type(self.function).__name__!r} cannot "
                "be called; pass the function itself, without calling it"
            )
        if functions.is_async(self.function):
            raise self.error(
                "is an async function, and hooks are called without an event loop; "
                "make it a plain function, which may use asyncio.run() inside"
            )
        if self.name != "new_data" and functions.is_generator_function(self.function):
            raise self.error(
                "is a generator function: return its value (a list, say) instead of yielding"
            )

    def _gives_generator(self) -> bool:
        # Around new_data, a decorator's wrapper mostly returns the very generator that it got.
        return self.name == "new_data" and (
            functions.is_generator_function(self.function)
            or functions.is_generator_function(functions.innermost(self.function))
        )

    def _refuse_generator_for_nodes(self) -> None:
        if self.is_generator and self.asks_for:
            raise self.error(
                "is a generator function with a parameter, which would be node_id; "
                "but a generator runs once for the whole job and not for each node: "
                "ask for node_id in a plain function, or write the generator without parameters"
            )

    def _plan(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """What to pass by position, and what by name (parameter -> thing)."""
        things = HOOKS[self.name]
        signature = functions.signature(self.function)
        if signature is None:
            # A builtin that gives new data is like deque.popleft, which wants no node.
            return () if self.name == "new_data" else things[:1], {}
        if things and self.name != "new_data" and self._is_builtin_for_one(signature):
            return things[:1], {}
        self._refuse_open_ended(signature)
        parameters = list(signature.parameters.values())
        return self._lay_out(parameters, self._things_by_parameter(parameters))

    def _is_builtin_for_one(self, signature: inspect.Signature) -> bool:
        """Whether it is like ``float`` or ``print``, which have defaults for their main thing."""
        return functions.is_builtin(self.function) and functions.takes_one(signature)

    def _refuse_open_ended(self, signature: inspect.Signature) -> None:
        starred = functions.open_ended(signature)
        if starred:
            raise self.error(
                f"takes {' and '.join(starred)}, which does not tell what it needs; "
                f"name its parameters: {self._rules()} "
                "(a decorator's wrapper should use functools.wraps)"
            )

    def _things_by_parameter(self, parameters: list[inspect.Parameter]) -> dict[str, str]:
        things = HOOKS[self.name]
        required = [p.name for p in parameters if p.default is p.empty]
        bound = self.function.keywords if isinstance(self.function, functools.partial) else {}
        found = {p.name: p.name for p in parameters if p.name in things and p.name not in bound}
        if len(required) == 1 and things:
            found.setdefault(required[0], things[0])
        unknown = [name for name in required if name not in found]
        if unknown:
            asked = ", ".join(_with_suggestion(name, things) for name in unknown)
            raise self.error(f"cannot ask for {asked}; {self._rules()}{_method_hint(unknown)}")
        return found

    def _lay_out(
        self, parameters: list[inspect.Parameter], things: Mapping[str, str]
    ) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """By position as far as that goes: it is faster, and some wrappers take only ``*args``."""
        positional: list[str] = []
        by_name: dict[str, str] = {}
        skipped = False
        for parameter in parameters:
            name, kind = parameter.name, parameter.kind
            if name not in things:
                skipped = True
            elif not skipped and kind is not parameter.KEYWORD_ONLY:
                positional.append(things[name])
            elif kind is not parameter.POSITIONAL_ONLY:
                by_name[name] = things[name]
            else:
                raise self.error(
                    f"cannot get {name}, a positional-only parameter behind one that keeps its "
                    f"default; move {name} to the front"
                )
        return tuple(positional), by_name

    def _rules(self) -> str:
        things = HOOKS[self.name]
        if not things:
            return "it gets no arguments, so that each parameter needs a default"
        if len(things) == 1:
            return f"it may ask for {things[0]}; other parameters need a default"
        names = ", ".join(things)
        return f"with several parameters it may ask for {names} by name; others need a default"


class HookTable:
    """All hooks of an app; ``table.process`` is the ``Hook`` of that name, or None.

    Arguments
    ---------
    app_name: what errors call the app
    compare_code: whether ``digest`` tells of the code of ``process``
    seed: from which the seeds of tasks are made

    Attributes
    ----------
    ordered: whether results are merged in the order of the tasks
    total: how many pieces of data ``new_data`` will give, None if the user has not told
    """

    def __init__(self, app_name: str, *, compare_code: bool = True, seed: int = 0) -> None:
        self.app_name = app_name
        self.seed = seed
        self.ordered = False
        self._compare_code = compare_code
        self.total: int | None = None
        self._hooks: dict[str, Hook] = {}
        self._frozen = False
        vars(self).update(dict.fromkeys(HOOKS))

    def register(self, name: str, function: Callable[..., Any], **options: Any) -> None:
        """Take a function of the user's as the hook ``name``.

        Raises
        ------
        ConfigurationError: the function, an option or the moment is wrong; the table is unchanged
        """
        hook = Hook(name, function)
        self._refuse_late(hook)
        self._refuse_second(hook)
        _refuse_unknown_options(hook, options)
        total = _checked_total(hook, options.get("total"))
        ordered = _checked_ordered(hook, options.get("ordered", False))
        if total is not None:
            self.total = total
        self.ordered = self.ordered or ordered
        self._hooks[name] = vars(self)[name] = hook

    def freeze(self) -> None:
        """Take no more hooks: a run begins."""
        self._frozen = True

    def get(self, name: str) -> Hook | None:
        """The hook of this name, or None if there is none."""
        return self._hooks.get(name)

    def __getattr__(self, name: str) -> Hook | None:
        # Hooks are plain attributes, which are found faster: what comes here is a mistake.
        raise AttributeError(f"there is no hook {name!r}", name=name, obj=self)

    def check(self, role: Role) -> None:
        """See that every hook is there that a role needs.

        Raises
        ------
        ConfigurationError: the text names each missing hook and shows what to add
        """
        missing = [
            f"app {self.app_name!r} has no {name} hook, which {role.value} needs{reason}. "
            f"Add one, for example:\n\n{textwrap.indent(EXAMPLES[name], '    ')}\n"
            for name, reason in self._missing(role)
        ]
        if missing:
            raise ConfigurationError("\n".join(missing))
        if role is not Role.NODE:
            self._refuse_order_for_nodes()
            self._refuse_one_of_a_pair()

    @property
    def digest(self) -> str:
        """By which server and node see whether their ``process`` is the same; "" tells nothing."""
        hook = self.process
        return process_digest(hook).hex() if hook is not None and self._compare_code else ""

    @property
    def by_node(self) -> bool:
        """``new_data`` asks for ``node_id``: a node gets its next task when its last is merged."""
        return self.new_data is not None and "node_id" in self.new_data.asks_for

    @property
    def user_reassigns(self) -> bool:
        """The manner of 0.1: the user, told by ``node_timeout``, hands lost data out again."""
        return self.by_node and self.node_timeout is not None

    @property
    def init_per_node(self) -> bool:
        """``init_data`` is called once for each node, and not once for an agent."""
        return self.init_data is not None and "node_id" in self.init_data.asks_for

    def _refuse_late(self, hook: Hook) -> None:
        if self._frozen:
            raise hook.error(
                f"comes too late: app {self.app_name!r} has begun to run and will not call it; "
                "register every hook before app.run() or app.main()"
            )

    def _refuse_order_for_nodes(self) -> None:
        new_data = self.new_data
        if self.ordered and self.result is not None and new_data is not None and self.by_node:
            raise self.result.error(
                f"has ordered=True, but new_data ({new_data.where}) asks for node_id, so that each "
                "node waits for the merge of its last result; use one of the two"
            )

    def _refuse_one_of_a_pair(self) -> None:
        for hook, other in ((self.checkpoint, "restore"), (self.restore, "checkpoint")):
            if hook is not None and other not in self._hooks:
                raise hook.error(
                    f"is there, and app {self.app_name!r} has no {other} hook: what checkpoint() "
                    "returns is what restore(state) gets after a restart; add the other one"
                )

    def _refuse_second(self, hook: Hook) -> None:
        first = self._hooks.get(hook.name)
        if first is not None:
            raise hook.error(
                f"is registered twice, first at {first.where}; an app has one {hook.name} hook, "
                "so remove one of the two"
            )

    def _missing(self, role: Role) -> Iterator[tuple[str, str]]:
        """Names of missing hooks, each with a reason where that is not plain."""
        if role is not Role.NODE:
            yield from self._missing_on_server()
        if role is not Role.SERVER and self.process is None:
            yield "process", ""

    def _missing_on_server(self) -> Iterator[tuple[str, str]]:
        new_data = self.new_data
        if new_data is None:
            yield "new_data", ""
        elif not new_data.is_generator and self.job_done is None:
            yield (
                "job_done",
                " to know when the job has ended, "
                f"since new_data ({new_data.where}) is a plain function and not a generator",
            )


def process_digest(hook: Hook) -> bytes:
    """16 bytes by which two machines can tell whether they run the same ``process``.

    They are made from the source of that one function, not from what it calls, and b"" means that
    nothing can be told; see ``functions.digest``.
    """
    return functions.digest(hook.function)


def _with_suggestion(name: str, known: Iterable[str]) -> str:
    import difflib  # for an error only

    close = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} (did you mean {close[0]!r}?)" if close else repr(name)


def _method_hint(unknown: list[str]) -> str:
    if unknown[0] != "self":
        return ""
    return "; a method is registered through its object, my_object.method, after the class"


def _refuse_unknown_options(hook: Hook, options: Iterable[str]) -> None:
    allowed = OPTIONS.get(hook.name, ())
    unknown = [_with_suggestion(name, allowed) for name in options if name not in allowed]
    if unknown:
        right = f"it has {', '.join(allowed)}" if allowed else "it takes no options"
        raise hook.error(f"has no option {', '.join(unknown)}; {right}")


def _checked_total(hook: Hook, total: Any) -> int | None:
    if total is None:
        return None
    with contextlib.suppress(TypeError):
        count = operator.index(total)
        if count >= 0 and not isinstance(total, bool):
            return count
    raise hook.error(
        f"has total={total!r}; it is the number of pieces of data that will come: "
        "an int of 0 or more, or None if nobody knows"
    )


def _checked_ordered(hook: Hook, ordered: Any) -> bool:
    if isinstance(ordered, bool):
        return ordered
    raise hook.error(f"has ordered={ordered!r}; it is True or False")
