"""How much memory processes took at their peak, in bytes; Linux only, elsewhere 0."""

from __future__ import annotations

import re
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are not installed


def peak(pid: int | str = "self") -> int:
    """The most that a process ever had in memory; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def peaks_of_descendants() -> dict[int, int]:
    """The peak of each process below this one."""
    return {child.pid: peak(child.pid) for child in psutil.Process().children(recursive=True)}
