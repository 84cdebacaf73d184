"""A gateway's way to readiness, over a database that is two facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

from actors.proposals import Proposals
from actors.publish import Publisher
from kv.batch import Op, decode_batch
from kv.cluster import Member
from kv.errors import TIMEOUT
from kv.version import CLUSTER_VERSION

MEMBER_ID = 7
URLS = ("http://127.0.0.1:2379",)


class Database:
    """What a view tells of members and the version."""

    def __init__(self) -> None:
        self.name = ""
        self.version: str | None = CLUSTER_VERSION
        self.alone = False

    @contextmanager
    def view(self) -> Iterator[Database]:
        yield self

    def members(self) -> list[Member]:
        urls = URLS if self.name else ()
        others = [] if self.alone else [Member(3, "other", (), ())]
        return [*others, Member(MEMBER_ID, self.name, (), urls)]

    def cluster_version(self) -> str | None:
        return self.version


class Stage:
    """A publisher and everything around it."""

    def __init__(self) -> None:
        self.database = Database()
        self.sent: list[Any] = []
        self.proposals = Proposals(
            1, self._send, lambda answer, r, b: answer.answered(r, b), timeout=7.0
        )
        self.proposals.open = True
        self.readied = 0
        self.publisher = Publisher(
            self.proposals,
            self.database,  # type: ignore[arg-type]
            member_id=MEMBER_ID,
            name="m1",
            client_urls=URLS,
            ready=self._ready,
        )

    def _send(self, message: Any) -> bool:
        self.sent.append(decode_batch(message.batch))
        return True

    def _ready(self) -> None:
        self.readied += 1

    def apply(self) -> None:
        """Carry out what was proposed last."""
        batch = self.sent[-1]
        for request in batch.requests:
            self.database.name = msgpack.unpackb(request)[1]
        self.proposals.applied(batch.first_id, [5] * len(batch.requests))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_what_is_missing_is_proposed_and_readiness_follows_once_it_is_applied(stage: Stage) -> None:
    stage.publisher.start(publish=True)
    stage.proposals.flush(0.0)
    early = stage.publisher.done

    stage.apply()

    assert not early
    assert list(stage.sent[0].ops) == [Op.MEMBER_ATTRIBUTES]
    assert stage.publisher.done
    assert stage.readied == 1


def test_a_member_alone_waits_for_the_version_that_it_decides_itself(stage: Stage) -> None:
    stage.database.alone, stage.database.version = True, None
    stage.publisher.start(publish=True)
    stage.proposals.flush(0.0)
    stage.apply()
    early = stage.publisher.done

    stage.database.version = CLUSTER_VERSION
    stage.publisher.start(publish=True)

    assert not early
    assert stage.readied == 1


def test_a_silent_member_does_not_hold_up_the_readiness_of_others(stage: Stage) -> None:
    stage.database.version = None
    stage.publisher.start(publish=True)
    stage.proposals.flush(0.0)

    stage.apply()

    assert stage.publisher.done


def test_a_restarted_member_has_nothing_to_publish(stage: Stage) -> None:
    stage.database.name, stage.database.version = "m1", CLUSTER_VERSION

    stage.publisher.start(publish=True)
    stage.publisher.start(publish=True)

    assert stage.readied == 1
    assert len(stage.proposals) == 0


def test_other_gateways_only_look(stage: Stage) -> None:
    stage.publisher.start(publish=False)
    early = stage.publisher.done
    stage.database.name, stage.database.version = "m1", CLUSTER_VERSION

    stage.publisher.start(publish=False)

    assert not early
    assert stage.publisher.done
    assert len(stage.proposals) == 0


def test_nothing_is_proposed_twice_while_the_first_is_under_way(stage: Stage) -> None:
    stage.publisher.start(publish=True)
    stage.publisher.start(publish=True)

    assert len(stage.proposals) == 1


def test_without_a_leader_proposals_do_not_pile_up(stage: Stage) -> None:
    stage.publisher.start(publish=True)
    stage.proposals.flush(0.0)

    for tick in range(200):
        stage.proposals.late(7.0 + tick / 20)

    piled_up = len(stage.proposals)
    stage.publisher.start(publish=True)

    assert piled_up == 1  # the batch that may still be applied, and nothing else
    assert len(stage.proposals) == 2  # the next look tries again


def test_a_refused_proposal_is_made_again_at_the_next_look_and_not_at_once(stage: Stage) -> None:
    stage.publisher.start(publish=True)
    stage.proposals.flush(0.0)

    stage.proposals.applied(1, [-TIMEOUT.number])
    at_once = len(stage.proposals)
    stage.publisher.start(publish=True)

    assert at_once == 0
    assert len(stage.proposals) == 1
