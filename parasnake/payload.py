"""Objects to bytes and buffers, and back.

The wire form of an object begins with one byte that says what it is:

====  ===========================================================================
0x80  a pickle without buffers, just as it is: every pickle since protocol 2 begins
      with this byte, so that a small object costs nothing extra
0x01  a header, the lengths of the buffers (8 bytes each), a pickle, the buffers,
      each at a multiple of 64 bytes from the start of the wire form
0x02  a header, then a bytes object as it is
0x03  a header, then a bytearray as it is
0x04  a header, then another wire form, compressed: one frame of Zstandard
====  ===========================================================================

The header: that byte, three of padding, the number of buffers (4 bytes), the length of the pickle
or the bytes, or of what is compressed before it was (8 bytes). All numbers are little-endian.

Large buffers are never copied here: ``dumps`` refers to the object's own memory, and what
``loads`` returns refers to the memory that it was given, or to new memory if that was compressed.

What pickle refuses is tried again with functions and classes taken apart where no name leads to
them (byvalue.py). All else stays a reference, so that an enum member of the script is the very same
object on the other side. This is the only file that imports pickle or dill.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import io
import pickle
import platform
import struct
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, cast

from . import compression
from .byvalue import ByValue, has_name, made_at_run_time, name_of_remade
from .core.linkspeed import FAST
from .core.memory import allocate
from .core.messages import Buffer
from .errors import PayloadError, UnreadablePayload
from .places import find_place

RAW_BYTES = 64 * 1024
"""A bytes object or bytearray of at least this size is sent as it is, not as a pickle."""

SMALL_BUFFER_BYTES = 4096
"""Buffers below this size go into the pickle: a copy is cheaper than a part of its own."""

JOINED_BYTES = 4096
"""What is no larger than this becomes one part."""

ALIGNMENT_BYTES = 64

_PROTOCOL = 5
_PICKLE = 0x80
_ONLY_PICKLE = bytes([_PICKLE])
_PICKLE_AND_BUFFERS = 1
_BYTES = 2
_BYTEARRAY = 3
_COMPRESSED = 4

_HEADER = struct.Struct("<BxxxIQ")
_LENGTH_BYTES = 8
_PADDING = bytes(ALIGNMENT_BYTES)

# A worker that was forked has the script as __main__; one that was spawned has it as __mp_main__
# (so that its `if __name__ == "__main__"` part does not run again) and as __main__ too, in the
# manner of multiprocessing. What such a worker sends names __mp_main__, and here that must lead
# to the script as well.
sys.modules.setdefault("__mp_main__", sys.modules["__main__"])


@dataclass(slots=True)
class Payload:
    """An object in its serialised form, ready to be sent.

    Parts may be the memory of the object itself. Until they have been sent the object must live
    on unchanged; where that can't be promised, send a ``detached`` payload.

    Attributes
    ----------
    parts: what to send, in this order; together they are the wire form
    size: how many bytes that is
    """

    parts: list[memoryview | bytes]
    size: int

    def detached(self) -> Payload:
        """Return a payload that shares no memory which could still be changed."""
        return Payload([_copied(part) for part in self.parts], self.size)


def _copied(part: memoryview | bytes) -> memoryview | bytes:
    """Return what nobody else can change: the part itself, or a copy."""
    if isinstance(part, bytes) or isinstance(part.obj, bytes):
        return part
    if len(part) < RAW_BYTES:
        return bytes(part)
    copy = allocate(len(part))
    copy[:] = part
    return copy


def dumps(obj: object, *, name: str = "data") -> Payload:
    """Serialise an object.

    Parameters
    ----------
    obj: what to send; large buffers in it (arrays, bytes) are referred to, not copied
    name: what an error is to call it: ``data``, ``result``, ``init_data``

    Raises
    ------
    PayloadError: something in it can't be pickled; the text names its type and its place.
    """
    kind = type(obj)
    if kind in _SMALL_TYPES:
        stream = pickle.dumps(obj, _PROTOCOL)
        return Payload([stream], len(stream))
    if kind is bytes and len(obj) >= RAW_BYTES:  # type: ignore[arg-type]  # just checked
        return _raw(_BYTES, obj)
    if kind is bytearray and len(obj) >= RAW_BYTES:  # type: ignore[arg-type]
        return _raw(_BYTEARRAY, memoryview(obj))  # type: ignore[arg-type]
    try:
        sink = _Sink()
        pickle.Pickler(sink, _PROTOCOL, buffer_callback=sink.keep).dump(obj)
    except Exception:
        sink = _dump_by_value(obj, name)
    return sink.payload()


def compressed(payload: Payload, bytes_per_second: float) -> Payload:
    """Return a payload in the form that is at the other end of a link first.

    Parameters
    ----------
    payload: what ``dumps`` gave
    bytes_per_second: how fast the link is, see ``core.linkspeed``; 0 if all that counts is the size

    Returns
    -------
    The compressed payload, which shares no memory with the object; or the very same, if it is small,
    does not become much smaller, or the link is faster than that.
    """
    if not compression.is_worth_it(payload.parts, payload.size, bytes_per_second):
        return payload
    pieces = compression.compress(payload.parts, payload.size)
    size = _HEADER.size + sum(map(len, pieces))
    if size >= payload.size:  # the sample had found what else is not there
        return payload
    return Payload([_HEADER.pack(_COMPRESSED, 0, payload.size), *pieces], size)


def plain(wire: Buffer) -> Buffer:
    """Return a wire form as it was before it was compressed, or the very same if it was not.

    Raises ``PayloadError`` if it is damaged.
    """
    view = memoryview(wire).cast("B")
    return _expanded(view) if view and view[0] == _COMPRESSED else wire


def parts_of(
    obj: object, *, name: str = "data", bytes_per_second: float = FAST
) -> tuple[memoryview | bytes, ...]:
    """Serialise an object that stays as it is until it has been sent; a small one becomes one part.

    It is compressed if that is good for a link of this speed, see ``compressed``.

    Raises
    ------
    PayloadError: as ``dumps``
    """
    if type(obj) in _SMALL_TYPES:
        return (pickle.dumps(obj, _PROTOCOL),)
    return _joined(compressed(dumps(obj, name=name), bytes_per_second))


def wire_form(
    obj: object, *, name: str = "data", bytes_per_second: float = FAST
) -> tuple[memoryview | bytes, ...]:
    """Serialise an object for good: what becomes of it later changes nothing.

    It is compressed if that is good for a link of this speed, see ``compressed``.

    Raises
    ------
    PayloadError: as ``dumps``
    """
    if type(obj) in _SMALL_TYPES:
        return (pickle.dumps(obj, _PROTOCOL),)
    return _joined(compressed(dumps(obj, name=name), bytes_per_second).detached())


def _joined(payload: Payload) -> tuple[memoryview | bytes, ...]:
    parts = payload.parts
    if len(parts) > 1 and payload.size <= JOINED_BYTES:
        return (b"".join(parts),)
    return tuple(parts)


def loads(buffer: Any) -> Any:
    """Rebuild an object from its wire form.

    Parameters
    ----------
    buffer: the whole wire form, as bytes or anything else that has the buffer protocol.

    Returns
    -------
    The object. Large arrays in it are views of ``buffer``, keep it alive, and are writable when it
    is. If it was compressed, they are views of new memory, and writable.

    An object that can't be rebuilt is tried a second time, slowly, to see which one it is.

    Raises
    ------
    UnreadablePayload: something in it can't be imported or rebuilt here.
    PayloadError: the bytes are damaged or incomplete.
    """
    if type(buffer) is bytes and buffer[:1] == _ONLY_PICKLE:
        try:
            return pickle.loads(buffer)
        except Exception as error:
            return _read_again(buffer, (), error)
    wire = memoryview(buffer).cast("B")
    if not wire:
        raise PayloadError("damaged payload: it is empty")
    if wire[0] == _COMPRESSED:
        wire = _expanded(wire)
    kind = wire[0]
    if kind == _PICKLE:
        return _unpickle(wire, ())
    count, length = _read_header(wire)
    if kind == _PICKLE_AND_BUFFERS:
        stream, *buffers = _split(wire, count, length)
        return _unpickle(stream, buffers)
    if kind not in _RAW_TYPES or count or _HEADER.size + length != len(wire):
        raise PayloadError("damaged payload: its header makes no sense")
    return _RAW_TYPES[kind](wire[_HEADER.size :])


def digest(payload: Payload) -> bytes:
    """Return 16 bytes that stand for the wire form (BLAKE2b)."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in payload.parts:
        hasher.update(part)
    return hasher.digest()


def version_of(module: str) -> str | None:
    """Tell the version of the top-level package that a module belongs to, on this side.

    Returns
    -------
    The version; "unknown" for modules without one; None if there is no such module.
    """
    top = module.partition(".")[0]
    if top in ("__main__", "__mp_main__"):
        return "unknown"
    if top in sys.stdlib_module_names:
        return f"of Python {platform.python_version()}"
    if isinstance(version := getattr(sys.modules.get(top), "__version__", None), str):
        return version
    import importlib.metadata  # for an error only: it brings half the standard library with it
    import importlib.util

    for distribution in _distributions().get(top, ()):
        return importlib.metadata.version(distribution)
    is_here = top in sys.modules or importlib.util.find_spec(top) is not None
    return "unknown" if is_here else None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    import importlib.metadata

    return importlib.metadata.packages_distributions()  # it reads files of every package there is


# The commonest data and results of all, and so small that pickle is best left alone with them.
_SMALL_TYPES = frozenset({type(None), bool, int, float})

_RAW_TYPES: dict[int, Callable[[memoryview], Any]] = {_BYTES: bytes, _BYTEARRAY: bytearray}


def _raw(kind: int, content: Any) -> Payload:
    header = _HEADER.pack(kind, 0, len(content))
    return Payload([header, content], len(header) + len(content))


class _Sink:
    """What a pickler writes to.

    A pickler hands over large bytes objects as they are, whatever holds them; keeping those,
    instead of writing them into a file, saves a copy of each.
    """

    __slots__ = ("_buffers", "_stream", "write")

    def __init__(self) -> None:
        self._stream: list[Any] = []
        self._buffers: list[memoryview] = []
        self.write = self._stream.append

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the pickle, or return true to leave it in."""
        raw = buffer.raw()
        if raw.nbytes < SMALL_BUFFER_BYTES:
            return True
        self._buffers.append(raw)
        return False

    def payload(self) -> Payload:
        """Return all that was written."""
        stream = [part if type(part) is bytes else memoryview(part) for part in self._stream]
        length = sum(map(len, stream))
        if not self._buffers:
            return Payload(stream, length)
        lengths = [buffer.nbytes for buffer in self._buffers]
        header = _HEADER.pack(_PICKLE_AND_BUFFERS, len(lengths), length)
        parts = [header + struct.pack(f"<{len(lengths)}Q", *lengths), *stream]
        size = len(parts[0]) + length
        for buffer in self._buffers:
            if padding := -size % ALIGNMENT_BYTES:
                parts.append(_PADDING[:padding])
            parts.append(buffer)
            size += padding + buffer.nbytes
        return Payload(parts, size)


def _expanded(wire: memoryview) -> memoryview:
    count, length = _read_header(wire)
    if count or not length:
        raise PayloadError("damaged payload: its header makes no sense")
    return compression.expand(wire[_HEADER.size :], length)


def _read_header(wire: memoryview) -> tuple[int, int]:
    try:
        _, count, length = _HEADER.unpack_from(wire)
    except struct.error:
        raise PayloadError("damaged payload: it ends within its header") from None
    return count, length


def _split(wire: memoryview, count: int, length: int) -> Iterator[memoryview]:
    """Yield the pickle and the buffers as parts of ``wire``."""
    start = _HEADER.size + count * _LENGTH_BYTES
    if start + length > len(wire):
        raise PayloadError("damaged payload: it ends before its pickle does")
    lengths = struct.unpack_from(f"<{count}Q", wire, _HEADER.size)
    end = start + length
    yield wire[start:end]
    for buffer_length in lengths:
        start = end + -end % ALIGNMENT_BYTES
        end = start + buffer_length
        yield wire[start:end]
    if end != len(wire):
        raise PayloadError(f"damaged payload: {len(wire)} bytes have come instead of {end}")


def _dump_by_value(obj: object, name: str) -> _Sink:
    """Serialise what pickle refuses by itself, or explain what stands in the way."""
    sink = _Sink()
    pickler = _ByValuePickler(sink)
    try:
        pickler.dump(obj)
    except Exception as error:
        _explain(obj, name, pickler.latest, error)
    return sink


class _ByValuePickler(pickle.Pickler):
    """Sends functions and classes without a name as their parts, and all else as pickle does.

    Attributes
    ----------
    latest: the object that was begun last; when pickling fails, it is the one that refused
    """

    latest: object = None

    def __init__(self, sink: _Sink) -> None:
        super().__init__(sink, _PROTOCOL, buffer_callback=sink.keep)
        self._by_value = ByValue()

    def reducer_override(self, obj: Any) -> Any:
        """Called by pickle for each object other than plain numbers, texts and containers."""
        self.latest = obj
        kind = type(obj)
        if kind is memoryview:
            return _reduce_view(obj)
        if kind is types.CodeType:
            return _read_code, (sys.version_info[:2], *_dill_reduction(obj))
        if kind in _LEFT_TO_DILL or (kind is type and _is_hidden(obj)):
            return _dill_reduction(obj)
        return self._by_value.reduce(obj)


# Parts of classes and functions that pickle can't take; dill knows how to rebuild each of them.
_LEFT_TO_DILL = frozenset({property, classmethod, staticmethod, types.MappingProxyType})


def _is_hidden(cls: type) -> bool:
    """Tell whether this is one of the interpreter's own types without a name, like ``function``."""
    if made_at_run_time(cls) or has_name(cls):
        return False
    return cls not in (type(None), type(...), type(NotImplemented))  # pickle knows these


def _dill_reduction(obj: object) -> tuple[Any, ...]:
    """Ask dill how it would rebuild an object; the pickler here then writes that its own way."""
    recorder = _dill_recorder()()
    recorder.dispatch[type(obj)](recorder, obj)
    if len(recorder.reductions) != 1:
        raise pickle.PicklingError(f"no name leads to {obj!r}, and it cannot be taken apart")
    reduction: tuple[Any, ...] = recorder.reductions[0]
    return reduction


@functools.cache
def _dill_recorder() -> Any:
    import dill  # takes long to import, and most payloads don't need it

    class Recorder(dill.Pickler):  # type: ignore[misc]  # dill is not typed
        """Writes nothing, and keeps what it would have written."""

        def __init__(self) -> None:
            super().__init__(io.BytesIO(), _PROTOCOL)
            self.reductions: list[tuple[Any, ...]] = []

        def save_reduce(self, function: Any, args: Any, *_: Any, obj: Any = None) -> None:
            self.reductions.append((function, args))

    return Recorder


def _read_code(
    version: tuple[int, int], rebuild: Callable[..., types.CodeType], args: tuple[Any, ...]
) -> types.CodeType:
    # Byte code of another version would not raise an error but crash the interpreter.
    if version != sys.version_info[:2]:
        there, here = (".".join(map(str, numbers)) for numbers in (version, sys.version_info[:2]))
        raise TypeError(
            f"a function without an importable name comes from Python {there}, and Python {here} "
            "cannot run it; give it a name in a module, or use one Python version everywhere"
        )
    return rebuild(*args)


def _reduce_view(view: memoryview) -> Any:
    content: Any = view
    if not view.c_contiguous:
        content = view.tobytes() if view.readonly else bytearray(view.tobytes())
    shape = view.shape if view.nbytes else None
    return _make_view, (pickle.PickleBuffer(content), view.format, shape)


def _make_view(buffer: Any, item_format: Any, shape: Any) -> memoryview:
    view = memoryview(buffer)
    return view.cast("B").cast(item_format, shape) if shape is not None else view


def _explain(root: object, name: str, culprit: object, error: Exception) -> NoReturn:
    if culprit is None:  # plain containers only, nested too deeply
        culprit = root
    type_name = _type_name(type(culprit))
    found = find_place(culprit, root, name)
    text = f"{found or f'somewhere in {name}'}: cannot pickle '{type_name}' object"
    if str(error) != f"cannot pickle '{type_name}' object":
        text += f" ({type(error).__name__}: {error})"
    if isinstance(culprit, types.GeneratorType):
        text += (
            "; a generator cannot be sent: send a list of its items, or, to hand out each of them "
            "as data, let new_data itself be a generator function, with `yield` in its own body"
        )
    raise PayloadError(text, type_name=type_name, place=found or "") from error


def _type_name(cls: type) -> str:
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


def _unpickle(stream: memoryview | bytes, buffers: Sequence[memoryview]) -> Any:
    try:
        return pickle.loads(stream, buffers=buffers)
    except Exception as error:
        return _read_again(stream, buffers, error)


def _read_again(stream: memoryview | bytes, buffers: Sequence[memoryview], error: Exception) -> Any:
    """Read a pickle slowly that could not be read fast: rebuild it after all, or say why not."""
    reader = _SlowUnpickler(io.BytesIO(stream), buffers=buffers)
    try:
        return reader.load()
    except Exception:
        blamed = reader.blamed
    reason = f"{type(error).__name__}: {error}"
    if blamed is None:
        raise PayloadError(f"damaged payload: {reason}") from error
    module, type_name = blamed
    raise UnreadablePayload(
        type_name=type_name, module=module, local_version=version_of(module), reason=reason
    ) from error


class _SlowUnpickler(pickle._Unpickler):
    """Knows what it is rebuilding, and helps exceptions that can't rebuild themselves.

    Attributes
    ----------
    blamed: module and name of what is being looked up or rebuilt right now
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    blamed: tuple[str, str] | None = None
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up."""
        self.blamed = (module, name)
        found = super().find_class(module, name)
        self.blamed = None
        return found

    def _call(self) -> None:
        function, args = self.stack[-2:]
        self.blamed = name_of_remade(function, args) or _module_and_name(function, *args[:1])
        try:
            _load_reduce(self)
        except Exception:
            # Most exceptions are rebuilt by a call with their ``args``, which is not what many a
            # constructor takes. Its attributes come afterwards, as state.
            if not (isinstance(function, type) and issubclass(function, BaseException)):
                raise
            self.stack[-1] = function.__new__(function, *args)
        self.blamed = None

    def _make(self) -> None:
        self.blamed = _module_and_name(self.stack[-2])
        _load_newobj(self)
        self.blamed = None

    def _make_with_keywords(self) -> None:
        self.blamed = _module_and_name(self.stack[-3])
        _load_newobj_ex(self)
        self.blamed = None

    def _set_state(self) -> None:
        self.blamed = _module_and_name(type(self.stack[-2]))
        _load_build(self)
        self.blamed = None

    dispatch[pickle.REDUCE[0]] = _call
    dispatch[pickle.NEWOBJ[0]] = _make
    dispatch[pickle.NEWOBJ_EX[0]] = _make_with_keywords
    dispatch[pickle.BUILD[0]] = _set_state


_load_reduce, _load_newobj, _load_newobj_ex, _load_build = cast(
    list[Callable[[_SlowUnpickler], None]],
    [
        pickle._Unpickler.dispatch[opcode[0]]
        for opcode in (pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.BUILD)
    ],
)


# These only stand in for the class or object that is their first argument.
_STAND_INS = frozenset({getattr, copyreg._reconstructor})  # type: ignore[attr-defined]


def _module_and_name(function: Any, first_argument: Any = None) -> tuple[str, str]:
    subject = first_argument if function in _STAND_INS else function
    named = subject if hasattr(subject, "__qualname__") else type(subject)
    return named.__module__ or "builtins", named.__qualname__
