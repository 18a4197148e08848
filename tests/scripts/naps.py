"""Tasks that take their time and do nothing: ``--count`` of them, of ``--seconds`` each."""

import argparse
import time
from collections.abc import Iterator

from parasnake import Parasnake

app = Parasnake("naps")
merged: list[int] = []


@app.new_data
def numbers() -> Iterator[int]:
    yield from range(app.args.count)


@app.process
def nap(n: int) -> int:
    time.sleep(app.args.seconds)
    return n


@app.result
def merge(result: int) -> None:
    merged.append(result)


@app.finish
def report() -> None:
    print(sorted(merged) == list(range(app.args.count)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.1)
    app.main(parser)
