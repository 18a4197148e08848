"""loky, the pool of joblib and scikit-learn."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import AbstractContextManager

from peers.base import WORKERS, ExecutorPeer


class Loky(ExecutorPeer):
    """Its plain pool, not the reusable one: that waits for more work at the end."""

    imports = "from loky import ProcessPoolExecutor"

    def executor(self) -> AbstractContextManager[Executor]:
        """Start it."""
        from loky import ProcessPoolExecutor

        pool: AbstractContextManager[Executor] = ProcessPoolExecutor(WORKERS)
        return pool
