"""Secret keys: what they look like as text, their files, and where a key is looked for.

A key is 32 bytes. No key is built in, and none ever stands in a log line, an error or a ``repr``.
"""

from __future__ import annotations

import base64
import logging
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from parasnake.errors import ConfigurationError

if TYPE_CHECKING:
    from parasnake.config import Config

logger = logging.getLogger(__name__)

KEY_BYTES = 32
PREFIX = "parasnake-key:"
KEY_TEXT = (
    f"one line of text: {PREFIX!r} and {KEY_BYTES} bytes in base64url, as 'parasnake keygen' "
    f"writes it, or exactly {KEY_BYTES} ASCII characters that are the key itself"
)
"""What the text of a key looks like, in words for an error message."""

_MAX_FILE_BYTES = 1024
_OPEN_TO_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A secret key, and in words where it was found."""

    key: bytes = field(repr=False)
    source: str


def generate_key() -> bytes:
    """Return a fresh random key."""
    return os.urandom(KEY_BYTES)


def parse_key(text: str) -> bytes:
    """Return the key that ``text`` stands for.

    The text is the line of a key file, or exactly 32 ASCII characters that are the key itself.
    A newline at the end is no part of it.

    Raises
    ------
    ValueError: it is neither. The message says what a key looks like and nothing of the text.
    """
    line = text.removesuffix("\n").removesuffix("\r")
    # Looked at first: a torn line of a key file may be 32 characters long by chance.
    if line.startswith(PREFIX):
        return _decode(line.removeprefix(PREFIX))
    if len(line) == KEY_BYTES and line.isascii():
        return line.encode("ascii")
    raise ValueError(f"a key is {KEY_TEXT}")


def key_text(key: bytes) -> str:
    """Return the line of text that stands for a key."""
    return f"{PREFIX}{_encode(key)}"


def read_key_file(path: str | os.PathLike[str], *, source: str = "") -> bytes:
    """Return the key in the file ``path``; log a warning if others on this machine can get at it.

    Arguments
    ---------
    path: the file; a pipe will do
    source: in words, who named this file; an error repeats it

    Raises
    ------
    ConfigurationError: the file cannot be read, or holds no key
    """
    try:
        return _read(Path(path), source)
    except OSError as error:
        raise ConfigurationError(
            f"key file {_named(path, source)}: cannot be read: {error.strerror}; "
            f"'parasnake keygen FILE' makes a new key file"
        ) from error


def write_key_file(path: str | os.PathLike[str]) -> None:
    """Write a fresh random key to the new file ``path``, which only its owner can read.

    The file is made whole or not at all, and an existing one is never overwritten.

    Raises
    ------
    ConfigurationError: there is such a file already, or it cannot be written
    """
    try:
        _create(Path(path))
    except FileExistsError:
        raise ConfigurationError(
            f"key file {path}: exists already and is not overwritten; remove it first if no server "
            f"or node needs its key any more"
        ) from None
    except OSError as error:
        raise _cannot_write(path, error) from error


def user_key_file() -> Path:
    """Return the place of the user's own key file, whether or not there is one.

    It is in ``$XDG_CONFIG_HOME`` or else where the system keeps the settings of programs.

    Raises
    ------
    ConfigurationError: this user has no home folder
    """
    try:
        return _configuration_folder() / "parasnake" / "key"
    except RuntimeError:
        raise ConfigurationError(
            "key file: this user has no home folder to look in; name a key file with --key-file"
        ) from None


def write_user_key_file() -> Path:
    """Write a fresh random key to `user_key_file`, in a folder that only the user can enter.

    Returns
    -------
    the path of the file

    Raises
    ------
    ConfigurationError: there is such a file already, or it cannot be written
    """
    path = user_key_file()
    try:
        _make_private_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    write_key_file(path)
    return path


def find_key(config: Config, *, create: bool) -> FoundKey:
    """Return the key that ``config`` gives, names a file for, or else the user's own.

    Arguments
    ---------
    config: its ``secret_key`` comes first, then its ``key_file``
    create: make the user's own key if there is none yet, as the first start of a server does.
        Programs that do so at the same time all get the same key.

    Raises
    ------
    ConfigurationError: there is no key, or its file cannot be read or written; the text says what
        to do
    """
    if config.secret_key is not None:
        return FoundKey(config.secret_key, config.sources.get("secret_key", "argument"))
    if config.key_file is not None:
        key = read_key_file(config.key_file, source=config.sources.get("key_file", ""))
        return FoundKey(key, f"key file {config.key_file}")
    path = user_key_file()
    if not os.path.lexists(path):
        if not create:
            raise _no_key(path)
        _create_user_key(path)
    return FoundKey(read_key_file(path), f"key file {path}")


def warn_if_exposed(path: Path, mode: int, what: str) -> None:
    """Log a warning if a file with a key in it is open to other users of this machine.

    Arguments
    ---------
    path, mode: the file and its ``st_mode``
    what: what kind of file it is, in words
    """
    if os.name == "posix" and stat.S_ISREG(mode) and mode & _OPEN_TO_OTHERS:
        import shlex  # for the warning only

        logger.warning(
            "the %s %s holds a secret key and is open to other users (mode %04o); run: chmod 600 %s",
            what,
            path,
            stat.S_IMODE(mode),
            shlex.quote(str(path)),
        )


def _encode(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    digits = text.removesuffix("=")
    try:
        key = base64.b64decode(digits + "=", altchars=b"-_", validate=True)
    except ValueError:
        key = b""
    # The decoder passes over digits of the other alphabet and over bits that stand for nothing.
    if len(key) != KEY_BYTES or _encode(key) != digits:
        raise ValueError(f"the key is damaged; a key is {KEY_TEXT}")
    return key


def _read(path: Path, source: str) -> bytes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read(_MAX_FILE_BYTES)
    try:
        key = parse_key(content.decode("ascii", errors="replace"))
    except ValueError as error:
        raise ConfigurationError(f"key file {_named(path, source)}: {error}") from None
    warn_if_exposed(path, mode, "key file")
    return key


def _create(path: Path) -> None:
    import tempfile  # a key is written once in a user's life

    descriptor, name = tempfile.mkstemp(prefix=".parasnake-key-", dir=path.parent)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{key_text(generate_key())}\n")
            file.flush()
            os.fsync(descriptor)
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless the name is taken (``FileExistsError``)."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links. Renaming would overwrite, so the name is reserved first;
        # somebody who reads in this moment finds an empty file and is told that it holds no key.
        path.touch(mode=0o600, exist_ok=False)
        try:
            temporary.replace(path)
        except OSError:
            path.unlink()
            raise


def _create_user_key(path: Path) -> None:
    try:
        _make_private_folder(path.parent)
        _create(path)
    except FileExistsError:
        return  # Another server was first; its key is as good.
    except OSError as error:
        raise _cannot_write(path, error) from error
    logger.info("made a new secret key: %s; nodes on other machines need a copy of it", path)


def _make_private_folder(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _configuration_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    # Its specification has relative paths ignored.
    if (named := Path(os.environ.get("XDG_CONFIG_HOME", ""))).is_absolute():
        return named
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path.home() / ".config"


def _named(path: str | os.PathLike[str], source: str) -> str:
    return f"{os.fspath(path)} ({source})" if source else os.fspath(path)


def _no_key(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"no secret key: there is no {path}, where the first start of a server leaves one; copy that "
        f"file from the server's machine to here, or name a copy of it with --key-file FILE"
    )


def _cannot_write(path: str | os.PathLike[str], error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"key file {os.fspath(path)}: cannot be written: {error.strerror}; make one in another place "
        f"with 'parasnake keygen FILE' and name it with --key-file FILE"
    )
