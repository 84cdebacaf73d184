"""Tests of tests: rules of the exactly-once path that are broken on purpose must be noticed.

The rules of the session table have their mutants in tests/kv/test_session.py; here are a gap of a
stream that is passed over, and results that hold what differs from member to member.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kv.machine
from actors.messages import Apply
from actors.wire import codec
from etcdpb.rpc_pb2 import PutResponse, ResponseHeader
from kv.batch import Op, encode_batch
from kv.session import Sessions
from kv.store import Kept, Session
from tests.actors.boards import make_board
from tests.kv.driver import MemoryDriver
from transport.counters import Board
from transport.edge_faults import EdgeFaults, Rule
from transport.links import Links

SENT = 60
MEMBERS = (0x8E9E05C52164694D, 0x91BC3C398FB3C146)


class Deaf(Links):
    """Takes whatever comes next, as if nothing had been before it."""

    def accept(self, frame: bytes) -> Any:
        for state in self._incoming.values():
            state.expected = int.from_bytes(frame[13:21], "little")
        return super().accept(frame)


class Bench:
    """A raft node that sends entries over a lossy edge, and an applier that takes them."""

    def __init__(self, folder: Path, links: type[Links]) -> None:
        self.board: Board = make_board(folder)
        self.index = 0
        self.sender = self._links(folder, Links, "raft-node", "applier", lambda _: 0)
        self.receiver = self._links(folder, links, "applier", "raft-node", lambda _: self.index)
        self.taken: list[int] = []
        self.sender.start()
        self.receiver.start()

    def _links(self, folder: Path, cls: type[Links], name: str, peer: str, have: Any) -> Links:
        return cls(
            board=self.board,
            name=name,
            incarnation=1,
            run_dir=folder,
            neighbours=[peer],
            codec=codec,
            have=have,
            welcome=self._welcome,
            clock=lambda: 0.0,
        )

    def _welcome(self, receiver: str, have: int) -> list[int]:
        if receiver == "applier":
            self.next_index = have + 1
        return []

    def turn(self) -> None:
        for links in (self.sender, self.receiver):
            links.tick(1e9)
            while links.socket.poll(1):
                received = links.accept(links.socket.recv())
                if received is not None and isinstance(received[1], Apply):
                    self.index = received[1].first_index
                    self.taken.append(self.index)

    def run(self, chance: Any) -> list[int]:
        """Send entries, some of them lost, until SENT has come; return what was handled."""
        while not self.sender.is_open("applier"):
            self.turn()
        faults = EdgeFaults(lambda: 0.0, chance)
        faults.rules = (Rule(verb="drop", receiver="applier", tag=6, until=1.0, ratio=0.3),)
        self.sender.faults = faults
        for _ in range(20 * SENT):
            if self.sender.is_open("applier"):  # what is lost shows when something comes after it
                self.sender.send("applier", Apply(0, self.next_index, [1], [0], [b""]))
                self.next_index += 1
            self.turn()
            if self.index >= SENT:
                break
        return self.taken

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.fixture
def chance() -> Any:
    """The same losses in every run."""
    losses = iter([0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.1] * 1000)
    return lambda: next(losses)


def in_order(taken: list[int]) -> bool:
    return taken == sorted(set(taken)) and taken == list(range(1, len(taken) + 1))


def test_no_entry_is_missing_from_what_an_applier_takes(tmp_path: Path, chance: Any) -> None:
    bench = Bench(tmp_path, Links)

    taken = bench.run(chance)

    bench.close()
    assert in_order(taken)
    assert len(taken) >= SENT


def test_a_stream_that_passes_over_a_gap_would_be_noticed(tmp_path: Path, chance: Any) -> None:
    bench = Bench(tmp_path, Deaf)

    taken = bench.run(chance)

    bench.close()
    assert not in_order(taken)


# --- results with a header ------------------------------------------------------------------------


def with_header(member_id: int) -> type[Sessions]:
    """A table of sessions whose results hold the header of the member that made them."""

    class WithHeader(Sessions):
        def keep(self, session: Session, first_id: int, results: list[Kept]) -> None:
            header = ResponseHeader(member_id=member_id)
            body = PutResponse(header=header).SerializeToString()
            super().keep(session, first_id, [(2, body) for _ in results])

    return WithHeader


def kept_on(member_id: int, sessions: type[Sessions], patch: pytest.MonkeyPatch) -> Any:
    """Return what a member keeps, and answers a retry, after the same two entries."""
    patch.setattr(kv.machine, "Sessions", sessions)
    driver = MemoryDriver()
    driver.open_session(9, member_id=1)
    put = encode_batch(9, 1, 1, bytes([Op.PUT]), [b"\n\x01k"])
    driver.entries(put)
    (again,) = driver.entries(put)
    return driver.store.results(9, 1, 1), again.results


def test_members_keep_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (kept_on(member, Sessions, monkeypatch) for member in MEMBERS)

    assert one == other


def test_a_result_kept_with_its_header_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (kept_on(member, with_header(member), monkeypatch) for member in MEMBERS)

    assert one != other
