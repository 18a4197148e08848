"""Chaos: what is drawn from a seed, and what scripts make of it."""

from __future__ import annotations

import itertools
import os
import re
import runpy
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from helpers import wait_until
from programs import Program, environment
from test_examples import EXAMPLES, MANDELBROT, pixels, plain_mandelbrot
from test_faults import SCRIPTS, Start, gone, start, started

from parasnake import ConfigurationError, HookError, Parasnake
from parasnake.chaos import HEARTBEAT_TIMEOUT_S, settings_for_chaos
from parasnake.config import Config
from parasnake.strikes import (
    FIRST_PAUSE_S,
    LEAST_PAUSE_S,
    LONGEST_PAUSE_S,
    Kind,
    Pace,
    Strike,
    sizes_of_agents,
    strikes,
)

__all__ = ["start"]  # a fixture


@pytest.fixture(scope="module")
def image() -> str:
    """What rows.py prints."""
    digest: str = runpy.run_path(str(SCRIPTS / "rows.py"))["expected"]()
    return f"{digest}\n"


def drawn(seed: int, count: int = 500, heartbeat_timeout: float = 2.0) -> list[Strike]:
    return list(itertools.islice(strikes(seed, heartbeat_timeout), count))


def seed_that_begins(suits: Callable[[Strike], bool]) -> str:
    """A seed whose first strike is of this sort, and comes before a short job is over."""

    def found(first: Strike) -> bool:
        return first.pause < 0.02 and suits(first)

    return str(next(seed for seed in itertools.count() if found(*drawn(seed, 1))))


def seed_for(kind: Kind) -> str:
    return seed_that_begins(lambda strike: strike.kind is kind)


def long_stop(strike: Strike) -> bool:
    return strike.kind is Kind.STOP_AGENT and strike.seconds > 2.0


# ---- what is drawn


def test_the_same_seed_means_the_same_strikes() -> None:
    assert drawn(1) == drawn(1)
    others = drawn(1, heartbeat_timeout=10.0)
    assert [strike[:2] for strike in others] == [strike[:2] for strike in drawn(1)]
    assert len({tuple(drawn(seed, 3)) for seed in (-1, 0, 1, 2, 10**30)}) == 5


def test_strikes_are_of_all_kinds_and_the_first_comes_early() -> None:
    for seed in range(20):
        first, *others = drawn(seed)
        assert 0 <= first.pause <= FIRST_PAUSE_S
        assert all(LEAST_PAUSE_S <= strike.pause <= LONGEST_PAUSE_S for strike in others)
        assert 0.35 < sum(strike.pause for strike in others) / len(others) < 0.65
        assert {strike.kind for strike in others} == set(Kind)
        assert all(0 <= strike.pick < 1 for strike in others)


def test_some_agents_are_stopped_for_longer_than_the_heartbeat_timeout() -> None:
    stops = [strike.seconds for strike in drawn(1, 500, 10.0) if strike.kind is Kind.STOP_AGENT]
    long = [seconds for seconds in stops if seconds > 10]
    assert 0.2 < len(long) / len(stops) < 0.6
    assert max(seconds for seconds in stops if seconds not in long) <= 1
    assert all(0 < s.seconds <= 1 for s in drawn(1) if s.kind is Kind.STOP_WORKER)


def test_pauses_grow_as_long_as_no_task_ends() -> None:
    pace = Pace()
    assert [pace.next_pause(1.0, done) for done in (5, 9, 9, 9, 9, 10, 11, 12, 13, 13)] == [
        *(1, 1, 2, 4, 8),
        *(4, 2, 1, 1, 2),
    ]


@pytest.mark.parametrize(
    ("workers", "sizes"),
    [(1, [1]), (2, [1, 1]), (3, [1, 2]), (4, [1, 2, 1]), (8, [1, 2, 1, 2, 1, 1])],
)
def test_there_are_several_agents(workers: int, sizes: list[int]) -> None:
    assert sizes_of_agents(workers) == sizes


# ---- settings


def test_a_short_heartbeat_timeout_unless_the_user_wants_another() -> None:
    def timeout(**given: Any) -> float:
        return settings_for_chaos(Config.load(given, environ={})).heartbeat_timeout

    assert timeout(chaos=1) == HEARTBEAT_TIMEOUT_S
    assert timeout(chaos=1, heartbeat_timeout=300) == 300


@pytest.mark.parametrize(
    "run",
    [
        lambda app: app.run(chaos=0),
        lambda app: app.run(server=True, chaos=0),
        lambda app: app.run_here(chaos=0),
    ],
)
def test_chaos_is_for_local_runs(run: Callable[[Parasnake], None]) -> None:
    app = Parasnake("app")
    app.new_data(lambda: None)
    app.job_done(lambda: True)
    app.process(lambda data: data)
    with pytest.raises(ConfigurationError) as caught:
        run(app)
    assert str(caught.value) == (
        "chaos = 0 (argument); allowed: only in a local run, whose workers it disturbs: "
        "app.run(local=4, chaos=1), or --local 4 --chaos 1"
    )


def test_chaos_without_local_on_the_command_line(start: Start) -> None:
    run = start("squares.py", "--server", "--chaos", "1")
    assert run.wait() == 2
    assert "chaos = 1 (command line, --chaos); allowed: only in a local run" in run.err


# ---- scripts that survive


def number_of_strikes(run: Program) -> int:
    told = len(re.findall(r"WARNING: .*: chaos: .* \(pid \d+\)", run.err))
    found = re.search(r", (\d+) strikes? of chaos", run.err.splitlines()[-1])
    assert int(found[1] if found else 0) == told
    return told


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_strike(start: Start, kind: Kind) -> None:
    run = start("by_hand.py", "--count", "60", "--local", "4", "--chaos", seed_for(kind))
    assert run.wait() == 0, run.err
    assert run.out == "True\n"
    assert f"by hand: chaos: {kind.value}" in run.err
    assert number_of_strikes(run) > 0
    wait_until(lambda: gone(run))


def test_the_only_agent_is_killed_and_replaced(start: Start) -> None:
    run = start("by_hand.py", "--count", "40", "--local", "1", "--chaos", seed_for(Kind.KILL_AGENT))
    assert run.wait() == 0, run.err
    assert run.out == "True\n"
    assert re.search(r"from [2-9] agents", run.err.splitlines()[-1])


def test_an_agent_that_is_stopped_for_long_is_lost_and_comes_back(start: Start) -> None:
    seed = seed_that_begins(long_stop)
    options = ("--count", "800", "--heartbeat-timeout", "1.5")
    run = start("by_hand.py", *options, "--local", "4", "--chaos", seed)
    assert run.wait() == 0, run.err
    assert run.out == "True\n"
    assert re.search(r"(?s)chaos: stopped agent.*lost .* nothing heard for .*is back", run.err)


def test_pi_has_the_same_digits(tmp_path: Path) -> None:
    outputs = set()
    for chaos in ([], ["--chaos", seed_for(Kind.KILL_WORKER)]):
        options = ["--local", "4", *chaos]
        with Program(EXAMPLES / "pi.py", options, tmp_path, environ=environment(tmp_path)) as run:
            assert run.wait() == 0, run.err
            outputs.add(run.out)
            assert number_of_strikes(run) > 0 or not chaos
    assert len(outputs) == 1


def test_mandelbrot_is_the_same_to_the_bit(tmp_path: Path) -> None:
    options = ["--local", "4", "--chaos", seed_for(Kind.KILL_WORKER), "--size", "384"]
    with Program(MANDELBROT, options, tmp_path, environ=environment(tmp_path)) as run:
        assert run.wait() == 0, run.err
        assert number_of_strikes(run) > 0
    assert pixels(tmp_path / "mandelbrot.png") == plain_mandelbrot(384)


@pytest.mark.parametrize("kind", [Kind.KILL_WORKER, Kind.CUT_AGENT])
def test_many_small_tasks(start: Start, kind: Kind) -> None:
    run = start("squares.py", "--count", "100000", "--local", "4", "--chaos", seed_for(kind))
    assert run.wait() == 0, run.err
    assert run.out == f"{sum(n * n for n in range(100000))}\n"
    assert number_of_strikes(run) > 0


def test_a_strike_counts_for_no_task(start: Start, image: str) -> None:
    options = ("--max-attempts", "1", "--max-losses", "1", "--heartbeat-timeout", "10")
    run = start("rows.py", *options, "--local", "3", "--chaos", seed_for(Kind.KILL_WORKER))
    assert run.wait() == 0, run.err
    assert run.out == image
    assert number_of_strikes(run) > 0


def test_with_a_journal_killed_in_the_middle_and_gone_on(
    start: Start, tmp_path: Path, image: str
) -> None:
    options = ("--local", "4", "--chaos", seed_for(Kind.KILL_AGENT), "--journal", "rows.journal")
    killed = start("rows.py", *options)
    killed.wait_for("(?s)(chaos.*){1}")
    killed.kill()
    wait_until(lambda: gone(killed))
    run = start("rows.py", *options)
    assert run.wait() == 0, run.err
    assert run.out == image


# ---- one that does not


def test_a_script_that_does_not_survive_shows_it(start: Start) -> None:
    for seed in range(1, 6):
        run = start("forgetful.py", "--local", "4", "--chaos", str(seed))
        assert run.wait() == 0, run.err
        total, right = run.out.split()
        if total != right:
            return
    pytest.fail("five seeds have not found it")


# ---- the end


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "kill -9"])
@pytest.mark.parametrize("kind", [Kind.STOP_AGENT, Kind.STOP_WORKER])
def test_nothing_is_left_stopped(start: Start, tmp_path: Path, how: str, kind: Kind) -> None:
    seed = seed_that_begins(long_stop) if kind is Kind.STOP_AGENT else seed_for(kind)
    options = ("--local", "2", "--chaos", seed, "--heartbeat-timeout", "60")
    run = start("patient.py", "--count", "2", *options)
    wait_until(lambda: len(started(tmp_path)) >= 2)  # chaos may have struck once more
    run.wait_for(f"chaos: {kind.value} .*for ")
    if how == "kill -9":
        run.kill()
        run.wait()
    elif how == "SIGTERM":
        run.send(signal.SIGTERM)
        assert run.wait() == 143, run.err
    else:
        run.interrupt()
        assert run.wait() == 130, run.err
    wait_until(lambda: gone(run))
    assert "Traceback" not in run.err


def test_a_hook_that_raises_ends_the_chaos_too(caplog: pytest.LogCaptureFixture) -> None:
    app = Parasnake("raising")
    app.process(lambda data: data)

    @app.new_data
    def numbers(node_id: uuid.UUID) -> int:
        return 1

    @app.job_done
    def never() -> bool:
        return False

    @app.result
    def merge(result: int) -> None:
        if "chaos: stopped" in caplog.text:
            raise LookupError("no such table")

    with pytest.raises(HookError, match="result"):
        app.run(local=4, start_method="fork", chaos=int(seed_that_begins(long_stop)))
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize("descriptors_of_processes", [True, False])
def test_the_same_app_may_run_again_with_another_seed(
    monkeypatch: pytest.MonkeyPatch, descriptors_of_processes: bool
) -> None:
    if not descriptors_of_processes:  # not every system has them
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    app = Parasnake("again")
    merged: list[int] = []

    @app.new_data
    def numbers() -> Iterator[int]:
        yield from range(30)

    def slow(data: int) -> int:
        time.sleep(0.02)
        return data

    app.process(slow)
    app.result(merged.append)
    for kind in (Kind.KILL_AGENT, Kind.KILL_WORKER):
        app.run(local=2, start_method="fork", chaos=int(seed_for(kind)))
    assert sorted(merged) == sorted([*range(30), *range(30)])
    assert not psutil.Process().children(recursive=True)
