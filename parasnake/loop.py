"""The one event loop, for server and agent alike: sockets, channels, timers, signals.

One thread, one selector, and the only place in the package that waits. Whoever owns a loop calls
``wait`` again and again; between two calls it does its own work.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from parasnake.core.memory import untouched

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

SCRATCH_BYTES = 1 << 22
MAX_WAIT_S = 86400.0
"""epoll counts milliseconds in 31 bits."""
EAGER_SECONDS = 0.0002
"""After a wait that was no longer than this the next one begins with looking instead of sleeping."""
CALM_SECONDS = 0.05
"""Not so soon after others had the processor for long, though: they let those who slept before them."""
_give_way: Callable[[], None] | None = getattr(os, "sched_yield", None)

Handler = Callable[[int], None]
"""Is called with the events (``READ``, ``WRITE`` or both) that are ready."""


class Timer:
    """A call at some time in the future, until it is cancelled."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the call."""
        self.callback = None


class Loop:
    """A selector with timers, signals and a way to wake it from another thread.

    Close it at the end, or use it as a context manager.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, selectors.SelectorKey] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._before_wait: dict[Callable[[], None], None] = {}
        self._on_signal: dict[int, Callable[[int], None]] = {}
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self.watch(self._wake_in, READ, self._woken)
        self.scratch = memoryview(untouched(SCRATCH_BYTES))
        """Room for one read from any socket; what shall be kept must be copied out of it."""
        self._eager = False
        self._calm_until = 0.0
        self.waited = 0.0
        """Seconds spent in waiting: a clock that stands still while anything is done."""

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the loop's own descriptors; those that it watched stay open."""
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    now = staticmethod(time.monotonic)
    """The time in seconds, on the clock that all times of the package are on."""

    def descriptors(self) -> list[int]:
        """All descriptors that the loop owns or watches: a forked child closes them."""
        own = [self._wake_out.fileno()]
        with contextlib.suppress(AttributeError):
            own.append(self._selector.fileno())
        return own + list(self._watched)

    # ---- descriptors

    def watch(self, source: socket.socket | int, events: int, handler: Handler) -> None:
        """Call ``handler`` when ``source`` is ready; with other events than before: change them.

        Without events it is not watched (any more).
        """
        fd = source if isinstance(source, int) else source.fileno()
        key = self._watched.get(fd)
        if not events:
            if key is not None:
                del self._watched[fd]
                self._selector.unregister(fd)
        elif key is None:
            self._watched[fd] = self._selector.register(fd, events, handler)
        elif events != key.events or key.data != handler:
            self._watched[fd] = self._selector.modify(fd, events, handler)

    def before_wait(self, callback: Callable[[], None]) -> None:
        """Call this once, just before the loop waits next: that makes one write of many."""
        self._before_wait[callback] = None

    # ---- time

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``when`` on the clock of ``now``, or soon after."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` after so many seconds."""
        return self.call_at(self.now() + seconds, callback)

    # ---- signals and other threads

    @contextlib.contextmanager
    def signals(
        self,
        numbers: Iterable[int],
        callback: Callable[[int], None],
        *,
        insistent: Iterable[int] | None = None,
    ) -> Iterator[None]:
        """Call ``callback`` from the loop for these signals.

        A second one, if it is one of the ``insistent`` (by default all), raises ``KeyboardInterrupt``
        wherever the program is just then, so that a hook that never returns can be left. In a thread
        other than the main one this does nothing, for only there can Python handle signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        seen: list[int] = []

        def note(number: int, _: FrameType | None) -> None:
            seen.append(number)
            if len(seen) > 1 and (insistent is None or number in insistent):
                raise KeyboardInterrupt

        self._on_signal = dict.fromkeys(numbers, callback)
        # Never a handler of ours without the descriptor: its signal would be swallowed.
        wakeup = signal.set_wakeup_fd(self._wake_out.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, note) for number in self._on_signal}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup)
            self._on_signal = {}

    def wake(self) -> None:
        """End the current wait; may be called from any thread, also after ``close``."""
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")

    def _woken(self, _: int) -> None:
        try:
            numbers = self._wake_in.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number in self._on_signal:  # signals of the user's own come here too
                self._on_signal[number](number)

    # ---- the wait

    def wait(self, until: float | None = None) -> None:
        """Wait until something is ready, a timer is due or ``until`` is reached; handle it.

        A time in the past means: handle what is ready and return.
        """
        while self._before_wait:
            callback = next(iter(self._before_wait))
            del self._before_wait[callback]
            callback()
        for key, events in self._select(until):
            # An earlier handler may have closed it, and another may have its number by now.
            if self._watched.get(key.fd) is key:
                key.data(events)
        self._run_timers()

    def _select(self, until: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        # ``wait`` gives what this returns no name: an error that is kept keeps the frames behind it.
        timeout, begin = self._timeout(until), self.now()
        ready = self._look(begin, timeout) if self._eager else []
        if not ready:
            ready = self._selector.select(timeout)
        waited = self.now() - begin
        self.waited += waited
        if timeout != 0.0:
            is_calm = _give_way is None or begin < self._calm_until
            self._eager = waited < EAGER_SECONDS and not is_calm
        return ready

    def _look(self, begin: float, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Look again and again for a moment: who sleeps wakes up late, and with cold caches.

        Whoever else wants the processor gets it; if that is for long, it is better to sleep.
        """
        assert _give_way is not None
        until = begin + EAGER_SECONDS
        if timeout is not None and timeout < EAGER_SECONDS:
            return []
        while not (ready := self._selector.select(0)) and self.now() < until:
            _give_way()
        if (now := self.now()) > until + EAGER_SECONDS:
            self._calm_until = now + CALM_SECONDS
        return ready

    def _timeout(self, until: float | None) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers and (until is None or self._timers[0][0] < until):
            until = self._timers[0][0]
        return None if until is None else min(max(0.0, until - self.now()), MAX_WAIT_S)

    def _run_timers(self) -> None:
        now = self.now() if self._timers else 0.0
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
