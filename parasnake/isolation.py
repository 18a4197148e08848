"""What keeps a child process apart from its parent: signals, descriptors, streams and the like.

Each function here changes the process that calls it, before the child's entry runs.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import random
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it has no types

_PR_SET_PDEATHSIG = 1
STDERR = 2

# What a batch system or a terminal sends to every process of a job.
_FOR_THE_PARENT_ONLY = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_HANDLERS_OF_THE_PARENT = (*_FOR_THE_PARENT_ONLY, "SIGHUP", "SIGCHLD")

# The variables by which libraries size their thread pools when they are loaded.
POOL_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


class ParentWatch(Enum):
    """How a child learns that its parent has died."""

    SIGNAL = "signal"
    """The kernel kills it, even while it holds the GIL. Linux only, and only where the thread
    that starts the child lives as long as the parent, for it is that thread's end which counts."""
    THREAD = "thread"
    """A thread of the child's sees the channel close and kills the whole group."""
    NONE = "none"
    """The entry watches the channel itself."""


def kill_group(pid: int) -> None:
    """Kill a child and its process group, as far as they are there."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def die_with_parent(watch: ParentWatch, *, parent_pid: int, channel: int) -> None:
    """See to it that this process does not outlive its parent.

    Parameters
    ----------
    watch: by which means
    parent_pid: the parent; if it has died already, so does this process now
    channel: the descriptor of this process's end
    """
    if watch is ParentWatch.SIGNAL and _ask_kernel_for_death_signal():
        if os.getppid() != parent_pid:
            kill_group(os.getpid())
    elif watch is not ParentWatch.NONE:
        threading.Thread(
            target=_kill_when_closed, args=(channel,), name="parent-watch", daemon=True
        ).start()


def _ask_kernel_for_death_signal() -> bool:
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return False
    return bool(prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)


def _kill_when_closed(descriptor: int) -> None:
    poll = select.poll()
    # No events: only that the other end is closed, not that there is something to read.
    poll.register(descriptor, 0)
    [(_, event)] = poll.poll()
    if not event & select.POLLNVAL:
        kill_group(os.getpid())


def signals_of_the_parent() -> set[signal.Signals]:
    """The signals for which a parent has handlers that are not for its children."""
    return {getattr(signal, name) for name in _HANDLERS_OF_THE_PARENT if hasattr(signal, name)}


def set_signal_handlers(*, deaf: bool) -> None:
    """Drop the parent's handlers; the deaf leave to it what asks it to go, such as SIGTERM."""
    signal.set_wakeup_fd(-1)
    for number in signals_of_the_parent():
        if deaf and number.name in _FOR_THE_PARENT_ONLY:
            signal.signal(number, _do_nothing)
        elif callable(signal.getsignal(number)):
            signal.signal(number, _default_handler(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals_of_the_parent())


def hear_in_forks() -> None:
    """Undo deafness in the processes that user code will fork: ``terminate()`` must end them."""
    masks = threading.local()

    # Blocked for a moment, a signal that comes right after the fork waits for the new handler.
    def hold_back() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, signals_of_the_parent())

    def let_in() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def hear_again() -> None:
        for number in signals_of_the_parent():
            if signal.getsignal(number) is _do_nothing:
                signal.signal(number, _default_handler(number))
        let_in()

    os.register_at_fork(before=hold_back, after_in_parent=let_in, after_in_child=hear_again)


def _default_handler(number: signal.Signals) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _do_nothing(number: int, frame: Any) -> None:
    """Handle a signal; unlike SIG_IGN this is not inherited by programs that user code starts."""


def seal_descriptors(*, keep: int) -> None:
    """Make every descriptor useless that leads to another process or to the kernel.

    Files, folders and devices that user code has opened go on working, as after any fork.
    Sockets, pipes and the like become ``/dev/null``: closing them would free their numbers, and
    the Python objects that still carry them would then write into whatever gets the number next.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _open_descriptors():
        if descriptor > 2 and descriptor not in (keep, null) and _leads_outside(descriptor):
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _open_descriptors() -> list[int]:
    folder = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
    return [int(entry.name) for entry in folder.iterdir()]


def _leads_outside(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or stat.S_IFMT(mode) == 0


def collect_no_inheritance() -> None:
    """Have the garbage collector leave alone what was there before the fork.

    It marks each object that it looks at, and so the child would get a copy of all that it shares
    with its parent, again and again for nothing.
    """
    gc.freeze()


def read_nothing() -> None:
    """Give the process an empty standard input, without what its parent had read ahead."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)


def let_output_through() -> None:
    """Write every line at once, to a file or pipe as well, so that a kill loses none."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, write_through=False)  # in one piece


def tell_of_crashes() -> None:
    """Have a traceback written to standard error for a segmentation fault and the like."""
    if not faulthandler.is_enabled():  # the user may have said where it shall go
        faulthandler.enable(STDERR)


def reseed_random_generators() -> None:
    """Forked twins, and scripts that seed when they are imported, would draw the same numbers."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def pool_environment(size: int) -> dict[str, str]:
    """The environment variables that hold a numeric library to this number of threads."""
    return dict.fromkeys(POOL_VARIABLES, str(size))


def thread_pool_limit(size: int) -> Callable[[], None]:
    """Return what holds numeric libraries in a forked child to this many threads.

    Both those that are loaded and those to come. The loaded ones are looked up here, in the parent:
    in the child that would take ten times as long, for each page that it touches is copied.
    """
    libraries = ThreadpoolController().lib_controllers

    def limit() -> None:
        os.environ.update(pool_environment(size))
        for library in libraries:
            if (library.num_threads or 0) > size:
                library.set_num_threads(size)

    return limit
