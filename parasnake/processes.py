"""Starting and ending child processes that are joined to their parent by a channel.

A channel is one end of a socket pair: non-blocking in the parent, blocking in the child. What
goes through it is no business of this module.

    child = start(functools.partial(worker.main, ...), method=choose_method("auto"))
    # watch child.channel and child.pidfd; when one of them can be read: child.poll()
    child.close()
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # it has no types

from parasnake import script
from parasnake.child import (
    BootErrorReport,
    BootRecord,
    Closable,
    Conditions,
    Entry,
    Role,
    flush_output,
    forked,
    framed,
    serialised,
)
from parasnake.death import Death, MemoryWatch, peak_memory_bytes
from parasnake.errors import ConfigurationError
from parasnake.isolation import (
    POOL_VARIABLES,
    ParentWatch,
    kill_group,
    pool_environment,
    signals_of_the_parent,
    thread_pool_limit,
)

__all__ = [
    "Child",
    "Closable",
    "Death",
    "Method",
    "ParentWatch",
    "Role",
    "choose_method",
    "fork_is_safe",
    "start",
    "usable_cores",
]

Method = Literal["fork", "spawn"]

# A child that gets its boot record reads it as soon as its interpreter runs.
_BOOT_TIMEOUT_S = 60.0
# Only a process that the kernel cannot wake up (a dead network disk) outlives SIGKILL by that.
_CLOSE_TIMEOUT_S = 10.0
# So much may be on its way between an agent and a worker, if the system allows it.
_CHANNEL_BYTES = 1 << 20
# So much of a worker's small answers may wait for its agent.
_ANSWER_BYTES = 1 << 18


class Child:
    """A child process and the parent's end of the channel to it; made by ``start``.

    Watch ``channel`` for what the child says, and ``pidfd`` for its death: processes that the
    child has started may hold its end of the channel open, so the end of the file comes late.
    Where there is no ``pidfd``, the end of the file and a timer must do. Then ask ``poll``.

    Attributes
    ----------
    pid: its process id, which is also the id of its process group
    channel: the parent's end, non-blocking
    pidfd: a descriptor that can be read once the child has died, ``None`` where the system has none
    """

    def __init__(
        self,
        pid: int,
        channel: socket.socket,
        memory_watch: MemoryWatch,
        output: tuple[int, int] | None = None,
    ) -> None:
        self.pid = pid
        self.channel = channel
        self._output = output
        self.pidfd = _open_pidfd(pid)
        self._memory_watch = memory_watch
        self._killed_by_us = False
        self._death: Death | None = None
        _children.add(self)

    def __repr__(self) -> str:
        return f"<Child {self.pid}: {self._death or 'alive'}>"

    def poll(self) -> Death | None:
        """Say how the child died, or ``None`` while it lives. Never waits.

        What is left of its process group is killed then.
        """
        if self._death is None:
            self._death = self._reap()
        return self._death

    def wait(self, timeout_s: float) -> Death | None:
        """Wait for the child's death, at most so long; say as ``poll`` does."""
        deadline = time.monotonic() + timeout_s
        pause_s = 0.001
        while self.poll() is None and (left_s := deadline - time.monotonic()) > 0:
            if self.pidfd is not None:
                _wait_readable(self.pidfd, left_s)
            else:
                time.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, 0.05)
        return self._death

    def take_output(self) -> tuple[int, int] | None:
        """Hand over the ends of the pipes to its standard output and error; the caller closes them.

        There are some if it was started with ``pipe_output``, and they can be taken once.
        """
        output, self._output = self._output, None
        return output

    def open_answers(self) -> int | None:
        """Give it a pipe by which to answer, see ``worker.WorkerEnd``; it must expect one.

        Returns the descriptor to read, non-blocking, which the caller closes; None if the system has
        none left.
        """
        try:
            ours, theirs = os.pipe()
        except OSError:
            self._open_no_answers()
            return None
        import fcntl  # there is none on Windows, which has no workers

        with suppress(OSError, AttributeError):  # Linux; and a user may have only so much in all
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _ANSWER_BYTES)
        try:
            socket.send_fds(self.channel, [b"\0"], [theirs])
        except OSError:  # it has died already, or too many are on their way in this system
            os.close(ours)
            self._open_no_answers()
            return None
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        return ours

    def _open_no_answers(self) -> None:
        """Let it know that there is no pipe: it waits for one."""
        with suppress(OSError):
            self.channel.send(b"\0")

    def terminate(self) -> None:
        """Ask an agent to leave, by SIGTERM; a worker takes no notice."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the child and whatever it has started in its process group, by SIGKILL."""
        # Once the child is reaped its number may be another process's.
        if self.poll() is None:
            self._killed_by_us = True
            kill_group(self.pid)

    def close(self) -> None:
        """End the child if it still lives, leave no zombie, and close the descriptors.

        May be called again. Whoever watches the descriptors stops that first.
        """
        self.kill()
        self.wait(_CLOSE_TIMEOUT_S)
        self._close_descriptors()

    def _reap(self) -> Death | None:
        try:
            # Its group is killed before it is reaped, while the number is certainly its own.
            if hasattr(os, "waitid"):
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    return None
                kill_group(self.pid)
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            return Death(None, None)
        if pid == 0:
            return None
        if not hasattr(os, "waitid"):
            kill_group(self.pid)
        return Death.from_wait_status(
            status,
            peak_memory_bytes=peak_memory_bytes(usage.ru_maxrss),
            out_of_memory=self._memory_killed(status),
            memory_limit_bytes=self._memory_watch.limit_bytes,
        )

    def _memory_killed(self, status: int) -> bool:
        by_sigkill = os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        return by_sigkill and not self._killed_by_us and self._memory_watch.explains_a_kill()

    def _close_descriptors(self) -> None:
        self.channel.close()
        for descriptor in self.take_output() or ():
            os.close(descriptor)
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def _forget(self) -> None:
        """In a process that was forked from the parent: this is a sibling, not a child."""
        self._death = Death(None, None)
        self._close_descriptors()


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _forget_children() -> None:
    for child in list(_children):
        child._forget()
    _children.clear()


# Also for the processes that user code forks: an open channel would hide this process's death.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_children)


def _open_pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    # Old kernels and some sandboxes have no such call.
    with suppress(OSError):
        return os.pidfd_open(pid)
    return None


def _wait_readable(descriptor: int, timeout_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(timeout_s * 1000)


def start(
    entry: Entry,
    *,
    method: Method,
    role: Role = Role.WORKER,
    workers_on_machine: int = 1,
    closing: Iterable[Closable] = (),
    on_boot_error: BootErrorReport | None = None,
    parent_watch: ParentWatch | None = None,
    with_script: bool = True,
    pipe_output: bool = False,
) -> Child:
    """Start a process that calls ``entry(channel)`` and ends when that returns.

    It exits with status 0 when the entry returns, as the interpreter would after ``sys.exit``,
    with 1 and a traceback on standard error after another exception, and with 70 when it could not
    get as far as the entry. ``atexit`` functions are not called and threads that are left over
    are not waited for.

    Parameters
    ----------
    entry: what the child does. For "spawn" it is pickled: a function of a module, or a
        ``functools.partial`` of one with small arguments; it may refer to the user's script
    method: "fork", or "spawn" for a fresh interpreter into which the script is loaded again; see
        ``choose_method``
    role: a worker runs user code; an agent starts workers
    workers_on_machine: how many workers share this machine: each may use its share of the cores
        for the thread pools of numeric libraries, unless the user has set their size
    closing: objects of the parent's that hold descriptors (sockets, selectors, the loop); a
        forked child calls their ``close()``, which must leave the parent undisturbed. Other
        children's channels need no mention
    on_boot_error: called in the child with its channel and a text for the user if the script or
        the entry cannot be loaded there; pickled like the entry. Else the text goes to standard
        error
    parent_watch: how the child learns that its parent has died; ``None`` chooses
    with_script: for "spawn": load the user's script; needless where the entry does without it
    pipe_output: give it pipes as standard output and error, see ``Child.take_output``

    Raises
    ------
    ConfigurationError: there is no such method on this system
    PayloadError: the entry cannot be pickled, for "spawn"
    OSError: the system has no process, memory or descriptor left
    """
    _require(method)
    _open_standard_streams()
    conditions = Conditions(
        role=role,
        parent_pid=os.getpid(),
        parent_watch=parent_watch or _choose_parent_watch(role),
        pool_size=_pool_size(workers_on_machine) if role is Role.WORKER else None,
        on_boot_error=on_boot_error,
    )
    memory_watch = MemoryWatch()
    parent_end, child_end = socket.socketpair()
    for end in (parent_end, child_end):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BYTES)
    pipes = None
    try:
        with child_end, _parents_signals_held_back():
            pipes = _Pipes.open() if pipe_output else None
            if method == "fork":
                pid = _fork(entry, child_end, conditions, (parent_end, *closing), pipes)
            else:
                loaded = script.find() if with_script else None
                pid = _spawn(entry, child_end, conditions, parent_end, loaded, pipes=pipes)
    except BaseException:
        parent_end.close()
        for descriptor in pipes.ours if pipes else ():
            os.close(descriptor)
        raise
    finally:
        for descriptor in pipes.theirs if pipes else ():
            os.close(descriptor)
    parent_end.setblocking(False)
    return Child(pid, parent_end, memory_watch, pipes.ours if pipes else None)


class _Pipes(NamedTuple):
    """Standard output and standard error of a child: the ends to read and those to write."""

    ours: tuple[int, int]
    theirs: tuple[int, int]

    @classmethod
    def open(cls) -> _Pipes:
        first = os.pipe()
        try:
            second = os.pipe()
        except OSError:
            for descriptor in first:
                os.close(descriptor)
            raise
        return cls((first[0], second[0]), (first[1], second[1]))


def _fork(
    entry: Entry,
    channel: socket.socket,
    conditions: Conditions,
    closing: Iterable[Closable],
    pipes: _Pipes | None,
) -> int:
    output, size = pipes.theirs if pipes else None, conditions.pool_size
    limit_pools = thread_pool_limit(size) if size is not None else None
    # What stands in a buffer now would be written twice.
    flush_output()
    pid = os.fork()
    if pid == 0:
        forked(entry, channel, conditions, closing, output=output, limit_pools=limit_pools)
    # In both processes, so that neither can act before it is done.
    with suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _spawn(
    entry: Entry,
    channel: socket.socket,
    conditions: Conditions,
    parent_end: socket.socket,
    loaded: script.Script | None,
    *,
    pipes: _Pipes | None,
) -> int:
    import subprocess  # a fork needs none

    record = BootRecord(conditions, list(sys.argv), loaded, serialised(entry))
    data = framed(record)
    environment = dict(os.environ)
    if conditions.pool_size is not None:
        environment.update(pool_environment(conditions.pool_size))
    out, err = pipes.theirs if pipes else (None, None)
    process = subprocess.Popen(
        _interpreter_command(channel.fileno()),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        env=environment,
        pass_fds=(channel.fileno(),),
        process_group=0,
    )
    # From here on the process is Child's to wait for, and not Popen's.
    process.returncode = 0
    # With a copy of the child's end here, its death would go unnoticed.
    channel.close()
    parent_end.settimeout(_BOOT_TIMEOUT_S)
    # A child that is dead already is found out by Child.poll.
    with suppress(OSError):
        parent_end.sendall(data)
    return process.pid


def _interpreter_command(descriptor: int) -> list[str]:
    """A fresh interpreter like this one, with the same import path: our package may be on it."""
    import subprocess

    path = [entry for entry in sys.path if isinstance(entry, str)]
    code = f"import sys; sys.path[:] = {path!a}; from parasnake.child import spawned; "
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", f"{code}spawned({descriptor})"]


def _require(method: Method) -> None:
    if sys.platform == "win32":
        raise ConfigurationError("workers need a POSIX system such as Linux; Windows is none")
    if method == "fork" and not hasattr(os, "fork"):
        raise ConfigurationError("workers cannot be started by 'fork' here; use 'spawn' or 'auto'")


def _open_standard_streams() -> None:
    """Make sure that no channel gets the number of a standard stream that somebody has closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


@contextmanager
def _parents_signals_held_back() -> Iterator[None]:
    """Keep signals from a child that does not yet have its own handlers; it inherits the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals_of_the_parent())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _choose_parent_watch(role: Role) -> ParentWatch:
    if sys.platform == "linux" and threading.get_native_id() == os.getpid():
        return ParentWatch.SIGNAL
    # With a thread of its own an agent could not fork its workers safely.
    return ParentWatch.NONE if role is Role.AGENT else ParentWatch.THREAD


def _pool_size(workers_on_machine: int) -> int | None:
    if any(variable in os.environ for variable in POOL_VARIABLES):
        return None
    return max(1, usable_cores() // workers_on_machine)


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_method(wanted: str) -> Method:
    """Turn "auto", "fork" or "spawn" into the method to use now.

    "auto" is fork where that is safe at this moment, else spawn.

    Raises
    ------
    ConfigurationError: it is none of the three, or the system has no fork
    """
    if wanted == "auto":
        return "fork" if fork_is_safe() else "spawn"
    if wanted == "fork":
        _require("fork")
        return "fork"
    if wanted == "spawn":
        return "spawn"
    raise ConfigurationError(f"start method {wanted!r}: it must be 'auto', 'fork' or 'spawn'")


def fork_is_safe() -> bool:
    """Say whether this process may be forked without a risk of deadlock in the child.

    A fork copies one thread only, and the locks that the others hold stay locked in the child for
    ever. So there must be no other thread, except those of OpenBLAS's own pool: it ends them
    before a fork. Where the system's threads cannot be counted, and on macOS, whose libraries do
    not bear a fork, it counts as unsafe.
    """
    if sys.platform == "darwin" or not hasattr(os, "fork"):
        return False
    if threading.active_count() > 1 or len(sys._current_frames()) > 1:
        return False
    try:
        threads = len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return False
    return threads == 1 or threads - 1 <= _openblas_threads()


def _openblas_threads() -> int:
    """How many threads OpenBLAS may have started beside the main thread."""
    return sum(
        pool["num_threads"] - 1
        for pool in threadpool_info()
        if pool["internal_api"] == "openblas" and pool["threading_layer"] == "pthreads"
    )
