"""The applier alone, over a real database; what it sends is caught."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import applier as applier_module
from actors.applier import Applier
from actors.messages import Applied, AppliedTo, Apply, CommittedTo, CompactionScheduled, Prune
from actors.metrics import ApplierMetric, RaftMetric
from etcdpb.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
)
from kv.batch import Op, encode_batch
from storage.reader import Reader
from transport.context import ActorContext
from transport.counters import Board, Cell
from transport.links import Welcome
from transport.mailbox import Flush, Tick

SESSION = 9
NAMES = [
    *("root", "applier", "raft-node", "lessor", "compactor", "snapshotter"),
    *("gateway-0", "gateway-1"),
]


class Bench:
    """An applier on a bench: messages in by hand, messages out in a list."""

    def __init__(self, folder: Path, **config: float) -> None:
        (folder / "data" / "member").mkdir(parents=True)
        self.log = folder / "log"
        (folder / "run").mkdir()
        Board(folder / "run" / "board", create=NAMES)
        self.actor = Applier(
            ActorContext(
                name="applier",
                module="actors.applier",
                incarnation=1,
                run_dir=folder / "run",
                data_dir=folder / "data",
                member_name="m1",
                config=config,
                sockets={},
                lock_fd=-1,
                log_fd=os.open(self.log, os.O_WRONLY | os.O_CREAT),
                root_pid=0,
            )
        )
        self.sent: list[tuple[str, Any]] = []
        self.actor.send = self._catch  # type: ignore[method-assign]
        self.actor.on_start()
        self.actor.welcome("gateway-0", SESSION)
        self.reader = Reader(folder / "data" / "member" / "db")
        self.index = 0

    def _catch(self, receiver: str, message: object, items: int = 1) -> bool:
        self.sent.append((receiver, message))
        return True

    def apply(self, *batches: bytes, committed: int | None = None, first: int = 0) -> None:
        """Hand over entries after the last ones; committed unless said otherwise."""
        first = first or self.index + 1
        self.index = first + len(batches) - 1
        count = len(batches)
        committed = self.index if committed is None else committed
        self.actor.apply(Apply(committed, first, [1] * count, [0] * count, list(batches)))
        self.actor.flush(Flush())

    def answers(self) -> list[list[Any]]:
        """What gateways may tell their clients."""
        applied = [m for _, m in self.sent if isinstance(m, Applied)]
        sure = {m.index for m in applied if not m.ahead}
        good = [m for m in applied if not m.ahead or (m.index not in sure and self.is_good(m))]
        return [batch for m in good for batch in m.batches]

    def is_good(self, message: Applied) -> bool:
        return (
            self.word(ApplierMetric.APPLIED_INDEX) >= message.index
            and self.word(ApplierMetric.ROLLBACKS) == message.ahead
        )

    def ahead(self) -> list[Applied]:
        return [m for _, m in self.sent if isinstance(m, Applied) and m.ahead]

    def word(self, word: ApplierMetric) -> int:
        return self.actor.board.get("applier", Cell.METRICS + word)

    def told(self) -> list[str]:
        """Who was told of what was applied."""
        return [receiver for receiver, m in self.sent if isinstance(m, Applied)]

    def value(self, key: bytes) -> bytes | None:
        with self.reader.view() as view:
            response = RangeResponse.FromString(view.range(RangeRequest(key=key)))
        return response.kvs[0].value if response.kvs else None


def opening() -> bytes:
    import msgpack

    slot = msgpack.packb((1, 0))
    return encode_batch(SESSION, 0, 0, bytes([Op.OPEN_SESSION]), [slot])


def put(number: int, key: bytes, value: bytes) -> bytes:
    request = PutRequest(key=key, value=value).SerializeToString()
    return encode_batch(SESSION, 1, number, bytes([Op.PUT]), [request])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(applier_module, "WATCH_NS", 0)
    bench = Bench(tmp_path)
    bench.apply(opening())
    bench.sent.clear()
    yield bench
    bench.reader.close()
    bench.actor.links.close()


def test_committed_entries_are_answered_to_the_gateway_of_their_session(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"), put(2, b"k", b"w"))

    assert bench.answers() == [[SESSION, 1, [2]], [SESSION, 2, [3]]]
    assert bench.value(b"k") == b"w"

    bench.actor.tick(Tick(0.0))

    assert AppliedTo(3) in [m for _, m in bench.sent]


def test_what_takes_long_is_committed_entry_by_entry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who is killed in the middle, as stuck, had to begin again with all that waits."""
    monkeypatch.setattr(applier_module, "APPLY_SECONDS_MAX", 0.0)

    bench.apply(*(put(number, b"k", b"v") for number in range(1, 4)))

    told = [message for _, message in bench.sent if isinstance(message, Applied)]
    assert [len(message.batches) for message in told] == [1, 1, 1]
    assert bench.answers() == [[SESSION, 1, [2]], [SESSION, 2, [3]], [SESSION, 3, [4]]]


def test_slow_requests_say_that_they_go_on(bench: Bench) -> None:
    before = bench.actor.board.get("applier", Cell.LOOPS)
    delete = DeleteRangeRequest(key=b"a", range_end=b"z").SerializeToString()

    bench.apply(encode_batch(SESSION, 1, 1, bytes([Op.DELETE_RANGE] * 5), [delete] * 5))

    assert bench.actor.board.get("applier", Cell.LOOPS) - before >= 5


def test_large_responses_end_their_transaction(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one transaction holds in memory is bounded however many entries wait."""
    monkeypatch.setattr(applier_module, "LARGE_BYTES_MAX", 100_000)
    bench.apply(put(1, b"k", b"v" * 90_000))
    bench.sent.clear()
    again = PutRequest(key=b"k", value=b"w" * 90_000, prev_kv=True).SerializeToString()

    bench.apply(
        *(encode_batch(SESSION, 1, number, bytes([Op.PUT]), [again]) for number in range(2, 7))
    )

    told = [message for _, message in bench.sent if isinstance(message, Applied)]
    assert [len(message.batches) for message in told] == [2, 2, 1]
    assert [batch[1] for batch in bench.answers()] == [2, 3, 4, 5, 6]


def test_a_gateway_is_told_of_others_batches_only_while_it_has_clients(bench: Bench) -> None:
    bench.actor.welcome("gateway-1", SESSION + 1)
    bench.apply(put(1, b"k", b"v"))
    assert bench.told() == ["gateway-0"]
    bench.actor.board.set("gateway-1", Cell.CONNECTIONS, 1)
    bench.apply(put(2, b"k", b"w"))

    assert bench.told() == ["gateway-0", "gateway-0", "gateway-1"]
    assert bench.sent[-1][1] == Applied(3, 3, [])


def test_what_is_carried_out_ahead_is_neither_answered_nor_seen(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"), committed=1)

    assert bench.answers() == []
    assert bench.value(b"k") is None

    bench.actor.committed_to(CommittedTo(2))
    bench.actor.flush(Flush())

    assert bench.answers() == [[SESSION, 1, [2]]]
    assert bench.value(b"k") == b"v"


def test_results_of_few_requests_are_sent_before_the_commit(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"), committed=1)

    (told,) = bench.ahead()
    assert (told.index, told.revision, told.batches) == (2, 2, [[SESSION, 1, [2]]])
    assert not bench.is_good(told)

    bench.actor.committed_to(CommittedTo(2))
    bench.actor.flush(Flush())

    assert bench.is_good(told)
    assert bench.value(b"k") == b"v"


def test_what_the_board_told_of_in_time_is_not_told_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applier_module, "WATCH_NS", 10_000_000_000)
    bench.actor.board.set("raft-node", Cell.METRICS + RaftMetric.COMMITTED_INDEX, 2)

    bench.apply(put(1, b"k", b"v"), committed=1)

    assert bench.told() == ["gateway-0"]
    assert bench.is_good(bench.ahead()[0])
    assert bench.value(b"k") == b"v"


def test_what_was_looked_for_in_vain_is_told_again_when_it_is_committed(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"), committed=1)
    bench.actor.flush(Flush())

    bench.actor.committed_to(CommittedTo(2))
    bench.actor.flush(Flush())

    both = [m for _, m in bench.sent if isinstance(m, Applied)]
    assert [bool(m.ahead) for m in both] == [True, False]
    assert both[0].batches == both[1].batches


def test_results_of_many_requests_wait_for_the_commit(bench: Bench) -> None:
    bench.apply(*(put(number, b"k", b"v") for number in range(1, 4)))

    assert bench.ahead() == []
    assert len(bench.answers()) == 3


def test_what_was_told_ahead_of_a_rollback_is_void(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"lost"), committed=1)
    (void,) = bench.ahead()
    bench.actor.welcomed(Welcome("raft-node", 2, []))

    bench.apply(put(2, b"k", b"kept"), first=2)

    assert bench.word(ApplierMetric.APPLIED_INDEX) == void.index
    assert not bench.is_good(void)
    assert bench.answers() == [[SESSION, 2, [2]]]


def test_what_a_predecessor_told_ahead_is_void(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"), committed=1)
    (void,) = bench.ahead()

    bench.actor.on_start()

    assert bench.word(ApplierMetric.ROLLBACKS) > void.ahead


def test_a_commit_short_of_the_last_entry_commits_nothing(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"), put(2, b"k", b"w"), committed=1)

    bench.actor.committed_to(CommittedTo(2))
    bench.actor.flush(Flush())

    assert bench.answers() == []
    assert bench.value(b"k") is None


def test_a_new_stream_takes_back_what_was_carried_out_ahead(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"lost"), committed=1)

    bench.actor.welcomed(Welcome("raft-node", 2, []))
    has = bench.actor.have("raft-node")
    bench.apply(put(1, b"k", b"kept"), first=2)

    assert has == 1
    assert bench.answers() == [[SESSION, 1, [2]]]
    assert bench.value(b"k") == b"kept"


def test_have_counts_only_what_is_committed(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"), committed=1)

    assert bench.actor.have("raft-node") == 1


def test_entries_it_has_already_are_passed_over(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"))
    bench.sent.clear()

    bench.apply(put(1, b"k", b"v"), put(2, b"k", b"w"), first=2)

    assert bench.answers() == [[SESSION, 2, [3]]]
    assert bench.value(b"k") == b"w"


def test_a_gap_in_the_log_asks_for_the_stream_anew(bench: Bench) -> None:
    before = bench.actor.links._incoming["raft-node"].stream

    bench.apply(put(2, b"k", b"w"), first=3)

    assert bench.actor.links._incoming["raft-node"].stream != before
    assert bench.value(b"k") is None


def test_the_same_request_again_is_answered_and_not_carried_out_again(bench: Bench) -> None:
    bench.apply(put(1, b"k", b"v"))
    bench.apply(put(1, b"k", b"v"))

    assert bench.answers() == [[SESSION, 1, [2]], [SESSION, 1, [2]]]
    with bench.reader.view() as view:
        assert view.revision == 2


def test_a_compaction_is_told_to_the_compactor_and_pruned_in_slices(bench: Bench) -> None:
    bench.apply(*(put(n, b"k", b"%d" % n) for n in range(1, 11)))
    request = CompactionRequest(revision=10).SerializeToString()

    bench.apply(encode_batch(0, 0, 0, bytes([Op.COMPACT]), [request]))
    scheduled = [m for _, m in bench.sent if isinstance(m, CompactionScheduled)]
    bench.sent.clear()
    bench.actor.prune(Prune(100, 10))
    bench.actor.flush(Flush())

    assert [m.revision for m in scheduled] == [10]
    ((receiver, pruned),) = bench.sent
    assert receiver == "compactor"
    assert pruned.finished
    assert pruned.keys == 8


def test_a_slow_batch_is_counted_and_logged_in_etcds_words(tmp_path: Path) -> None:
    bench = Bench(tmp_path, warning_apply_duration_seconds=0.0)
    bench.apply(put(1, b"k", b"v"))
    quick = Bench(tmp_path / "quick", warning_apply_duration_seconds=60.0)
    quick.apply(put(1, b"k", b"v"))

    slow = Cell.METRICS + ApplierMetric.SLOW_APPLIES
    assert bench.actor.board.get("applier", slow) == 1
    assert '"msg":"apply request took too long"' in bench.log.read_text()
    assert quick.actor.board.get("applier", slow) == 0
    assert quick.log.read_text() == ""
