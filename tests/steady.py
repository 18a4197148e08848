"""A job that goes on until its folder has a file named ``end``: what hostile tests disturb.

The server writes how many results are merged to the file ``merged``, and at its end whether all was
right to standard output. Environment: STEADY_PATCH, a JSON object, sets constants of the library.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

for name, value in json.loads(os.environ.get("STEADY_PATCH", "{}")).items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(module), constant, value)

app = Parasnake("steady")
handed_out = merged = total = 0
file = -1


@app.new_data
def data() -> Iterator[tuple[int, bytes]]:
    global handed_out
    folder, size = Path(app.args.folder), app.args.bytes
    while not (folder / "end").exists():
        handed_out += 1
        yield handed_out, bytes(size)


@app.process
def square(data: tuple[int, bytes]) -> tuple[int, int]:
    time.sleep(0.002)  # so that there are not too many of them
    number, load = data
    return number * number, len(load)


@app.result
def merge(result: tuple[int, int]) -> None:
    global merged, total, file
    if file < 0:
        file = os.open(Path(app.args.folder) / "merged", os.O_WRONLY | os.O_CREAT)
    merged += 1
    total += result[0]
    assert result[1] == app.args.bytes
    os.pwrite(file, struct.pack("=Q", merged), 0)


@app.finish
def report() -> None:
    right = total == sum(number * number for number in range(1, handed_out + 1))
    print(json.dumps({"merged": merged, "right": right and merged == handed_out}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--bytes", type=int, default=10)
    app.main(parser)
