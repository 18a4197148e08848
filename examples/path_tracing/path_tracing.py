#!/usr/bin/env python3
"""A picture by path tracing, tile by tile, that gets better with each pass.

What it shows: a task is a tile of one pass, an image of a few hundred kilobytes comes back. Nodes
draw their random numbers from the seed of the task, and the server adds the tiles in the order of
the tasks: the picture is the same to the last bit however many nodes there were and whatever became
of them. The script imports a module beside it (tracer.py), which nodes must have as well.

How to run it (numpy and Pillow are needed: pip install numpy pillow):

    python examples/path_tracing/path_tracing.py --local
    python examples/path_tracing/path_tracing.py --server --passes 100 --journal picture.journal
    python examples/path_tracing/path_tracing.py --ip HOST --workers auto

What to expect: after seconds there is picture.png: balls of glass, metal and chalk in the evening, full
of grain. It is written anew after each pass, so that you can watch the grain go.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tracer import Array, Tile, render

from parasnake import Parasnake

TILE = 96
EXPOSURE = 0.6


class View(NamedTuple):
    width: int
    height: int
    samples: int


app = Parasnake("path_tracing", seed=1)
light: Array = np.zeros(0)
merged = 0


@app.init_data
def view() -> View:
    return View(app.args.width, app.args.height, app.args.samples)


def tiles_of(width: int, height: int) -> list[Tile]:
    return [
        Tile(left, top, min(TILE, width - left), min(TILE, height - top))
        for top in range(0, height, TILE)
        for left in range(0, width, TILE)
    ]


@app.new_data
def tiles() -> Iterator[Tile]:
    for _ in range(app.args.passes):
        yield from tiles_of(app.args.width, app.args.height)


@app.process
def trace(data: Tile, init_data: View, seed: int) -> NDArray[np.float32]:
    width, height, samples = init_data
    return render(data, (width, height), samples, seed).astype(np.float32)


@app.result(ordered=True)
def add(result: NDArray[np.float32], data: Tile) -> None:
    global light, merged
    width, height = app.args.width, app.args.height
    if not merged:
        light = np.zeros((height, width, 3))
    light[data.top : data.top + data.height, data.left : data.left + data.width] += result
    merged += 1
    passes, rest = divmod(merged, len(tiles_of(width, height)))
    if rest == 0 and not app.replaying:
        save(passes)


@app.finish
def finish() -> None:
    save(app.args.passes)
    print(f"The picture is in {app.args.output}")


def save(passes: int) -> None:
    """Write the picture, whole or not at all: somebody may be looking at it."""
    from PIL import Image

    x = light * EXPOSURE / (passes * app.args.samples)
    film = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)  # bright light fades to white
    pixels = 255 * np.clip(film, 0, 1) ** (1 / 2.2) + 0.5
    draft = app.args.output.with_suffix(".draft")
    Image.fromarray(pixels.astype(np.uint8)).save(draft, "PNG")
    draft.replace(app.args.output)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = options.add_argument
    option("--width", type=int, default=768, help="of the picture in pixels (768)")
    option("--height", type=int, default=480, help="of the picture in pixels (480)")
    option("--passes", type=int, default=16, help="over the picture (16)")
    option("--samples", type=int, default=4, help="paths for each pixel in a pass (4)")
    option("--output", type=Path, default="picture.png", help="the file (picture.png)")
    return options


if __name__ == "__main__":
    app.main(parser())
