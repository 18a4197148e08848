"""The access file: where a server can be reached and with which key, for nodes that read it.

A server writes it when it listens, whole or not at all, readable by its owner only, and removes it at
its end. Nodes wait for it, and read it again whenever they have to find their server again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parasnake import keys
from parasnake.addresses import Place, parse_place
from parasnake.errors import ConfigurationError

FORMAT = "parasnake access"
VERSION = 1
MAX_BYTES = 1 << 16
MAX_ADDRESSES = 100
UNFINISHED_SECONDS = 5.0
"""How long an access file may be incomplete: somebody may be copying it just now."""

_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_GONE = (errno.ENOENT, errno.ESTALE)
"""It is not there, or another file took its place while it was being opened over NFS."""
_HOPELESS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What does not pass by itself, unlike a file server that does not answer."""


@dataclass(frozen=True, slots=True)
class Access:
    """What is in an access file.

    Attributes
    ----------
    places: where the server can be reached, the best first
    key: the secret key, 32 bytes
    port: that on which the server listens
    app: the name of the app
    job: the job's id, hexadecimal
    host, pid: where the server runs, and as which process
    """

    places: tuple[Place, ...]
    port: int
    key: bytes = field(repr=False)
    app: str = ""
    job: str = ""
    host: str = ""
    pid: int = 0

    def text(self) -> str:
        """Write it as it stands in the file."""
        import json  # most programs have no such file
        import time

        return (
            json.dumps(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "app": self.app,
                    "job": self.job,
                    "host": self.host,
                    "pid": self.pid,
                    "written": time.strftime("%Y-%m-%d %H:%M:%S %z"),
                    "addresses": [
                        str(place._replace(port=0) if place.port == self.port else place)
                        for place in self.places
                    ],
                    "port": self.port,
                    "key": keys.key_text(self.key),
                },
                indent=2,
            )
            + "\n"
        )


class _Unfinished(ValueError):
    """It is no access file as it stands, and may be the beginning of one."""


def _parse(content: bytes) -> Access:
    """Read the text of an access file; raises ``ValueError`` with what is wrong."""
    import json

    try:
        table = json.loads(content)
    except (ValueError, RecursionError):
        if not content.strip() or content.lstrip().startswith(b"{"):
            raise _Unfinished("is incomplete") from None
        raise ValueError("is no access file") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise ValueError("is no access file")
    version = table.get("version")
    if version != VERSION:
        raise ValueError(
            f"has version {version!r} of the format, and this Parasnake reads version {VERSION}"
        )
    try:
        return _from_table(table)
    except (KeyError, TypeError, ValueError):
        raise ValueError("is damaged") from None  # and nothing of its text, which has the key in it


def _from_table(table: Mapping[str, Any]) -> Access:
    port, addresses = table["port"], table["addresses"]
    if not isinstance(port, int) or not 0 < port < 1 << 16 or not isinstance(addresses, list):
        raise ValueError
    if not 0 < len(addresses) <= MAX_ADDRESSES:
        raise ValueError
    places = [parse_place(address) for address in addresses]
    return Access(
        places=tuple(Place(host, own_port or port) for host, own_port in places),
        port=port,
        key=keys.parse_key(table["key"]),
        app=str(table.get("app", "")),
        job=str(table.get("job", "")),
        host=str(table.get("host", "")),
        pid=int(table.get("pid", 0)),
    )


def _open(path: Path) -> int:
    """Open it for reading, not waiting for whoever should write into a pipe of that name."""
    with contextlib.suppress(OSError):
        # An NFS client may remember for a minute that there is no such file, unless it looks into
        # the folder again.
        os.close(os.open(path.parent, os.O_RDONLY))
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    descriptor = _open(path)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("is no file")
        return os.read(descriptor, MAX_BYTES), facts
    finally:
        os.close(descriptor)


def _check_owner(path: Path, facts: os.stat_result) -> None:
    """Raise ``ValueError`` if somebody else may have written it: its key would let them run code."""
    if os.name != "posix":
        return
    if facts.st_uid not in (os.geteuid(), 0):
        raise ValueError(
            f"belongs to another user (uid {facts.st_uid}), who could have code run here as you"
        )
    if facts.st_mode & _FOR_OTHERS:
        import shlex  # for an error only

        mode = stat.S_IMODE(facts.st_mode)
        raise ValueError(
            f"is open to other users (mode {mode:04o}), who could learn the secret key in it; run: "
            f"chmod 600 {shlex.quote(str(path))}"
        )


# ---- the node's side


class Guide:
    """Tells an agent where its server is: what the settings say, and what the access file says now.

    Attributes
    ----------
    places: where to look for the server, in this order; empty as long as there is no access file
    key: the secret key; None as long as there is no access file
    """

    def __init__(self, path: Path | None, named: Sequence[Place], key: bytes | None) -> None:
        self._path = path.absolute() if path is not None else None
        self._named = list(named)
        self._unfinished_since: float | None = None
        self.places = self._named if path is None else []
        self.key = key

    @property
    def may_change(self) -> bool:
        """Whether there is an access file, which may be written anew at any time."""
        return self._path is not None

    def look(self, now: float) -> str:
        """Read the access file, if there is one to be read.

        Returns
        -------
        why it says nothing just now, for a message; "" if it does, or none is asked. ``places`` and
        ``key`` are still those of before then

        Raises
        ------
        ConfigurationError: it cannot be used; one line says why
        """
        if self._path is None:
            return ""
        try:
            content, facts = _read(self._path)
            _check_owner(self._path, facts)
            access = _parse(content)
        except _Unfinished as error:
            since = self._unfinished_since
            self._unfinished_since = now if since is None else since
            if since is not None and now - since >= UNFINISHED_SECONDS:
                raise self._unusable(f"{error}; remove it if no server uses it") from None
            return f"access file {self._path} {error}"
        except ValueError as error:
            raise self._unusable(str(error)) from None
        except OSError as error:
            if error.errno in _GONE:
                self._unfinished_since = None
                return f"there is no access file {self._path}"
            if error.errno in _HOPELESS:
                raise self._unusable(f"cannot be read: {error.strerror}") from error
            return f"access file {self._path} cannot be read: {error.strerror}"
        self._unfinished_since = None
        named = [Place(host, port or access.port) for host, port in self._named]
        self.places = list(dict.fromkeys([*named, *access.places]))
        self.key = access.key
        return ""

    def told(self, missing: str, failures: Sequence[str]) -> str:
        """Say what came of a search for the server.

        Arguments
        ---------
        missing: what ``look`` returned
        failures: what became of each address
        """
        tried = "; ".join(failures)
        if self._path is None:
            return tried
        by_file = f"by access file {self._path}: {tried}"
        return "; ".join(filter(None, (missing, tried))) if missing else by_file

    def _unusable(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"access file {self._path} {problem}")


# ---- the server's side


class AccessFile:
    """The access file of a server, from its start to its end.

    Parameters
    ----------
    path: of the file, which may be there already if it is an access file
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._found = b""
        self._own = b""
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """Its full name."""
        return self._path

    def check(self) -> Access | None:
        """See whether it can be written, and return what is in it if there is a usable one.

        Raises
        ------
        ConfigurationError: the folder cannot be written to, it is another kind of file or belongs to
            somebody else, or a server that lives is using it
        """
        folder = self._path.parent
        if not folder.is_dir():
            raise self._unusable("cannot be written: there is no such folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise self._unusable("cannot be written: Permission denied in its folder")
        try:
            return self._look()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(f"is there and cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise self._unusable(
                f"is there already and {error}; name another file, or remove that one"
            ) from None

    def _look(self) -> Access | None:
        content, facts = _read(self._path)
        if not content.strip():
            return None
        access = _parse(content)
        self._found = content
        self._refuse_one_in_use(access)
        try:
            _check_owner(self._path, facts)
        except ValueError:
            if facts.st_uid != os.geteuid():
                raise
            return None  # others may know this key
        return access

    def _refuse_one_in_use(self, access: Access) -> None:
        with contextlib.suppress(ImportError, OSError):
            import fcntl  # not on Windows

            descriptor = os.open(self._path, os.O_RDWR)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise self._unusable(
                    f"is in use by the server of app {access.app!r} on {access.host}, process "
                    f"{access.pid}; name another file, or remove it if that server is gone"
                ) from None
            finally:
                os.close(descriptor)

    def write(self, access: Access) -> None:
        """Put it there, in place of one that may be there.

        Raises
        ------
        ConfigurationError: that is not possible, or would let others read the key
        """
        content = access.text().encode()
        try:
            self._replace(content)
        except OSError as error:
            raise self._unusable(f"cannot be written: {error.strerror}") from error
        self._own = content

    def _replace(self, content: bytes) -> None:
        import tempfile  # only a server writes one

        descriptor, name = tempfile.mkstemp(  # mode 0600
            prefix=f".{self._path.name}-", suffix=".tmp", dir=self._path.parent
        )
        try:
            self._fill(descriptor, content)
            Path(name).replace(self._path)
        except BaseException:
            os.close(descriptor)
            Path(name).unlink()
            raise
        self.close()
        self._lock = descriptor
        _sync_folder(self._path.parent)

    def _fill(self, descriptor: int, content: bytes) -> None:
        if os.name == "posix" and os.fstat(descriptor).st_mode & _FOR_OTHERS:
            raise self._unusable(
                "cannot be written: its file system keeps no modes, so that others could read the key"
            )
        with contextlib.suppress(ImportError, OSError):  # some network file systems have no locks
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.fsync(descriptor)

    def remove(self) -> None:
        """Remove it, unless it is another server's by now or is gone."""
        if self._own:
            with contextlib.suppress(OSError, ValueError):
                content, _ = _read(self._path)
                if content == self._own:
                    self._path.unlink()
        self.close()

    def take_over(self) -> None:
        """The one that ``check`` has found is as good as written by this server."""
        self._own = self._found

    def close(self) -> None:
        """Leave it there, for a server that goes on with the job."""
        self._own = b""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _unusable(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"access file {self._path} {problem}")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows has no such thing
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
