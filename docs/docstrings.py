"""For Sphinx: the docstrings of the package, whose sections have one line for each thing.

    Raises
    ------
    OSError, ValueError: the file cannot be read,
        or is damaged

becomes a field "Raises" with a list. A page that a docstring names (docs/hooks.md) becomes a link, and
so does a public name (``Config``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import parasnake

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SECTIONS = ("Attributes", "Parameters", "Raises", "Returns")


def setup(app: Sphinx) -> dict[str, Any]:
    """Be an extension of Sphinx."""
    app.connect("autodoc-process-docstring", _rewrite)
    return {"parallel_read_safe": True}


def _rewrite(*event: Any) -> None:
    lines: list[str] = event[-1]
    lines[:] = map(with_links, to_fields(lines))


def to_fields(lines: Iterable[str]) -> list[str]:
    """Turn the sections of a docstring into reStructuredText that says the same.

    A section ends at an empty line.
    """
    made: list[str] = []
    rest = iter([*lines, ""])
    for line in rest:
        if line in SECTIONS and set(next(rest)) == {"-"}:
            made += ["", f":{line}:", *_field_body(line, iter(rest)), ""]
        else:
            made.append(line)
    return made


def with_links(line: str) -> str:
    """Let a line of reStructuredText refer to the pages and public names that are in it."""
    line = re.sub(r"docs/([\w/-]+)\.md", r":doc:`/\1`", line)
    return re.sub(r"``(\w+)``", _reference, line)


def _reference(name: re.Match[str]) -> str:
    return f":py:obj:`{name[1]}`" if name[1] in parasnake.__all__ else name[0]


def _field_body(section: str, rest: Iterator[str]) -> Iterator[str]:
    for line in rest:
        if not line:
            return
        names, colon, text = line.partition(":")
        if line.startswith(" ") or section == "Returns":
            yield f"      {line.strip()}" if line.startswith(" ") else f"    {line}"
        elif colon:
            yield f"    * {', '.join(_marked(section, names))} -- {text.strip()}"
        else:
            raise ValueError(f"a line of a section {section} needs a colon: {line}")


def _marked(section: str, names: str) -> Iterator[str]:
    for name in names.split(", "):
        yield f":py:exc:`{name}`" if section == "Raises" else f"**{name}**"
