"""Ten tasks, and in the process of one of them something bad happens."""

import argparse
import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from parasnake import Parasnake

app = Parasnake("deeds")
merged: list[object] = []
TABLE: dict[str, int] = {}
DEEDS: dict[str, Callable[[], object]] = {
    "raise": lambda: TABLE["no such key"],
    "sys.exit": lambda: sys.exit("I have had enough"),
    "sys.exit(0)": lambda: sys.exit(0),
    "os._exit": lambda: os._exit(7),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "MemoryError": lambda: bytearray(1 << 60),
    "unpicklable": lambda: {"key": [1, threading.Lock()]},
}


@app.new_data
def numbers() -> Iterator[int]:
    yield from range(10)


@app.process
def work(n: int) -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return DEEDS[app.args.deed]() if n == 3 else n


@app.result
def merge(result: object) -> None:
    merged.append(result)


@app.finish
def report() -> None:
    print("finished", sorted(map(str, merged)))


def forgive(data: int, error: Exception) -> None:
    print("failed", data, error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--deed", choices=DEEDS)
    parser.add_argument("--forgive", action="store_true")
    if "--forgive" in sys.argv:
        app.failed(forgive)
    app.main(parser)
