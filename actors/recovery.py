"""What a raft node starts from: its log, and what the database says it has applied.

Rules (RULES A10):
1. A new member writes its initial configuration into a new log as committed entries of term 1, the
   same on every member that was given the same flags.
2. The applied index, its term and its configuration come from the database; they may be ahead of
   what HardState says is committed, never ahead of the log.
3. A log that begins after the database ends needs the file of the snapshot it begins with; without
   it the member refuses to start.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgpack

from kv.cluster import Member, encode_member_change
from kv.identity import cluster_id as cluster_id_of
from kv.identity import member_id as member_id_of
from raft.conf_change import ConfChange, ConfChangeType, encode
from raft.state import ConfState, Entry, HardState, Snapshot, SnapshotMetadata
from raft.storage import MemoryStorage
from storage.database import exists, snapshot_name
from storage.failures import LogMismatchError, once_there_is_space
from storage.files import Files, default_files, scaled, sync_ancestors
from storage.reader import Reader
from storage.wal import SEGMENT_BYTES, Wal
from storage.wal_replay import Replay
from transport.context import ActorContext
from transport.log import Logger

NEW: Final = "new"
"""Folder in that of the log in which a new one is made."""
SPACE_SECONDS: Final = 0.1
"""Between tries to start on a full disk: the applier frees its ballast, or somebody else does."""


@dataclass(slots=True)
class Recovered:
    """Everything a raft node needs to start. Indexes are raft log indexes."""

    member_id: int
    cluster_id: int
    wal: Wal
    storage: MemoryStorage
    applied_index: int
    snapshot: SnapshotMetadata
    conf_state: ConfState
    is_first: bool = False
    """Whether there was no election here yet: it may be the member's first start."""


def recover(context: ActorContext, log: Logger, resume_at: int = 0) -> Recovered:
    """Open the member's log, or make it from the flags on a first start.

    `resume_at` is what the last incarnation's log said, see Wal.open(); 0 if there was none.
    """
    config = context.config
    directory = Path(config["wal_dir"] or context.data_dir / "member" / "wal")
    files = default_files()
    is_new = not Wal.exists(directory, files)
    if is_new:
        _create(directory, config, files)
    elif (directory / NEW).exists():
        _finish(directory, files)

    def wait(error: Exception) -> None:
        log.error("no space left for the log", error=str(error))
        time.sleep(SPACE_SECONDS)

    size = scaled(SEGMENT_BYTES)
    opening = partial(Wal.open, directory, files, segment_bytes=size, resume_at=resume_at)
    wal, replay = once_there_is_space(opening, wait)
    member_id, cluster_id = msgpack.unpackb(replay.metadata)
    database = context.data_dir / "member" / "db"
    applied_index, conf_state = once_there_is_space(partial(_applied, database), wait)
    storage = _storage_of(replay)
    if storage.first_index() > applied_index + 1:
        # A snapshot was recorded and its file not yet switched to: the applier will.
        name = snapshot_name(replay.snapshot.term, replay.snapshot.index)
        if not (context.data_dir / "member" / "db" / name).exists():
            raise LogMismatchError(
                f"the log begins at index {storage.first_index()}, "
                f"but the database has applied only up to {applied_index}"
            )
        applied_index, conf_state = replay.snapshot.index, replay.snapshot.conf_state
    if storage.last_index() < applied_index:
        raise LogMismatchError(
            f"the log ends at index {storage.last_index()}, "
            f"but the database has applied up to {applied_index}"
        )
    if applied_index:
        storage.set_conf_state(conf_state)
    else:
        conf_state = ConfState()
    log.info(
        "starting local member" if is_new else "restarting local member",
        **{"local-member-id": f"{member_id:x}", "cluster-id": f"{cluster_id:x}"},
        commit_index=replay.hard_state.commit,
        applied_index=applied_index,
    )
    return Recovered(
        member_id,
        cluster_id,
        wal,
        storage,
        applied_index,
        replay.snapshot,
        conf_state,
        is_first=(replay.hard_state.term, replay.hard_state.vote) == (1, 0),
    )


def _create(directory: Path, config: Mapping[str, Any], files: Files) -> None:
    """Make the log in a folder that may be there already, and be a mount point.

    It is made whole in a folder of its own inside; then its one file gets its place.
    """
    token = config["initial_cluster_token"]
    members = {
        member_id_of(urls, token): (name, urls) for name, urls in config["initial_cluster"].items()
    }
    cluster_id = cluster_id_of(members)
    own = config["initial_cluster"][config["name"]]
    metadata = msgpack.packb((member_id_of(own, token), cluster_id))
    entries = []
    for index, member_id in enumerate(sorted(members), start=1):
        name, urls = members[member_id]
        context = encode_member_change(("add", Member(member_id, name, tuple(urls))))
        kind, data = encode(ConfChange(ConfChangeType.ADD_NODE, member_id, context))
        entries.append(Entry(term=1, index=index, data=data, type=kind))
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not directory.exists():
        files.make_directory(directory)
    partial = directory / NEW
    if partial.exists():  # left by a start that was cut short
        _remove(partial, files)
    wal = Wal.create(partial, metadata, files, segment_bytes=scaled(SEGMENT_BYTES))
    wal.append(entries, HardState(term=1, vote=0, commit=len(entries)))
    wal.sync()
    wal.close()
    (segment,) = wal.segments
    files.rename(partial / segment, directory / segment)
    _finish(directory, files)


def _finish(directory: Path, files: Files) -> None:
    """Make the names of a new log durable; the folder that it was made in goes last.

    As long as that is there, whoever made the log may have been killed before they were.
    """
    files.sync_directory(directory)
    sync_ancestors(directory, files)
    _remove(directory / NEW, files)


def _remove(directory: Path, files: Files) -> None:
    """Remove a folder of files, which a power loss may have brought back."""
    for name in files.list(directory):
        files.unlink(directory / name)
    files.remove_directory(directory)


def _applied(directory: Path) -> tuple[int, ConfState]:
    if not exists(directory):
        return 0, ConfState()
    reader = Reader(directory)
    try:
        with reader.view() as view:
            return view.applied_index, view.conf_state
    finally:
        reader.close()


def _storage_of(replay: Replay) -> MemoryStorage:
    storage = MemoryStorage()
    if replay.snapshot.index:
        storage.apply_snapshot(Snapshot(b"", replay.snapshot))
    storage.set_hard_state(replay.hard_state)
    storage.append(replay.entries)
    return storage
