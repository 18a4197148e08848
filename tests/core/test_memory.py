"""Memory for large payloads: used again when nobody uses it, and never before."""

from __future__ import annotations

import mmap
import threading

import pytest

from parasnake.core.memory import (
    KEEP_BYTES,
    KEEP_MORE_BYTES,
    LARGE_BYTES,
    MAPPED_BYTES,
    MAX_WATCHED,
    SELDOM,
    SPARE_BYTES,
    STEP_BYTES,
    Memory,
    untouched,
)

SIZES = [0, 1, LARGE_BYTES, MAPPED_BYTES - 1, MAPPED_BYTES, MAPPED_BYTES + 1]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("without", ["", "MAP_ANONYMOUS"])
def test_it_has_the_size_that_was_asked_for_and_can_be_written(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, size: int, without: str
) -> None:
    if without:
        monkeypatch.delattr(mmap, without, raising=False)
    found = memory.allocate(size)
    assert (len(found), found.readonly) == (size, False)
    found[:] = bytes([7]) * size
    assert bytes(found[-1:]) == bytes([7]) * min(size, 1)


@pytest.mark.parametrize("size", [1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("without", ["", "MAP_ANONYMOUS"])
def test_more_than_there_is(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, size: int, without: str
) -> None:
    if without:
        monkeypatch.delattr(mmap, without)
    with pytest.raises(MemoryError):
        memory.allocate(size)


@pytest.mark.parametrize("size", [2 * LARGE_BYTES, 3 * MAPPED_BYTES])
def test_what_is_free_is_used_again(memory: Memory, size: int) -> None:
    first = memory.allocate(size)
    piece = id(first.obj)
    del first
    assert id(memory.allocate(size).obj) == piece
    assert id(memory.allocate(size - 100).obj) == piece
    assert id(memory.allocate(size + SPARE_BYTES).obj) == piece


@pytest.mark.parametrize("size", [2 * LARGE_BYTES, 3 * MAPPED_BYTES])
def test_what_anybody_refers_to_is_not(memory: Memory, size: int) -> None:
    view = memory.allocate(size)
    part = view[10:20]
    piece = part.obj
    del view, piece
    part[:] = b"0123456789"
    others = [memory.allocate(size) for _ in range(3)]
    for other in others:
        other[:] = bytes(size)
    assert bytes(part) == b"0123456789"


def test_a_small_payload_does_not_hold_a_large_piece(memory: Memory) -> None:
    piece = id(memory.allocate(8 * LARGE_BYTES).obj)
    small = memory.allocate(LARGE_BYTES)
    assert id(small.obj) != piece
    assert len(small.obj) <= LARGE_BYTES + SPARE_BYTES + STEP_BYTES  # type: ignore[arg-type]


def kept_bytes(memory: Memory) -> int:
    return sum(len(piece) for piece, _ in memory._pieces)


def test_not_everything_that_is_free_is_kept(memory: Memory) -> None:
    held = [memory.allocate(KEEP_MORE_BYTES // 4) for _ in range(6)]
    assert len(memory._pieces) == 6
    held.clear()
    memory.allocate(LARGE_BYTES)
    assert KEEP_MORE_BYTES // 2 < kept_bytes(memory) <= KEEP_MORE_BYTES + 2 * LARGE_BYTES


def test_of_what_is_not_used_again_for_long_less_is_kept(memory: Memory) -> None:
    size = KEEP_BYTES // 4
    held = [memory.allocate(size) for _ in range(6)]
    held.clear()
    for _ in range(SELDOM + 6):
        memory.allocate(2 * size + STEP_BYTES)
    assert kept_bytes(memory) <= KEEP_BYTES + 3 * size


def test_what_is_used_now_and_then_is_kept(memory: Memory) -> None:
    held = [memory.allocate(KEEP_BYTES // 2) for _ in range(4)]
    held.clear()
    for _ in range(4 * SELDOM):
        memory.allocate(1 << 20)
        held += [memory.allocate(KEEP_BYTES // 2) for _ in range(4)]
        held.clear()
    assert len(memory._pieces) == 5


def test_it_is_not_looked_for_among_too_many(memory: Memory) -> None:
    held = [memory.allocate(LARGE_BYTES) for _ in range(2 * MAX_WATCHED)]
    assert len({id(view.obj) for view in held}) == len(held)
    assert len(memory._pieces) == MAX_WATCHED


@pytest.mark.parametrize("without", ["", "MAP_ANONYMOUS"])
def test_untouched_memory_can_be_written_too(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    if without:
        monkeypatch.delattr(mmap, without)
    piece = untouched(LARGE_BYTES)
    memoryview(piece)[-4:] = b"data"
    assert piece[-4:] == b"data"


def test_threads_never_get_the_same(memory: Memory) -> None:
    wrong: list[int] = []

    def use(number: int) -> None:
        for _ in range(200):
            view = memory.allocate(LARGE_BYTES)
            view[:4] = view[-4:] = bytes([number]) * 4
            if bytes(view[:4]) != bytes(view[-4:]) or view[0] != number:
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
