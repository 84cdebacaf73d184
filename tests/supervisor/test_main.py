"""The console command: exit codes, refusals, a member from start to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.health import health
from control.run_directory import find_run_directory
from supervisor.data_directory import lock_data_dir
from tests.client import Client
from tests.supervisor.toys import ROOT_OF_SOURCES, eventually

TROUPED = (sys.executable, "-m", "supervisor")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A private folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as folder:
        yield Path(folder)


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
    return {**kept, "PYTHONPATH": str(ROOT_OF_SOURCES)}


def trouped(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*TROUPED, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=False,
    )


def flags(data_dir: Path, run_dir: Path, url: str) -> list[str]:
    return [
        *("--name", "m1", "--data-dir", str(data_dir), "--run-dir", str(run_dir)),
        *("--listen-client-urls", url, "--advertise-client-urls", url),
    ]


def last_line(text: str) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(text.splitlines()[-1])
    return line


def test_help_and_version_are_printed_with_exit_code_0() -> None:
    usage, version = trouped("--help"), trouped("--version")

    assert (usage.returncode, version.returncode) == (0, 0)
    assert "--listen-client-urls" in usage.stdout
    assert version.stdout.startswith("etcd Version: 3.")


def test_a_flag_that_does_not_exist_is_exit_code_2() -> None:
    refused = trouped("--no-such-flag")

    assert refused.returncode == 2
    assert refused.stderr.startswith("flag provided but not defined: -no-such-flag")


def test_a_configuration_that_makes_no_sense_is_exit_code_1_with_a_log_line(tmp_path: Path) -> None:
    refused = trouped("--data-dir", str(tmp_path), "--election-timeout", "100")

    assert refused.returncode == 1
    assert "election-timeout" in last_line(refused.stderr)["error"]


def test_a_second_member_on_a_data_directory_is_refused(tmp_path: Path, run_dir: Path) -> None:
    descriptor = lock_data_dir(tmp_path / "d")

    refused = trouped(*flags(tmp_path / "d", run_dir, "http://127.0.0.1:0"))
    os.close(descriptor)

    line = last_line(refused.stderr)
    assert refused.returncode == 1
    assert (line["level"], line["error"]) == (
        "fatal",
        f'cannot use data dir "{tmp_path / "d"}": in use by another process',
    )


def test_etcds_own_data_is_refused_and_left_as_it_is(tmp_path: Path, run_dir: Path) -> None:
    member = tmp_path / "d" / "member"
    for path in member / "snap" / "db", member / "wal" / f"{0:016x}-{0:016x}.wal":
        path.parent.mkdir(parents=True)
        path.write_bytes(b"etcd's")
    before = sorted(tmp_path.rglob("*"))

    refused = trouped(*flags(tmp_path / "d", run_dir, "http://127.0.0.1:0"))

    line = last_line(refused.stderr)
    assert refused.returncode == 1
    assert line["level"] == "fatal"
    assert line["error"].startswith(f'data dir "{tmp_path / "d"}" is etcd\'s: ')
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_directory_that_is_a_file_is_refused_in_one_line(
    tmp_path: Path, run_dir: Path
) -> None:
    (tmp_path / "file").write_text("")

    refused = trouped(*flags(tmp_path / "file", run_dir, "http://127.0.0.1:0"))

    line = last_line(refused.stderr)
    assert refused.returncode == 1
    assert (line["level"], line["error"]) == (
        "fatal",
        f'cannot use data dir "{tmp_path / "file"}": {tmp_path / "file"}: not a directory',
    )
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_data_directory_that_cannot_be_read_is_refused(tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "d").mkdir(mode=0)

    refused = trouped(*flags(tmp_path / "d", run_dir, "http://127.0.0.1:0"))

    assert refused.returncode == 1
    assert last_line(refused.stderr)["error"].endswith("permission denied")


def test_a_port_in_use_is_refused_with_gos_text(tmp_path: Path, run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = trouped(*flags(tmp_path / "d", run_dir, f"http://127.0.0.1:{port}"))

    text = f"listen tcp 127.0.0.1:{port}: bind: address already in use"
    assert refused.returncode == 1
    assert last_line(refused.stderr)["error"] == text


def test_a_log_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    refused = trouped("--data-dir", str(tmp_path / "d"), "--log-outputs", str(tmp_path / "x" / "y"))

    assert refused.returncode == 1
    assert "couldn't open sink" in refused.stderr
    assert not (tmp_path / "d").exists()


def test_a_member_starts_says_where_it_listens_and_ends_with_0(
    tmp_path: Path, run_dir: Path
) -> None:
    data_dir, log = tmp_path / "d", tmp_path / "log"
    with log.open("wb") as file:
        member = subprocess.Popen(
            [*TROUPED, *flags(data_dir, run_dir, "http://127.0.0.1:0")],
            stderr=file,
            env=environment(),
        )
    try:
        eventually(lambda: "ready to serve client requests" in log.read_text(), "it is ready")
        folder = find_run_directory(str(data_dir), {})
        info = json.loads((folder / "info.json").read_text())
        found = health(info["client_urls"])
        member.send_signal(signal.SIGTERM)
        member.wait(10)
    finally:
        member.kill()
        member.wait()

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (began,) = [line for line in lines if line["msg"] == "starting an etcd server"]
    assert found["healthy"], found
    assert not info["client_urls"][0].endswith(":0")
    assert (began["name"], began["member-initialized"]) == ("m1", False)
    assert began["etcd-version"].startswith("3.")
    assert member.returncode == 0
    assert not folder.exists()
    assert lines[-1]["msg"] == "stopped"


def test_without_any_flag_a_working_member_starts_on_etcds_ports_in_default_etcd(
    tmp_path: Path,
) -> None:
    for port in (2379, 2380):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            pytest.skip(f"somebody else listens on port {port} of this machine")
    log = tmp_path / "log"
    with log.open("wb") as file:
        member = subprocess.Popen(TROUPED, stderr=file, env=environment(), cwd=tmp_path)
    try:
        eventually(lambda: "ready to serve client requests" in log.read_text(), "ready", 60)
        with Client("localhost:2379") as client:
            client.put(b"greeting", b"hello")
            kept = client.get(b"greeting")
        member.send_signal(signal.SIGTERM)
        member.wait(10)
    finally:
        member.kill()
        member.wait()

    assert kept == b"hello"
    assert list((tmp_path / "default.etcd" / "member" / "wal").glob("*.wal"))
    assert member.returncode == 0
