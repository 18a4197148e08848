"""Three tasks; in the last one the worker says something and dies, each time.

With ``--forgive`` the script prints what its ``failed`` hook is told, and the job goes on. With
``--leave`` the worker has started a program that outlives it; the file ``left.PID`` has its number.
"""

import argparse
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from parasnake import Parasnake

app = Parasnake("dying")
DEEDS: dict[str, Callable[[], object]] = {
    "os._exit": lambda: os._exit(7),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


@app.new_data
def numbers() -> Iterator[int]:
    yield from range(3)


@app.process
def work(n: int) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if n == 2:
        print("worker", os.getpid(), "prints this")
        os.write(2, b"\x1b[31mfrom C code\x1b[0m\n")
        if app.args.leave:
            left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            Path(f"left.{left.pid}").touch()
        DEEDS[app.args.deed]()
    return n


@app.result
def merge(result: int) -> None: ...


def forgive(data: int, error: Exception) -> None:
    print(f"failed {data}: {error}\ncause: {error.__cause__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--deed", choices=DEEDS, default="os._exit")
    parser.add_argument("--forgive", action="store_true")
    parser.add_argument("--leave", action="store_true")
    if "--forgive" in sys.argv:
        app.failed(forgive)
    app.main(parser)
