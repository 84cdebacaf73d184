"""Pruning: removing from disk what a compaction has forgotten, a slice at a time.

One ascending pass over the history up to the compact revision C (RULES B4):
1. A row that follows another of the same key is proof that the other isn't needed: it is removed.
2. A tombstone below C is removed, and its key with it, if nothing has followed. One *at* C stays
   until the next compaction: a watch that starts at C must see the delete.
3. The pass remembers its place in the transaction that removes. A pass for a later C starts again
   at the earlier C, for the tombstones kept there.

Nothing that can be read at C or later changes, so a pass may stop anywhere and for any time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kv.store import REVISION_MAX, row_id
from storage.store import SqliteStore, meta


@dataclass(frozen=True, slots=True)
class PruneProgress:
    """What one slice did: rows looked at, rows removed, whether the pass is through."""

    rows: int
    keys: int
    finished: bool


def prune_slice(store: SqliteStore, rows: int, revision: int = REVISION_MAX) -> PruneProgress:
    """Look at up to `rows` rows of history and remove what they prove needless.

    What was compacted above `revision` is left for later. Opens a transaction of its own; about 4
    microseconds a row. Raises DiskFullError, after which nothing has changed.
    """
    compact: int = store.execute("SELECT compact_revision FROM progress").get
    allowed = min(compact, revision)
    if store.pruned_to() >= allowed:
        return PruneProgress(0, 0, finished=allowed == compact)
    store.begin()
    try:
        progress = _prune(store, allowed, rows)
    except BaseException:
        store.rollback()
        raise
    store.commit()
    return replace(progress, finished=progress.finished and allowed == compact)


def _prune(store: SqliteStore, compact: int, rows: int) -> PruneProgress:
    place = meta(store, "prune_place", 0)
    target = meta(store, "prune_target", -1)
    if target != compact:
        place = min(place, row_id(max(target, 0)))
        store.set_meta("prune_target", compact)
    seen = store.execute(
        "SELECT id, key, prev, version FROM history WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (place, row_id(compact + 1), rows),
    ).fetchall()
    needless = [(previous,) for _, _, previous, _ in seen if previous]
    dead = [(row, key) for row, key, _, version in seen if version == 0 and row < row_id(compact)]
    removed = _delete_rows(store, needless) + _delete_rows(store, [(row,) for row, _ in dead])
    store.executemany("DELETE FROM key WHERE id = ? AND key = ?", dead)
    finished = len(seen) < rows
    if finished:
        store.set_meta("pruned_to", compact)
        place = row_id(max(compact, 0))
    else:
        place = seen[-1][0] + 1
    store.set_meta("prune_place", place)
    return PruneProgress(len(seen), removed, finished)


def _delete_rows(store: SqliteStore, rows: list[tuple[int]]) -> int:
    before = store.total_changes()
    store.executemany("DELETE FROM history WHERE id = ?", rows)
    return store.total_changes() - before


def vacuum_slice(store: SqliteStore, pages: int) -> int:
    """Give up to `pages` free pages back to the file system; return how many are left free."""
    store.execute(f"PRAGMA incremental_vacuum({int(pages)})").fetchall()
    left: int = store.execute("PRAGMA freelist_count").get
    return left
