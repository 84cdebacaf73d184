"""Members are real processes: a real etcd where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import procfs
from benchmarks.members import Member, MemberError, Server, answers_reads, members
from benchmarks.unary import compact, count_keys, linearizable_range, put

SPINNING_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def etcd() -> Server:
    try:
        return Server.named("etcd")
    except MemberError:
        pytest.skip("no etcd here")


def test_the_time_and_memory_of_a_tree_hold_those_of_its_children() -> None:
    command = [sys.executable, "-c", SPINNING_CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        try:
            found = procfs.tree(parent.pid)
            while procfs.cpu_seconds(child) < 0.1:
                pass

            assert [stat.pid for stat in found] == [parent.pid, child]
            assert procfs.cpu_seconds(parent.pid) >= procfs.cpu_seconds(child) >= 0.1
            assert procfs.pss_bytes(parent.pid) > procfs.pss_bytes(child) > 100_000
        finally:
            os.kill(child, 9)
    assert procfs.tree(parent.pid) == []
    assert procfs.pss_bytes(parent.pid) == 0


def test_a_program_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    program.chmod(0o755)
    member = Member(Server("broken", program), tmp_path)

    with pytest.raises(MemberError, match=r"exit code 3[^$]*no such luck"):
        member.start()


def test_a_program_nobody_has_is_an_error() -> None:
    with pytest.raises(MemberError, match="no program nosuchserver"):
        Server.named("nosuchserver")


@pytest.mark.e2e
def test_a_member_keeps_its_keys_over_a_restart_and_a_kill(etcd: Server) -> None:
    with members([etcd]) as (member,):
        pid = member.pid
        revision = put(member.endpoint, 3)
        assert linearizable_range(member.endpoint, 3) == 1
        assert linearizable_range(member.endpoint, 4) == 0
        compact(member.endpoint, revision)
        metrics = member.metrics()
        member.stop()
        member.start(answers_reads)
        member.kill()
        seconds = member.start(answers_reads)

        assert 0 < seconds < 60
        assert count_keys(member.endpoint, 10) == 2  # the probe of the first start, and ours
        assert metrics["etcd_server_proposals_committed_total"] > 0
        assert metrics["etcd_disk_wal_fsync_duration_seconds_count"] > 0
        assert member.pid != pid
        assert member.cpu_seconds() > 0
        assert member.pss_bytes() > 1_000_000
        folder = member.folder

    assert not folder.exists()
    assert procfs.tree(pid) == []
