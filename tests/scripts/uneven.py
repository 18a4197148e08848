"""Quick tasks; but on a node with ``SLOW`` in its environment each takes for ever.

There it leaves the file ``N.PID.started``. With ``--stay`` the job is not over before there is a file
``end``.
"""

import argparse
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

app = Parasnake("uneven")
merged: list[int] = []


@app.new_data
def numbers() -> Iterator[int | None]:
    yield from range(6)
    while app.args.stay and not Path("end").exists():
        yield None


@app.process
def work(n: int) -> int:
    if "SLOW" in os.environ:
        Path(f"{n}.{os.getpid()}.started").touch()
        while True:
            signal.pause()
    return n


@app.result
def merge(result: int) -> None:
    merged.append(result)
    print("merged", result, flush=True)


@app.finish
def report() -> None:
    print("finished", sorted(merged))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stay", action="store_true")
    app.main(parser)
