"""Seeds of tasks: what they depend on, and that they stay as they are from version to version."""

from __future__ import annotations

import pytest

from parasnake.core.ids import TaskId
from parasnake.core.seeds import SEED_BYTES, job_seed, task_seed


def test_they_are_the_same_for_ever() -> None:
    assert job_seed(0).hex() == "2060379a6f5a3f1af77bdfa38182c002"
    assert task_seed(job_seed(0), TaskId(0)) == 0xC2FC483D0EE8FDE16E93AEC938A47BF0
    assert task_seed(job_seed(7), TaskId(1)) == 0x47D5E49467EFD922152F6A659E156B88


def test_each_task_of_each_job_has_its_own() -> None:
    jobs = [job_seed(seed) for seed in (0, 1, -1, 10**40)]
    seeds = {task_seed(job, TaskId(task)) for job in jobs for task in range(100)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2 ** (8 * SEED_BYTES) for seed in seeds)
    assert max(seeds) > 2**120


@pytest.mark.parametrize("task", [0, 2**64 - 1])
def test_any_task_of_the_wire_has_one(task: int) -> None:
    assert task_seed(job_seed(0), TaskId(task)) == task_seed(job_seed(0), TaskId(task))
