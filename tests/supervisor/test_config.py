"""Command line and environment: what is accepted, what it becomes, what is refused and how."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

import supervisor
from supervisor.config import Config, parse
from supervisor.derive import PEER_TLS_FLAGS, WITHOUT_EFFECT
from supervisor.errors import ConfigError, HelpRequested, VersionRequested
from supervisor.flags import FLAGS, IGNORED, SECTIONS, SETTINGS, Flag, Kind
from supervisor.validation import check_bootstrap


def read(*argv: str, **environ: str) -> Config:
    return parse(argv, environ)


def refusal(*argv: str, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(argv, environ)
    return caught.value


def first_line(error: ConfigError) -> str:
    return str(error).partition("\n")[0]


def test_there_are_the_111_flags_of_etcd_its_15_legacy_ones_and_seven_of_our_own() -> None:
    own = SECTIONS["Troupe"]

    assert len(FLAGS) - len(own) - len(IGNORED) == 111
    assert len(IGNORED) == 15
    assert [flag.name for flag in own] == [
        "run-dir",
        "gateways",
        "stuck-detection",
        "unsafe-rejoin",
        "enable-faults",
        "peer-curve-secret-file",
        "peer-curve-allow-dir",
    ]


def test_every_flag_is_used_or_said_to_change_nothing() -> None:
    root = Path(supervisor.__file__).parents[1]
    readers = {
        root / "supervisor" / f"{name}.py" for name in ("config", "flags", "derive", "validation")
    }
    sources = "".join(
        path.read_text()
        for folder in ("actors", "api", "control", "storage", "supervisor", "transport")
        for path in (root / folder).glob("*.py")
        if path not in readers
    )
    derived = "quota-backend-bytes auto-compaction-mode auto-compaction-retention initial-cluster"
    limits = (root / "api" / "http2.py").read_text()

    def is_used(flag: Flag) -> bool:
        name = flag.field.removeprefix("grpc_").removesuffix("_seconds")
        return bool(re.search(rf"\b{flag.field}\b", sources)) or f'"{name}"' in limits

    unused = {flag.name for flag in SETTINGS if not is_used(flag)}

    elsewhere = {"metrics"}  # a word that is not the flag
    assert (unused - set(derived.split())) | elsewhere == WITHOUT_EFFECT | PEER_TLS_FLAGS


def test_settings_that_change_nothing_are_named_in_one_line() -> None:
    config = read(
        "--metrics=extensive", "--max-learners=2", "--feature-gates=CompactHashCheck=true"
    )

    found = dict(config.warnings)["these settings change nothing here"]

    assert found == {
        "flags-without-effect": ["max-learners", "metrics", "feature-gates CompactHashCheck"]
    }
    assert "these settings change nothing here" not in dict(read("--name=a").warnings)


def test_every_flag_has_a_field_and_every_default_is_a_value() -> None:
    derived = {
        "standby_gateways",
        "initial_cluster_text",
        "auto_compaction_seconds",
        "auto_compaction_revisions",
        "config_file",
        "explicit",
        "warnings",
        "notes",
    }

    assert {flag.field for flag in SETTINGS} | derived == {field.name for field in fields(Config)}
    for flag in SETTINGS:
        assert flag.default_value() is not None


def test_without_any_flag_the_defaults_are_etcd_s() -> None:
    config = read()

    assert (config.name, config.data_dir) == ("default", "default.etcd")
    assert config.initial_cluster == {"default": ("http://localhost:2380",)}
    assert [url.text for url in config.listen_client_urls] == ["http://localhost:2379"]
    assert (config.heartbeat_interval_ms, config.election_timeout_ms) == (100, 1000)
    assert config.quota_backend_bytes == 2 * 1024**3
    assert config.grpc_keepalive_interval_seconds == 7200
    assert (config.compaction_batch_limit, config.compaction_sleep_interval_seconds) == (1000, 0.01)
    assert config.watch_progress_notify_interval_seconds == 600
    assert config.gateways >= 1


@pytest.mark.parametrize(
    ("flag", "cores", "gateways", "standbys"),
    [
        ("0", 1, 1, 1),
        ("0", 2, 1, 1),
        ("0", 3, 2, 0),
        ("0", 8, 7, 0),
        ("1", 2, 1, 0),
        ("2", 2, 2, 0),
    ],
)
def test_a_lone_gateway_nobody_asked_for_has_a_standby(
    flag: str, cores: int, gateways: int, standbys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))

    config = read(f"--gateways={flag}")

    assert (config.gateways, config.standby_gateways) == (gateways, standbys)
    assert Config.from_dict(config.to_dict()) == config


def test_one_dash_or_two_and_a_value_behind_equals_or_a_space_are_all_the_same() -> None:
    for argv in (["--name=m1"], ["-name=m1"], ["--name", "m1"], ["-name", "m1"]):
        assert parse(argv, {}).name == "m1"


def test_a_boolean_flag_takes_no_argument_and_the_last_setting_of_a_flag_counts() -> None:
    assert read("--force-new-cluster").force_new_cluster
    assert not read("--pre-vote", "--pre-vote=f").pre_vote
    assert str(refusal("--pre-vote", "false")) == '"false" is not a valid flag'


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("-x", "flag provided but not defined: -x"),
        ("---x", "bad flag syntax: ---x"),
        ("-=x", "bad flag syntax: -=x"),
        ("--name", "flag needs an argument: -name"),
        ("--discovery=x", "flag provided but not defined: -discovery"),
        ("--pre-vote=maybe", 'invalid boolean value "maybe" for -pre-vote: parse error'),
        ("--election-timeout=5x", 'invalid value "5x" for flag -election-timeout: parse error'),
        ("--election-timeout=-5", 'invalid value "-5" for flag -election-timeout: parse error'),
        (
            "--max-txn-ops=99999999999999999999",
            'invalid value "99999999999999999999" for flag -max-txn-ops: value out of range',
        ),
        (
            "--max-concurrent-streams=x",
            'invalid value "x" for flag -max-concurrent-streams: '
            'strconv.ParseUint: parsing "x": invalid syntax',
        ),
        (
            "--initial-cluster-state=foo",
            'invalid value "foo" for flag -initial-cluster-state: invalid value',
        ),
        (
            "--listen-peer-urls=foo:1",
            'invalid value "foo:1" for flag -listen-peer-urls: '
            "URL scheme must be http, https, unix, or unixs: foo:1",
        ),
        (
            "--listen-peer-urls=127.0.0.1:1",
            'invalid value "127.0.0.1:1" for flag -listen-peer-urls: '
            'parse "127.0.0.1:1": first path segment in URL cannot contain colon',
        ),
        (
            "--listen-peer-urls=:1",
            'invalid value ":1" for flag -listen-peer-urls: parse ":1": missing protocol scheme',
        ),
        (
            "--listen-peer-urls=http://127.0.0.1",
            'invalid value "http://127.0.0.1" for flag -listen-peer-urls: '
            'URL address does not have the form "host:port": http://127.0.0.1',
        ),
        (
            "--listen-peer-urls=http://127.0.0.1:1/x",
            'invalid value "http://127.0.0.1:1/x" for flag -listen-peer-urls: '
            "URL must not contain a path: http://127.0.0.1:1/x",
        ),
        (
            "--listen-peer-urls=http://127.0.0.1:x",
            'invalid value "http://127.0.0.1:x" for flag -listen-peer-urls: '
            'parse "http://127.0.0.1:x": invalid port ":x" after host',
        ),
        (
            "--feature-gates=Foo=true",
            'invalid value "Foo=true" for flag -feature-gates: unrecognized feature gate: Foo',
        ),
    ],
)
def test_a_flag_that_cannot_be_read_is_printed_with_the_usage_and_exits_with_2(
    argument: str, text: str
) -> None:
    error = refusal(argument)

    assert first_line(error) == text
    assert "Usage:" in str(error)
    assert (error.exit_code, error.level) == (2, "")


TLS = ("--cert-file=c", "--key-file=k")
LISTEN = ("--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["foo"], '"foo" is not a valid flag'),
        (["--", "--name"], '"--name" is not a valid flag'),
        (
            ["--election-timeout=499"],
            "--election-timeout[499ms] should be at least as 5 times as "
            "--heartbeat-interval[100ms]",
        ),
        (
            ["--election-timeout=50001"],
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (["--listen-peer-urls=http://a:1"], "expected IP in URL for binding (http://a:1)"),
        (["--listen-metrics-urls=http://:1"], "expected IP in URL for binding (http://:1)"),
        (
            ["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            ["--initial-advertise-peer-urls=http://:1"],
            '--initial-advertise-peer-urls "http://:1" must be "host:port" '
            "(unexpected empty host (http://:1))",
        ),
        (
            ["--discovery-endpoints=http://d", "--initial-cluster=a=http://a:1"],
            "multiple discovery or bootstrap flags are set. "
            'Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"',
        ),
        (
            ["--discovery-endpoints=http://d"],
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            ["--discovery-fallback=proxy"],
            'v2 proxy is deprecated, and --discovery-fallback can\'t be configured as "proxy"',
        ),
        (["--auto-compaction-mode=x"], 'unknown auto-compaction-mode "x"'),
        (["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (
            ["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate "
            "LeaseCheckpoint",
        ),
        (
            ["--compact-hash-check-time=-1m"],
            "--compact-hash-check-time must be >0 (set to -1m0s)",
        ),
        (
            ["--tls-min-version=TLS1.1"],
            'unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)',
        ),
        (
            ["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            ["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (["--log-format=x"], "unknown log format: x, supported values json, console"),
        (["--gateways=65"], "--gateways must be <=64 (set to 65)"),
    ],
)
def test_settings_that_make_no_sense_are_logged_in_etcd_s_words_and_exit_with_1(
    argv: list[str], text: str
) -> None:
    error = refusal(*argv)

    assert str(error) == text
    assert (error.exit_code, error.level, error.msg) == (1, "warn", "failed to verify flags")
    assert error.fields == {"error": text}


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--cipher-suites=foo"], 'unexpected TLS cipher suite "foo"'),
        (
            LISTEN,
            "TLS key/cert (--cert-file, --key-file) must be provided for client url "
            "https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            ["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            ["--listen-peer-urls=https://127.0.0.1:1"],
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (
            [*TLS, *LISTEN, "--listen-client-http-urls=http://127.0.0.1:1"],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url "
            "http://127.0.0.1:1",
        ),
        (
            ["--auto-compaction-retention=5x"],
            'error parsing CompactionRetention: time: unknown unit "x" in duration "5x"',
        ),
        (
            ["--initial-cluster=a"],
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
    ],
)
def test_what_etcd_finds_only_when_it_starts_is_fatal(argv: list[str], text: str) -> None:
    error = refusal(*argv)

    assert str(error) == text
    assert (error.exit_code, error.level, error.msg) == (1, "fatal", "discovery failed")


def test_a_wrong_log_level_exits_with_2_as_etcd_s_panic_does() -> None:
    error = refusal("--log-level=foo")

    assert (first_line(error), error.exit_code) == ('unrecognized level: "foo"', 2)


@pytest.mark.parametrize("word", ["gateway", "grpc-proxy"])
def test_the_proxies_of_etcd_are_not_built_yet(word: str) -> None:
    error = refusal(word, "start")

    assert first_line(error) == f'trouped: the sub-command "{word}" is not built yet'
    assert error.exit_code == 1


def test_the_version_starts_with_the_line_tools_look_for() -> None:
    with pytest.raises(VersionRequested) as caught:
        read("--version")

    assert str(caught.value).splitlines()[0] == "etcd Version: 3.7.1"
    assert re.search(r"^trouped Version: \d", str(caught.value), re.MULTILINE)


@pytest.mark.parametrize("argument", ["-h", "--help", "-help", "--h"])
def test_the_help_names_every_flag_under_its_section(argument: str) -> None:
    with pytest.raises(HelpRequested) as caught:
        read("--name=m1", argument, "--unknown")

    text = str(caught.value)
    for section, flags in SECTIONS.items():
        assert f"\n{section}:\n" in text
        for flag in flags:
            assert f"\n  --{flag.name} '" in text


def test_every_flag_of_a_value_kind_can_be_set_by_variable() -> None:
    samples = {
        Kind.STRING: "",
        Kind.BOOL: "true",
        Kind.INT: "3",
        Kind.UINT: "3",
        Kind.UINT32: "3",
        Kind.DURATION: "3s",
    }
    special = {"name", "heartbeat-interval", "self-signed-cert-validity", "gateways"}

    for flag in SETTINGS:
        sample = samples.get(flag.kind, "")
        if not sample or flag.name in special or flag.name == "election-timeout":
            continue
        if flag.name in ("raft-read-timeout", "raft-write-timeout"):
            sample = "6s"
        needed = ("--feature-gates=LeaseCheckpoint=true", "--log-outputs=file")
        config = parse(needed, {flag.variable: sample})
        assert flag.name in config.explicit
        assert getattr(config, flag.field) in (3, 3.0, 6.0, True), flag.name


def test_the_environment_counts_where_the_command_line_is_silent() -> None:
    environ = {"ETCD_NAME": "m2", "ETCD_WAL_DIR": "", "PATH": "x", "ETCD_RUN_DIR": "/r"}

    config = parse(["--data-dir=d"], environ)

    assert (config.name, config.data_dir, config.wal_dir, config.run_dir) == ("m2", "d", "", "/r")
    fields: dict[str, object] = {"variable-name": "ETCD_NAME", "variable-value": "m2"}
    assert ("recognized and used environment variable", fields) in config.notes
    assert all(
        "ETCD_" not in str(found) or "ETCD_WAL_DIR" in str(found) for _, found in config.warnings
    )


def test_a_variable_whose_flag_is_given_as_well_is_fatal_even_when_empty() -> None:
    for value in ("m2", ""):
        error = refusal("--name=m1", ETCD_NAME=value)

        assert (error.exit_code, error.level) == (1, "fatal")
        assert error.fields == {"environment-variable": "ETCD_NAME"}
        assert error.msg == (
            "conflicting environment variable is shadowed by corresponding command-line flag "
            "(either unset environment variable or disable flag))"
        )


def test_a_variable_that_cannot_be_read_is_refused_with_its_name() -> None:
    error = refusal(ETCD_ELECTION_TIMEOUT="foo")

    assert str(error) == 'invalid value "foo" for ETCD_ELECTION_TIMEOUT: parse error'
    assert error.exit_code == 1


def test_unknown_variables_are_warned_of_and_etcd_version_is_set_aside() -> None:
    config = read(ETCD_FOO="1", ETCD_VERSION="3.5")

    warned: Mapping[str, object] = dict(config.warnings)
    assert warned["unrecognized environment variable"] == {"environment-variable": "ETCD_FOO=1"}
    assert warned["cannot set special environment variable"] == {
        "key": "ETCD_VERSION",
        "value": "3.5",
    }


def test_a_password_in_the_environment_stays_out_of_the_log() -> None:
    config = read(
        "--discovery-token=t",
        "--discovery-endpoints=http://d:1",
        ETCD_DISCOVERY_PASSWORD="hidden",
        ETCD_ROOT_PASSWORD="secret",
    )

    assert config.discovery_password == "hidden"
    assert "hidden" not in str(config.notes)
    assert "secret" not in str(config.warnings)


@pytest.mark.parametrize("flag", IGNORED, ids=lambda flag: flag.name)
def test_legacy_flags_are_accepted_and_warned_of(flag: object) -> None:
    name = getattr(flag, "name")  # noqa: B009 - parametrize has no types

    config = read(f"--{name}", f"--{name}=x")

    assert ("flag is no longer supported - ignoring", {"flag-name": name}) in config.warnings


def test_a_member_that_only_has_a_name_founds_a_cluster_of_that_name() -> None:
    config = read(
        "--name=m1",
        "--initial-advertise-peer-urls=http://10.0.0.1:2380,http://10.0.0.1:2381",
        "--data-dir=d",
    )

    assert config.initial_cluster == {"m1": ("http://10.0.0.1:2380", "http://10.0.0.1:2381")}
    check_bootstrap(config)


def test_discovery_clears_the_default_initial_cluster() -> None:
    config = read("--discovery-token=t", "--discovery-endpoints=http://d:1")

    assert config.initial_cluster == {}
    assert config.initial_cluster_text == ""


def test_zero_stands_for_a_default_and_a_negative_quota_for_none() -> None:
    config = read(
        "--snapshot-count=0",
        "--snapshot-catchup-entries=0",
        "--quota-backend-bytes=-5",
        "--watch-progress-notify-interval=1ms",
        "--warning-unary-request-duration=0",
        "--raft-read-timeout=1s",
    )

    assert (config.snapshot_count, config.snapshot_catchup_entries) == (10000, 5000)
    assert config.quota_backend_bytes == -1
    assert config.watch_progress_notify_interval_seconds == 0.1
    assert config.warning_unary_request_duration_seconds == 0.3
    assert config.raft_read_timeout_seconds == 5


@pytest.mark.parametrize(
    ("mode", "retention", "kept"),
    [
        ("periodic", "0", (0.0, 0)),
        ("periodic", "2", (7200.0, 0)),
        ("periodic", "90m", (5400.0, 0)),
        ("revision", "1000", (0.0, 1000)),
        ("revision", "", (0.0, 0)),
    ],
)
def test_retention_is_hours_a_duration_or_revisions(
    mode: str, retention: str, kept: tuple[float, int]
) -> None:
    config = read(f"--auto-compaction-mode={mode}", f"--auto-compaction-retention={retention}")

    assert (config.auto_compaction_seconds, config.auto_compaction_revisions) == kept


def test_an_empty_url_list_leaves_what_was_there_and_doubles_count_once() -> None:
    urls = "http://127.0.0.1:2,http://127.0.0.1:1,http://127.0.0.1:2"

    config = read("--listen-peer-urls=", f"--listen-metrics-urls={urls}")

    assert [url.text for url in config.listen_peer_urls] == ["http://localhost:2380"]
    assert [url.text for url in config.listen_metrics_urls] == [
        "http://127.0.0.1:1",
        "http://127.0.0.1:2",
    ]


def test_a_config_survives_json() -> None:
    config = read(
        "--name=m1",
        "--feature-gates=LeaseCheckpoint=true",
        "--host-whitelist=b,a",
        *LISTEN,
        *TLS,
        ETCD_X="1",
    )

    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (
            ["--name=x", "--initial-cluster=m1=http://a:1"],
            'couldn\'t find local name "x" in the initial cluster configuration',
        ),
        (
            ["--name=a", "--initial-cluster=a=http://a:1,b=http://a:1"],
            "initial cluster a=http://a:1,b=http://a:1 has duplicate url",
        ),
        (
            [
                "--name=a",
                "--initial-cluster=a=http://a:1",
                "--initial-advertise-peer-urls=http://a:1,http://a:2",
            ],
            "--initial-advertise-peer-urls has http://a:2 but missing from "
            "--initial-cluster=a=http://a:1,a=http://a:2",
        ),
        (["--discovery-srv-name=x"], "initial cluster unset and no discovery endpoints found"),
    ],
)
def test_a_member_that_is_not_in_its_initial_cluster_does_not_start(
    argv: list[str], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_bootstrap(read(*argv), resolve=lambda host: "")

    assert str(caught.value) == text


def test_a_host_name_and_its_address_are_the_same_peer_url() -> None:
    config = read(
        "--name=a",
        "--initial-cluster=a=http://peer.example:1",
        "--initial-advertise-peer-urls=http://10.1.2.3:1",
    )
    addresses = {"peer.example": "10.1.2.3", "10.1.2.3": "10.1.2.3"}

    check_bootstrap(config, resolve=lambda host: addresses[host])
    with pytest.raises(ConfigError, match=r"has a=http://peer\.example:1 but missing from"):
        check_bootstrap(config, resolve=lambda host: "")
