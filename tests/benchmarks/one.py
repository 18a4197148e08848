"""One measurement of one peer, in a process of its own: ``compare.py`` starts it."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from figures import Effort
from measurements import MEASUREMENTS
from peers import PEERS


def main(peer: str, measurement: str, seconds: str, scale: str, output: str) -> None:
    """Measure, and write the figures and the time of the last result to a file."""
    chosen, measure = PEERS[peer].load(), MEASUREMENTS[measurement].load()
    if MEASUREMENTS[measurement].launched:
        exec(chosen.imports, {})  # as at the top of a user's script, before anything is timed
    try:
        found = measure(chosen, Effort(float(seconds), float(scale)))
    except Exception as error:  # the last line of the log should tell
        traceback.print_exc()
        sys.exit(traceback.format_exception_only(error)[-1].splitlines()[0])
    Path(output).write_text(json.dumps(found._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
