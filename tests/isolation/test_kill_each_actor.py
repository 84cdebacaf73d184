"""A fault stays in its room: each actor of a member under load is killed or frozen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Answer, Client
from tests.durability.load import Writers, verify
from tests.member import Member, signal_all

pytestmark = pytest.mark.e2e

ACTORS = (
    "transport", "applier", "raft-node", "lessor", "compactor", "snapshotter", "gateway-0",
    "zygote",
)  # fmt: skip
WRITERS = 8
SERVING_SECONDS = 1.0
HEALED_SECONDS = 5.0  # far above what it takes, for machines with other things to do
FROZEN_SECONDS = 1.0
IN_FLIGHT = 200


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A member whose frozen actors are left alone."""
    flags = ["--stuck-detection=false", "--gateways=1"]
    with Member(tmp_path_factory.mktemp("m"), flags=flags) as running:
        if not running.is_trouped:
            pytest.skip("only trouped has actors")
        yield running


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HEALED_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all([pid], signal.SIGCONT)


@pytest.mark.parametrize("actor", ACTORS)
def test_a_killed_actor_comes_back_and_nobody_else_notices(member: Member, actor: str) -> None:
    before = member.actors()
    assert before.keys() >= set(ACTORS)
    prefix = b"kill/" + actor.encode() + b"/"
    with Client(member.endpoint) as client:
        first = client.range(pb.RangeRequest(key=b"x")).header.revision + 1
    load = Writers(member.endpoint, prefix, WRITERS)
    try:
        load.wait_for(2 * WRITERS)
        moment = time.monotonic()
        os.kill(before[actor], signal.SIGKILL)
        wait_until(lambda: member.actors().get(actor, before[actor]) != before[actor], "no heir")
        heir = time.monotonic()
        load.wait_for(10 * WRITERS)
    finally:
        load.stop()

    after = member.actors()
    print(  # noqa: T201
        f"{actor}: running again after {(heir - moment) * 1e3:.0f} ms, next put after "
        f"{load.first_after(moment) * 1e3:.0f} ms, longest pause "
        f"{load.longest_gap_after(moment) * 1e3:.0f} ms, errors {load.errors or 'none'}"
    )
    assert {k: v for k, v in after.items() if k != actor} == {
        k: v for k, v in before.items() if k != actor
    }
    assert load.longest_gap_after(moment) < SERVING_SECONDS
    if actor != "gateway-0":  # its own clients lose their connections
        assert not load.errors
    with Client(member.endpoint) as client:
        verify(client, prefix, load.records, first)


def serializable(client: Client) -> Answer:
    return client.answer(pb.RangeRequest(key=b"still", serializable=True), FROZEN_SECONDS)


@pytest.mark.parametrize("actor", ["raft-node", "applier"])
def test_while_it_is_frozen_puts_wait_and_serializable_gets_go_on(
    member: Member, actor: str
) -> None:
    with Client(member.endpoint) as client, Client(member.endpoint) as reader:
        client.put(b"still", b"here")

        with frozen(member.actors()[actor]):
            waiting = client.begin(pb.PutRequest(key=b"later", value=b"1"), 30.0)
            given_up = client.answer(pb.PutRequest(key=b"other", value=b"2"), FROZEN_SECONDS)
            gets = [serializable(reader) for _ in range(50)]
        thawed = waiting()

        assert given_up.code == "DEADLINE_EXCEEDED"
        assert all(get.ok for get in gets)
        assert thawed.ok, thawed
        assert client.get(b"later") == b"1"
        assert client.put(b"still", b"there") > 0


@pytest.mark.parametrize("actor", ["raft-node", "applier"])
def test_while_it_is_frozen_no_get_is_stale(member: Member, actor: str) -> None:
    with Client(member.endpoint) as client:
        for number in range(20):
            value = b"%d" % number
            client.put(b"fresh", value)

            with frozen(member.actors()[actor]):
                answer = client.answer(pb.RangeRequest(key=b"fresh"), FROZEN_SECONDS / 10)

            # The only voter may answer from its own store; whoever has to ask others has to wait.
            if isinstance(answer.message, pb.RangeResponse):
                assert answer.message.kvs[0].value == value
            else:
                assert answer.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("actor", ["lessor", "compactor", "snapshotter", "transport", "zygote"])
def test_nobody_notices_a_frozen_bystander(member: Member, actor: str) -> None:
    with frozen(member.actors()[actor]), Client(member.endpoint) as client:
        for number in range(20):
            client.put(b"meanwhile", b"%d" % number)
        assert client.get(b"meanwhile") == b"19"


def test_messages_between_actors_carry_many_requests_each(member: Member) -> None:
    troupectl = Path(sys.executable).parent / "troupectl"
    if not troupectl.exists():
        pytest.skip("no troupectl yet")
    command = [str(troupectl), "edges", "--json", f"--data-dir={member.data_dir}"]
    pending: deque[Callable[[], Answer]] = deque()
    with Client(member.endpoint) as client:
        sample = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        number = 0
        while sample.poll() is None:
            pending.append(client.begin(pb.PutRequest(key=b"edge/%d" % (number % 1000))))
            number += 1
            if len(pending) >= IN_FLIGHT:
                assert pending.popleft()().ok
        assert all(answer().ok for answer in pending)
        output, _ = sample.communicate(timeout=10)

    assert sample.returncode == 0
    rows = json.loads(output)
    means = {f"{row['sender']} -> {row['receiver']}": row["batch_mean"] for row in rows}
    for edge, mean in means.items():
        if mean is not None:
            print(f"{edge}: {mean} requests a message")  # noqa: T201
    assert means["gateway-0 -> raft-node"] > 2
    assert means["applier -> gateway-0"] > 2
