"""Functions and classes that no name leads to.

Each test makes its objects in a function, so that nothing can look them up, and sends them as a
payload. What they were made from must come out working, and related as it was.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
import json
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import pytest

from parasnake.byvalue import has_name
from parasnake.errors import UnreadablePayload
from parasnake.payload import dumps, loads


def sent(obj: Any) -> Any:
    return loads(b"".join(dumps(obj).parts))


class Color(enum.Enum):
    RED = 1


calls: list[str] = []


def helper(text: str) -> Color:
    calls.append(text)
    return Color.RED


def test_what_has_a_name() -> None:
    class Local:
        pass

    assert has_name(helper)
    assert has_name(Color)
    assert has_name(json.JSONDecoder.decode)
    assert not has_name(Local)
    assert not has_name(lambda: 1)


# Functions


def test_a_function_sees_the_globals_of_its_module_here() -> None:
    calls.clear()

    back = sent(lambda text: helper(text.lower()))

    assert back("CALLED") is Color.RED
    assert calls == ["called"]


def test_all_that_belongs_to_a_function_comes_along() -> None:
    def function(a: int, b: int = 2, *, c: int = 3) -> tuple[int, int, int]:
        """Sum up."""
        return a, b, c

    function.note = "kept"  # type: ignore[attr-defined]

    back = sent(function)

    assert back(1) == (1, 2, 3)
    assert (back.__doc__, back.note) == ("Sum up.", "kept")
    assert (back.__qualname__, back.__module__) == (function.__qualname__, __name__)
    assert back.__annotations__ == function.__annotations__


def test_a_function_that_calls_itself() -> None:
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    assert sent(factorial)(5) == 120


def test_functions_that_call_each_other() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    back = sent({"odd": odd, "even": even})

    assert back["odd"](7)
    assert back["even"].__closure__[0].cell_contents is back["odd"]


def test_functions_that_share_a_variable_still_share_it() -> None:
    count = 0

    def up() -> None:
        nonlocal count
        count += 1

    up, read = sent((up, lambda: count))
    up()

    assert read() == 1


def test_a_variable_that_is_not_assigned_yet() -> None:
    def function() -> int:
        return later

    back = sent(function)
    later = 1

    with pytest.raises(NameError):
        back()
    assert function() == later


def test_a_module_in_a_closure_is_imported() -> None:
    import decimal as local

    assert sent(lambda: local)() is local


def test_functions_of_a_namespace_that_is_no_module() -> None:
    namespace: dict[str, Any] = {"unused": sys._getframe()}  # could not be sent
    code = "n = 0\ndef up():\n    global n\n    n += 1\ndef read():\n    return [n for _ in 'a'][0]"
    exec(code, namespace)

    up, read = sent((namespace["up"], namespace["read"]))
    up()

    assert read() == 1
    assert namespace["n"] == 0


def test_a_cached_function() -> None:
    @functools.lru_cache(maxsize=7)
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    back = sent(fibonacci)

    assert back(10) == 55
    assert back.cache_parameters() == {"maxsize": 7, "typed": False}


def test_a_cached_function_without_any_name() -> None:
    assert sent(functools.lru_cache(functools.partial(lambda a, b: a + b, 1)))(2) == 3


@functools.cache
def cached() -> int:
    return 1


def test_a_cached_function_that_has_a_name_is_a_reference() -> None:
    assert sent([lambda: 1, cached])[1] is cached


def test_a_module_that_was_not_imported_is_refused() -> None:
    with pytest.raises(Exception, match="cannot pickle 'module' object"):
        dumps(types.ModuleType("made_up"))


def test_types_of_the_interpreter_that_have_no_name() -> None:
    hidden = [types.FunctionType, types.CellType, types.MappingProxyType, type(None), type(...)]

    assert sent(hidden) == hidden


# Classes


def test_a_class_and_what_belongs_to_it() -> None:
    class Local:
        """It has everything."""

        number: int = 1
        shared: typing.ClassVar[list[int]] = []

        def __init__(self) -> None:
            self.own = 2

        @property
        def both(self) -> int:
            return self.number + self.own

        @functools.cached_property
        def lasting(self) -> list[int]:
            return [self.own]

        @staticmethod
        def color() -> Color:
            return Color.RED

        @classmethod
        def itself(cls) -> type:
            return cls

    cls, instance, bound = sent([Local, (one := Local()), one.color])

    assert (instance.both, instance.lasting) == (3, [2])
    assert instance.lasting is instance.lasting
    assert bound() is cls.color() is Color.RED
    assert cls.itself() is type(instance) is cls
    assert (cls.__doc__, cls.__qualname__) == (Local.__doc__, Local.__qualname__)
    assert cls.__annotations__ == Local.__annotations__
    assert cls.shared is not Local.shared


def test_inheritance() -> None:
    class Base:
        subclasses: typing.ClassVar[list[str]] = []

        def __init_subclass__(cls) -> None:
            cls.subclasses.append(cls.tag)  # type: ignore[attr-defined]

        def name(self) -> str:
            return "base"

    class Derived(Base):
        tag = "derived"

        def name(self) -> str:
            return "derived from " + super().name()

    base, derived = sent((Base, Derived))

    assert derived().name() == "derived from base"
    assert issubclass(derived, base)


def test_a_class_that_holds_its_own_instances() -> None:
    class Local:
        one: Any
        everything: typing.ClassVar[dict[str, Any]] = {}

    Local.one = Local()
    Local.everything["class"] = Local

    back = sent(Local)

    assert type(back.one) is back
    assert back.everything["class"] is back


def test_slots() -> None:
    class Local:
        __slots__ = ("__private", "shown")

        def __init__(self) -> None:
            self.shown = self.__private = 1

        def hidden(self) -> int:
            return self.__private

    back = sent(Local())

    assert (back.shown, back.hidden()) == (1, 1)
    assert not hasattr(back, "__dict__")


def test_a_metaclass() -> None:
    class Meta(type):
        def shout(cls) -> str:
            return cls.__name__.upper()

    class Local(metaclass=Meta):
        pass

    assert sent(Local).shout() == "LOCAL"


def test_an_abstract_class() -> None:
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def method(self) -> str: ...

    class Concrete(Abstract):
        def method(self) -> str:
            return "here"

    abstract, concrete = sent((Abstract, Concrete))

    assert concrete().method() == "here"
    with pytest.raises(TypeError, match="abstract"):
        abstract()


def test_a_generic_class() -> None:
    T = typing.TypeVar("T", int, str)

    class Box(typing.Generic[T]):
        pass

    class Named(typing.Generic[typing.AnyStr]):
        pass

    box, variable, named = sent((Box, T, Named))

    assert box[str].__args__ == (str,)
    assert box.__parameters__ == (variable,)
    assert variable.__constraints__ == (int, str)
    assert named.__parameters__ == (typing.AnyStr,)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="newer syntax")
def test_a_generic_class_in_the_newer_syntax() -> None:
    made: dict[str, Any] = {}
    exec("def make():\n    class Box[T]:\n        pass\n    return Box", made)

    box = sent(made["make"]())

    assert box[int].__args__ == (int,)


def test_a_class_that_cannot_be_made_again_is_named() -> None:
    class Base:
        def __init_subclass__(cls, *, tag: str) -> None:
            cls.tag = tag  # type: ignore[attr-defined]

    class Derived(Base, tag="not kept by Python"):
        pass

    with pytest.raises(UnreadablePayload) as caught:
        sent(Derived)

    assert caught.value.type_name == Derived.__qualname__
    assert caught.value.module == __name__


def test_a_dataclass() -> None:
    @dataclasses.dataclass(order=True)
    class Local:
        a: int
        b: list[int] = dataclasses.field(default_factory=list, metadata={"unit": "s"})
        c: dataclasses.InitVar[int] = 3

    cls, instance = sent((Local, Local(5)))

    assert isinstance(instance, cls)
    assert cls(5) == instance < cls(6)
    assert instance.b is not cls(1).b
    assert dataclasses.replace(instance, a=7, c=1).a == 7
    assert [field.name for field in dataclasses.fields(cls)] == ["a", "b"]
    assert dataclasses.fields(cls)[1].metadata == {"unit": "s"}


def test_a_dataclass_with_slots() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Local:
        a: int
        b: int = 2

    cls, instance = sent((Local, Local(1)))

    assert instance == cls(1)
    assert not hasattr(instance, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.a = 2


def test_named_tuples() -> None:
    class Typed(typing.NamedTuple):
        x: int
        y: int = 2

        def product(self) -> int:
            return self.x * self.y

    untyped = collections.namedtuple("untyped", "a b", defaults=[1])

    typed, also_untyped, instance = sent((Typed, untyped, Typed(5)))

    assert typed(3).product() == 6
    assert typed(3)._replace(y=0) == (3, 0)
    assert type(instance) is typed
    assert also_untyped(2)._asdict() == {"a": 2, "b": 1}


def test_enums() -> None:
    class Size(enum.Enum):
        SMALL = 1
        LARGE = 2
        HUGE = 2

        def doubled(self) -> int:
            return int(self.value) * 2

        @property
        def color(self) -> Color:
            return Color.RED

        @classmethod
        def _missing_(cls, value: object) -> Size:
            return cls.SMALL

    size, member, keys = sent((Size, Size.LARGE, {Size.SMALL: 1}))

    assert member is size.LARGE is size.HUGE is size(2)
    assert list(size) == [size.SMALL, size.LARGE]
    assert keys[size.SMALL] == 1
    assert (member.doubled(), member.color) == (4, Color.RED)
    assert size("anything") is size.SMALL


def test_enums_of_other_types() -> None:
    class Flags(enum.IntFlag):
        A = 1
        B = 2

    class Names(enum.StrEnum):
        FIRST = enum.auto()

    class Raw(bytes, enum.Enum):
        def __new__(cls, value: int) -> Raw:
            member = bytes.__new__(cls, [value])
            member._value_ = value
            return member

        TWO = 2

    flags, both, names, raw = sent((Flags, Flags.A | Flags.B, Names, Raw))

    assert both == flags.A | flags.B == 3
    assert names.FIRST == "first"
    assert raw.TWO == b"\2"
    assert raw(2) is raw.TWO


def test_everything_at_once_stays_related() -> None:
    class Node:
        def __init__(self, rule: Callable[[Node], Any]) -> None:
            self.rule = rule
            self.others: list[Node] = [self]

    def rule(node: Node) -> bool:
        return all(isinstance(other, Node) for other in node.others)

    nodes = [Node(rule), Node(rule)]
    nodes[0].others = nodes

    first, second = sent(nodes)

    assert first.rule is second.rule
    assert first.rule(second)
    assert first.others == [first, second]
