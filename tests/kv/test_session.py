"""Exactly once, against a network that loses, doubles, delays and reorders; and three mutants."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import kv.machine
from etcdpb.rpc_pb2 import PutRequest, RangeRequest
from kv.batch import Batch, Op, decode_batch, encode_batch
from kv.errors import SESSION_CLOSED
from kv.session import CLOSED_KEPT, Sessions
from kv.store import Kept, Result, Session
from tests.kv.driver import KINDS, MemoryDriver, driver_over


class World:
    """A gateway with a session, a log that may get its batches late and twice, a state machine."""

    def __init__(self, seed: int, driver: MemoryDriver) -> None:
        self.random = Random(seed)
        self.driver = driver
        self.session = 0
        self.next_id = 1
        self.waiting: dict[int, bytes] = {}
        self.network: list[bytes] = []
        self.answers: dict[bytes, Result] = {}
        self.reopen()

    def reopen(self) -> None:
        """The gateway is a new one: it knows nothing, its predecessor's batches are under way."""
        self.session += 1
        self.next_id = 1
        self.waiting.clear()
        self.driver.open_session(self.session)

    def propose(self) -> None:
        count = self.random.randint(1, 3)
        mark = min(self.waiting, default=self.next_id)
        names = [b"%d-%d" % (self.session, self.next_id + i) for i in range(count)]
        requests = [PutRequest(key=name, value=b"x").SerializeToString() for name in names]
        ops = bytes([Op.PUT] * count)
        batch = encode_batch(self.session, mark, self.next_id, ops, requests)
        self.waiting[self.next_id] = batch
        self.next_id += count
        self.network.append(batch)

    def retry(self) -> None:
        if self.waiting:
            self.network.append(self.random.choice(list(self.waiting.values())))

    def commit(self) -> None:
        """Some batch of the network gets into the log; a copy may stay behind for later."""
        if not self.network:
            return
        place = self.random.randrange(len(self.network))
        data = self.network[place]
        if self.random.random() < 0.7:
            self.network.pop(place)
        batch = decode_batch(data)
        committed = self.random.random() < 0.9
        (applied,) = self.driver.entries(data, commit=committed)
        if not committed:
            return  # the entry comes again, with others before it or not
        for i, result in enumerate(applied.results):
            self.note(batch, i, result)
        if batch.session == self.session and self.random.random() < 0.7:
            self.waiting.pop(batch.first_id, None)

    def note(self, batch: Batch, i: int, result: Result | None) -> None:
        name = b"%d-%d" % (batch.session, batch.first_id + i)
        if result == -SESSION_CLOSED.number:
            assert batch.session != self.session, "an open session was called closed"
        elif result is not None:
            assert batch.session == self.session, "a closed session's request was carried out"
            assert self.answers.setdefault(name, result) == result, "two answers to one request"

    def check(self) -> None:
        found = self.driver.range(RangeRequest(key=b"\0", range_end=b"\0"))
        for row in found.kvs:
            assert row.version == 1, f"{row.key!r} was applied {row.version} times"
        applied = {row.key: row.mod_revision for row in found.kvs}
        assert applied == self.answers, "what was answered is not what was applied"

    def run(self, steps: int) -> None:
        for _ in range(steps):
            step = self.random.choices(
                (self.propose, self.retry, self.commit, self.reopen, self.driver.restart),
                (20, 15, 60, 1, 1),
            )[0]
            step()
        self.check()


@pytest.mark.parametrize("seed", range(12))
def test_every_request_is_applied_at_most_once(seed: int) -> None:
    World(seed, MemoryDriver()).run(300)


def test_every_request_is_applied_at_most_once_in_the_database(tmp_path: Path) -> None:
    driver = driver_over("sqlite", tmp_path)

    World(99, driver).run(150)

    driver.close()


class NoLookup(Sessions):
    """Only what is marked as a retry would be looked up; here nothing is."""

    def seen(self, session: Session, batch: Batch) -> dict[int, Kept | None]:
        return dict.fromkeys(range(batch.first_id, session.mark))


class MarkIgnored(Sessions):
    """Results go when the mark passes, but what is below it is not dropped."""

    def seen(self, session: Session, batch: Batch) -> dict[int, Kept | None]:
        mark, session.mark = session.mark, 0
        answers = super().seen(session, batch)
        session.mark = mark
        return answers


class CloseIgnored(Sessions):
    """An earlier session of the same member and slot stays open."""

    def open(self, session_id: int, member_id: int, slot: int) -> bool:
        return super().open(session_id, session_id, slot)


def run_seeds(seeds: int) -> None:
    for seed in range(seeds):
        World(seed, MemoryDriver()).run(300)


@pytest.mark.parametrize("mutant", [NoLookup, MarkIgnored, CloseIgnored])
def test_a_mutant_is_caught(mutant: type[Sessions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv.machine, "Sessions", mutant)

    with pytest.raises(AssertionError, match=r"was applied|two answers|carried out|not what"):
        run_seeds(12)


@pytest.mark.parametrize("kind", KINDS)
def test_results_and_sessions_do_not_pile_up(kind: str, tmp_path: Path) -> None:
    driver = driver_over(kind, tmp_path)
    for session in range(1, 30):
        driver.open_session(session)
        for first_id in range(1, 20):
            request = PutRequest(key=b"k", value=b"v").SerializeToString()
            driver.entries(
                encode_batch(session, first_id - 2, first_id, bytes([Op.PUT]), [request])
            )

    state = driver.store.load()

    assert len(state.sessions) <= CLOSED_KEPT + 1
    assert [i for i in sorted(driver.store.results(29, 1, 100)) if i >= 17] == [17, 18, 19]
    assert not driver.store.results(28, 1, 100)
    driver.close()
