"""Functions and classes that no name leads to, taken apart so that pickle can send them.

A lambda, a closure, or a class made inside a function cannot be looked up by the receiver, so its
parts travel instead. ``ByValue.reduce`` returns them as ``object.__reduce__`` does. Two things make
loops work (a function that calls itself, a class whose method says ``super()``): cells are created
empty and filled later, and whatever may refer back to the function or class goes into its state,
which pickle writes after it has remembered the object itself.

Everything that does have a name stays a reference, globals of a module too: a lambda of the script
sees the receiver's own script.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any

# dataclasses compares these by identity, so that a copy of one would mean nothing to it.
_DATACLASS_MARKS = {
    id(value): name
    for name, value in vars(dataclasses).items()
    if type(value).__module__ == "dataclasses"
}

_FUNCTION_ATTRIBUTES = (
    *("__module__", "__qualname__", "__doc__", "__defaults__", "__kwdefaults__"),
    *("__annotations__", "__type_params__", "__dict__"),
)

# What metaclasses and __init_subclass__ look for, and what cannot refer back to the class except
# through a cell. Other attributes are set when the class exists.
_EARLY_TYPES = frozenset(
    {
        *(types.FunctionType, property, classmethod, staticmethod),
        *(type(None), bool, int, float, complex, str, bytes),
    }
)
_EARLY_NAMES = frozenset({"__annotations__", "__orig_bases__", "__slots__"})
_REMADE_NAMES = frozenset({"__dict__", "__weakref__", "_abc_impl"})


def has_name(obj: Any) -> bool:
    """Tell whether ``obj`` is what its module has under its qualified name."""
    found: Any = sys.modules.get(obj.__module__)
    for part in getattr(obj, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is obj


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_CACHE = type(lru_cache(lambda: None))


def made_at_run_time(cls: type) -> bool:
    """Tell whether a class was made by a ``class`` statement or its like, not by a C compiler."""
    return bool(cls.__flags__ & _HEAP_TYPE)


def name_of_remade(function: object, args: tuple[Any, ...]) -> tuple[str, str] | None:
    """Tell module and name of the class that a call from ``ByValue.reduce`` makes again, if any."""
    if function is not _make_class:
        return None
    early = args[-1]
    return early["__module__"], early["__qualname__"]


class ByValue:
    """Takes apart the objects of one payload.

    It remembers the namespaces that belong to no module, so that two functions which shared their
    globals share them again.
    """

    def __init__(self) -> None:
        self._namespaces: dict[int, dict[str, Any]] = {}

    def reduce(self, obj: Any) -> Any:
        """Return how to rebuild ``obj``: what ``__reduce__`` may return, or ``NotImplemented``."""
        kind = type(obj)
        if kind is types.FunctionType:
            return NotImplemented if has_name(obj) else self._reduce_function(obj)
        if issubclass(kind, type):
            by_value = made_at_run_time(obj) and not has_name(obj)
            return _reduce_class(obj) if by_value else NotImplemented
        if kind is types.CellType:
            return _reduce_cell(obj)
        if issubclass(kind, types.ModuleType):
            return _reduce_module(obj)
        if kind is _CACHE:
            return NotImplemented if has_name(obj) else _reduce_cache(obj)
        if kind is typing.TypeVar:
            return _reduce_type_variable(obj)
        if kind is cached_property:  # before 3.12 it holds a lock
            return cached_property, (obj.func,), {"attrname": obj.attrname}
        return _DATACLASS_MARKS.get(id(obj), NotImplemented)

    def _reduce_function(self, function: types.FunctionType) -> Any:
        module = _module_with(function.__globals__)
        used: dict[str, Any] = {}
        namespace: str | dict[str, Any]
        if module is not None:
            namespace = module
        else:
            namespace = self._namespaces.setdefault(id(function.__globals__), {})
            used = _used_globals(function)
        attributes = {
            name: value
            for name in _FUNCTION_ATTRIBUTES
            if (value := getattr(function, name, None)) is not None and value != ()
        }
        parts = (function.__code__, namespace, function.__name__, function.__closure__)
        return _make_function, parts, (attributes, used), None, None, _fill_function


def _module_with(namespace: dict[str, Any]) -> str | None:
    name = namespace.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if getattr(module, "__dict__", None) is namespace else None


def _used_globals(function: types.FunctionType) -> dict[str, Any]:
    namespace = function.__globals__
    used = {name: namespace[name] for name in _names_in(function.__code__) if name in namespace}
    return {"__name__": namespace.get("__name__")} | used


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _make_function(
    code: types.CodeType,
    namespace: str | dict[str, Any],
    name: str,
    closure: tuple[types.CellType, ...] | None,
) -> types.FunctionType:
    if isinstance(namespace, str):
        namespace = vars(importlib.import_module(namespace))
    return types.FunctionType(code, namespace, name, None, closure)


def _fill_function(
    function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    attributes, used_globals = state
    for name, value in attributes.items():
        setattr(function, name, value)
    function.__globals__.update(used_globals)


def _reduce_cell(cell: types.CellType) -> Any:
    try:
        contents = cell.cell_contents
    except ValueError:  # not assigned yet
        return _make_cell, ()
    return _make_cell, (), (contents,), None, None, _fill_cell


def _make_cell() -> types.CellType:
    return types.CellType()


def _fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    (cell.cell_contents,) = state


def _reduce_module(module: types.ModuleType) -> Any:
    is_imported = sys.modules.get(module.__name__) is module
    return (importlib.import_module, (module.__name__,)) if is_imported else NotImplemented


def _reduce_type_variable(variable: typing.TypeVar) -> Any:
    if getattr(sys.modules.get(variable.__module__), variable.__name__, None) is variable:
        return NotImplemented
    settings = {
        "bound": variable.__bound__,
        "covariant": variable.__covariant__,
        "contravariant": variable.__contravariant__,
    }
    return _make_type_variable, (variable.__name__, variable.__constraints__, settings)


def _make_type_variable(name: str, constraints: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    return typing.TypeVar(name, *constraints, **settings)


def _reduce_cache(cache: Any) -> Any:
    return _make_cache, (cache.__wrapped__, cache.cache_parameters())


def _make_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(function)


def _reduce_class(cls: type) -> Any:
    split = _split_enum if issubclass(cls, enum.Enum) else _split_class
    early, late = split(cls)
    early["__qualname__"] = cls.__qualname__
    parts = (type(cls), cls.__name__, cls.__bases__, early)
    return _make_class, parts, late, None, None, _fill_class


def _split_class(cls: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes that a class is made with, and those that it gets afterwards."""
    early: dict[str, Any] = {}
    late: dict[str, Any] = {}
    for name, value in _own_attributes(cls):
        belongs_early = type(value) in _EARLY_TYPES or name in _EARLY_NAMES
        (early if belongs_early else late)[name] = value
    return early, late


def _split_enum(cls: type[enum.Enum]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do the same for an enum, whose metaclass makes members of what it finds in its body."""
    early: dict[str, Any] = {}
    late: dict[str, Any] = {}
    for name, value in _own_attributes(cls):
        if name in cls.__members__ or name == "__new__" or _is_made_by_enum(name):
            continue
        in_body = hasattr(value, "__get__") or name.startswith("__")
        (early if in_body else late)[name] = value
    if new_member := early.pop("__new_member__", None):
        early["__new__"] = new_member
    members = {name: member.value for name, member in cls.__members__.items()}
    return early | members, late


def _is_made_by_enum(name: str) -> bool:
    return name[0] == name[-1] == "_" and name[1] != "_" and name != "_missing_"


def _own_attributes(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        is_slot = isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls
        if name not in _REMADE_NAMES and not is_slot:
            yield name, value


def _make_class(
    metaclass: Callable[..., type], name: str, bases: tuple[type, ...], early: dict[str, Any]
) -> type:
    def body(namespace: dict[str, Any]) -> None:
        for key, value in early.items():  # an enum's namespace watches each assignment
            namespace[key] = value  # noqa: PERF403  # update() would go past it

    return types.new_class(name, bases, {"metaclass": metaclass}, body)


def _fill_class(cls: type, late: dict[str, Any]) -> None:
    for name, value in late.items():
        type.__setattr__(cls, name, value)
