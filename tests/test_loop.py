"""The loop: what is called, in which order, and what no longer is."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import pytest

from parasnake.loop import CALM_SECONDS, EAGER_SECONDS, MAX_WAIT_S, READ, WRITE, Loop

SOON_S = 30.0
"""No test waits that long; only one that fails."""

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.fixture
def pairs() -> Iterator[Callable[[], Pair]]:
    """Makes pairs of connected sockets, which are closed after the test."""
    made: list[socket.socket] = []

    def make() -> Pair:
        pair = socket.socketpair()
        made.extend(pair)
        return pair

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def handlers() -> Iterator[None]:
    """After the test the signal handlers are what they were."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def look(loop: Loop) -> None:
    """Handle what is ready now."""
    loop.wait(loop.now())


def wait_for(loop: Loop, condition: Callable[[], object]) -> None:
    until = loop.now() + SOON_S
    while not condition():
        assert loop.now() < until, "it did not happen"
        loop.wait(until)


# --- descriptors


def test_a_handler_gets_the_events_that_are_ready(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, theirs = pairs()
    seen: list[int] = []
    loop.watch(ours, READ | WRITE, seen.append)
    look(loop)
    theirs.send(b"x")
    wait_for(loop, lambda: seen and seen[-1] != WRITE)
    assert seen == [WRITE, READ | WRITE]


def test_watching_again_changes_events_and_handler(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, _ = pairs()
    first: list[int] = []
    second: list[int] = []
    loop.watch(ours, READ, first.append)
    loop.watch(ours, WRITE, first.append)
    look(loop)
    loop.watch(ours, WRITE, second.append)
    look(loop)
    assert (first, second) == ([WRITE], [WRITE])


def test_no_events_means_unwatched(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, _ = pairs()
    seen: list[int] = []
    loop.watch(ours, WRITE, seen.append)
    loop.watch(ours, 0, seen.append)
    loop.watch(ours, 0, seen.append)  # it is not watched, and that is no mistake
    look(loop)
    assert seen == []
    loop.watch(ours, WRITE, seen.append)
    look(loop)
    assert seen == [WRITE]


def test_a_handler_may_unwatch_another_that_is_ready(loop: Loop, pairs: Callable[[], Pair]) -> None:
    """Whichever of the two comes first, the other is not called any more."""
    (one, _), (two, _) = pairs(), pairs()
    called: list[str] = []

    def handler(name: str, other: socket.socket) -> Callable[[int], None]:
        def handle(_: int) -> None:
            called.append(name)
            loop.watch(other, 0, handle)
            other.close()

        return handle

    loop.watch(one, WRITE, handler("one", two))
    loop.watch(two, WRITE, handler("two", one))
    look(loop)
    assert len(called) == 1


def test_a_descriptor_number_used_anew_gets_no_old_event(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    """A closed descriptor's number goes to the next one that is opened, in the same round too."""
    (one, _), (two, _) = pairs(), pairs()
    strange: list[str] = []
    fresh: list[socket.socket] = []

    def replace(other: socket.socket) -> None:
        number = other.fileno()
        loop.watch(other, 0, lambda _: None)
        other.close()
        fresh.extend(socket.socketpair())
        assert number in {sock.fileno() for sock in fresh}
        for sock in fresh:
            loop.watch(sock, READ, lambda _: strange.append("new handler, nothing to read"))

    first: list[int] = []

    def handler(other: socket.socket) -> Callable[[int], None]:
        def handle(_: int) -> None:
            if first:
                strange.append("old handler")
                return
            first.append(1)
            replace(other)

        return handle

    loop.watch(one, WRITE, handler(two))
    loop.watch(two, WRITE, handler(one))
    look(loop)
    for sock in fresh:
        loop.watch(sock, 0, lambda _: None)
        sock.close()
    assert (len(first), strange) == (1, [])


def test_a_bare_descriptor_number_can_be_watched(loop: Loop) -> None:
    reader, writer = os.pipe()
    seen: list[bytes] = []
    loop.watch(reader, READ, lambda _: seen.append(os.read(reader, 10)))
    os.write(writer, b"hello")
    wait_for(loop, lambda: seen)
    loop.watch(reader, 0, lambda _: None)
    os.close(reader)
    os.close(writer)
    assert seen == [b"hello"]


def test_descriptors_are_all_that_a_child_must_close(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, theirs = pairs()
    before = set(loop.descriptors())
    loop.watch(ours, READ, lambda _: None)
    assert set(loop.descriptors()) - before == {ours.fileno()}
    assert theirs.fileno() not in loop.descriptors()
    for number in before:
        os.fstat(number)


def test_closing_frees_the_loops_descriptors_only(pairs: Callable[[], Pair]) -> None:
    ours, theirs = pairs()
    loop = Loop()
    own = set(loop.descriptors())
    loop.watch(ours, READ, lambda _: None)
    loop.close()
    theirs.send(b"x")
    assert ours.recv(1) == b"x"
    for number in own:
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(number)


# --- before the wait


def test_before_wait_runs_once_however_often_it_was_asked_for(loop: Loop) -> None:
    calls: list[str] = []

    def one() -> None:
        calls.append("one")
        if len(calls) < 3:
            loop.before_wait(two)

    def two() -> None:
        calls.append("two")

    loop.before_wait(one)
    loop.before_wait(one)
    look(loop)
    assert calls == ["one", "two"], "what such a call asks for runs in the same round"
    look(loop)
    assert calls == ["one", "two"]


# --- time


def test_timers_run_in_order_of_their_times_then_of_their_making(loop: Loop) -> None:
    calls: list[str] = []
    now = loop.now()
    loop.call_at(now - 1, lambda: calls.append("third"))
    loop.call_at(now - 2, lambda: calls.append("first"))
    loop.call_at(now - 2, lambda: calls.append("second"))
    loop.call_at(now + 1000, lambda: calls.append("never"))
    look(loop)
    assert calls == ["first", "second", "third"]


def test_a_wait_ends_for_a_timer_and_not_before_it(loop: Loop) -> None:
    times: list[float] = []
    begin = loop.now()
    loop.call_in(0.02, lambda: times.append(loop.now()))
    wait_for(loop, lambda: times)
    assert 0.02 <= times[0] - begin < SOON_S


def test_a_wait_ends_when_it_shall(loop: Loop) -> None:
    until = loop.now() + 0.02
    while loop.now() < until:  # milliseconds are rounded up, but not on every system
        loop.wait(until)
    loop.call_in(1000, lambda: None)
    loop.wait(loop.now() - 5)


def test_a_cancelled_timer_is_not_called(loop: Loop) -> None:
    calls: list[str] = []
    now = loop.now()
    timers = [loop.call_at(now - 1, partial(calls.append, name)) for name in "abc"]
    timers[0].cancel()
    timers[2].cancel()
    timers[2].cancel()
    look(loop)
    assert calls == ["b"]


def test_a_timer_may_cancel_the_next(loop: Loop) -> None:
    calls: list[str] = []
    now = loop.now()
    second = loop.call_at(now - 1, lambda: calls.append("second"))
    loop.call_at(now - 2, second.cancel)
    look(loop)
    assert calls == []


def test_a_timer_may_make_timers(loop: Loop) -> None:
    calls: list[str] = []

    def again() -> None:
        calls.append("again")
        if len(calls) < 3:
            loop.call_in(0, again)

    loop.call_in(0, again)
    wait_for(loop, lambda: len(calls) == 3)
    look(loop)
    assert len(calls) == 3


def test_descriptors_come_before_timers_that_are_due(loop: Loop, pairs: Callable[[], Pair]) -> None:
    """After a stall of our own, what has arrived is read before anybody is found to be silent."""
    ours, theirs = pairs()
    calls: list[str] = []
    theirs.send(b"alive")
    loop.call_at(loop.now() - 60, lambda: calls.append("silent"))
    loop.watch(ours, READ, lambda _: calls.append("read"))
    look(loop)
    assert calls == ["read", "silent"]


def test_waits_that_the_kernel_cannot_count_are_cut(loop: Loop) -> None:
    waited: list[float | None] = []
    selector = loop._selector

    class Noting:
        def __getattr__(self, name: str) -> object:
            return getattr(selector, name)

        def select(self, timeout: float | None) -> list[object]:
            if timeout != 0:  # else it only looks
                waited.append(timeout)
            return []

    loop._selector = Noting()  # type: ignore[assignment]  # it stands in for one
    loop.wait()
    loop.wait(float("inf"))
    loop.call_at(1e18, lambda: None)
    loop.wait()
    loop.wait(loop.now() + 3600)
    loop._selector = selector
    assert waited[:3] == [None, MAX_WAIT_S, MAX_WAIT_S]
    assert waited[3] == pytest.approx(3600, abs=60)


# --- looking instead of sleeping


class Script:
    """A selector and a clock: each select takes its time, and may find something at its end."""

    def __init__(self, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 0.0
        self.asked: list[float | None] = []
        self.takes: list[tuple[float, bool]] = []
        self.gave_way = 0
        self._selector = loop._selector
        [self._key] = loop._watched.values()
        monkeypatch.setattr(loop, "now", lambda: self.time)
        monkeypatch.setattr(loop, "_selector", self)
        monkeypatch.setattr("parasnake.loop._give_way", self._give_way)

    def __getattr__(self, name: str) -> object:
        return getattr(self._selector, name)

    def select(self, timeout: float | None) -> list[object]:
        self.asked.append(timeout)
        seconds, found = self.takes.pop(0)
        self.time += seconds
        return [(self._key, READ)] if found else []

    def _give_way(self) -> None:
        self.gave_way += 1


SHORT, LONG = EAGER_SECONDS / 4, EAGER_SECONDS * 4


def test_after_a_short_wait_it_looks_before_it_sleeps(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that answers at once is worth to be looked for: to fall asleep costs more."""
    script = Script(loop, monkeypatch)
    script.takes = [(SHORT, True), (SHORT, False), (SHORT, False), (SHORT, True)]
    loop.wait()
    loop.wait()
    assert script.asked == [None, 0, 0, 0]
    assert script.gave_way == 2, "others may have the processor between two looks"


def test_it_does_not_look_for_long(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(loop, monkeypatch)
    script.takes = [(SHORT, True), *[(SHORT, False)] * 4, (LONG, True), (LONG, True)]
    loop.wait()
    loop.wait(1000.0)
    assert script.asked == [None, 0, 0, 0, 0, 1000.0 - SHORT]
    loop.wait()
    assert script.asked[6:] == [None], "after a long wait it sleeps at once"


def test_what_was_there_already_says_nothing_about_waits(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy process that looks what has come, between two pieces of work, does not become eager."""
    script = Script(loop, monkeypatch)
    script.takes = [(LONG, True), (0.0, True), (0.0, False), (LONG, True)]
    loop.wait()
    loop.wait(0.0)
    loop.wait(0.0)
    loop.wait()
    assert script.asked == [None, 0.0, 0.0, None]
    assert not script.gave_way


def test_a_timer_that_is_due_sooner_is_not_looked_past(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(loop, monkeypatch)
    script.takes = [(SHORT, True), (SHORT, False)]
    loop.wait()
    loop.wait(2 * SHORT)
    assert script.asked == [None, SHORT]


def test_if_others_had_the_processor_for_long_it_sleeps_for_a_while(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives way is served last, and who wakes up first: single tasks would wait for the others."""
    script = Script(loop, monkeypatch)
    script.takes = [(SHORT, True), (LONG, False), (SHORT, True), (SHORT, True)]
    loop.wait()
    loop.wait()
    loop.wait()
    assert script.asked == [None, 0, None, None]
    script.time += CALM_SECONDS
    script.takes = [(SHORT, True), (SHORT, True)]
    loop.wait()
    loop.wait()
    assert script.asked[4:] == [None, 0]


def test_where_nobody_can_give_way_it_sleeps(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(loop, monkeypatch)
    monkeypatch.setattr("parasnake.loop._give_way", None)
    script.takes = [(SHORT, True), (SHORT, True)]
    loop.wait()
    loop.wait()
    assert script.asked == [None, None]


# --- other threads


def test_another_thread_can_end_a_wait(loop: Loop) -> None:
    begin = loop.now()
    thread = threading.Thread(target=loop.wake)
    thread.start()
    loop.wait(begin + SOON_S)
    thread.join()
    assert loop.now() - begin < SOON_S


def test_waking_often_never_blocks_and_ends_one_wait(loop: Loop) -> None:
    for _ in range(100_000):
        loop.wake()
    begin = loop.now()
    loop.wait(begin + SOON_S)
    assert loop.now() - begin < SOON_S


def test_waking_a_closed_loop_does_nothing() -> None:
    loop = Loop()
    loop.close()
    loop.wake()


# --- signals


@pytest.mark.usefixtures("handlers")
def test_the_first_signal_comes_as_a_call_from_the_loop(loop: Loop) -> None:
    seen: list[int] = []
    with loop.signals((signal.SIGTERM, signal.SIGINT), seen.append):
        signal.raise_signal(signal.SIGTERM)
        assert seen == [], "not in the middle of something"
        wait_for(loop, lambda: seen)
    assert seen == [signal.SIGTERM]


@pytest.mark.usefixtures("handlers")
def test_a_signal_ends_a_wait(loop: Loop) -> None:
    seen: list[int] = []
    with loop.signals((signal.SIGTERM,), seen.append):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        wait_for(loop, lambda: seen)
        timer.join()
    assert seen == [signal.SIGTERM]


@pytest.mark.usefixtures("handlers")
def test_the_second_signal_interrupts_whatever_runs(loop: Loop) -> None:
    with loop.signals((signal.SIGTERM, signal.SIGINT), lambda _: None):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("handlers")
def test_handlers_and_wakeup_descriptor_are_given_back(loop: Loop) -> None:
    def own(number: int, frame: FrameType | None) -> None: ...

    other, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wakeup.fileno())
    try:
        with (
            pytest.raises(RuntimeError, match="in between"),
            loop.signals((signal.SIGTERM, signal.SIGINT), lambda _: None),
        ):
            raise RuntimeError("in between")
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        assert signal.set_wakeup_fd(-1) == wakeup.fileno()
        other.close()
        wakeup.close()


@pytest.mark.usefixtures("handlers")
def test_only_an_insistent_second_signal_interrupts(loop: Loop) -> None:
    ours: list[int] = []
    with loop.signals((signal.SIGINT, signal.SIGTERM), ours.append, insistent=[signal.SIGINT]):
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        wait_for(loop, lambda: ours)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert set(ours) == {signal.SIGTERM}


@pytest.mark.usefixtures("handlers")
def test_signals_of_the_users_own_are_not_ours(loop: Loop) -> None:
    """Python writes every signal that has a handler to the wake-up descriptor."""
    users: list[int] = []
    ours: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: users.append(number))
    with loop.signals((signal.SIGTERM,), ours.append):
        signal.raise_signal(signal.SIGUSR1)
        loop.wait(loop.now() + SOON_S)
    assert (users, ours) == ([signal.SIGUSR1], [])


@pytest.mark.usefixtures("handlers")
def test_in_another_thread_signals_are_left_alone(loop: Loop) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during: list[object] = []

    def run() -> None:
        with loop.signals((signal.SIGTERM,), lambda _: None):
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert during == [before]
