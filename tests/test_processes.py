"""Starting and ending child processes, each a real one."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import entries
import psutil  # type: ignore[import-untyped]  # its types are not installed
import pytest
from children import (
    TIMEOUT_S,
    RunScript,
    StartChild,
    hear,
    is_alive,
    wait_for_death,
)
from helpers import wait_until

from parasnake import isolation, processes
from parasnake.child import BOOT_FAILED
from parasnake.errors import ConfigurationError, PayloadError
from parasnake.processes import Method, Role, choose_method, fork_is_safe


class TestStart:
    def test_the_entry_gets_the_channel_and_its_return_ends_the_child(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.tell, os.getppid), method=start_method)
        assert hear(child) == os.getpid()
        assert child.poll() is None
        child.channel.shutdown(socket.SHUT_WR)
        death = wait_for_death(child)
        assert (death.exit_status, death.signal_number) == (0, None)
        assert child.poll() is death

    def test_the_pidfd_tells_of_the_death(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(entries.stay, method=start_method)
        assert child.pidfd is not None
        assert select.select([child.pidfd], [], [], 0)[0] == []
        child.channel.shutdown(socket.SHUT_WR)
        assert select.select([child.pidfd], [], [], TIMEOUT_S)[0] == [child.pidfd]
        assert child.poll() is not None

    def test_the_channel_is_non_blocking_here_and_blocking_there(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.tell, os.getpid), method=start_method)
        hear(child)
        with pytest.raises(BlockingIOError):
            child.channel.recv(1)
        assert child.poll() is None  # and so it still waits in recv()

    def test_a_child_that_stops_reading_stalls_nobody(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(entries.read_nothing, method=start_method)
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

    def test_no_process_left(self, start_method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise BlockingIOError("Resource temporarily unavailable")

        monkeypatch.setattr(os, "fork", refuse)
        monkeypatch.setattr(subprocess, "Popen", refuse)
        before = entries.open_descriptors()
        for pipe_output in (False, True):
            with pytest.raises(BlockingIOError):
                processes.start(entries.stay, method=start_method, pipe_output=pipe_output)
        assert entries.open_descriptors() == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()

    def test_no_descriptor_left_for_its_output(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pipe, ends = os.pipe, list[int]()

        def one_only() -> tuple[int, int]:
            if ends:
                raise OSError("Too many open files")
            ends.extend(pipe())
            return ends[0], ends[1]

        monkeypatch.setattr(os, "pipe", one_only)
        before = entries.open_descriptors()
        with pytest.raises(OSError, match="Too many"):
            processes.start(entries.stay, method="fork", pipe_output=True)
        assert entries.open_descriptors() == before

    def test_its_output_can_be_piped(self, start_child: StartChild, start_method: Method) -> None:
        child = start_child(entries.write_as_c_does, method=start_method, pipe_output=True)
        output = child.take_output()
        assert output is not None
        assert child.take_output() is None
        with os.fdopen(output[0], "rb") as out, os.fdopen(output[1], "rb") as err:
            assert (out.read(), err.read()) == (b"out", b"err")

    def test_pipes_that_nobody_has_taken_are_closed(self, start_method: Method) -> None:
        before = entries.open_descriptors()
        processes.start(entries.stay, method=start_method, pipe_output=True).close()
        assert entries.open_descriptors() == before

    def test_windows_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        with pytest.raises(ConfigurationError, match="POSIX"):
            processes.start(entries.stay, method="spawn")

    def test_closed_standard_streams_never_become_a_channel(self, run_script: RunScript) -> None:
        run_script(
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
    def test_fifty_rounds_leave_no_zombie_and_no_descriptor(self, start_method: Method) -> None:
        before = entries.open_descriptors()
        children = []
        for _ in range(50):
            child = processes.start(entries.stay, method=start_method)
            child.kill()
            child.close()
            children.append(child.pid)
        assert entries.open_descriptors() == before
        assert not any(psutil.pid_exists(pid) for pid in children)

    def test_closing_ends_what_still_lives_and_may_be_repeated(self, start_method: Method) -> None:
        child = processes.start(entries.hold_the_gil, method=start_method)
        hear(child)
        assert repr(child) == f"<Child {child.pid}: alive>"
        child.close()
        child.close()
        child.kill()
        child.terminate()
        assert repr(child) == f"<Child {child.pid}: killed by signal 9 (SIGKILL)>"
        assert not psutil.pid_exists(child.pid)

    def test_the_kill_takes_grandchildren_along(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.tell, entries.start_a_grandchild), method=start_method)
        grandchild = hear(child)
        assert is_alive(grandchild)
        child.kill()
        wait_until(lambda: not is_alive(grandchild))

    def test_a_death_of_its_own_takes_grandchildren_along(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.tell, entries.start_a_grandchild), method=start_method)
        grandchild = hear(child)
        os.kill(child.pid, signal.SIGKILL)
        wait_for_death(child)
        wait_until(lambda: not is_alive(grandchild))

    def test_terminate_is_for_agents(self, start_child: StartChild, start_method: Method) -> None:
        agent = start_child(partial(entries.tell, os.getpid), method=start_method, role=Role.AGENT)
        worker = start_child(partial(entries.tell, os.getpid), method=start_method)
        hear(agent), hear(worker)
        worker.terminate()
        agent.terminate()
        assert str(wait_for_death(agent)) == "killed by signal 15 (SIGTERM)"
        assert worker.poll() is None

    def test_without_pidfd_and_waitid(
        self, start_child: StartChild, start_method: Method, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "pidfd_open")
        monkeypatch.delattr(os, "waitid")
        child = start_child(partial(entries.tell, entries.start_a_grandchild), method=start_method)
        grandchild = hear(child)
        assert child.pidfd is None
        assert child.wait(0.01) is None
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(0.01) is None
        os.kill(child.pid, signal.SIGKILL)
        assert str(wait_for_death(child)) == "killed by signal 9 (SIGKILL)"
        wait_until(lambda: not is_alive(grandchild))

    def test_without_the_pidfd_call(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(pid: int) -> int:
            raise OSError

        monkeypatch.setattr(os, "pidfd_open", refuse)
        assert start_child(entries.stay, method="fork").pidfd is None


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

    def test_the_threads_of_openblas_do_no_harm(self, run_script: RunScript) -> None:
        lines = run_script(
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

    def test_other_threads_of_the_system_do(self, run_script: RunScript) -> None:
        lines = run_script(
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


class TestBoot:
    def test_a_parent_that_dies_while_it_starts_a_child(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "framed", lambda record: bytes(5))
        child = start_child(entries.stay, method="spawn")
        child.channel.close()
        assert wait_for_death(child).exit_status == BOOT_FAILED

    def test_ctrl_c_while_it_is_made_ready(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def interrupt(**_: object) -> None:
            raise KeyboardInterrupt

        def report(_: socket.socket, text: str) -> None:
            (tmp_path / "told").write_text(text)

        monkeypatch.setattr(isolation, "set_signal_handlers", interrupt)
        child = start_child(entries.stay, method="fork", on_boot_error=report)
        assert wait_for_death(child).exit_status == 130
        assert not (tmp_path / "told").exists(), "nothing is wrong"

    def test_a_child_that_dies_before_it_is_told_anything(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        # More than a socket buffer holds, so that the parent must notice.
        child = start_child(partial(entries.exit_with, "x" * 10_000_000), method="spawn")
        assert wait_for_death(child).exit_status == 1

    def test_many_arguments(self, start_child: StartChild) -> None:
        child = start_child(partial(entries.send_text, "x" * 10_000_000), method="spawn")
        child.channel.setblocking(True)
        child.channel.settimeout(TIMEOUT_S)
        received = 0
        while part := child.channel.recv(1 << 20):
            received += len(part)
        assert received == 10_000_003


class TestAnswers:
    def test_a_child_gets_a_pipe_to_answer_by(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(entries.answer, method=start_method)
        answers = child.open_answers()
        assert answers is not None
        with pytest.raises(BlockingIOError):
            os.read(answers, 1)
        child.channel.send(b"!")
        assert select.select([answers], [], [], TIMEOUT_S)[0]
        assert os.read(answers, 100) == b"by the pipe"
        assert wait_for_death(child).exit_status == 0
        assert os.read(answers, 1) == b"", "nobody else holds the other end"
        os.close(answers)

    def test_without_a_descriptor_left_it_answers_by_its_socket(
        self, start_child: StartChild, start_method: Method, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child = start_child(entries.answer, method=start_method)

        def none_left() -> tuple[int, int]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(os, "pipe", none_left)
        assert child.open_answers() is None
        child.channel.send(b"!")
        assert select.select([child.channel], [], [], TIMEOUT_S)[0]
        assert child.channel.recv(100) == b"by the pipe"

    def test_nor_does_it_wait_for_a_pipe_that_cannot_be_sent(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The system limits how many descriptors are on their way at a time."""
        child = start_child(entries.answer, method="fork")

        def too_many(*_: object) -> NoReturn:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

        monkeypatch.setattr(socket, "send_fds", too_many)
        assert child.open_answers() is None
        child.channel.send(b"!")
        assert select.select([child.channel], [], [], TIMEOUT_S)[0]
        assert child.channel.recv(100) == b"by the pipe"

    def test_one_that_is_dead_already_makes_no_trouble(self, start_child: StartChild) -> None:
        child = start_child(entries.leave, method="fork")
        wait_for_death(child)
        assert child.open_answers() is None
        assert child.channel.recv(1) == b""
