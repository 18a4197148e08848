"""What processes use: memory at its peak (on Linux; elsewhere 0) and processor time."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed


def watch_memory(pid: int | str = "self") -> Callable[[], int]:
    """Return what tells by how many bytes a process has grown since then, at its peak.

    If the process has ended, that is 0.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is what it has now
    before = _peak(pid)
    return lambda: max(0, _peak(pid) - before)


def _peak(pid: int | str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def descendants() -> list[int]:
    """The ids of all processes below this one."""
    return [child.pid for child in psutil.Process().children(recursive=True)]


def processor_seconds() -> float:
    """What this process and those below it have computed, without those that have ended."""
    times = [psutil.Process(pid).cpu_times() for pid in (None, *descendants())]
    return float(sum(time.user + time.system for time in times))
