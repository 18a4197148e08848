"""PSConfiguration: the settings of class programs, as 0.1 had them."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any, Literal

from parasnake import keys
from parasnake.errors import LegacyConfigurationError

SHORTEST_HEARTBEAT_S = 9
"""``heartbeat_timeout`` must be longer."""


class PSConfiguration:
    """The settings that a server and its nodes share.

    All may be assigned later: a ``PSServer`` or ``PSNode`` reads them when it is made.

    Parameters
    ----------
    secret_key: the key that server and nodes share: a text of exactly 32 bytes

    Attributes
    ----------
    server_address: where nodes find the server: an address or a host name
    server_port: the server's port; 0 lets the server take any free one
    heartbeat_timeout: seconds of silence after which a node counts as lost; more than 9
    quit_counter: what the server's ``quit_counter`` begins with; 1 or more
    secret_key: the key in base64url, as bytes
    workers: None: a node computes in the process that runs it; a number, or "auto" for every core:
        in that many worker processes

    Raises
    ------
    errors.LegacyConfigurationError: a wrong value, here or when it is assigned. It is a
        ``ConfigurationError`` and an ``AssertionError``
    """

    def __init__(self, secret_key: str) -> None:
        if not isinstance(secret_key, str) or len(secret_key.encode()) != keys.KEY_BYTES:
            raise LegacyConfigurationError(
                f"secret_key: it must be a text of exactly {keys.KEY_BYTES} bytes"
            )
        self.server_address = "127.0.0.1"
        self.server_port = 3100
        self.heartbeat_timeout = 300
        self.quit_counter = 10
        self.workers = None
        self.secret_key = base64.urlsafe_b64encode(secret_key.encode())

    @classmethod
    def from_json(cls, file_name: str | os.PathLike[str]) -> PSConfiguration:
        """Read a file with one JSON object.

        Its fields bear the names of the attributes. ``secret_key`` must be there, as the text that
        the constructor takes; unknown fields are ignored.

        Raises
        ------
        errors.LegacyConfigurationError: a wrong value, or no ``secret_key``
        OSError, ValueError: the file cannot be read, or is no JSON
        """
        with Path(file_name).open(encoding="utf-8-sig") as file:
            mode = os.fstat(file.fileno()).st_mode
            settings = json.load(file)
        if not isinstance(settings, dict) or "secret_key" not in settings:
            raise LegacyConfigurationError(f"{file_name}: there is no secret_key in it")
        keys.warn_if_exposed(Path(file_name), mode, "configuration file")
        configuration = cls(settings["secret_key"])
        for name in ("server_address", "server_port", "heartbeat_timeout", "quit_counter"):
            setattr(configuration, name, settings.get(name, getattr(configuration, name)))
        configuration.workers = settings.get("workers")
        return configuration

    def __repr__(self) -> str:
        return f"PSConfiguration({self.server_address}:{self.server_port})"

    @property
    def heartbeat_timeout(self) -> float:
        """Seconds of silence after which a node counts as lost."""
        return self._heartbeat_timeout

    @heartbeat_timeout.setter
    def heartbeat_timeout(self, seconds: float) -> None:
        if not _is_number(seconds) or not seconds > SHORTEST_HEARTBEAT_S:
            raise _wrong("heartbeat_timeout", seconds, f"seconds, more than {SHORTEST_HEARTBEAT_S}")
        self._heartbeat_timeout = seconds

    @property
    def quit_counter(self) -> int:
        """What the server's ``quit_counter`` begins with."""
        return self._quit_counter

    @quit_counter.setter
    def quit_counter(self, count: int) -> None:
        if not _is_number(count) or not count > 0:
            raise _wrong("quit_counter", count, "a number from 1")
        self._quit_counter = count

    @property
    def workers(self) -> int | Literal["auto"] | None:
        """How many worker processes a node has; None: it computes in the process that runs it."""
        return self._workers

    @workers.setter
    def workers(self, count: int | Literal["auto"] | None) -> None:
        if count is not None and count != "auto" and not (type(count) is int and count > 0):
            raise _wrong("workers", count, "a whole number from 1, 'auto', or None")
        self._workers = count

    @property
    def secret_key(self) -> bytes:
        """The key in base64url."""
        return self._secret_key

    @secret_key.setter
    def secret_key(self, encoded: bytes) -> None:
        key_bytes(encoded)
        self._secret_key = encoded


def key_bytes(secret_key: bytes) -> bytes:
    """The 32 bytes that the attribute ``secret_key`` stands for.

    Raises
    ------
    LegacyConfigurationError: it is not 32 bytes in base64url
    """
    try:
        key = base64.b64decode(secret_key, altchars=b"-_", validate=True)
    except (ValueError, TypeError):
        key = b""
    if len(key) != keys.KEY_BYTES:
        raise LegacyConfigurationError(
            f"secret_key: the attribute must hold {keys.KEY_BYTES} bytes in base64url"
        )
    return key


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(name: str, value: object, allowed: str) -> LegacyConfigurationError:
    return LegacyConfigurationError(f"{name} = {value!r:.80}; allowed: {allowed}")
