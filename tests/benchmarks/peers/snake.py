"""Parasnake as its users run it: server, agent and workers are processes, and all is encrypted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from parasnake import Parasnake
from peers.base import WORKERS, Peer, Phase


class Snake(Peer):
    """A script with hooks; nothing is tuned."""

    imports = "from parasnake import Parasnake"

    def run(
        self, function: Callable[[Any], Any], phases: Iterable[Phase], take: Callable[[Any], None]
    ) -> None:
        """Hand out by a plain generator, which has nothing just now while a phase is ending."""
        app = Parasnake("benchmark")
        app.process(function)
        open_tasks = 0

        @app.new_data
        def data() -> Iterator[Any]:
            nonlocal open_tasks
            while (status := app.status) is None or len(status.nodes) < WORKERS:
                yield None
            for phase in phases:
                for item in phase:
                    open_tasks += 1
                    yield item
                while open_tasks:
                    yield None

        @app.result
        def merge(result: Any) -> None:
            nonlocal open_tasks
            open_tasks -= 1
            take(result)

        app.run(local=WORKERS, progress=False)
