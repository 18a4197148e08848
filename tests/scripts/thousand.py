"""A job in parts, for very many nodes: each is handed out when the folder has a file of its name.

The parts are ``first`` and ``second``; after the second the job is done. It makes the file
``first.begun`` when a tenth of the first part is merged, ``first.done`` at its end, and the same for
the second. Prints the sum of squares. ``--gate``: half of the second part waits for a file ``rest``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

app = Parasnake("thousand")
merged = total = 0


@app.new_data
def numbers() -> Iterator[int | None]:
    handed_out = 0
    for part in ("first", "second"):
        while not Path(part).exists():
            yield None
        for number in range(app.args.tasks):
            while app.args.gate and is_the_middle(part, number) and not Path("rest").exists():
                yield None
            yield handed_out
            handed_out += 1


def is_the_middle(part: str, number: int) -> bool:
    """Of the second part."""
    return part == "second" and 2 * number == app.args.tasks


@app.process
def square(number: int) -> int:
    return number * number


@app.result
def add(result: int) -> None:
    global merged, total
    merged += 1
    total += result
    part, tasks = divmod(merged - 1, app.args.tasks)
    for name, when in (("begun", app.args.tasks // 10), ("done", app.args.tasks)):
        if tasks + 1 == when and not app.replaying:
            Path(f"{('first', 'second')[part]}.{name}").touch()


@app.finish
def report() -> None:
    print(total)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--gate", action="store_true")
    app.main(parser)
