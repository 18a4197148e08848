"""How much memory processes took at their peak, in bytes; Linux only, elsewhere 0."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed


def peak(pid: str = "self") -> int:
    """The most that a process had in memory since ``forget_peak``; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def forget_peak(pid: str = "self") -> None:
    """Let the peak of a process be what it has now."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def descendants() -> list[str]:
    """The ids of all processes below this one."""
    return [str(child.pid) for child in psutil.Process().children(recursive=True)]
