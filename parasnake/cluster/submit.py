"""Submitting nodes once: ``./myapp.py --submit slurm --nodes 32``."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path

from parasnake.cluster import script, systems
from parasnake.cluster.commands import run
from parasnake.cluster.order import Order
from parasnake.cluster.systems import BatchSystem, Request
from parasnake.errors import BatchError, ConfigurationError

log = logging.getLogger(__name__)


def show(order: Order, cpus: int | None) -> None:
    """Print what would be submitted: the script and, in a comment below it, the command.

    Parameters
    ----------
    cpus: how many cores each node wants; None: what the batch system gives
    """
    system = find_system(order.system)
    request = request_for(order, system, cpus)
    print(script.text(system, request, order.start, os.environ))
    print(f"# To submit it: {shlex.join(system.submit(request, script_file(order)))}")


def submit(order: Order, cpus: int | None) -> None:
    """Submit nodes, all in one job, and print its id.

    Parameters
    ----------
    cpus: how many cores each node wants; None: what the batch system gives

    Raises
    ------
    BatchError: the batch system does not take them
    ConfigurationError: the script cannot be written
    """
    system = find_system(order.system)
    request = request_for(order, system, cpus)
    path = write(order, system, request)
    print(system.submitted(run(system.submit(request, path), order.start.folder)))
    log.info("submitted %d nodes; their script and output: %s", order.nodes, order.folder)


def request_for(order: Order, system: BatchSystem, cpus: int | None) -> Request:
    """Return what is asked of the batch system."""
    name = system.job_name(order.stem)
    return Request(name, order.nodes, cpus, order.seconds, order.folder, order.options)


def script_file(order: Order) -> Path:
    """Return where the script of the nodes is, seen from the folder where they start."""
    return Path(order.folder.name) / f"{order.system}.sh"


def write(order: Order, system: BatchSystem, request: Request) -> Path:
    """Write the script of the nodes, and make the folder for their output; see `script_file`.

    Raises
    ------
    ConfigurationError: that cannot be done there
    """
    name = script_file(order)
    path = order.start.folder / name
    text = script.text(system, request, order.start, os.environ)
    try:
        order.folder.mkdir(exist_ok=True)
        path.write_bytes(os.fsencode(text))
        path.chmod(0o755)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}); allowed with --submit: a working folder "
            "that this machine and the nodes share"
        ) from error
    return name


def find_system(name: str) -> BatchSystem:
    """Return the batch system of a name, as it is installed here."""
    if name != "pbs":
        return systems.find(name)
    try:
        version = run(["qsub", "--version"])
    except BatchError:  # not there, or does not tell
        version = ""
    return systems.find(name, version)
