"""`troupectl isolate`: scripts, the prompt, replays of a tap, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.tap import Taps
from supervisor.data_directory import lock_data_dir
from tests.isolate.test_isolated import OPEN, PUT, SESSION, entries

pytestmark = pytest.mark.e2e
TROUPECTL = Path(sys.executable).parent / "troupectl"
APPLY = {
    "Apply": {
        "committed": 2,
        "first_index": 1,
        "terms": [1, 1],
        "types": [0, 0],
        "datas": [OPEN, PUT],
    }
}


def isolate(*arguments: str, said: str = "") -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; return its exit code, the objects it has printed, and its complaints."""
    ended = subprocess.run(
        [str(TROUPECTL), "isolate", *arguments],
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


def lines(*objects: object) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in objects)


def having(found: list[dict[str, Any]], key: str) -> list[Any]:
    return [one[key] for one in found if key in one]


def test_a_script_says_what_is_sent_and_what_must_come_back(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        "# a put, a kill in between, and what the next incarnation knows\n\n"
        + lines(
            {"have": {"gateway-0": SESSION}},
            APPLY,
            {"expect": {"Applied": {"index": 2}}, "to": "gateway-0"},
            {"kill": True},
            {"start": True},
            {"state": True},
        )
    )

    code, found, complaints = isolate("applier", f"--script={script}")

    assert code == 0, complaints
    (met,) = having(found, "met")
    assert met["Applied"]["batches"] == [[SESSION, 0, [1]], [SESSION, 1, [2]]]
    assert having(found, "exited") == ["signal 9"]
    assert having(found, "incarnation") == [1, 1, 2]
    assert having(found, "state")[0]["revision"] == 2


def test_an_expectation_that_is_not_met_is_exit_code_1_and_names_its_line(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(lines(APPLY, {"expect": {"Applied": {"index": 7}}, "seconds": 0.2}))

    code, _, complaints = isolate("applier", f"--script={script}")

    assert code == 1
    assert f"{script}:2: Applied(index=7)" in complaints


def test_at_the_prompt_a_slip_is_told_and_the_actor_lives_on() -> None:
    said = "no json\n" + lines(
        {"Prune": {"row": 1}},
        {"metrics": {"raft-node": {"TERMS": 1}}},
        {"metrics": {"raft-node": {"TERM": 1}}},
        {"fault": "freeze-it"},
        {"state": True},
        {"fault": "crash"},
        {"expect": "exit"},
    )

    code, found, complaints = isolate("applier", said=said)

    assert code == 0
    for complaint in ("not JSON", "Prune has no 'row'", "no metric 'TERMS'", "freeze-it"):
        assert complaint in complaints
    assert having(found, "state")[0]["applied_index"] == 0
    assert having(found, "exited") == ["exit code 70"]
    assert "InjectedFaultError: told to crash" in having(found, "trace")[0]


def test_what_a_tap_has_seen_can_be_replayed_into_another_actor(tmp_path: Path) -> None:
    class Hook:
        on_sent: Any = None

    taps = Taps(Hook(), 1)
    number = taps.start({"values": True})["tap"]
    taps.received("raft-node", entries(1, OPEN, PUT), 2, 5, 6, 100, 7)
    taps.sent("gateway-0", entries(1, OPEN), 1, 5, 6, 100)
    taps.received("raft-node", entries(3, PUT), 2, 5, 6, 1 << 20, 7)  # too big to be shown whole
    tapped = tmp_path / "tapped"
    tapped.write_text(lines(*taps.read({"tap": number})["messages"]))
    script = tmp_path / "script"
    script.write_text(lines({"state": True}))

    code, found, complaints = isolate("applier", f"--replay={tapped}", f"--script={script}")

    assert code == 0, complaints
    assert {"replayed": 1, "passed_over": 1} in found
    assert having(found, "state")[0]["revision"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["aplier"], 1, "no actor 'aplier'"),
        (["applier", "--data-dir=/nowhere/at/all"], 1, "no data directory"),
        (["applier", "--", "--heartbeat-interval=x"], 1, "invalid"),
        (["applier", "--script=/nowhere/at/all"], 1, "No such file"),
    ],
)
def test_what_cannot_be_isolated_is_told_in_a_line(
    arguments: list[str], code: int, complaint: str
) -> None:
    found, _, complaints = isolate(*arguments)

    assert found == code
    assert complaint in complaints
    assert "Traceback" not in complaints


def test_a_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    held = lock_data_dir(tmp_path)

    code, _, complaints = isolate("applier", f"--data-dir={tmp_path}")

    os.close(held)
    assert code == 1
    assert "in use by another process" in complaints
    assert sorted(os.listdir(tmp_path / "member")) == ["lock"]
