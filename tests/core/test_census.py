"""Who has computed what, over checkpoints."""

from __future__ import annotations

import pytest

from parasnake.core import census
from parasnake.core.census import ELSEWHERE, Census
from parasnake.core.ids import NodeId, NodeKey
from parasnake.core.journal import Computed, Met

A, B = NodeKey(b"a" * 16), NodeKey(b"b" * 16)


def test_tasks_count_where_they_were_computed() -> None:
    counts = Census()
    counts.met(A, "cobra")
    counts.merged(A, 1.0)
    counts.merged(A, 2.0)
    counts.merged(B, 0.5)
    assert counts.tasks == {"cobra": 2, f"node {NodeId(bytes=B)}": 1}
    assert list(counts.seconds.values()) == [3.0, 0.5]


def test_it_can_be_read_again() -> None:
    counts = Census()
    for node, name in ((A, "cobra"), (B, "viper")):
        counts.met(node, name)
        counts.merged(node, 1.0)
    counts.merged(B, 1.0)
    told = list(counts.cut([A, NodeKey(bytes(16))]))
    assert told == [Computed(2, 2.0, "viper"), Computed(1, 1.0, "cobra"), Met(A, "cobra")]
    again = Census()
    again.add(*told[0])
    again.add(*told[1])
    assert (again.tasks, again.seconds) == (counts.tasks, counts.seconds)


def test_few_places_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MAX_PLACES", 2)
    counts = Census()
    for number in range(5):
        counts.add(10 - number, 1.0, f"place {number}")
    assert list(counts.cut([])) == [
        Computed(8 + 7 + 6, 3.0, ELSEWHERE),
        Computed(10, 1.0, "place 0"),
        Computed(9, 1.0, "place 1"),
    ]
