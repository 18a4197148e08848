"""Tasks that say when they start, and wait until the working directory has a file ``go``.

A task leaves the files ``N.PID.started`` and ``N.PID.finished``. With ``--stay`` the job is not over
before there is a file ``end``.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

app = Parasnake("patient")
merged: list[int] = []


@app.new_data
def numbers() -> Iterator[int | None]:
    yield from range(app.args.count)
    while app.args.stay and not Path("end").exists():
        yield None


@app.process
def wait(n: int) -> int:
    Path(f"{n}.{os.getpid()}.started").touch()
    while not Path("go").exists():
        time.sleep(0.005)
    Path(f"{n}.{os.getpid()}.finished").touch()
    return n


@app.result
def merge(result: int) -> None:
    Path("merges").write_text("files can be opened")
    merged.append(result)
    print("merged", result, flush=True)


@app.finish
def report() -> None:
    print("finished", sorted(merged))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--stay", action="store_true")
    app.main(parser)
