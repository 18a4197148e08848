"""What all rounds gave, as JSON and as a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from measurements import Figure
from peers import PARASNAKE

LOST = "job lost"
NOT_MEASURED = "-"

Rounds = Mapping[tuple[str, str], Sequence[float | None]]
"""The values of all rounds, by figure and peer; None: the job was lost."""


def summary(figures: Sequence[Figure], peers: Sequence[str], rounds: Rounds) -> dict[str, Any]:
    """Return for each figure and peer: all values, median, lowest, highest, ratio Parasnake / peer."""
    return {
        figure.key: {
            "heading": figure.heading,
            "more_is_better": figure.more_is_better,
            "peers": {
                peer: _cell(rounds[figure.key, peer], rounds.get((figure.key, PARASNAKE), ()))
                for peer in peers
                if (figure.key, peer) in rounds
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


def render(figures: Sequence[Figure], titles: Mapping[str, str], found: Mapping[str, Any]) -> str:
    """Return two Markdown tables: medians with half their spread, and ratios Parasnake / peer."""
    head = ["", *titles.values()]
    medians, ratios = [head], [head]
    for figure in figures:
        cells = found[figure.key]["peers"]
        medians.append([figure.heading, *(_median(figure, cells.get(peer)) for peer in titles)])
        wanted = "more" if figure.more_is_better else "less"
        row = [_ratio(cells.get(peer)) for peer in titles]
        ratios.append([f"{figure.heading} ({wanted} is better)", *row])
    parts = ["Medians, and half the range of all rounds in per cent of it", _table(medians)]
    if PARASNAKE in titles and len(titles) > 1:
        parts += ["Parasnake / peer", _table(ratios)]
    return "\n\n".join(parts)


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


def _ratio(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["ratio"] is None:
        return NOT_MEASURED
    return f"{cell['ratio']:.3g}"


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
