"""Bad flags, given to etcd itself and to us: the same words and the same exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from supervisor.config import parse
from supervisor.errors import ConfigError

ETCD = shutil.which("etcd")
TLS_PORT_0 = "TLS for 127.0.0.1:0"
LISTEN = [
    "--listen-client-urls=http://127.0.0.1:0",
    "--advertise-client-urls=http://127.0.0.1:0",
    "--listen-peer-urls=http://127.0.0.1:0",
]
CASES: list[tuple[list[str], dict[str, str]]] = [
    (["-x"], {}),
    (["---x"], {}),
    (["-=x"], {}),
    (["--pre-vote=maybe"], {}),
    (["--pre-vote=tRUE"], {}),
    (["--election-timeout=5x"], {}),
    (["--election-timeout=-5"], {}),
    (["--election-timeout=0x_z"], {}),
    (["--election-timeout=99999999999999999999"], {}),
    (["--election-timeout=0b11"], {}),
    (["--grpc-keepalive-timeout=5"], {}),
    (["--grpc-keepalive-timeout=1d"], {}),
    (["--quota-backend-bytes=1_000x"], {}),
    (["--listen-peer-urls=foo"], {}),
    (["--listen-peer-urls=foo:1"], {}),
    (["--listen-peer-urls=127.0.0.1:1"], {}),
    (["--listen-peer-urls=:1"], {}),
    (["--listen-peer-urls=http://127.0.0.1"], {}),
    (["--listen-peer-urls=http://127.0.0.1:1/x"], {}),
    (["--listen-peer-urls=http://127.0.0.1:x"], {}),
    (["--listen-peer-urls=http://a:1"], {}),
    (["--listen-peer-urls=http://:1"], {}),
    (["--listen-client-urls=http://127.0.0.1:1"], {}),
    (["--initial-advertise-peer-urls=http://:1"], {}),
    (["--cors=http://a"], {}),
    (["--initial-cluster-state=foo"], {}),
    (["--logger=foo"], {}),
    (["--logger=capnslog"], {}),
    (["--log-outputs=default,stderr"], {}),
    (["--auto-compaction-mode=x"], {}),
    (["--heartbeat-interval=0"], {}),
    (["--election-timeout=60000"], {}),
    (["--cipher-suites=foo", *LISTEN], {}),
    (["--auto-compaction-retention=5x", *LISTEN], {}),
    (["--initial-cluster=a", *LISTEN], {}),
    ([*LISTEN, "--listen-peer-urls=https://127.0.0.1:0"], {}),
    ([*LISTEN, "--listen-client-urls=https://127.0.0.1:0"], {}),
    (["--name=x"], {"ETCD_NAME": "y"}),
    ([], {"ETCD_ELECTION_TIMEOUT": "foo"}),
    ([], {"ETCD_LISTEN_PEER_URLS": "foo"}),
]


def ask_etcd(argv: list[str], environ: dict[str, str], folder: Path) -> tuple[int, str]:
    """Return exit code and complaint: the last error in its log, else its first line."""
    assert ETCD is not None
    command = [ETCD, f"--data-dir={folder / 'd'}", *argv]
    done = subprocess.run(
        command, env=environ, capture_output=True, timeout=20, check=False, text=True, cwd=folder
    )
    lines = done.stderr.splitlines()
    if done.returncode == 2:
        return 2, lines[0]
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    found = [
        entry.get("error") or entry["environment-variable"]
        for entry in logged
        if "error" in entry or entry["level"] == "fatal"
    ]
    return done.returncode, found[-1]


def ask_us(argv: list[str], environ: dict[str, str], folder: Path) -> tuple[int, str]:
    with pytest.raises(ConfigError) as caught:
        parse([f"--data-dir={folder / 'd'}", *argv], environ)
    fields = caught.value.fields
    shown = fields.get("environment-variable") or str(caught.value).partition("\n")[0]
    return caught.value.exit_code, str(shown)


@pytest.mark.slow
@pytest.mark.skipif(ETCD is None, reason="etcd is not installed")
@pytest.mark.parametrize(("argv", "environ"), CASES, ids=lambda value: " ".join(value) or "-")
def test_etcd_complains_of_the_same(
    argv: list[str], environ: dict[str, str], tmp_path: Path
) -> None:
    theirs = ask_etcd(argv, environ, tmp_path)

    code, text = ask_us(argv, environ, tmp_path)

    # etcd names the port it got where we name port 0
    assert (code, text) == (theirs[0], re.sub(r"TLS for 127\.0\.0\.1:\d+", TLS_PORT_0, theirs[1]))
