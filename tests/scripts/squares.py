"""The smallest job: the sum of squares, printed at the end."""

import argparse
from collections.abc import Iterator

from parasnake import Parasnake

app = Parasnake("squares")
total = 0


@app.new_data
def numbers() -> Iterator[int]:
    yield from range(app.args.count)


@app.process
def square(n: int) -> int:
    return n * n


@app.result
def add(result: int) -> None:
    global total
    total += result


@app.finish
def report() -> None:
    print(total)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100)
    app.main(parser)
