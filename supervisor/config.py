"""The configuration of a member: one frozen value, made once, sent to every actor.

`parse` reads the command line, then either the configuration file or the environment, checks
everything etcd checks before it opens a file, and fills in what follows from other settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from supervisor import cipher_suites
from supervisor.command_line import Settings, read_command_line, read_environment
from supervisor.config_file import read_config_file
from supervisor.derive import DEFAULT_CLUSTER, complete
from supervisor.errors import ConfigError, VersionRequested
from supervisor.feature_gates import resolve_gates
from supervisor.flags import FLAGS, SETTINGS, Kind
from supervisor.go_syntax import SECOND
from supervisor.urls import Url, parse_url
from supervisor.usage import version_text
from supervisor.validation import validate

SUBCOMMANDS: Final = ("gateway", "grpc-proxy")

Entries = tuple[tuple[str, dict[str, object]], ...]
"""Lines for the log: (msg, fields)."""


@dataclass(frozen=True)
class Config:
    """Every setting of a member. Durations are seconds (`_seconds`) but for two in ms (`_ms`).

    Values that mean "the default" in a flag are already replaced: `data_dir` is never empty,
    `quota_backend_bytes` is 2 GiB for 0 and -1 for no limit, counts and intervals are positive.
    """

    # Member
    name: str
    data_dir: str
    wal_dir: str
    snapshot_count: int
    snapshot_catchup_entries: int
    max_wals: int
    heartbeat_interval_ms: int
    election_timeout_ms: int
    initial_election_tick_advance: bool
    listen_peer_urls: tuple[Url, ...]
    listen_client_urls: tuple[Url, ...]
    listen_client_http_urls: tuple[Url, ...]
    listen_metrics_urls: tuple[Url, ...]
    quota_backend_bytes: int
    backend_bbolt_freelist_type: str
    backend_batch_interval_seconds: float
    backend_batch_limit: int
    max_txn_ops: int
    max_request_bytes: int
    max_concurrent_streams: int
    grpc_keepalive_min_time_seconds: float
    grpc_keepalive_interval_seconds: float
    grpc_keepalive_timeout_seconds: float
    socket_reuse_port: bool
    socket_reuse_address: bool
    raft_read_timeout_seconds: float
    raft_write_timeout_seconds: float
    memory_mlock: bool
    enable_grpc_gateway: bool
    feature_gates: Mapping[str, bool]  # every gate, resolved
    # Clustering
    initial_advertise_peer_urls: tuple[Url, ...]
    advertise_client_urls: tuple[Url, ...]
    initial_cluster: Mapping[str, tuple[str, ...]]  # name -> peer URLs; empty with discovery
    initial_cluster_state: str
    initial_cluster_token: str
    strict_reconfig_check: bool
    pre_vote: bool
    auto_compaction_mode: str
    auto_compaction_retention: str
    discovery_endpoints: tuple[str, ...]
    discovery_token: str
    discovery_dial_timeout_seconds: float
    discovery_request_timeout_seconds: float
    discovery_keepalive_time_seconds: float
    discovery_keepalive_timeout_seconds: float
    discovery_insecure_transport: bool
    discovery_insecure_skip_tls_verify: bool
    discovery_cert: str
    discovery_key: str
    discovery_cacert: str
    discovery_user: str
    discovery_password: str
    discovery_fallback: str
    discovery_srv: str
    discovery_srv_name: str
    # Security
    cert_file: str
    key_file: str
    client_cert_file: str
    client_key_file: str
    client_cert_auth: bool
    client_crl_file: str
    client_cert_allowed_hostname: tuple[str, ...]
    trusted_ca_file: str
    auto_tls: bool
    peer_cert_file: str
    peer_key_file: str
    peer_client_cert_file: str
    peer_client_key_file: str
    peer_client_cert_auth: bool
    peer_trusted_ca_file: str
    peer_auto_tls: bool
    peer_crl_file: str
    peer_cert_allowed_cn: tuple[str, ...]
    peer_cert_allowed_hostname: tuple[str, ...]
    peer_skip_client_san_verification: bool
    self_signed_cert_validity_years: int
    cipher_suites: tuple[str, ...]
    tls_min_version: str
    tls_max_version: str
    cors: tuple[str, ...]
    host_whitelist: tuple[str, ...]
    # Auth
    auth_token: str
    bcrypt_cost: int
    auth_token_ttl_seconds: int
    # Profiling and monitoring
    enable_pprof: bool
    metrics: str
    enable_distributed_tracing: bool
    distributed_tracing_address: str
    distributed_tracing_service_name: str
    distributed_tracing_instance_id: str
    distributed_tracing_sampling_rate: int
    # Logging
    logger: str
    log_outputs: tuple[str, ...]
    log_level: str
    log_format: str
    enable_log_rotation: bool
    log_rotation_config_json: str
    warning_unary_request_duration_seconds: float
    warning_apply_duration_seconds: float
    # Maintenance
    corrupt_check_time_seconds: float
    compact_hash_check_time_seconds: float
    compaction_batch_limit: int
    compaction_sleep_interval_seconds: float
    watch_progress_notify_interval_seconds: float
    downgrade_check_time_seconds: float
    bootstrap_defrag_threshold_megabytes: int
    max_learners: int
    # Unsafe
    force_new_cluster: bool
    unsafe_no_fsync: bool
    # Troupe
    run_dir: str
    gateways: int
    stuck_detection: bool
    unsafe_rejoin: bool
    enable_faults: bool
    peer_curve_secret_file: str
    peer_curve_allow_dir: str
    # Derived
    standby_gateways: int  # beside `gateways`; see actors/balance.py
    initial_cluster_text: str  # the flag as given, or as made from the name
    auto_compaction_seconds: float  # history to keep in mode periodic, 0: all
    auto_compaction_revisions: int  # history to keep in mode revision, 0: all
    config_file: str  # path of the file that was read, or ""
    explicit: tuple[str, ...]  # names of the flags that somebody set, sorted
    warnings: Entries
    notes: Entries  # for the log at level info

    @property
    def election_ticks(self) -> int:
        """Heartbeat intervals in an election timeout."""
        return self.election_timeout_ms // self.heartbeat_interval_ms

    @property
    def member_dir(self) -> Path:
        """Folder of everything this member keeps."""
        return Path(self.data_dir, "member")

    @property
    def wal_directory(self) -> Path:
        """Folder of the write-ahead log: `--wal-dir` or `<data-dir>/member/wal`."""
        return Path(self.wal_dir) if self.wal_dir else self.member_dir / "wal"

    @property
    def is_new_cluster(self) -> bool:
        """Whether an empty data directory founds a cluster instead of joining one."""
        return self.initial_cluster_state == "new"

    @property
    def openssl_ciphers(self) -> str:
        """Cipher list for `SSLContext.set_ciphers`; "" for the library's own."""
        return cipher_suites.openssl_ciphers(self.cipher_suites)

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of JSON types that `from_dict` reads back."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Config:
        """Return the Config that `to_dict` was called on."""
        values = dict(data)
        for flag in SETTINGS:
            if flag.kind is Kind.URLS:
                values[flag.field] = tuple(parse_url(text) for text in values[flag.field])
            elif flag.kind in (Kind.ORIGINS, Kind.STRINGS, Kind.UNIQUE_STRINGS):
                values[flag.field] = tuple(values[flag.field])
        cluster = values["initial_cluster"]
        values["initial_cluster"] = {name: tuple(urls) for name, urls in cluster.items()}
        values["explicit"] = tuple(values["explicit"])
        for entries in ("warnings", "notes"):
            values[entries] = tuple((msg, dict(found)) for msg, found in values[entries])
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Url):
        return value.text
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Return the configuration from the arguments behind the program's name.

    Raises ConfigError, HelpRequested or VersionRequested; nothing is printed or changed.
    """
    if argv and argv[0] in SUBCOMMANDS:
        raise ConfigError.plain(f'trouped: the sub-command "{argv[0]}" is not built yet\n', 1)
    settings = read_command_line(argv)
    if settings.arguments:
        raise ConfigError(f'"{settings.arguments[0]}" is not a valid flag')
    if settings.values["version"]:
        raise VersionRequested(version_text())
    path = settings.values["config-file"] or environ.get(FLAGS["config-file"].variable, "")
    if path:
        settings = _from_file(str(path))
    else:
        read_environment(settings, environ)
        _prepare_flags(settings)
    config = _raw_config(settings, str(path))
    validate(config)
    return complete(config)


def _from_file(path: str) -> Settings:
    settings = read_config_file(path)
    values = settings.values
    discovers = values["discovery-srv"] or values["discovery-endpoints"]
    if discovers and values["initial-cluster"] == DEFAULT_CLUSTER:
        values["initial-cluster"] = ""
    if not values["initial-cluster-state"]:
        values["initial-cluster-state"] = "new"
    if not values["self-signed-cert-validity"]:
        values["self-signed-cert-validity"] = 1
    if not values["log-outputs"]:
        values["log-outputs"] = ("default",)
    settings.notes.append(
        (
            "loaded server configuration, other configuration command line flags and "
            "environment variables will be ignored if provided",
            {"path": path},
        )
    )
    return settings


def _prepare_flags(settings: Settings) -> None:
    """Drop the defaults that another flag makes wrong, and raise what is too small."""
    values, explicit = settings.values, settings.explicit
    if values["discovery-fallback"] == "proxy":
        raise ConfigError(
            'v2 proxy is deprecated, and --discovery-fallback can\'t be configured as "proxy"'
        )
    if "listen-client-urls" in explicit and "advertise-client-urls" not in explicit:
        values["advertise-client-urls"] = ()
    discovery = ("discovery-srv", "discovery-srv-name", "discovery-endpoints")
    if "initial-cluster" not in explicit and any(values[name] for name in discovery):
        values["initial-cluster"] = ""
    for name in ("raft-read-timeout", "raft-write-timeout"):
        value = values[name]
        assert isinstance(value, int)
        if value < 5 * SECOND:
            values[name] = 5 * SECOND
            settings.notes.append((f"{name} increased to minimum value: 5s", {}))


def _raw_config(settings: Settings, path: str) -> Config:
    """Return the settings as they were given, with the derived fields still empty."""
    values: dict[str, Any] = {}
    for flag in SETTINGS:
        value = settings.values[flag.name]
        if flag.kind is Kind.DURATION:
            assert isinstance(value, int)
            values[flag.field] = value / SECOND
        elif flag.kind is Kind.GATES:
            assert isinstance(value, dict)
            values[flag.field] = resolve_gates(value)
        else:
            values[flag.field] = value
    values["initial_cluster_text"] = values["initial_cluster"]
    values["initial_cluster"] = {}
    return Config(
        **values,
        standby_gateways=0,
        auto_compaction_seconds=0.0,
        auto_compaction_revisions=0,
        config_file=path,
        explicit=tuple(sorted(settings.explicit)),
        warnings=tuple(settings.warnings),
        notes=tuple(settings.notes),
    )
