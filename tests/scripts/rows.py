"""An image by rows; each row that is computed is noted in a file. Prints the image's digest.

``--least S``: a row takes S seconds at the least, so that no node is sent many in advance. While
there is a file ``allowed``, only the rows below the number in it are computed.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

app = Parasnake("rows")
WIDTH, HEIGHT, DEPTH = 160, 600, 255
image: dict[int, bytes] = {}


def compute(row: int) -> bytes:
    counts = []
    for column in range(WIDTH):
        c, z, count = complex(column / WIDTH * 3 - 2, row / HEIGHT * 2 - 1), 0j, 0
        while abs(z) < 2 and count < DEPTH:
            z, count = z * z + c, count + 1
        counts.append(count)
    return bytes(counts)


@app.new_data
def rows() -> Iterator[int]:
    yield from range(HEIGHT)


def allowed() -> int:
    try:
        return int(Path("allowed").read_text())
    except FileNotFoundError:
        return HEIGHT


@app.process
def process(row: int) -> bytes:
    with Path("computed").open("a") as file:
        file.write(f"{row}\n")
    while row >= allowed():
        time.sleep(0.005)
    time.sleep(app.args.least)
    return compute(row)


@app.result
def merge(result: bytes, data: int) -> None:
    assert data not in image
    image[data] = result


@app.finish
def finish() -> None:
    print(hashlib.sha256(b"".join(image[row] for row in range(HEIGHT))).hexdigest())


def expected() -> str:
    return hashlib.sha256(b"".join(map(compute, range(HEIGHT)))).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--least", type=float, default=0.0)
    app.main(parser)


if __name__ == "__main__":
    main()
