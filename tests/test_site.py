"""The documentation site: it has every public name, and all that it refers to is there."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import parasnake

DOCS = Path(__file__).parent.parent / "docs"
PUBLIC = [name for name in parasnake.__all__ if name != "__version__"]


# ---- every public name is documented


def public_members(kind: type) -> dict[str, str]:
    """The public methods and properties that a class defines, with their docstrings."""
    kinds = (property, classmethod, staticmethod, FunctionType)
    return {
        name: inspect.getdoc(getattr(kind, name)) or ""
        for name, value in vars(kind).items()
        if not name.startswith("_") and isinstance(value, kinds)
    }


def public_attributes(kind: type) -> set[str]:
    """What instances have besides: fields, and what ``__init__`` assigns to ``self``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    fields = {
        statement.target.id
        for statement in tree.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    methods = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    assigned = {
        node.attr
        for method in methods
        if method.name == "__init__"
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return {name for name in fields | assigned if not name.startswith("_")}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_and_member_has_a_docstring(name: str) -> None:
    kind = getattr(parasnake, name)
    assert vars(kind)["__doc__"], "it must have a docstring of its own"
    text = inspect.getdoc(kind)
    members = public_members(kind)
    assert not [member for member, doc in members.items() if not doc]
    told = re.findall(r"(?m)^([\w, ]+):", str(text).partition("Attributes\n")[2])
    attributes = {word for names in told for word in names.split(", ")}
    assert public_attributes(kind) - {"exit_status"} <= attributes | members.keys()


def test_the_api_page_has_every_public_name() -> None:
    directives = re.findall(
        r"(?m)^\.\. (?:auto|py:)\w+:: (\w+)(?!\.)\b", (DOCS / "api.rst").read_text()
    )
    assert sorted(set(directives) - {"parasnake"}) == sorted(parasnake.__all__)


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    page = (DOCS / "api.rst").read_text()
    above = {-4: "Exception"}
    shown = {}
    tree = page.partition(".. code-block:: text\n")[2].partition("\n.. ")[0]
    for indent, name in re.findall(r"(?m)^   ( *)(\w+)", tree):
        above[len(indent)] = name
        shown[name] = above[len(indent) - 4]
    kinds = [getattr(parasnake, name) for name in PUBLIC]
    assert shown == {
        kind.__name__: kind.__bases__[0].__name__ for kind in kinds if issubclass(kind, Exception)
    }


# ---- how docstrings get there


@cache
def docstrings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_section_becomes_a_field_with_a_list() -> None:
    given = """\
        Read it.

        Parameters
        ----------
        name: of the file: any
        first, second: what to read,
            or None

        Returns
        -------
        what is in it,
        as text

        Raises
        ------
        OSError, ValueError: it cannot be read
        """
    assert docstrings().to_fields(inspect.cleandoc(given).splitlines()) == [
        "Read it.",
        "",
        "",
        ":Parameters:",
        "    * **name** -- of the file: any",
        "    * **first**, **second** -- what to read,",
        "      or None",
        "",
        "",
        ":Returns:",
        "    what is in it,",
        "    as text",
        "",
        "",
        ":Raises:",
        "    * :py:exc:`OSError`, :py:exc:`ValueError` -- it cannot be read",
        "",
    ]


def test_a_line_of_a_section_that_names_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="a line of a section Raises needs a colon: OSError"):
        docstrings().to_fields(["Raises", "------", "OSError when it cannot be read"])


def test_pages_and_public_names_become_links() -> None:
    given = "A ``Config`` or ``None`` for ``run``; see docs/how-to/ssh.md and docs/hooks.md."
    assert docstrings().with_links(given) == (
        "A :py:obj:`Config` or ``None`` for ``run``; see :doc:`/how-to/ssh` and :doc:`/hooks`."
    )


# ---- the strict build


def build(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build the site from a folder as .ci/run does: what warns, fails."""
    pytest.importorskip("sphinx", reason="the site is built by the extra docs: Sphinx is missing")
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E"]
    return subprocess.run(
        [*sphinx, "-d", target / "doctrees", folder, target / "html"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value or "")
            elif name == "href" and tag == "a":
                self.links.add(value or "")
            elif name == "src" or (name == "href" and tag == "link"):
                self.loads.add(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    built = build(DOCS, target)
    assert built.returncode == 0, built.stderr
    return target / "html"


def leads_somewhere(pages: dict[Path, Page], page: Path, link: str) -> bool:
    parts = urlsplit(link)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target not in pages:
        return target.is_file() and not parts.fragment
    return not parts.fragment or unquote(parts.fragment) in pages[target].anchors


@pytest.mark.once
def test_every_link_of_the_site_leads_somewhere_and_nothing_is_loaded_from_outside(
    site: Path,
) -> None:
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    for path, page in pages.items():
        inside = {link for link in page.links if not link.startswith("https://")}
        broken = {link for link in inside if not leads_somewhere(pages, path, link)}
        assert not broken, path
        files = {link.partition("?")[0] for link in page.loads}
        assert not {link for link in files if not leads_somewhere(pages, path, link)}, path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.once
def test_every_public_name_has_its_place_on_the_site(site: Path) -> None:
    anchors = Page(site / "api.html").anchors
    for name in PUBLIC:
        kind: Any = getattr(parasnake, name)
        documented = not issubclass(kind, Exception)
        wanted = [name, *(f"{name}.{member}" for member in public_members(kind) if documented)]
        assert {f"parasnake.{each}" for each in wanted} <= anchors


@pytest.mark.once
def test_the_strict_build_fails_for_whatever_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("conf.py", "docstrings.py", "_static"):
        source = DOCS / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    (folder / "index.md").write_text(MISTAKES)
    (folder / "other.rst").write_text("B\n=\n\n.. autoclass:: parasnake.MissingClass\n")
    (folder / "forgotten.md").write_text("# C\n")

    built = build(folder, tmp_path)
    assert built.returncode == 1
    for complaint in (
        "'no-page.md'",
        "'no-heading'",
        "'no-heading-there'",
        "failed to import 'MissingClass' from module 'parasnake'",
        "not found: parasnake.missing_name",
        "forgotten.md: WARNING: document isn't included in any toctree",
    ):
        assert complaint in built.stderr


MISTAKES = """\
# A

[a](no-page.md) [b](#no-heading) [c](other.rst#no-heading-there) {py:func}`parasnake.missing_name`

```{toctree}
other
```
"""
