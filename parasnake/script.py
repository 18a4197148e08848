"""The user's script, loaded once more in a process that was spawned.

The functions and classes of a script live in the module ``__main__``. A fresh interpreter has
another ``__main__``, so the script is executed there again as ``__mp_main__`` (the name that
``multiprocessing`` chose: ``if __name__ == "__main__":`` stays false) and is known as
``__main__`` too, which makes both names lead to the same objects.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from parasnake.errors import ParasnakeError

MODULE_NAME = "__mp_main__"

_PACKAGE_DIRECTORY = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Script:
    """Where the main module of a program comes from.

    Attributes
    ----------
    path: its file, for ``python path/to/script``
    module: its name, for ``python -m package.module``; has precedence
    """

    path: str | None = None
    module: str | None = None

    def __str__(self) -> str:
        return self.module or self.path or "the main module"


class _Loading:
    """Whether a script is being executed right now."""

    script: Script | None = None


def being_loaded() -> Script | None:
    """The script that this process is loading at the moment, if it is.

    A program that starts itself at this time has forgotten ``if __name__ == "__main__":``.
    """
    return _Loading.script


def find() -> Script | None:
    """Find the main module of this process.

    Returns ``None`` where nothing can be loaded again: interactive sessions, code from standard
    input or ``-c``. As in ``multiprocessing`` the ``__main__.py`` of packages, folders and
    archives does not count: as a rule its code runs unconditionally.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        if spec.name == "__main__" or spec.name.endswith(".__main__"):
            return None
        return Script(module=spec.name)
    path = getattr(main, "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    return Script(path=str(Path(path).absolute()))


def load(script: Script) -> None:
    """Execute the script as ``__mp_main__``, and let ``__main__`` be that module as well.

    Raises whatever the script raises.
    """
    module, code = _prepare(script)
    # Before the code runs: dataclasses, for one, look their module up while it is being made.
    sys.modules[MODULE_NAME] = sys.modules["__main__"] = module
    _Loading.script = script
    try:
        # In the module's own dictionary, so that functions see later changes of its globals;
        # runpy.run_path would leave them with another one.
        exec(code, module.__dict__)
    finally:
        _Loading.script = None


def _prepare(script: Script) -> tuple[ModuleType, CodeType]:
    module = ModuleType(MODULE_NAME)
    if script.module is not None:
        from importlib.abc import InspectLoader  # only `python -m` and spawn need it

        spec = _find_spec(script.module)
        module.__spec__ = spec
        module.__package__ = spec.parent
        path, loader = spec.origin, spec.loader
        assert isinstance(loader, InspectLoader)
        code = loader.get_code(script.module)
        assert code is not None, "a module that was run with -m has code"
    else:
        assert script.path is not None
        path = script.path
        # Any file name will do, and no bytecode is left beside the script.
        loader = SourceFileLoader(MODULE_NAME, path)
        code = loader.source_to_code(loader.get_data(path), path)
    module.__file__ = path
    module.__loader__ = loader
    return module, code


def _find_spec(name: str) -> ModuleSpec:
    import importlib.util

    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return spec


def explain_failure(error: BaseException) -> str:
    """Tell why a spawned process could not be made ready: a headline and the user's traceback."""
    text = f"{find() or 'the program'} could not be loaded in a new process:\n"
    if isinstance(error, ParasnakeError):
        # It says itself what is wrong, and its causes lie within the library.
        return f"{text}{error}\n"
    trace = _without_library_frames(error)
    text += "".join(traceback.format_exception(type(error), error, trace))
    if isinstance(error, SystemExit):
        text += 'What only the program itself should do belongs under: if __name__ == "__main__":\n'
    return text


def _without_library_frames(error: BaseException) -> TracebackType | None:
    """The part of a traceback that begins in the user's code."""
    trace = error.__traceback__
    while trace is not None:
        file_name = trace.tb_frame.f_code.co_filename
        if not file_name.startswith((_PACKAGE_DIRECTORY, "<frozen ")):
            return trace
        trace = trace.tb_next
    # A syntax error names its place itself; for anything else we are to blame.
    return None if isinstance(error, SyntaxError) else error.__traceback__
