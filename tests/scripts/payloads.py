"""A class, an enum and a lambda of this script in one payload, there and back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from parasnake import Parasnake

app = Parasnake("payloads")


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int
    colour: Colour
    move: Callable[[int], int]


def as_it_should_be(point: Any) -> bool:
    return type(point) is Point and point.colour is Colour.RED and point.move(point.x) == 42


@app.new_data
def points() -> Iterator[list[Any]]:
    step = 2
    yield [Point(40, Colour.RED, lambda x: x + step), Point, Colour.RED]


@app.process
def look(data: list[Any]) -> list[Any]:
    point, kind, colour = data
    assert as_it_should_be(point)
    assert kind is Point
    assert colour is Colour.RED
    return [True, *data]


@app.result
def merge(result: list[Any]) -> None:
    fine, point, kind, colour = result
    print(fine, as_it_should_be(point), kind is Point, colour is Colour.RED)


if __name__ == "__main__":
    app.main()
