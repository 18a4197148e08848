"""What a batch system says about the time and the cores that it gives to this process."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

NEAR_SECONDS = 150.0
"""Batch systems send their signal some time before the end: Slurm up to a minute early, if asked to."""


def time_limit(environ: Mapping[str, str], *, now: float, started: float) -> str:
    """Say that the time limit of the batch job is near, or past; "" if it is not, or not known.

    Parameters
    ----------
    environ: the environment of this process
    now, started: the time now and when this process began, in seconds since the epoch. It counts for
        batch systems that tell how long a job may run, but not until when
    """
    end = _number(environ, "SLURM_JOB_END_TIME")
    job = f"Slurm job {environ.get('SLURM_JOB_ID', '?')}"
    if end is None:
        walltime = _number(environ, "PBS_WALLTIME")
        end = started + walltime if walltime is not None else None
        job = f"PBS job {environ.get('PBS_JOBID', '?')}"
    if end is None or now < end - NEAR_SECONDS:
        return ""
    clock = time.strftime("%H:%M:%S", time.localtime(end))
    return f"the time limit of its {job} is at {clock}"


def granted_cores(environ: Mapping[str, str]) -> int | None:
    """Return how many cores of this machine are for this process; None outside of batch jobs."""
    if "SLURM_JOB_ID" in environ:
        return _granted_by_slurm(environ)
    for job, names in _CORES.items():
        if job in environ:
            return next(filter(None, (_whole(environ, name) for name in names)), None)
    return None


_CORES = {
    "PBS_JOBID": ("PBS_NUM_PPN", "NCPUS"),
    "LSB_JOBID": ("LSB_DJOB_NUMPROC",),
    "JOB_ID": ("NSLOTS",),  # Grid Engine
}
"""What tells that this is a batch job, and what tells its cores."""


def _granted_by_slurm(environ: Mapping[str, str]) -> int | None:
    on_node, each = _whole(environ, "SLURM_CPUS_ON_NODE"), _whole(environ, "SLURM_CPUS_PER_TASK")
    if "SLURM_STEP_ID" not in environ:  # the batch script, which has all of this machine's
        return on_node or each
    if each or not on_node:
        return each
    # One of several processes that srun has started here: "4(x2),3".
    here = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return max(1, on_node // max(1, int(here[0]))) if here else on_node


def _whole(environ: Mapping[str, str], name: str) -> int | None:
    number = _number(environ, name)
    return int(number) if number else None


def _number(environ: Mapping[str, str], name: str) -> float | None:
    text = environ.get(name, "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None
