"""Running the commands of a batch system, which may take long or hang."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from os import environ

from parasnake.errors import BatchError

MAX_SECONDS = 120.0
"""How long a command may take: a busy batch system takes a minute."""
MAX_WORDS = 500

_OF_THE_USER = (
    "SLURM_CONF",
    "SLURM_CLUSTERS",
    "PBS_CONF_FILE",
    "PBS_DEFAULT",
    "PBS_EXEC",
    "PBS_SERVER",
)


def run(command: list[str]) -> str:
    """Run a command and return what it has written to standard output.

    Raises
    ------
    BatchError: it is not there, it hangs or it has failed; the text has its words
    """
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, stdin=subprocess.DEVNULL,
            timeout=MAX_SECONDS, env=environment(environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BatchError(f"{command[0]} has not answered in {MAX_SECONDS:.0f} s") from None
    except OSError as error:
        raise not_run(command, error) from error
    return answer(command, done.returncode, done.stdout, done.stderr)


def environment(here: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a command.

    If this process is a batch job itself, what they say of it must not be taken for what is to be
    submitted, and not be handed on to that.
    """
    return {
        name: value
        for name, value in here.items()
        if not name.startswith(("SLURM_", "SLURMD_", "PBS_")) or name in _OF_THE_USER
    }


def not_run(command: list[str], error: OSError) -> BatchError:
    """Return the error of a command that could not even be started."""
    if isinstance(error, FileNotFoundError):
        return BatchError(
            f"there is no {command[0]} here; submit from a machine of the cluster that has it"
        )
    return BatchError(f"{command[0]} cannot be run: {error.strerror}")


def answer(command: list[str], status: int, out: bytes, err: bytes) -> str:
    """Return what a command that has ended wrote to standard output.

    Raises
    ------
    BatchError: it has failed
    """
    text = out.decode(errors="replace")
    if status == 0:
        return text
    said = " ".join((err.decode(errors="replace").strip() or text).split())
    said = f"...{said[-MAX_WORDS:]}" if len(said) > MAX_WORDS else said
    raise BatchError(f"{command[0]} has failed: {said or f'exit status {status}, without a word'}")
