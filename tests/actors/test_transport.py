"""Two members' transports as whole actors, each with a real database and the test as neighbours."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from actors import transport as transport_module
from actors.messages import PeerLinks, PeerMessages, PeerReceived, PeersChanged
from actors.metrics import PeerMetric, RaftMetric, TransportMetric
from actors.transport import Transport
from actors.wire import codec
from kv.cluster import Member
from kv.version import VERSION
from raft.state import ConfState
from tests.actors.boards import context, make_board
from tests.storage.database_driver import Filled, filled
from tests.transport.peer_world import free_ports, url
from transport.control import ControlClient
from transport.counters import Board, Cell
from transport.lanes import Lane
from transport.links import Links
from transport.peer_wire import Reason, pack_version

CLUSTER: Final = 0xC1
PATIENCE_SECONDS: Final = 10.0


class Neighbour:
    """What a raft node, snapshotter or lessor is to the transport."""

    def __init__(self, folder: Path, board: Board, name: str) -> None:
        self.got: list[Any] = []
        self.links = Links(
            board=board,
            name=name,
            incarnation=1,
            run_dir=folder,
            neighbours=["transport"],
            codec=codec,
            have=lambda sender: 0,
            welcome=lambda receiver, have: [],
            clock=time.monotonic,
        )
        self.links.start()

    def turn(self) -> None:
        self.links.tick(time.monotonic())
        while self.links.socket.poll(1):
            received = self.links.accept(self.links.socket.recv())
            if received is not None:
                self.got.append(received[1])

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.got if type(message) is kind]


class Desk:
    """One member: its board, its database, its transport on a thread, and who talks to it."""

    def __init__(self, folder: Path, member_id: int, port: int, *, enable_faults: bool) -> None:
        folder.mkdir()
        self.folder = folder
        self.member_id = member_id
        self.board = make_board(folder)
        self.database: Filled | None = None
        self.neighbours = {
            name: Neighbour(folder, self.board, name)
            for name in ("raft-node", "snapshotter", "lessor")
        }
        config = {
            "heartbeat_interval_ms": 50,
            "election_timeout_ms": 500,
            "listen_peer_urls": [url(port)],
            "max_request_bytes": 1 << 20,
            "enable_faults": enable_faults,
        }
        made = context(folder, "transport", config)
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(made,))
        self._thread.start()
        self.control = ControlClient(folder / "transport.ctl")

    def _run(self, made: Any) -> None:
        try:
            Transport.start(made)
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            self.failure = error

    def know(self, members: list[Member]) -> None:
        """Let the member be told who it is, and apply its configuration."""
        for word, value in (
            (RaftMetric.MEMBER_ID, self.member_id),
            (RaftMetric.CLUSTER_ID, CLUSTER),
        ):
            self.board.set("raft-node", Cell.METRICS + word, value)
        (self.folder / "member").mkdir()
        self.database = filled(self.folder / "member")
        for member in members:
            self.change("add", member)

    def change(self, kind: Any, member: Member) -> int:
        """Apply a change of the members; return its index."""
        assert self.database is not None
        machine, store = self.database.machine, self.database.store
        index = machine.applied_index + 1
        store.begin()
        machine.apply_conf_change(index, 1, ConfState(voters=(1, 2)), (kind, member))
        machine.flush()
        store.commit()
        return index

    def send(self, name: str, message: object) -> None:
        assert self.neighbours[name].links.send("transport", message)

    def turn(self) -> None:
        assert self.failure is None, self.failure
        for neighbour in self.neighbours.values():
            neighbour.turn()

    def word(self, word: int) -> int:
        return self.board.get("transport", Cell.METRICS + word)

    def stop(self) -> None:
        self.control.ask("stop", PATIENCE_SECONDS)
        self._thread.join()
        self.control.close()
        for neighbour in self.neighbours.values():
            neighbour.links.close()
        if self.database is not None:
            self.database.close()


Pair = tuple[Desk, Desk]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "UNHEALTHY_SECONDS", 0.2)


@pytest.fixture
def members() -> list[Member]:
    """Two members on free ports."""
    return [
        Member(number, f"m{number}", (url(port),))
        for number, port in enumerate(free_ports(2), start=1)
    ]


@pytest.fixture
def pair(members: list[Member]) -> Iterator[Pair]:
    """Both, not yet knowing who they are. Only the first may be hurt on purpose."""
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as folder:
        desks = [
            Desk(
                Path(folder, member.name),
                member.id,
                int(member.peer_urls[0].rpartition(":")[2]),
                enable_faults=member.id == 1,
            )
            for member in members
        ]
        try:
            yield desks[0], desks[1]
        finally:
            for desk in desks:
                desk.stop()


def run(pair: Pair, until: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not until():
        assert time.monotonic() < deadline, "it never happened"
        for desk in pair:
            desk.turn()


def connect(pair: Pair, members: list[Member]) -> None:
    for desk in pair:
        desk.know(members)
    run(pair, lambda: all(desk.word(TransportMetric.ACTIVE_PEERS) == 1 for desk in pair))
    run(
        pair,
        lambda: all(
            neighbour.links.is_open("transport")
            for desk in pair
            for neighbour in desk.neighbours.values()
        ),
    )


def payloads(desk: Desk, name: str) -> list[tuple[int, int, bytes]]:
    return [
        row
        for message in desk.neighbours[name].of(PeerReceived)
        for row in zip(message.senders, message.lanes, message.payloads, strict=True)
    ]


def test_each_lane_goes_to_its_actor_and_says_who_sent_it(
    pair: Pair, members: list[Member]
) -> None:
    connect(pair, members)
    lanes = [Lane.CONTROL, Lane.APPEND, Lane.SNAPSHOT, Lane.LEASE]

    pair[0].send("raft-node", PeerMessages([2] * 4, list(lanes), [b"c", b"a", b"s", b"l"]))
    run(pair, lambda: len(payloads(pair[1], "raft-node")) == 2 and payloads(pair[1], "lessor"))
    run(pair, lambda: payloads(pair[1], "snapshotter"))

    assert sorted(payloads(pair[1], "raft-node")) == [(1, 0, b"c"), (1, 1, b"a")]
    assert payloads(pair[1], "snapshotter") == [(1, 2, b"s")]
    assert payloads(pair[1], "lessor") == [(1, 3, b"l")]


def test_the_board_tells_who_is_active_since_when_and_the_lowest_version(
    pair: Pair, members: list[Member]
) -> None:
    connect(pair, members)
    first = pair[0]
    run(pair, lambda: first.word(TransportMetric.LOWEST_VERSION))

    assert first.word(TransportMetric.LONGEST_CONNECTED) == 2
    assert first.word(TransportMetric.LOWEST_VERSION) == pack_version(VERSION)
    assert first.word(TransportMetric.SENT_BYTES) > 0
    assert first.word(TransportMetric.PEERS + PeerMetric.ID) == 2
    assert first.word(TransportMetric.PEERS + PeerMetric.ACTIVE_SINCE_NS) > 0
    assert first.control.ask("peers", PATIENCE_SECONDS)["peers"][0]["name"] == "m2"


def test_before_it_knows_who_it_is_it_counts_what_it_drops(
    pair: Pair, members: list[Member]
) -> None:
    first = pair[0]
    raft_node = first.neighbours["raft-node"]
    run(pair, lambda: raft_node.links.is_open("transport"))

    first.send("raft-node", PeerMessages([2], [Lane.CONTROL], [b"early"]))

    run(pair, lambda: first.word(TransportMetric.DROPPED) == 1)


def test_the_raft_node_is_told_of_a_peer_that_has_gone_and_of_what_was_dropped(
    pair: Pair, members: list[Member]
) -> None:
    connect(pair, members)
    first, second = pair
    second.control.ask("stop", PATIENCE_SECONDS)

    told = first.neighbours["raft-node"]
    run(pair, lambda: any(message.lost == [2] for message in told.of(PeerLinks)))
    run(pair, lambda: any(message.unreachable == [2] for message in told.of(PeerLinks)))
    run(pair, lambda: first.word(TransportMetric.ACTIVE_PEERS) == 0)

    assert sum(message.lost == [2] for message in told.of(PeerLinks)) == 1


def test_a_member_is_cast_out_once_the_database_says_so(pair: Pair, members: list[Member]) -> None:
    connect(pair, members)
    first, second = pair

    first.send("raft-node", PeersChanged(first.change("remove", members[1])))
    run(pair, lambda: first.word(TransportMetric.PEERS + PeerMetric.ID) == 0)
    second.send("raft-node", PeerMessages([1], [Lane.CONTROL], [b"elect me"]))

    run(pair, lambda: first.word(TransportMetric.REJECTED + Reason.SENDER))
    assert payloads(first, "raft-node") == []


def test_links_are_cut_and_mended_by_request_where_faults_are_enabled(
    pair: Pair, members: list[Member]
) -> None:
    connect(pair, members)
    first, second = pair

    refused = second.control.ask("cut", PATIENCE_SECONDS)
    cut = first.control.ask("cut", PATIENCE_SECONDS, peer="m2", direction="out")
    run(pair, lambda: second.word(TransportMetric.ACTIVE_PEERS) == 0)
    mended = first.control.ask("mend", PATIENCE_SECONDS)
    run(pair, lambda: second.word(TransportMetric.ACTIVE_PEERS) == 1)

    assert "--enable-faults" in refused["error"]
    assert cut == mended == {"peers": ["2"]}
    assert "no peer" in first.control.ask("cut", PATIENCE_SECONDS, peer="m7")["error"]


def test_a_cut_ends_by_itself_and_none_is_longer_than_an_hour(
    pair: Pair, members: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.faults.FOR_SECONDS", 0.6)
    connect(pair, members)
    first, second = pair

    first.control.ask("cut", PATIENCE_SECONDS)
    run(pair, lambda: second.word(TransportMetric.ACTIVE_PEERS) == 0)
    run(pair, lambda: second.word(TransportMetric.ACTIVE_PEERS) == 1)

    for seconds in (0, -1, 4000):
        order: dict[str, Any] = {"for": seconds}
        answer = first.control.ask("cut", PATIENCE_SECONDS, **order)
        assert f"not {seconds} s" in answer["error"]
    assert "ratio must be" in first.control.ask("drop", PATIENCE_SECONDS, ratio=-1)["error"]


@pytest.mark.usefixtures("impatient")
def test_peers_that_do_not_answer_are_named_now_and_then(
    pair: Pair, members: list[Member], capfd: pytest.CaptureFixture[str]
) -> None:
    text = ""
    pair[0].know(members)  # the other one does not know anybody
    deadline = time.monotonic() + PATIENCE_SECONDS
    while text.count("prober detected unhealthy status") < 2:
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
        text += capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines() if "prober" in line]

    assert lines[0]["remote-peer-id"] == "2"
    assert f"127.0.0.1:{members[1].peer_urls[0].rpartition(':')[2]}" in lines[0]["error"]
