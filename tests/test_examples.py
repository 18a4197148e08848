"""The examples, run as a newcomer would run them."""

from __future__ import annotations

import contextlib
import csv
import heapq
import importlib
import math
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from callees import free_port
from helpers import wait_until
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from programs import Program, environment

from parasnake import arguments
from parasnake.core.ids import TaskId
from parasnake.core.journal import Merged
from parasnake.core.seeds import job_seed, task_seed
from parasnake.journal import Stored

pytestmark = pytest.mark.usefixtures("unmeasured")

EXAMPLES = Path(__file__).parent.parent / "examples"
MANDELBROT = EXAMPLES / "mandelbrot.py"
ALL = sorted(path for path in EXAMPLES.rglob("*.py") if path.read_text().startswith("#!"))


def plain_mandelbrot(size: int) -> bytes:
    """The image as one loop in one process computes it."""
    pixels = bytearray()
    for row in range(size):
        for column in range(size):
            c = complex(-2.1 + 2.8 * column / size, -1.4 + 2.8 * row / size)
            z, n = 0j, 0
            while n < 100 and abs(z) <= 2:
                z = z * z + c
                n += 1
            pixels.append(255 - 255 * n // 100)
    return bytes(pixels)


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return image.tobytes()


def test_mandelbrot_is_the_same_to_the_bit_as_a_plain_loop(tmp_path: Path) -> None:
    options = ["--local", "2", "--size", "96", "--output", "small.png"]
    with Program(MANDELBROT, options, tmp_path, environ=environment(tmp_path)) as run:
        assert run.wait() == 0, run.err
        assert run.out == "The image is in small.png\n"
    assert pixels(tmp_path / "small.png") == plain_mandelbrot(96)


def test_mandelbrot_says_at_once_that_pillow_is_missing(tmp_path: Path) -> None:
    without = (
        "import runpy, sys; from importlib import util; find = util.find_spec; "
        "util.find_spec = lambda name, *more: None if name == 'PIL' else find(name, *more); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for mode in ("--local", "--local=2", "--server", "-s"):
        with Program(
            MANDELBROT,
            [mode],
            tmp_path,
            environ=environment(tmp_path),
            python=(sys.executable, "-c", without),
        ) as run:
            assert run.wait() == 1
            assert run.err.count("\n") == 1, "one line, and nothing computed before it"
            assert "pip install pillow" in run.err


def test_mandelbrot_with_agents_by_hand_one_of_them_killed(tmp_path: Path) -> None:
    size = 128
    gated = Path(__file__).parent / "scripts" / "gated.py"
    environ = environment(tmp_path)
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Program:
            return stack.enter_context(Program(gated, options, tmp_path, environ=environ))

        server = start("--server", "--port", "0", "--size", str(size), "-v")
        node = ("--ip", "127.0.0.1", "--port", server.port())
        first = start(*node)
        server.wait_for(r"(?s)(: node .*){1}")
        second = start(*node)
        server.wait_for(r"(?s)(: node .*){2}")
        first.kill()
        lost = server.wait_for(r"WARNING: mandelbrot: lost .*")[0]
        assert f"pid {first.pid}" in lost
        assert re.search(r"[1-9]\d* of its tasks? will run elsewhere", lost), "not in the middle"
        third = start(*node, "--workers", "2")
        server.wait_for(r"(?s)(: node .*){4}")
        (tmp_path / "go").touch()

        assert server.wait() == 0, server.err
        for agent in (second, third):
            assert agent.wait() == 0, agent.err
            assert "the job is done" in agent.err
        [summary] = [line for line in server.err.splitlines() if "tasks merged" in line]
        assert f"{size} tasks merged" in summary
        nodes = re.search(r"(\d+) nodes from 3 agents", summary)
        assert nodes is not None, summary
        assert int(nodes[1]) >= 4, "more, where one computed what another had done meanwhile"
        assert "1 agent lost" in summary
    assert pixels(tmp_path / "mandelbrot.png") == plain_mandelbrot(size)


def test_pi_has_the_same_digits_every_time(tmp_path: Path) -> None:
    hits = 0
    for task in range(100):
        draw = random.Random(task_seed(job_seed(0), TaskId(task))).random
        hits += sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(100_000))
    with Program(
        EXAMPLES / "pi.py", ["--local", "2"], tmp_path, environ=environment(tmp_path)
    ) as run:
        assert run.wait() == 0, run.err
        assert run.out == f"pi is about {4 * hits / 10_000_000}\n"


def load(example: str) -> ModuleType:
    """Import an example afresh, without running it."""
    path = EXAMPLES / example
    sys.modules.pop(path.stem, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        return importlib.import_module(path.stem)


def run(example: str, folder: Path, *options: str) -> str:
    """Run an example to its end; give what it printed."""
    with Program(EXAMPLES / example, options, folder, environ=environment(folder)) as program:
        assert program.wait() == 0, program.err
        return program.out


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def chunks() -> ModuleType:
    return load("file_chunks.py")


class TestFileChunks:
    @given(
        lines=st.lists(st.text("ab;é東 ", max_size=20), max_size=8),
        ending=st.sampled_from(["\n", "\r\n"]),
        ended=st.booleans(),
        size=st.integers(1, 40),
    )
    def test_each_line_is_in_the_one_part_in_which_it_begins(
        self, chunks: ModuleType, *, lines: list[str], ending: str, ended: bool, size: int
    ) -> None:
        whole = (ending.join(lines) + (ending if ended else "")).encode()
        found: list[bytes] = []
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "any.txt"
            file.write_bytes(whole)
            for begin in range(0, len(whole), size):
                for line in chunks.lines_of(chunks.Part(file, begin, size)):
                    assert begin <= len(b"".join(found)) < begin + size
                    found.append(line)
        assert found == whole.splitlines(keepends=True)

    def test_the_statistics_are_those_of_a_serial_count(self, tmp_path: Path) -> None:
        printed = run(
            "file_chunks.py", tmp_path, "--local", "2", "--make-input", "300KB", "--frost",
            "--part-size", "17KB",
        )  # fmt: skip
        values: dict[str, list[float]] = {}
        lines = (tmp_path / "measurements.txt").read_text("utf-8").splitlines()
        for line in lines:
            name, value = line.split(";")
            values.setdefault(name, []).append(float(value))
        count = f"{len(lines)} values of {len(values)} stations"
        assert printed == f"{count}: the statistics are in statistics.csv\n"
        heading, *rows = read_csv(tmp_path / "statistics.csv")
        assert heading == ["station", "count", "lowest", "mean", "highest"]
        assert [row[0] for row in rows] == sorted(values)
        for name, number, lowest, mean, highest in rows:
            mine = values[name]
            assert (int(number), float(lowest), float(highest)) == (len(mine), min(mine), max(mine))
            assert float(mean) == pytest.approx(math.fsum(mine) / len(mine), abs=0.0051)
        parts = sorted((tmp_path / "measurements.txt.frost").iterdir())
        size = (tmp_path / "measurements.txt").stat().st_size
        assert [int(part.name) for part in parts] == list(range(0, size, 17_000))
        frost = "".join(part.read_text("utf-8") for part in parts).splitlines()
        assert frost == [line for line in lines if float(line.split(";")[1]) < 0]

    @pytest.mark.parametrize(
        ("content", "table"),
        [
            pytest.param(b"", "", id="empty"),
            pytest.param(
                b"A;1.5\r\n\r\nB;-0.5", "A,1,1.5,1.50,1.5\nB,1,-0.5,-0.50,-0.5\n", id="odd"
            ),
        ],
    )
    def test_an_empty_file_and_one_with_blank_lines(
        self, tmp_path: Path, content: bytes, table: str
    ) -> None:
        (tmp_path / "odd.txt").write_bytes(content)
        run("file_chunks.py", tmp_path, "--local", "1", "--input", "odd.txt", "--part-size", "4")
        heading = "station,count,lowest,mean,highest\n"
        assert (tmp_path / "statistics.csv").read_text() == heading + table


class TestParameterSweep:
    def test_what_is_left_in_the_end_is_what_theory_says(self) -> None:
        """ln(s_end / s_start) = -contagion / recovery * (all that were ever infected)"""
        sweep = load("parameter_sweep.py")
        for point in (
            sweep.Point(0.5, 0.1, 0.0),
            sweep.Point(0.3, 0.1, 0.3),
            sweep.Point(0.2, 0.25, 0.5),
        ):
            epidemic = sweep.solve(point)
            start = 1 - point.vaccinated - sweep.FIRST_CASES
            left = start + sweep.FIRST_CASES - epidemic.infected_in_all
            logarithm = -point.contagion / point.recovery * epidemic.infected_in_all
            assert math.log(left / start) == pytest.approx(logarithm, rel=1e-3)

    def test_killed_in_the_middle_and_started_again_it_is_complete_and_right(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        points, port = "13", str(free_port())
        journal = tmp_path / "sweep.journal"

        def start(*options: str) -> Program:
            return Program(
                EXAMPLES / "parameter_sweep.py", options, tmp_path, environ=environment(tmp_path)
            )

        def merged() -> int:
            if not journal.exists():
                return 0
            with Stored.read(journal) as stored:
                return sum(
                    isinstance(each, Merged) for row in stored.rows() for each in row.entries
                )

        network = ("--bind", "127.0.0.1", "--port", port)
        serve = ("--server", *network, "--points", points, "--journal", str(journal))
        with start("--port", port, "--workers", "2") as agent:
            with start(*serve) as server:
                server.wait_for("server on port")
                wait_until(lambda: merged() >= 50)
                server.kill()
                server.wait()
            done_before = merged()
            assert 50 <= done_before < 13**3
            assert not (tmp_path / "sweep.csv").exists()
            with start(*serve) as server:
                assert server.wait() == 0, server.err
                assert server.out == f"{13**3} epidemics are in sweep.csv\n"
            assert agent.wait() == 0, agent.err
        assert merged() == 13**3, "some were computed for nothing"

        sweep = load("parameter_sweep.py")
        heading, *rows = read_csv(tmp_path / "sweep.csv")
        assert heading[:3] == ["contagion", "recovery", "vaccinated"]
        monkeypatch.setattr(arguments, "current", sweep.parser().parse_args(["--points", points]))
        grid = list(sweep.grid())
        assert [sweep.Point(*map(float, row[:3])) for row in rows] == sorted(grid)
        for row in random.Random(1).sample(rows, 20):
            values = [float(text) for text in row]
            assert (*values[3:],) == sweep.solve(sweep.Point(*values[:3]))


class TestOptimize:
    def test_it_finds_the_same_on_any_number_of_nodes(self, tmp_path: Path) -> None:
        found = {}
        for nodes in ("1", "3"):
            options = ("--local", nodes, "--evaluations", "6000", "--function", "sphere")
            printed = run("optimize.py", tmp_path, *options, "--output", f"{nodes}.csv")
            found[nodes] = printed, (tmp_path / f"{nodes}.csv").read_text()
        assert found["1"] == found["3"]
        (_, first), *_, (evaluations, last) = read_csv(tmp_path / "3.csv")[1:]
        assert float(first) > 1
        assert float(last) < 1e-6
        assert int(evaluations) <= 6000
        assert re.fullmatch(r"lowest value \S+ at (-?0\.0\d{3}(, )?){6}\n", found["3"][0])

    @pytest.mark.parametrize("function", ["sphere", "rosenbrock", "rastrigin"])
    def test_no_node_is_ever_idle(self, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Eight nodes that need between 1 and 6 seconds each time, all in thought only."""
        search = load("optimize.py")
        monkeypatch.setattr(
            arguments, "current", search.parser().parse_args(["--evaluations", "9000"])
        )
        rng = random.Random(2)
        running: list[tuple[float, int, Any]] = []
        waiting, handed_out, next_to_merge, now = {}, 0, 0, 0.0
        while not search.enough():
            while len(running) < 8 and handed_out < 9000:
                data = search.next_candidate()
                assert data is not None, "an idle node"
                heapq.heappush(running, (now + rng.uniform(1, 6), handed_out, data))
                handed_out += 1
            now, number, data = heapq.heappop(running)
            waiting[number] = data
            while next_to_merge in waiting:
                data = waiting.pop(next_to_merge)
                search.select(search.evaluate(data, function), data)
                next_to_merge += 1
        assert handed_out == search.merged == 9000
        assert min(search.population)[0] < 2


@pytest.fixture(scope="module")
def tracer() -> ModuleType:
    return load("path_tracing/tracer.py")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Image.Image]]:
    """The same path-traced picture from one node, and from some that are killed and cut off."""
    folder = tmp_path_factory.mktemp("pictures")
    size = ("--width", "130", "--height", "100", "--passes", "3", "--samples", "1")
    for name, nodes in (("one", ("--local", "1")), ("other", ("--local", "4", "--chaos", "1"))):
        printed = run("path_tracing/path_tracing.py", folder, *nodes, *size, "--output", name)
        assert printed == f"The picture is in {name}\n"
    with Image.open(folder / "one") as one, Image.open(folder / "other") as other:
        yield [one, other]


class TestPathTracing:
    def test_it_is_the_same_to_the_bit_from_any_number_of_nodes(
        self, pictures: list[Image.Image]
    ) -> None:
        one, other = pictures
        assert one.format == other.format == "PNG"
        assert one.size == other.size == (130, 100)
        assert one.tobytes() == other.tobytes()

    def test_it_shows_what_is_in_the_scene(self, pictures: list[Image.Image]) -> None:
        colours = np.asarray(pictures[0], dtype=float)

        def around(x: int, y: int) -> list[float]:
            part: list[float] = colours[y - 3 : y + 4, x - 3 : x + 4].mean(axis=(0, 1)).tolist()
            return part

        red, green, blue = around(95, 45)
        assert red > 2 * max(green, blue), "the red ball"
        red, green, blue = around(86, 66)
        assert blue > 1.5 * red, "the blue ball"
        red, green, blue = around(41, 64)
        assert green > 1.3 * max(red, blue), "the green ball"

    def test_it_gets_better_with_each_pass(self, tracer: ModuleType) -> None:
        tile, picture = tracer.Tile(30, 40, 24, 24), (130, 100)
        best = tracer.render(tile, picture, 200, 99) / 200
        total, errors = np.zeros((24, 24, 3)), []
        for number in range(1, 17):
            total += tracer.render(tile, picture, 1, number)
            errors.append(float(np.sqrt(((total / number - best) ** 2).mean())))
        assert errors[15] < 0.6 * errors[3] < 0.36 * errors[0] / 0.6

    def test_glass_refracts_as_snell_says(self, tracer: ModuleType) -> None:
        rng = np.random.default_rng(1)
        count = 1000
        normal = tracer.random_units(count, rng)
        direction = tracer.random_units(count, rng)
        direction = np.where(tracer.dot(direction, normal) > 0, -direction, direction)
        entering = rng.random(count) < 0.5
        out = tracer.through_glass(direction, normal, entering, rng)
        assert np.allclose(tracer.dot(out, out), 1)

        def sine(vectors: object) -> Any:
            return np.sqrt(np.maximum(1 - tracer.dot(vectors, normal) ** 2, 0))

        reflected = tracer.dot(out, normal) > 0
        ratio = np.where(reflected, 1, np.where(entering, 1 / 1.5, 1.5))
        assert np.allclose(sine(out), ratio * sine(direction), atol=1e-6)
        assert reflected[~entering & (sine(direction) > 1 / 1.5)].all(), "total reflection"
        assert 0.04 < reflected[entering].mean() < 0.2


@pytest.mark.parametrize("example", ALL, ids=lambda path: path.name)
def test_each_example_is_short_and_says_what_it_is(example: Path) -> None:
    text = example.read_text()
    assert len(text.splitlines()) < 180
    assert text.startswith('#!/usr/bin/env python3\n"""')
    for heading in ("What it shows: ", "How to run it", "What to expect: "):
        assert heading in text
    assert f"python examples/{example.relative_to(EXAMPLES).as_posix()} " in text
