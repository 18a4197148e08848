"""The log of the library on a terminal, for programs that have set up none of their own."""

from __future__ import annotations

import logging
import sys


def set_up_logging(verbose: int) -> None:
    """Show the log of Parasnake on stderr, unless the script has set up a log of its own.

    It may be called again with another ``verbose`` when that is known better.

    Arguments
    ---------
    verbose: 0 for what everybody wants to know, 1 and more for every detail
    """
    logger = logging.getLogger("parasnake")
    handlers = [
        handler
        for handler in (*logger.handlers, *logging.getLogger().handlers)
        if not isinstance(handler, logging.NullHandler)
    ]
    if not handlers:
        handlers = [_TerminalHandler()]
        logger.addHandler(handlers[0])
    if any(isinstance(handler, _TerminalHandler) for handler in handlers):
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def verbosity() -> int | None:
    """What ``set_up_logging`` was last called with, or None: for a process to hand on."""
    logger = logging.getLogger("parasnake")
    if not any(isinstance(handler, _TerminalHandler) for handler in logger.handlers):
        return None
    return 1 if logger.isEnabledFor(logging.DEBUG) else 0


class _TerminalHandler(logging.Handler):
    """Writes lines to stderr, above a progress bar if there is one."""

    _plain = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    _loud = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        formatter = self._loud if record.levelno >= logging.WARNING else self._plain
        return formatter.format(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if "tqdm" in sys.modules:  # else there is no bar, and nodes start faster without it
                sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
            else:
                sys.stderr.write(f"{line}\n")
        except Exception:
            self.handleError(record)
