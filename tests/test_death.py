"""How children die, and what is said about it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import entries
import pytest
from children import (
    RunScript,
    StartChild,
    wait_for_death,
)
from helpers import wait_until

from parasnake import death
from parasnake.processes import Death, Method


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group below this process's own, that allows 200 MB."""
    for event_file in death._control_group_files(Path("/proc")):
        group = event_file.parent / f"parasnake-test-{os.getpid()}"
        limit = "memory.max" if event_file.name == "memory.events" else "memory.limit_in_bytes"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text("200000000")
            yield group
            return
        except OSError:
            continue
        finally:
            wait_until(lambda group=group: not (group / "cgroup.procs").read_text())  # type: ignore[misc]
            group.rmdir()
    pytest.skip("this user cannot make a control group that limits memory")


class TestDeath:
    @pytest.mark.parametrize(
        ("entry", "cause"),
        [
            (partial(entries.exit_at_once, 3), "exited with status 3"),
            (partial(entries.exit_with, 4), "exited with status 4"),
            (partial(entries.exit_with, None), "exited with status 0"),
            (partial(entries.exit_with, -1), "exited with status 255"),
            (partial(entries.exit_with, "good bye"), "exited with status 1"),
            (entries.raise_error, "exited with status 1"),
            (entries.interrupt, "exited with status 130"),
            (partial(entries.kill_oneself, signal.SIGSEGV), "killed by signal 11 (SIGSEGV)"),
            (partial(entries.kill_oneself, signal.SIGKILL), "killed by signal 9 (SIGKILL)"),
            (partial(entries.kill_oneself, 40), "killed by signal 40"),
        ],
    )
    def test_its_cause(
        self, start_child: StartChild, start_method: Method, entry: Any, cause: str
    ) -> None:
        death = wait_for_death(start_child(entry, method=start_method))
        assert str(death) == cause
        assert death.peak_memory_bytes is not None
        assert 1 << 20 < death.peak_memory_bytes < 1 << 40

    def test_what_it_says_goes_to_standard_error(
        self, start_child: StartChild, start_method: Method, capfd: pytest.CaptureFixture[str]
    ) -> None:
        wait_for_death(start_child(partial(entries.exit_with, "good bye"), method=start_method))
        assert capfd.readouterr().err == "good bye\n"
        wait_for_death(start_child(entries.raise_error, method=start_method))
        error = capfd.readouterr().err
        assert error.endswith("ValueError: a canary in the entry\n")
        assert "line" in error

    def test_somebody_else_has_collected_it(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.exit_at_once, 3), method=start_method)
        os.waitpid(child.pid, 0)
        assert child.poll() == Death(None, None)
        assert "unknown" in str(child.poll())

    def test_in_full(self) -> None:
        assert Death(None, None).in_full == str(Death(None, None))
        assert Death(3, None, 45_400_000).in_full == (
            "exited with status 3; its peak memory was 45 MB"
        )
        assert Death(3, None, 999_600_000).in_full.endswith(" 1.0 GB")

    def test_out_of_memory(self, run_script: RunScript, memory_group: Path) -> None:
        lines = run_script(
            """
            import os, sys
            from pathlib import Path
            import entries
            from parasnake import processes

            if __name__ == "__main__":
                (Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
                for method in ("fork", "spawn"):
                    twin = processes.start(entries.stay, method=method)
                    child = processes.start(entries.devour_memory, method=method)
                    death = child.wait(30)
                    print(death.out_of_memory, death.peak_memory_bytes > 50_000_000)
                    print(death)
                    child.close()
                    # One kill explains one death.
                    os.kill(twin.pid, 9)
                    print(twin.wait(30))
                    twin.close()
            """,
            str(memory_group),
        )
        assert (
            lines
            == [
                "True True",
                "killed by signal 9 (SIGKILL), most likely because memory ran out: "
                "the kernel's count of out-of-memory kills rose, and the limit of its control group "
                "is 200 MB",
                "killed by signal 9 (SIGKILL)",
            ]
            * 2
        )


class TestMemoryWatch:
    """Which of the kernel's counters is read."""

    @staticmethod
    def proc(folder: Path, *, cgroup: str, mountinfo: str, vmstat: int | None = None) -> Path:
        proc = folder / "proc"
        (proc / "self").mkdir(parents=True)
        (proc / "self/cgroup").write_text(cgroup)
        (proc / "self/mountinfo").write_text(mountinfo.replace("$", str(folder)))
        if vmstat is not None:
            (proc / "vmstat").write_text(f"nr_free_pages 1\noom_kill {vmstat}\n")
        return proc

    @staticmethod
    def counter(folder: Path, path: str, kills: int) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"oom 9\noom_kill {kills}\n")

    def check(self, folder: Path, proc: Path, path: str) -> None:
        watch, later = death.MemoryWatch(proc), death.MemoryWatch(proc)
        assert not watch.explains_a_kill()
        self.counter(folder, path, 4)
        assert watch.explains_a_kill()
        assert not later.explains_a_kill()
        self.counter(folder, path, 5)
        assert later.explains_a_kill()
        assert not death.MemoryWatch(proc).explains_a_kill()

    def test_version_2(self, tmp_path: Path) -> None:
        self.counter(tmp_path, "fs/user/job/memory.events", 3)
        proc = self.proc(
            tmp_path,
            cgroup="0::/user/job\n",
            mountinfo="31 23 0:28 / $/fs rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
            vmstat=70,
        )
        self.check(tmp_path, proc, "fs/user/job/memory.events")

    def test_version_1_in_a_container(self, tmp_path: Path) -> None:
        self.counter(tmp_path, "fs/memory/job/memory.oom_control", 3)
        proc = self.proc(
            tmp_path,
            cgroup="5:cpu,cpuacct:/docker/7\n4:memory:/docker/7/job\n0::/\n",
            mountinfo=(
                "30 23 0:27 /docker/7 $/fs/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
                "31 23 0:28 /docker/7 $/fs/memory rw - cgroup cgroup rw,memory\n"
                "32 23 0:29 / $/fs/unified rw - cgroup2 cgroup2 rw\n"
            ),
            vmstat=70,
        )
        self.check(tmp_path, proc, "fs/memory/job/memory.oom_control")

    @pytest.mark.parametrize("name", ["memory.max", "memory.limit_in_bytes"])
    def test_the_lowest_limit_of_all_groups_above_counts(self, tmp_path: Path, name: str) -> None:
        self.counter(tmp_path, "fs/user/job/task/memory.events", 3)
        proc = self.proc(
            tmp_path,
            cgroup="0::/user/job/task\n",
            mountinfo="31 23 0:28 / $/fs rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
        )
        watch = death.MemoryWatch(proc)
        assert watch.limit_bytes is None
        for folder, limit in (("task", "max"), ("", "9223372036854771712"), (".", "4000")):
            (tmp_path / "fs/user/job" / folder / name).write_text(f"{limit}\n")
        (tmp_path / "fs/user" / name).write_text("3000\n")
        assert watch.limit_bytes == 3000

    def test_the_machine(self, tmp_path: Path) -> None:
        proc = self.proc(tmp_path, cgroup="0::/\n", mountinfo="", vmstat=3)
        self.check(tmp_path, proc, "proc/vmstat")

    def test_nothing_is_known(self, tmp_path: Path) -> None:
        assert not death.MemoryWatch(tmp_path).explains_a_kill()
        assert death.MemoryWatch(tmp_path).limit_bytes is None

    def test_this_machine_has_a_counter(self) -> None:
        if sys.platform == "linux":
            assert death._find_counter(Path("/proc")) is not None

    def test_peak_memory_units(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        assert death.peak_memory_bytes(3) == 3072
        monkeypatch.setattr(sys, "platform", "darwin")
        assert death.peak_memory_bytes(3) == 3
