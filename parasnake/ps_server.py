"""PSServer: a server as a class to derive from, as 0.1 had it."""

from __future__ import annotations

import logging
import time
from typing import Any

from parasnake.adapters import carry_out, in_background, new_app, send_home
from parasnake.app import Parasnake
from parasnake.core.ids import NodeId
from parasnake.errors import ParasnakeError
from parasnake.ps_config import PSConfiguration, key_bytes
from parasnake.ps_nodeid import PSNodeId

log = logging.getLogger(__name__)


class PSServer:
    """The server of a job. Derive from it, override the methods, call ``ps_run``.

    The methods are called one at a time, in the thread that called ``ps_run``: they need no locks.
    For each node ``ps_get_new_data`` and ``ps_process_result`` alternate strictly.

    Parameters
    ----------
    configuration: its values are read now, and copied to attributes that may be assigned until
        the server runs

    Attributes
    ----------
    server_port, secret_key, heartbeat_timeout: see ``PSConfiguration``
    quit: whether the job is over
    quit_counter: the configuration's; 0 once all nodes have been sent home
    ps_error: the error that ended ``ps_run``, None if the job was done
    """

    def __init__(self, configuration: PSConfiguration) -> None:
        self._ps_app: Parasnake | None = None
        self._ps_bound = 0
        self.server_port = configuration.server_port
        self.secret_key = configuration.secret_key
        self.heartbeat_timeout = configuration.heartbeat_timeout
        self.quit_counter = configuration.quit_counter
        self.quit = False
        self.ps_error: ParasnakeError | None = None

    # ---- to be overridden

    def ps_get_init_data(self, node_id: PSNodeId) -> Any:
        """Once for each node: return what its ``ps_init`` gets."""
        return None

    def ps_is_job_done(self) -> bool:
        """Say whether the job is done; true ends it at once. Must be overridden."""
        return False

    def ps_save_data(self) -> None:
        """Save the results; once, when the job is done and the nodes have gone."""

    def ps_node_timeout(self, node_id: PSNodeId) -> None:
        """Once for each node that is lost.

        Where this is overridden, ``ps_get_new_data`` must hand the lost node's data out again, and
        no late result of that node comes. Where it is not, the library itself gives the data to
        another node, whose result comes under the id of the lost one.
        """

    def ps_get_new_data(self, node_id: PSNodeId) -> Any:
        """Return the next data for this node, None for "nothing just now"."""
        return None

    def ps_process_result(self, node_id: PSNodeId, result: Any) -> None:
        """Merge what ``ps_process_data`` returned for the data that this node got last."""

    # ---- running

    def ps_run(self) -> None:
        """Serve until the job is done, then call ``ps_save_data``.

        An error of the library's (the port is in use, a task has failed for good, SIGTERM came)
        is logged and kept in ``ps_error``; then this returns too, without saving.

        Raises
        ------
        Exception: what one of the methods raised; the nodes have been sent home
        KeyboardInterrupt: SIGINT came
        """
        app = self._ps_make_app()
        app.finish(self._ps_finish)
        self._ps_serve(app)

    async def ps_main_loop(self) -> None:
        """As ``ps_run``, but without ``ps_save_data`` and in a thread: for asyncio programs.

        The methods are called in that thread. Cancelling stops the server.
        """
        app = self._ps_make_app()
        await in_background(lambda: self._ps_serve(app), cancel=app.stop, wait_for_end=True)

    @property
    def all_nodes(self) -> dict[PSNodeId, float]:
        """The nodes of the moment, and when each was last heard, as ``time.time()`` counts."""
        status = self._ps_app.status if self._ps_app is not None else None
        if status is None:
            return {}
        now = time.time()
        return {PSNodeId.of(node): now - silence for node, silence in status.nodes.items()}

    @property
    def server_port(self) -> int:
        """The port; while the server runs, the one that it found if it was set to 0."""
        status = self._ps_app.status if self._ps_app is not None else None
        return (status.port if status is not None else 0) or self._ps_port

    @server_port.setter
    def server_port(self, port: int) -> None:
        self._ps_port = port

    # ---- how it is done

    def _ps_make_app(self) -> Parasnake:
        app = new_app()
        of = PSNodeId.of
        app.init_data(lambda node_id: self.ps_get_init_data(of(node_id)))
        app.new_data(lambda node_id: self.ps_get_new_data(of(node_id)))
        app.result(lambda result, node_id: self.ps_process_result(of(node_id), result))
        app.job_done(self._ps_ask_whether_done)
        if self._ps_hears_of_timeouts():
            app.node_timeout(self._ps_tell_timeout)
        return app

    def _ps_hears_of_timeouts(self) -> bool:
        method = self.ps_node_timeout
        return getattr(method, "__func__", method) is not PSServer.ps_node_timeout

    def _ps_tell_timeout(self, node_id: NodeId) -> None:
        self.ps_node_timeout(PSNodeId.of(node_id))

    def _ps_ask_whether_done(self) -> bool:
        if not self._ps_bound:
            self._ps_bound = self.server_port
        self.quit = bool(self.ps_is_job_done())
        return self.quit

    def _ps_finish(self) -> None:
        self.quit_counter = 0
        self.ps_save_data()

    def _ps_serve(self, app: Parasnake) -> None:
        self._ps_app = app
        self._ps_bound = 0
        self.quit, self.ps_error = False, None
        try:
            self.ps_error = carry_out(
                lambda: self._ps_run_app(app), who=type(self).__name__, log=log
            )
        finally:
            self.quit, self.quit_counter = True, 0
            self._ps_app = None

    def _ps_run_app(self, app: Parasnake) -> None:
        key = key_bytes(self.secret_key)
        try:
            app.run(
                server=True,
                port=self._ps_port,
                secret_key=key,
                heartbeat_timeout=self.heartbeat_timeout,
                progress=False,  # nothing is printed that nobody asked for
            )
        finally:
            send_home(port=self._ps_bound, key=key)
