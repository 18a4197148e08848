"""Objects to bytes and buffers, and back.

``sent`` does what the wire does: it joins the parts of a payload and hands the whole to ``loads``.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import functools
import hashlib
import json
import mmap
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import threading
import types
import uuid
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from parasnake import payload as payload_module
from parasnake.core.messages import SMALL_PAYLOAD
from parasnake.errors import PayloadError, TaskFailed, UnreadablePayload
from parasnake.payload import (
    ALIGNMENT_BYTES,
    RAW_BYTES,
    Payload,
    digest,
    dumps,
    loads,
    parts_of,
    version_of,
    wire_form,
)


def wire(obj: object) -> bytearray:
    """Join an object's parts, as the receiver has them: in one writable piece of memory."""
    payload = dumps(obj)
    joined = bytearray().join(payload.parts)
    assert len(joined) == payload.size
    return joined


def sent(obj: Any) -> Any:
    return loads(wire(obj))


def address(buffer: Any) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


class Color(enum.Enum):
    RED = 1


Point = namedtuple("Point", "x y")


@dataclass
class Shape:
    corners: list[Point]
    color: Color


class ChoosyError(Exception):
    """pickle rebuilds exceptions by a call with ``args``, which this one does not take."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"it was {code}")
        self.code = code


class Slotted:
    __slots__ = ("content",)

    def __init__(self, content: object) -> None:
        self.content = content


# What comes back is what was sent.


@pytest.mark.parametrize(
    "obj",
    [
        None,
        True,
        -1,
        1 << 10_000,
        0.1,
        1j,
        "snake ü 🐍",
        b"bytes",
        bytearray(b"more"),
        (),
        [1, [2, {3: {4}}], frozenset({5})],
        range(3),
        Color.RED,
        Point(1, 2),
        Shape([Point(1, 2)], Color.RED),
        datetime.datetime(2020, 2, 29, tzinfo=datetime.UTC),
        decimal.Decimal("1.10"),
        uuid.UUID(int=7),
        Path("a/b"),
        np.float32(1.5),
        np.int8(-3),
        np.datetime64("2020-02-29"),
        len,
        Color,
        json,
    ],
    ids=repr,
)
def test_objects_come_back_equal(obj: object) -> None:
    back = sent(obj)

    assert back == obj
    assert type(back) is type(obj)


@pytest.mark.parametrize("obj", [None, Color.RED, Color, Shape, len, json, np.float64, ...])
def test_what_a_name_leads_to_stays_itself(obj: object) -> None:
    assert sent([obj])[0] is obj


def test_a_structure_may_hold_itself() -> None:
    loop: list[Any] = []
    loop.append({"loop": loop})

    back = sent(loop)

    assert back[0]["loop"] is back


def test_an_exception_keeps_its_attributes_whatever_its_constructor_takes() -> None:
    failed = TaskFailed(task_id=3, attempts=2, losses=0, reason="r", host="h", remote="trace")

    back, choosy = sent([failed, ChoosyError(code=5)])

    assert (back.task_id, back.host, str(back)) == (3, "h", str(failed))
    assert (choosy.code, str(choosy)) == (5, "it was 5")


arrays = npst.arrays(
    dtype=npst.scalar_dtypes() | npst.array_dtypes(max_size=2),
    shape=npst.array_shapes(min_side=0, max_side=5),
)
structures = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def assert_same(back: Any, obj: Any) -> None:
    assert type(back) is type(obj)
    if isinstance(obj, np.ndarray):
        # numpy itself turns some dtypes with the other byte order into native ones.
        assert back.dtype.newbyteorder("=") == obj.dtype.newbyteorder("=")
        assert back.shape == obj.shape
        assert repr(back.tolist()) == repr(obj.tolist())  # not equal when it has a nan
    elif isinstance(obj, dict):
        assert list(back) == list(obj)
        assert_same(list(back.values()), list(obj.values()))
    elif isinstance(obj, list | tuple):
        assert len(back) == len(obj)
        for one, other in zip(back, obj, strict=True):
            assert_same(one, other)
    else:
        assert repr(back) == repr(obj)


@given(structures)
def test_any_structure_comes_back(obj: Any) -> None:
    assert_same(sent(obj), obj)


@given(structures, st.sampled_from([0, 1]))
def test_any_structure_comes_back_with_small_buffers_out_of_band(obj: Any, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload_module, "SMALL_BUFFER_BYTES", limit)
        assert_same(sent(obj), obj)


# Arrays are not copied.

BIG = np.arange(10_000.0)


def test_a_large_array_is_sent_from_its_own_memory() -> None:
    part = dumps({"array": BIG}).parts[-1]

    assert np.shares_memory(np.frombuffer(part, np.uint8), BIG)


def test_a_large_array_is_received_as_a_view_of_the_buffer() -> None:
    received = wire([1, BIG])

    _, array = loads(received)

    assert np.shares_memory(array, np.frombuffer(received, np.uint8))
    array[0] = 7  # writable, like the buffer
    assert not loads(bytes(received))[1].flags.writeable


def test_an_array_that_was_read_only_stays_so() -> None:
    locked = BIG.copy()
    locked.flags.writeable = False

    assert not sent(locked).flags.writeable


@given(sizes=st.lists(st.integers(4096, 5000), min_size=1, max_size=5))
def test_arrays_are_aligned_within_the_wire_form(sizes: list[int]) -> None:
    received = wire([np.full(size, 1, np.uint8) for size in sizes])

    offsets = [array.ctypes.data - address(received) for array in loads(received)]

    assert [offset % ALIGNMENT_BYTES for offset in offsets] == [0] * len(sizes)


def test_small_arrays_go_into_the_pickle() -> None:
    assert len(dumps([np.ones(3)] * 9).parts) == 1


@pytest.mark.parametrize(
    "array",
    [
        BIG.reshape(100, 100),
        np.asfortranarray(BIG.reshape(100, 100)),
        BIG.reshape(100, 100)[::2, ::-3],
        np.zeros(1000, dtype=[("name", "U10"), ("at", "<f8", (3,))]),
        np.array([1, "two", None] * 2000, dtype=object),
        np.ma.masked_array([1, 2], [True, False]),
    ],
    ids=["C", "Fortran", "strided", "structured", "objects", "masked"],
)
def test_every_kind_of_array_comes_back(array: Any) -> None:
    back = sent(array)

    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert back.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abc"),
        memoryview(bytearray(b"abc")),
        memoryview(b""),
        memoryview(b"abcdef")[::2],
        memoryview(bytearray(b"abcdef"))[::-1],
        memoryview(cast(Any, BIG.reshape(100, 100))),  # a buffer to mypy from Python 3.12 on only
        memoryview(cast(Any, BIG))[::2],
    ],
)
def test_memoryviews_come_back(view: memoryview) -> None:
    back = sent({"view": view})["view"]

    assert back == view
    assert (back.format, back.shape) == (view.format, view.shape)
    assert back.nbytes == 0 or back.readonly == view.readonly


def test_a_mapped_file_can_be_read_in_place(tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(wire(BIG))
    with file.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)

    array = loads(mapped)

    assert np.shares_memory(array, np.frombuffer(mapped, np.uint8))


# Nor are bytes, until they are rebuilt.


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_sent_as_they_are(kind: type) -> None:
    blob = kind(b"x" * RAW_BYTES)

    header, content = dumps(blob).parts

    assert len(header) == 16
    assert address(content) == address(blob)
    assert sent(blob) == blob
    assert type(sent(blob)) is kind


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_inside_a_structure_are_not_copied_either(kind: type) -> None:
    blob = kind(b"x" * RAW_BYTES)

    payload = dumps(("name", [blob]))

    assert address(blob) in [address(part) for part in payload.parts]
    assert loads(b"".join(payload.parts)) == ("name", [blob])


def test_a_small_object_costs_no_more_than_its_pickle() -> None:
    assert dumps(1) == Payload([pickle.dumps(1, 5)], 5)
    assert dumps([1, "a"]).parts == [pickle.dumps([1, "a"], 5)]


@pytest.mark.parametrize("form", [parts_of, wire_form])
def test_what_travels_with_others_is_one_piece(form: Callable[[object], tuple[Any, ...]]) -> None:
    """Whatever it is made of: a run of payloads is written from single pieces."""
    array = np.zeros(SMALL_PAYLOAD - 1024, np.uint8)
    for obj in (1, "a", [b"x" * 3000], bytearray(b"x" * 3000), array, [array[:2000], lambda: 1]):
        (part,) = form(obj)
        assert len(part) <= SMALL_PAYLOAD


def test_a_detached_payload_does_not_follow_changes_of_the_object() -> None:
    array, blob = BIG.copy(), b"x" * RAW_BYTES
    payload = dumps([array, blob]).detached()

    array[:] = -1

    assert loads(b"".join(payload.parts))[0][5] == 5
    assert address(blob) in [address(part) for part in payload.parts]  # nobody can change bytes


def test_the_digest_is_that_of_the_wire_form() -> None:
    blob = wire([BIG, 1])

    assert digest(dumps([BIG, 1])) == hashlib.blake2b(blob, digest_size=16).digest()


# Functions and classes without a name (tests/test_byvalue.py has all their kinds).


def test_a_lambda_deep_in_a_structure() -> None:
    def scaled(factor: int) -> Callable[[int], int]:
        return lambda x: factor * x

    function = scaled(3)

    back = sent({"a": [function, (function, functools.partial(scaled(2), 5))], "array": BIG})

    assert back["a"][0](2) == 6
    assert back["a"][1][0] is back["a"][0]
    assert back["a"][1][1]() == 10
    np.testing.assert_array_equal(back["array"], BIG)


def test_a_class_made_in_a_function_comes_with_its_instances() -> None:
    class Local:
        color = Color.RED

        def __init__(self) -> None:
            self.array = BIG

    payload = dumps([Local, Local()])
    cls, instance = loads(b"".join(payload.parts))

    assert type(instance) is cls
    assert cls.color is Color.RED
    assert any(address(part) == address(BIG) for part in payload.parts)


def test_byte_code_of_another_python_is_refused_before_it_can_crash_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received = wire(lambda: 1)
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))

    with pytest.raises(UnreadablePayload, match=r"comes from Python 3\.1\d, and Python 3\.99 "):
        loads(received)


# What cannot be sent.


def refusal(obj: object, **arguments: str) -> PayloadError:
    with pytest.raises(PayloadError) as caught:
        dumps(obj, **arguments)
    return caught.value


def test_the_error_names_type_and_place() -> None:
    error = refusal({"a": [0, 1, 2, types.SimpleNamespace(lock=threading.Lock())]})

    assert str(error) == """data["a"][3].lock: cannot pickle '_thread.lock' object"""
    assert (error.type_name, error.place) == ("_thread.lock", 'data["a"][3].lock')
    assert isinstance(error.__cause__, TypeError)


def test_the_caller_says_what_the_object_is_called() -> None:
    assert refusal(Slotted(threading.Lock()), name="result").place == "result.content"


def test_a_generator_is_refused_with_a_hint() -> None:
    error = refusal(i for i in range(3))

    assert str(error) == (
        "data: cannot pickle 'generator' object; a generator cannot be sent: send a list of its "
        "items, or, to hand out each of them as data, let new_data itself be a generator function, "
        "with `yield` in its own body"
    )


def test_a_variable_of_a_lambda_is_a_place_too() -> None:
    lock = threading.Lock()

    assert refusal([lambda: lock]).place == "data[0].<its variable lock>"


class Stubborn:
    def __reduce__(self) -> str:
        raise RuntimeError("no, never")


class Secretive:
    def __reduce__(self) -> Any:
        return str, (threading.Lock(),)


def test_what_the_object_itself_raises_is_told() -> None:
    error = refusal([Stubborn()])

    expected = f"data[0]: cannot pickle '{__name__}.Stubborn' object (RuntimeError: no, never)"
    assert str(error) == expected


def test_what_was_made_just_for_pickling_has_no_place() -> None:
    error = refusal([Secretive()])

    assert str(error) == "somewhere in data: cannot pickle '_thread.lock' object"
    assert error.place == ""


def test_too_deep_nesting_is_an_error_like_any_other() -> None:
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]

    assert "RecursionError" in str(refusal(nested))


def test_a_type_of_the_interpreter_without_a_name_is_refused() -> None:
    assert "no name leads to <class 'list_iterator'>" in str(refusal(type(iter([]))))


# What cannot be rebuilt.


def unreadable(received: bytes | bytearray) -> UnreadablePayload:
    with pytest.raises(UnreadablePayload) as caught:
        loads(received)
    return caught.value


def test_a_module_that_is_missing_here() -> None:
    error = unreadable(b"\x80\x04cfar_away.shapes\nCircle\n.")

    assert str(error) == (
        "cannot rebuild far_away.shapes.Circle here (far_away is not installed): "
        "ModuleNotFoundError: No module named 'far_away'"
    )
    assert (error.module, error.type_name) == ("far_away.shapes", "Circle")
    assert error.local_version is None
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_name_that_is_missing_here() -> None:
    error = unreadable(b"\x80\x04cnumpy\nNoSuchThing\n.")

    assert str(error).startswith(f"cannot rebuild numpy.NoSuchThing here (numpy {np.__version__}):")
    assert isinstance(error.__cause__, AttributeError)


class Refusing:
    """Can be sent, but not rebuilt."""

    def __setstate__(self, state: object) -> None:
        raise ValueError("I don't want to")

    def __getstate__(self) -> object:
        return {"inner": decimal.Decimal(1)}


class NeedsKeyword:
    def __new__(cls, *, size: int) -> NeedsKeyword:
        return super().__new__(cls)

    def __reduce__(self) -> Any:
        return NeedsKeyword, ()


class Misspelt:
    def __new__(cls, *, size: int) -> Misspelt:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (), {"sise": 1}


class WellSpelt(Misspelt):
    def __getnewargs_ex__(self) -> Any:
        return (), {"size": 1}


class NeedsNewArgument:
    def __new__(cls, size: int) -> NeedsNewArgument:
        return super().__new__(cls)


class NoEnum:
    def __reduce__(self) -> Any:
        return Color, (77,)


class NoMethod:
    def __reduce__(self) -> Any:
        return getattr, (Slotted(1), "no_method")


@pytest.mark.parametrize(
    ("obj", "type_name", "reason"),
    [
        (Refusing(), "Refusing", "ValueError: I don't want to"),
        (NeedsKeyword(size=1), "NeedsKeyword", "TypeError: .*missing 1 required"),
        (Misspelt(size=1), "Misspelt", "TypeError: .*unexpected keyword"),
        (NeedsNewArgument(1), "NeedsNewArgument", "TypeError: .*missing 1 required"),
        (NoEnum(), "Color", "ValueError: 77 is not a valid Color"),
        (NoMethod(), "Slotted", "AttributeError: .*no_method"),
    ],
)
def test_an_object_that_refuses_to_be_rebuilt(obj: object, type_name: str, reason: str) -> None:
    error = unreadable(wire([decimal.Decimal(2), WellSpelt(size=1), obj]))

    assert (error.module, error.type_name) == (__name__, type_name)
    with pytest.raises(UnreadablePayload, match=reason):
        raise error


@pytest.mark.parametrize(
    ("module", "version"),
    [
        ("numpy.linalg", np.__version__),
        ("json.decoder", f"of Python {sys.version.split()[0]}"),
        ("__main__", "unknown"),
        (__name__, "unknown"),
        ("no_such_module", None),
    ],
)
def test_versions(module: str, version: str | None) -> None:
    assert version_of(module) == version


def test_the_version_of_a_distribution_whose_module_does_not_tell_it() -> None:
    assert version_of("_hypothesis_pytestplugin") == hypothesis.__version__


# Damaged wire forms: always a PayloadError, or a value, and nothing else.

WIRE_FORMS = [
    wire({"a": [1, "two"]}),
    wire([BIG[:1000], BIG[:600]]),
    wire(bytes(RAW_BYTES)),
    wire(bytearray(RAW_BYTES)),
]


@given(form=st.sampled_from(WIRE_FORMS), data=st.data())
def test_a_cut_payload(form: bytearray, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(form) - 1))

    with pytest.raises(PayloadError, match="damaged payload"):
        loads(form[:length])


@given(form=st.sampled_from(WIRE_FORMS[1:]), extra=st.binary(min_size=1, max_size=200))
def test_a_payload_with_something_behind_it(form: bytearray, extra: bytes) -> None:
    with pytest.raises(PayloadError, match="damaged payload"):
        loads(form + extra)


@given(form=st.sampled_from(WIRE_FORMS[1:]), position=st.integers(0, 31), value=st.integers(0, 255))
def test_a_damaged_header(form: bytearray, position: int, value: int) -> None:
    damaged = bytearray(form)
    damaged[position] = value

    with contextlib.suppress(PayloadError):
        loads(damaged)


@given(st.binary(max_size=40))
def test_any_bytes_that_are_no_pickle(content: bytes) -> None:
    with contextlib.suppress(PayloadError):
        loads(b"\x01" + content)


@pytest.mark.parametrize(
    ("received", "why"),
    [
        (b"", "it is empty"),
        (b"\x01", "it ends within its header"),
        (struct.pack("<BxxxIQ", 1, 1 << 31, 0), "it ends before its pickle does"),
        (struct.pack("<BxxxIQ", 1, 0, 1 << 60), "it ends before its pickle does"),
        (struct.pack("<BxxxIQQ", 1, 1, 0, 1 << 63), "24 bytes have come instead of"),
        (struct.pack("<BxxxIQ", 2, 0, 1), "its header makes no sense"),
        (struct.pack("<BxxxIQ", 9, 0, 0), "its header makes no sense"),
        (b"\x80\x05", "EOFError"),
    ],
)
def test_what_is_wrong_is_told(received: bytes, why: str) -> None:
    with pytest.raises(PayloadError, match=f"damaged payload: .*{why}"):
        loads(received)


# The script's own classes and functions, between two processes.

SCRIPT = textwrap.dedent(
    """
    import enum, os, sys
    from parasnake.payload import dumps, loads

    class Color(enum.Enum):
        RED = 1

    class Circle:
        color = Color.RED

    factor = 3
    scale = lambda x: (factor * x, Color.RED, Circle)

    def check(color, cls, instance, function):
        assert color is Color.RED
        assert cls is Circle
        assert type(instance) is Circle
        assert function(2) == (6, Color.RED, Circle), function(2)
        assert function(2)[1] is Color.RED and function(2)[2] is Circle
        return [Color.RED, Circle, Circle(), lambda x: (factor * x, Color.RED, Circle)]

    def wire(obj):
        return b"".join(dumps(obj).parts)

    def worker(received):
        return wire(check(*loads(received)))

    def by_fork(request):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, worker(request))
            os._exit(0)
        os.close(write)
        return open(read, "rb").read()

    def by_spawn(request):
        import subprocess
        command = [sys.executable, sys.argv[2], __file__]
        return subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True).stdout

    if __name__ == "__main__":
        start = {"fork": by_fork, "spawn": by_spawn}[sys.argv[1]]
        check(*loads(start(wire([Color.RED, Circle, Circle(), scale]))))
        print("all the same")
    """
)

# Loads a script as parasnake does in a spawned worker.
LOADER = textwrap.dedent(
    """
    import sys, types

    path = sys.argv[1]
    script = types.ModuleType("__mp_main__")
    script.__file__ = path
    sys.modules["__main__"] = sys.modules["__mp_main__"] = script
    exec(compile(open(path).read(), path, "exec"), vars(script))
    sys.stdout.buffer.write(script.worker(sys.stdin.buffer.read()))
    """
)


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_the_script_defines_is_the_same_in_a_worker_and_back(
    start: str, tmp_path: Path
) -> None:
    script, loader = tmp_path / "script.py", tmp_path / "loader.py"
    script.write_text(SCRIPT)
    loader.write_text(LOADER)

    command = [sys.executable, "-X", "dev", str(script), start, str(loader)]
    output = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (output.stdout, output.returncode) == ("all the same\n", 0), output.stderr
