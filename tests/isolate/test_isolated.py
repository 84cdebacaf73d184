"""An actor's real process between scripted neighbours, driven from Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.json_form import from_json
from actors.messages import (
    Applied,
    AppliedTo,
    Apply,
    Checkpointed,
    Committed,
    CommittedTo,
    Propose,
    ReadIndex,
    ReadStates,
)
from actors.metrics import ApplierMetric
from control.__main__ import run
from control.observe import ObserveError
from kv.batch import decode_batch
from supervisor.data_directory import lock_data_dir
from supervisor.errors import StartError
from supervisor.isolated import ExpectationError, IsolatedActor, IsolatedActorError
from tests.supervisor.toys import eventually

pytestmark = pytest.mark.e2e
SESSION = 9


def batch(first_id: int, *requests: dict[str, object]) -> dict[str, object]:
    return {"batch": {"session": SESSION, "first_id": first_id, "requests": list(requests)}}


def entries(first_index: int, *batches: dict[str, object]) -> Apply:
    """Return committed entries of term 1."""
    count = len(batches)
    fields = {
        "committed": first_index + count - 1,
        "first_index": first_index,
        "terms": [1] * count,
        "types": [0] * count,
        "datas": list(batches),
    }
    made: Apply = from_json({"Apply": fields})
    return made


OPEN = batch(0, {"open_session": [1, 0]})
PUT = batch(1, {"put": {"key": "colour", "value": "blue"}})


@pytest.fixture
def applier(tmp_path: Path) -> Iterator[IsolatedActor]:
    with IsolatedActor("applier", tmp_path, have={"gateway-0": SESSION}) as made:
        yield made


def test_an_applier_answers_and_survives_a_kill_with_what_it_had(applier: IsolatedActor) -> None:
    applier.send("raft-node", entries(1, OPEN, PUT))
    answer = applier.expect(Applied, to="gateway-0", index=2)
    assert answer.batches == [[SESSION, 0, [1]], [SESSION, 1, [2]]]

    applier.kill()
    applier.start()

    assert applier.incarnation == 2
    assert applier.neighbours.welcomes["raft-node"] == [2]
    applier.send("raft-node", entries(3, PUT))  # the same request, proposed again
    again = applier.expect(Applied, to="gateway-0", index=3)
    assert again.batches == [[SESSION, 1, [2]]]
    assert again.revision == 2


def test_what_is_expected_and_does_not_come_is_told_with_what_came(
    applier: IsolatedActor,
) -> None:
    applier.send("raft-node", entries(1, OPEN))

    with pytest.raises(ExpectationError) as told:
        applier.expect(AppliedTo, timeout=0.3, index=lambda index: index > 100)

    assert "AppliedTo(index=<function" in str(told.value)
    assert 'to gateway-0: {"Applied": {"index": 1' in str(told.value)
    assert applier.expect(Applied, index=1)
    applier.expect_no(Applied, within=0.1)
    with pytest.raises(ExpectationError, match="has sent Committed"):
        applier.expect_no(Committed, within=0.3)


def test_a_message_it_cannot_take_crashes_it_and_the_trace_says_where(
    applier: IsolatedActor,
) -> None:
    applier.send("gateway-0", ReadIndex("gateway-0", 1))

    assert applier.wait_exit() == "exit code 70"

    assert "UnexpectedMessageError: Applier: ReadIndex" in applier.trace()
    with pytest.raises(ExpectationError, match="applier has ended: exit code 70"):
        applier.expect(Applied, timeout=0.2)


def test_troupectl_looks_at_an_isolated_actor_as_at_a_member(
    applier: IsolatedActor, capsys: pytest.CaptureFixture[str]
) -> None:
    applier.send("raft-node", entries(1, OPEN, PUT))
    applier.expect(Applied, index=2)

    assert run(["state", "applier", f"--data-dir={applier.data_dir}", "--json"]) == 0
    assert '"applied_index": 2' in capsys.readouterr().out
    eventually(lambda: applier.metric(ApplierMetric.APPLIED_INDEX) == 2, "the board says so")


def test_faults_reach_it_and_only_it(applier: IsolatedActor) -> None:
    applier.fault("slow", ms=300, **{"for": 30.0})
    applier.send("raft-node", entries(1, OPEN))
    applier.expect_no(Applied, within=0.15)
    applier.expect(Applied, index=1)

    applier.fault("kill")
    assert applier.wait_exit() == "signal 9"
    with pytest.raises(ObserveError, match="no actor 'applier:lessor'"):
        applier.fault("kill", to="lessor")


def test_a_full_disk_costs_it_the_ballast_and_it_says_so_until_there_is_space(
    applier: IsolatedActor,
) -> None:
    applier.fault("disk-full", **{"for": 30.0})

    applier.send("raft-node", entries(1, OPEN, PUT))
    applier.expect(Applied, index=2)

    assert not (applier.data_dir / "member" / "ballast").exists()
    eventually(lambda: applier.metric(ApplierMetric.NO_SPACE) == 1, "it misses space")
    applier.fault("heal")
    eventually(lambda: applier.metric(ApplierMetric.NO_SPACE) == 0, "it has space again")
    assert (applier.data_dir / "member" / "ballast").exists()


def test_a_dropped_answer_is_a_gap_that_the_gateway_closes_by_asking_anew(
    applier: IsolatedActor,
) -> None:
    applier.fault("drop", to="gateway-0", type="Applied", ratio=1.0, **{"for": 0.5})

    applier.send("raft-node", entries(1, OPEN))
    applier.expect_no(Applied, to="gateway-0", within=0.3)
    applier.fault("heal")
    applier.send("raft-node", entries(2, PUT))

    applier.hear(0.3)
    applier.send("raft-node", entries(3, PUT))
    assert applier.expect(Applied, to="gateway-0", index=3).batches == [[SESSION, 1, [2]]]


def test_a_raft_node_alone_leads_writes_and_hands_on_what_is_proposed(tmp_path: Path) -> None:
    with IsolatedActor("raft-node", tmp_path) as node:
        node.expect(Apply, first_index=1)
        node.set_metric("applier", ApplierMetric.APPLIED_INDEX, 1)
        node.send("applier", AppliedTo(1))
        leading = node.expect(Apply, first_index=2, timeout=10.0)  # the new leader's empty entry
        node.answers(Apply, lambda apply: AppliedTo(apply.first_index))
        data = from_json({"Propose": {"session": 9, "first_id": 1, "count": 1, "batch": PUT}})
        node.send("gateway-0", data)

        applied = node.expect(Apply, first_index=3)
        node.send("gateway-0", ReadIndex("gateway-0", 5))

        assert leading.datas == [b""]
        assert decode_batch(applied.datas[0]).first_id == 1
        assert node.expect(ReadStates, to="gateway-0", id=5).index >= 2


def test_a_copy_of_a_data_directory_is_used_never_the_directory(tmp_path: Path) -> None:
    with IsolatedActor("applier", tmp_path / "a", have={"gateway-0": SESSION}) as one:
        one.send("raft-node", entries(1, OPEN, PUT))
        one.expect(Applied, index=2)
        with pytest.raises(StartError, match="in use by another process"):
            IsolatedActor("applier", tmp_path / "b", source=one.data_dir)

    before = sorted(os.listdir(one.data_dir / "member" / "db"))
    with IsolatedActor("applier", tmp_path / "b", source=one.data_dir) as two:
        assert two.neighbours.welcomes["raft-node"] == [2]
        two.send("snapshotter", Checkpointed(0))
        two.send("raft-node", CommittedTo(2))
        assert two.state()["revision"] == 2
    assert sorted(os.listdir(one.data_dir / "member" / "db")) == before
    os.close(lock_data_dir(one.data_dir))


def test_what_is_no_actor_and_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsolatedActorError, match="no actor 'aplier'; there are transport"):
        IsolatedActor("aplier", tmp_path)
    with pytest.raises(StartError, match="no data directory"):
        IsolatedActor("applier", tmp_path, source=tmp_path / "nothing")


def test_a_proposal_of_the_compactor_can_be_expected_of_it(tmp_path: Path) -> None:
    flags = ["--auto-compaction-mode=revision", "--auto-compaction-retention=10"]
    with IsolatedActor("compactor", tmp_path, flags=flags) as compactor:
        compactor.expect_no(Propose, within=0.3)  # nobody has granted it anything
        assert compactor.state()["leader"] is False
