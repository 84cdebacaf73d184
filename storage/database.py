"""The files of the database, and how connections to them are opened.

Rules:
1. The database directory holds `CURRENT`, which names the file in use. A database file is never
   renamed, and never unlinked together with its -wal while a process may have it open: an
   installed snapshot is a new file, `db.<term>-<index>`, and then a new CURRENT.
2. One writer connection; readers are read-only; one checkpointer. Only this module sets pragmas.
3. Only apsw's own SQLite opens the database, and none with the WAL-reset bug (before 3.51.3: one
   process checkpoints while another restarts the log, which is just what we do).
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

import apsw

from storage.files import Files, default_files, sync_ancestors
from storage.recording import default_vfs
from storage.schema import APPLICATION_ID, FORMAT, TABLES

SQLITE_VERSION_MIN: Final = (3, 51, 3)
CURRENT: Final = "CURRENT"
FIRST_FILE: Final = "db.0-0"
PAGE_BYTES: Final = 4096
CACHE_KIB: Final = 32 * 1024
BUSY_MILLISECONDS: Final = 5000
STATEMENTS_KEPT: Final = 100
STATEMENTS_KEPT_WRITING: Final = 200
"""Prepared statements of a connection. apsw keeps one in a new place after each row of executemany,
so those of a batch of some 90 puts push each other out of fewer; looking through more takes time.
"""

_NAME: Final = re.compile(r"db\.(\d+)-(\d+)")

DiskFullError = apsw.FullError
"""No space left on the device: the transaction is gone, nothing of it was written."""


class DatabaseError(Exception):
    """The database can't be used; the text names the file and says why."""


class SqliteVersionError(DatabaseError):
    """The SQLite library corrupts databases in our use of it."""


def check_sqlite(version: str) -> None:
    """Refuse an SQLite library with the WAL-reset bug. Raises SqliteVersionError."""
    if tuple(map(int, version.split("."))) < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise SqliteVersionError(f"SQLite {version} is too old, apsw needs to bring {needed}")


def generation(directory: Path) -> str:
    """Return the name of the file in use. Raises DatabaseError if there is none."""
    try:
        name = (directory / CURRENT).read_text().strip()
    except FileNotFoundError as error:
        raise DatabaseError(f"{directory / CURRENT} does not exist") from error
    if not name.startswith("db.") or "/" in name:
        raise DatabaseError(f"{directory / CURRENT} names {name!r}, which is no database file")
    return name


def snapshot_name(term: int, index: int) -> str:
    """Return the name of the database file of an installed snapshot."""
    return f"db.{term}-{index}"


def place(name: str) -> tuple[int, int]:
    """Return (term, index) of a database file's name. Raises DatabaseError."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise DatabaseError(f"{name!r} is not the name of a database file")
    return int(found[1]), int(found[2])


def exists(directory: Path) -> bool:
    """Tell whether there is a database to open."""
    return (directory / CURRENT).exists()


def create(directory: Path, files: Files | None = None) -> None:
    """Make an empty database; it exists when its CURRENT does.

    What a creation that was cut short has left is removed first: without CURRENT nobody has it
    open.
    """
    check_sqlite(apsw.sqlite_lib_version())
    files = files or default_files()
    assert not exists(directory), f"{directory} holds a database"
    if not directory.exists():
        files.make_directory(directory)
    sync_ancestors(directory, files)
    for name in files.list(directory):
        files.unlink(directory / name)
    connection = _connect(directory / FIRST_FILE, writable=True, make=True)
    connection.pragma("page_size", PAGE_BYTES)
    connection.pragma("auto_vacuum", "INCREMENTAL")
    _set_up_writer(connection)
    with connection:
        connection.execute(TABLES)
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", FORMAT)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    set_current(directory, FIRST_FILE, files)


def set_current(directory: Path, name: str, files: Files | None = None) -> None:
    """Name the file in use, durably. The file itself must be complete and synced."""
    files = files or default_files()
    partial = directory / (CURRENT + ".new")
    if partial.exists():
        files.unlink(partial)
    descriptor = files.create(partial)
    try:
        files.pwrite(descriptor, [name.encode() + b"\n"], 0)
        files.fdatasync(descriptor)
    finally:
        files.close(descriptor)
    files.rename(partial, directory / CURRENT)
    files.sync_directory(directory)


def open_writer(directory: Path) -> apsw.Connection:
    """Open the one connection that writes. Raises DatabaseError."""
    return _open_writer(directory / generation(directory))


def open_installed(directory: Path, term: int, index: int) -> apsw.Connection:
    """Open the writer's connection to a received snapshot, which CURRENT does not name yet.

    From here on the file is in WAL mode, so that readers can open it as soon as it has the name.
    Raises DatabaseError if it is missing or holds anything but the state after `index`.
    """
    path = directory / snapshot_name(term, index)
    if not path.exists():
        raise DatabaseError(f"the log says that {path} was installed, but it does not exist")
    connection = _open_writer(path)
    ((found),) = connection.execute("SELECT applied_index, applied_term FROM progress").fetchall()
    if found != (index, term):
        connection.close()
        raise DatabaseError(
            f"{path} holds index {found[0]} of term {found[1]}, not index {index} of term {term}"
        )
    return connection


def _open_writer(path: Path) -> apsw.Connection:
    check_sqlite(apsw.sqlite_lib_version())
    connection = _connect(path, writable=True)
    _check_format(connection, path)
    _set_up_writer(connection)
    return connection


def open_or_create(directory: Path) -> apsw.Connection:
    """Open the writer's connection, to a new database if there is none."""
    if not exists(directory):
        create(directory)
    else:  # who gave CURRENT its name may have been killed before that was durable
        default_files().sync_directory(directory)
    return open_writer(directory)


def open_reader(path: Path) -> apsw.Connection:
    """Open a read-only connection to a database file."""
    check_sqlite(apsw.sqlite_lib_version())
    connection = _connect(path, writable=False)
    _check_format(connection, path)
    connection.pragma("cache_size", -CACHE_KIB)
    connection.pragma("mmap_size", 0)
    return connection


def no_descriptor_left() -> bool:
    """Tell whether a file can't be opened for want of descriptors: SQLite doesn't say why."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def open_current(directory: Path) -> tuple[str, apsw.Connection]:
    """Return the name of the file in use and a read-only connection to it. Raises DatabaseError.

    A file that is replaced while it is being opened may be purged before it is open.
    """
    while True:
        name = generation(directory)
        try:
            return name, open_reader(directory / name)
        except DatabaseError:
            if generation(directory) == name:
                raise


def open_checkpointer(path: Path) -> apsw.Connection:
    """Open a connection that checkpoints and changes nothing; a read-only one could not."""
    check_sqlite(apsw.sqlite_lib_version())
    connection = _connect(path, writable=True)
    _check_format(connection, path)
    connection.pragma("query_only", 1)
    connection.pragma("synchronous", "NORMAL")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("mmap_size", 0)
    return connection


def open_copy(path: Path) -> apsw.Connection:
    """Make a file that a copy of a database is written to. Nothing protects a half-done one."""
    check_sqlite(apsw.sqlite_lib_version())
    connection = _connect(path, writable=True, make=True)
    connection.pragma("journal_mode", "OFF")
    connection.pragma("synchronous", "OFF")
    connection.pragma("cache_size", -2048)
    connection.pragma("mmap_size", 0)
    return connection


def open_snapshot(path: Path) -> apsw.Connection:
    """Open a file that nobody writes to: no locks, no files beside it. Raises DatabaseError."""
    check_sqlite(apsw.sqlite_lib_version())
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(
            f"{path.absolute().as_uri()}?immutable=1", flags=flags, vfs=default_vfs(writable=False)
        )
    except apsw.CantOpenError as error:
        raise DatabaseError(f"{path} can't be opened: {error}") from error
    try:
        _check_format(connection, path)
    except (DatabaseError, apsw.Error):
        connection.close()
        raise
    connection.pragma("mmap_size", 0)
    return connection


def _connect(path: Path, *, writable: bool, make: bool = False) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY
    if make:
        flags |= apsw.SQLITE_OPEN_CREATE
    try:
        vfs = default_vfs(writable=writable)
        kept = STATEMENTS_KEPT_WRITING if writable else STATEMENTS_KEPT
        connection = apsw.Connection(os.fspath(path), flags=flags, vfs=vfs, statementcachesize=kept)
    except apsw.CantOpenError as error:
        raise DatabaseError(f"{path} can't be opened: {error}") from error
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    return connection


def _set_up_writer(connection: apsw.Connection) -> None:
    connection.pragma("journal_mode", "WAL")
    connection.pragma("synchronous", "NORMAL")
    connection.pragma("wal_autocheckpoint", 0)
    connection.pragma("journal_size_limit", -1)
    connection.pragma("cache_size", -CACHE_KIB)
    connection.pragma("mmap_size", 0)
    connection.pragma("temp_store", "MEMORY")


def _check_format(connection: apsw.Connection, path: Path) -> None:
    try:
        found = connection.pragma("application_id"), connection.pragma("user_version")
    except apsw.NotADBError as error:
        raise DatabaseError(f"{path} is not a database") from error
    if found[0] != APPLICATION_ID:
        raise DatabaseError(f"{path} is not a database of ours")
    if found[1] != FORMAT:
        raise DatabaseError(f"{path} has format {found[1]}, this version reads {FORMAT}")
