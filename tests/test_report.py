"""What the server tells people."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable

import pytest

from parasnake.core import farm, tasks
from parasnake.core.ids import NodeKey, PeerId, TaskId
from parasnake.core.messages import PROTOCOL_VERSION, Hello
from parasnake.core.scheduler import Scheduler
from parasnake.core.tasks import Policy
from parasnake.crowd import FULL_LINES
from parasnake.report import (
    FIRST_LOG_S,
    LAST_LOG_S,
    LINE_SECONDS,
    MAX_SOURCES,
    ONCE_A,
    OnceAMinute,
    Progress,
    Reporter,
    Tally,
    duration,
    line_wanted,
)

NODE, GONE = NodeKey(bytes(range(16))), NodeKey(bytes(16))


class Terminal(io.StringIO):
    """What is drawn on it can be read again."""

    def isatty(self) -> bool:
        return super().isatty() or True  # a closed file raises here


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "parasnake")
    return caplog


@pytest.fixture
def sit_at_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Make standard error a terminal. (pytest sets its own between a fixture and its test.)"""

    def sit_down() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    return sit_down


def lines(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in log.records]


def busy_scheduler() -> Scheduler:
    """Two nodes: one computes, the other waits for its data."""
    source = Scheduler(Policy())
    source.join(NodeKey(b"a" * 16), PeerId(0))
    source.join(NodeKey(b"b" * 16), PeerId(0))
    source.next_step()
    source.give([((b"data",), None)])
    return source


# --- times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0854, "85 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (7.34, "7.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00 min"),
        (725, "12:05 min"),
        (3599.4, "59:59 min"),
        (3599.6, "1:00:00 h"),
        (12000, "3:20:00 h"),
        (360000, "100:00:00 h"),
    ],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- the summary


def test_summary_of_nothing() -> None:
    assert Tally(100.0).summary(100.0) == (
        "0 tasks merged in 0 ms, 0 ms in process, 0 nodes from 0 agents, 0 retries"
    )


def test_summary_of_one() -> None:
    tally = Tally(100.0, merged=1, retries=1, agents=1, nodes=1, process_seconds=2.5)
    tally.lost_agents = tally.dead_workers = tally.failed = tally.dropped = 1
    assert tally.summary(103.0) == (
        "1 task merged in 3.0 s, 2.5 s in process, 1 node from 1 agent, 1 retry, 1 agent lost, "
        "1 worker died, 1 task failed, 1 still running at the end, dropped"
    )


def test_summary_of_many() -> None:
    tally = Tally(0.0, merged=1000, retries=2, agents=3, nodes=12, process_seconds=7200)
    tally.lost_agents = tally.dead_workers = tally.failed = tally.dropped = 2
    tally.strikes = 1
    assert tally.summary(700.0) == (
        "1000 tasks merged in 11:40 min, 2:00:00 h in process, 12 nodes from 3 agents, 2 retries, "
        "2 agents lost, 2 workers died, 1 strike of chaos, 2 tasks failed, "
        "2 still running at the end, dropped"
    )


# --- progress


def test_progress_on_a_terminal(sit_at_terminal: Callable[[], Terminal]) -> None:
    terminal = sit_at_terminal()
    tally = Tally(0.0, merged=30, failed=2)
    progress = Progress("squares", 64, tally, busy_scheduler(), line=True)
    progress.show(1.0)
    drawn = terminal.getvalue().rpartition("\r")[2]
    assert drawn.startswith("squares:")
    assert "32/64" in drawn
    assert "1 running, 2 nodes" in drawn
    assert progress.pause == LINE_SECONDS
    progress.close()
    assert terminal.getvalue().rpartition("\r")[2].strip() == "", "the line is taken away"


def test_progress_on_a_terminal_without_a_total(sit_at_terminal: Callable[[], Terminal]) -> None:
    terminal = sit_at_terminal()
    progress = Progress("squares", None, Tally(0.0, merged=7), busy_scheduler(), line=True)
    progress.show(1.0)
    assert "7 tasks" in terminal.getvalue()
    progress.close()


def test_progress_starts_no_thread(sit_at_terminal: Callable[[], Terminal]) -> None:
    """A thread in the parent would forbid the fork of workers."""
    sit_at_terminal()
    before = threading.active_count()
    progress = Progress("squares", 10, Tally(0.0), busy_scheduler(), line=True)
    progress.show(1.0)
    assert threading.active_count() == before
    progress.close()


def test_progress_in_the_log(log: pytest.LogCaptureFixture) -> None:
    tally = Tally(100.0, merged=25)
    progress = Progress("squares", 100, tally, busy_scheduler(), line=False)
    progress.show(105.0)
    progress.close()
    assert lines(log) == [
        ("INFO", "squares: 25 of 100 done, 1 running, 2 nodes, 5 tasks/s, 15.0 s left")
    ]


def test_progress_in_the_log_without_a_total(log: pytest.LogCaptureFixture) -> None:
    source = Scheduler(Policy())
    source.join(NODE, PeerId(0))
    source.next_step()
    source.give([((b"data",), None)])
    source.lose(NODE, tasks.Loss.LOST, "gone")
    source.join(NodeKey(b"b" * 16), PeerId(0))
    Progress("squares", None, Tally(0.0, merged=3), source, line=False).show(2.0)
    assert lines(log) == [("INFO", "squares: 3 done, 0 running, 1 node, 1 waiting, 1.5 tasks/s")]


def test_log_lines_come_ever_more_seldom_and_only_with_news(
    log: pytest.LogCaptureFixture,
) -> None:
    tally = Tally(0.0)
    progress = Progress("squares", None, tally, busy_scheduler(), line=False)
    assert progress.pause == FIRST_LOG_S
    pauses = []
    for step in range(10):
        tally.merged = step // 2
        progress.show(float(step))
        pauses.append(progress.pause)
    assert pauses[:3] == [2 * FIRST_LOG_S, 4 * FIRST_LOG_S, 8 * FIRST_LOG_S]
    assert pauses[-1] == LAST_LOG_S
    assert len(lines(log)) == 4


@pytest.mark.parametrize("setting", [True, False])
def test_whether_there_is_a_line_can_be_set(setting: bool) -> None:
    assert line_wanted(setting) is setting


@pytest.mark.usefixtures("log")
def test_a_line_is_for_terminals(
    sit_at_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    sit_at_terminal()
    assert line_wanted(None)
    logging.getLogger("parasnake").setLevel(logging.ERROR)
    assert not line_wanted(None), "an application has turned it all off"
    logging.getLogger("parasnake").setLevel(logging.INFO)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not line_wanted(None)
    monkeypatch.setattr(sys, "stderr", None)
    assert not line_wanted(None), "a program without a console"
    sit_at_terminal().close()
    assert not line_wanted(None)


# --- agents, nodes and tasks


@pytest.fixture
def reporter() -> Reporter:
    hosts = {NODE: "n1 (pid 77, 10.0.0.7:5000)", GONE: ""}
    return Reporter(
        *("squares", Tally(0.0), 3, hosts.__getitem__),
        nodes=lambda: 1000,
        later=lambda seconds, callback: None,
    )


def peer() -> farm.Peer:
    hello = Hello(PROTOCOL_VERSION, 77, "0.2.0", "3.12.1", "squares", "", "n1")
    return farm.Peer(PeerId(0), "10.0.0.7:5000", hello)


def open_task() -> tasks.OpenTask:
    task = tasks.OpenTask(TaskId(5), NODE, (), 0, None)
    task.failures = 1
    return task


def test_agents_come_and_go(reporter: Reporter, log: pytest.LogCaptureFixture) -> None:
    reporter.tell(farm.AgentJoined(peer(), ["another Python"]))
    reporter.tell(farm.AgentLeft(peer(), False, "signal 15", "", 0))
    reporter.tell(farm.AgentLeft(peer(), True, "Connection reset", "", 1))
    reporter.tell(farm.AgentLeft(peer(), True, "silent", "", 2))
    reporter.tell(farm.AgentRefused(peer(), "another app"))
    assert lines(log) == [
        ("INFO", "squares: n1 (pid 77, 10.0.0.7:5000) joined"),
        ("WARNING", "squares: n1 (pid 77, 10.0.0.7:5000): another Python"),
        ("INFO", "squares: n1 (pid 77, 10.0.0.7:5000) left: signal 15"),
        (
            "WARNING",
            "squares: lost n1 (pid 77, 10.0.0.7:5000): Connection reset; "
            "1 of its tasks will run elsewhere",
        ),
        (
            "WARNING",
            "squares: lost n1 (pid 77, 10.0.0.7:5000): silent; 2 of its tasks will run elsewhere",
        ),
        ("WARNING", "squares: refused n1 (pid 77, 10.0.0.7:5000): another app"),
    ]
    assert (reporter._tally.agents, reporter._tally.lost_agents) == (1, 2)


def test_an_agent_that_cannot_work_says_why(
    reporter: Reporter, log: pytest.LogCaptureFixture
) -> None:
    reporter.tell(farm.AgentLeft(peer(), False, "workers cannot start", "Traceback ...", 0))
    assert lines(log) == [
        (
            "ERROR",
            "squares: n1 (pid 77, 10.0.0.7:5000) left: workers cannot start\nTraceback ...",
        )
    ]


def test_nothing_at_info_for_every_node(reporter: Reporter, log: pytest.LogCaptureFixture) -> None:
    reporter.tell(farm.NodeJoined(peer(), NODE))
    assert lines(log) == []
    assert reporter._tally.nodes == 1


def test_a_death_is_told_with_the_last_words(
    reporter: Reporter, log: pytest.LogCaptureFixture
) -> None:
    reporter.tell(farm.NodeDied(peer(), NODE, "exited with status 7", "it printed:\n    row 7"))
    assert lines(log) == [
        (
            "WARNING",
            "squares: a worker on n1 (pid 77, 10.0.0.7:5000) died: exited with status 7; it printed:"
            "\n    row 7",
        )
    ]


def test_the_summary_has_the_causes_of_deaths() -> None:
    tally = Tally(0.0)
    for cause in (
        *["killed by signal 11 (SIGSEGV); its peak memory was 26 MB"] * 3,
        *["killed by signal 9 (SIGKILL), most likely because memory ran out: the kernel's ..."] * 2,
        *("exited with status 1", "exited with status 2", "exited with status 3"),
    ):
        tally.note_death(cause)
    assert (
        "8 workers died (3 times killed by signal 11 (SIGSEGV); 2 times killed by signal 9 (SIGKILL), "
        "most likely because memory ran out; exited with status 1; 2 otherwise)"
    ) in tally.summary(1.0)


def test_deaths_and_retries(reporter: Reporter, log: pytest.LogCaptureFixture) -> None:
    reporter.tell(farm.NodeDied(peer(), NODE, "killed by SIGSEGV", ""))
    reporter.tell(tasks.Retry(open_task(), NODE, "ValueError: x", "Traceback ..."))
    reporter.tell(tasks.Retry(open_task(), GONE, "node lost", ""))
    reporter.tell(tasks.Reclaimed(1))
    reporter.tell(tasks.SetAside(NODE, PeerId(0), 5, 10.0, "ImportError: no"))
    reporter.tell(tasks.SetAside(GONE, PeerId(0), 5, 10.0, "ImportError: no"))
    died, with_traceback, lost, reclaimed, aside, unknown = lines(log)
    assert aside[1] == (
        "squares: n1 (pid 77, 10.0.0.7:5000) gets nothing for 10 s: 5 tasks in a row went wrong "
        "there, while others succeed elsewhere; the last: ImportError: no"
    )
    assert unknown[1].startswith("squares: the agent of a worker that died gets nothing")
    assert died == (
        "WARNING",
        "squares: a worker on n1 (pid 77, 10.0.0.7:5000) died: killed by SIGSEGV",
    )
    assert with_traceback == (
        "WARNING",
        "squares: task 5 will be tried again (1 of 3 attempts failed, the last on "
        "n1 (pid 77, 10.0.0.7:5000)): ValueError: x\nTraceback ...",
    )
    assert lost[1].endswith("(1 of 3 attempts failed): node lost")
    assert reclaimed[1].startswith("squares: 1 task of lost nodes: ")
    assert (reporter._tally.dead_workers, reporter._tally.retries) == (1, 2)


# --- very many at once


def test_a_thousand_agents_take_a_few_lines(
    reporter: Reporter, log: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        reporter.tell(farm.AgentJoined(peer(), []))
    for number in range(300):
        reason = "Connection reset" if number % 3 else "silent"
        reporter.tell(farm.AgentLeft(peer(), True, reason, "", 2))
        reporter.tell(tasks.Retry(open_task(), GONE, "node lost", ""))
    reporter.flush()
    written = [line for line in lines(log) if line[0] != "DEBUG"]
    assert len(written) == 3 * (FULL_LINES + 1)
    assert written[-3:] == [
        ("INFO", "squares: 995 more agents joined; 1000 nodes in all"),
        (
            "WARNING",
            "squares: lost 295 more agents: Connection reset (197), silent (98); 590 of their tasks "
            "will run elsewhere; 1000 nodes in all",
        ),
        ("WARNING", "squares: 295 more tasks will be tried again; 1000 nodes in all"),
    ]
    reporter.tell(farm.AgentJoined(peer(), []))
    assert lines(log)[-1] == ("INFO", "squares: n1 (pid 77, 10.0.0.7:5000) joined")
    assert (reporter._tally.agents, reporter._tally.retries) == (1001, 300)


def test_every_kind_has_words_for_many(reporter: Reporter, log: pytest.LogCaptureFixture) -> None:
    back = peer()
    back.returned = True
    for number in range(FULL_LINES + 4):
        reporter.tell(farm.AgentJoined(back, []))
        reporter.tell(farm.AgentRefused(peer(), "another app"))
        reporter.tell(farm.NodeDied(peer(), NODE, f"killed by signal {number}", ""))
        reporter.tell(farm.AgentLeft(peer(), False, "signal 15", "", 0))
    reporter.flush()
    assert [line[1] for line in lines(log)][-4:] == [
        "squares: 4 more agents are back; 1000 nodes in all",
        "squares: refused 4 more agents: another app; 1000 nodes in all",
        "squares: 4 more workers died: killed by signal 5 (1), killed by signal 6 (1), "
        "killed by signal 7 (1), ...; 1000 nodes in all",
        "squares: 4 more agents left: signal 15; 1000 nodes in all",
    ]


def test_a_difference_of_very_many_agents_is_told_in_one_line(
    reporter: Reporter, log: pytest.LogCaptureFixture
) -> None:
    for _ in range(FULL_LINES + 400):
        reporter.tell(farm.AgentJoined(peer(), ["another Python"]))
    reporter.flush()
    warnings = [text for level, text in lines(log) if level == "WARNING"]
    assert len(warnings) == FULL_LINES + 1
    assert warnings[-1] == "squares: 400 more agents differ: another Python; 1000 nodes in all"


# --- a line a minute


def test_one_line_a_minute_for_each_source() -> None:
    may_log = OnceAMinute()
    assert may_log("10.0.0.7", 0.0)
    assert not may_log("10.0.0.7", ONCE_A - 1)
    assert may_log("10.0.0.8", 1.0)
    assert may_log("10.0.0.7", ONCE_A)
    assert not may_log("10.0.0.7", ONCE_A + 1)


def test_lines_are_bounded_however_many_sources_there_are() -> None:
    may_log = OnceAMinute()
    lines = [second for second in range(300) for n in range(10) if may_log(f"{second} {n}", second)]
    assert len(lines) <= MAX_SOURCES * (300 / ONCE_A)
    assert {second // ONCE_A for second in lines} == {0, 1, 2, 3, 4}, "each minute has some"
    assert len(may_log._last) <= MAX_SOURCES
