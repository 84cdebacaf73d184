"""The space quota of a gateway, over a database that is two numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from actors.quota import EMPTY_BYTES, NEAR_BYTES, SpaceQuota
from etcdpb.rpc_pb2 import AlarmRequest, AlarmType, DeleteRangeRequest, PutRequest, RequestOp
from etcdpb.rpc_pb2 import TxnRequest as Txn
from kv.batch import Op
from kv.errors import NO_SPACE, TIMEOUT, Status

OWN = 7
LIMIT = 1 << 30
PUT = PutRequest(key=b"key", value=b"value").SerializeToString()


class Asker:
    """Waits for one result."""

    def __init__(self) -> None:
        self.closed = False
        self.told: list[Status] = []

    def answered(self, revision: int, body: bytes) -> None:
        raise AssertionError("nobody carries it out")

    def fail(self, status: Status) -> None:
        self.closed = True
        self.told.append(status)


class Database:
    """How much is used, and which alarms are raised; the log that alarms go to."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.used = EMPTY_BYTES
        self.raised: list[tuple[int, int]] = []
        self.looks = 0
        self.proposed: list[tuple[int, bytes, Any]] = []
        self.quota = SpaceQuota(limit, self, self._propose, member_id=OWN)  # type: ignore[arg-type]
        self.quota.seen(self.used)

    def _propose(self, op: int, request: bytes, answer: Any) -> None:
        self.proposed.append((op, request, answer))

    def sizes(self) -> tuple[int, int]:
        self.looks += 1
        return LIMIT, self.used

    @contextmanager
    def view(self) -> Iterator[Database]:
        yield self

    def alarms(self) -> list[tuple[int, int]]:
        return self.raised

    def fill(self) -> None:
        self.used = LIMIT + EMPTY_BYTES
        self.quota.seen(self.used)


@pytest.fixture
def database() -> Database:
    return Database()


def test_far_from_the_quota_the_database_is_not_even_asked(database: Database) -> None:
    asker = Asker()

    assert not any(database.quota.refuses(Op.PUT, PUT, asker) for _ in range(1000))
    assert (database.looks, database.proposed, asker.told) == (0, [], [])


def test_near_the_quota_the_database_decides(database: Database) -> None:
    database.used = LIMIT + EMPTY_BYTES - NEAR_BYTES // 2
    database.quota.seen(database.used)

    assert not database.quota.refuses(Op.PUT, PUT, Asker())
    assert database.looks == 1


def test_what_is_on_its_way_counts_until_the_database_is_seen_again(database: Database) -> None:
    database.used = LIMIT + EMPTY_BYTES - NEAR_BYTES - 10_000
    database.quota.seen(database.used)

    asked = [(database.quota.refuses(Op.PUT, PUT, Asker()), database.looks) for _ in range(60)]

    assert asked[0] == (False, 0)
    assert asked[-1][0] is False
    assert asked[-1][1] > 0


def test_who_finds_no_room_is_told_when_the_alarm_is_in_the_log(database: Database) -> None:
    database.fill()
    first, second = Asker(), Asker()

    refused = [database.quota.refuses(Op.PUT, PUT, asker) for asker in (first, second)]
    early = first.told + second.told
    ((op, request, answer),) = database.proposed
    answer.answered(5, b"")

    alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=OWN, alarm=AlarmType.NOSPACE)
    assert refused == [True, True]
    assert early == []
    assert (op, AlarmRequest.FromString(request)) == (Op.ALARM, alarm)
    assert first.told == second.told == [NO_SPACE]


def test_an_alarm_that_could_not_be_raised_is_raised_for_the_next(database: Database) -> None:
    database.fill()
    asker = Asker()
    database.quota.refuses(Op.PUT, PUT, asker)

    database.proposed[0][2].fail(TIMEOUT)
    database.quota.refuses(Op.PUT, PUT, Asker())

    assert asker.told == [NO_SPACE]
    assert len(database.proposed) == 2


def test_an_alarm_that_is_raised_already_is_not_raised_again(database: Database) -> None:
    database.fill()
    database.raised = [(OWN, AlarmType.NOSPACE)]
    asker = Asker()

    assert database.quota.refuses(Op.PUT, PUT, asker)
    assert (asker.told, database.proposed) == ([NO_SPACE], [])


def test_the_alarm_of_another_member_does_not_stand_for_ours(database: Database) -> None:
    database.fill()
    database.raised = [(OWN + 1, AlarmType.NOSPACE)]

    assert database.quota.refuses(Op.LEASE_GRANT, b"", Asker())
    assert len(database.proposed) == 1


def test_who_makes_room_is_never_refused(database: Database) -> None:
    database.fill()
    delete = RequestOp(request_delete_range=DeleteRangeRequest(key=b"key"))

    refused = database.quota.refuses(Op.TXN, Txn(success=[delete]).SerializeToString(), Asker())

    assert not refused


def test_a_negative_quota_is_none() -> None:
    database = Database(limit=-1)
    database.fill()

    assert not database.quota.refuses(Op.PUT, PUT, Asker())
