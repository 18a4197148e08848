"""The journal on the disk: a SQLite file of entries, written as they happen and read again.

Table ``meta`` says whose journal it is. Table ``stream`` has the entries' bytes, one row for what was
written at one time: its number, the time, a CRC-32 and the bytes. A row ends where an entry ends,
but for what is too large for one row. Rows are only ever added, until a checkpoint takes the place of
all of them; SQLite uses their room again.

On a local disk SQLite's write-ahead log is used: what is committed survives the death of the process,
and a power cut takes the last moments at most. On a network file system that log is not safe, and
SQLite's rollback journal is used instead, which waits for the disk at each commit.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from .core.ids import JobId, NodeKey, TaskId
from .core.journal import LAYOUTS, Entry, Quiet, write, write_handed_out, write_merged
from .core.messages import Buffer, MessageReader, Parts
from .errors import ConfigurationError, JournalError, MessageError

FORMAT = 1
APPLICATION_ID = 0x50534A4C
"""Marks a SQLite file as a journal of this library ("PSJL")."""
ROW_BYTES = 1 << 24
"""No row is longer; SQLite's own limit is 10^9."""
PENDING_BYTES = 1 << 24
"""So much is written at the latest, whether somebody waits for it or not."""
BUSY_SECONDS = 60.0
"""How long a commit waits for a reader, where readers can stand in the way."""
WAL_PAGES = 4000
"""The write-ahead log is taken into the file when it has this many pages (of 4 KiB)."""
WAL_BYTES = 1 << 26
"""A write-ahead log that was longer, for a large checkpoint, is cut to this."""

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"),
        *("nfs4", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "vboxsf", "wekafs"),
    }
)

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE stream (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, crc INTEGER NOT NULL, bytes BLOB NOT NULL
);
"""
_NOT_NOW = frozenset(
    {
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM),
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
    }
)
"""What SQLite says when a file may be in order, and cannot be read by this process or just now."""
_ADD_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_ADD_ROW = "INSERT INTO stream VALUES (?, ?, ?, ?)"


class Row(NamedTuple):
    """What was written at one time."""

    at: float
    size: int
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Facts:
    """Whose journal it is.

    Attributes
    ----------
    app: the app's name
    job: the id of the job
    digest: of the code of ``process``
    library: the version of Parasnake when the journal was begun
    started: when that was, in seconds since 1970
    seed: from which the seeds of tasks are made
    """

    app: str
    job: JobId
    digest: str
    library: str
    started: float
    seed: bytes = b""


class Overtaken(Exception):
    """A checkpoint has removed rows while they were read: begin again."""


class Stored:
    """A journal that exists, as it can be read, also while a server writes it.

    Raises
    ------
    ConfigurationError: it cannot be opened, is no journal or has another format
    JournalError: it is damaged
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        with _reading(path):
            self._check()

    @classmethod
    @contextlib.contextmanager
    def read(cls, path: Path) -> Iterator[Stored]:
        """Open a journal for reading only."""
        if not path.is_file():
            raise ConfigurationError(f"journal {path}: there is no such file")
        with _reading(path):
            uri = f"{path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)
        with contextlib.closing(connection):
            yield cls(path, connection)

    def _check(self) -> None:
        (mark,) = self._connection.execute("PRAGMA application_id").fetchone()
        if mark != APPLICATION_ID:
            raise _no_journal(self.path)
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            raise ConfigurationError(
                f"journal {self.path}: it has format {version}, and this version of Parasnake "
                f"knows format {FORMAT} only"
            )
        meta = dict(self._connection.execute("SELECT name, value FROM meta"))
        try:
            self.facts = Facts(
                app=meta["app"],
                job=JobId(bytes(meta["job"])),
                digest=meta["digest"],
                library=meta["library"],
                started=meta["started"],
                seed=bytes(meta["seed"]),
            )
        except (KeyError, TypeError):
            raise _damaged(self.path, "it does not say whose it is") from None

    @property
    def done(self) -> int | None:
        """After how many merges and failures the job was done; None if it was not."""
        found = self._connection.execute("SELECT value FROM meta WHERE name = 'done'").fetchone()
        return None if found is None else int(found[0])

    @property
    def last(self) -> int:
        """The number of the last row; 0 if there never was one."""
        return self._span()[1]

    @property
    def checkpoint_bytes(self) -> int:
        """How many bytes of entries the last checkpoint has written; 0 if there was none."""
        found = self._connection.execute("SELECT value FROM meta WHERE name = 'cut'").fetchone()
        return 0 if found is None else int(found[0])

    def _span(self) -> tuple[int, int]:
        """The numbers of the first row that there should be and of the last one."""
        first, last = self._connection.execute(
            "SELECT (SELECT value FROM meta WHERE name = 'first'), (SELECT max(seq) FROM stream)"
        ).fetchone()
        first = 1 if first is None else int(first)
        return first, first - 1 if last is None else int(last)

    def rows(self) -> Iterator[Row]:
        """Read all entries, one row after another.

        Raises
        ------
        JournalError: it is damaged
        Overtaken: a server has made a checkpoint meanwhile
        """
        reader = MessageReader(frozenset(LAYOUTS), LAYOUTS)
        with _reading(self.path):
            first, end = self._span()
        for number in range(first, end + 1):
            with _reading(self.path):
                row = self._row(number)
                if row is None:
                    if self._span()[0] > number:
                        raise Overtaken
                    raise _damaged(self.path, f"row {number} is missing or not as it was written")
                entries = reader.feed(row[1])
            yield Row(row[0], len(row[1]), entries)
        if reader.unfinished:
            raise _damaged(self.path, "an entry has no end")

    def _row(self, number: int) -> tuple[float, bytes] | None:
        found = self._connection.execute(
            "SELECT at, crc, bytes FROM stream WHERE seq = ?", (number,)
        ).fetchone()
        if found is None or not isinstance(found[2], bytes) or crc32(found[2]) != found[1]:
            return None
        return found[0], found[2]


class Journal:
    """The journal of a server, which alone may write it.

    ``note`` entries; they are on the disk after ``commit``. What was read from the disk comes first:
    ``stored.rows``.

    Parameters
    ----------
    path: the file; if it does not exist it is made, for the job that ``new`` tells about
    new: what to write into a new journal

    Raises
    ------
    ConfigurationError: another server has it open, it cannot be opened, is no journal, is another
        app's or has another format
    JournalError: it is damaged, or a new one cannot be written
    """

    def __init__(self, path: Path, new: Facts) -> None:
        self.path = path
        self._pending: list[Buffer] = []
        self._size = 0
        self._quiet = Quiet()
        self._is_quiet = False
        self._broken = False
        with contextlib.ExitStack() as opened:
            if path.exists() and path.stat().st_nlink > 1:
                raise ConfigurationError(
                    f"journal {path}: it has more than one name (hard links), and two servers could "
                    "use it at a time without noticing; copy it"
                )
            lock = opened.enter_context(contextlib.closing(_connect(_lock_file(path), 0.0)))
            _take(lock, path)
            self._connection = opened.enter_context(
                contextlib.closing(_connect(path, BUSY_SECONDS))
            )
            self.file_system = network_file_system(path)
            self.is_new = self._set_up(new)
            self.stored = Stored(path, self._connection)
            if self.stored.facts.app != new.app:
                raise ConfigurationError(
                    f"journal {path}: it is a journal of the app {self.stored.facts.app!r}, and "
                    f"this is the app {new.app!r}; name another file"
                )
            self._next = self.stored.last + 1
            self.grown = 0
            """Bytes of entries that were written since it was opened, or since a checkpoint."""
            self._opened = opened.pop_all()

    def _set_up(self, new: Facts) -> bool:
        """Make the tables in a new file; returns whether it was new."""
        with _reading(self.path):
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (mark,) = self._connection.execute("PRAGMA application_id").fetchone()
            if mark != APPLICATION_ID and tables:
                raise _no_journal(self.path)
            local = self.file_system is None
            self._connection.execute(f"PRAGMA journal_mode = {'WAL' if local else 'TRUNCATE'}")
            self._connection.execute(f"PRAGMA synchronous = {'NORMAL' if local else 'FULL'}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            self._connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if tables:
            return False
        with self._writing():
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {FORMAT};"
            )
            meta = [
                ("app", new.app),
                ("job", new.job),
                ("digest", new.digest),
                ("library", new.library),
                ("started", new.started),
                ("seed", new.seed),
            ]
            self._connection.executemany(_ADD_META, meta)
            self._connection.execute("COMMIT")
        return True

    # ---- writing

    def note(self, entry: Entry) -> None:
        """Write this soon."""
        if self._is_quiet:
            self._end_quiet()
        self._added(write(entry, self._pending))

    def handed_out(self, task: TaskId, node: NodeKey, payload: Parts) -> None:
        """Write a ``HandedOut`` soon."""
        if self._is_quiet:
            self._end_quiet()
        self._size += write_handed_out(task, node, payload, self._pending)
        if self._size > PENDING_BYTES:
            self.commit()

    def merged(self, task: TaskId, node: NodeKey, seconds: float, payload: Parts) -> None:
        """Write a ``Merged`` soon."""
        if self._is_quiet:
            self._end_quiet()
        self._size += write_merged(task, node, seconds, payload, self._pending)
        if self._size > PENDING_BYTES:
            self.commit()

    def nothing(self, node: NodeKey) -> None:
        """``new_data`` had nothing for this node: that is written before the next entry."""
        self._quiet.add(node)
        self._is_quiet = True

    def _end_quiet(self) -> None:
        self._is_quiet = False
        for entry in self._quiet.take():
            self._size += write(entry, self._pending)

    def _added(self, size: int) -> None:
        self._size += size
        if self._size > PENDING_BYTES:
            self.commit()

    def commit(self) -> None:
        """See that all that was noted survives the end of this process.

        Raises
        ------
        JournalError: it could not be written; nothing of it was
        """
        if not self._pending:
            return
        rows = list(self._rows(self._pending, self._size))
        with self._writing():
            if len(rows) == 1:
                self._connection.execute(_ADD_ROW, rows[0])
            else:
                self._connection.execute("BEGIN")
                self._connection.executemany(_ADD_ROW, rows)
                self._connection.execute("COMMIT")
        self._next += len(rows)
        self.grown += self._size
        self._pending.clear()
        self._size = 0

    def start_over(self, entries: Iterable[Entry]) -> int:
        """Put these in the place of all that is there, and of what waits; returns their bytes.

        It is one transaction: if it is interrupted, all is as it was.

        Raises
        ------
        JournalError: it could not be written; nothing of it was
        """
        pieces: list[Buffer] = []
        size = sum(write(entry, pieces) for entry in entries)
        with self._writing():
            self._connection.execute("BEGIN")
            self._connection.execute("DELETE FROM stream")
            self._connection.executemany(_ADD_ROW, self._rows(pieces, size))
            self._connection.executemany(_ADD_META, [("first", self._next), ("cut", size)])
            self._connection.execute("COMMIT")
        self._next = self.stored.last + 1
        self._pending.clear()
        self._quiet.take()
        self._size, self._is_quiet, self.grown = 0, False, 0
        return size

    def _rows(self, pieces: Sequence[Buffer], size: int) -> Iterator[tuple[int, float, int, bytes]]:
        at = time.time()
        for number, content in enumerate(_cut(pieces, size), self._next):
            yield number, at, crc32(content), content

    def accept(self, digest: str) -> None:
        """The code of ``process`` is another one from now on."""
        with self._writing():
            self._connection.execute(_ADD_META, ("digest", digest))

    @property
    def waiting(self) -> bool:
        """Whether anything was noted that is not on the disk."""
        return bool(self._pending)

    @property
    def is_usable(self) -> bool:
        """Whether all that was to be written could be written so far."""
        return not self._broken

    def finish(self, told: int) -> None:
        """The job is done: after so many merges and failures that hooks were told of."""
        self.commit()
        with self._writing():
            self._connection.execute(_ADD_META, ("done", told))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._broken = True
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            raise JournalError(
                f"journal {self.path}: it cannot be written: {error}; the job has been stopped, and "
                "all that was merged is in the journal: make that right, and start again with it"
            ) from error

    def close(self) -> None:
        """Write what is still to be written and free the file for another server.

        Raises
        ------
        JournalError: it could not be written
        """
        with self._opened:
            if not self._broken:
                self.commit()


def network_file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Tell what network file system a file is on, None if on none or if nobody knows."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
        folder = str(path.absolute().parent.resolve())
    except OSError:
        return None
    kinds = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        kinds[_unescaped(before.split()[4])] = after.split()[0]
    inside = [mount for mount in kinds if Path(folder).is_relative_to(mount)]
    kind = kinds[max(inside, key=len)] if inside else ""
    remote = kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse.")
    return kind if remote else None


def _unescaped(mount: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mount = mount.replace(code, character)
    return mount


def _lock_file(path: Path) -> Path:
    real = path.resolve()  # a link to a journal is the same journal
    return real.with_name(real.name + "-lock")


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, isolation_level=None, timeout=timeout)
    except sqlite3.Error as error:
        raise ConfigurationError(f"journal {path}: it cannot be opened: {error}") from error


def _take(lock: sqlite3.Connection, path: Path) -> None:
    # SQLite's locks work wherever the journal itself works, and end with their process. The file is
    # another one than the journal's, so that everybody can read that.
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise ConfigurationError(
                f"journal {path}: another server is using it just now"
            ) from error
        raise ConfigurationError(f"journal {path}: it cannot be locked: {error}") from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except MessageError as error:
        raise _damaged(path, str(error)) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            raise _no_journal(path) from error
        if code in _NOT_NOW:
            raise ConfigurationError(f"journal {path}: it cannot be opened: {error}") from error
        raise _damaged(path, str(error)) from error


def _no_journal(path: Path) -> ConfigurationError:
    return ConfigurationError(f"journal {path}: this file is no journal; name another one")


def _damaged(path: Path, reason: str) -> JournalError:
    return JournalError(f"journal {path}: it is damaged: {reason}")


def _cut(pieces: Sequence[Buffer], size: int) -> Iterator[bytes]:
    """Put pieces together to the contents of rows."""
    if size <= ROW_BYTES:
        yield b"".join(pieces)
        return
    room, begun = ROW_BYTES, list[Buffer]()
    for piece in pieces:
        rest = memoryview(piece)
        while len(rest) >= room:
            yield b"".join([*begun, rest[:room]])
            rest, room, begun = rest[room:], ROW_BYTES, []
        begun.append(rest)
        room -= len(rest)
    if room < ROW_BYTES:
        yield b"".join(begun)
