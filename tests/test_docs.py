"""README and docs: what they show runs, and what they say is so."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import importlib
import inspect
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from programs import Program, environment
from simulation.command import parser as simulation_parser

import parasnake
from parasnake import Config, Parasnake, cli, errors, gate, hooks
from parasnake.config import ENVIRONMENT_PREFIX
from parasnake.core import messages, noise, records, session

pytestmark = pytest.mark.usefixtures("unmeasured")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


# ---- reading Markdown


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes
    ----------
    mark: the comment before it, such as "fragment", or ""
    prints: what its output must be, if the page shows that
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str
    prints: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text().splitlines()
    number = 0
    mark = ""
    while number < len(lines):
        line = lines[number]
        fence = re.match(r"( *)```(\w*|\{\w+\})$", line)
        if fence is None:
            comment = re.match(r" *<!-- (\w+) -->$", line)
            mark = comment[1] if comment else ""
            number += 1
            continue
        indent, begin = len(fence[1]), number + 1
        number = next(at for at in range(begin, len(lines)) if lines[at].strip() == "```")
        text = "".join(f"{inside[indent:]}\n" for inside in lines[begin:number])
        if not fence[2].startswith("{"):  # a directive of the site's generator
            yield Block(page, begin, fence[2], text, mark)
        mark = ""
        number += 1


def with_output(blocks: list[Block]) -> Iterator[Block]:
    """Join each block with the one behind it that shows its output."""
    for block, following in itertools.zip_longest(blocks, blocks[1:]):
        shown = following and following.mark == "prints"
        yield dataclasses.replace(block, prints=following.text if shown else None)


BLOCKS = [block for page in PAGES for block in with_output(list(read_blocks(page)))]
PYTHON = [block for block in BLOCKS if block.language == "python"]
FRAGMENTS = [block for block in PYTHON if block.mark == "fragment"]
CLASS_PROGRAMS = [block for block in PYTHON if "(PSServer)" in block.text]
MPI_PROGRAMS = [block for block in PYTHON if block.mark == "mpi"]
SCRIPTS = [block for block in PYTHON if block not in (*FRAGMENTS, *CLASS_PROGRAMS, *MPI_PROGRAMS)]
SHELL = [block for block in BLOCKS if block.language == "shell"]
BATCH_SCRIPTS = [block for block in BLOCKS if block.language == "bash"]
SETTINGS = [block for block in BLOCKS if block.language in ("toml", "json")]


def read_table(page: str, *heading: str) -> list[list[str]]:
    """The rows of the table whose first columns have these headings."""
    lines = (DOCS / page).read_text().splitlines()
    rows = [_cells(line) if line.startswith("|") else None for line in lines]
    begin = next(i for i, row in enumerate(rows) if row and row[: len(heading)] == list(heading))
    end = next((i for i in range(begin, len(rows)) if rows[i] is None), len(rows))
    return [row for row in rows[begin + 2 : end] if row]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def code_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- what they show runs


def test_there_is_something_to_test() -> None:
    languages = {"python", "shell", "bash", "text", "toml", "json", "dockerfile"}
    assert {block.language for block in BLOCKS} == languages
    assert len(SCRIPTS) >= 5
    assert len(FRAGMENTS) >= 6
    assert len(CLASS_PROGRAMS) == 1
    assert len(MPI_PROGRAMS) >= 2
    assert {block.mark for block in BLOCKS} == {"", "fragment", "mpi", "prints"}


FIXED_PORT = 3199
"""For a script on a page that needs one: where it runs, it gets a free one."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def run(
    text: str, options: list[str], folder: Path, *, python: Sequence[str] = (sys.executable,)
) -> str:
    script = folder / "script.py"
    script.write_text(text.replace(str(FIXED_PORT), str(free_port())))
    (folder / "measurements.txt").write_text("".join(f"{number}\n" for number in range(1000)))
    with Program(script, options, folder, environ=environment(folder), python=python) as program:
        assert program.wait() == 0, program.err
        assert "WARNING" not in program.err
        return program.out


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_scripts_print_what_the_page_says(block: Block, tmp_path: Path) -> None:
    options = ["--local", "2"] if "app.main(" in block.text else []
    assert block.prints, "a script should show what it prints"
    assert run(block.text, options, tmp_path) == block.prints


@pytest.mark.parametrize("block", MPI_PROGRAMS, ids=str)
def test_mpi_programs_print_what_the_page_says(block: Block, tmp_path: Path) -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    beside = Path(sys.executable).parent
    mpiexec = shutil.which("mpiexec", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    rights = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    ranks = [*rights, "--oversubscribe", "-n", "3"]
    assert run(block.text, [], tmp_path, python=[mpiexec, *ranks, sys.executable]) == block.prints


@pytest.mark.parametrize("block", FRAGMENTS, ids=str)
def test_fragments_are_part_of_a_job_that_ends(block: Block, tmp_path: Path) -> None:
    text = 'from parasnake import Parasnake\n\napp = Parasnake("docs")\n' + block.text
    if "@app.new_data" not in text:
        text += "\n@app.new_data\ndef some_numbers():\n    yield from range(3)\n"
    if "@app.process" not in text:
        text += "\n@app.process\ndef identity(data):\n    return data\n"
    run(f'{text}\nif __name__ == "__main__":\n    app.run(local=2)\n', [], tmp_path)


@pytest.mark.parametrize("block", CLASS_PROGRAMS, ids=str)
def test_class_programs_run_as_server_and_node(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    text, found = re.subn(r"(?<=server_port = )\d+", str(free_port()), block.text)
    assert found == 1
    script.write_text(text)
    environ = environment(tmp_path)
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(Program(script, [], tmp_path, environ=environ))
        server = stack.enter_context(Program(script, ["--server"], tmp_path, environ=environ))
        assert node.wait() == 0, node.err
        assert node.err == ""
        assert server.wait() == 0, server.err
        assert server.out == f"{sum(n * n for n in range(100))}\n"


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_files_with_settings_can_be_loaded(block: Block, tmp_path: Path) -> None:
    path = tmp_path / f"job.{block.language}"
    path.write_text(block.text)
    config = Config.load({"config": path}, environ={})
    assert config.port == 3200
    assert config.key_file == tmp_path / "my.key"


# ---- shell commands


def commands() -> list[tuple[Block, list[str]]]:
    return [
        (block, part)
        for block in SHELL
        for line in block.text.splitlines()
        for part in simple_commands(shlex.split(line, comments=True))
    ]


@pytest.mark.parametrize("block", BATCH_SCRIPTS, ids=str)
def test_batch_scripts_become_a_node_with_options_that_exist(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, timeout=60)
    *_, last = block.text.splitlines()
    words = shlex.split(last)
    assert words[0] == "exec", "signals would not reach the node"
    for inner in inner_commands(words):
        check_command(block, inner)


def simple_commands(words: list[str]) -> Iterator[list[str]]:
    """Split a line of shell; leave out what stands before a command, and where its output goes."""
    part: list[str] = []
    for word in [*words, "&"]:
        if word not in ("&&", "&"):
            part.append(word)
            continue
        kept = [each for each in part if not re.match(r"\d?>", each)]
        kept = list(itertools.dropwhile(lambda each: re.match(r"[A-Z_]+=", each), kept))
        for wrapper in (["exec"], ["nohup"], ["nice", "-n", "19"]):
            if kept[: len(wrapper)] == wrapper:
                kept = kept[len(wrapper) :]
        if kept:
            yield kept
        part = []


def inner_commands(words: list[str]) -> Iterator[list[str]]:
    """What ssh and the like are to start: in one word, or from "python" or a script on."""
    for number, word in enumerate(words):
        if "python " in word:
            yield from simple_commands(shlex.split(word))
        elif word in ("python", "squares.py"):
            yield from simple_commands([*["python"][: word != "python"], *words[number:]])
            return


def example_parser(script: str) -> argparse.ArgumentParser:
    path = ROOT / script
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        module = importlib.import_module(path.stem)
    if not hasattr(module, "parser"):
        return cli.make_parser("docs")
    parser: argparse.ArgumentParser = module.parser()
    cli.add_options(parser)
    return parser


def benchmarks(module: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests" / "benchmarks")
        return importlib.import_module(module)


@pytest.mark.parametrize(("block", "words"), commands(), ids=lambda x: str(x).replace(" ", ""))
def test_commands_have_options_that_exist(block: Block, words: list[str]) -> None:
    check_command(block, words)


def check_command(block: Block, words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    program, *arguments = words
    match program.removeprefix(".venv/bin/"), arguments:
        case "python" | "python3", ["-m", "venv", ".venv"]:
            pass
        case ".", [".venv/bin/activate"]:
            pass
        case "python", ["-m", "pytest", *options]:
            assert set(options) <= {"-q"}
        case "python", ["-m", "tests.simulation", *options]:
            simulation_parser().parse_args(options)
        case "python", ["-m", "sphinx", "-W", "--keep-going", "-q", "docs", "build/site"]:
            assert "sphinx -W --keep-going -q -E docs build/site" in (ROOT / ".ci/run").read_text()
        case "python", ["tests/benchmarks/compare.py", *options]:
            benchmarks("compare").make_parser().parse_args(options)
        case "python", [script, *options] if script.startswith("examples/"):
            example_parser(script).parse_args(options)
        case "python", ["squares.py" | "primes.py", *options]:
            words, _for_the_batch_system = cli.split(options)
            cli.batch_options(cli.make_parser("docs").parse_args(words))
        case "pip", ["install", *options]:
            target = next(word for word in options if not word.startswith("-"))
            extra = re.fullmatch(r"\.(?:\[(\w+)])?", target)
            assert extra is not None
            assert extra[1] is None or extra[1] in project["optional-dependencies"]
        case "parasnake", options:
            cli._command_parser().parse_args(options)
        case "ruff", ["check" | "format"]:
            pass
        case "mypy", []:
            pass
        case ".ci/run", []:
            assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
        case "scp" | "squeue" | "scancel" | "qsub" | "qstat" | "qdel", _:
            pass
        case "ssh" | "docker" | "apptainer" | "sbatch" | "srun", _:
            for inner in inner_commands(words):
                check_command(block, inner)
        case _:
            pytest.fail(f"{block}: nobody checks {words}")


EXAMPLES = [block for block in SHELL if block.page.name == "examples.md" and block.prints]


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_examples_print_what_the_page_says(block: Block, tmp_path: Path) -> None:
    python, script, *options = shlex.split(block.text)
    assert python == "python"
    with Program(ROOT / script, options, tmp_path, environ=environment(tmp_path)) as program:
        assert program.wait() == 0, program.err
        assert program.out == block.prints


def test_the_two_commands_of_the_readme() -> None:
    first, second = (
        block.text for block in SHELL if block.page.name == "README.md" and "venv" in block.text
    )
    for command in (first, second):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert command.count("\n") == 1
    assert first.rstrip().endswith(".venv/bin/python examples/mandelbrot.py --local")
    assert second.rstrip() in (ROOT / ".ci" / "run").read_text(), "CI must run it word for word"


# ---- links


def anchors(page: Path) -> set[str]:
    without_code = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text())
    headings = re.findall(r"(?m)^#+ (.*)$", without_code)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT.resolve())
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        assert f"({page.relative_to(ROOT).as_posix()})" in text


# ---- what they say is so


def test_every_setting_is_in_the_table() -> None:
    options = _help_options()
    fields = {field.name: field for field in dataclasses.fields(Config) if field.name != "sources"}
    rows = {
        code_in(name)[0]: (option, variable, default)
        for name, option, variable, default, *_ in read_table("settings.md", "setting", "option")
    }
    assert list(rows) == [*fields, "config"]
    for name, (option, variable, default) in rows.items():
        assert code_in(variable) == [ENVIRONMENT_PREFIX + name.upper()]
        assert ast.literal_eval(code_in(default)[0]) == (
            fields[name].default if name in fields else None
        )
        assert set(code_in(option)) <= options
        assert bool(option) == (name != "secret_key")


def _help_options() -> set[str]:
    return set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", cli.make_parser("docs").format_help()))


def test_every_option_is_in_the_table() -> None:
    shown = " ".join(row[0] for row in read_table("command-line.md", "option"))
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown))
    assert documented == _help_options()


def test_the_hook_table_is_that_of_the_code() -> None:
    rows = {
        code_in(name)[0].removeprefix("@app."): tuple(code_in(asks_for))
        for name, _, asks_for, _ in read_table("hooks.md", "decorator", "called on")
    }
    assert rows == dict(hooks.HOOKS)
    for name in rows:
        assert callable(getattr(Parasnake, name))


def test_every_error_has_its_exit_status_in_the_table() -> None:
    documented = {
        name: int(status)
        for status, names, _ in read_table("command-line.md", "status")
        for name in code_in(names)
        if name != "Interrupted"
    }
    raised = {
        name: value.exit_status
        for name, value in vars(parasnake).items()
        if isinstance(value, type) and issubclass(value, errors.ParasnakeError)
    }
    del raised["ParasnakeError"], raised["Interrupted"]
    assert documented == raised
    by_signal = [row[0] for row in read_table("command-line.md", "status") if "Interr" in row[1]]
    assert by_signal == [str(errors.Interrupted(number).exit_status) for number in (2, 15)]


def test_the_message_table_is_that_of_the_code() -> None:
    rows = read_table("protocol.md", "kind", "message")
    by_name = {kind.__name__: kind for kind in messages.LAYOUTS}
    assert [code_in(row[1])[0] for row in rows] == list(by_name)
    for number, name, direction, fields in rows:
        kind: Any = by_name[code_in(name)[0]]
        layout = messages.LAYOUTS[kind]
        assert int(number) == layout.kind
        assert code_in(fields) == list(kind._fields)
        sizes = [int(size) for size in re.findall(r"\((\d+)\)", fields)]
        assert len(sizes) == layout.fixed_fields
        assert sum(sizes) == layout.struct.size
        assert len(kind._fields) == layout.fixed_fields + layout.texts + (
            layout.payload or layout.run is not None
        )
        assert ("agent to server" in direction) == (kind in messages.FROM_AGENT)
        assert direction.startswith("server") == (kind in messages.FROM_SERVER)
        assert direction.startswith("worker") == (kind in messages.FROM_WORKER)
        assert direction.endswith("to worker") == (kind in messages.TO_WORKER)


def test_the_numbers_of_the_protocol() -> None:
    page = (DOCS / "protocol.md").read_text()
    for text in (
        f"Version {messages.PROTOCOL_VERSION}.",
        noise.PROTOCOL_NAME.decode(),
        f"`{noise.PROLOGUE.decode()}` ({len(noise.PROLOGUE)} bytes",
        f"{noise.HANDSHAKE_BYTES} bytes: public key",
        f"takes {noise.HANDSHAKE_BYTES + records.OVERHEAD} bytes",
        f"gives it {gate.UNPROVEN_SECONDS:.0f} seconds, and has {gate.MAX_UNPROVEN} places",
        f"\n{session.REFUSAL.decode()}",
        f"{session.TELLING_BYTES} bytes of text",
        f"{noise.TAG_BYTES} to {records.MAX_CIPHERTEXT:,} |",
        f"After {records.REKEY_INTERVAL:,} records",
    ):
        assert text in page
    assert (messages.MAX_TEXT, messages.TEXT_LIMIT) == (1 << 20, 1 << 17)


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = [code_in(row[0])[0] for row in read_table("design.md", "package")]
    assert rows == [_package(text) for text in project["dependencies"]]
    text = (DOCS / "design.md").read_text()
    for name in ("test", "docs", "dev", "examples"):
        for requirement in project["optional-dependencies"][name]:
            package = _package(requirement)
            assert package == "parasnake" or f"`{package}`" in text


def _package(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0]


def test_all_that_is_measured_is_in_the_tables() -> None:
    measured = read_table("performance.md", "name", "what happens")
    assert [code_in(row[0])[0] for row in measured] == list(benchmarks("measurements").MEASUREMENTS)
    compared = read_table("performance.md", "name", "what it is")
    assert [code_in(row[0])[0] for row in compared] == list(benchmarks("peers").PEERS)


def test_the_methods_of_0_1_exist() -> None:
    for names, _ in read_table("from-0.1.md", "0.1"):
        name, _, arguments = code_in(names)[0].partition("(")
        owners = [kind for kind in (parasnake.PSServer, parasnake.PSNode) if hasattr(kind, name)]
        if name == "PSConfiguration":
            continue
        assert len(owners) == 1
        parameters = list(inspect.signature(getattr(owners[0], name)).parameters)[1:]
        assert parameters == re.findall(r"\w+", arguments)


def test_the_messages_in_troubleshooting_exist() -> None:
    known = {piece for path in (ROOT / "parasnake").rglob("*.py") for piece in _texts_in(path)}
    for symptom, *_ in read_table("troubleshooting.md", "you see"):
        for shown in code_in(symptom):
            if len(shown) > 12:
                assert any(piece in shown for piece in known), shown


def _texts_in(path: Path) -> Iterator[str]:
    """The fixed parts of the texts in a source file, those that are long enough to tell."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for piece in (*re.split(r"%\w", node.value), *re.split(r"%\w|;", node.value)):
                if len(piece.strip()) >= 10 and "\n" not in piece:
                    yield piece.strip()


def test_every_fault_in_the_table_has_tests_that_exist() -> None:
    for happens, seen, shown in read_table("reliability.md", "what happens", "what you see"):
        assert happens
        assert seen
        assert code_in(shown), happens
        for name in code_in(shown):
            file, *path = name.split("::")
            scope: list[ast.stmt] = ast.parse((ROOT / "tests" / file).read_text()).body
            for part in path:
                found = next((node for node in scope if getattr(node, "name", "") == part), None)
                assert isinstance(found, ast.ClassDef | ast.FunctionDef), name
                scope = found.body
            assert path[-1].startswith("test_"), name


def test_the_changes_begin_with_this_version() -> None:
    found = re.search(r"(?m)^## (\S+)$", (DOCS / "CHANGELOG.md").read_text())
    assert found is not None
    assert found[1] == parasnake.__version__
