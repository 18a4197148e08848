"""Entries for child processes: importable in a fresh interpreter, which knows no test module."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # it has no types

from parasnake.worker import WorkerEnd


def tell(question: Callable[[], object], channel: socket.socket) -> None:
    """Send what the question gives as a line of JSON, then live until the parent hangs up."""
    channel.sendall(json.dumps(question()).encode() + b"\n")
    stay(channel)


def answer(channel: socket.socket) -> None:
    """Answer by the pipe, if there is one, when the parent says something."""
    end = WorkerEnd.of(channel)
    channel.recv(1)
    end.say([b"by the pipe"])


def leave(channel: socket.socket) -> None:
    """End at once."""
    channel.close()


def stay(channel: socket.socket) -> None:
    """Live until the parent hangs up."""
    while channel.recv(1000):
        pass


def write_as_c_does(channel: socket.socket) -> None:
    """Write to the descriptors of the standard streams."""
    os.write(1, b"out")
    os.write(2, b"err")


def send_text(text: str, channel: socket.socket) -> None:
    """Report a boot error."""
    channel.sendall(json.dumps(text).encode() + b"\n")


def fail_to_send(channel: socket.socket, text: str) -> NoReturn:
    """Be a report that fails itself."""
    raise BrokenPipeError


def report_boot_error(channel: socket.socket, text: str) -> None:
    """Send a boot error through the channel."""
    send_text(text, channel)


def everything() -> dict[str, Any]:
    """Tell what a child is like."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "descriptors": sorted(open_descriptors()),
        "threads": threading.active_count(),
        "stdin": sys.stdin.read(),
        "wakeup": signal.set_wakeup_fd(-1),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "handlers": {
            name: describe_handler(signal.getsignal(getattr(signal, name)))
            for name in ("SIGINT", "SIGTERM", "SIGCHLD", "SIGHUP", "SIGALRM")
        },
        "argv": sys.argv,
        "main": sys.modules["__main__"].__name__,
    }


def describe_handler(handler: object) -> str:
    """Name a signal handler."""
    if handler is signal.default_int_handler:
        return "default"
    if isinstance(handler, signal.Handlers):
        return "default" if handler is signal.SIG_DFL else "ignored"
    return getattr(handler, "__name__", str(handler))


def open_descriptors() -> set[int]:
    """List the descriptors that are open in this process."""
    found = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
    return {descriptor for descriptor in found if Path(f"/proc/self/fd/{descriptor}").exists()}


def open_descriptors_list() -> list[tuple[int, str]]:
    """List the descriptors with what they lead to."""
    return [(number, describe_descriptor(number)) for number in sorted(open_descriptors())]


def describe_descriptor(number: int) -> str:
    """Name what a descriptor leads to."""
    mode = os.fstat(number).st_mode
    if stat.S_ISCHR(mode) and number == 0:
        return "device"
    return "socket" if stat.S_ISSOCK(mode) else "other"


def draw() -> list[float]:
    """Draw from the global random generators."""
    import numpy as np

    return [random.random(), float(np.random.random())]


def threads_of_pools() -> list[int]:
    """Ask the numeric libraries how many threads they use, after they have used them."""
    import numpy as np

    ones = np.ones((300, 300))
    assert (ones @ ones)[0, 0] == 300
    return [pool["num_threads"] for pool in threadpool_info()]


def inherited_and_frozen() -> bool:
    """Whether the garbage collector leaves alone what was there before the fork."""
    return gc.get_freeze_count() > 1000


def pool_variables() -> dict[str, str]:
    """Give the environment variables that limit thread pools."""
    return {name: value for name, value in os.environ.items() if name.endswith("_THREADS")}


def handlers_of_a_subprocess() -> list[str]:
    """Ask a program that the child starts how it finds SIGINT and SIGTERM."""
    code = "import signal; print(signal.getsignal(2).__name__, int(signal.getsignal(15)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return output.stdout.decode().split()


def sum_in_a_pool() -> int:
    """Compute in processes of the child's own."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, range(-10, 0)))


def terminate_a_process() -> int | None:
    """Fork a process in the manner of multiprocessing, and terminate it."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


def start_a_grandchild() -> int:
    """Start a program that lives long, and tell its process id."""
    return subprocess.Popen(["sleep", "1000"]).pid


def fork_a_runaway() -> int:
    """Fork a process that leaves the group and lives long."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(1000)
    return pid


def exit_with(code: Any, channel: socket.socket) -> NoReturn:
    """Call sys.exit."""
    sys.exit(code)


def exit_at_once(status: int, channel: socket.socket) -> NoReturn:
    """Call os._exit."""
    os._exit(status)


def kill_oneself(number: int, channel: socket.socket) -> None:
    """Die by a signal."""
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    os.kill(os.getpid(), number)


def raise_error(channel: socket.socket) -> NoReturn:
    """Raise."""
    raise ValueError("a canary in the entry")


def interrupt(channel: socket.socket) -> NoReturn:
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


def leave_a_thread(channel: socket.socket) -> None:
    """Return while a thread runs on."""
    threading.Thread(target=time.sleep, args=(1000,)).start()


def hold_the_gil(channel: socket.socket) -> None:
    """Send a byte, then let no Python code run any more."""
    channel.sendall(b"1\n")
    ctypes.PyDLL(None).sleep(1000)


def read_nothing(channel: socket.socket) -> None:
    """Read nothing that the parent sends."""
    channel.sendall(b"1\n")
    time.sleep(1000)


def devour_memory(channel: socket.socket) -> None:
    """Take memory until the kernel objects."""
    hoard = []
    while True:
        hoard.append(bytearray(b"x" * (16 << 20)))


def print_and_stay(text: str, channel: socket.socket) -> None:
    """Print a line to both streams, and stay."""
    print(text)
    print(text, end="\n", file=sys.stderr)
    time.sleep(1000)


def print_without_newline(text: str, channel: socket.socket) -> None:
    """Leave something in the buffer."""
    sys.stdout.write(text)
