"""The benchmarks run and tell all that they promise; how fast anything is, is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
COMPARE = FOLDER / "compare.py"
PEERS = {"parasnake": "Parasnake", "pool": "ProcessPoolExecutor"}


def compare(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(COMPARE), *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Everything once for two peers, tiny: what it printed, and its JSON."""
    file = tmp_path_factory.mktemp("benchmarks") / "found.json"
    chosen = ("--peers", ",".join(PEERS), "--json", str(file))
    done = compare("--quick", "--scale", "0.01", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    return done.stdout, found


def test_every_figure_is_in_the_json(run: tuple[str, dict[str, Any]]) -> None:
    _, found = run
    assert found["failures"] == []
    assert sorted(found["order"]) == sorted(found["figures"])
    for key, figure in found["figures"].items():
        for peer in PEERS:
            if key[-1:] in "56" and peer not in figure["peers"]:
                continue  # as many tasks may be too many here
            cell = figure["peers"][peer]
            assert len(cell["values"]) == 1, (key, peer)
            if (key, peer) == ("killed", "pool"):
                assert cell["median"] is None  # a job without its results
                continue
            assert cell["low"] <= cell["median"] <= cell["high"], (key, peer)
            if "memory" not in key:
                assert cell["median"] > 0
                assert cell["ratio"] > 0 or "killed" in key


def test_every_figure_is_in_both_tables(run: tuple[str, dict[str, Any]]) -> None:
    printed, found = run
    for title in PEERS.values():
        assert printed.count(f" {title} ") == 2
    for figure in found["figures"].values():
        wanted = "more" if figure["more_is_better"] else "less"
        assert f"| {figure['heading']} " in printed
        assert f"| {figure['heading']} ({wanted} is better) " in printed
    assert " job lost |" in printed


def test_medians_spread_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from measurements import Figure
    from table import render, summary

    figures = [Figure("rate", "tasks/s", more_is_better=True), Figure("gone", "gone, ms", 1)]
    rounds: dict[tuple[str, str], list[float | None]] = {
        ("rate", "parasnake"): [90.0, 100.0, 120.0],
        ("rate", "pool"): [50.0, 40.0, 60.0],
        ("gone", "parasnake"): [2.0],
        ("gone", "pool"): [4.0, None],
    }
    found = summary(figures, list(PEERS), rounds)
    assert found["rate"]["peers"]["pool"] == {
        "values": [50.0, 40.0, 60.0],
        "median": 50.0,
        "low": 40.0,
        "high": 60.0,
        "ratio": 2.0,
    }
    assert render(figures, PEERS, found).splitlines()[2:6] == [
        "|          | Parasnake | ProcessPoolExecutor |",
        "|----------|----------:|--------------------:|",
        "| tasks/s  |  100 ±15% |             50 ±20% |",
        "| gone, ms |       2.0 |            job lost |",
    ]


def test_a_name_that_is_none_is_refused() -> None:
    done = compare("--peers", "pool,carrier-pigeons")
    assert done.returncode == 2
    assert "'carrier-pigeons' is none of parasnake, pool," in done.stderr
