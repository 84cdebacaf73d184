"""What etcd refuses to start with, with its texts and in its order.

`validate` looks at the settings alone. `check_bootstrap` is for a member without data, which must
find itself among the members it founds or joins.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from supervisor.cipher_suites import openssl_ciphers
from supervisor.errors import ConfigError
from supervisor.go_syntax import SECOND, format_duration, quote
from supervisor.urls import (
    Url,
    check_bind_urls,
    check_host_urls,
    format_initial_cluster,
    parse_url,
    split_host_port,
)

if TYPE_CHECKING:
    from supervisor.config import Config

ELECTION_TIMEOUT_MS_MAX: Final = 50000
SAMPLING_RATE_MAX: Final = 1_000_000
GATEWAYS_MAX: Final = 64
TLS_VERSIONS: Final = ("", "TLS1.2", "TLS1.3")
LOG_LEVELS: Final = ("", "debug", "info", "warn", "error", "dpanic", "panic", "fatal")


def validate(config: Config) -> None:
    """Raise ConfigError for the first thing etcd would complain of."""
    _check_logging(config)
    _check_urls(config)
    _check_cluster(config)
    _check_timing(config)
    if config.listen_client_urls and not config.advertise_client_urls:
        raise ConfigError(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        )
    _check_features(config)
    _check_tls(config)
    _check_listeners(config)
    _check_peer_keys(config)
    if config.gateways > GATEWAYS_MAX:
        raise ConfigError(f"--gateways must be <={GATEWAYS_MAX} (set to {config.gateways})")


def _check_logging(config: Config) -> None:
    if config.logger == "capnslog":
        raise ConfigError("--logger=capnslog is removed in v3.5")
    if config.logger != "zap":
        raise ConfigError(f"unknown logger option {quote(config.logger)}")
    outputs = config.log_outputs
    if len(outputs) > 1 and "default" in outputs:
        raise ConfigError('multi logoutput for "default" is not supported yet')
    if config.enable_log_rotation:
        _check_log_rotation(config)
    if config.log_level.lower() not in LOG_LEVELS:
        # etcd panics here, which is exit code 2 too
        raise ConfigError.plain(f"unrecognized level: {quote(config.log_level)}\n", 2)
    if config.log_format not in ("", "json", "console"):
        raise ConfigError(
            f"unknown log format: {config.log_format}, supported values json, console"
        )
    if "systemd/journal" in outputs and len(outputs) > 1:
        shown = "[" + " ".join(map(quote, outputs)) + "]"
        raise ConfigError(
            f"running with systemd/journal but other '--log-outputs' values ({shown}) are "
            "configured with 'default'; override 'default' value with something else"
        )


def _check_log_rotation(config: Config) -> None:
    paths = [name for name in config.log_outputs if name not in ("default", "stderr", "stdout")]
    if len(paths) > 1 or (not paths and len(config.log_outputs) == 1):
        raise ConfigError(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined"
        )
    try:
        rotation = json.loads(config.log_rotation_config_json)
    except ValueError as error:
        raise ConfigError(f"improperly formatted log rotation config: {error}") from None
    if not isinstance(rotation, dict):
        raise ConfigError("invalid log rotation config: not an object")
    for key, wanted in (
        ("maxsize", int),
        ("maxage", int),
        ("maxbackups", int),
        ("localtime", bool),
        ("compress", bool),
    ):
        if type(rotation.get(key, wanted())) is not wanted:
            raise ConfigError(
                f"invalid log rotation config: {key} is not of type {wanted.__name__}"
            )


def _check_urls(config: Config) -> None:
    try:
        check_bind_urls(config.listen_peer_urls)
        check_bind_urls(config.listen_client_urls)
        check_bind_urls(config.listen_client_http_urls)
        check_bind_urls(config.listen_metrics_urls)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    peers, clients = config.initial_advertise_peer_urls, config.advertise_client_urls
    try:
        check_host_urls(peers)
    except ValueError as error:
        shown = quote(_join(peers))
        raise ConfigError(
            f'--initial-advertise-peer-urls {shown} must be "host:port" ({error})'
        ) from None
    try:
        check_host_urls(clients)
    except ValueError as error:
        shown = quote(_join(clients))
        raise ConfigError(
            f'--advertise-client-urls {shown} must be in the format "host:port", '
            f'"unix:/path/to/socket" or "unixs:/path/to/socket" ({error})'
        ) from None


def _join(urls: Sequence[Url]) -> str:
    return ",".join(url.text for url in urls)


def _check_cluster(config: Config) -> None:
    if config.initial_cluster_state not in ("new", "existing"):
        raise ConfigError(f"unexpected clusterState {quote(config.initial_cluster_state)}")
    endpoints = config.discovery_endpoints
    ways = (config.initial_cluster_text, config.discovery_srv, endpoints)
    if sum(map(bool, ways)) > 1:
        raise ConfigError(
            "multiple discovery or bootstrap flags are set. "
            'Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"'
        )
    if bool(config.discovery_token) != bool(endpoints):
        raise ConfigError("both --discovery-token and --discovery-endpoints must be set")
    if any(not endpoint.strip() for endpoint in endpoints):
        raise ConfigError("--discovery-endpoints must not contain empty endpoints")


def _check_timing(config: Config) -> None:
    heartbeat, election = config.heartbeat_interval_ms, config.election_timeout_ms
    if heartbeat == 0:
        raise ConfigError("--heartbeat-interval must be >0 (set to 0ms)")
    if election == 0:
        raise ConfigError("--election-timeout must be >0 (set to 0ms)")
    if 5 * heartbeat > election:
        raise ConfigError(
            f"--election-timeout[{election}ms] should be at least as 5 times as "
            f"--heartbeat-interval[{heartbeat}ms]"
        )
    if election > ELECTION_TIMEOUT_MS_MAX:
        raise ConfigError(
            f"--election-timeout[{election}ms] is too long, and should be set less than "
            f"{ELECTION_TIMEOUT_MS_MAX}ms"
        )


def _check_features(config: Config) -> None:
    mode = config.auto_compaction_mode
    if not mode:
        raise ConfigError("undefined auto-compaction-mode")
    if mode not in ("periodic", "revision"):
        raise ConfigError(f"unknown auto-compaction-mode {quote(mode)}")
    rate = config.distributed_tracing_sampling_rate
    if config.enable_distributed_tracing and not 0 <= rate <= SAMPLING_RATE_MAX:
        limit = "positive" if rate < 0 else f"less than {SAMPLING_RATE_MAX}"
        raise ConfigError(
            "distributed tracing configurition is not valid: "
            f"(tracing sampling rate must be {limit})"
        )
    gates = config.feature_gates
    if gates["LeaseCheckpointPersist"] and not gates["LeaseCheckpoint"]:
        raise ConfigError(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate "
            "LeaseCheckpoint"
        )
    interval = config.compact_hash_check_time_seconds
    if interval <= 0:
        shown = format_duration(round(interval * SECOND))
        raise ConfigError(f"--compact-hash-check-time must be >0 (set to {shown})")


def _check_tls(config: Config) -> None:
    low, high = config.tls_min_version, config.tls_max_version
    for version in (low, high):
        if version not in TLS_VERSIONS:
            raise ConfigError(
                f"unexpected TLS version {quote(version)} (must be one of: TLS1.2, TLS1.3)"
            )
    if high and TLS_VERSIONS.index(low) > TLS_VERSIONS.index(high):
        raise ConfigError(f"min version ({low}) is greater than max version ({high})")
    if low == "TLS1.3" and config.cipher_suites:
        raise ConfigError("cipher suites cannot be configured when only TLS1.3 is enabled")
    try:
        openssl_ciphers(config.cipher_suites)
    except ValueError as error:
        raise ConfigError.at_start(str(error)) from None


def _check_peer_keys(config: Config) -> None:
    if bool(config.peer_curve_secret_file) != bool(config.peer_curve_allow_dir):
        raise ConfigError(
            "both --peer-curve-secret-file and --peer-curve-allow-dir must be set, or none"
        )


def _check_listeners(config: Config) -> None:
    """Refuse secure URLs without a certificate, and one address for gRPC and for HTTP alone."""
    has_certificate = bool(config.cert_file or config.key_file or config.auto_tls)
    clients = config.listen_client_urls + config.listen_client_http_urls
    has_peer_certificate = bool(config.peer_cert_file or config.peer_key_file)
    for url in config.listen_peer_urls:
        if url.is_secure and not (has_peer_certificate or config.peer_auto_tls):
            raise ConfigError.at_start(
                f"cannot listen on TLS for {url.host}: KeyFile and CertFile are not presented"
            )
    for url in clients:
        if url.is_secure and not has_certificate:
            raise ConfigError.at_start(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url "
                f"{url} with HTTPS scheme"
            )
    taken = {url.address for url in config.listen_client_urls}
    for url in config.listen_client_http_urls:
        if url.address in taken:
            raise ConfigError.at_start(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the "
                f"same url {url}"
            )
    if any(url.is_secure for url in config.listen_metrics_urls) and not has_certificate:
        raise ConfigError.at_start(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
        )


def check_bootstrap(config: Config, resolve: Callable[[str], str] | None = None) -> None:
    """Check the initial cluster of a member that has no data yet (etcd VerifyBootstrap).

    `resolve` turns a host name into its address or ""; the system's resolver when None. Not called
    when the URLs are equal as texts. Raises ConfigError.
    """
    cluster = config.initial_cluster
    text = format_initial_cluster(dict(cluster))
    if not text and not config.discovery_endpoints:
        raise ConfigError.at_start("initial cluster unset and no discovery endpoints found")
    if config.discovery_endpoints or config.discovery_srv:
        return
    if config.name not in cluster:
        raise ConfigError.at_start(
            f"couldn't find local name {quote(config.name)} in the initial cluster configuration"
        )
    urls = [url for peer_urls in cluster.values() for url in peer_urls]
    if len(set(urls)) != len(urls):
        raise ConfigError.at_start(f"initial cluster {text} has duplicate url")
    if config.is_new_cluster:
        _check_advertised(config, cluster, resolve or _resolve)


def _check_advertised(
    config: Config,
    cluster: Mapping[str, tuple[str, ...]],
    resolve: Callable[[str], str],
) -> None:
    """Want the peer URLs of this member to be the same in both flags, by text or by address."""
    named = sorted(cluster[config.name])
    advertised = sorted(url.text for url in config.initial_advertise_peer_urls)
    if named == advertised or _same_addresses(named, advertised, resolve):
        return
    shown = ",".join(advertised)
    missing = [f"{config.name}={url}" for url in named if url not in advertised]
    if missing:
        raise ConfigError.at_start(
            f"--initial-cluster has {','.join(missing)} but missing from "
            f"--initial-advertise-peer-urls={shown} (URLs do not match after resolution)"
        )
    missing = [url for url in advertised if url not in named]
    own = format_initial_cluster({config.name: advertised})
    raise ConfigError.at_start(
        f"--initial-advertise-peer-urls has {','.join(missing)} but missing from "
        f"--initial-cluster={own}"
    )


def _same_addresses(one: Sequence[str], two: Sequence[str], resolve: Callable[[str], str]) -> bool:
    if len(one) != len(two):
        return False
    return _addresses(one, resolve) == _addresses(two, resolve)


def _addresses(texts: Sequence[str], resolve: Callable[[str], str]) -> set[tuple[str, str, str]]:
    found = set()
    for url in map(parse_url, texts):
        if url.is_unix:
            found.add((url.scheme, url.address, ""))
            continue
        host, port = split_host_port(url.host)
        found.add((url.scheme, host if host == "localhost" else resolve(host) or host, port))
    return found


def _resolve(host: str) -> str:
    """Return the first address of a host, IPv4 preferred, as Go does; "" if there is none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    return str(found[0][4][0])
