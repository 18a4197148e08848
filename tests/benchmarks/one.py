"""One measurement of one peer, in a process of its own: ``compare.py`` starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from measurements import MEASUREMENTS, Effort
from peers import PEERS


def main(peer: str, measurement: str, seconds: str, scale: str, output: str) -> None:
    """Measure, and write the figures and the time of the last result to a file."""
    effort = Effort(float(seconds), float(scale))
    values, last = MEASUREMENTS[measurement].measure(PEERS[peer].load(), effort)
    Path(output).write_text(json.dumps({"values": values, "last": last}))


if __name__ == "__main__":
    main(*sys.argv[1:])
