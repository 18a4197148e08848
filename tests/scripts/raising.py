"""One of the hooks raises."""

import argparse
from collections.abc import Iterator

from parasnake import Parasnake

app = Parasnake("raising")


def raise_if_wanted(hook: str) -> None:
    if app.args.hook == hook:
        raise LookupError(f"raised by {hook}")


@app.init_data
def init() -> None:
    raise_if_wanted("init_data")


@app.new_data
def numbers() -> Iterator[int]:
    raise_if_wanted("new_data")
    yield 1


@app.node_init
def begin() -> None:
    raise_if_wanted("node_init")


@app.process
def work(n: int) -> int:
    raise_if_wanted("process")
    return n


@app.result
def merge(result: int) -> None:
    raise_if_wanted("result")


@app.job_done
def done() -> bool:
    raise_if_wanted("job_done")
    return False


@app.finish
def report() -> None:
    raise_if_wanted("finish")
    print("finished")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--hook")
    app.main(parser)
