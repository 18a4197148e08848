"""Frames of Zstandard: there and back, and what damage or malice in them costs."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import struct
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parasnake import compression, payload
from parasnake.compression import MAX_RATIO, SMALLEST_BYTES, compress, expand, is_worth_it
from parasnake.core.linkspeed import FAST, TOO_FAST_BYTES_PER_S
from parasnake.errors import PayloadError
from parasnake.payload import Payload, compressed, dumps, loads

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COUNTS = np.random.default_rng(1).integers(0, 100, 1 << 18)
RANDOM = np.random.default_rng(1).random(1 << 18)
SLOW = 1e6
ANY = 0.0
"""A link for which nothing counts but that the data become smaller, however long that takes."""


def joined(made: Payload) -> bytearray:
    return bytearray(b"".join(made.parts))


def wire(obj: object, bytes_per_second: float = ANY) -> bytearray:
    made = compressed(dumps(obj), bytes_per_second)
    form = joined(made)
    assert len(form) == made.size
    return form


def is_compressed(form: bytearray) -> bool:
    return form[0] == 4


def header(length: int, count: int = 0) -> bytes:
    return struct.pack("<BxxxIQ", 4, count, length)


# ---- frames


@given(
    parts=st.lists(st.binary(max_size=2000), max_size=5), times=st.sampled_from([1, 1, 50, 2000])
)
def test_parts_become_a_frame_and_back(parts: list[bytes], times: int) -> None:
    parts = [part * times for part in parts]
    content = b"".join(parts)
    frame = b"".join(compress(parts, len(content)))
    assert expand(memoryview(frame), len(content)) == content


def test_memory_of_its_own_that_can_be_written_to() -> None:
    frame = b"".join(compress([bytes(1 << 20)], 1 << 20))
    room = expand(memoryview(frame), 1 << 20)
    room[5] = 7
    assert (room.nbytes, room.readonly) == (1 << 20, False)


# ---- whether to do it


def worth(obj: object, bytes_per_second: float) -> bool:
    made = dumps(obj)
    return is_worth_it(made.parts, made.size, bytes_per_second)


def test_it_depends_on_the_data_and_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 1e-4)  # what a sample takes, but for interruptions
    steady = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(compression, "time", steady)
    for link in (ANY, SLOW, 2e7):
        assert worth(COUNTS, link)
        assert not worth(RANDOM, link)
    assert not worth(COUNTS, TOO_FAST_BYTES_PER_S)
    assert not worth(COUNTS, FAST)


def test_a_fast_link_costs_not_even_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_sample", None)
    made = dumps(COUNTS)
    assert compressed(made, FAST) is made
    small = dumps(bytes(1000))
    assert compressed(small, 0.0) is small


def test_little_is_never_compressed() -> None:
    assert not worth(bytes(SMALLEST_BYTES - 100), 0.0)
    assert worth(bytes(SMALLEST_BYTES), 0.0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_the_sample_is_from_all_over_the_data(share: float) -> None:
    """Zeros, of which an eighth is random: also where most of the parts are tiny, it is noticed."""
    content = bytearray(1 << 20)
    start = int(share * len(content))
    content[start : start + (1 << 17)] = os.urandom(1 << 17)[: len(content) - start]
    parts = [bytes(content[index : index + 1000]) for index in range(0, len(content), 1000)]
    assert compression._sample(parts, len(content)) == compression._sample([content], len(content))
    assert is_worth_it(parts, len(content), 0.0)


def test_the_sample_has_both_ends() -> None:
    content = b"A" + bytes(1 << 20) + b"Z"
    sample = compression._sample([content], len(content))
    assert (len(sample), sample[:1], sample[-1:]) == (4 << 13, b"A", b"Z")


def test_what_does_not_become_smaller_after_all_is_sent_as_it_is() -> None:
    """The pieces of the sample are zeros, and nothing else is."""
    content = bytearray(os.urandom(1 << 20))
    size = dumps(content).size
    for index in range(4):
        start = max(0, index * (size - (1 << 13)) // 3 - 100)
        content[start : start + (1 << 13) + 200] = bytes(len(content[start : start + 8392]))
    made = dumps(content)
    assert is_worth_it(made.parts, made.size, 0.0)
    assert loads(joined(compressed(made, 0.0))) == content


# ---- payloads


@pytest.mark.parametrize(
    "obj",
    [
        COUNTS,
        np.zeros((1000, 1000), order="F"),
        {"a": COUNTS, "b": [np.arange(5), "text" * 100_000]},
        bytes(1 << 17),
        bytearray(1 << 17),
        "text" * 100_000,
        list(range(100_000)),
    ],
    ids=lambda obj: type(obj).__name__,
)
def test_objects_come_back(obj: Any) -> None:
    plain, form = joined(dumps(obj)), wire(obj)
    assert is_compressed(form)
    assert len(form) < 0.8 * len(plain)
    assert payload.plain(form) == plain
    back = loads(bytes(form))
    assert type(back) is type(obj)
    assert repr(back) == repr(obj)
    assert joined(dumps(back)) == plain


def test_arrays_can_be_written_to_even_if_what_came_could_not() -> None:
    back = loads(bytes(wire(COUNTS)))
    back += 1
    assert (back == COUNTS + 1).all()
    assert back.ctypes.data % payload.ALIGNMENT_BYTES == 0


def test_an_array_that_was_read_only_stays_so() -> None:
    array = COUNTS.copy()
    array.flags.writeable = False
    assert not loads(wire(array)).flags.writeable


def test_it_shares_no_memory_with_the_object() -> None:
    array = COUNTS.copy()
    made = compressed(dumps(array), ANY)
    array[:] = 0
    assert (loads(joined(made)) == COUNTS).all()
    assert made.detached().parts == made.parts


def test_random_numbers_are_sent_from_their_own_memory() -> None:
    made = dumps(RANDOM)
    assert compressed(made, ANY) is made
    assert payload.plain(joined(made)) == joined(made)


# ---- damage and malice


FORMS = [wire(obj) for obj in (COUNTS[: 1 << 14], bytes(1 << 17), list(range(50_000)))]


@given(form=st.sampled_from(FORMS), data=st.data())
def test_a_cut_form(form: bytearray, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, len(form) - 1))
    with pytest.raises(PayloadError, match="damaged payload"):
        loads(form[:length])


@given(form=st.sampled_from(FORMS), extra=st.binary(min_size=1, max_size=200))
def test_a_form_with_something_behind_it(form: bytearray, extra: bytes) -> None:
    with pytest.raises(PayloadError, match="damaged payload"):
        loads(form + extra)


@given(form=st.sampled_from(FORMS), data=st.data())
def test_a_damaged_form(form: bytearray, data: st.DataObject) -> None:
    damaged = bytearray(form)
    near = st.integers(0, 45) | st.integers(0, len(form) - 1)
    damaged[data.draw(near)] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PayloadError):
        loads(damaged)


@given(st.binary(max_size=100))
def test_any_bytes(content: bytes) -> None:
    for form in (b"\x04" + content, header(100) + content):
        with contextlib.suppress(PayloadError):
            loads(form)


def frame(content: bytes) -> bytes:
    return zstd.compress(content, level=1)


def frame_without_size(content: bytes) -> bytes:
    compressor = zstd.ZstdCompressor(level=1)
    return bytes(compressor.compress(content) + compressor.flush())


def frame_with_large_window(content: bytes) -> bytes:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    return bytes(zstd.compress(content, options=options))


SIZE = 1 << 17
ZEROS = bytes(SIZE)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (b"\x04", "it ends within its header"),
        (header(0), "its header makes no sense"),
        (header(0) + frame(b""), "its header makes no sense"),
        (header(SIZE, 1) + frame(ZEROS), "its header makes no sense"),
        (header(SIZE), "it claims another size"),
        (header(SIZE - 1) + frame(ZEROS), "it claims another size"),
        (header(SIZE + 1) + frame(ZEROS), "it claims another size"),
        (header(1 << 62) + frame(ZEROS), "it claims another size"),
        (header(SIZE) + frame_without_size(ZEROS), "it claims another size"),
        (header(SIZE) + frame_with_large_window(ZEROS), "it claims another size"),
        (header(SIZE) + b"no frame at all", ""),
        (header(SIZE) + frame(ZEROS) + frame(ZEROS), "too long"),
        (header(SIZE) + frame(ZEROS)[:-1], "incomplete"),
        (header(SIZE) + frame(header(5) + bytes(SIZE - 16)), "its header makes no sense"),
    ],
)
def test_what_is_wrong_is_told(form: bytes, why: str) -> None:
    with pytest.raises(PayloadError, match=f"damaged payload: .*{why}"):
        loads(form)
    with contextlib.suppress(PayloadError):
        payload.plain(form)


def test_something_behind_a_frame_that_ends_with_a_step() -> None:
    content = os.urandom(3 * compression.STEP_BYTES)
    whole = b"".join(compress([content], len(content)))
    padding = -len(whole) % compression.STEP_BYTES
    skippable = struct.pack("<II", 0x184D2A50, padding - 8) + bytes(padding - 8)
    for form in (whole + skippable + b"more", whole + bytes(2 * compression.STEP_BYTES)):
        with pytest.raises(PayloadError, match=r"damaged payload: (something follows|.*too long)"):
            expand(memoryview(form), len(content))


@pytest.mark.parametrize("told", [SIZE // 2, SIZE - 1])
def test_a_frame_that_lies_about_its_size(told: int) -> None:
    """The size in a frame's own head can be wrong too."""
    form = bytearray(frame(ZEROS))
    at = form.index(struct.pack("<I", SIZE))
    form[at : at + 4] = struct.pack("<I", told)
    with pytest.raises(PayloadError, match="damaged payload"):
        expand(memoryview(form), told)


def test_an_honest_frame_never_grows_more_than_the_limit() -> None:
    size = 1 << 28
    pieces = compress([memoryview(bytes(1 << 24))] * 16, size)
    assert sum(map(len, pieces)) * MAX_RATIO > size


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Limit the address space to what is used now and so many bytes more."""
    before = resource.getrlimit(resource.RLIMIT_AS)

    def limit(more: int) -> None:
        with open("/proc/self/statm") as file:  # noqa: PTH123  # no object more than needed
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_memory_that_is_not_there_is_an_error_of_the_payload(
    little_memory: Callable[[int], None],
) -> None:
    size = 1 << 32
    form = header(size) + b"".join(compress([memoryview(bytes(1 << 24))] * 256, size))
    little_memory(1 << 28)
    with pytest.raises(PayloadError, match="no memory for it"):
        loads(form)


# ---- a Python without zstd


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError

    monkeypatch.setattr(compression, "_zstd", missing)


@pytest.mark.usefixtures("without_zstd")
def test_a_python_without_zstd_compresses_nothing() -> None:
    made = dumps(COUNTS)
    assert compressed(made, 0.0) is made


def test_and_says_what_it_lacks_when_it_is_sent_something(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    form = wire(COUNTS)
    request.getfixturevalue("without_zstd")
    with pytest.raises(PayloadError, match=r"without compression\.zstd.*--compression off"):
        loads(form)
