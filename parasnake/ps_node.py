"""PSNode: a node as a class to derive from, as 0.1 had it."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from parasnake.adapters import at_work, carry_out, in_background, new_app
from parasnake.app import Parasnake
from parasnake.errors import NodeFailed, ParasnakeError
from parasnake.ps_config import PSConfiguration, key_bytes
from parasnake.ps_nodeid import PSNodeId

log = logging.getLogger(__name__)


class PSNode:
    """A node. Derive from it, override ``ps_process_data``, call ``ps_run``.

    The methods are called in the process that runs the node, so that what they set on ``self`` can
    be read afterwards. The connection to the server and the heartbeat are kept by a helper process,
    which ends with this one: code that holds the interpreter's lock for long loses no node.

    With ``workers`` in the configuration they are called in that many worker processes instead,
    each of which has a copy of this object and a node id of its own.

    Parameters
    ----------
    configuration: its values are read now, and copied to attributes that may be assigned until
        the node runs

    Attributes
    ----------
    node_id: the node's own ``PSNodeId``, which the server's methods get
    server_address, server_port, secret_key, heartbeat_timeout: see ``PSConfiguration``
    ps_error: the error that ended ``ps_run``, None if the server said quit
    """

    def __init__(self, configuration: PSConfiguration) -> None:
        self.node_id = PSNodeId()
        self.server_address = configuration.server_address
        self.server_port = configuration.server_port
        self.secret_key = configuration.secret_key
        self.heartbeat_timeout = configuration.heartbeat_timeout
        self.ps_error: ParasnakeError | None = None
        self._ps_workers = configuration.workers
        self._ps_raised: Exception | None = None

    # ---- to be overridden

    def ps_init(self, data: Any) -> None:
        """Once, before the first data: get what the server's ``ps_get_init_data`` returned."""

    def ps_process_data(self, data: Any) -> Any:
        """Compute: return the result for this data. Must be overridden.

        What it raises stands in the server's log, and the data is tried again.
        """
        raise NotImplementedError(f"{type(self).__name__} does not override ps_process_data")

    # ---- running

    def ps_run(self) -> None:
        """Wait for the server, work for it, and return when it says quit.

        An error of the library's (no server, another secret key, a lost connection) is logged and
        kept in ``ps_error``; then this returns too.

        Raises
        ------
        Exception: what ``ps_init`` raised
        KeyboardInterrupt: SIGINT came
        """
        self._ps_work(self._ps_make_app())

    async def ps_start_tasks(self) -> None:
        """As ``ps_run``, but in a thread: for asyncio programs, also for several nodes in one.

        Cancelling breaks the connection without a word to the server. The result of a
        ``ps_process_data`` that is running is dropped.
        """
        app = self._ps_make_app()
        await in_background(lambda: self._ps_work(app), cancel=app.abandon, wait_for_end=False)

    # ---- how it is done

    def _ps_make_app(self) -> Parasnake:
        app = new_app()
        app.node_init(self._ps_begin)
        app.process(self._ps_compute)
        return app

    def _ps_begin(self, init_data: Any, node_id: uuid.UUID) -> None:
        self.node_id.id = PSNodeId.of(node_id).id  # the worker's own, in a worker process
        try:
            self.ps_init(init_data)
        except Exception as error:
            self._ps_raised = error
            raise

    def _ps_compute(self, data: Any) -> Any:
        return self.ps_process_data(data)

    def _ps_work(self, app: Parasnake) -> None:
        self._ps_raised = None
        self.ps_error = carry_out(lambda: self._ps_run_app(app), who=type(self).__name__, log=log)
        if self._ps_raised is not None:
            raise self._ps_raised

    def _ps_run_app(self, app: Parasnake) -> None:
        port, key = self.server_port, key_bytes(self.secret_key)
        with at_work(app, port=port, key=key):
            if self._ps_workers is None:
                self._ps_run_here(app, ip=self.server_address, port=port, secret_key=key)
                return
            workers = self._ps_workers
            app.run(ip=self.server_address, port=port, secret_key=key, workers=workers)

    def _ps_run_here(self, app: Parasnake, **settings: Any) -> None:
        try:
            app.run_here(self.node_id.id, **settings)
        except NodeFailed:
            if self._ps_raised is None:  # else the user's own exception says more
                raise
