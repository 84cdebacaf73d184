"""Explanations of requests, from recorders written by hand; times in milliseconds."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from actors.messages import Applied, Apply, PeerReceived, Propose, ReadIndex, ReadStates
from actors.observing import SYNC_TAG
from actors.wire import WIRE
from control import explain as explain_module
from control.explain import Explanation, bar, explain, rendered
from kv.operations import Operation
from tests.observe.desk import Paper
from transport.counters import Cell, Edge
from transport.recorder import Kind, Recorder

MS = 1_000_000
KINDS: tuple[type, ...] = (Applied, Apply, PeerReceived, Propose, ReadIndex, ReadStates)
TAGS = {kind: next(tag for tag, cls in WIRE.items() if cls is kind) for kind in KINDS}
FLUSH = 250


class Story:
    """Writes what happened, `at` milliseconds after its beginning (ten seconds ago)."""

    def __init__(self, paper: Paper) -> None:
        self.paper = paper
        self.began = time.monotonic_ns() - 10_000 * MS
        self.rings = {name: Recorder(paper.board, name, 1) for name in paper.board.names}

    def sent(
        self,
        name: str,
        to: str,
        kind: type,
        at: float,
        number: int,
        sequence: int,
        items: int = 1,
        operations: int = 0,
    ) -> None:
        self._note(name, to, Kind.OUT, kind, at, number, sequence, items, 0, 0, operations)
        edge = self.paper.board.edge(name, to)
        self.paper.board.words[edge + Edge.SENT] = sequence + 1

    def handled(
        self,
        name: str,
        sender: str,
        kind: type,
        at: float,
        number: int,
        sequence: int,
        wait: float,
        work: float = 0.001,
    ) -> None:
        self._note(name, sender, Kind.IN, kind, at, number, sequence, 1, wait, work)
        edge = self.paper.board.edge(sender, name)
        self.paper.board.words[edge + Edge.HANDLED] = sequence + 1

    def flushed(self, name: str, at: float, work: float, operations: int = 0) -> None:
        self.local(name, FLUSH, at, work, operations)

    def local(self, name: str, tag: int, at: float, work: float, operations: int = 0) -> None:
        at_ns, work_ns = self.began + round(at * MS), round(work * MS)
        self.rings[name].note(Kind.LOCAL, tag, 1, 0, 0, 0, 0, at_ns, 0, work_ns, operations)

    def _note(
        self,
        name: str,
        peer: str,
        direction: Kind,
        kind: type,
        at: float,
        number: int,
        sequence: int,
        items: int,
        wait: float,
        work: float,
        operations: int = 0,
    ) -> None:
        self.rings[name].note(
            direction,
            TAGS[kind],
            self.paper.board.position(peer),
            sequence,
            items,
            50,
            number,
            self.began + round(at * MS),
            round(wait * MS),
            round(work * MS),
            operations,
        )

    def explained(self) -> dict[str, object]:
        found = explain(self.paper.view())["slowest"]
        assert len(found) == 1
        one: dict[str, object] = found[0]
        return one


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(Paper(tmp_path))


def put(story: Story, *, applier_waits: float = 1.0, sync: float = 2.0, again: float = 0.0) -> None:
    """A put that nothing holds up but what is said; asked again at a time, if at all."""
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.flushed("raft-node", 1.1, sync)
    sent = 1 + sync
    story.sent("raft-node", "applier", Apply, sent, 70, 5)
    if again:
        story.sent("gateway-0", "raft-node", Propose, again, 41, 10)
    taken = sent + applier_waits
    story.handled("applier", "raft-node", Apply, taken, 70, 5, wait=applier_waits)
    story.sent("applier", "gateway-0", Applied, taken + 1, 41, 3)
    story.flushed("applier", taken, 1.5)
    story.handled("gateway-0", "applier", Applied, taken + 2, 41, 3, wait=1, work=0.5)


def test_what_was_asked_again_is_one_request_that_waits_since_the_first_time(story: Story) -> None:
    put(story, applier_waits=400, again=350)

    assert story.explained()["verdict"] == ("405.5 ms: 400.0 ms waiting in applier's mailbox")


def test_a_session_that_a_gateway_opened_is_nobodys_request(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 0, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 0, 9, wait=1)

    assert explain(story.paper.view())["slowest"] == []


def lengths(one: dict[str, object]) -> list[tuple[str, str, float]]:
    spans: list[dict[str, object]] = one["spans"]  # type: ignore[assignment]
    return [(str(s["actor"]), str(s["what"]), int(str(s["length_ns"])) / MS) for s in spans]


def test_a_put_is_followed_through_every_mailbox(story: Story) -> None:
    put(story)

    one = story.explained()

    assert lengths(one) == [
        ("raft-node", "in the mailbox", 1.0),
        ("raft-node", "at work", 2.0),
        ("applier", "in the mailbox", 1.0),
        ("applier", "at work", 1.0),
        ("gateway-0", "in the mailbox", 1.0),
        ("gateway-0", "at work", 0.5),
    ]
    assert (one["total_ns"], one["finished"]) == (6.5 * MS, True)
    assert one["verdict"] == "6.5 ms: 2.0 ms in raft-node, in Flush"


def test_the_verdict_names_what_a_mailbox_waited_behind(story: Story) -> None:
    story.handled("applier", "raft-node", Apply, 1, 60, 4, wait=0, work=390)

    put(story, applier_waits=390)

    assert story.explained()["verdict"] == (
        "395.5 ms: 390.0 ms waiting in applier's mailbox behind Apply"
    )


def test_the_verdict_names_the_request_and_what_a_flush_carried_out(story: Story) -> None:
    story.flushed("applier", 1, 399, int(Operation.COMPACT))
    both = int(Operation.PUT | Operation.TXN)
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9, operations=both)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 10, 70, 5)
    story.handled("applier", "raft-node", Apply, 400, 70, 5, wait=390)
    story.sent("applier", "gateway-0", Applied, 402, 41, 3)
    story.handled("gateway-0", "applier", Applied, 403, 41, 3, wait=1, work=9)

    one = story.explained()

    assert one["operations"] == ("Put", "Txn")
    assert one["verdict"] == (
        "412.0 ms, Put and Txn: 390.0 ms waiting in applier's mailbox behind Compact"
    )


def test_what_an_actor_carries_out_now_is_named(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9, operations=int(Operation.PUT))
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 2, 70, 5)
    board = story.paper.board
    board.words[board.edge("raft-node", "applier") + Edge.HANDLED] = 5
    board.set("applier", Cell.OPERATIONS, int(Operation.DELETE_RANGE))
    board.set("applier", Cell.SINCE_NS, story.began)
    board.set("applier", Cell.TAG, FLUSH)

    verdict = str(story.explained()["verdict"])

    assert verdict.startswith("not answered for 10.")
    assert ", Put: " in verdict
    assert "behind DeleteRange, running for 10." in verdict


def led(story: Story, *, leader: int) -> None:
    """Member 7 in a cluster; its put takes until 400 ms to be committed."""
    words = {"member": 400, "leader": 401, "alone": 402, "sync_since_ns": 403}
    info = json.loads((story.paper.run_dir / "info.json").read_text())
    (story.paper.run_dir / "info.json").write_text(json.dumps(info | {"raft": words}))
    story.paper.board.set("raft-node", 400, 7)
    story.paper.board.set("raft-node", 401, leader)
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 400, 70, 5)
    story.handled("applier", "raft-node", Apply, 401, 70, 5, wait=1)
    story.sent("applier", "gateway-0", Applied, 402, 41, 3)
    story.handled("gateway-0", "applier", Applied, 403, 41, 3, wait=1)


def test_a_leaders_own_sync_is_told_from_its_followers(story: Story) -> None:
    story.local("raft-node", SYNC_TAG, 2, 300)
    story.handled("raft-node", "applier", PeerReceived, 399, 9, 1, wait=1)
    led(story, leader=7)

    one = story.explained()

    assert lengths(one)[1:4] == [
        ("raft-node", "writing the log", 1.0),
        ("raft-node", "syncing the log", 300.0),
        ("raft-node", "waiting for a quorum of followers", 98.0),
    ]
    assert one["verdict"] == "403.0 ms: 300.0 ms in raft-node, syncing the log"


def test_a_flush_that_only_syncs_is_called_a_sync(story: Story) -> None:
    story.local("raft-node", SYNC_TAG, 2, 180)
    story.local("raft-node", SYNC_TAG, 190, 205)
    story.flushed("raft-node", 2, 397)
    led(story, leader=11)

    one = story.explained()

    assert [what for _, what, _ in lengths(one)[1:3]] == ["syncing the log", "at work"]
    assert str(one["verdict"]).endswith("in raft-node, syncing the log")


def test_a_sync_has_to_wait_for_the_one_before(story: Story) -> None:
    story.local("raft-node", SYNC_TAG, -50, 200)
    story.local("raft-node", SYNC_TAG, 150, 240)
    led(story, leader=7)

    assert story.explained()["verdict"] == "403.0 ms: 389.0 ms in raft-node, syncing the log"


@pytest.mark.parametrize(
    ("leader", "words"),
    [
        (7, "waiting for a quorum of followers: 9 answered last"),
        (11, "waiting for the leader: b"),
        (0, "waiting for an election"),
    ],
)
def test_for_whom_a_raft_node_waits_is_said(story: Story, leader: int, words: str) -> None:
    story.handled("raft-node", "applier", PeerReceived, 20, 8, 1, wait=1)
    story.handled("raft-node", "applier", PeerReceived, 399, 9, 2, wait=1)
    led(story, leader=leader)

    assert story.explained()["verdict"] == f"403.0 ms: 399.0 ms in raft-node, {words}"


def test_a_sync_under_way_on_the_thread_is_told_as_such(story: Story) -> None:
    led(story, leader=7)
    story.sent("gateway-0", "raft-node", Propose, 500, 42, 10)
    story.handled("raft-node", "gateway-0", Propose, 501, 42, 10, wait=1)
    story.paper.board.set("raft-node", 403, story.began + 502 * MS)

    verdict = str(explain(story.paper.view())["slowest"][0]["verdict"])

    assert verdict.startswith("not answered for 9.")
    assert verdict.endswith("in raft-node, syncing the log")


def sent_ahead(story: Story) -> None:
    """A put of an only voter: its Apply leaves in a Flush that goes on with a sync."""
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 2, 70, 5)
    story.handled("applier", "raft-node", Apply, 3, 70, 5, wait=1, work=4)


def test_a_sync_that_an_apply_was_sent_ahead_of_is_the_raft_nodes(story: Story) -> None:
    sent_ahead(story)
    story.flushed("raft-node", 1.5, 250)
    story.sent("applier", "gateway-0", Applied, 252, 41, 3)
    story.handled("gateway-0", "applier", Applied, 253, 41, 3, wait=1, work=0.5)

    one = story.explained()

    assert lengths(one)[2:5] == [
        ("applier", "in the mailbox", 1.0),
        ("raft-node", "syncing the log", 248.5),
        ("applier", "at work", 0.5),
    ]
    assert one["verdict"] == "253.5 ms: 248.5 ms in raft-node, syncing the log"


def test_a_sync_whose_flush_goes_on_after_the_answer_is_told_too(story: Story) -> None:
    sent_ahead(story)
    story.sent("applier", "gateway-0", Applied, 252, 41, 3)
    story.handled("gateway-0", "applier", Applied, 253, 41, 3, wait=1, work=0.5)
    board = story.paper.board
    board.set("raft-node", Cell.SINCE_NS, story.began + round(1.5 * MS))
    board.set("raft-node", Cell.TAG, FLUSH)

    assert str(story.explained()["verdict"]).endswith("249.0 ms in raft-node, syncing the log")


def ahead(story: Story, *, committed: int) -> None:
    """A put whose results are sent at 4 ms, while its log is being synced."""
    info = json.loads((story.paper.run_dir / "info.json").read_text())
    (story.paper.run_dir / "info.json").write_text(json.dumps(info | {"raft": {"committed": 400}}))
    story.paper.board.set("raft-node", 400, committed)
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 2, 70, 5)
    story.handled("applier", "raft-node", Apply, 3, 70, 5, wait=1)
    early = int(Operation.AHEAD)
    story.sent("applier", "gateway-0", Applied, 4, 41, 3, operations=early)
    story.handled("gateway-0", "applier", Applied, 5, 41, 3, wait=1, work=0.5)


def test_results_that_came_before_their_commit_end_a_request_that_was_committed_soon(
    story: Story,
) -> None:
    ahead(story, committed=70)

    one = story.explained()

    assert one["finished"]
    assert one["total_ns"] == 5.5 * MS


def test_results_that_came_before_their_commit_end_nothing_while_it_does_not_come(
    story: Story,
) -> None:
    ahead(story, committed=69)

    one = story.explained()

    assert not one["finished"]
    assert str(one["verdict"]).startswith("not answered for 10.")


def test_results_that_are_sent_again_when_they_are_committed_count_from_then(story: Story) -> None:
    ahead(story, committed=70)
    story.flushed("raft-node", 1.1, 250)
    story.sent("applier", "gateway-0", Applied, 253, 41, 4)
    story.handled("gateway-0", "applier", Applied, 254, 41, 4, wait=1, work=0.5)

    one = story.explained()

    assert one["total_ns"] == 254.5 * MS
    assert str(one["verdict"]).endswith("in raft-node, syncing the log")


def test_a_sync_that_goes_on_is_told_as_such(story: Story) -> None:
    sent_ahead(story)
    board = story.paper.board
    board.set("raft-node", Cell.SINCE_NS, story.began + round(1.5 * MS))
    board.set("raft-node", Cell.TAG, FLUSH)

    verdict = str(story.explained()["verdict"])

    assert verdict.startswith("not answered for 10.")
    assert verdict.endswith("in raft-node, syncing the log")


def test_a_gap_with_nobody_at_work_is_waiting_for_others(story: Story) -> None:
    put(story, sync=0.0)
    story.sent("gateway-0", "raft-node", ReadIndex, 100, 8, 10)
    story.handled("raft-node", "gateway-0", ReadIndex, 101, 8, 10, wait=1)
    story.sent("raft-node", "gateway-0", ReadStates, 131, 8, 4)
    story.handled("gateway-0", "raft-node", ReadStates, 132, 8, 4, wait=1)

    slowest = explain(story.paper.view())["slowest"][0]

    assert slowest["kind"] == "read"
    assert slowest["verdict"] == "32.0 ms: 30.0 ms in raft-node, waiting for others"


def test_a_batch_among_others_in_one_answer_is_found(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 44, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 44, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 2, 70, 5)
    story.handled("applier", "raft-node", Apply, 3, 70, 5, wait=1)
    story.sent("applier", "gateway-0", Applied, 4, 41, 3, items=6)
    story.handled("gateway-0", "applier", Applied, 5, 41, 3, wait=1)

    assert story.explained()["finished"]


def test_a_request_that_an_actor_sits_on_is_explained_while_it_does(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 2, 70, 5)
    board = story.paper.board
    board.words[board.edge("raft-node", "applier") + Edge.HANDLED] = 5
    board.set("applier", Cell.SINCE_NS, story.began)
    board.set("applier", Cell.TAG, TAGS[Apply])

    one = story.explained()

    assert not one["finished"]
    verdict = str(one["verdict"])
    assert verdict.startswith("not answered for 10.")
    assert "waiting in applier's mailbox behind Apply, running for 10." in verdict


def test_what_recorders_have_forgotten_is_not_made_up(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    board = story.paper.board
    board.words[board.edge("gateway-0", "raft-node") + Edge.HANDLED] = 10

    assert explain(story.paper.view())["slowest"] == []


def test_what_was_answered_out_of_the_database_is_not_called_open(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.handled("gateway-0", "applier", Applied, 5, 55, 3, wait=1)

    assert explain(story.paper.view())["slowest"] == []


def found(story: Story, at: float, number: int) -> None:
    """The gateway looks an answer up."""
    own = story.paper.board.position("gateway-0")
    at_ns = story.began + round(at * MS)
    story.rings["gateway-0"].note(Kind.LOCAL, TAGS[Applied], own, 0, 1, 0, number, at_ns, work_ns=1)


def test_an_answer_that_was_found_in_the_database_ends_a_request(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    story.handled("raft-node", "gateway-0", Propose, 1, 41, 9, wait=1)
    story.sent("raft-node", "applier", Apply, 3, 70, 5)
    story.handled("applier", "raft-node", Apply, 4, 70, 5, wait=1)
    story.sent("applier", "gateway-0", Applied, 5, 41, 3)  # lost
    found(story, 505, 41)

    one = story.explained()

    assert one["finished"]
    assert one["verdict"] == (
        "505.0 ms: 500.0 ms in gateway-0, until the answer was found in the database"
    )


def test_an_answer_that_was_found_before_its_message_came_came_then(story: Story) -> None:
    story.sent("gateway-0", "raft-node", Propose, 0, 41, 9)
    found(story, 4.5, 41)
    story.sent("applier", "gateway-0", Applied, 5, 41, 3)
    story.handled("gateway-0", "applier", Applied, 6, 41, 3, wait=1)

    one = story.explained()

    assert one["finished"]
    assert one["total_ns"] == 4.5 * MS


def test_an_answer_whose_message_came_first_is_told_by_that(story: Story) -> None:
    put(story)
    found(story, 9, 40)
    found(story, 10, 41)

    assert story.explained()["total_ns"] == 6.5 * MS


def test_only_what_is_slow_enough_is_told(story: Story) -> None:
    put(story)

    assert explain(story.paper.view(), slower_than_ms=6.6)["explained"] == 0
    assert explain(story.paper.view(), slower_than_ms=6.4)["explained"] == 1


def test_a_waterfall_shows_when_each_span_was(story: Story) -> None:
    assert bar(0, 50, 100) == "█" * 20
    assert bar(50, 50, 100) == " " * 20 + "█" * 20
    assert bar(99, 0, 100) == " " * 39 + "█"
    put(story)
    assert rendered(explain(story.paper.view())) is not None
    assert isinstance(explain_module.Explainer(story.paper.view()).all()[0], Explanation)
