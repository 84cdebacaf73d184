"""Two snapshotter actors over boards and real databases; what they send is carried by hand."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import snapshotter as snapshotter_module
from actors.messages import (
    Committed,
    Durable,
    PeerMessages,
    PeerReceived,
    SendSnapshot,
    SnapshotReceived,
    SnapshotStatus,
)
from actors.metrics import ApplierMetric, RaftMetric, SnapshotterMetric
from actors.peer_codec import decode_peer, encode_peer
from actors.snapshotter import FRAMES_MAX, LOG_BYTES_MAX, Snapshotter
from raft.messages import MsgSnap
from storage.database import open_installed, set_current
from storage.files import OsFiles
from tests.actors.boards import context, make_board
from tests.actors.snapshot_pair import FOLLOWER, LEADER, order
from tests.storage.snapshot_bench import TERM, Database
from transport.counters import Cell
from transport.lanes import Lane
from transport.mailbox import Tick

FILES = OsFiles()


class Side:
    """One member's snapshotter with its neighbours played by the test."""

    def __init__(self, folder: Path, member_id: int) -> None:
        folder.mkdir()
        self.id = member_id
        self.board = make_board(folder)
        self.board.set("raft-node", Cell.METRICS + RaftMetric.MEMBER_ID, member_id)
        self.database = Database(folder / "member" / "db")
        self.actor = Snapshotter(context(folder, "snapshotter", {}))
        self.sent: list[tuple[str, Any]] = []
        self.actor.send = self._catch  # type: ignore[method-assign]

    def _catch(self, receiver: str, message: object, items: int = 1) -> bool:
        self.sent.append((receiver, message))
        return True

    def take(self, kind: type) -> list[Any]:
        """Return what was sent of a kind, once."""
        found = [message for _, message in self.sent if isinstance(message, kind)]
        self.sent = [(to, message) for to, message in self.sent if not isinstance(message, kind)]
        return found

    def word(self, word: SnapshotterMetric) -> int:
        return self.board.get("snapshotter", Cell.METRICS + word)

    def tick(self) -> None:
        self.actor.tick(Tick(time.monotonic()))

    def close(self) -> None:
        self.actor.links.close()
        self.database.close()


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[dict[int, Side]]:
    sides = {LEADER: Side(tmp_path / "a", LEADER), FOLLOWER: Side(tmp_path / "b", FOLLOWER)}
    yield sides
    for side in sides.values():
        side.close()


def carry(sides: dict[int, Side]) -> None:
    """Take the part of both transports for a moment."""
    for side in sides.values():
        for message in side.take(PeerMessages):
            assert set(message.lanes) == {int(Lane.SNAPSHOT)}
            for to, payload in zip(message.to, message.payloads, strict=True):
                received = PeerReceived([side.id], [int(Lane.SNAPSHOT)], [payload])
                sides[to].actor.peer_received(received)
    for side in sides.values():
        side.tick()


def transfer(sides: dict[int, Side]) -> tuple[SnapshotStatus, SnapshotReceived]:
    leader, follower = sides[LEADER], sides[FOLLOWER]
    leader.actor.send_snapshot(SendSnapshot(FOLLOWER, encode_peer(order())))
    until = time.monotonic() + 20
    while not (status := leader.take(SnapshotStatus)):
        assert time.monotonic() < until, "it never ended"
        carry(sides)
    (received,) = follower.take(SnapshotReceived)
    return status[0], received


def test_a_snapshot_goes_from_the_order_to_the_other_members_raft(sides: dict[int, Side]) -> None:
    leader, follower = sides[LEADER], sides[FOLLOWER]
    leader.database.put(1500, size=2000)

    status, received = transfer(sides)

    assert status == SnapshotStatus(FOLLOWER, 1501, True)
    message = decode_peer(received.payload)
    assert isinstance(message, MsgSnap)
    metadata = message.snapshot.metadata
    assert (metadata.index, metadata.term) == (1501, TERM)
    open_installed(follower.database.directory, metadata.term, metadata.index).close()
    assert leader.word(SnapshotterMetric.SENT) == 1
    assert leader.word(SnapshotterMetric.SENDING) == 0
    assert follower.word(SnapshotterMetric.RECEIVED) == 1
    size = (follower.database.directory / f"db.{TERM}-1501").stat().st_size
    assert follower.word(SnapshotterMetric.RECEIVED_BYTES) >= size


def test_garbage_from_a_peer_is_counted_and_logged_once_a_second(
    sides: dict[int, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = sides[LEADER]
    lines: list[str] = []
    monkeypatch.setattr(leader.actor.log, "warning", lambda msg, **fields: lines.append(msg))

    for _ in range(50):
        leader.actor.peer_received(PeerReceived([9], [2], [b"garbage"]))
        leader.tick()

    assert leader.word(SnapshotterMetric.REJECTED) == 50
    assert len(lines) == 1


def test_checkpoints_go_over_to_an_installed_file(sides: dict[int, Side]) -> None:
    leader, follower = sides[LEADER], sides[FOLLOWER]
    follower.actor.committed(Committed(1, 1))
    follower.actor._checkpoint()
    assert follower.take(Durable) == [Durable(1, TERM)]
    leader.database.put(100)
    transfer(sides)

    follower.database.store.abandon()
    directory = follower.database.directory
    open_installed(directory, TERM, 101).close()
    set_current(directory, f"db.{TERM}-101")
    follower.database = Database(directory)
    follower.database.put(3)
    follower.actor.committed(Committed(104, 5))
    follower.actor._checkpoint()

    assert follower.take(Durable) == [Durable(104, TERM)]


def test_a_checkpoint_follows_what_has_grown_since_the_last(
    sides: dict[int, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotter_module, "SECONDS_MAX", 1e9)
    monkeypatch.setattr(snapshotter_module, "RETRY_SECONDS", 0.0)
    leader = sides[LEADER]

    def checkpoints(frames: int, log_bytes: int = 0) -> int:
        leader.database.put(1)
        leader.board.set("raft-node", Cell.METRICS + RaftMetric.WAL_BYTES, log_bytes)
        leader.actor.committed(Committed(leader.database.index, frames))
        leader.tick()
        return leader.word(SnapshotterMetric.CHECKPOINTS)

    assert checkpoints(FRAMES_MAX - 1) == 0
    assert checkpoints(FRAMES_MAX) == 1
    assert checkpoints(2 * FRAMES_MAX - 1) == 1  # the log is longer than that, and has not grown
    assert checkpoints(2 * FRAMES_MAX) == 2
    assert checkpoints(9) == 2  # it has begun anew
    assert checkpoints(FRAMES_MAX) == 3
    assert checkpoints(FRAMES_MAX + 9, LOG_BYTES_MAX) == 4
    assert checkpoints(FRAMES_MAX + 18, LOG_BYTES_MAX + 9) == 4


def test_the_old_file_is_purged_when_everybody_has_let_go(sides: dict[int, Side]) -> None:
    leader, follower = sides[LEADER], sides[FOLLOWER]
    follower.tick()
    leader.database.put(100)
    transfer(sides)
    directory = follower.database.directory
    follower.actor._purge()
    assert {"db.0-0", f"db.{TERM}-101"} <= set(FILES.list(directory))

    follower.database.store.abandon()
    open_installed(directory, TERM, 101).close()
    set_current(directory, f"db.{TERM}-101")
    follower.database = Database(directory)
    follower.board.set("applier", Cell.METRICS + ApplierMetric.APPLIED_INDEX, 101)
    follower.actor._purge()

    names = set(FILES.list(directory))
    assert not any(name.startswith("db.0-0") for name in names)
    assert f"db.{TERM}-101" in names
    assert follower.word(SnapshotterMetric.PURGED) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_checkpoint_that_finds_no_room_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """To SQLite a quota that is used up is a failing disk."""
    control = tmp_path / "io"
    control.write_text("")
    monkeypatch.setenv("TROUPED_FAULT_IO", str(control))
    monkeypatch.setenv("TROUPED_ACTOR", "snapshotter")
    (tmp_path / "m").mkdir()
    make_board(tmp_path / "m")
    database = Database(tmp_path / "m" / "member" / "db")
    actor = Snapshotter(context(tmp_path / "m", "snapshotter", {}))
    monkeypatch.setattr(actor, "send", lambda *_: True)
    database.put(200, size=2000)
    actor.committed(Committed(database.index, 100))

    control.write_text(json.dumps({"growth_errno": number}))
    actor._checkpoint()
    assert actor.stats()["durable_index"] == 0
    control.write_text("")
    actor._checkpoint()

    assert actor.stats()["durable_index"] == database.index
    actor.links.close()
    database.close()


def test_an_order_before_there_is_a_database_fails_and_nothing_else(tmp_path: Path) -> None:
    board = make_board(tmp_path)
    actor = Snapshotter(context(tmp_path, "snapshotter", {}))
    sent: list[object] = []

    def send(receiver: str, message: object, items: int = 1) -> bool:
        sent.append(message)
        return True

    actor.send = send  # type: ignore[method-assign]

    actor.send_snapshot(SendSnapshot(FOLLOWER, encode_peer(order())))
    actor.peer_received(PeerReceived([1], [2], [b"early"]))
    actor.tick(Tick(time.monotonic() + 100))

    assert sent == [SnapshotStatus(FOLLOWER, 0, False)]
    assert board.get("snapshotter", Cell.METRICS + SnapshotterMetric.SEND_FAILURES) == 1
    actor.links.close()


def test_checkpoints_do_not_wait_for_a_transfer(
    sides: dict[int, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotter_module, "SECONDS_MAX", 0.0)
    leader = sides[LEADER]
    leader.database.put(1500, size=2000)
    leader.actor.send_snapshot(SendSnapshot(FOLLOWER, encode_peer(order())))
    leader.tick()  # the copy has begun
    assert leader.word(SnapshotterMetric.SENDING) == 1

    leader.actor.committed(Committed(1501, 100_000))
    leader.tick()

    assert leader.word(SnapshotterMetric.CHECKPOINTS) == 1
