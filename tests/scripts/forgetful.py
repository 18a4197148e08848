"""A script that does not survive: its workers remember results and hand them in later.

Prints the sum of the numbers that were merged, and what it should be.
"""

import argparse
import time
from collections.abc import Iterator

from parasnake import Parasnake

app = Parasnake("forgetful")
remembered: list[int] = []
total = 0


@app.new_data
def numbers() -> Iterator[int]:
    yield from range(app.args.count)
    yield from [-1] * 50  # hand in what you have


@app.process
def add_up(data: int) -> int:
    time.sleep(0.01)
    if data >= 0:
        remembered.append(data)
        return 0
    subtotal = sum(remembered)
    remembered.clear()
    return subtotal


@app.result
def add(result: int) -> None:
    global total
    total += result


@app.finish
def report() -> None:
    print(total, sum(range(app.args.count)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200)
    app.main(parser)
