"""The benchmarks run and tell all that they promise; how fast anything is, is not judged here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("unmeasured")

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
    everything = ("--measure", ",".join(measurements()))
    chosen = ("--peers", ",".join(PEERS), *everything, "--json", str(file))
    done = compare("--quick", "--scale", "0.01", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    return done.stdout, found


def measurements() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        from measurements import MEASUREMENTS

        return dict(MEASUREMENTS)


def test_every_figure_is_in_the_json(run: tuple[str, dict[str, Any]]) -> None:
    _, found = run
    assert found["failures"] == []
    assert not any("left out" in note for note in found["notes"])
    for measurement in measurements().values():
        for key in (figure.key for figure in measurement.figures):
            figure = found["figures"][key]
            for peer in ["parasnake"] if measurement.only_ours else PEERS:
                if key.startswith("tasks_") and peer not in figure["peers"]:
                    continue  # as many tasks may be too many here
                cell = figure["peers"][peer]
                assert len(cell["values"]) == 1, (key, peer)
                if (key, peer) == ("killed", "pool"):
                    assert cell["median"] is None  # a job without its results
                    continue
                assert cell["low"] <= cell["median"] <= cell["high"], (key, peer)
                if not any(word in key for word in ("memory", "own", "idle", "journal", "each")):
                    assert cell["median"] > 0, (key, peer)


def test_every_figure_is_in_the_tables(run: tuple[str, dict[str, Any]]) -> None:
    printed, found = run
    for measurement in measurements().values():
        assert f"### {measurement.table}\n" in printed
        for figure in measurement.figures:
            assert f"| {figure.heading} " in printed
            if figure.key in ("rate", "latency", "array_128", "import"):
                wanted = "more" if figure.more_is_better else "less"
                assert f"| {figure.heading} ({wanted} is better) " in printed
    for note in found["notes"]:
        assert f"\n- {note}\n" in printed


def test_a_lost_job_says_why(run: tuple[str, dict[str, Any]]) -> None:
    printed, _ = run
    assert re.search(r"worker killed: .* job lost \|", printed)
    assert re.search(r"(?m)^- job lost: ProcessPoolExecutor, exit status 1: .*Broken", printed)


def test_what_is_left_out_for_quickness_is_told() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import compare as command

        options = command.make_parser().parse_args(["--quick", "--peers", "pool"])
        pairs, notes = command._plan(options)
    assert ("tasks", "pool") not in pairs
    assert ("small", "pool") in pairs
    assert notes == ["left out by --quick: tasks, payloads of ProcessPoolExecutor"]


def test_medians_spread_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from figures import Figure, Measurement
    from table import render, summary

    figures = (Figure("rate", "tasks/s", more_is_better=True), Figure("gone", "gone, ms", 1))
    rounds: dict[tuple[str, str], list[float | None]] = {
        ("rate", "parasnake"): [90.0, 100.0, 120.0],
        ("rate", "pool"): [50.0, 40.0, 60.0],
        ("gone", "parasnake"): [2.0],
        ("gone", "pool"): [4.0, None],
    }
    found = summary(figures, rounds)
    assert found["rate"]["peers"]["pool"] == {
        "values": [50.0, 40.0, 60.0],
        "median": 50.0,
        "low": 40.0,
        "high": 60.0,
        "ratio": 2.0,
    }
    assert render([Measurement("", figures, "All")], PEERS, found).splitlines() == [
        "### All",
        "",
        "Medians, and half the range of all rounds in per cent of it:",
        "",
        "|          | Parasnake | ProcessPoolExecutor |",
        "|----------|----------:|--------------------:|",
        "| tasks/s  |  100 ±15% |             50 ±20% |",
        "| gone, ms |       2.0 |            job lost |",
        "",
        "Parasnake / peer:",
        "",
        "|                          | the best of them | ProcessPoolExecutor |",
        "|--------------------------|-----------------:|--------------------:|",
        "| tasks/s (more is better) |                2 |                   2 |",
    ]


def test_a_name_that_is_none_is_refused() -> None:
    done = compare("--peers", "pool,carrier-pigeons")
    assert done.returncode == 2
    assert "'carrier-pigeons' is none of parasnake, pool," in done.stderr
