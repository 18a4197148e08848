#!/usr/bin/env python3
"""The Mandelbrot set, computed row by row and saved as a PNG.

What it shows: a generator hands out the numbers of the rows, nodes compute them in plain Python, and
the server puts each row in its place, for results arrive in any order. The script has options of its
own beside those of Parasnake; nodes learn the size of the image from the server, as init data.

How to run it (Pillow is needed where the image is saved: pip install pillow):

    python examples/mandelbrot.py --local              everything here, with every core
    python examples/mandelbrot.py --server             or the server here, and on other machines,
    python examples/mandelbrot.py --ip HOST            as often as you like, a node

What to expect: after some seconds there is mandelbrot.png, 1024 x 1024 pixels in shades of grey. It
is the same to the bit however many nodes there were and whatever became of them.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator

from parasnake import Parasnake

LIMIT = 100

app = Parasnake("mandelbrot")
rows: dict[int, bytes] = {}


@app.init_data
def image_size() -> int:
    return int(app.args.size)


@app.new_data
def row_numbers() -> Iterator[int]:
    yield from range(app.args.size)


@app.process
def compute(data: int, init_data: int) -> bytes:
    row, size = data, init_data
    return bytes(255 - 255 * steps(row, column, size) // LIMIT for column in range(size))


def steps(row: int, column: int, size: int) -> int:
    """Count the steps until the point of this pixel has run away, LIMIT at the most."""
    c = complex(-2.1 + 2.8 * column / size, -1.4 + 2.8 * row / size)
    z = 0j
    for n in range(LIMIT):
        if abs(z) > 2:
            return n
        z = z * z + c
    return LIMIT


@app.result
def place(result: bytes, data: int) -> None:
    rows[data] = result


@app.finish
def save() -> None:
    from PIL import Image

    size = app.args.size
    image = Image.frombytes("L", (size, size), b"".join(rows[row] for row in range(size)))
    image.save(app.args.output)
    print(f"The image is in {app.args.output}")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--size", type=int, default=1024, help="width and height in pixels (1024)")
    options.add_argument("--output", default="mandelbrot.png", help="the file (mandelbrot.png)")
    return options


if __name__ == "__main__":
    # Nodes save nothing, so that they need no Pillow; the others shall hear of it at once.
    saves = any(word.startswith(("-s", "--server", "--local")) for word in sys.argv[1:])
    if saves and importlib.util.find_spec("PIL") is None:
        sys.exit("mandelbrot.py saves its image with Pillow, which is missing: pip install pillow")
    app.main(parser())
