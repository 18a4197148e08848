"""In the manner of 0.1: the user hands lost data out again, and one piece of it is poison.

It is the first that is handed out. Each time it leaves the file ``poison.PID.started`` and kills its
worker, or ``--wait``s for that. With ``--forgive`` there is a ``failed`` hook, which strikes it off the
user's books.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from parasnake import NodeId, Parasnake, TaskFailed

app = Parasnake("poison")
POISON = "poison"
left = ["a", "b", "c", POISON]
works_on: dict[NodeId, str] = {}
done: list[str] = []


@app.new_data
def give(node_id: NodeId) -> str | None:
    if not left:
        return None
    works_on[node_id] = left.pop()
    return works_on[node_id]


@app.process
def work(data: str) -> str:
    if data == POISON:
        Path(f"{data}.{os.getpid()}.started").touch()
        while app.args.wait:
            signal.pause()
        os._exit(9)
    return data


@app.result
def take(result: str, node_id: NodeId) -> None:
    assert works_on.pop(node_id) == result
    done.append(result)


@app.node_timeout
def lost(node_id: NodeId) -> None:
    if node_id in works_on:
        left.append(works_on.pop(node_id))
        print("lost", left[-1], flush=True)


def forgive(data: object, error: TaskFailed, node_id: NodeId) -> None:
    done.append(works_on.pop(node_id))
    print("failed", error, flush=True)


@app.job_done
def all_done() -> bool:
    return len(done) == 4


@app.finish
def report() -> None:
    print("finished", sorted(done))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--forgive", action="store_true")
    if "--forgive" in sys.argv:
        app.failed(forgive)
    app.main(parser)
