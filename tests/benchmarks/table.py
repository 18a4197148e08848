"""What all rounds gave, as JSON and as a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from figures import Figure, Measurement
from peers import PARASNAKE

LOST = "job lost"
NOT_MEASURED = "-"
BEST = "the best of them"

Rounds = Mapping[tuple[str, str], Sequence[float | None]]
"""The values of all rounds, by figure and peer; None: the job was lost."""


def summary(figures: Sequence[Figure], rounds: Rounds) -> dict[str, Any]:
    """Return for each figure and peer: all values, median, lowest, highest, ratio Parasnake / peer."""
    return {
        figure.key: {
            "heading": figure.heading,
            "more_is_better": figure.more_is_better,
            "peers": {
                peer: _cell(values, rounds.get((figure.key, PARASNAKE), ()))
                for (key, peer), values in rounds.items()
                if key == figure.key
            },
        }
        for figure in figures
    }


def _cell(values: Sequence[float | None], ours: Sequence[float | None]) -> dict[str, Any]:
    measured = [value for value in values if value is not None]
    if len(measured) < len(values):  # a job that is lost now and then is lost
        return {"values": list(values), "median": None, "low": None, "high": None, "ratio": None}
    median = statistics.median(measured)
    own = [value for value in ours if value is not None]
    ratio = statistics.median(own) / median if own and median else None
    return {
        "values": measured,
        "median": median,
        "low": min(measured),
        "high": max(measured),
        "ratio": ratio,
    }


def render(
    measurements: Sequence[Measurement], titles: Mapping[str, str], found: Mapping[str, Any]
) -> str:
    """Return Markdown: under each title a table of medians, and one of the ratios Parasnake / peer."""
    figures: dict[str, list[Figure]] = {}
    for measurement in measurements:
        figures.setdefault(measurement.table, []).extend(measurement.figures)
    return "\n\n".join(
        part
        for title, rows in figures.items()
        for part in (f"### {title}", *_tables(rows, titles, found))
    )


def _tables(
    figures: Sequence[Figure], titles: Mapping[str, str], found: Mapping[str, Any]
) -> Iterator[str]:
    cells = {figure: found[figure.key]["peers"] for figure in figures}
    there = [peer for peer in titles if any(peer in row for row in cells.values())]
    if not there:
        yield "Nothing was measured."
        return
    others = [peer for peer in there if peer != PARASNAKE]
    medians = [["", *(titles[peer] for peer in there)]]
    ratios = [["", BEST, *(titles[peer] for peer in others)]]
    for figure, row in cells.items():
        medians.append([figure.heading, *(_median(figure, row.get(peer)) for peer in there)])
        known = {peer: row[peer]["ratio"] for peer in others if peer in row and row[peer]["ratio"]}
        if known and figure.more_is_better is not None:
            wanted, best = ("more", min) if figure.more_is_better else ("less", max)
            shown = [best(known.values()), *(known.get(peer) for peer in others)]
            ratios.append([f"{figure.heading} ({wanted} is better)", *map(_ratio, shown)])
    yield "Medians, and half the range of all rounds in per cent of it:"
    yield _table(medians)
    if len(ratios) > 1:
        yield "Parasnake / peer:"
        yield _table(ratios)


def _median(figure: Figure, cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return NOT_MEASURED
    median = cell["median"]
    if median is None:
        return LOST
    text = f"{median:,.{figure.digits}f}"
    if len(cell["values"]) == 1 or not median:
        return text
    return f"{text} ±{50 * (cell['high'] - cell['low']) / abs(median):.0f}%"


def _ratio(ratio: float | None) -> str:
    return NOT_MEASURED if ratio is None else f"{ratio:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(_cells(row, widths)) + " |" for row in rows]
    rule = "|" + "|".join(
        "-" * (width + 1) + ("-" if index == 0 else ":") for index, width in enumerate(widths)
    )
    return "\n".join([lines[0], rule + "|", *lines[1:]])


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = ((text, width) for text, width in zip(row, widths, strict=True))
    return [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
