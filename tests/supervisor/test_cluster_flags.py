"""A cluster from flags: what is accepted, what is refused, what protects peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from control.__main__ import run as troupectl
from supervisor.config import Config, parse
from supervisor.errors import ConfigError, StartError
from supervisor.not_built import check_built
from supervisor.peer_keys import check_peer_keys
from supervisor.validation import check_bootstrap
from transport.peer_keygen import generate_keys

THREE = [
    "--name=m1",
    "--initial-cluster=m1=http://a:1,m2=http://b:1,m3=http://c:1",
    "--initial-advertise-peer-urls=http://a:1",
]


def read(*argv: str) -> Config:
    return parse(argv, {})


def warnings(config: Config) -> list[tuple[str, dict[str, Any]]]:
    return [(msg, fields) for msg, fields in config.warnings if "peers" in msg or "faults" in msg]


def test_several_members_found_a_cluster() -> None:
    config = read(*THREE)

    check_bootstrap(config, resolve=lambda host: "")
    check_built(config, initialized=False)

    assert config.to_dict()["initial_cluster"] == {
        "m1": ["http://a:1"],
        "m2": ["http://b:1"],
        "m3": ["http://c:1"],
    }
    assert config.to_dict()["listen_peer_urls"] == ["http://localhost:2380"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--initial-cluster-state=existing"],
        ["--initial-cluster=", "--discovery-endpoints=http://d:1", "--discovery-token=t"],
    ],
)
def test_how_to_find_a_cluster_matters_only_to_who_has_none(flags: list[str]) -> None:
    config = read(*THREE, *flags)

    check_built(config, initialized=True)
    with pytest.raises(StartError, match="not built yet"):
        check_built(config, initialized=False)


@pytest.mark.parametrize("initialized", [False, True])
def test_a_new_cluster_is_never_forced_by_accident(*, initialized: bool) -> None:
    with pytest.raises(StartError, match="--force-new-cluster is not built yet"):
        check_built(read(*THREE, "--force-new-cluster"), initialized=initialized)


def test_flags_of_peer_tls_are_answered_with_one_line_on_what_protects_peers(
    tmp_path: Path,
) -> None:
    tls = ["--peer-cert-file=c", "--peer-key-file=k", "--peer-client-cert-auth"]
    curve = [f"--peer-curve-secret-file={tmp_path}/m1.secret", f"--peer-curve-allow-dir={tmp_path}"]

    ((plain, fields),) = warnings(read(*THREE, *tls))
    ((protected, _),) = warnings(read(*THREE, *tls, *curve))

    assert "plaintext" in plain
    assert fields["flags-without-effect"] == [
        "peer-cert-file",
        "peer-client-cert-auth",
        "peer-key-file",
    ]
    assert "CURVE keys authenticate and encrypt" in protected
    assert "plaintext" not in protected
    assert warnings(read(*THREE)) == []


def test_a_member_that_can_be_broken_on_purpose_says_so() -> None:
    ((text, _),) = warnings(read(*THREE, "--enable-faults"))

    assert text.startswith("--enable-faults")


def test_a_key_without_those_of_the_others_is_refused() -> None:
    with pytest.raises(ConfigError, match="both --peer-curve-secret-file and"):
        read(*THREE, "--peer-curve-secret-file=x")
    with pytest.raises(ConfigError, match="both --peer-curve-secret-file and"):
        read(*THREE, "--peer-curve-allow-dir=x")


def with_keys(secret: Path, folder: Path) -> Config:
    return read(*THREE, f"--peer-curve-secret-file={secret}", f"--peer-curve-allow-dir={folder}")


def test_keys_are_read_before_the_member_starts(tmp_path: Path) -> None:
    secret, _ = generate_keys(tmp_path, "m1")
    generate_keys(tmp_path, "m2")

    check_peer_keys(with_keys(secret, tmp_path))
    check_peer_keys(read(*THREE))

    with pytest.raises(StartError, match=r"m9\.secret"):
        check_peer_keys(with_keys(tmp_path / "m9.secret", tmp_path))
    with pytest.raises(StartError, match=r"nowhere"):
        check_peer_keys(with_keys(secret, tmp_path / "nowhere"))


def test_the_key_of_another_member_is_refused(tmp_path: Path) -> None:
    generate_keys(tmp_path, "m1")
    secret, _ = generate_keys(tmp_path, "m2")

    with pytest.raises(StartError, match=r"does not belong to .*m1\.pub"):
        check_peer_keys(with_keys(secret, tmp_path))


def test_keygen_writes_a_private_and_a_public_key_and_never_replaces_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "keys")

    made = troupectl(["keygen", folder, "m1", "--json"])
    again = troupectl(["keygen", folder, "m1"])
    nameless = troupectl(["keygen", folder, "a/b"])

    secret = tmp_path / "keys" / "m1.secret"
    assert (made, again, nameless) == (0, 1, 1)
    assert secret.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in secret.parent.iterdir()) == ["m1.pub", "m1.secret"]
    assert b"secret-key" not in secret.with_suffix(".pub").read_bytes()
    assert "exists already" in capsys.readouterr().err
