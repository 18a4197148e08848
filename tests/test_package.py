"""The package as a whole: what importing it does, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import parasnake

QUIET = """
from parasnake import Parasnake

app = Parasnake("quiet")
tried = []

@app.new_data
def numbers():
    yield from range(2)

@app.process
def fail_once(n):
    tried.append(n)
    if len(tried) == 1:
        raise RuntimeError("the first time on each worker")
    return n

if __name__ == "__main__":
    app.run(local=1)
"""


def test_a_program_that_has_set_up_no_logging_gets_no_output(tmp_path: Path) -> None:
    script = tmp_path / "quiet.py"
    script.write_text(QUIET)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_is_there() -> None:
    assert [name for name in parasnake.__all__ if not hasattr(parasnake, name)] == []
