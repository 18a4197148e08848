"""Sends large arrays to the nodes and back: of small numbers, or of random ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from parasnake import Parasnake

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--kind", choices=["counts", "random"], default="counts")
parser.add_argument("--count", type=int, default=10)
app = Parasnake("bulky")
NUMBERS = 1 << 19
"""In one array: 4 MiB."""


def array(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if app.args.kind == "random":
        return generator.random(NUMBERS)
    return generator.integers(0, 100, NUMBERS)


@app.init_data
def common() -> np.ndarray:
    return array(0)


@app.new_data
def arrays() -> Iterator[np.ndarray]:
    for seed in range(app.args.count):
        yield array(seed)


@app.process
def compute(data: np.ndarray, init_data: np.ndarray) -> np.ndarray:
    data += init_data  # in place: it can be written to
    return data


merged = 0


@app.result
def compare(result: np.ndarray, data: np.ndarray) -> None:
    global merged
    assert np.array_equal(result, data + array(0))
    assert result.flags.writeable
    merged += 1


@app.finish
def report() -> None:
    print("merged", merged)


if __name__ == "__main__":
    app.main(parser)
