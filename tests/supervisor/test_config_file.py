"""The configuration file: etcd's keys and types, and nothing beside it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import Config, parse
from supervisor.errors import ConfigError
from supervisor.flags import SETTINGS, Kind
from supervisor.urls import Url

WHOLE = """
name: m1
data-dir: /var/lib/m1
snapshot-count: 20
initial-election-tick-advance: no
listen-peer-urls: http://10.0.0.1:2380
listen-client-urls: http://10.0.0.1:2379,https://10.0.0.1:2379
initial-advertise-peer-urls: http://10.0.0.1:2380
advertise-client-urls: http://10.0.0.1:2379
initial-cluster: m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380
initial-cluster-state: existing
auto-compaction-retention: 1
corrupt-check-time: 600000000000
cors: '*'
host-whitelist: a,b
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
log-outputs: [stderr]
feature-gates: CompactHashCheck=true
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-auth: true
  trusted-ca-file: ca
peer-transport-security:
  allowed-cn: [x, y]
  auto-tls: true
socket-options:
  reuse-port: true
gateways: 3
unknown-key: {a: [1]}
wal-dir: null
"""


def read(tmp_path: Path, text: str, *argv: str, **environ: str) -> Config:
    file = tmp_path / "etcd.conf.yaml"
    file.write_text(text)
    return parse([f"--config-file={file}", *argv], environ)


def refusal(tmp_path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.exit_code == 1
    return caught.value


def test_a_file_sets_everything_it_names(tmp_path: Path) -> None:
    config = read(tmp_path, WHOLE)

    assert (config.name, config.data_dir, config.wal_dir) == ("m1", "/var/lib/m1", "")
    assert config.snapshot_count == 20
    assert not config.initial_election_tick_advance
    assert [url.text for url in config.listen_client_urls] == [
        "http://10.0.0.1:2379",
        "https://10.0.0.1:2379",
    ]
    assert config.initial_cluster["m2"] == ("http://10.0.0.2:2380",)
    assert config.initial_cluster_state == "existing"
    assert config.auto_compaction_seconds == 3600
    assert config.corrupt_check_time_seconds == 600
    assert config.host_whitelist == ("a", "b")
    assert config.feature_gates["CompactHashCheck"]
    assert (config.cert_file, config.client_cert_auth, config.trusted_ca_file) == ("c", True, "ca")
    assert (config.peer_cert_allowed_cn, config.peer_auto_tls) == (("x", "y"), True)
    assert config.socket_reuse_port
    assert config.gateways == 3


def test_an_empty_file_and_json_are_files_too(tmp_path: Path) -> None:
    assert read(tmp_path, "").name == "default"
    assert read(tmp_path, '{"name": "m1", "election-timeout": 2000}').election_timeout_ms == 2000


def test_other_flags_and_variables_are_ignored_even_those_in_conflict(tmp_path: Path) -> None:
    config = read(tmp_path, "data-dir: d", "--name=m2", ETCD_NAME="m3", ETCD_FOO="1")

    assert config.name == "default"
    assert not any("ETCD_FOO" in str(found) for _, found in config.warnings)
    assert any(msg.startswith("loaded server configuration") for msg, _ in config.notes)


def test_a_variable_may_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: m1")

    assert parse([], {"ETCD_CONFIG_FILE": str(file)}).name == "m1"


def test_discovery_in_a_file_clears_the_default_initial_cluster(tmp_path: Path) -> None:
    config = read(tmp_path, "discovery-config: {token: t, client: {endpoints: ['http://d:1']}}")

    assert config.initial_cluster == {}
    assert config.discovery_endpoints == ("http://d:1",)


def test_listen_urls_alone_keep_the_default_advertise_urls(tmp_path: Path) -> None:
    config = read(tmp_path, "listen-client-urls: http://127.0.0.1:1")

    assert [url.text for url in config.advertise_client_urls] == ["http://localhost:2379"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("corrupt-check-time: 10m", "of type time.Duration"),
        ("snapshot-count: '10'", "configYAML.snapshot-count of type uint64"),
        ("snapshot-count: -1", "of type uint64"),
        ("pre-vote: 'true'", "cannot unmarshal string into Go struct field configYAML.pre-vote"),
        ("cipher-suites: a", "of type []string"),
        ("name: [a]", "cannot unmarshal array into Go struct field configYAML.name of type string"),
        ("- a", "cannot unmarshal array into Go value of type embed.configYAML"),
        ("client-transport-security: x", "client-transport-security of type struct"),
        ("peer-transport-security: x", "invalid peer-transport-security"),
        ("a: b: c", "error converting YAML to JSON: yaml: "),
        ("initial-cluster-state: foo", 'unexpected clusterState "foo"'),
        ("feature-gates: Foo=true", "unrecognized feature gate: Foo"),
        ("listen-peer-urls: foo", "unexpected error setting up listen-peer-urls: "),
        ("election-timeout: 100", "should be at least as 5 times as"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, part: str) -> None:
    assert part in str(refusal(tmp_path, text))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="open /no/such/file: no such file or directory"):
        parse(["--config-file=/no/such/file"], {})


def test_every_key_of_the_file_reaches_its_field(tmp_path: Path) -> None:
    samples = {Kind.BOOL: "true", Kind.INT: "7", Kind.UINT: "7", Kind.DURATION: "7000000000"}
    needed = "feature-gates: LeaseCheckpoint=true, log-outputs: [file]"

    for flag in SETTINGS:
        sample = samples.get(flag.kind)
        if (
            sample is None
            or flag.key == ""
            or flag.name in ("heartbeat-interval", "election-timeout")
        ):
            continue
        text = sample
        for part in reversed((flag.key or flag.name).split(".")):
            text = f"{{{part}: {text}}}"
        found = getattr(read(tmp_path, f"{text[:-1]}, {needed}}}"), flag.field)
        assert found in (True, 7, 7.0), flag.name


def test_a_name_that_yaml_takes_for_a_number_is_still_a_name(tmp_path: Path) -> None:
    config = read(tmp_path, "name: 7\nlisten-metrics-urls: http://127.0.0.1:0")

    assert config.name == "7"
    assert config.listen_metrics_urls == (Url("http", "127.0.0.1:0", "", "http://127.0.0.1:0"),)
