"""What follows from other settings: names, addresses, and the values that 0 and "" stand for."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from supervisor.errors import ConfigError
from supervisor.feature_gates import resolve_gates
from supervisor.go_syntax import HOUR, SECOND, duration_complaint, parse_duration
from supervisor.urls import Url, parse_initial_cluster, parse_url, split_host_port

if TYPE_CHECKING:
    from supervisor.config import Config, Entries

DEFAULT_NAME: Final = "default"
DEFAULT_PEER_URL: Final = "http://localhost:2380"
DEFAULT_CLIENT_URL: Final = "http://localhost:2379"
DEFAULT_CLUSTER: Final = f"{DEFAULT_NAME}={DEFAULT_PEER_URL}"
QUOTA_BYTES: Final = 2 * 1024 * 1024 * 1024
PEER_TLS_FLAGS: Final = frozenset(
    {
        "peer-cert-file",
        "peer-key-file",
        "peer-client-cert-file",
        "peer-client-key-file",
        "peer-client-cert-auth",
        "peer-trusted-ca-file",
        "peer-auto-tls",
        "peer-crl-file",
        "peer-cert-allowed-cn",
        "peer-cert-allowed-hostname",
        "peer-skip-client-san-verification",
    }
)

CLIENT_TLS_FLAGS: Final = frozenset(
    {
        "cert-file",
        "key-file",
        "client-cert-file",
        "client-key-file",
        "client-cert-auth",
        "client-crl-file",
        "client-cert-allowed-hostname",
        "trusted-ca-file",
        "auto-tls",
        "self-signed-cert-validity",
        "cipher-suites",
        "tls-min-version",
        "tls-max-version",
    }
)
DISCOVERY_FLAGS: Final = frozenset(
    {
        "discovery-token",
        "discovery-dial-timeout",
        "discovery-request-timeout",
        "discovery-keepalive-time",
        "discovery-keepalive-timeout",
        "discovery-insecure-transport",
        "discovery-insecure-skip-tls-verify",
        "discovery-cert",
        "discovery-key",
        "discovery-cacert",
        "discovery-user",
        "discovery-password",
        "discovery-fallback",
        "discovery-srv-name",
    }
)
WITHOUT_EFFECT: Final = (
    CLIENT_TLS_FLAGS
    | DISCOVERY_FLAGS
    | {
        "auth-token",
        "auth-token-ttl",
        "backend-batch-interval",
        "backend-batch-limit",
        "backend-bbolt-freelist-type",
        "bcrypt-cost",
        "bootstrap-defrag-threshold-megabytes",
        "compact-hash-check-time",
        "corrupt-check-time",
        "downgrade-check-time",
        "enable-grpc-gateway",
        "enable-log-rotation",
        "enable-pprof",
        "log-rotation-config-json",
        "max-learners",
        "memory-mlock",
        "metrics",
        "raft-read-timeout",
        "raft-write-timeout",
        "strict-reconfig-check",
        "unsafe-no-fsync",
    }
)
"""Flags that are read and checked, and change nothing: what they are about is not built, or is
otherwise here. Those of peers' TLS have their own line."""
GATES_WITH_EFFECT: Final = frozenset({"LeaseCheckpoint"})


def complete(config: Config) -> Config:
    """Fill in what follows from other settings; `config` is valid."""
    config = _with_default_host(config)
    text = config.initial_cluster_text
    if config.name != DEFAULT_NAME and text == DEFAULT_CLUSTER:
        name = config.name or DEFAULT_NAME
        text = ",".join(f"{name}={url}" for url in config.initial_advertise_peer_urls)
    try:
        cluster = parse_initial_cluster(text)
    except ValueError as error:
        raise ConfigError.at_start(f"error setting up initial cluster: {error}") from None
    seconds, revisions = _retention(config.auto_compaction_mode, config.auto_compaction_retention)
    warnings = config.warnings + _warnings(config)
    data_dir = config.data_dir
    if not data_dir:
        data_dir = f"{config.name}.etcd"
        warnings += (("'data-dir' was empty; using default", {"data-dir": data_dir}),)
    quota = config.quota_backend_bytes
    gateways, standbys = _gateways(config.gateways, len(os.sched_getaffinity(0)))
    return replace(
        config,
        data_dir=data_dir,
        initial_cluster=cluster,
        initial_cluster_text=text,
        auto_compaction_seconds=seconds,
        auto_compaction_revisions=revisions,
        quota_backend_bytes=quota if quota > 0 else QUOTA_BYTES if quota == 0 else -1,
        snapshot_count=config.snapshot_count or 10000,
        snapshot_catchup_entries=config.snapshot_catchup_entries or 5000,
        compaction_batch_limit=config.compaction_batch_limit or 1000,
        compaction_sleep_interval_seconds=config.compaction_sleep_interval_seconds or 0.01,
        watch_progress_notify_interval_seconds=max(
            0.1, config.watch_progress_notify_interval_seconds or 600.0
        ),
        warning_unary_request_duration_seconds=(
            config.warning_unary_request_duration_seconds or 0.3
        ),
        log_format=config.log_format or "json",
        gateways=gateways,
        standby_gateways=standbys,
        warnings=warnings,
    )


def _gateways(given: int, cores: int) -> tuple[int, int]:
    """Return how many gateways share the clients, and how many stand by.

    Who asks for a number gets so many. Else two or more stand in for each other, and a lone one
    gets a standby: pages and new clients are served while it is stuck.
    """
    gateways = given or max(1, cores - 1)
    return gateways, int(not given and gateways == 1)


def _retention(mode: str, text: str) -> tuple[float, int]:
    """Return (seconds, revisions) of history to keep; one of them is 0 (etcd's rules).

    A plain number is hours or revisions by the mode. A duration in mode revision counts its
    nanoseconds, as etcd does: senseless, but it starts.
    """
    text = text or "0"
    try:
        if re.fullmatch(r"\+?[0-9]+", text):
            number = int(text)
            nanoseconds = number * HOUR
        else:
            nanoseconds = number = parse_duration(text)
    except ValueError:
        raise ConfigError.at_start(
            f"error parsing CompactionRetention: {duration_complaint(text)}"
        ) from None
    return (nanoseconds / SECOND, 0) if mode == "periodic" else (0.0, number)


def _with_default_host(config: Config) -> Config:
    """Advertise the machine's own address where it listens on 0.0.0.0 and advertises localhost."""
    peers, clients = config.initial_advertise_peer_urls, config.advertise_client_urls
    found: list[str] = []

    def advertised(urls: tuple[Url, ...], default: str, listen: tuple[Url, ...]) -> tuple[Url, ...]:
        if [url.text for url in urls] != [default] or not listen or listen[0].is_unix:
            return urls
        host, port = split_host_port(listen[0].host)
        if host != "0.0.0.0" or not (own := _default_host()):
            return urls
        found.append(own)
        return (parse_url(f"{urls[0].scheme}://{own}:{port}"),)

    peers = advertised(peers, DEFAULT_PEER_URL, config.listen_peer_urls)
    clients = advertised(clients, DEFAULT_CLIENT_URL, config.listen_client_urls)
    if not found:
        return config
    fields: dict[str, object] = {"host": found[0]}
    note = ("detected default host for advertise", fields)
    return replace(
        config,
        initial_advertise_peer_urls=peers,
        advertise_client_urls=clients,
        notes=(*config.notes, note),
    )


def _default_host() -> str:
    """Return the address the default route leaves from, "" without one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: never a neighbour
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def _warnings(config: Config) -> Entries:
    """Return what etcd warns of although it starts."""
    found: list[tuple[str, dict[str, object]]] = []
    if not config.listen_client_http_urls:
        text = "Running http and grpc server on single port."
        found.append((f"{text} This is not recommended for production.", {}))
    gates = config.feature_gates
    if gates["LeaseCheckpoint"] and not gates["LeaseCheckpointPersist"]:
        text = "Detected that checkpointing is enabled without persistence."
        found.append((f"{text} Consider enabling feature gate LeaseCheckpointPersist", {}))
    if config.name == DEFAULT_NAME:
        text = (
            "it isn't recommended to use default name, please set a value for --name. Note that "
            "etcd might run into issue when multiple members have the same default name"
        )
        found.append((text, {"name": config.name}))
    without = sorted(name for name in config.explicit if name in WITHOUT_EFFECT)
    defaults = resolve_gates({})
    without += [
        f"feature-gates {name}"
        for name, value in sorted(config.feature_gates.items())
        if value != defaults[name] and name not in GATES_WITH_EFFECT
    ]
    if without:
        found.append(("these settings change nothing here", {"flags-without-effect": without}))
    found += _peer_warnings(config)
    return tuple(found)


def _peer_warnings(config: Config) -> list[tuple[str, dict[str, object]]]:
    """Say in one line each what protects peers, if etcd's flags ask, and that faults are open."""
    found: list[tuple[str, dict[str, object]]] = []
    ignored = sorted(name for name in config.explicit if name in PEER_TLS_FLAGS)
    secure = any(
        url.is_secure for url in config.listen_peer_urls + config.initial_advertise_peer_urls
    )
    if ignored or secure:
        protected = bool(config.peer_curve_secret_file)
        text = "peers don't speak TLS here: CURVE keys authenticate and encrypt"
        text += (
            " this member's links"
            if protected
            else (
                ", and without --peer-curve-secret-file and --peer-curve-allow-dir peer traffic is "
                "plaintext from anybody"
            )
        )
        fields: dict[str, object] = {"flags-without-effect": ignored, "peer-curve": protected}
        found.append((text, fields))
    if config.enable_faults:
        text = "--enable-faults lets troupectl break this member; never use it in production"
        found.append((text, {}))
    return found
