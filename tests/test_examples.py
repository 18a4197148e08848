"""The examples, run as a newcomer would run them."""

from __future__ import annotations

import contextlib
import random
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from programs import Program, environment

from parasnake.core.ids import TaskId
from parasnake.core.seeds import job_seed, task_seed

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
    size = 1024
    environ = environment(tmp_path)
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Program:
            return stack.enter_context(Program(MANDELBROT, options, tmp_path, environ=environ))

        server = start("--server", "--port", "0", "--size", str(size))
        node = ("--ip", "127.0.0.1", "--port", server.port())
        first = start(*node)
        server.wait_for(r"(?s)(joined.*){1}")
        second = start(*node)
        server.wait_for(r"(?s)(joined.*){2}")
        first.kill()
        lost = server.wait_for(r"WARNING: mandelbrot: lost .*")[0]
        assert f"pid {first.pid}" in lost
        assert re.search(r"[1-9]\d* of its tasks? will run elsewhere", lost), "not in the middle"
        third = start(*node, "--workers", "2")
        server.wait_for(r"(?s)(joined.*){3}")

        assert server.wait() == 0, server.err
        for agent in (second, third):
            assert agent.wait() == 0, agent.err
            assert "the job is done" in agent.err
        summary = server.err.splitlines()[-1]
        assert f"{size} tasks merged" in summary
        assert "4 nodes from 3 agents" in summary
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


@pytest.mark.parametrize("example", ALL, ids=lambda path: path.name)
def test_each_example_is_short_and_says_what_it_is(example: Path) -> None:
    text = example.read_text()
    assert len(text.splitlines()) < 180
    assert text.startswith('#!/usr/bin/env python3\n"""')
    for heading in ("What it shows: ", "How to run it", "What to expect: "):
        assert heading in text
    assert f"python examples/{example.relative_to(EXAMPLES).as_posix()} " in text
