"""What is said about the end of a batch job's time."""

from __future__ import annotations

import pytest

from parasnake.batch import NEAR_SECONDS, time_limit

SLURM = {"SLURM_JOB_ID": "4711", "SLURM_JOB_END_TIME": "100000"}
PBS = {"PBS_JOBID": "42.login", "PBS_WALLTIME": "3600"}


@pytest.mark.parametrize(
    ("environ", "now", "words"),
    [
        (SLURM, 100_000 - NEAR_SECONDS - 1, ""),
        (SLURM, 100_000 - NEAR_SECONDS, "the time limit of its Slurm job 4711 is at "),
        (SLURM, 100_005, "the time limit of its Slurm job 4711 is at "),
        (PBS, 1000 + 3600 - NEAR_SECONDS - 1, ""),
        (PBS, 1000 + 3600, "the time limit of its PBS job 42.login is at "),
        ({}, 100_000, ""),
        ({"SLURM_JOB_END_TIME": "soon"}, 100_000, ""),
        ({"SLURM_JOB_END_TIME": "9" * 400}, 100_000, ""),
        ({"PBS_WALLTIME": "01:00:00"}, 100_000, ""),
    ],
)
def test_the_limit_is_told_when_it_is_near(environ: dict[str, str], now: float, words: str) -> None:
    said = time_limit(environ, now=now, started=1000)
    assert said.startswith(words)
    assert bool(said) == bool(words)
