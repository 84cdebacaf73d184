"""Root with real processes: who is started, restarted, given up, stopped."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.wire import WIRE
from tests.supervisor.toy_actor import LINES, LONG_TAG
from tests.supervisor.toys import ToyMember, eventually, is_running
from transport.counters import Cell, State

CHILDREN: tuple[dict[str, Any], ...] = (
    {"name": "applier", "keeps_lock": True},
    {"name": "lessor"},
    {"name": "snapshotter", "nice": 10, "oom_score_adj": 300},
    {"name": "gateway-0", "listens": ("client",)},
)


@pytest.fixture(scope="module")
def troupe() -> Iterator[ToyMember]:
    """A member that tests look at and leave as it is."""
    with ToyMember(*CHILDREN) as member:
        member.until_up()
        yield member


def test_children_are_children_of_root_and_bear_their_names(troupe: ToyMember) -> None:
    told = troupe.told("gateway-0")
    title = Path(f"/proc/{told['pid']}/cmdline").read_bytes().rstrip(b"\0").decode()
    thread = Path(f"/proc/{told['pid']}/comm").read_text().strip()

    assert told["parent"] == told["root_pid"] == troupe.process.pid
    assert told["pid"] == troupe.pid("gateway-0")
    assert title == "trouped: gateway-0 (toys)"
    assert thread == "gateway-0"


def test_a_child_holds_only_the_descriptors_it_needs(troupe: ToyMember) -> None:
    gateway, applier = troupe.told("gateway-0"), troupe.told("applier")
    lock = str(troupe.run_dir / "lock")
    (socket,) = gateway["sockets"]["client"]
    listener = gateway["descriptors"][str(socket)]

    assert listener.startswith("socket:")
    assert gateway["lock_fd"] == -1
    assert lock not in gateway["descriptors"].values()
    assert applier["sockets"] == {}
    assert listener not in applier["descriptors"].values()
    assert applier["descriptors"][str(applier["lock_fd"])] == lock


def test_a_child_gets_its_priority_and_its_place_before_the_out_of_memory_killer(
    troupe: ToyMember,
) -> None:
    told, plain = troupe.told("snapshotter"), troupe.told("lessor")

    assert told["nice"] == plain["nice"] + 10
    assert told["oom_score_adj"] == "300"
    assert plain["oom_score_adj"] != "300"


def test_children_ignore_the_signals_of_the_terminal(troupe: ToyMember) -> None:
    pid = troupe.pid("lessor")

    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    loops = troupe.board.get("lessor", Cell.LOOPS)
    eventually(lambda: troupe.board.get("lessor", Cell.LOOPS) > loops + 2, "it goes on")

    assert troupe.pid("lessor") == pid


def test_a_killed_child_is_restarted_at_once_with_the_next_incarnation() -> None:
    with ToyMember("applier", "lessor") as member:
        member.until_up()
        other = member.pid("lessor")

        os.kill(member.pid("applier"), signal.SIGKILL)
        eventually(lambda: member.is_up("applier", 2), "it runs again")

        (line,) = [line for line in member.lines() if line["msg"] == "actor ended, restarting"]
        assert (line["actor"], line["reason"]) == ("applier", "killed by SIGKILL")
        assert line["delay_ms"] == 0
        assert member.told("applier")["incarnation"] == 2
        assert member.board.get("applier", Cell.RESTARTS) == 1
        assert member.board.get("applier", Cell.LAST_EXIT) == signal.SIGKILL
        assert member.pid("lessor") == other


def test_a_child_that_raises_leaves_its_traceback_in_the_log() -> None:
    with ToyMember("applier", behaviour={"applier": "crash-once"}) as member:
        eventually(lambda: member.is_up("applier", 2), "it runs again")
        eventually(lambda: "actor crashed" in member.messages(), "the traceback is logged")

        (crash,) = [line for line in member.lines() if line["msg"] == "actor crashed"]

        assert crash["caller"] == "applier"
        assert crash["error"] == "ToyError: as told"
        assert "in main" in crash["stack"]
        assert os.WEXITSTATUS(member.board.get("applier", Cell.LAST_EXIT)) == 70


@pytest.mark.parametrize("behaviour", ["crash", "return"])
def test_past_a_childs_intensity_the_member_ends_with_the_childs_exit_code(behaviour: str) -> None:
    sick = {"name": "raft-node", "exit_code": 81, "restarts": 2, "backoff_max": 0.01}
    with ToyMember(sick, "lessor", behaviour={"raft-node": behaviour}) as member:
        code = member.process.wait(15)

        assert code == 81
        said = "actor ended too often, stopping the member"
        (line,) = [line for line in member.lines() if line["msg"] == said]
        assert (line["actor"], line["ends"], line["allowed"]) == ("raft-node", 3, "2 in 30 s")
        assert line["reason"] == f"exit code {70 if behaviour == 'crash' else 0}"
        assert 0 < line["in_seconds"] < 15
        assert member.board.get("raft-node", Cell.RESTARTS) == 2
        assert member.board.get("lessor", Cell.STATE) == State.STOPPED


def test_an_exit_code_that_ends_the_member_at_once_is_not_said_to_be_too_often() -> None:
    sick = {"name": "raft-node", "final_exit_codes": [70]}
    with ToyMember(sick, behaviour={"raft-node": "crash"}) as member:
        code = member.process.wait(15)

        assert code == 70
        assert "actor ended too often, stopping the member" not in member.messages()
        said = "actor ended with what a restart cannot mend, stopping the member"
        (line,) = [line for line in member.lines() if line["msg"] == said]
        assert (line["actor"], line["reason"]) == ("raft-node", "exit code 70")


def test_the_zygotes_death_stops_nobody_and_the_next_one_starts_children() -> None:
    with ToyMember("applier", "lessor") as member:
        member.until_up()
        pids = {name: member.pid(name) for name in member.names}
        zygote = member.zygote()

        os.kill(zygote, signal.SIGKILL)
        eventually(lambda: member.zygote() != zygote, "there is another zygote")

        def ends() -> list[dict[str, Any]]:
            return [one for one in member.ask("events")["events"] if one["actor"] == "zygote"]

        eventually(lambda: len(ends()) == 1, "its end is told")
        (event,), told = ends(), member.ask("tree")["zygote"]
        assert (event["event"], event["pid"]) == ("exited", zygote)
        assert event["reason"] == "killed by SIGKILL"
        assert (told["used"], told["allowed"], told["restarts"]) == (1, 20, 1)
        unharmed = {name: member.pid(name) for name in member.names}
        os.kill(pids["applier"], signal.SIGKILL)
        eventually(lambda: member.is_up("applier", 2), "the new zygote starts a child")

        assert unharmed == pids
        assert member.told("applier")["parent"] == member.process.pid


def test_children_ordered_while_there_is_no_zygote_are_started_once() -> None:
    with ToyMember("applier", "lessor") as member:
        member.until_up()
        zygote, root = member.zygote(), member.process.pid

        os.kill(root, signal.SIGSTOP)
        os.kill(zygote, signal.SIGKILL)
        for name in member.names:
            os.kill(member.pid(name), signal.SIGKILL)
        os.kill(root, signal.SIGCONT)
        eventually(lambda: all(member.is_up(name, 2) for name in member.names), "all run again")

        starts = [event for event in member.ask("events")["events"] if event["event"] == "started"]
        assert sorted(event["incarnation"] for event in starts) == [1, 1, 2, 2]


def test_a_frozen_zygote_that_owes_a_child_is_replaced() -> None:
    with ToyMember("applier", "lessor", zygote_within=0.5) as member:
        member.until_up()
        lessor, zygote = member.pid("lessor"), member.zygote()

        os.kill(zygote, signal.SIGSTOP)
        os.kill(member.pid("applier"), signal.SIGKILL)
        eventually(lambda: member.is_up("applier", 2), "another zygote has made it")

        assert member.zygote() != zygote
        assert member.pid("lessor") == lessor
        starts = [event for event in member.ask("events")["events"] if event["event"] == "started"]
        assert [event["actor"] for event in starts].count("applier") == 2


def test_a_zygote_that_can_make_no_process_ends_and_says_so() -> None:
    script = (
        "import os, socket\n"
        "from supervisor import zygote\n"
        "forks = []\n"
        "def fork():\n"
        "    if forks: raise BlockingIOError('no more processes')\n"
        "    forks.append(1); return real()\n"
        "real, os.fork = os.fork, fork\n"
        "zygote.fork_twice(socket.socketpair()[0], {'name': 'applier', 'incarnation': 1})\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=False
    )

    assert (done.returncode, done.stderr) == (1, "no process for applier\n")


def test_sigkill_of_root_leaves_no_orphan() -> None:
    with ToyMember("applier", "gateway-0") as member:
        member.until_up()
        pids = [member.zygote(), *(member.pid(name) for name in member.names)]

        member.process.kill()
        member.process.wait()

        eventually(lambda: not any(map(is_running, pids)), "all are gone", 2.0)


def test_a_frozen_child_is_killed_and_replaced() -> None:
    with ToyMember({"name": "lessor", "stuck_after": 0.3}, "applier") as member:
        member.until_up()

        os.kill(member.pid("lessor"), signal.SIGSTOP)
        seconds = eventually(lambda: member.is_up("lessor", 2), "it is replaced")

        stuck = [line for line in member.lines() if line["msg"] == "actor is stuck, killing it"]
        assert seconds > 0.2
        assert [line["actor"] for line in stuck] == ["lessor"]
        assert member.board.get("applier", Cell.RESTARTS) == 0


def test_a_message_past_its_allowance_is_found_though_the_control_thread_answers() -> None:
    slow = {"name": "applier", "stuck_after": 30.0, "allowances": {str(LONG_TAG): 0.2}}
    with ToyMember(slow, behaviour={"applier": "long"}) as member:
        member.until_up()

        eventually(lambda: member.is_up("applier", 2), "it is replaced")

        (stuck,) = [line for line in member.lines() if line["msg"] == "actor is stuck, killing it"]
        assert stuck["doing"] == WIRE[LONG_TAG].__name__
        assert stuck["seconds"] > 0.2


def test_without_stuck_detection_a_stuck_child_is_left_alone() -> None:
    with ToyMember(
        {"name": "lessor", "stuck_after": 0.1},
        "applier",
        behaviour={"lessor": "stuck"},
        stuck_detection=False,
    ) as member:
        member.until_up()

        loops = member.board.get("root", Cell.LOOPS)
        eventually(lambda: member.board.get("root", Cell.LOOPS) > loops + 6, "root has looked")

        assert member.board.get("lessor", Cell.INCARNATION) == 1


def test_a_root_that_was_frozen_kills_nobody_when_it_goes_on() -> None:
    with ToyMember({"name": "lessor", "stuck_after": 0.3}) as member:
        member.until_up()
        pids = [member.process.pid, member.pid("lessor")]

        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.3)  # the machine sleeps
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        loops = member.board.get("root", Cell.LOOPS)
        eventually(lambda: member.board.get("root", Cell.LOOPS) > loops + 5, "root has looked")

        assert member.board.get("lessor", Cell.INCARNATION) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_gateways_first_and_the_transport_last_with_exit_code_0(
    number: signal.Signals,
) -> None:
    drains = {"name": "gateway-0", "drains_first": True}
    last = {"name": "transport", "stops_last": True}
    with ToyMember(last, "applier", "raft-node", drains) as member:
        member.until_up()
        pids = [member.pid(name) for name in member.names]

        seconds = member.stop(number)

        stopped = [line["caller"] for line in member.lines() if line["msg"] == "stopping as asked"]
        assert member.process.returncode == 0
        assert seconds < 1.5
        assert stopped[0] == "gateway-0"
        assert sorted(stopped[1:-1]) == ["applier", "raft-node"]
        assert stopped[-1] == "transport"
        assert not any(map(is_running, pids))


def test_children_that_do_not_stop_are_killed_within_the_time_a_stop_may_take() -> None:
    drains = {"name": "gateway-0", "drains_first": True, "shutdown": 0.9}
    behaviour = {"gateway-0": "deaf", "raft-node": "deaf"}
    with ToyMember("raft-node", drains, behaviour=behaviour) as member:
        member.until_up()

        seconds = member.stop()

        assert 0.9 < seconds < 1.6
        assert member.process.returncode == 0


def test_a_second_signal_ends_everything_at_once() -> None:
    with ToyMember("applier", behaviour={"applier": "deaf"}) as member:
        member.until_up()

        member.process.send_signal(signal.SIGTERM)
        eventually(
            lambda: member.board.get("applier", Cell.STATE) == State.STOPPING, "it is stopping"
        )
        seconds = member.stop()

        assert seconds < 1.0
        assert not is_running(member.pid("applier") or 1 << 22)


def test_a_second_signal_that_finds_a_child_gone_already_is_no_accident() -> None:
    with ToyMember("applier", "lessor", behaviour={"lessor": "deaf"}) as member:
        member.until_up()
        root = member.process.pid

        os.kill(root, signal.SIGSTOP)
        os.kill(member.pid("applier"), signal.SIGKILL)
        eventually(lambda: not is_running(member.pid("applier")), "it is gone, root has not seen")
        os.kill(root, signal.SIGTERM)
        os.kill(root, signal.SIGINT)
        os.kill(root, signal.SIGCONT)

        assert member.process.wait(15) == 0


def test_lines_of_all_children_arrive_whole() -> None:
    names = [f"chatty-{number}" for number in range(3)]
    with ToyMember(*names, behaviour=dict.fromkeys(names, "chatty")) as member:
        member.until_up()
        member.stop()

        lines = member.lines()  # raises if two were mixed
        chat: dict[str, list[int]] = {name: [] for name in names}
        dropped = 0
        for line in lines:
            if line["msg"] == "chat":
                chat[line["caller"]].append(line["number"])
            dropped += line.get("lines_dropped", 0)

        assert all(numbers == sorted(numbers) for numbers in chat.values())
        assert sum(map(len, chat.values())) + dropped == 3 * LINES


def test_a_frozen_root_holds_up_no_child_that_logs() -> None:
    quiet, chatty = {"name": "quiet"}, {"name": "chatty"}
    with ToyMember(quiet, chatty, behaviour={"chatty": "chatty"}) as member:
        eventually(lambda: member.is_up("quiet"), "it runs")
        eventually(lambda: member.pid("chatty") != 0, "it has been started")

        member.process.send_signal(signal.SIGSTOP)
        loops = member.board.get("chatty", Cell.LOOPS)
        eventually(lambda: member.board.get("chatty", Cell.LOOPS) > loops + 3, "it turns")
        member.process.send_signal(signal.SIGCONT)

        assert member.stop() < 1.5


def test_a_reader_of_stderr_that_does_not_read_does_not_stop_root() -> None:
    read, write = os.pipe()
    with ToyMember("chatty", "lessor", behaviour={"chatty": "chatty"}, stderr=write) as member:
        os.close(write)
        member.until_up()

        os.kill(member.pid("lessor"), signal.SIGKILL)
        eventually(lambda: member.is_up("lessor", 2), "root still restarts")

        assert member.stop() < 1.5
    os.close(read)


def test_root_tells_of_the_tree_its_events_and_its_figures() -> None:
    with ToyMember({"name": "applier", "restarts": 7, "period": 9.0}) as member:
        member.until_up()
        os.kill(member.pid("applier"), signal.SIGKILL)
        eventually(lambda: member.is_up("applier", 2), "it runs again")

        (child,) = member.ask("tree")["children"]
        events = member.ask("events")["events"]
        stats = member.ask("stats")

        assert child["state"] == "running"
        assert child["pid"] == member.pid("applier")
        assert (child["incarnation"], child["used"], child["allowed"]) == (2, 1, 7)
        assert child["last_exit"] == "killed by SIGKILL"
        assert [event["event"] for event in events] == ["started", "exited", "started"]
        assert stats["pid"] == member.process.pid
        assert stats["log_lines_dropped"] == 0


@pytest.mark.slow
def test_a_restart_from_the_zygote_takes_less_than_50_milliseconds() -> None:
    with ToyMember({"name": "applier", "restarts": 1000, "backoff_min": 0.0}) as member:
        member.until_up()
        took = []
        for incarnation in range(2, 32):
            began = time.monotonic()
            os.kill(member.pid("applier"), signal.SIGKILL)
            eventually(lambda n=incarnation: member.is_up("applier", n), "up again")  # type: ignore[misc]
            took.append(time.monotonic() - began)

        assert statistics.median(took) < 0.05, sorted(took)
