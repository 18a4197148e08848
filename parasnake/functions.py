"""What can be known about a function that somebody else wrote: place, kind, signature, source.

"Function" is anything that can be called: partials, decorated functions, bound methods, objects
with ``__call__``, classes and builtins too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

DIGEST_BYTES = 16


def innermost(function: Any) -> Any:
    """What somebody wrote: behind partials, decorators, bound methods and ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if callable(function) and not (inspect.isroutine(function) or isinstance(function, type)):
        function = inspect.unwrap(type(function).__call__)
    return getattr(function, "__func__", function)


def place(function: object) -> str:
    """Where a function is written, "file:line".

    For a class or a builtin, and for what is no function at all, it is the line outside this
    package whose call has led here.
    """
    code = getattr(innermost(function), "__code__", None)
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    package = __name__.partition(".")[0]
    return next(
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_stack(sys._getframe())
        if frame.f_globals.get("__name__", "").partition(".")[0] != package
    )


def signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """How a function wants to be called; None for a builtin that does not tell.

    A decorator's wrapper speaks for itself if it names its parameters, else what it wraps does.
    """
    found = None
    for follow_wrapped in (False, True):
        with contextlib.suppress(ValueError, TypeError):
            found = inspect.signature(function, follow_wrapped=follow_wrapped)
            if not open_ended(found):
                break
    return found


def open_ended(signature: inspect.Signature) -> list[str]:
    """The parameters that take anything, with their stars."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [stars[p.kind] + p.name for p in signature.parameters.values() if p.kind in stars]


def takes_one(signature: inspect.Signature) -> bool:
    """Whether a call with one positional argument, and nothing else, is all right."""
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def is_builtin(function: Callable[..., Any]) -> bool:
    """Whether no Python code says what the parameters are."""
    inner = innermost(function)
    makers = ("__init__", "__new__") if isinstance(inner, type) else ()
    parts = [getattr(inner, maker) for maker in makers] or [inner]
    return not any(hasattr(part, "__code__") for part in parts)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call gives something to await, or an asynchronous generator."""
    return _is(inspect.iscoroutinefunction, function) or _is(inspect.isasyncgenfunction, function)


def is_generator_function(function: Callable[..., Any]) -> bool:
    """Whether a call gives a generator.

    A wrapper is judged by itself: it may collect what the function inside it yields.
    """
    return _is(inspect.isgeneratorfunction, function)


def _is(kind: Callable[[object], bool], function: Callable[..., Any]) -> bool:
    return kind(function) or kind(type(function).__call__)


def digest(function: Callable[..., Any]) -> bytes:
    """16 bytes that change with a function's source, and are the same on all Python versions.

    Decorators and white space at line ends do not count. Without source (somebody typed the
    function in, say) the names and constants in its code count, but never the bytecode.

    Returns
    -------
    the digest, or b"" for what has neither, as builtins
    """
    inner = innermost(function)
    text = _source(inner) or _names_and_constants(inner)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest() if text else b""


def _source(function: Any) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except Exception:  # a file that was changed after its import can break the tokenizer, too
        return ""
    definition = re.search(r"^\s*(?:async\s+)?(?:def|class)\s", text, re.MULTILINE)
    if definition:
        text = text[definition.start() :]
    return "\n".join(line.rstrip() for line in text.splitlines())


def _names_and_constants(function: Any) -> str:
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    # The docstring does not count: Python 3.13 began to take away its indentation.
    return "\n".join(sorted(set(_facts(code)) - {repr(function.__doc__)}))


def _facts(value: object) -> Iterator[str]:
    """What stays when another Python version compiles the same code, in no order.

    All levels count as one, since from 3.12 on a comprehension has no code object of its own.
    """
    if isinstance(value, CodeType):
        # A comprehension's own argument is ".0".
        yield from filter(str.isidentifier, (*value.co_names, *value.co_varnames))
        yield from _facts(value.co_consts)
    elif isinstance(value, tuple | frozenset):
        for item in value:
            yield from _facts(item)
    elif value is not None:
        yield repr(value)
