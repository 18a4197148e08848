"""The process pool of the standard library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from peers.base import WORKERS, ExecutorPeer, Peer, Phase


class Pool(ExecutorPeer):
    """As it comes."""

    imports = "from concurrent.futures import ProcessPoolExecutor"

    def executor(self) -> ProcessPoolExecutor:
        """Start it."""
        return ProcessPoolExecutor(WORKERS)


class ChunkedPool(Peer):
    """With a chunk size, which its user must know to choose and which delays single results."""

    imports = Pool.imports

    def run(
        self, function: Callable[[Any], Any], phases: Iterable[Phase], take: Callable[[Any], None]
    ) -> None:
        """Use ``map``."""
        with ProcessPoolExecutor(WORKERS) as pool:
            for phase in phases:
                for result in pool.map(function, phase, chunksize=100):
                    take(result)
