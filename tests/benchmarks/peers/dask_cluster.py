"""Dask distributed, with a cluster on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from peers.base import WORKERS, Peer, Phase


class DaskTcp(Peer):
    """Unencrypted.

    ``pure=False``, or it would take repeated data for known results: that also spares it a digest.
    """

    imports = "from distributed import Client, LocalCluster"
    protocol = "tcp://"

    def security(self) -> Any:
        """Return the certificates, if it needs some."""
        return None

    def run(
        self, function: Callable[[Any], Any], phases: Iterable[Phase], take: Callable[[Any], None]
    ) -> None:
        """``map`` and ``gather`` a phase; a phase of one task: ``submit``."""
        from distributed import Client, LocalCluster

        security = self.security()
        with (
            tempfile.TemporaryDirectory() as folder,
            LocalCluster(
                n_workers=WORKERS,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                protocol=self.protocol,
                security=security,
                local_directory=folder,
            ) as cluster,
            Client(cluster, security=security) as client,
        ):
            client.wait_for_workers(WORKERS)
            for phase in phases:
                many = list(phase)
                if len(many) == 1:
                    take(client.submit(function, many[0], pure=False).result())
                    continue
                for result in client.gather(client.map(function, many, pure=False)):
                    take(result)


class DaskTls(DaskTcp):
    """Encrypted, with certificates made for this run."""

    protocol = "tls://"

    def security(self) -> Any:
        """Return fresh certificates."""
        from distributed.security import Security

        return Security.temporary()
