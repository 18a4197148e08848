"""User code that takes far longer than the heartbeat timeout: on the node, or on the server.

``--hold S``: process holds the GIL for S seconds, as C code may do. ``--merge S``: the first call of
the result hook takes S seconds, while large results wait. ``--gate``: there is nothing to do before
there is a file ``go``.
"""

import argparse
import ctypes
import time
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

app = Parasnake("busy")
merged = 0


@app.new_data
def numbers() -> Iterator[int | None]:
    while app.args.gate and not Path("go").exists():
        yield None
    yield from range(app.args.count)


@app.process
def work(n: int) -> bytes:
    if app.args.hold:
        ctypes.PyDLL(None).usleep(int(1e6 * app.args.hold))
    return bytes(app.args.bytes)


@app.result
def merge(result: bytes) -> None:
    global merged
    if app.args.merge and not merged:
        print("merging", flush=True)
        time.sleep(app.args.merge)
    merged += 1
    assert len(result) == app.args.bytes


@app.finish
def report() -> None:
    print("merged", merged)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--hold", type=float, default=0)
    parser.add_argument("--merge", type=float, default=0)
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--bytes", type=int, default=10)
    app.main(parser)
