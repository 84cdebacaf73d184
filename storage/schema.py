"""The tables of the database, and integers that fit into them."""

from __future__ import annotations

from typing import Final

FORMAT: Final = 3
"""PRAGMA user_version. A database of another format is refused."""

APPLICATION_ID: Final = 0x74726F75  # "trou"

TABLES: Final = """
-- One row per change of a key, appended in order of (revision, place within it): `id` is
-- revision << 24 | place. `prev` is the id of the key's row before this one, 0 if there is none.
-- Version 0 is a tombstone. The value stands last, so that links are read without it.
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    prev INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL,
    value BLOB NOT NULL
);
-- The newest row of every key, in the order of keys; of a deleted key its tombstone.
CREATE TABLE key (
    key BLOB PRIMARY KEY,
    id INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
-- One row: what changes with every transaction.
CREATE TABLE progress (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    applied_index INTEGER NOT NULL,
    applied_term INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    compact_revision INTEGER NOT NULL,
    hash INTEGER NOT NULL
);
-- What changes seldom: conf_state, cluster_version, pruning.
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE members (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    peer_urls BLOB NOT NULL,
    client_urls BLOB NOT NULL,
    is_learner INTEGER NOT NULL
);
-- Leases; the keys of one are found by the index. TTLs in seconds, see kv.store.Lease.
CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    ttl INTEGER NOT NULL,
    remaining_ttl INTEGER NOT NULL,
    granted_index INTEGER NOT NULL
);
CREATE INDEX key_lease ON key (lease) WHERE lease != 0;
CREATE TABLE alarms (
    member_id INTEGER NOT NULL,
    alarm INTEGER NOT NULL,
    PRIMARY KEY (member_id, alarm)
) WITHOUT ROWID;
-- Sessions in the order they were opened; closed ones are remembered for a while. A mark and a
-- highest request in session_results may be above those here.
CREATE TABLE sessions (
    place INTEGER PRIMARY KEY,
    id INTEGER NOT NULL UNIQUE,
    member_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    mark INTEGER NOT NULL,
    highest INTEGER NOT NULL,
    closed INTEGER NOT NULL
);
-- One row per session and transaction, written over by the session's next one when all its requests
-- have been answered (last_id is below its mark). `mark` is the session's at that time; `results`
-- is msgpack, runs of (first id, results).
CREATE TABLE session_results (
    number INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    mark INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    results BLOB NOT NULL
);
INSERT INTO progress VALUES (1, 0, 0, 1, -1, 0);
"""


def signed(value: int) -> int:
    """Return an unsigned 64-bit id as SQLite can hold it."""
    return value - (1 << 64) if value >> 63 else value


def unsigned(value: int) -> int:
    """Return the id that `signed` was given."""
    return value + (1 << 64) if value < 0 else value
