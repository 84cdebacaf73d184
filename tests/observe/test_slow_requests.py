"""Slow requests are explained by the gateway they came through, while the recorders know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from actors.messages import Applied, Propose
from actors.slow_requests import KEPT_MAX, SlowRequests
from control import explain, fault
from control.observe import MemberView
from control.run_directory import find_run_directory
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member
from tests.observe.desk import Paper
from tests.observe.test_explain import Story, put
from tests.supervisor.toys import eventually
from transport.context import ActorContext
from transport.log import Logger
from transport.recorder import Record


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(Paper(tmp_path))


def slow(story: Story, threshold: float) -> SlowRequests:
    context = ActorContext(
        name="gateway-0",
        module="",
        incarnation=1,
        run_dir=story.paper.run_dir,
        data_dir=story.paper.run_dir,
        member_name="paper",
        config={"warning_unary_request_duration_seconds": threshold},
        sockets={},
        lock_fd=-1,
        log_fd=-1,
        root_pid=0,
    )
    return SlowRequests(context, story.paper.board, Logger(os.open(os.devnull, os.O_WRONLY), "x"))


def test_a_request_over_the_threshold_is_kept_with_its_verdict(story: Story) -> None:
    watching = slow(story, 0.3)
    put(story, applier_waits=400)

    (found,) = watching.look(1.0)

    assert found["verdict"].startswith("405.5 ms: 400.0 ms waiting in applier's mailbox")
    assert watching.to_list()["slow"] == [found]
    assert watching.look(2.0) == []


def test_a_quick_request_is_a_sample_once_in_ten_seconds(story: Story) -> None:
    watching = slow(story, 0.3)
    for now in (1.0, 10.5, 11.5):
        put(story)
        assert watching.look(now) == []

    assert len(watching.to_list()["samples"]) == 2
    assert watching.to_list()["slow"] == []


def test_an_answer_in_a_later_turn_finds_its_question(story: Story) -> None:
    watching = slow(story, 0.3)
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    assert watching.look(1.0) == []
    story.sent("applier", "gateway-0", Applied, 500, 40, 3, items=4)
    story.handled("gateway-0", "applier", Applied, 501, 40, 3, wait=1)

    # The record of an answer holds one item here, so it names 40 alone: not this question.
    assert watching.look(2.0) == []
    story.handled("gateway-0", "applier", Applied, 600, 41, 3, wait=1)

    assert len(watching.look(3.0)) <= 1
    assert watching._open == {}


def test_a_request_that_was_asked_again_waits_since_the_first_time(story: Story) -> None:
    watching = slow(story, 0.3)
    put(story, applier_waits=400, again=350)

    found = watching.look(1.0)

    assert [one["total_ns"] // 1_000_000 for one in found] == [405]


def test_only_so_many_are_kept(story: Story) -> None:
    watching = slow(story, 0.001)
    for now in range(KEPT_MAX + 5):
        put(story)
        watching.look(10.0 * now)  # seconds enough to pay for it

    assert len(watching.to_list()["slow"]) == KEPT_MAX


def test_where_everything_is_slow_only_some_of_it_is_explained(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = slow(story, 0.001)
    explain_one = watching._explained
    clock = [0.0]

    def takes_20_ms(sent: Record) -> dict[str, Any] | None:
        clock[0] += 0.02
        return explain_one(sent)

    monkeypatch.setattr("actors.slow_requests.monotonic", lambda: clock[0])
    monkeypatch.setattr(watching, "_explained", takes_20_ms)
    told = []
    for turn in range(20):
        put(story)
        told.append(len(watching.look(1.0 + turn / 10)))
    put(story)
    later = watching.look(60.0)

    assert told[0] == 1
    assert sum(told) == 4  # 50 ms of credit, and 2 s earn 20 ms
    assert len(later) == 1


@pytest.mark.e2e
def test_a_slow_put_is_kept_and_logged(tmp_path: Path) -> None:
    flags = ["--enable-faults", "--warning-unary-request-duration=150ms"]
    with Member(tmp_path, flags=flags) as member, Client(member.endpoint) as client:
        view = MemberView(find_run_directory(str(member.data_dir), os.environ, ""))

        def is_kept() -> bool:
            fault.inject(view, "slow", "applier", ms=400, **{"for": 1.0})
            assert client.answer(pb.PutRequest(key=b"colour", value=b"pa55word"), timeout=9.0).ok
            found = explain.kept(view)
            return found["slow"] > 0 and "applier" in str(found["slowest"])

        eventually(is_kept, "a slow put is kept")
        eventually(lambda: '"msg":"request stats"' in member.log, "it is logged")
        assert "pa55word" not in member.log
