"""Ray, on this machine."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from peers.base import WORKERS, Peer, Phase


class Ray(Peer):
    """Without its dashboard and reports."""

    imports = "import ray"

    def run(
        self, function: Callable[[Any], Any], phases: Iterable[Phase], take: Callable[[Any], None]
    ) -> None:
        """Call the remote function for each task of a phase, then get the results in order."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        with tempfile.TemporaryDirectory() as folder:
            ray.init(
                num_cpus=WORKERS,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=1 << 30,
                _temp_dir=folder,
            )
            remote = ray.remote(function)
            for phase in phases:
                references = [remote.remote(data) for data in phase]
                references.reverse()
                while references:
                    take(ray.get(references.pop()))
            ray.shutdown()
