"""A line of those who wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parasnake.core.line import Line

MOVES = st.lists(st.tuples(st.sampled_from(["<", ">", "-"]), st.integers(0, 9)), max_size=30)


def test_first_come_first_served() -> None:
    line: Line[int] = Line()
    assert not line
    line.extend([1, 2])
    line.extend([3])
    assert list(line) == [1, 2, 3]
    assert len(line) == 3


def test_some_may_go_first() -> None:
    line: Line[int] = Line()
    line.extend([1, 2])
    line.extend([3, 4], first=True)
    assert list(line) == [3, 4, 1, 2]


def test_anybody_can_step_out() -> None:
    line: Line[int] = Line()
    line.extend([1, 2, 3])
    line.discard(2)
    line.discard(7)
    assert list(line) == [1, 3]
    line.clear()
    assert not line


def test_with_an_order_the_smallest_come_first() -> None:
    line: Line[int] = Line(lambda number: number)
    line.extend([5, 1])
    line.extend([9, 3], first=True)
    assert list(line) == [1, 3, 5, 9]
    line.discard(3)
    assert list(line) == [1, 5, 9]


@given(MOVES)
def test_it_does_as_a_list_would(moves: list[tuple[str, int]]) -> None:
    line: Line[int] = Line()
    wanted: list[int] = []
    for move, number in moves:
        if move == "-":
            line.discard(number)
            wanted = [other for other in wanted if other != number]
        elif number not in wanted:
            line.extend([number], first=move == "<")
            wanted = [number, *wanted] if move == "<" else [*wanted, number]
        assert list(line) == wanted
