"""From a configuration and what was taken from the machine to a running root."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from actors.metrics import GatewayMetric, RaftMetric
from control.fault import KEY_FILE
from control.observe import BOARD_FILE, INFO_FILE
from kv.version import VERSION
from storage.files import FAULT_VARIABLE
from supervisor.config import Config
from supervisor.faults import DISK_FILE
from supervisor.go_syntax import SECOND, format_duration
from supervisor.gofail import Gofail
from supervisor.listen import BoundSocket
from supervisor.logs import LogSink
from supervisor.process import become_subreaper
from supervisor.root import RootActor, Surroundings
from supervisor.spec import ChildSpec
from supervisor.tree import MESSAGE_NAMES, children
from supervisor.urls import Url
from transport.counters import Board, Cell


def serve(
    config: Config,
    sink: LogSink,
    lock_fd: int,
    bound: Mapping[str, list[BoundSocket]],
    run_dir: Path,
    *,
    initialized: bool,
) -> int:
    """Be root until the member has stopped; return the exit code."""
    specs = children(config.gateways, config.standby_gateways)
    board = Board(run_dir / BOARD_FILE, create=["root", *(spec.name for spec in specs)])
    become_subreaper()
    log_read_fd, log_write_fd = os.pipe()
    os.set_blocking(log_write_fd, False)
    data_dir = Path(config.data_dir).absolute()
    write_info(
        run_dir,
        specs,
        name=config.name,
        data_dir=data_dir,
        urls={
            purpose: [url for entry in entries for url in served_urls(entry)]
            for purpose, entries in bound.items()
        },
    )
    sink.log("info", "starting an etcd server", **summary(config, initialized), run_dir=run_dir)
    around = Surroundings(
        run_dir=run_dir,
        data_dir=data_dir,
        member_name=config.name,
        config=config.to_dict(),
        sockets={
            purpose: [entry.socket.fileno() for entry in entries]
            for purpose, entries in bound.items()
        },
        lock_fd=lock_fd,
        log_read_fd=log_read_fd,
        log_write_fd=log_write_fd,
        stuck_detection=config.stuck_detection,
        notify_socket=os.environ.get("NOTIFY_SOCKET", ""),
    )
    if config.enable_faults:
        os.environ.setdefault(FAULT_VARIABLE, str(run_dir / DISK_FILE))
        make_key(run_dir)
    gofail = Gofail(run_dir, os.environ, sink, enabled=config.enable_faults)
    root = RootActor(specs, around, board, sink)
    try:
        root.serve()
    finally:
        gofail.close()
    if root.failure is not None:
        raise root.failure
    return root.exit_code


def make_key(run_dir: Path) -> None:
    """Write what proves to the HTTP side that somebody owns the run directory (control.fault)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(run_dir / KEY_FILE, flags, 0o600)
    try:
        os.write(descriptor, secrets.token_urlsafe(24).encode())
    finally:
        os.close(descriptor)


def served_urls(entry: BoundSocket) -> list[str]:
    """Return the URLs of a socket, with the port it really has."""
    if entry.urls[0].is_unix:
        path = Path(entry.address).absolute()
        return [f"{url.scheme}://{path}" for url in entry.urls]
    return [f"{url.scheme}://{entry.address}" for url in entry.urls]


RAFT_WORDS: Final = {
    "member": RaftMetric.MEMBER_ID,
    "leader": RaftMetric.LEADER,
    "alone": RaftMetric.SOLE_VOTER,
    "sync_since_ns": RaftMetric.SYNC_SINCE_NS,
    "committed": RaftMetric.COMMITTED_INDEX,
}
"""What `troupectl explain` wants to know of the raft node."""


def write_info(
    run_dir: Path,
    specs: Iterable[ChildSpec],
    *,
    name: str,
    data_dir: Path,
    urls: Mapping[str, list[str]],
) -> None:
    """Write what troupectl wants to know even when root does not answer."""
    specs = list(specs)
    info = {
        "name": name,
        "data_dir": str(data_dir),
        "pid": os.getpid(),
        "client_urls": urls["client"],
        "http_urls": urls.get("http", urls["client"]),
        "metrics_urls": urls.get("metrics", []),
        "tags": MESSAGE_NAMES,
        "raft": {name: Cell.METRICS + word for name, word in RAFT_WORDS.items()},
        "expired": {
            spec.name: Cell.METRICS + GatewayMetric.EXPIRED
            for spec in specs
            if spec.name.startswith("gateway-")
        },
        "children": [
            {
                "name": spec.name,
                "restart": spec.restart,
                "allowed": spec.restarts,
                "period": spec.period,
                "reason": spec.reason,
            }
            for spec in specs
        ],
    }
    (run_dir / INFO_FILE).write_text(json.dumps(info))


def summary(config: Config, initialized: bool) -> dict[str, Any]:
    """Return the fields of `starting an etcd server`, under etcd's names."""
    heartbeat_ms, election_ms = config.heartbeat_interval_ms, config.election_timeout_ms
    cpus = os.cpu_count()
    return {
        "etcd-version": VERSION,
        "python-version": platform.python_version(),
        "go-os": platform.system().lower(),
        "go-arch": platform.machine(),
        "max-cpu-set": len(os.sched_getaffinity(0)),
        "max-cpu-available": cpus,
        "gateways": config.gateways,
        "standby-gateways": config.standby_gateways,
        "member-initialized": initialized,
        "name": config.name,
        "data-dir": config.data_dir,
        "wal-dir": config.wal_dir,
        "member-dir": str(config.member_dir),
        "force-new-cluster": config.force_new_cluster,
        "heartbeat-interval": _milliseconds(heartbeat_ms),
        "election-timeout": _milliseconds(election_ms),
        "initial-election-tick-advance": config.initial_election_tick_advance,
        "snapshot-count": config.snapshot_count,
        "max-wals": config.max_wals,
        "snapshot-catchup-entries": config.snapshot_catchup_entries,
        "initial-advertise-peer-urls": _texts(config.initial_advertise_peer_urls),
        "listen-peer-urls": _texts(config.listen_peer_urls),
        "advertise-client-urls": _texts(config.advertise_client_urls),
        "listen-client-urls": _texts(config.listen_client_urls),
        "listen-metrics-urls": _texts(config.listen_metrics_urls),
        "cors": list(config.cors),
        "host-whitelist": list(config.host_whitelist),
        "initial-cluster": "" if initialized else config.initial_cluster_text,
        "initial-cluster-state": config.initial_cluster_state,
        "initial-cluster-token": config.initial_cluster_token,
        "quota-backend-bytes": config.quota_backend_bytes,
        "max-request-bytes": config.max_request_bytes,
        "max-concurrent-streams": config.max_concurrent_streams,
        "pre-vote": config.pre_vote,
        "auto-compaction-mode": config.auto_compaction_mode,
        "auto-compaction-retention": config.auto_compaction_retention,
    }


def _milliseconds(count: int) -> str:
    return format_duration(count * SECOND // 1000)


def _texts(urls: Iterable[Url]) -> list[str]:
    return [str(url) for url in urls]
