"""How a child process died, in words for humans."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Death:
    """What is known about the end of a child process; ``str()`` gives the cause in one line.

    Attributes
    ----------
    exit_status: what it exited with, ``None`` if a signal killed it
    signal_number: the signal that killed it, ``None`` if it exited
    peak_memory_bytes: the most memory that it held at once (resident set). On Linux a spawned
        process counts from the size of its parent when it was started, so there it is an upper
        bound. ``None`` if it is not known
    out_of_memory: whether the kernel most likely killed it because memory ran out
    memory_limit_bytes: the limit of its control group, set by a batch system, say; ``None`` if there
        is none. Only for a death by ``out_of_memory``

    Exit status and signal are both ``None`` when other code in this process (a bare ``os.wait()``,
    an ignored SIGCHLD) has taken the news away.
    """

    exit_status: int | None
    signal_number: int | None
    peak_memory_bytes: int | None = None
    out_of_memory: bool = False
    memory_limit_bytes: int | None = None

    @classmethod
    def from_wait_status(
        cls,
        status: int,
        *,
        peak_memory_bytes: int,
        out_of_memory: bool = False,
        memory_limit_bytes: int | None = None,
    ) -> Death:
        """Read the status word of the ``os.wait`` family."""
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return cls(code, None, peak_memory_bytes)
        limit = memory_limit_bytes if out_of_memory else None
        return cls(None, -code, peak_memory_bytes, out_of_memory, limit)

    def __str__(self) -> str:
        if self.exit_status is not None:
            return f"exited with status {self.exit_status}"
        if self.signal_number is None:
            return "ended in an unknown way: other code of this program collected its exit status"
        text = f"killed by signal {self.signal_number}{_signal_name(self.signal_number)}"
        if self.out_of_memory:
            text += (
                ", most likely because memory ran out:"
                " the kernel's count of out-of-memory kills rose"
            )
        if self.memory_limit_bytes is not None:
            text += f", and the limit of its control group is {_size(self.memory_limit_bytes)}"
        return text

    @property
    def in_full(self) -> str:
        """The cause, and the most memory that the process held."""
        if self.peak_memory_bytes is None:
            return str(self)
        return f"{self}; its peak memory was {_size(self.peak_memory_bytes)}"


def _size(count: int) -> str:
    """Write a number of bytes for people: ``45 MB``, ``2.1 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 999_500_000 else f"{count / 1e6:.0f} MB"


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def peak_memory_bytes(max_rss: int) -> int:
    """Turn the ``ru_maxrss`` of ``os.wait4`` into bytes: it counts KiB, but bytes on macOS."""
    return max_rss if sys.platform == "darwin" else max_rss * 1024


class MemoryWatch:
    """Tells whether the kernel has killed something for want of memory since the watch began.

    The kernel counts such kills for each control group, but does not say whom it killed. So a
    kill that one death has explained is not held against the next one.

    Parameters
    ----------
    proc: where the proc file system is mounted; tests give another folder
    """

    _explained: ClassVar[Counter[Path]] = Counter()

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._counter = _find_counter(proc)
        self._kills_before = self._unexplained_kills()

    @property
    def limit_bytes(self) -> int | None:
        """The lowest memory limit of this process's control group and those above it."""
        if self._counter is None:
            return None
        folders = (self._counter.parent, *self._counter.parent.parents)
        limits = [_read_limit(folder / name) for folder in folders for name in _LIMITS]
        return min((limit for limit in limits if limit is not None), default=None)

    def explains_a_kill(self) -> bool:
        """Say whether a SIGKILL seen just now was most likely the kernel's; ask once for each."""
        if self._counter is None or self._unexplained_kills() <= self._kills_before:
            return False
        self._explained[self._counter] += 1
        return True

    def _unexplained_kills(self) -> int:
        if self._counter is None:
            return 0
        return (_read_kills(self._counter) or 0) - self._explained[self._counter]


_LIMITS = "memory.max", "memory.limit_in_bytes"
_NO_LIMIT = 1 << 60  # version 1 has a huge number for "none"


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) < _NO_LIMIT else None


def _find_counter(proc: Path) -> Path | None:
    """The file that counts the kills closest to this process.

    A child lives in the control group of its parent. The count of the whole machine comes last:
    it rises for the neighbours' processes too.
    """
    for path in (*_control_group_files(proc), proc / "vmstat"):
        if _read_kills(path) is not None:
            return path
    return None


def _read_kills(path: Path) -> int | None:
    """The ``oom_kill`` line, which looks alike in all three kinds of file; ``None`` without one."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdecimal():
            return int(value)
    return None


def _control_group_files(proc: Path) -> Iterator[Path]:
    """The event file of this process's control group, versions 2 and 1 (see cgroups(7))."""
    try:
        groups = (proc / "self/cgroup").read_text(encoding="utf-8", errors="replace")
        mounts = (proc / "self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _below_mounts(mounts, group, "cgroup2", "", "memory.events")
        elif "memory" in controllers.split(","):
            yield from _below_mounts(mounts, group, "cgroup", "memory", "memory.oom_control")


def _below_mounts(
    mounts: str, group: str, kind: str, controller: str, file_name: str
) -> Iterator[Path]:
    for line in mounts.splitlines():
        mount, _, file_system = line.partition(" - ")
        root, mount_point = mount.split(" ")[3:5]
        mounted_kind, _, options = file_system.split(" ")[:3]
        if mounted_kind != kind or (controller and controller not in options.split(",")):
            continue
        # A container may see only its own part of the tree; the mount's root says which.
        below = group.removeprefix(root) if root != "/" else group
        yield Path(mount_point) / below.lstrip("/") / file_name
