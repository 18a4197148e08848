"""Distributed number crunching with Python.

One server hands out data, any number of nodes on any machines compute, the server merges the
results; everything between them is encrypted. Start with ``Parasnake``.
"""

__version__ = "0.2.0"

import logging
from typing import TYPE_CHECKING

from parasnake.app import Parasnake
from parasnake.config import Config
from parasnake.core.ids import NodeId
from parasnake.errors import (
    BatchError,
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

if TYPE_CHECKING:
    from parasnake.ps_config import PSConfiguration
    from parasnake.ps_node import PSNode
    from parasnake.ps_nodeid import PSNodeId
    from parasnake.ps_server import PSServer
    from parasnake.server import Status

# Nothing is printed that nobody asked for: without this, Python would write warnings to stderr.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "BatchError",
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

# What most programs never name is imported when they do: a node shall not wait for the server's half.
_AT_FIRST_USE = {
    "PSConfiguration": "ps_config",
    "PSNode": "ps_node",
    "PSNodeId": "ps_nodeid",
    "PSServer": "ps_server",
    "Status": "server",
}


if not TYPE_CHECKING:  # a type checker would let every name pass

    def __getattr__(name: str) -> object:
        if name not in _AT_FIRST_USE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_AT_FIRST_USE[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
