"""Tracebacks as users want to see them: their own code, without the frames of this library."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from parasnake.errors import ParasnakeError

_PACKAGE = str(Path(__file__).parent) + os.sep


def of_user_code(error: BaseException) -> str:
    """Return the traceback of an exception and of its causes, in which no frame is this library's.

    If that leaves nothing of an error of this library, it is type and text of that.
    """
    try:
        report = traceback.TracebackException.from_exception(error)
        if not _strip(report) and isinstance(error, ParasnakeError):
            return f"{type(error).__name__}: {error}\n"
        return "".join(report.format())
    except Exception:  # an exception may be of any kind of class
        return f"{type(error).__name__} (its traceback cannot be written)\n"


def last_line(error: BaseException) -> str:
    """Return type and text of an exception as the last line of its traceback has them."""
    return traceback.format_exception_only(error)[-1].strip()


def _strip(report: traceback.TracebackException) -> bool:
    """Take out the frames of this library; say whether others are left."""
    left = False
    parts: list[traceback.TracebackException | None] = [report]
    while parts:
        if (part := parts.pop()) is not None:
            frames = [frame for frame in part.stack if not frame.filename.startswith(_PACKAGE)]
            part.stack = traceback.StackSummary.from_list(frames)
            if frames:
                left = True
            else:
                part.stack = None  # type: ignore[assignment]  # leaves the heading out, too
            parts += [part.__cause__, part.__context__, *(part.exceptions or ())]
    return left
