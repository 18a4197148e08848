"""Child processes, each a real one."""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import entries
import numpy as np
import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from helpers import wait_until
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from parasnake import death, processes
from parasnake.errors import ConfigurationError, PayloadError
from parasnake.isolation import POOL_VARIABLES
from parasnake.processes import Child, Death, ParentWatch, Role, choose_method, fork_is_safe

TIMEOUT_S = 30

StartChild = Callable[..., Child]
Run = Callable[..., list[str]]


@pytest.fixture(params=["fork", "spawn"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start() -> Iterator[StartChild]:
    """``processes.start``, whose children end with the test."""
    started: list[Child] = []

    def start(entry: Any, **conditions: Any) -> Child:
        started.append(processes.start(entry, **conditions))
        return started[-1]

    yield start
    for child in started:
        child.close()


@pytest.fixture
def free_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which the user has set the size of no thread pool."""
    for variable in POOL_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a script of its own in a fresh interpreter; give the lines that it printed."""

    def run(code: str, *arguments: str, name: str = "script.py", check: bool = True) -> list[str]:
        path = write_script(tmp_path, code, name)
        finished = subprocess.run(
            [sys.executable, "-W", "error", str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            check=False,
        )
        if check:
            assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
        return (finished.stdout + finished.stderr).splitlines()

    return run


def write_script(folder: Path, code: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


def hear(child: Child) -> Any:
    """What the child tells."""
    line = bytearray()
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([child.channel], [], [], TIMEOUT_S)
        assert readable, "the child says nothing"
        part = child.channel.recv(10_000)
        assert part, f"the child has hung up: {child.wait(TIMEOUT_S)}"
        line += part
    return json.loads(line)


def wait_for_death(child: Child) -> Death:
    death = child.wait(TIMEOUT_S)
    assert death is not None
    return death


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class TestStart:
    def test_the_entry_gets_the_channel_and_its_return_ends_the_child(
        self, start: StartChild, method: str
    ) -> None:
        child = start(partial(entries.tell, os.getppid), method=method)
        assert hear(child) == os.getpid()
        assert child.poll() is None
        child.channel.shutdown(socket.SHUT_WR)
        death = wait_for_death(child)
        assert (death.exit_status, death.signal_number, str(death)) == (
            0,
            None,
            "exited with status 0",
        )
        assert child.poll() is death

    def test_the_pidfd_tells_of_the_death(self, start: StartChild, method: str) -> None:
        child = start(entries.stay, method=method)
        assert child.pidfd is not None
        assert select.select([child.pidfd], [], [], 0)[0] == []
        child.channel.shutdown(socket.SHUT_WR)
        assert select.select([child.pidfd], [], [], TIMEOUT_S)[0] == [child.pidfd]
        assert child.poll() is not None

    def test_the_channel_is_non_blocking_here_and_blocking_there(
        self, start: StartChild, method: str
    ) -> None:
        child = start(partial(entries.tell, os.getpid), method=method)
        hear(child)
        with pytest.raises(BlockingIOError):
            child.channel.recv(1)
        assert child.poll() is None  # and so it still waits in recv()

    def test_a_child_that_stops_reading_stalls_nobody(self, start: StartChild, method: str) -> None:
        child = start(entries.read_nothing, method=method)
        hear(child)
        with pytest.raises(BlockingIOError):
            while True:
                child.channel.send(bytes(100_000))
        child.close()
        assert str(child.poll()) == "killed by signal 9 (SIGKILL)"

    def test_an_entry_that_cannot_be_pickled_is_refused_for_spawn(self) -> None:
        before = entries.open_descriptors()
        with pytest.raises(PayloadError):
            processes.start(partial(entries.exit_with, threading.Lock()), method="spawn")
        assert entries.open_descriptors() == before

    def test_no_process_left(self, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise BlockingIOError("Resource temporarily unavailable")

        monkeypatch.setattr(os, "fork", refuse)
        monkeypatch.setattr(subprocess, "Popen", refuse)
        before = entries.open_descriptors()
        with pytest.raises(BlockingIOError):
            processes.start(entries.stay, method=method)  # type: ignore[arg-type]
        assert entries.open_descriptors() == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()

    def test_windows_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        with pytest.raises(ConfigurationError, match="POSIX"):
            processes.start(entries.stay, method="spawn")

    def test_closed_standard_streams_never_become_a_channel(self, run: Run) -> None:
        run(
            """
            import os, sys
            from functools import partial
            import entries
            from parasnake import processes

            if __name__ == "__main__":
                os.close(0), os.close(1)
                for method in ("fork", "spawn"):
                    child = processes.start(entries.leave_a_thread, method=method)
                    assert child.channel.fileno() > 2
                    assert str(child.wait(30)) == "exited with status 0", child
                    child.close()
            """
        )


class TestChild:
    def test_fifty_rounds_leave_no_zombie_and_no_descriptor(self, method: str) -> None:
        before = entries.open_descriptors()
        children = []
        for _ in range(50):
            child = processes.start(entries.stay, method=method)  # type: ignore[arg-type]
            child.kill()
            child.close()
            children.append(child.pid)
        assert entries.open_descriptors() == before
        assert not any(psutil.pid_exists(pid) for pid in children)

    def test_closing_ends_what_still_lives_and_may_be_repeated(self, method: str) -> None:
        child = processes.start(entries.hold_the_gil, method=method)  # type: ignore[arg-type]
        hear(child)
        assert repr(child) == f"<Child {child.pid}: alive>"
        child.close()
        child.close()
        child.kill()
        child.terminate()
        assert repr(child) == f"<Child {child.pid}: killed by signal 9 (SIGKILL)>"
        assert not psutil.pid_exists(child.pid)

    def test_the_kill_takes_grandchildren_along(self, start: StartChild, method: str) -> None:
        child = start(partial(entries.tell, entries.start_a_grandchild), method=method)
        grandchild = hear(child)
        assert is_alive(grandchild)
        child.kill()
        wait_until(lambda: not is_alive(grandchild))

    def test_a_death_of_its_own_takes_grandchildren_along(
        self, start: StartChild, method: str
    ) -> None:
        child = start(partial(entries.tell, entries.start_a_grandchild), method=method)
        grandchild = hear(child)
        os.kill(child.pid, signal.SIGKILL)
        wait_for_death(child)
        wait_until(lambda: not is_alive(grandchild))

    def test_terminate_is_for_agents(self, start: StartChild, method: str) -> None:
        agent = start(partial(entries.tell, os.getpid), method=method, role=Role.AGENT)
        worker = start(partial(entries.tell, os.getpid), method=method)
        hear(agent), hear(worker)
        worker.terminate()
        agent.terminate()
        assert str(wait_for_death(agent)) == "killed by signal 15 (SIGTERM)"
        assert worker.poll() is None

    def test_without_pidfd_and_waitid(
        self, start: StartChild, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(os, "waitid")
        child = start(partial(entries.tell, entries.start_a_grandchild), method=method)
        grandchild = hear(child)
        assert child.pidfd is None
        assert child.wait(0.01) is None
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(0.01) is None
        os.kill(child.pid, signal.SIGKILL)
        assert str(wait_for_death(child)) == "killed by signal 9 (SIGKILL)"
        wait_until(lambda: not is_alive(grandchild))

    def test_without_the_pidfd_call(
        self, start: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(pid: int) -> int:
            raise OSError

        monkeypatch.setattr(os, "pidfd_open", refuse)
        assert start(entries.stay, method="fork").pidfd is None


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
    def test_its_cause(self, start: StartChild, method: str, entry: Any, cause: str) -> None:
        death = wait_for_death(start(entry, method=method))
        assert str(death) == cause
        assert death.peak_memory_bytes is not None
        assert 1 << 20 < death.peak_memory_bytes < 1 << 40

    def test_what_it_says_goes_to_standard_error(
        self, start: StartChild, method: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        wait_for_death(start(partial(entries.exit_with, "good bye"), method=method))
        assert capfd.readouterr().err == "good bye\n"
        wait_for_death(start(entries.raise_error, method=method))
        error = capfd.readouterr().err
        assert error.endswith("ValueError: a canary in the entry\n")
        assert "line" in error

    def test_somebody_else_has_collected_it(self, start: StartChild, method: str) -> None:
        child = start(partial(entries.exit_at_once, 3), method=method)
        os.waitpid(child.pid, 0)
        assert child.poll() == Death(None, None)
        assert "unknown" in str(child.poll())

    def test_out_of_memory(self, run: Run, memory_group: Path) -> None:
        lines = run(
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
                "the kernel's count of out-of-memory kills rose",
                "killed by signal 9 (SIGKILL)",
            ]
            * 2
        )


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


class TestIsolation:
    def test_it_leads_a_group_of_its_own_from_the_start(
        self, start: StartChild, method: str
    ) -> None:
        child = start(entries.stay, method=method)
        assert os.getpgid(child.pid) == child.pid != os.getpgrp()

    @pytest.mark.parametrize("role", Role)
    def test_handlers_of_the_parent_are_dropped(
        self, start: StartChild, method: str, role: Role, parents_handlers: None
    ) -> None:
        told = hear(start(partial(entries.tell, entries.everything), method=method, role=role))
        for_the_agent = "_do_nothing" if role is Role.WORKER else "default"
        assert told["handlers"] == {
            "SIGINT": for_the_agent,
            "SIGTERM": for_the_agent,
            "SIGCHLD": "default",
            "SIGHUP": "ignored",
            # A handler of the user's stays, as after any fork.
            "SIGALRM": "_handle" if method == "fork" else "default",
        }
        assert told["wakeup"] == -1
        assert told["blocked"] == []

    def test_signals_to_a_worker_do_nothing(self, start: StartChild, method: str) -> None:
        child = start(partial(entries.tell, os.getpid), method=method)
        hear(child)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(child.pid, number)
        assert child.wait(0.05) is None
        child.channel.shutdown(socket.SHUT_WR)
        assert wait_for_death(child).exit_status == 0

    def test_programs_that_a_worker_starts_do_not_ignore_them(
        self, start: StartChild, method: str
    ) -> None:
        child = start(partial(entries.tell, entries.handlers_of_a_subprocess), method=method)
        assert hear(child) == ["default_int_handler", str(int(signal.SIG_DFL))]

    def test_signals_are_held_back_until_the_child_has_its_handlers(
        self, start: StartChild, method: str
    ) -> None:
        for _ in range(20):
            child = start(partial(entries.tell, os.getpid), method=method)
            os.kill(child.pid, signal.SIGTERM)
            assert hear(child) == child.pid
            child.close()

    def test_standard_input_is_empty(self, start: StartChild, method: str) -> None:
        told = hear(start(partial(entries.tell, entries.everything), method=method))
        assert told["stdin"] == ""

    def test_what_the_parent_has_read_ahead_is_not_for_the_child(self, tmp_path: Path) -> None:
        script = write_script(
            tmp_path,
            """
            import sys
            from parasnake import processes

            def read(channel):
                print("child:", sys.stdin.read())

            print(sys.stdin.readline())
            child = processes.start(read, method="fork")
            child.wait(30), child.close()
            print(sys.stdin.read())
            """,
        )
        output = subprocess.check_output(
            [sys.executable, script], input="one\ntwo\n", text=True, timeout=TIMEOUT_S
        )
        assert output.split() == ["one", "child:", "two"]

    def test_it_may_start_processes(self, start: StartChild, method: str) -> None:
        assert hear(start(partial(entries.tell, entries.sum_in_a_pool), method=method)) == 55

    def test_processes_that_it_forks_can_be_terminated(
        self, start: StartChild, method: str
    ) -> None:
        child = start(partial(entries.tell, entries.terminate_a_process), method=method)
        assert hear(child) == -signal.SIGTERM

    def test_a_thread_left_over_does_not_hold_up_the_end(
        self, start: StartChild, method: str
    ) -> None:
        assert wait_for_death(start(entries.leave_a_thread, method=method)).exit_status == 0


@pytest.fixture
def parents_handlers() -> Iterator[None]:
    def _handle(number: int, frame: object) -> None: ...

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wakeup_before = signal.set_wakeup_fd(theirs.fileno())
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM)
    before = {number: signal.signal(number, _handle) for number in numbers}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(wakeup_before)
    ours.close()
    theirs.close()


class TestDescriptors:
    def test_a_worker_of_a_plain_script_holds_its_channel_only(self, run: Run) -> None:
        lines = run(
            """
            import json, os, selectors, socket
            from functools import partial
            import entries
            from parasnake import processes

            if __name__ == "__main__":
                coverage = entries.open_descriptors() - {0, 1, 2}
                selector = selectors.DefaultSelector()
                server = socket.create_server(("localhost", 0))
                signals = socket.socketpair()
                ours = (selector, server, *signals)
                start = partial(processes.start, closing=ours)
                for method in ("fork", "spawn"):
                    def tell():
                        child = start(partial(entries.tell, entries.open_descriptors_list),
                                      method=method)
                        selector.register(child.channel, selectors.EVENT_READ)
                        selector.register(child.pidfd, selectors.EVENT_READ)
                        child.channel.setblocking(True)
                        kinds = json.loads(child.channel.recv(1000))
                        print([kind for number, kind in kinds if number not in coverage])
                        return child
                    def end(child):
                        selector.unregister(child.channel)
                        selector.unregister(child.pidfd)
                        child.close()

                    first, second = tell(), tell()
                    end(first)
                    replacement = tell()
                    end(second), end(replacement)
                # The parent's own have not suffered.
                signals[0].send(b"x")
                assert signals[1].recv(1) == b"x"
                for resource in ours:
                    resource.close()
            """
        )
        assert lines == [str(["device", "other", "other", "socket"])] * 6

    def test_what_user_code_has_opened(self, run: Run) -> None:
        lines = run(
            """
            import os, socket
            from parasnake import processes

            log = open("log", "w")
            pair = socket.socketpair()
            library = socket.socketpair()
            numbers = {end.fileno() for end in library}

            def use(channel):
                log.write("from the child")
                log.flush()
                try:
                    pair[0].send(b"x")
                except OSError as error:
                    print("sockets:", error.strerror)
                numbers_now = set()
                for _ in range(20):
                    numbers_now.add(os.dup(1))
                # A later file cannot be hit by an object that still has an old number,
                assert not numbers_now & {end.fileno() for end in pair}
                # and of the library's objects none has.
                assert [end.fileno() for end in library] == [-1, -1]
                assert numbers & numbers_now

            child = processes.start(use, method="fork", closing=library)
            print(child.wait(30))
            child.close()
            log.close()
            with open("log") as log:
                print(log.read())
            pair[0].send(b"y")
            print(pair[1].recv(10))
            for end in (*pair, *library):
                end.close()
            """
        )
        assert lines == [
            "sockets: Socket operation on non-socket",
            "exited with status 0",
            "from the child",
            "b'y'",
        ]

    def test_processes_that_the_parent_forks_do_not_hold_the_channel(self, run: Run) -> None:
        run(
            """
            import os, time
            import entries
            from parasnake import processes

            child = processes.start(entries.stay, method="fork")
            pid = os.fork()
            if pid == 0:
                assert child.channel.fileno() == -1 and child.pidfd is None
                child.kill()
                time.sleep(1000)
            child.channel.close()
            assert str(child.wait(30)) == "exited with status 0", child
            child.close()
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            """
        )

    def test_processes_that_the_child_forks_do_not_hold_the_channel(
        self, start: StartChild, method: str
    ) -> None:
        child = start(partial(entries.tell, entries.fork_a_runaway), method=method)
        runaway = hear(child)
        wait_until(lambda: os.getpgid(runaway) == runaway)
        child.kill()
        assert select.select([child.channel], [], [], TIMEOUT_S)[0]
        assert child.channel.recv(1) == b""
        assert is_alive(runaway)
        os.kill(runaway, signal.SIGKILL)


class TestParentsDeath:
    @pytest.mark.parametrize("watch", [ParentWatch.SIGNAL, ParentWatch.THREAD])
    @pytest.mark.parametrize("role", Role)
    def test_kill_9_of_the_parent_ends_the_child(
        self, tmp_path: Path, method: str, watch: ParentWatch, role: Role
    ) -> None:
        child = self.orphan(
            tmp_path,
            f"""
            child = processes.start(
                entries.read_nothing, method={method!r}, role={role}, parent_watch={watch}
            )
            """,
        )
        wait_until(lambda: not is_alive(child))

    def test_even_while_it_holds_the_gil(self, tmp_path: Path, method: str) -> None:
        child = self.orphan(
            tmp_path, f"child = processes.start(entries.hold_the_gil, method={method!r})"
        )
        wait_until(lambda: not is_alive(child))

    @pytest.mark.parametrize("role", Role)
    def test_the_end_of_the_thread_that_started_it_is_not_the_parents(
        self, tmp_path: Path, method: str, role: Role
    ) -> None:
        child = self.orphan(
            tmp_path,
            f"""
            import threading, warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            found = []
            def start():
                found.append(processes.start(
                    partial(entries.tell, int), method={method!r}, role={role}))
            thread = threading.Thread(target=start)
            thread.start(), thread.join()
            [child] = found
            """,
            check="assert child.wait(0.2) is None, child",
        )
        wait_until(lambda: not is_alive(child))

    def test_a_parent_that_is_dead_already(
        self, start: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        child = start(entries.stay, method="fork", parent_watch=ParentWatch.SIGNAL)
        assert str(wait_for_death(child)) == "killed by signal 9 (SIGKILL)"

    def test_where_the_kernel_sends_no_signal(
        self, start: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class CDLL(ctypes.CDLL):
            def __getattr__(self, name: str) -> Any:
                if name == "prctl":
                    raise AttributeError
                return super().__getattr__(name)

        monkeypatch.setattr(ctypes, "CDLL", CDLL)
        child = start(entries.read_nothing, method="fork", parent_watch=ParentWatch.SIGNAL)
        hear(child)
        child.channel.close()
        assert wait_for_death(child).signal_number == signal.SIGKILL

    @staticmethod
    def orphan(folder: Path, code: str, check: str = "") -> int:
        """Start a child from a parent that then dies by SIGKILL; give the child's number."""
        script = write_script(
            folder,
            """
            import os, select, signal, sys
            from functools import partial
            import entries
            from parasnake import processes
            from parasnake.processes import ParentWatch, Role
            if __name__ == "__main__":
            """,
        )
        body = textwrap.dedent(code) + textwrap.dedent(f"""
            assert select.select([child.channel], [], [], 30)[0] and child.channel.recv(10)
            {check}
            print(child.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """)
        with script.open("a", encoding="utf-8") as file:
            file.write(textwrap.indent(body, "    "))
        parent = subprocess.run(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            timeout=TIMEOUT_S,
            check=False,
        )
        assert parent.returncode == -signal.SIGKILL
        return int(parent.stdout)


class TestOutput:
    def test_lines_come_out_at_once_also_through_a_pipe(self, tmp_path: Path, method: str) -> None:
        script = write_script(
            tmp_path,
            f"""
            import sys
            from functools import partial
            import entries
            from parasnake import processes

            if __name__ == "__main__":
                sys.stdout.write("from the parent\\n")
                entry = partial(entries.print_and_stay, "from the child")
                child = processes.start(entry, method={method!r})
                sys.stdin.readline()
                child.close()
            """,
        )
        with subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            text=True,
        ) as parent:
            assert parent.stdin is not None
            assert parent.stdout is not None
            lines = [parent.stdout.readline() for _ in range(3)]
            parent.stdin.write("\n")
            parent.stdin.close()
            lines += parent.stdout.readlines()
        expected = ["from the child\n", "from the child\n", "from the parent\n"]
        assert sorted(lines) == expected

    def test_the_end_flushes(
        self, start: StartChild, method: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        wait_for_death(start(partial(entries.print_without_newline, "half a line"), method=method))
        assert capfd.readouterr().out == "half a line"

    def test_nothing_of_the_parents_is_done_twice(self, run: Run) -> None:
        lines = run(
            """
            import atexit
            from parasnake import processes

            def entry(channel): pass

            log = open("log", "w")
            log.write("once")
            print("once", end=" ")
            atexit.register(print, "once")
            child = processes.start(entry, method="fork")
            child.wait(30), child.close()
            log.close()
            with open("log") as log:
                print(log.read(), end=" ")
            """
        )
        assert lines == ["once once once"]


class TestRandomGenerators:
    def test_twins_draw_different_numbers(self, start: StartChild) -> None:
        random.seed(1)
        np.random.seed(1)
        children = [start(partial(entries.tell, entries.draw), method="fork") for _ in range(4)]
        draws = [hear(child) for child in children] + [entries.draw()]
        assert len({first for first, _ in draws}) == 5
        assert len({second for _, second in draws}) == 5

    def test_another_generator_than_numpys_own(self, start: StartChild) -> None:
        # The stubs do not know of these everywhere.
        numpy_random: Any = np.random
        before = numpy_random.get_bit_generator()
        numpy_random.set_bit_generator(np.random.PCG64(1))
        try:
            twins = [start(partial(entries.tell, entries.draw), method="fork") for _ in range(2)]
            draws = [hear(child)[1] for child in twins]
        finally:
            numpy_random.set_bit_generator(before)
        assert draws[0] != draws[1]

    def test_a_script_that_seeds_when_it_is_loaded(self, run: Run) -> None:
        lines = run(
            """
            import random
            import numpy
            from parasnake import processes

            random.seed(1)
            numpy.random.seed(1)

            def draw(channel):
                print(random.random(), flush=True)
                print(numpy.random.random(), flush=True)

            if __name__ == "__main__":
                for method in ("spawn", "spawn", "fork"):
                    child = processes.start(draw, method=method)
                    child.wait(30), child.close()
            """
        )
        assert len(set(lines)) == 6


@pytest.mark.usefixtures("free_pools")
class TestThreadPools:
    def test_a_worker_gets_its_share(
        self, start: StartChild, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "usable_cores", lambda: 7)
        child = start(
            partial(entries.tell, entries.pool_variables), method=method, workers_on_machine=3
        )
        variables = hear(child)
        assert variables == dict.fromkeys(POOL_VARIABLES, "2")
        assert not set(POOL_VARIABLES) & set(os.environ)

    @pytest.mark.skipif(processes.usable_cores() < 2, reason="one core has no threads to save")
    def test_it_never_gets_less_than_one_and_loaded_libraries_obey(
        self, start: StartChild, method: str
    ) -> None:
        assert max(entries.threads_of_pools()) > 1
        child = start(
            partial(entries.tell, entries.threads_of_pools), method=method, workers_on_machine=99
        )
        assert set(hear(child)) == {1}
        assert max(entries.threads_of_pools()) > 1

    def test_the_user_has_set_one(
        self, start: StartChild, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MKL_NUM_THREADS", "5")
        before = entries.threads_of_pools()
        for question, answer in (
            (entries.pool_variables, {"MKL_NUM_THREADS": "5"}),
            (entries.threads_of_pools, before),
        ):
            child = start(partial(entries.tell, question), method=method, workers_on_machine=99)
            assert hear(child) == answer

    def test_an_agent_may_use_the_machine(self, start: StartChild, method: str) -> None:
        child = start(partial(entries.tell, entries.pool_variables), method=method, role=Role.AGENT)
        assert hear(child) == {}

    def test_a_smaller_pool_stays_as_it_is(
        self, start: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "usable_cores", lambda: 7)
        with threadpool_limits(1):
            child = start(partial(entries.tell, entries.threads_of_pools), method="fork")
            assert set(hear(child)) == {1}


class TestMethods:
    def test_fork_is_safe_with_one_thread_only(self) -> None:
        assert fork_is_safe()
        assert choose_method("auto") == "fork"
        event = threading.Event()
        thread = threading.Thread(target=event.wait)
        thread.start()
        assert not fork_is_safe()
        assert choose_method("auto") == "spawn"
        event.set()
        thread.join()
        wait_until(fork_is_safe)

    def test_the_threads_of_openblas_do_no_harm(self, run: Run) -> None:
        lines = run(
            """
            import os
            import entries
            import numpy
            from functools import partial
            from parasnake import processes

            if __name__ == "__main__":
                ones = numpy.ones((500, 500))
                ones @ ones
                assert len(os.listdir("/proc/self/task")) > 1 or processes.usable_cores() == 1
                for _ in range(3):
                    child = processes.start(
                        partial(entries.tell, entries.threads_of_pools),
                        method=processes.choose_method("auto"),
                    )
                    child.channel.setblocking(True)
                    assert child.channel.recv(100)
                    print(processes.choose_method("auto"))
                    child.close()
                    ones @ ones
            """
        )
        assert lines == ["fork"] * 3

    def test_other_threads_of_the_system_do(self, run: Run) -> None:
        lines = run(
            """
            import ctypes, sys
            from parasnake import processes

            libc = ctypes.CDLL(None)
            print(processes.choose_method("auto"))
            thread = ctypes.c_ulong()
            assert libc.pthread_create(ctypes.byref(thread), None, libc.pause, None) == 0
            print(processes.choose_method("auto"))
            import numpy
            print(processes.choose_method("auto"))
            sys.stdout.flush()
            """
        )
        assert lines[:2] == ["fork", "spawn"]

    @pytest.mark.parametrize("platform", ["darwin", "linux"])
    def test_where_threads_cannot_be_counted(
        self, monkeypatch: pytest.MonkeyPatch, platform: str
    ) -> None:
        def refuse(_: Path) -> Iterator[Path]:
            raise FileNotFoundError

        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(Path, "iterdir", refuse)
        assert not fork_is_safe()

    def test_a_method_that_is_wanted_is_taken(self) -> None:
        assert choose_method("fork") == "fork"
        assert choose_method("spawn") == "spawn"

    def test_no_such_method(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigurationError, match="'auto', 'fork' or 'spawn'"):
            choose_method("forkserver")
        monkeypatch.delattr(os, "fork")
        assert choose_method("auto") == "spawn"
        with pytest.raises(ConfigurationError, match="use 'spawn' or 'auto'"):
            choose_method("fork")

    def test_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert processes.usable_cores() == len(os.sched_getaffinity(0))
        monkeypatch.delattr(os, "sched_getaffinity")
        assert processes.usable_cores() == os.cpu_count()


class TestScript:
    """What a spawned child makes of its parent's main module."""

    CODE = """
        import dataclasses, enum, pickle, sys
        from functools import partial
        from parasnake import processes

        counter = 0

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Point:
            x: "int"

        def look(colour, point, channel):
            global counter
            counter += 1
            import __main__, __mp_main__
            assert __main__ is __mp_main__ is sys.modules[look.__module__]
            assert __main__.counter == 1
            assert colour is Colour.RED
            assert type(point) is Point and Point.__module__ == "__mp_main__"
            print(__name__, sys.argv[1:], flush=True)

        if __name__ == "__main__":
            child = processes.start(partial(look, Colour.RED, Point(1)), method="spawn")
            print(child.wait(30))
            child.close()
        """

    EXPECTED = ("__mp_main__ ['--option', 'a b']", "exited with status 0")

    @pytest.mark.parametrize("name", ["script.py", "script", "späße.py"])
    def test_a_file(self, run: Run, name: str, tmp_path: Path) -> None:
        lines = run(self.CODE, "--option", "a b", name=name)
        assert tuple(lines) == self.EXPECTED
        assert not (tmp_path / "__pycache__").exists()

    def test_a_module(self, tmp_path: Path) -> None:
        package = tmp_path / "package"
        package.mkdir()
        write_script(package, "", "__init__.py")
        write_script(package, "x = 1", "other.py")
        relative = "from .other import x\n" + textwrap.dedent(self.CODE)
        write_script(package, relative, "module.py")
        output = subprocess.check_output(
            [sys.executable, "-m", "package.module", "--option", "a b"], cwd=tmp_path, text=True
        )
        assert tuple(output.splitlines()) == self.EXPECTED

    @pytest.mark.parametrize("arguments", [["-c"], ["-m", "package"]])
    def test_nothing_to_load(self, tmp_path: Path, arguments: list[str]) -> None:
        code = """
            import sys, entries
            from functools import partial
            from parasnake import processes, script
            assert script.find() is None
            child = processes.start(partial(entries.exit_with, 7), method="spawn")
            print(child.wait(30))
            child.close()
            """
        if arguments == ["-c"]:
            arguments = ["-c", textwrap.dedent(code)]
        else:
            (tmp_path / "package").mkdir()
            write_script(tmp_path / "package", code, "__main__.py")
        output = subprocess.check_output(
            [sys.executable, *arguments],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            cwd=tmp_path,
            text=True,
        )
        assert output == "exited with status 7\n"

    def test_flags_and_path_of_the_interpreter(self, tmp_path: Path) -> None:
        code = """
            import sys
            from parasnake import processes

            def look(channel):
                print(sys.flags.optimize, sys.flags.dont_write_bytecode, sys.warnoptions,
                      "/no/such/folder" in sys.path, flush=True)

            if __name__ == "__main__":
                sys.path.append("/no/such/folder")
                child = processes.start(look, method="spawn")
                child.wait(30), child.close()
            """
        script = write_script(tmp_path, code)
        output = subprocess.check_output(
            [sys.executable, "-OBWerror", script], text=True, cwd=tmp_path
        )
        assert output == "1 1 ['error'] True\n"

    BROKEN = """
        import json, sys
        import entries
        from parasnake import processes

        def entry(channel): pass

        if __name__ != "__main__":
            {statement}

        if __name__ == "__main__":
            report = getattr(entries, sys.argv[1], None)
            child = processes.start(entry, method="spawn", on_boot_error=report)
            print(child.wait(30), flush=True)
            child.channel.setblocking(True)
            told = child.channel.recv(10_000)
            print("told:" if told else "not told", json.loads(told or '""'), flush=True)
            child.close()
        """

    @pytest.mark.parametrize("report", ["report_boot_error", "fail_to_send", ""])
    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("exec('1 +')", "SyntaxError"),
            ("sys.exit(3)", 'belongs under: if __name__ == "__main__":'),
            ("del entry", "entry"),
        ],
    )
    def test_it_cannot_be_loaded(
        self, run: Run, report: str, statement: str, expected: str
    ) -> None:
        lines = run(self.BROKEN.format(statement=statement), report, check=False)
        text = "\n".join(lines)
        assert lines[0] == "exited with status 70"
        assert "could not be loaded in a new process" in text
        assert re.search(re.escape(expected), text)
        assert text.count("could not be loaded") == 1
        assert "parasnake/" not in text
        assert (lines[1].startswith("told")) == (report == "report_boot_error")

    def test_a_missing_module(self) -> None:
        from parasnake import script

        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            script.load(script.Script(module="no_such_module"))

    def test_a_script_that_starts_itself_can_be_told(self, run: Run) -> None:
        lines = run(
            """
            import entries
            from parasnake import processes, script

            if script.being_loaded():
                raise RuntimeError(f"put it under if __name__: {script.being_loaded()}")

            child = processes.start(entries.stay, method="spawn")
            assert script.being_loaded() is None
            print(child.wait(30))
            child.close()
            """,
            check=False,
        )
        assert lines[0] == "exited with status 70"
        assert lines[-1].startswith("RuntimeError: put it under if __name__: /")


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

    def test_the_machine(self, tmp_path: Path) -> None:
        proc = self.proc(tmp_path, cgroup="0::/\n", mountinfo="", vmstat=3)
        self.check(tmp_path, proc, "proc/vmstat")

    def test_nothing_is_known(self, tmp_path: Path) -> None:
        assert not death.MemoryWatch(tmp_path).explains_a_kill()

    def test_this_machine_has_a_counter(self) -> None:
        if sys.platform == "linux":
            assert death._find_counter(Path("/proc")) is not None

    def test_peak_memory_units(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        assert death.peak_memory_bytes(3) == 3072
        monkeypatch.setattr(sys, "platform", "darwin")
        assert death.peak_memory_bytes(3) == 3
