"""What keeps a child process apart from its parent, with real processes."""

from __future__ import annotations

import ctypes
import os
import random
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import entries
import numpy as np
import pytest
from children import (
    TIMEOUT_S,
    RunScript,
    StartChild,
    hear,
    is_alive,
    wait_for_death,
    write_script,
)
from helpers import wait_until
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from parasnake import processes
from parasnake.isolation import POOL_VARIABLES
from parasnake.processes import Method, ParentWatch, Role


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


@pytest.fixture
def free_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which the user has set the size of no thread pool."""
    for variable in POOL_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


class TestIsolation:
    def test_it_leads_a_group_of_its_own_from_the_start(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(entries.stay, method=start_method)
        assert os.getpgid(child.pid) == child.pid != os.getpgrp()

    @pytest.mark.parametrize("role", Role)
    def test_handlers_of_the_parent_are_dropped(
        self, start_child: StartChild, start_method: Method, role: Role, parents_handlers: None
    ) -> None:
        told = hear(
            start_child(partial(entries.tell, entries.everything), method=start_method, role=role)
        )
        for_the_agent = "_do_nothing" if role is Role.WORKER else "default"
        assert told["handlers"] == {
            "SIGINT": for_the_agent,
            "SIGTERM": for_the_agent,
            "SIGCHLD": "default",
            "SIGHUP": "ignored",
            # A handler of the user's stays, as after any fork.
            "SIGALRM": "_handle" if start_method == "fork" else "default",
        }
        assert told["wakeup"] == -1
        assert told["blocked"] == []

    def test_signals_to_a_worker_do_nothing(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.tell, os.getpid), method=start_method)
        hear(child)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.killpg(child.pid, number)
        child.channel.shutdown(socket.SHUT_WR)
        assert wait_for_death(child).exit_status == 0

    def test_programs_that_a_worker_starts_do_not_ignore_them(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(
            partial(entries.tell, entries.handlers_of_a_subprocess), method=start_method
        )
        assert hear(child) == ["default_int_handler", str(int(signal.SIG_DFL))]

    def test_signals_are_held_back_until_the_child_has_its_handlers(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        for _ in range(20):
            child = start_child(partial(entries.tell, os.getpid), method=start_method)
            os.kill(child.pid, signal.SIGTERM)
            assert hear(child) == child.pid
            child.close()

    def test_standard_input_is_empty(self, start_child: StartChild, start_method: Method) -> None:
        told = hear(start_child(partial(entries.tell, entries.everything), method=start_method))
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

    def test_it_may_start_processes(self, start_child: StartChild, start_method: Method) -> None:
        assert (
            hear(start_child(partial(entries.tell, entries.sum_in_a_pool), method=start_method))
            == 55
        )

    def test_processes_that_it_forks_can_be_terminated(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.tell, entries.terminate_a_process), method=start_method)
        assert hear(child) == -signal.SIGTERM

    def test_a_thread_left_over_does_not_hold_up_the_end(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        assert (
            wait_for_death(start_child(entries.leave_a_thread, method=start_method)).exit_status
            == 0
        )


class TestDescriptors:
    def test_a_worker_of_a_plain_script_holds_its_channel_only(self, run_script: RunScript) -> None:
        lines = run_script(
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

    def test_what_user_code_has_opened(self, run_script: RunScript) -> None:
        lines = run_script(
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

    def test_processes_that_the_parent_forks_do_not_hold_the_channel(
        self, run_script: RunScript
    ) -> None:
        run_script(
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
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(partial(entries.tell, entries.fork_a_runaway), method=start_method)
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
        self, tmp_path: Path, start_method: Method, watch: ParentWatch, role: Role
    ) -> None:
        child = self.orphan(
            tmp_path,
            f"""
            child = processes.start(
                entries.read_nothing, method={start_method!r}, role={role}, parent_watch={watch}
            )
            """,
        )
        wait_until(lambda: not is_alive(child))

    def test_even_while_it_holds_the_gil(self, tmp_path: Path, start_method: Method) -> None:
        child = self.orphan(
            tmp_path, f"child = processes.start(entries.hold_the_gil, method={start_method!r})"
        )
        wait_until(lambda: not is_alive(child))

    @pytest.mark.parametrize("role", Role)
    def test_the_end_of_the_thread_that_started_it_is_not_the_parents(
        self, tmp_path: Path, start_method: Method, role: Role
    ) -> None:
        child = self.orphan(
            tmp_path,
            f"""
            import threading, warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            found = []
            def start():
                found.append(processes.start(
                    partial(entries.tell, int), method={start_method!r}, role={role}))
            thread = threading.Thread(target=start)
            thread.start(), thread.join()
            [child] = found
            """,
            check="assert child.wait(0.2) is None, child",
        )
        wait_until(lambda: not is_alive(child))

    def test_a_parent_that_is_dead_already(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        child = start_child(entries.stay, method="fork", parent_watch=ParentWatch.SIGNAL)
        assert str(wait_for_death(child)) == "killed by signal 9 (SIGKILL)"

    def test_where_the_kernel_sends_no_signal(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class CDLL(ctypes.CDLL):
            def __getattr__(self, name: str) -> Any:
                if name == "prctl":
                    raise AttributeError
                return super().__getattr__(name)

        monkeypatch.setattr(ctypes, "CDLL", CDLL)
        child = start_child(entries.read_nothing, method="fork", parent_watch=ParentWatch.SIGNAL)
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
    def test_lines_come_out_at_once_also_through_a_pipe(
        self, tmp_path: Path, start_method: Method
    ) -> None:
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
                child = processes.start(entry, method={start_method!r})
                sys.stdout.flush()
                sys.stdin.readline()
                child.close()
            """,
        )
        with subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "PYTHONUNBUFFERED": ""},
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
        self, start_child: StartChild, start_method: Method, capfd: pytest.CaptureFixture[str]
    ) -> None:
        wait_for_death(
            start_child(partial(entries.print_without_newline, "half a line"), method=start_method)
        )
        assert capfd.readouterr().out == "half a line"

    def test_nothing_of_the_parents_is_done_twice(self, run_script: RunScript) -> None:
        lines = run_script(
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
    def test_twins_draw_different_numbers(self, start_child: StartChild) -> None:
        random.seed(1)
        np.random.seed(1)
        children = [
            start_child(partial(entries.tell, entries.draw), method="fork") for _ in range(4)
        ]
        draws = [hear(child) for child in children] + [entries.draw()]
        assert len({first for first, _ in draws}) == 5
        assert len({second for _, second in draws}) == 5

    def test_another_generator_than_numpys_own(self, start_child: StartChild) -> None:
        # The stubs do not know of these everywhere.
        numpy_random: Any = np.random
        before = numpy_random.get_bit_generator()
        numpy_random.set_bit_generator(np.random.PCG64(1))
        try:
            twins = [
                start_child(partial(entries.tell, entries.draw), method="fork") for _ in range(2)
            ]
            draws = [hear(child)[1] for child in twins]
        finally:
            numpy_random.set_bit_generator(before)
        assert draws[0] != draws[1]

    def test_a_script_that_seeds_when_it_is_loaded(self, run_script: RunScript) -> None:
        lines = run_script(
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


def test_what_a_fork_inherits_is_never_searched_for_garbage(start_child: StartChild) -> None:
    child = start_child(partial(entries.tell, entries.inherited_and_frozen), method="fork")
    assert hear(child) is True
    assert not entries.inherited_and_frozen()


@pytest.mark.usefixtures("free_pools")
class TestThreadPools:
    def test_a_worker_gets_its_share(
        self, start_child: StartChild, start_method: Method, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "usable_cores", lambda: 7)
        child = start_child(
            partial(entries.tell, entries.pool_variables), method=start_method, workers_on_machine=3
        )
        variables = hear(child)
        assert variables == dict.fromkeys(POOL_VARIABLES, "2")
        assert not set(POOL_VARIABLES) & set(os.environ)

    @pytest.mark.skipif(processes.usable_cores() < 2, reason="one core has no threads to save")
    def test_it_never_gets_less_than_one_and_loaded_libraries_obey(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        assert max(entries.threads_of_pools()) > 1
        child = start_child(
            partial(entries.tell, entries.threads_of_pools),
            method=start_method,
            workers_on_machine=99,
        )
        assert set(hear(child)) == {1}
        assert max(entries.threads_of_pools()) > 1

    def test_the_user_has_set_one(
        self, start_child: StartChild, start_method: Method, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MKL_NUM_THREADS", "5")
        before = entries.threads_of_pools()
        for question, answer in (
            (entries.pool_variables, {"MKL_NUM_THREADS": "5"}),
            (entries.threads_of_pools, before),
        ):
            child = start_child(
                partial(entries.tell, question), method=start_method, workers_on_machine=99
            )
            assert hear(child) == answer

    def test_an_agent_may_use_the_machine(
        self, start_child: StartChild, start_method: Method
    ) -> None:
        child = start_child(
            partial(entries.tell, entries.pool_variables), method=start_method, role=Role.AGENT
        )
        assert hear(child) == {}

    def test_a_smaller_pool_stays_as_it_is(
        self, start_child: StartChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "usable_cores", lambda: 7)
        with threadpool_limits(1):
            child = start_child(partial(entries.tell, entries.threads_of_pools), method="fork")
            assert set(hear(child)) == {1}
