"""Where an object is."""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from parasnake import places
from parasnake.places import find_place


class Target:
    """What is looked for. It equals everything, which must not matter."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def method(self) -> None:
        pass


TARGET = Target()


class Plain:
    def __init__(self, content: Any) -> None:
        self.content = content


class Slotted:
    __slots__ = "content"  # noqa: PLC0205  # as some people write it

    def __init__(self, content: Any) -> None:
        self.content = content


@dataclass
class Data:
    content: Any


class Pair(NamedTuple):
    left: Any
    right: Any


def closure(content: Any) -> Any:
    return lambda: (content, not_yet)


not_yet = None


@pytest.mark.parametrize(
    ("root", "place"),
    [
        (TARGET, "data"),
        ([0, [TARGET]], "data[1][0]"),
        ((0, TARGET), "data[1]"),
        (deque([0, TARGET]), "data[1]"),
        ({"a": {1: TARGET}}, 'data["a"][1]'),
        ({(1, 2): TARGET}, "data[<tuple>]"),
        ({TARGET: 1}, "data.<a key: Target>"),
        ({"k" * 99: TARGET}, f'data["{"k" * 59}...]'),
        ([{TARGET}], "data[0].<an element: Target>"),
        (Pair(0, TARGET), "data.right"),
        (Plain(Slotted(Data(TARGET))), "data.content.content.content"),
        (closure(TARGET), "data.<its variable content>"),
        (lambda x=TARGET: x, "data.__defaults__[0]"),
        (TARGET.method, "data.__self__"),
        (functools.partial(print, TARGET), "data.args[0]"),
        (ValueError(TARGET), "data.args[0]"),
        ([Plain([0]), [[TARGET]], [TARGET]], "data[2][0]"),  # the shortest way
    ],
)
def test_places(root: Any, place: str) -> None:
    assert find_place(TARGET, root, "data") == place


def test_an_equal_object_is_not_the_one() -> None:
    assert find_place(TARGET, [Target()], "data") is None


def test_loops_end() -> None:
    loop = Plain([])
    loop.content.append(loop)

    assert find_place(TARGET, loop, "data") is None


def test_depth_is_limited() -> None:
    nested: Any = TARGET
    for _ in range(places.MAX_DEPTH + 2):
        nested = [nested]

    assert find_place(TARGET, nested, "data") is None
    assert find_place(TARGET, nested[0], "data") == "data" + "[0]" * (places.MAX_DEPTH + 1)


def test_the_number_of_objects_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_OBJECTS", 10)

    assert find_place(TARGET, [*range(9), TARGET], "data") == "data[9]"
    assert find_place(TARGET, [*range(10), TARGET], "data") is None


class Unfriendly(list[Any]):
    """Raises whatever one asks it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __iter__(self) -> Any:
        raise RuntimeError("no")


def test_objects_that_raise_are_passed_by() -> None:
    assert find_place(TARGET, [Unfriendly(), TARGET], "data") == "data[1]"
