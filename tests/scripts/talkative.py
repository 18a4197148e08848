"""Workers print, and with ``--quiet`` the script turns the log of the library off."""

import argparse
import logging
import sys
from collections.abc import Iterator

from parasnake import Parasnake

app = Parasnake("talkative")


@app.new_data
def numbers() -> Iterator[int]:
    yield from range(3)


@app.process
def say(n: int) -> None:
    if not app.args.quiet:
        print("hello from", n)
        print("no newline", n, end="", file=sys.stderr)


@app.result
def nothing(result: None) -> None: ...


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quiet", action="store_true")
    if "--quiet" in sys.argv:
        logging.disable()
    app.main(parser)
