"""In the manner of 0.1: the user's hooks keep the accounts of the nodes. Prints what was merged."""

import argparse
import time
from uuid import UUID

from parasnake import Parasnake

app = Parasnake("by hand")
left: list[int] = []  # to be handed out again
given: dict[UUID, int] = {}
merged: list[int] = []
begun = 0


@app.init_data
def first() -> int:
    return 1000


@app.new_data
def give(node_id: UUID) -> int | None:
    assert node_id not in given, "strict alternation"
    global begun
    if left:
        given[node_id] = left.pop()
    elif begun < app.args.count:
        given[node_id] = begun
        begun += 1
    return given.get(node_id)


@app.process
def compute(data: int, init_data: int) -> int:
    time.sleep(app.args.seconds)
    return init_data + data


@app.result
def merge(result: int, node_id: UUID) -> None:
    data = given.pop(node_id)
    assert result == 1000 + data
    merged.append(data)


@app.node_timeout
def lost(node_id: UUID) -> None:
    data = given.pop(node_id, None)
    if data is not None:
        left.append(data)


@app.job_done
def done() -> bool:
    return len(merged) == int(app.args.count)


@app.finish
def report() -> None:
    print(sorted(merged) == list(range(app.args.count)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.02)
    app.main(parser)
