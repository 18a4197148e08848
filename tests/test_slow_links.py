"""Compression from end to end: over a slow cable, over a fast one, and after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from proxy import Proxy
from test_faults import Start, start

__all__ = ["start"]  # a fixture

MIB = 1 << 20
ARRAY = 4 * MIB
"""What the script sends each time: as init data, as data and as a result."""
SLOW = 16e6
WATCH = """
from pathlib import Path
from parasnake import compression

def compress(*args, really=compression.compress):
    Path("compressed").touch()
    return really(*args)

compression.compress = compress
"""
QUICK = """
from types import SimpleNamespace
from parasnake import compression

compression.time = SimpleNamespace(perf_counter=lambda: 0.0)
"""
"""A sample takes no time: how slow the machine is just then decides nothing."""


def passed(
    start: Start, folder: Path, *, kind: str, count: int, speed: float | None, how: str
) -> Proxy:
    """Run a job with such arrays over a cable of this speed; returns what counted its bytes."""
    (folder / "sitecustomize.py").write_text(QUICK)
    patched = {"PYTHONPATH": str(folder)}
    options = ("--server", "--port", "0", "--bind", "127.0.0.1", "--compression", how)
    server = start("bulky.py", *options, "--kind", kind, "--count", str(count), **patched)
    with Proxy(server.port(), bytes_per_second=speed) as proxy:
        agent = start("bulky.py", "--port", proxy.port, "--kind", kind, **patched)
        assert (server.wait(), agent.wait()) == (0, 0), server.err + agent.err
    assert server.out == f"merged {count}\n"
    return proxy


@pytest.mark.once
class TestAuto:
    def test_a_slow_link_begins_to_compress_both_ways(self, start: Start, tmp_path: Path) -> None:
        cable = passed(start, tmp_path, kind="counts", count=8, speed=SLOW, how="auto")
        assert cable.sent < 0.75 * 9 * ARRAY
        assert cable.returned < 0.75 * 8 * ARRAY

    def test_random_numbers_are_sent_as_they_are(self, start: Start, tmp_path: Path) -> None:
        cable = passed(start, tmp_path, kind="random", count=5, speed=SLOW, how="auto")
        assert 6 * ARRAY < cable.sent < 6.01 * ARRAY
        assert 5 * ARRAY < cable.returned < 5.01 * ARRAY

    def test_loopback_compresses_nothing(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(WATCH)
        patched = {"PYTHONPATH": str(tmp_path)}

        def compresses(how: str) -> bool:
            (tmp_path / "compressed").unlink(missing_ok=True)
            options = ("--server", "--port", "0", "--bind", "127.0.0.1", "--compression", how)
            server = start("bulky.py", *options, "--count", "20", **patched)
            agent = start("bulky.py", "--port", server.port(), **patched)
            assert (server.wait(), agent.wait()) == (0, 0), server.err + agent.err
            return (tmp_path / "compressed").exists()

        assert compresses("zstd")
        # A machine that stops for a moment while an array is on its way has a slow loopback.
        assert not all(compresses("auto") for _ in range(3))


def test_always(start: Start, tmp_path: Path) -> None:
    """Also the init data, and results of the first task."""
    cable = passed(start, tmp_path, kind="counts", count=1, speed=None, how="zstd")
    assert cable.sent < 0.3 * 2 * ARRAY
    assert cable.returned < 0.3 * ARRAY


def test_never(start: Start, tmp_path: Path) -> None:
    cable = passed(start, tmp_path, kind="counts", count=2, speed=SLOW, how="off")
    assert cable.sent > 3 * ARRAY
    assert cable.returned > 2 * ARRAY
