"""kill -9 at random moments under load: what was acknowledged is there, once, at its revision."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Answer, Client
from tests.durability.load import LostWriteError, Record, Writers, rounds, verify, write
from tests.member import Member

pytestmark = pytest.mark.e2e

ROUNDS = 5
ROUNDS_SLOW = 100
WRITERS = 8
HEIR_SECONDS = 10.0
# A supervisor gives up at 20 restarts within this time.
PERIOD_SECONDS = 31.0
KILLS_IN_PERIOD = 15
ACTORS = (
    "gateway-0", "raft-node", "applier", "lessor", "compactor", "snapshotter", "transport",
    "zygote",
)  # fmt: skip


def kill_member(folder: Path, count: int, seed: int, writers: int = WRITERS) -> None:
    chance = Random(seed)
    with Member(folder) as member:

        def strike(_: int, load: Writers) -> None:
            time.sleep(chance.uniform(0.0, 0.2))  # the random moment
            member.restart()

        done = rounds(member.endpoint, count, writers, strike)
    acknowledged = sum(load.acknowledged for load in done)
    unknown = sum(len(record.unknown) for load in done for record in load.records)
    kept = sum(load.kept_unknown for load in done)
    print(  # noqa: T201
        f"{count} kills: {acknowledged} acknowledged, all kept; {unknown} not, {kept} of them kept"
    )
    assert acknowledged >= 2 * writers * count


def pid_of(member: Member, actor: str) -> int:
    """Return an actor's pid, waiting until the one killed before has its heir."""
    deadline = time.monotonic() + HEIR_SECONDS
    while (pid := member.actors().get(actor)) is None:
        assert time.monotonic() < deadline, f"no {actor} for {HEIR_SECONDS} s"
        time.sleep(0.01)
    return pid


class Pace:
    """Holds up who would kill an actor more often than its supervisor restarts it."""

    def __init__(self) -> None:
        self._struck: dict[str, deque[float]] = {}

    def wait(self, actor: str) -> None:
        """Wait until one more kill is not too many, and count it."""
        struck = self._struck.setdefault(actor, deque(maxlen=KILLS_IN_PERIOD))
        if len(struck) == KILLS_IN_PERIOD:
            time.sleep(max(0.0, struck[0] + PERIOD_SECONDS - time.monotonic()))
        struck.append(time.monotonic())


def kill_actors(
    folder: Path, actors: Sequence[str], count: int, seed: int, writers: int = WRITERS
) -> None:
    """Kill each of the actors `count` times, one a round and each in its turn."""
    chance, pace = Random(seed), Pace()
    if not Member(folder).is_trouped:
        pytest.skip("only trouped has actors")
    with Member(folder, flags=["--gateways=1"]) as member:

        def strike(number: int, load: Writers) -> None:
            actor = actors[number % len(actors)]
            pace.wait(actor)
            time.sleep(chance.uniform(0.0, 0.1))  # the random moment
            os.kill(pid_of(member, actor), signal.SIGKILL)
            load.wait_for(5 * writers)

        done = rounds(member.endpoint, count * len(actors), writers, strike)
        assert member.process is not None
        assert member.process.poll() is None
    for place, actor in enumerate(actors):
        struck = done[place :: len(actors)]
        acknowledged = sum(load.acknowledged for load in struck)
        errors = dict(sum((Counter(load.errors) for load in struck), Counter()))
        print(  # noqa: T201
            f"{actor}: {len(struck)} kills, {acknowledged} acknowledged, errors {errors}"
        )
        if actor != "gateway-0":  # whose clients lose their connections
            assert not errors


def test_what_was_acknowledged_survives_kills_of_the_member(tmp_path: Path) -> None:
    kill_member(tmp_path, ROUNDS, seed=1)


@pytest.mark.slow
def test_what_was_acknowledged_survives_100_kills_of_the_member(tmp_path: Path) -> None:
    kill_member(tmp_path, ROUNDS_SLOW, seed=2)


@pytest.mark.parametrize("actor", ["gateway-0", "raft-node", "applier"])
def test_what_was_acknowledged_survives_kills_of_an_actor(tmp_path: Path, actor: str) -> None:
    kill_actors(tmp_path, [actor], 2, seed=3)


@pytest.mark.slow
def test_what_was_acknowledged_survives_100_kills_of_every_actor(tmp_path: Path) -> None:
    kill_actors(tmp_path, ACTORS, ROUNDS_SLOW, seed=4)


def test_what_a_lone_client_was_told_survives_kills(tmp_path: Path) -> None:
    """Its results travel before their COMMIT (actors/early.py)."""
    kill_member(tmp_path / "a", ROUNDS, seed=5, writers=1)
    kill_actors(tmp_path / "b", ["raft-node", "applier", "gateway-0"], 2, seed=6, writers=1)


@pytest.mark.slow
def test_what_a_lone_client_was_told_survives_100_kills(tmp_path: Path) -> None:
    kill_member(tmp_path / "a", ROUNDS_SLOW, seed=7, writers=1)
    kill_actors(tmp_path / "b", ["raft-node", "applier", "gateway-0"], ROUNDS_SLOW, 8, writers=1)


class Kept(Client):
    """A member that holds what a test says it holds."""

    def __init__(self, kvs: dict[bytes, tuple[int, int, int]], revision: int) -> None:
        """Take key -> (create revision, mod revision, version) and the store's revision."""
        super().__init__("127.0.0.1:1")
        self.kvs, self.revision = kvs, revision

    def range(self, request: pb.RangeRequest, timeout: float = 0) -> pb.RangeResponse:
        response = pb.RangeResponse(header=pb.ResponseHeader(revision=self.revision))
        for key, (created, modified, version) in sorted(self.kvs.items()):
            last = request.range_end or request.key + b"\0"
            if request.key <= key < last:
                response.kvs.add(
                    key=key,
                    value=b"value of " + key,
                    create_revision=created,
                    mod_revision=modified,
                    version=version,
                )
        return response

    def answer(self, request: object, timeout: float = 0, *, wait: bool = False) -> Answer:
        raise AssertionError("not asked")


WHOLE = {b"p/0/1": (2, 2, 1), b"p/0/2": (3, 3, 1), b"counter/p/0": (2, 3, 2)}
SEEN = Record(acknowledged={b"p/0/1": 2}, unknown={b"p/0/2"})


def test_the_check_accepts_what_is_whole() -> None:
    with Kept(WHOLE, 3) as client:
        assert verify(client, b"p/", [SEEN], first=2) == 3


@pytest.mark.parametrize(
    ("change", "revision", "complaint"),
    [
        ({b"p/0/1": None}, 3, "is gone"),
        ({b"p/0/1": (4, 4, 1)}, 4, "acknowledged at revision 2, kept"),
        ({b"p/0/2": (3, 5, 2)}, 5, "applied 2 times"),
        ({b"counter/p/0": (2, 4, 3)}, 4, "3 times in 2 transactions"),
        ({}, 4, "holes or twins"),
        ({b"p/0/2": (2, 2, 1)}, 2, "holes or twins"),
        ({b"p/0/3": (4, 4, 1), b"counter/p/0": (2, 4, 3)}, 4, "never written"),
    ],
)
def test_the_check_notices(
    change: dict[bytes, tuple[int, int, int] | None], revision: int, complaint: str
) -> None:
    kvs = {key: row for key, row in (WHOLE | change).items() if row is not None}
    with Kept(kvs, revision) as client, pytest.raises(LostWriteError, match=complaint):
        verify(client, b"p/", [SEEN], first=2)


def test_a_write_is_one_revision_of_two_puts() -> None:
    request = write(b"p/", 0, b"p/0/1")

    puts = [operation.request_put for operation in request.success]
    assert [put.key for put in puts] == [b"p/0/1", b"counter/p/0"]
