"""Memory for large payloads, wherever the program runs."""

from __future__ import annotations

import mmap

import pytest

from parasnake.core.memory import HUGE_PAGE_BYTES, allocate

SIZES = [0, 1, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("without", ["", "MAP_ANONYMOUS", "MADV_HUGEPAGE"])
def test_it_has_the_size_that_was_asked_for_and_can_be_written(
    monkeypatch: pytest.MonkeyPatch, size: int, without: str
) -> None:
    if without:
        monkeypatch.delattr(mmap, without, raising=False)
    memory = allocate(size)
    assert (len(memory), memory.readonly, bytes(memory[-1:])) == (size, False, bytes(min(size, 1)))
    memory[:] = bytes([7]) * size
    assert bytes(memory[-1:]) == bytes([7]) * min(size, 1)


@pytest.mark.parametrize("size", [1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("without", ["", "MAP_ANONYMOUS"])
def test_more_than_there_is(monkeypatch: pytest.MonkeyPatch, size: int, without: str) -> None:
    if without:
        monkeypatch.delattr(mmap, without)
    with pytest.raises(MemoryError):
        allocate(size)
