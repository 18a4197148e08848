"""What is compared: Parasnake and what else one could use, each behind the same small interface."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from peers.base import Peer


@dataclass(frozen=True, slots=True)
class Entry:
    """How to find one peer.

    Attributes
    ----------
    title: for the table
    requires: modules that must be installed
    where: the module of its adapter, and what to call there for a ``Peer``
    by_default: whether it is measured unless others are chosen
    slow: it takes seconds to start, so that ``--quick`` has only what is essential of it
    variant: another way to run the same, which ``--quick`` leaves out
    """

    title: str
    requires: tuple[str, ...]
    where: str
    by_default: bool = True
    slow: bool = False
    variant: bool = False

    @property
    def installed(self) -> bool:
        """Whether it can be measured here."""
        return all(importlib.util.find_spec(module) for module in self.requires)

    def load(self) -> Peer:
        """Import the adapter, but not yet what it adapts."""
        module, name = self.where.split(":")
        peer = getattr(importlib.import_module(module), name)()
        assert isinstance(peer, Peer)
        return peer


PARASNAKE = "parasnake"
PEERS = {
    PARASNAKE: Entry("Parasnake", ("parasnake",), "peers.snake:Snake"),
    "pool": Entry("ProcessPoolExecutor", (), "peers.pool:Pool"),
    "pool-100": Entry(
        "ProcessPoolExecutor, chunksize=100", (), "peers.pool:ChunkedPool", by_default=False
    ),
    "loky": Entry("loky", ("loky",), "peers.reusable:Loky"),
    "dask": Entry("Dask, TCP", ("distributed",), "peers.dask_cluster:DaskTcp", slow=True),
    "dask-tls": Entry(
        "Dask, TLS", ("distributed",), "peers.dask_cluster:DaskTls", slow=True, variant=True
    ),
    "mpi": Entry("mpi4py.futures", ("mpi4py",), "peers.mpi:Mpi"),
    "mpi-tcp": Entry("mpi4py.futures, TCP", ("mpi4py",), "peers.mpi:MpiTcp", variant=True),
    "ray": Entry("Ray", ("ray",), "peers.ray_node:Ray", slow=True),
}
"""By the name on the command line. Imports of adapters are late: each process has only its own."""

__all__ = ["PARASNAKE", "PEERS", "Entry", "Peer"]
