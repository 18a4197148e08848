"""The package as a whole: what importing it does, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from programs import Program, environment

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


IMPORT = """
import sys

before = set(sys.modules)
import parasnake
print(*set(sys.modules) - before)
"""

NODE = """
import sys

before = set(sys.modules)
from parasnake import Parasnake

app = Parasnake("lean")

@app.new_data
def one():
    yield 1

@app.process
def what_is_loaded(n):
    return set(sys.modules) - before

@app.result
def show(names):
    print(*names)

if __name__ == "__main__":
    app.main()
"""

# Whoever imports one of these at the top of a module makes every script, agent and worker wait for it.
HEAVY = {
    *("asyncio", "concurrent.futures", "difflib", "dill", "email", "importlib.metadata"),
    *("importlib.resources", "json", "multiprocessing", "numpy", "pdb", "sqlite3", "ssl"),
    *("subprocess", "tomllib", "tqdm", "unittest", "xml"),
}
HEAVY_BEFORE_RUN = HEAVY | {
    *("cryptography", "ctypes", "pickle", "random", "secrets", "selectors", "shutil", "tempfile"),
    *("threadpoolctl", "parasnake.agent", "parasnake.chaos", "parasnake.here", "parasnake.local"),
    *("parasnake.adapters", "parasnake.ps_config", "parasnake.server", "parasnake.worker"),
}
HEAVY_ON_NODES = HEAVY | {
    *("parasnake.adapters", "parasnake.chaos", "parasnake.gate", "parasnake.here"),
    *("parasnake.journal", "parasnake.local", "parasnake.report", "parasnake.server"),
}


def test_the_import_loads_only_what_every_script_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=120, check=True
    )
    loaded = set(done.stdout.split())
    assert "parasnake.app" in loaded
    assert not loaded & HEAVY_BEFORE_RUN


def test_a_node_loads_only_what_nodes_need(tmp_path: Path) -> None:
    script = tmp_path / "lean.py"
    script.write_text(NODE)
    environ = environment(tmp_path)
    options = ("--server", "--bind", "127.0.0.1", "--port", "0")
    with Program(script, options, tmp_path, environ=environ) as server:
        address = ("--ip", "127.0.0.1", "--port", server.port())
        with Program(script, address, tmp_path, environ=environ) as node:
            assert (node.wait(), server.wait()) == (0, 0)
        loaded = set(server.out.split())
    assert "parasnake.agent" in loaded
    assert not loaded & HEAVY_ON_NODES


def test_names_of_the_package_are_known_before_they_are_imported() -> None:
    code = "import parasnake; print(*dir(parasnake))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert set(parasnake.__all__) <= set(done.stdout.split())


def test_a_name_that_the_package_has_not() -> None:
    with pytest.raises(AttributeError, match="module 'parasnake' has no attribute 'Parasnail'"):
        parasnake.Parasnail  # type: ignore[attr-defined]  # noqa: B018


def test_a_program_that_has_set_up_no_logging_gets_no_output(tmp_path: Path) -> None:
    script = tmp_path / "quiet.py"
    script.write_text(QUIET)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_is_there() -> None:
    assert [name for name in parasnake.__all__ if not hasattr(parasnake, name)] == []
