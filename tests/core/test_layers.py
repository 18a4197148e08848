"""Imports point downward only, and the core does nothing but decide: read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import parasnake

PACKAGE = Path(parasnake.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"errors"},
    {"core"},
    # How things are done.
    {
        *(
            "access",
            "addresses",
            "arguments",
            "batch",
            "byvalue",
            "child",
            "compression",
            "config",
            "death",
            "functions",
            "garbage",
            "hooks",
            "isolation",
        ),
        *(
            "instead",
            "interfaces",
            "journal",
            "keys",
            "links",
            "logs",
            "loop",
            "net",
            "output",
            "payload",
            "places",
            "processes",
            "script",
            "strikes",
        ),
        *("timelimit", "tracebacks", "worker"),
    },
    # The shells.
    {
        *(
            "agent",
            "chaos",
            "checkpoints",
            "cluster",
            "crowd",
            "dial",
            "gate",
            "here",
            "local",
            "recorder",
            "replay",
        ),
        *("report", "rerun", "search", "server", "survey"),
    },
    # What a user meets.
    {"app", "cli"},
    {"adapters", "ps_config", "ps_node", "ps_nodeid", "ps_server"},
    {"", "__main__"},
]
"""From the bottom to the top; a folder stands for all in it, and "" for the package itself."""

HEIGHTS = {name: height for height, names in enumerate(LAYERS) for name in names}

CORE = [
    "ids",
    "noise",
    "records",
    "memory",
    "messages",
    "journal",
    "census",
    "rhythm",
    "linkspeed",
    "session",
    "seeds",
    "suspects",
    "pauses",
    "line",
    "durations",
    "tasks",
    "limits",
    "order",
    "forgotten",
    "stragglers",
    "sharing",
    "scheduler",
    "farm",
    "crew",
    "fleet",
]
"""The modules of the core; each imports only those before it."""

NOT_IN_CORE = {
    *("socket", "selectors", "time", "random", "secrets", "os", "threading", "logging"),
    *("pickle", "dill", "asyncio", "subprocess", "multiprocessing", "signal", "datetime"),
}

ONLY_IN = {
    "pickle": "payload",
    "dill": "payload",
    "ifaddr": "interfaces",
    "selectors": "loop",
    "backports": "compression",
    "compression": "compression",
}
"""Who alone imports these."""


def dotted(path: Path) -> str:
    """Return a module's name within the package: "core.noise", or "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def top(name: str) -> str:
    """Return the first part of a dotted name."""
    return name.partition(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that a file imports, wherever in it that stands."""
    package = ["parasnake", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}"


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of the modules of this package that a file imports."""
    known = {dotted(module) for module in MODULES}
    for line, name in imports(path):
        inside = name.removeprefix("parasnake").removeprefix(".")
        if not name.startswith("parasnake") or inside == "__version__":
            continue
        while inside not in known:  # a name in a module
            inside = inside.rpartition(".")[0]
        yield line, inside


def test_every_module_has_a_layer() -> None:
    homeless = {top(dotted(path)) for path in MODULES} - set(HEIGHTS)
    assert not homeless, "give these a place in LAYERS, above all that they import"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: dotted(path) or "parasnake")
def test_imports_point_downward(path: Path) -> None:
    here = HEIGHTS.get(top(dotted(path)), len(LAYERS))
    upward = [
        f"line {line} imports {name}"
        for line, name in imported_modules(path)
        if HEIGHTS.get(top(name), 0) > here
    ]
    assert not upward


@pytest.mark.parametrize("name", CORE)
def test_the_core_has_an_order_too(name: str) -> None:
    path = PACKAGE / "core" / f"{name}.py"
    below = {"errors", *(f"core.{other}" for other in CORE[: CORE.index(name)])}
    assert {module for _, module in imported_modules(path)} <= below


def test_the_order_names_all_modules_of_the_core() -> None:
    assert {path.stem for path in (PACKAGE / "core").glob("*.py")} == {*CORE, "__init__"}


@pytest.mark.parametrize("name", ["errors", *(f"core/{name}" for name in CORE)])
def test_the_core_does_nothing_but_decide(name: str) -> None:
    used = {top(module) for _, module in imports(PACKAGE / f"{name}.py")}
    assert not used & NOT_IN_CORE


@pytest.mark.parametrize(("module", "place"), ONLY_IN.items())
def test_some_things_are_done_in_one_place(module: str, place: str) -> None:
    users = {dotted(path) for path in MODULES if module in {top(name) for _, name in imports(path)}}
    assert users == {place}


def test_errors_imports_nothing() -> None:
    assert not list(imported_modules(PACKAGE / "errors.py"))
