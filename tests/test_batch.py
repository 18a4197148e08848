"""What a batch system says about the time and the cores of a job."""

from __future__ import annotations

import pytest

from parasnake.batch import NEAR_SECONDS, granted_cores, time_limit

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


ON_NODE = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "16"}


@pytest.mark.parametrize(
    ("environ", "cores"),
    [
        ({}, None),
        (ON_NODE, 16),
        (ON_NODE | {"SLURM_CPUS_PER_TASK": "4"}, 16),  # the batch script has all of the node
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}, 4),
        (ON_NODE | {"SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "4"}, 4),  # one of srun's
        (ON_NODE | {"SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, 4),
        (ON_NODE | {"SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "32"}, 1),
        (ON_NODE | {"SLURM_STEP_ID": "0"}, 16),
        ({"SLURM_JOB_ID": "7"}, None),
        ({"PBS_JOBID": "7.login", "PBS_NUM_PPN": "8"}, 8),
        ({"PBS_JOBID": "7.login", "NCPUS": "8"}, 8),
        ({"PBS_JOBID": "7.login", "PBS_NUM_PPN": "many", "NCPUS": "0"}, None),
        ({"NCPUS": "8"}, None),  # whoever else uses that name
        ({"LSB_JOBID": "7", "LSB_DJOB_NUMPROC": "8"}, 8),
        ({"JOB_ID": "7", "NSLOTS": "8"}, 8),
    ],
)
def test_the_cores_that_were_granted(environ: dict[str, str], cores: int | None) -> None:
    assert granted_cores(environ) == cores
