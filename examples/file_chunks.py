#!/usr/bin/env python3
"""Statistics of a huge text file that stays where it is: on a disk that all nodes can read.

What it shows: the server hands out file name, offset and size, a few bytes for each part. Nodes read
their parts themselves and send only what they have found. A line belongs to the part in which it
begins, so that one across a border is counted once. Sums are of whole tenths of a degree: exact in
any order. With --frost nodes also write the lines below zero beside the input: these never travel.

How to run it (lines are like "Reykjavík;-3.4"; the first command makes a file of that kind):

    python examples/file_chunks.py --local --make-input 100MB
    python examples/file_chunks.py --server --input /shared/big.txt
    python examples/file_chunks.py --ip HOST --workers 8        where /shared is the same disk

What to expect: statistics.csv with a line for each station: its name, how many values there are, the
lowest, the mean and the highest one. With --frost there is the folder measurements.txt.frost besides,
in which are all lines below zero: "cat measurements.txt.frost/*" gives them in the order of the input.
"""

import argparse
import csv
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from parasnake import NodeId, Parasnake

STATIONS = {"Abéché": 29, "Hà Nội": 24, "Kraków": 9, "Lima": 20, "Nuuk": -1, "Reykjavík": 5}
STATIONS |= {"São Paulo": 19, "Ürümqi": 7, "Yakutsk": -9, "Zürich": 9, "東京": 15}
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Part(NamedTuple):
    file: Path
    offset: int
    size: int


class Statistics(NamedTuple):
    """Of some values, in tenths of a degree."""

    values: int
    lowest: int
    total: int
    highest: int


Table = dict[bytes, Statistics]
app = Parasnake("file_chunks")
table: Table = {}


@app.init_data
def frost_wanted() -> bool:
    return bool(app.args.frost)


@app.new_data
def parts() -> Iterator[Part]:
    file = app.args.input.resolve()
    if app.args.make_input and not app.replaying:
        make_input(file, app.args.make_input)
    if app.args.frost:
        frost_folder(file).mkdir(exist_ok=app.replaying)
    for offset in range(0, file.stat().st_size, app.args.part_size):
        yield Part(file, offset, app.args.part_size)


@app.process
def read(data: Part, init_data: bool, node_id: NodeId) -> Table:
    values: defaultdict[bytes, list[int]] = defaultdict(list)
    frost = []
    for line in lines_of(data):
        station, separator, value = line.rstrip().rpartition(b";")
        if not separator:
            continue
        tenths = round(10 * float(value))
        values[station].append(tenths)
        if init_data and tenths < 0:
            frost.append(line)
    if init_data:  # whole or not at all, even if two nodes should do it
        draft = frost_folder(data.file) / f".{node_id}"
        draft.write_bytes(b"".join(frost))
        draft.replace(frost_folder(data.file) / f"{data.offset:016}")
    return {
        station: Statistics(len(some), min(some), sum(some), max(some))
        for station, some in values.items()
    }


def lines_of(part: Part) -> Iterator[bytes]:
    """Give all lines that begin in this part; the last may end behind it."""
    with part.file.open("rb") as file:
        at, end = part.offset, part.offset + part.size
        if at > 0:  # the rest of a line that began before; nothing if one ends right there
            file.seek(at - 1)
            rest = file.readline(part.size)
            if not rest.endswith(b"\n"):
                return
            at += len(rest) - 1
        while at < end and (line := file.readline()):
            yield line
            at += len(line)


def frost_folder(file: Path) -> Path:
    return file.with_name(file.name + ".frost")


@app.result
def add(result: Table) -> None:
    for station, more in result.items():
        table[station] = both(table[station], more) if station in table else more


def both(one: Statistics, other: Statistics) -> Statistics:
    return Statistics(
        one.values + other.values,
        min(one.lowest, other.lowest),
        one.total + other.total,
        max(one.highest, other.highest),
    )


@app.finish
def save() -> None:
    with app.args.output.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["station", "count", "lowest", "mean", "highest"])
        for name, found in sorted(table.items()):
            mean = found.total / found.values / 10
            low, high = found.lowest / 10, found.highest / 10
            rows.writerow([name.decode(), found.values, low, f"{mean:.2f}", high])
    count = sum(found.values for found in table.values())
    print(f"{count} values of {len(table)} stations: the statistics are in {app.args.output}")


def make_input(file: Path, size: int) -> None:
    """Write at least so many bytes of weather, always the same."""
    rng = random.Random(1)
    means = rng.choices(list(STATIONS.items()), k=100_000)
    weather = [f"{name};{rng.gauss(mean, 9):.1f}\n".encode() for name, mean in means]
    with file.open("wb") as out:
        while out.tell() < size:
            out.write(b"".join(rng.choices(weather, k=10_000)))


def size_in_bytes(text: str) -> int:
    unit = text[-2:].upper()
    size = int(float(text[:-2]) * UNITS[unit]) if unit in UNITS else int(text)
    if size < 1:
        raise ValueError("no size")
    return size


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = options.add_argument
    option("--input", type=Path, default="measurements.txt", help="the file (measurements.txt)")
    option(
        "--make-input", type=size_in_bytes, metavar="SIZE", help="write it first: 500KB, 20GB, ..."
    )
    option(
        "--part-size", type=size_in_bytes, default="16MB", help="what a node reads at once (16MB)"
    )
    option("--frost", action="store_true", help="write lines below zero beside the input")
    option("--output", type=Path, default="statistics.csv", help="the table (statistics.csv)")
    return options


if __name__ == "__main__":
    app.main(parser())
