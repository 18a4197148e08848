"""Where in a structure an object is, written as one would write it in Python."""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_OBJECTS = 1_000_000
MAX_DEPTH = 100
_MAX_KEY_LENGTH = 60

# Looking into these leads into the program itself, or nowhere.
_LEAVES = (str, bytes, bytearray, int, float, complex, type(None), types.ModuleType, type)


class _Step(NamedTuple):
    """An object met on the walk, and the way to it."""

    obj: Any
    piece: str
    parent: _Step | None
    depth: int


def find_place(target: object, root: object, name: str) -> str | None:
    """Find the shortest way from ``root`` to ``target`` itself (not to an equal object).

    Parameters
    ----------
    target: the object looked for
    root: where to start
    name: what to call ``root``

    Returns
    -------
    The place, such as ``data["a"][3].lock``, or None if it is not to be found within
    ``MAX_OBJECTS`` objects and ``MAX_DEPTH`` steps down. Loops do no harm.
    """
    step = _Step(root, name, None, 0)
    if root is target:
        return name
    waiting = deque([step])
    # Alive in their steps: something made on the way must not lend its id to another.
    seen = {id(root): step}
    looked_at = 0
    while waiting and looked_at < MAX_OBJECTS:
        step = waiting.popleft()
        for piece, child in itertools.islice(_children(step.obj), MAX_OBJECTS - looked_at):
            looked_at += 1
            if child is target:
                return _spell(_Step(child, piece, step, 0))
            is_leaf = issubclass(type(child), _LEAVES)
            if is_leaf or id(child) in seen or step.depth == MAX_DEPTH:
                continue
            seen[id(child)] = next_step = _Step(child, piece, step, step.depth + 1)
            waiting.append(next_step)
    return None


def _spell(step: _Step | None) -> str:
    pieces = []
    while step is not None:
        pieces.append(step.piece)
        step = step.parent
    return "".join(reversed(pieces))


def _children(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield what ``obj`` holds, each with the piece of text that leads to it."""
    kind = type(obj)
    # This runs when something is wrong already, with objects that may answer anything.
    with contextlib.suppress(Exception):
        if issubclass(kind, dict):
            yield from _items_of_dict(obj)
        elif issubclass(kind, (list, tuple, deque)):
            yield from _items_of_sequence(obj)
        elif issubclass(kind, (set, frozenset)):
            yield from ((f".<an element: {type(item).__name__}>", item) for item in obj)
        elif kind is types.FunctionType:
            yield from _parts_of_function(obj)
        elif kind is types.MethodType:
            yield ".__self__", obj.__self__
        elif issubclass(kind, BaseException):
            yield ".args", obj.args
        elif issubclass(kind, functools.partial):
            yield from ((f".{name}", getattr(obj, name)) for name in ("func", "args", "keywords"))
    with contextlib.suppress(Exception):
        yield from _attributes(obj)


def _items_of_dict(obj: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in dict.items(obj):
        yield f"[{_spell_key(key)}]", value
        yield f".<a key: {type(key).__name__}>", key


def _items_of_sequence(obj: Any) -> Iterator[tuple[str, Any]]:
    names = getattr(type(obj), "_fields", None)
    for index, item in enumerate(type(obj).__iter__(obj)):
        yield (f".{names[index]}" if names else f"[{index}]"), item


def _parts_of_function(obj: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a variable that is not assigned yet
            yield f".<its variable {name}>", cell.cell_contents
    yield ".__defaults__", obj.__defaults__
    yield ".__kwdefaults__", obj.__kwdefaults__


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    with contextlib.suppress(AttributeError):
        for name, value in object.__getattribute__(obj, "__dict__").items():
            yield f".{name}", value
    declared = (cls.__dict__.get("__slots__", ()) for cls in type(obj).__mro__)
    slots = ((slots,) if isinstance(slots, str) else slots for slots in declared)
    for name in itertools.chain.from_iterable(slots):
        with contextlib.suppress(AttributeError):
            yield f".{name}", object.__getattribute__(obj, name)


def _spell_key(key: Any) -> str:
    if type(key) not in (str, int, float, bool, bytes, type(None)):
        return f"<{type(key).__name__}>"
    import json  # for an error only

    text = json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key)
    return text if len(text) <= _MAX_KEY_LENGTH else f"{text[:_MAX_KEY_LENGTH]}..."
