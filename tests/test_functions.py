"""What can be known about any function; tests/test_hooks.py has what follows for hooks."""

from __future__ import annotations

import functools
import inspect
import itertools
import linecache
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from parasnake.functions import (
    digest,
    innermost,
    is_async,
    is_builtin,
    is_generator_function,
    open_ended,
    place,
    signature,
    takes_one,
)


def passing_on(*_: Any) -> Callable[[Any], Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    return decorate


class CanBeCalled:
    @passing_on()
    def __call__(self, n: Any) -> None: ...

    def method(self, n: Any) -> None: ...


def from_source(text: str, *, source: str | None = None) -> Any:
    """The ``f`` that the text defines; ``source`` is what the file says by now ("": it is gone)."""
    file = f"<text {next(numbers)}>"
    lines = (text if source is None else source).splitlines(keepends=True)
    linecache.cache[file] = (len(text), None, lines, file)
    namespace: dict[str, Any] = {"passing_on": passing_on}
    exec(compile(text, file, "exec"), namespace)
    return namespace["f"]


numbers = itertools.count()


def test_behind_all_wrapping_is_what_somebody_wrote() -> None:
    def function(n: Any) -> None: ...

    assert innermost(functools.partial(functools.partial(function, 1))) is function
    assert innermost(passing_on()(passing_on()(function))) is function
    assert innermost(functools.lru_cache(function)) is function
    assert innermost(CanBeCalled().method) is CanBeCalled.method
    assert innermost(CanBeCalled()) is CanBeCalled.__call__.__wrapped__
    assert innermost(CanBeCalled) is CanBeCalled
    assert innermost(math.sqrt) is math.sqrt
    assert innermost(42) == 42


def test_the_place_of_a_function_is_that_of_its_code() -> None:
    function = lambda: None  # noqa: E731
    assert place(function) == f"{__file__}:{function.__code__.co_firstlineno}"
    assert place(functools.partial(passing_on()(function))) == place(function)


def test_the_place_of_anything_else_is_where_the_library_was_called() -> None:
    line = (lambda: None).__code__.co_firstlineno
    assert [place(math.sqrt), place(CanBeCalled), place(42)] == [f"{__file__}:{line + 1}"] * 3


def test_the_signature_is_the_outermost_that_names_its_parameters() -> None:
    @passing_on()
    def inner(a: int, b: int = 2) -> None: ...

    @functools.wraps(inner)
    def outer(c: int) -> None: ...

    assert [list(found.parameters) for f in (inner, outer) if (found := signature(f))] == [
        ["a", "b"],
        ["c"],
    ]
    assert signature(math.log) is None


def test_a_signature_may_take_anything_or_just_one() -> None:
    anything = inspect.signature(lambda *args, **kwargs: None)
    one = inspect.signature(lambda a, b=2: None)
    two = inspect.signature(lambda a, b: None)
    assert [open_ended(found) for found in (anything, one)] == [["*args", "**kwargs"], []]
    assert [takes_one(found) for found in (anything, one, two)] == [True, True, False]


class Text(str):
    pass


class Pair(NamedTuple):
    a: int
    b: int


def test_builtins_have_no_python_code() -> None:
    builtins: list[Any] = [math.sqrt, [].append, float, Text, functools.partial(print, 1)]
    others: list[Any] = [passing_on, CanBeCalled(), CanBeCalled().method, Pair]
    assert [is_builtin(function) for function in builtins] == [True] * 5
    assert [is_builtin(function) for function in others] == [False] * 4


def test_what_a_call_gives() -> None:
    async def coroutine() -> None: ...

    async def asynchronous_generator() -> AsyncIterator[int]:
        yield 1

    def generator() -> Iterator[int]:
        yield 1

    assert is_async(coroutine) and is_async(asynchronous_generator) and not is_async(generator)
    assert is_generator_function(functools.partial(generator))
    assert not is_generator_function(passing_on()(generator))


SQUARE = "def f(n):\n    return n * n\n"


@pytest.mark.parametrize(
    "same",
    [
        pytest.param("@passing_on(\n    1,\n)\n" + SQUARE, id="decorators"),
        pytest.param("def f(n):  \n    return n * n\t\n\n\n# next\n", id="space at line ends"),
        pytest.param("if True:\n    def f(n):\n        return n * n\n", id="indentation"),
    ],
)
def test_the_digest_is_about_the_function_alone(same: str) -> None:
    assert digest(from_source(same)) == digest(from_source(SQUARE))


@pytest.mark.parametrize("source", [None, "", "(\n"], ids=["source", "no source", "broken source"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(n): return n + 1", "def f(n): return n + 2"),
        ("def f(n): return sin(n)", "def f(n): return cos(n)"),
        ("def f(n): return n in {'a', 'b'}", "def f(n): return n in {'a', 'c'}"),
        ("def f(n): return [x + 1 for x in n]", "def f(n): return [x + 2 for x in n]"),
        ("f = lambda n: n + 1", "f = lambda n: n + 2"),
    ],
)
def test_the_digest_changes_with_the_code(one: str, other: str, source: str | None) -> None:
    first, second, again = (digest(from_source(text, source=source)) for text in (one, other, one))
    assert first == again != second
    assert len(first) == len(second) == 16


def test_the_digest_of_a_class_is_that_of_all_its_source() -> None:
    digests = {digest(CanBeCalled), digest(CanBeCalled()), digest(CanBeCalled().method)}
    assert len(digests) == 3
    assert b"" not in digests


MANY = '''
def f(n):
    """Has what Python versions compile differently.

        An indented docstring, for example.
    """
    if n in {"spam", "ham", 3, (1, None)}:
        return [len(x) for x in n]
    return lambda q: q + 1.5
'''


def test_the_digest_is_the_same_on_all_python_versions_and_in_each_process() -> None:
    assert digest(from_source(MANY)).hex() == "14341e30ce6ef40cb1c323ce4c2edc6b"
    assert digest(from_source(MANY, source="")).hex() == "88a166f14c06299a65fb39b5b799e715"


def test_no_digest_of_what_has_no_code() -> None:
    assert digest(math.sqrt) == b""
    assert digest(functools.partial(math.pow, 2)) == b""
