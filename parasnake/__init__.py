"""Distributed number crunching with Python.

One server hands out data, any number of nodes on any machines compute, the server merges the
results; everything between them is encrypted. Start with ``Parasnake``.
"""

__version__ = "0.2.0"

import logging

from parasnake.app import Parasnake
from parasnake.config import Config
from parasnake.core.ids import NodeId
from parasnake.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    HookError,
    Interrupted,
    JournalError,
    NodeFailed,
    NotParasnakeError,
    ParasnakeError,
    PayloadError,
    RefusedError,
    RemoteError,
    ReplayError,
    TaskFailed,
    WrongKeyError,
)
from parasnake.ps_config import PSConfiguration
from parasnake.ps_node import PSNode
from parasnake.ps_nodeid import PSNodeId
from parasnake.ps_server import PSServer
from parasnake.server import Status

# Nothing is printed that nobody asked for: without this, Python would write warnings to stderr.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "Config",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLostError",
    "HookError",
    "Interrupted",
    "JournalError",
    "NodeFailed",
    "NodeId",
    "NotParasnakeError",
    "PSConfiguration",
    "PSNode",
    "PSNodeId",
    "PSServer",
    "Parasnake",
    "ParasnakeError",
    "PayloadError",
    "RefusedError",
    "RemoteError",
    "ReplayError",
    "Status",
    "TaskFailed",
    "WrongKeyError",
    "__version__",
]
