"""Numbers from which the random generators of tasks can be made, the same in every run of a job."""

from __future__ import annotations

from hashlib import blake2b

from .ids import TaskId

SEED_BYTES = 16


def job_seed(seed: int) -> bytes:
    """Return 16 bytes that stand for an app's ``seed``, any int: its decimal digits by BLAKE2b."""
    return blake2b(
        str(seed).encode("ascii"), digest_size=SEED_BYTES, person=b"parasnake job"
    ).digest()


def task_seed(job: bytes, task: TaskId) -> int:
    """Return the seed of one task, an int of 128 bits: BLAKE2b of its id, keyed with ``job_seed``.

    It depends on nothing else: not on the node, the order of the results or the attempt.
    """
    digest = blake2b(task.to_bytes(8, "big"), digest_size=SEED_BYTES, key=job)
    return int.from_bytes(digest.digest(), "big")
