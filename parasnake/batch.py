"""What a batch system says about the time that it gives to this process."""

from __future__ import annotations

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


def _number(environ: Mapping[str, str], name: str) -> float | None:
    text = environ.get(name, "")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None
