"""Every flag as data: etcd's 111, its 15 ignored legacy ones and trouped's own six.

A flag has a kind (how its value is read), a default, the key it has in the configuration file
(its own name unless said otherwise, "" for none) and the unit its value is in. The environment
variable of a flag is `ETCD_` and its name in upper case with underscores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from supervisor.feature_gates import parse_gates
from supervisor.go_syntax import (
    parse_bool,
    parse_duration,
    parse_int,
    parse_uint,
    quote,
)
from supervisor.urls import Url, parse_urls

Value = bool | int | str | tuple[str, ...] | tuple[Url, ...] | dict[str, bool]
"""What a flag holds. Durations are whole nanoseconds here (Config has seconds)."""


class Kind(Enum):
    """How the text of a value is read."""

    STRING = auto()
    CHOICE = auto()
    BOOL = auto()
    INT = auto()
    UINT = auto()
    UINT32 = auto()
    DURATION = auto()
    URLS = auto()  # sorted, without doubles
    ORIGINS = auto()  # as URLS, or "*": texts
    STRINGS = auto()  # in the order given
    UNIQUE_STRINGS = auto()  # sorted, without doubles
    GATES = auto()
    IGNORED = auto()


@dataclass(frozen=True)
class Flag:
    """One flag; `default` is the text of its default value."""

    name: str
    kind: Kind
    default: str
    usage: str
    key: str | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """Name of its environment variable."""
        return "ETCD_" + self.name.upper().replace("-", "_")

    @property
    def field(self) -> str:
        """Name of its field in Config: with the unit at the end."""
        unit = "seconds" if self.kind is Kind.DURATION else self.unit
        return self.name.replace("-", "_") + (f"_{unit}" if unit else "")

    @property
    def takes_no_argument(self) -> bool:
        """Whether the flag stands alone or carries its value behind "=" only."""
        return self.kind in (Kind.BOOL, Kind.IGNORED)

    def default_value(self) -> Value:
        """Return the value it has when nobody sets it."""
        if not self.default and self.kind in _EMPTY:
            return _EMPTY[self.kind]
        return _READERS[self.kind](self.default)

    def read(self, text: str, present: Value) -> Value:
        """Return the new value after `present` was set to `text`.

        Raises ValueError with the reason etcd prints behind "invalid value ...: ".
        """
        if self.kind is Kind.CHOICE and text not in self.choices:
            raise ValueError("invalid value")
        if self.kind is Kind.URLS and not text:
            return present  # as etcd's flag: an empty list leaves what was there
        if self.kind is Kind.GATES:
            assert isinstance(present, dict)
            return {**present, **parse_gates(text)}
        return _READERS[self.kind](text)


def _read_uint32(text: str) -> int:
    try:
        return parse_uint(text, 32)
    except ValueError as error:
        reason = "invalid syntax" if str(error) == "parse error" else str(error)
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: {reason}") from None


def _read_origins(text: str) -> tuple[str, ...]:
    return ("*",) if text == "*" else tuple(url.text for url in parse_urls(text.split(",")))


_READERS: Final[dict[Kind, Callable[[str], Value]]] = {
    Kind.STRING: str,
    Kind.CHOICE: str,
    Kind.BOOL: parse_bool,
    Kind.INT: parse_int,
    Kind.UINT: parse_uint,
    Kind.UINT32: _read_uint32,
    Kind.DURATION: parse_duration,
    Kind.URLS: lambda text: parse_urls(text.split(",")),
    Kind.ORIGINS: _read_origins,
    Kind.STRINGS: lambda text: tuple(text.split(",")),
    Kind.UNIQUE_STRINGS: lambda text: tuple(sorted(set(text.split(",")))),
    Kind.GATES: parse_gates,
    Kind.IGNORED: str,
}
_EMPTY: Final[dict[Kind, Value]] = {
    Kind.URLS: (),
    Kind.STRINGS: (),
    Kind.UNIQUE_STRINGS: (),
}

_S, _B, _I, _U, _D = Kind.STRING, Kind.BOOL, Kind.INT, Kind.UINT, Kind.DURATION
_PEER_URL, _CLIENT_URL = "http://localhost:2380", "http://localhost:2379"
_ROTATION = '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}'
_CLIENT, _PEER = "client-transport-security.", "peer-transport-security."
_DISCOVERY = "discovery-config.client."

SECTIONS: Final[dict[str, tuple[Flag, ...]]] = {
    "Member": (
        Flag("name", _S, "default", "Name of this member for people to read."),
        Flag("data-dir", _S, "", "Data directory; ${name}.etcd when empty."),
        Flag("wal-dir", _S, "", "Own directory for the write-ahead log."),
        Flag("snapshot-count", _U, "10000", "Committed entries between two snapshots."),
        Flag(
            "snapshot-catchup-entries",
            _U,
            "5000",
            "Entries kept behind a snapshot for slow followers.",
        ),
        Flag("max-wals", _U, "5", "Write-ahead log files to keep (0: all)."),
        Flag("heartbeat-interval", _U, "100", "Time between heartbeats, in ms.", unit="ms"),
        Flag("election-timeout", _U, "1000", "Time until an election, in ms.", unit="ms"),
        Flag(
            "initial-election-tick-advance",
            _B,
            "true",
            "Shorten the wait for the first election after a start.",
        ),
        Flag("listen-peer-urls", Kind.URLS, _PEER_URL, "URLs to listen on for peers."),
        Flag("listen-client-urls", Kind.URLS, _CLIENT_URL, "URLs to listen on for clients."),
        Flag(
            "listen-client-http-urls",
            Kind.URLS,
            "",
            "URLs for HTTP alone; HTTP then leaves --listen-client-urls.",
        ),
        Flag("listen-metrics-urls", Kind.URLS, "", "URLs that serve metrics and health alone."),
        Flag(
            "quota-backend-bytes",
            _I,
            "0",
            "Size of the database above which writes are refused (0: 2 GiB, below: no limit).",
        ),
        Flag("backend-bbolt-freelist-type", _S, "", "Accepted without effect."),
        Flag("backend-batch-interval", _D, "0s", "Accepted without effect."),
        Flag("backend-batch-limit", _I, "0", "Accepted without effect."),
        Flag("max-txn-ops", _U, "128", "Operations allowed in a transaction."),
        Flag("max-request-bytes", _U, "1572864", "Size of the largest request accepted."),
        Flag(
            "max-concurrent-streams",
            Kind.UINT32,
            "4294967295",
            "Streams a client may have open on a connection.",
        ),
        Flag("grpc-keepalive-min-time", _D, "5s", "Shortest time between a client's pings."),
        Flag("grpc-keepalive-interval", _D, "2h0m0s", "Time between pings to clients (0: none)."),
        Flag("grpc-keepalive-timeout", _D, "20s", "Wait for the answer to a ping (0: for ever)."),
        Flag(
            "socket-reuse-port",
            _B,
            "false",
            "Set SO_REUSEPORT on listening sockets.",
            "socket-options.reuse-port",
        ),
        Flag(
            "socket-reuse-address",
            _B,
            "false",
            "Set SO_REUSEADDR on listening sockets (it always is).",
            "socket-options.reuse-address",
        ),
        Flag("raft-read-timeout", _D, "5s", "Read timeout between peers, at least 5s.", ""),
        Flag("raft-write-timeout", _D, "5s", "Write timeout between peers, at least 5s.", ""),
        Flag("memory-mlock", _B, "false", "Keep memory from being swapped."),
        Flag("enable-grpc-gateway", _B, "true", "Serve the JSON gateway."),
        Flag("feature-gates", Kind.GATES, "", "Features to switch: Name=true,Name=false."),
    ),
    "Clustering": (
        Flag(
            "initial-advertise-peer-urls",
            Kind.URLS,
            _PEER_URL,
            "URLs under which the other members reach this one.",
        ),
        Flag(
            "advertise-client-urls",
            Kind.URLS,
            _CLIENT_URL,
            "URLs under which clients reach this member.",
        ),
        Flag("initial-cluster", _S, f"default={_PEER_URL}", "Founding members: name=url,name=url."),
        Flag(
            "initial-cluster-state",
            Kind.CHOICE,
            "new",
            "Found a cluster (new) or join one (existing); ignored at a restart.",
            choices=("existing", "new"),
        ),
        Flag("initial-cluster-token", _S, "etcd-cluster", "Keeps clusters of equal URLs apart."),
        Flag("strict-reconfig-check", _B, "true", "Refuse changes that would lose the quorum."),
        Flag("pre-vote", _B, "true", "Ask before an election whether it could be won."),
        Flag("auto-compaction-mode", _S, "periodic", "Unit of the retention: periodic|revision."),
        Flag(
            "auto-compaction-retention",
            _S,
            "0",
            "History to keep: hours or a duration, or revisions (0: all).",
        ),
        Flag(
            "discovery-endpoints",
            Kind.UNIQUE_STRINGS,
            "",
            "Discovery: endpoints of the service.",
            _DISCOVERY + "endpoints",
        ),
        Flag(
            "discovery-token",
            _S,
            "",
            "Discovery: token of the cluster to found.",
            "discovery-config.token",
        ),
        Flag(
            "discovery-dial-timeout",
            _D,
            "2s",
            "Discovery: time to connect.",
            _DISCOVERY + "dial-timeout",
        ),
        Flag(
            "discovery-request-timeout",
            _D,
            "5s",
            "Discovery: time for a request.",
            _DISCOVERY + "request-timeout",
        ),
        Flag(
            "discovery-keepalive-time",
            _D,
            "2s",
            "Discovery: time between pings.",
            _DISCOVERY + "keepalive-time",
        ),
        Flag(
            "discovery-keepalive-timeout",
            _D,
            "6s",
            "Discovery: wait for the answer to a ping.",
            _DISCOVERY + "keepalive-timeout",
        ),
        Flag(
            "discovery-insecure-transport",
            _B,
            "true",
            "Discovery: speak without TLS.",
            _DISCOVERY + "secure.insecure-transport",
        ),
        Flag(
            "discovery-insecure-skip-tls-verify",
            _B,
            "false",
            "Discovery: trust any certificate.",
            _DISCOVERY + "secure.insecure-skip-tls-verify",
        ),
        Flag(
            "discovery-cert",
            _S,
            "",
            "Discovery: client certificate file.",
            _DISCOVERY + "secure.cert",
        ),
        Flag("discovery-key", _S, "", "Discovery: client key file.", _DISCOVERY + "secure.key"),
        Flag(
            "discovery-cacert",
            _S,
            "",
            "Discovery: file of trusted authorities.",
            _DISCOVERY + "secure.cacert",
        ),
        Flag("discovery-user", _S, "", "Discovery: user name.", _DISCOVERY + "auth.username"),
        Flag("discovery-password", _S, "", "Discovery: password.", _DISCOVERY + "auth.password"),
        Flag(
            "discovery-fallback",
            Kind.CHOICE,
            "exit",
            "What to do when discovery fails; only exit is left.",
            "",
            choices=("exit", "proxy"),
        ),
        Flag("discovery-srv", _S, "", "DNS domain that names the founding members."),
        Flag("discovery-srv-name", _S, "", "Suffix of the DNS service name."),
    ),
    "Security": (
        Flag("cert-file", _S, "", "Server certificate file.", _CLIENT + "cert-file"),
        Flag("key-file", _S, "", "Server key file.", _CLIENT + "key-file"),
        Flag(
            "client-cert-file",
            _S,
            "",
            "Certificate to show as a client of its own.",
            _CLIENT + "client-cert-file",
        ),
        Flag("client-key-file", _S, "", "Key that belongs to it.", _CLIENT + "client-key-file"),
        Flag(
            "client-cert-auth",
            _B,
            "false",
            "Ask clients for a certificate.",
            _CLIENT + "client-cert-auth",
        ),
        Flag("client-crl-file", _S, "", "Revocation list for client certificates.", ""),
        Flag(
            "client-cert-allowed-hostname",
            Kind.STRINGS,
            "",
            "Host names client certificates may carry.",
            _CLIENT + "allowed-hostname",
        ),
        Flag(
            "trusted-ca-file",
            _S,
            "",
            "Authorities whose client certificates are trusted.",
            _CLIENT + "trusted-ca-file",
        ),
        Flag(
            "auto-tls",
            _B,
            "false",
            "Client TLS with a self-made certificate.",
            _CLIENT + "auto-tls",
        ),
        Flag("peer-cert-file", _S, "", "Certificate file between peers.", _PEER + "cert-file"),
        Flag("peer-key-file", _S, "", "Key file between peers.", _PEER + "key-file"),
        Flag(
            "peer-client-cert-file",
            _S,
            "",
            "Certificate to show when dialling a peer.",
            _PEER + "client-cert-file",
        ),
        Flag(
            "peer-client-key-file",
            _S,
            "",
            "Key that belongs to it.",
            _PEER + "client-key-file",
        ),
        Flag(
            "peer-client-cert-auth",
            _B,
            "false",
            "Ask peers for a certificate.",
            _PEER + "client-cert-auth",
        ),
        Flag(
            "peer-trusted-ca-file",
            _S,
            "",
            "Authorities whose peer certificates are trusted.",
            _PEER + "trusted-ca-file",
        ),
        Flag(
            "peer-auto-tls",
            _B,
            "false",
            "Peer TLS with a self-made certificate.",
            _PEER + "auto-tls",
        ),
        Flag("peer-crl-file", _S, "", "Revocation list for peer certificates.", ""),
        Flag(
            "peer-cert-allowed-cn",
            Kind.STRINGS,
            "",
            "Common names peer certificates may carry.",
            _PEER + "allowed-cn",
        ),
        Flag(
            "peer-cert-allowed-hostname",
            Kind.STRINGS,
            "",
            "Host names peer certificates may carry.",
            _PEER + "allowed-hostname",
        ),
        Flag(
            "peer-skip-client-san-verification",
            _B,
            "false",
            "Don't check the names in a dialling peer's certificate.",
            _PEER + "skip-client-san-verification",
        ),
        Flag(
            "self-signed-cert-validity",
            _U,
            "1",
            "Life of self-made certificates, in years.",
            unit="years",
        ),
        Flag("cipher-suites", Kind.STRINGS, "", "TLS 1.2 cipher suites, by Go's names."),
        Flag("tls-min-version", _S, "TLS1.2", "Oldest TLS version: TLS1.2 or TLS1.3."),
        Flag("tls-max-version", _S, "", "Newest TLS version (empty: the library's)."),
        Flag("cors", Kind.ORIGINS, "*", "Origins allowed to call from a browser (* : all)."),
        Flag(
            "host-whitelist",
            Kind.UNIQUE_STRINGS,
            "*",
            "Host names plain HTTP is answered for (* : all).",
        ),
    ),
    "Auth": (
        Flag("auth-token", _S, "simple", "Kind of token: simple, or jwt with its options."),
        Flag("bcrypt-cost", _U, "10", "Cost of hashing a password."),
        Flag("auth-token-ttl", _U, "300", "Life of a simple token, in seconds.", unit="seconds"),
    ),
    "Profiling and monitoring": (
        Flag("enable-pprof", _B, "false", "Serve profiles below /debug/pprof/."),
        Flag("metrics", _S, "basic", "Which metrics: basic or extensive."),
        Flag("enable-distributed-tracing", _B, "false", "Send traces by OpenTelemetry."),
        Flag("distributed-tracing-address", _S, "localhost:4317", "Address of the collector."),
        Flag("distributed-tracing-service-name", _S, "etcd", "Service name of the traces."),
        Flag("distributed-tracing-instance-id", _S, "", "Instance ID of the traces."),
        Flag("distributed-tracing-sampling-rate", _I, "0", "Samples in a million spans."),
    ),
    "Logging": (
        Flag("logger", _S, "zap", "Kind of logger; zap is the only one."),
        Flag(
            "log-outputs",
            Kind.UNIQUE_STRINGS,
            "default",
            "Where logs go: default, stderr, stdout, systemd/journal or files.",
        ),
        Flag("log-level", _S, "info", "debug, info, warn, error, panic or fatal."),
        Flag("log-format", _S, "json", "json or console."),
        Flag("enable-log-rotation", _B, "false", "Rotate the one file of --log-outputs."),
        Flag("log-rotation-config-json", _S, _ROTATION, "How to rotate, as JSON."),
        Flag("warning-unary-request-duration", _D, "300ms", "Slower requests are logged."),
        Flag("warning-apply-duration", _D, "100ms", "Slower applies are logged."),
    ),
    "Maintenance": (
        Flag("corrupt-check-time", _D, "0s", "Time between checks for corruption (0: none)."),
        Flag("compact-hash-check-time", _D, "1m0s", "Time between checks of compaction hashes."),
        Flag("compaction-batch-limit", _I, "0", "Revisions deleted in one step (0: 1000)."),
        Flag("compaction-sleep-interval", _D, "0s", "Pause between two steps (0: 10ms)."),
        Flag(
            "watch-progress-notify-interval",
            _D,
            "0s",
            "Time between progress notices of watches (0: 10m).",
        ),
        Flag("downgrade-check-time", _D, "5s", "Time between checks for a downgrade."),
        Flag(
            "bootstrap-defrag-threshold-megabytes",
            _U,
            "0",
            "Defragment at start if that frees so much (0: never).",
        ),
        Flag("max-learners", _I, "1", "Learners the cluster may have."),
    ),
    "Unsafe": (
        Flag("force-new-cluster", _B, "false", "Found a cluster of one from this member's data."),
        Flag("unsafe-no-fsync", _B, "false", "Never sync to disk: a power cut loses data."),
    ),
    "Troupe": (
        Flag("run-dir", _S, "", "Folder for sockets and counters; chosen when empty."),
        Flag(
            "gateways",
            _U,
            "0",
            "Gateway processes (0: one less than cores; one and a standby on 1 or 2 cores).",
        ),
        Flag("stuck-detection", _B, "true", "Restart actors that have stopped making progress."),
        Flag("unsafe-rejoin", _B, "false", "Let a member that has lost its data vote again."),
        Flag("enable-faults", _B, "false", "Let troupectl inject faults; for tests alone."),
        Flag("peer-curve-secret-file", _S, "", "This member's CURVE key; protects peer traffic."),
        Flag("peer-curve-allow-dir", _S, "", "Folder of all members' public keys, NAME.pub."),
    ),
    "Program": (
        Flag("config-file", _S, "", "Configuration file; other flags are then ignored.", ""),
        Flag("version", _B, "false", "Print the version and exit.", ""),
    ),
}

IGNORED: Final = tuple(
    Flag(name, Kind.IGNORED, "", "", "")
    for name in (
        "cluster-active-size",
        "cluster-remove-delay",
        "cluster-sync-interval",
        "config",
        "force",
        "max-result-buffer",
        "max-retry-attempts",
        "peer-heartbeat-interval",
        "peer-election-timeout",
        "retry-interval",
        "snapshot",
        "v",
        "vv",
        "test.coverprofile",
        "test.outputdir",
    )
)

FLAGS: Final[dict[str, Flag]] = {
    flag.name: flag for flags in (*SECTIONS.values(), IGNORED) for flag in flags
}
SETTINGS: Final = tuple(
    flag for section, flags in SECTIONS.items() if section != "Program" for flag in flags
)
"""The flags that have a field in Config."""
