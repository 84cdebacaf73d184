"""Snapshot files: copies of the living database, and what is received of another member's.

Rules:
1. A file is made from one read transaction, so it holds the state after one entry; which one is
   read from the file itself. The writer is never waited for and never waits (RULES B7).
2. A received file gets its final name, `db.<term>-<index>`, only when it is complete, verified and
   synced; nothing is ever written or renamed over a file of that name.
3. What is not finished has a name that says so, and that no database ever has.
4. Nobody reads a file as bytes while this process has it open through SQLite: closing the
   descriptor would drop SQLite's locks.

Everything that takes long is a generator that yields after about a millisecond's work and returns
its result: its caller has other things to do, and decides how fast it goes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import apsw

from raft.state import ConfState
from storage.database import (
    DatabaseError,
    DiskFullError,
    open_copy,
    open_current,
    open_snapshot,
    snapshot_name,
)
from storage.failures import is_for_space
from storage.files import Files
from storage.queries import Queries
from storage.store import load_conf_state

STEP_PAGES: Final = 256  # 1 MiB
STEP_BYTES: Final = 1 << 20
CHECKSUM_BYTES: Final = 32
PROGRESS_STEPS: Final = 100_000  # of SQLite's virtual machine
SPARE_BYTES: Final = 16 << 20
"""What a snapshot file leaves free on the disk: a full one stops puts."""
MAKING: Final = "snapshot.making"
_OUTGOING: Final = re.compile(r"snapshot\.out\.(\d+)-(\d+)\.([0-9a-f]{64})")
_INCOMING: Final = re.compile(r"snapshot\.in\.(\d+)-(\d+)\.(\d+)\.([0-9a-f]{64})")

UNREADABLE: Final = (
    DatabaseError,
    ValueError,
    TypeError,
    apsw.CorruptError,
    apsw.IOError,
    apsw.NotADBError,
    apsw.SQLError,
)
"""What reading a file raises that is no snapshot."""


class SnapshotError(Exception):
    """A received file is not what was announced; the text says why."""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A complete file to be sent: the state after entry `index` of `term`.

    `conf_state` is raft's configuration then, `size` is in bytes, `checksum` is SHA-256.
    """

    path: Path
    index: int
    term: int
    conf_state: ConfState
    size: int
    checksum: bytes

    def holds_member(self, member_id: int) -> bool:
        """Tell whether a member belongs to the configuration in the file."""
        conf = self.conf_state
        groups = (conf.voters, conf.learners, conf.voters_outgoing, conf.learners_next)
        return any(member_id in group for group in groups)


@dataclass(frozen=True, slots=True)
class Announced:
    """What a file that is being received should turn out to be. Same units as SnapshotFile."""

    index: int
    term: int
    size: int
    checksum: bytes

    @property
    def partial_name(self) -> str:
        """Name of the file while it is incomplete: says all that is needed to go on with it."""
        return f"snapshot.in.{self.term}-{self.index}.{self.size}.{self.checksum.hex()}"

    @property
    def final_name(self) -> str:
        """Name of the file as a database."""
        return snapshot_name(self.term, self.index)


def make(directory: Path, files: Files) -> Generator[None, None, SnapshotFile]:
    """Copy the database in use to a file of its own.

    The file is not synced: it only lives until it has been sent, and its checksum tells if a power
    loss has spoilt it. Raises DiskFullError, before anything is written where that is foreseen;
    what is half done is removed.
    """
    path = directory / MAKING
    _remove(path, files)
    try:
        yield from _copy(directory, path, files)
        index, term, conf_state = read_facts(path)
        checksum, size = yield from checksum_of(path, files)
    except (apsw.Error, OSError, GeneratorExit):
        _remove(path, files)
        raise
    final = directory / f"snapshot.out.{term}-{index}.{checksum.hex()}"
    files.rename(path, final)
    return SnapshotFile(final, index, term, conf_state, size, checksum)


def _copy(directory: Path, path: Path, files: Files) -> Generator[None, None, None]:
    _, source = open_current(directory)
    try:
        size = source.pragma("page_count") * source.pragma("page_size")
        if files.free_bytes(directory) < size + SPARE_BYTES:
            raise DiskFullError(f"no room for {size} bytes")
        source.execute("BEGIN")
        # The transaction begins with its first read; without one every commit would start the
        # copy again.
        source.execute("SELECT applied_index FROM progress").fetchall()
        copy = open_copy(path)
        try:
            with copy.backup("main", source, "main") as backup:
                while not backup.done:
                    backup.step(STEP_PAGES)
                    yield
            source.execute("COMMIT")
            mode = copy.pragma("journal_mode", "DELETE")  # a file of its own, nothing beside it
            assert mode == "delete", f"the copy stays in mode {mode}"
        except apsw.IOError as error:
            if not is_for_space(error, copy.system_errno):
                raise
            raise DiskFullError(str(error)) from error
        finally:
            copy.close()
    finally:
        source.close()


def read_facts(path: Path) -> tuple[int, int, ConfState]:
    """Return (index, term, configuration) that a file at rest holds. Raises DatabaseError."""
    connection = open_snapshot(path)
    try:
        queries = Queries(connection)
        statement = "SELECT applied_index, applied_term FROM progress"
        ((index, term),) = queries.execute(statement).fetchall()
        return index, term, load_conf_state(queries)
    finally:
        connection.close()


def checksum_of(path: Path, files: Files) -> Generator[None, None, tuple[bytes, int]]:
    """Return (SHA-256, size in bytes) of a file that SQLite does not have open here."""
    digest = hashlib.sha256()
    descriptor = files.open(path)
    try:
        size = 0
        while data := files.pread(descriptor, STEP_BYTES, size):
            digest.update(data)
            size += len(data)
            yield
    finally:
        files.close(descriptor)
    return digest.digest(), size


def recheck(path: Path, files: Files) -> Generator[None, None, SnapshotFile | None]:
    """Return the file that an earlier process made, None if it is not whole any more."""
    found = _OUTGOING.fullmatch(path.name)
    assert found is not None, f"{path.name} was not made to be sent"
    checksum, size = yield from checksum_of(path, files)
    if checksum.hex() != found[3]:
        return None
    index, term, conf_state = read_facts(path)
    return SnapshotFile(path, index, term, conf_state, size, checksum)


def verify(
    path: Path,
    announced: Announced,
    conf_state: ConfState,
    files: Files,
    goes_on: Callable[[], None] = lambda: None,
) -> Generator[None, None, None]:
    """Check a received file against what was announced. Raises SnapshotError.

    Every byte (SHA-256), the format, the structure of all tables (quick_check), and that it holds
    the state after the very entry, with the very configuration, that raft was told of. The check of
    the structure is one step, however large the file is: `goes_on()` is called now and then.
    """
    checksum, size = yield from checksum_of(path, files)
    if size != announced.size:
        raise SnapshotError(f"{size} bytes instead of {announced.size}")
    if checksum != announced.checksum:
        raise SnapshotError("the checksum differs")
    try:
        connection = open_snapshot(path)
        connection.set_progress_handler(partial(_go_on, goes_on), PROGRESS_STEPS)
        try:
            ((answer,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        finally:
            connection.close()
        yield
        found = read_facts(path)
    except UNREADABLE as error:
        raise SnapshotError(str(error)) from error
    if answer != "ok":
        raise SnapshotError(f"quick_check: {answer}")
    if found != (announced.index, announced.term, conf_state):
        raise SnapshotError(f"holds {found}, not index {announced.index} of {announced.term}")


def _go_on(goes_on: Callable[[], None]) -> bool:
    """Tell SQLite not to stop."""
    goes_on()
    return False


def publish(directory: Path, announced: Announced, files: Files) -> Path:
    """Give a verified file its final name, durably: content, then name, then folder.

    Raises OSError, and then there is no such file.
    """
    partial, final = directory / announced.partial_name, directory / announced.final_name
    assert not final.exists(), f"{final} exists: it may be in use"
    for suffix in ("-wal", "-shm", "-journal"):  # left over, they would be taken for its own
        _remove(directory / (announced.final_name + suffix), files)
    descriptor = files.open(partial)
    try:
        files.fdatasync(descriptor)
    finally:
        files.close(descriptor)
    files.rename(partial, final)
    try:
        files.sync_directory(directory)
    except OSError:
        files.unlink(final)
        raise
    return final


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What an earlier process has left: the newest file to send, the newest half-received one."""

    outgoing: Path | None
    incoming: Announced | None


def sort_leftovers(directory: Path, files: Files) -> Leftovers:
    """Remove every unfinished file that nobody can go on with; return the others."""
    outgoing: dict[tuple[int, int], str] = {}
    incoming: dict[tuple[int, int], Announced] = {}
    for name in files.list(directory):
        if found := _OUTGOING.fullmatch(name):
            outgoing[int(found[2]), int(found[1])] = name
        elif found := _INCOMING.fullmatch(name):
            term, index, size = int(found[1]), int(found[2]), int(found[3])
            incoming[index, term] = Announced(index, term, size, bytes.fromhex(found[4]))
    newest = outgoing[max(outgoing)] if outgoing else None
    half = incoming[max(incoming)] if incoming else None
    kept = {newest, half.partial_name if half else None}
    for name in files.list(directory):
        if name.startswith("snapshot.") and name not in kept:
            files.unlink(directory / name)
    return Leftovers(directory / newest if newest else None, half)


def _remove(path: Path, files: Files) -> None:
    if path.exists():
        files.unlink(path)
