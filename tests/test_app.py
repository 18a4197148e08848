"""The API: an app, its decorators, its runs in this process and what they refuse."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from helpers import wait_until

from parasnake import (
    ConfigurationError,
    ConnectError,
    HookError,
    NodeFailed,
    Parasnake,
    RefusedError,
    Status,
    WrongKeyError,
)
from parasnake.core.ids import TaskId
from parasnake.core.seeds import job_seed, task_seed

KEY = b"k" * 32


def square(n: int) -> int:
    """What most apps here compute."""
    return n * n


def first_time(path: Path) -> bool:
    """Whether nobody has asked this before, in any process."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def squares(count: int = 10, name: str = "squares") -> Parasnake:
    """Make an app that finishes with a sorted list of squares."""
    app = Parasnake(name)
    merged: list[int] = []

    @app.new_data(total=count)
    def data() -> Iterator[int]:
        merged.clear()
        yield from range(count)

    app.process(square)
    app.result(merged.append)
    app.finish(lambda: sorted(merged))
    return app


def run(app: Parasnake, workers: int = 1, **settings: Any) -> Any:
    """Run here, with workers that have the closures of the test."""
    return app.run(local=workers, start_method="fork", progress=False, **settings)


def endless() -> Parasnake:
    """Make an app that waits for data that never come."""
    app = Parasnake("endless")
    app.new_data(lambda: None)
    app.process(square)
    app.job_done(lambda: False)
    return app


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every socket fail."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    for name in ("socket", "socketpair", "create_server", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


class TestDecorators:
    @pytest.mark.parametrize(
        ("name", "function"),
        [
            ("init_data", lambda node_id: None),
            ("new_data", lambda node_id: None),
            ("process", lambda data, init_data, node_id: None),
            ("result", lambda result, data, node_id: None),
            ("job_done", lambda: True),
            ("node_init", lambda init_data, node_id: None),
            ("node_timeout", lambda node_id: None),
            ("failed", lambda data, error, node_id: None),
            ("finish", lambda: None),
        ],
    )
    def test_they_return_the_function_unchanged(
        self, name: str, function: Callable[..., object]
    ) -> None:
        app = Parasnake("test")
        assert getattr(app, name)(function) is function
        with pytest.raises(ConfigurationError, match="registered twice"):
            getattr(app, name)(function)

    def test_new_data_with_options_does_too(self) -> None:
        def data() -> Iterator[int]:
            yield 1

        assert Parasnake("test").new_data(total=1)(data) is data

    @pytest.mark.parametrize("total", [-1, 1.5, "many"])
    def test_an_odd_total(self, total: Any) -> None:
        with pytest.raises(ConfigurationError, match="total"):
            Parasnake("test").new_data(total=total)(lambda: None)

    def test_what_a_hook_may_not_ask_for_is_said_where_it_is_registered(self) -> None:
        app = Parasnake("test")
        with pytest.raises(ConfigurationError) as caught:

            @app.result
            def merge(result: int, dat: int) -> None: ...

        text = str(caught.value)
        assert f"{__file__}:" in text
        assert "@app.result" in text
        assert "did you mean 'data'?" in text

    def test_none_comes_too_late_unheard(self) -> None:
        app = squares()
        run(app)
        with pytest.raises(ConfigurationError, match="comes too late"):
            app.failed(lambda data: None)


class TestNames:
    @pytest.mark.parametrize("name", ["", "x" * 101, "two\nlines", 5])
    def test_bad_ones(self, name: Any) -> None:
        with pytest.raises(ConfigurationError, match="app name"):
            Parasnake(name)

    def test_a_good_one(self) -> None:
        app = Parasnake("grüße 7")
        assert (app.name, repr(app)) == ("grüße 7", "Parasnake('grüße 7')")

    @pytest.mark.parametrize("seed", [1.5, "1", None, True])
    def test_odd_seeds(self, seed: Any) -> None:
        with pytest.raises(ConfigurationError, match="app seed"):
            Parasnake("test", seed=seed)

    def test_arguments_are_there_after_main_only(self) -> None:
        with pytest.raises(ConfigurationError, match=r"app\.main"):
            _ = Parasnake("test").args


@pytest.mark.usefixtures("no_sockets")
class TestRefusedBeforeAnySocketOpens:
    @pytest.mark.parametrize(
        ("role", "missing"),
        [
            ({"server": True}, ["new_data"]),
            ({}, ["process"]),
            ({"local": 1}, ["new_data", "process"]),
        ],
    )
    def test_missing_hooks(self, role: dict[str, Any], missing: list[str]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Parasnake("empty").run(**role, secret_key=KEY)
        for name in missing:
            assert f"no {name} hook" in str(caught.value)

    def test_a_plain_new_data_needs_job_done(self) -> None:
        app = Parasnake("test")
        app.new_data(lambda: None)
        with pytest.raises(ConfigurationError, match="no job_done hook"):
            app.run(server=True, secret_key=KEY)

    @pytest.mark.parametrize(
        "settings",
        [
            {"port": 70000},
            {"port": "x"},
            {"workers": 0},
            {"ip": "not a host"},
            {"heartbeat_timeout": -1},
            {"secret_key": "short"},
            {"key_file": "/nonexistent/key"},
            {"config": "/nonexistent/config.toml"},
            {"start_method": "magic"},
            {"colour": "blue"},
        ],
    )
    @pytest.mark.parametrize("server", [True, False])
    def test_settings(self, settings: dict[str, Any], server: bool) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(settings)).replace("_", ".")):
            squares().run(server, **settings)

    def test_port_0_of_a_node(self) -> None:
        with pytest.raises(ConfigurationError, match="port"):
            squares().run(port=0, secret_key=KEY)

    @pytest.mark.parametrize("local", [0, -1, "many", 1.5, True])
    def test_odd_numbers_of_local_workers(self, local: Any) -> None:
        with pytest.raises(ConfigurationError, match="workers"):
            squares().run(local=local)

    def test_a_node_without_any_key(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.delenv("PARASNAKE_SECRET_KEY", raising=False)
        with pytest.raises(ConfigurationError, match="key"):
            squares().run()


class TestRuns:
    def test_run_returns_what_finish_returned(self) -> None:
        assert run(squares(), 2) == [n * n for n in range(10)]

    def test_without_finish_there_is_nothing_to_return(self) -> None:
        app = Parasnake("test")

        @app.new_data
        def data() -> Iterator[int]:
            yield 1

        app.process(square)
        assert run(app) is None

    def test_twice_one_after_another(self) -> None:
        app = squares()
        assert run(app) == run(app, 2) == [n * n for n in range(10)]

    def test_with_every_core(self) -> None:
        assert run(squares(), "auto") == [n * n for n in range(10)]  # type: ignore[arg-type]

    def test_the_same_bits_on_any_number_of_nodes_with_and_without_deaths(
        self, tmp_path: Path
    ) -> None:
        def sums(workers: int, deaths: int, seed: int) -> float:
            app = Parasnake("sums", seed=seed)
            total = [0.0]

            @app.new_data
            def numbers() -> Iterator[int]:
                yield from range(60)

            @app.process
            def draw(data: int, seed: int) -> float:
                n = data
                if n % 20 < deaths and first_time(tmp_path / f"{workers} {deaths} {seed} {n}"):
                    os._exit(9)
                if n % 3 == 0:  # the results come in another order
                    sum(range(20_000 * (n % 7)))
                return random.Random(seed).uniform(-1, 1) * float(10 ** (n % 9))

            @app.result(ordered=True)
            def add(value: float) -> None:
                total[0] += value

            app.finish(lambda: total[0])
            found: float = run(app, workers)
            return found

        one = sums(1, 0, seed=0)
        assert sums(3, 0, seed=0) == one
        assert sums(3, 2, seed=0) == one
        assert sums(1, 0, seed=1) != one

    def test_the_seed_of_the_server_counts(self) -> None:
        def seeds(seed: int) -> Parasnake:
            app = Parasnake("seeds", seed=seed)
            found: list[int] = []

            @app.new_data
            def numbers() -> Iterator[int]:
                yield from range(5)

            app.process(lambda data, seed: seed)
            app.result(ordered=True)(found.append)
            app.finish(lambda: found)
            return app

        app, node = seeds(-(10**30)), seeds(2)
        with ThreadPoolExecutor(2) as pool:
            server = pool.submit(app.run, True, port=0, bind="127.0.0.1", secret_key=KEY)
            port = wait_until(lambda: app.status and app.status.port)
            node.run(port=port, secret_key=KEY, start_method="spawn")
            job = job_seed(-(10**30))
            assert server.result(60) == [task_seed(job, TaskId(task)) for task in range(5)]

    def test_a_node_on_which_everything_fails_is_set_aside(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def app_with(process: Callable[[int], int]) -> Parasnake:
            app = Parasnake("suspects", compare_code=False)
            app.process(process)
            return app

        told = re.compile(r"gets nothing for 10 s: \d+ tasks in a row went wrong there")

        def is_aside() -> bool:  # after five, or more if the other is slow
            return told.search(caplog.text) is not None

        def broken(n: int) -> NoReturn:
            raise ImportError("a broken installation")

        def busy(n: int) -> int:  # or there would be millions before the broken one is there
            return n * n + 0 * sum(range(100_000))

        server, out = app_with(busy), set[int]()

        @server.new_data
        def data() -> int | None:
            if is_aside():
                return None
            out.add(len(out))
            return len(out) - 1

        merged: set[int] = set()
        server.result(merged.add)
        server.job_done(lambda: is_aside() and len(merged) == len(out))
        settings: Any = {"secret_key": KEY}
        with ThreadPoolExecutor(3) as pool:
            done = pool.submit(server.run, True, port=0, bind="127.0.0.1", secret_key=KEY)
            settings["port"] = wait_until(lambda: server.status and server.status.port)
            pool.submit(app_with(busy).run, **settings)
            wait_until(lambda: merged)  # alone, the broken one would fail the first task for good
            pool.submit(app_with(broken).run, **settings)
            done.result(60)
        assert merged == {n * n for n in out}

    def test_by_spawn(self) -> None:
        assert squares().run(local=2, start_method="spawn") == [n * n for n in range(10)]

    def test_in_another_thread(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(squares().run, local=2).result(60) == [n * n for n in range(10)]

    def test_two_apps_at_once_in_two_threads(self) -> None:
        apps = [squares(30, "one"), squares(40, "two")]
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(app.run, local=1) for app in apps]
            assert [len(future.result(60)) for future in running] == [30, 40]

    def test_server_and_node_in_two_threads(self) -> None:
        app, node = squares(), squares()
        with ThreadPoolExecutor(2) as pool:
            server = pool.submit(
                app.run, server=True, port=0, bind="127.0.0.1", secret_key=KEY, progress=False
            )
            port = wait_until(lambda: app.status and app.status.port)
            agent = pool.submit(node.run, port=port, secret_key=KEY, workers=2)
            assert server.result(60) == [n * n for n in range(10)]
            assert agent.result(60) is None

    def test_while_it_is_running(self) -> None:
        app = squares(1)
        seen: list[str] = []

        @app.failed  # is never called, and one more hook does no harm
        def fail(data: int) -> None: ...

        @app.job_done
        def run_again() -> bool:
            if not seen:
                with pytest.raises(ConfigurationError, match="running already") as caught:
                    run(app)
                seen.append(str(caught.value))
            return False

        assert run(app) == [0]
        assert seen == ["Parasnake('squares') is running already"]

    def test_after_an_error_it_can_run_again(self) -> None:
        app = squares(3)
        wrong = [True]

        @app.init_data
        def init() -> None:
            if wrong.pop() if wrong else False:
                raise LookupError

        with pytest.raises(HookError):
            run(app)
        assert run(app) == [0, 1, 4]

    def test_no_process_and_no_descriptor_is_left(self) -> None:
        run(squares())
        before = len(list(Path("/proc/self/fd").iterdir()))
        run(squares(), 2)
        with pytest.raises(ConfigurationError):
            squares().run(server=True, port=70000)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert not multiprocessing.active_children()

    def test_the_handlers_of_signals_come_back(self) -> None:
        import signal

        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        run(squares())
        after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert before == after


class TestStop:
    def test_from_a_hook(self) -> None:
        app = squares(1000)
        merged: list[int] = []

        @app.job_done
        def stop() -> bool:
            app.stop()
            return False

        assert run(app) is None
        assert not merged

    def test_from_the_last_result(self) -> None:
        app = Parasnake("test")

        @app.new_data
        def data() -> Iterator[int]:
            yield 1

        app.process(square)
        app.result(lambda result: app.stop())
        app.finish(lambda: "finished")
        assert run(app) is None

    def test_from_another_thread(self) -> None:
        app = endless()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(app.run, local=1)
            wait_until(lambda: app.status and app.status.nodes)
            app.stop()
            assert running.result(60) is None

    def test_of_a_node(self) -> None:
        app, node = endless(), endless()
        with ThreadPoolExecutor(2) as pool:
            server = pool.submit(
                app.run, server=True, port=0, bind="127.0.0.1", secret_key=KEY, progress=False
            )
            port = wait_until(lambda: app.status and app.status.port)
            agent = pool.submit(node.run, port=port, secret_key=KEY)
            wait_until(lambda: app.status and app.status.nodes)
            node.stop()
            assert agent.result(60) is None
            wait_until(lambda: app.status and not app.status.nodes)
            app.stop()
            assert server.result(60) is None

    def test_of_a_node_that_looks_for_its_server(self) -> None:
        node = squares()
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        with ThreadPoolExecutor(1) as pool:
            agent = pool.submit(node.run, port=port, secret_key=KEY)
            while not agent.done():
                node.stop()
            assert agent.result(60) is None

    def test_before_the_first_run(self) -> None:
        app = endless()
        app.stop()
        assert run(app) is None

    def test_after_a_run_it_means_nothing(self) -> None:
        app = squares()
        run(app)
        app.stop()
        assert run(app) == [n * n for n in range(10)]


class TestStatus:
    def test_there_is_none_without_a_run(self) -> None:
        app = squares()
        assert app.status is None
        run(app)
        assert app.status is None

    def test_during_a_run(self) -> None:
        app = Parasnake("squares")
        seen: list[Status | None] = []

        @app.new_data(total=5000)
        def data() -> Iterator[int]:
            yield from range(5000)

        app.process(square)
        app.result(lambda result: seen.append(app.status))

        @app.job_done
        def look() -> bool:
            seen.append(app.status)
            return False

        run(app, 2)
        first, last = seen[0], seen[-1]
        assert first is not None
        assert last is not None
        assert (first.done, first.running, first.failed, first.waiting) == (0, 0, 0, 0)
        assert (first.total, last.total) == (5000, 5000)
        assert 0 < first.port < 65536
        assert last.done > first.done


class TestNodes:
    def test_no_server(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port}: Connection refused") as e:
            squares().run(ip="127.0.0.1", port=port, secret_key=KEY, connect_timeout=0.3)
        assert e.value.exit_status == 3

    def test_another_key_and_another_name(self) -> None:
        app = squares()
        with ThreadPoolExecutor(1) as pool:
            server = pool.submit(
                app.run, server=True, port=0, bind="127.0.0.1", secret_key=KEY, progress=False
            )
            port = wait_until(lambda: app.status and app.status.port)
            with pytest.raises(WrongKeyError, match=r"another secret key.*key-file") as wrong_key:
                squares().run(port=port, secret_key=b"x" * 32)
            with pytest.raises(RefusedError, match=r"'squares'.*'other'") as wrong_name:
                squares(name="other").run(port=port, secret_key=KEY)
            app.stop()
            server.result(60)
        assert wrong_key.value.exit_status == wrong_name.value.exit_status == 4

    def test_workers_that_cannot_be_spawned(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "parasnake")
        app, node = endless(), Parasnake("endless")
        lock = threading.Lock()

        @node.process
        def work(data: int) -> None:
            lock.acquire()

        with ThreadPoolExecutor(1) as pool:
            server = pool.submit(
                app.run, server=True, port=0, bind="127.0.0.1", secret_key=KEY, progress=False
            )
            port = wait_until(lambda: app.status and app.status.port)
            with pytest.raises(NodeFailed, match=r"workers cannot start here: .*lock"):
                node.run(port=port, secret_key=KEY, start_method="spawn")
            wait_until(lambda: "left: workers cannot start here: " in caplog.text)
            app.stop()
            server.result(60)

    def test_node_init_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        app = squares()

        @app.node_init
        def init() -> None:
            raise LookupError("no such table")

        with pytest.raises(NodeFailed, match="local agent") as caught:
            run(app)
        assert caught.value.exit_status == 1
        assert "workers cannot start here: @app.node_init raised LookupError" in caplog.text
        assert 'raise LookupError("no such table")' in caplog.text


def test_nothing_is_written_unasked(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("parasnake")
    before, logger.disabled = logger.disabled, False
    logger.setLevel(logging.CRITICAL + 1)
    try:
        run(squares())
    finally:
        logger.disabled = before
        logger.setLevel(logging.NOTSET)
    assert capfd.readouterr() == ("", "")


def test_hooks_run_while_other_threads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert squares().run(local=1) == [n * n for n in range(10)], "workers start by spawn"
    finally:
        over.set()
        thread.join()
