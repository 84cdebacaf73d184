"""What the image and the compose file promise."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import yaml

from supervisor.config import parse
from supervisor.not_built import check_built
from supervisor.validation import check_bootstrap

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), with comments gone and lines joined."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


def last(name: str) -> str:
    return next(rest for found, rest in reversed(instructions()) if found == name)


def services(file: str = "compose.yaml") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / file).read_text())["services"]
    return found


def test_neither_image_nor_compose_file_sets_a_variable_of_a_flag() -> None:
    settings = [rest for name, rest in instructions() if name in ("ENV", "ARG")]

    assert not any("ETCD_" in rest for rest in settings)
    for found in services().values():
        assert "environment" not in found
        assert "env_file" not in found


def test_the_base_image_can_be_chosen_for_every_stage() -> None:
    found = instructions()

    assert found[0] == ("ARG", "PYTHON_IMAGE=python:3.11-slim")
    stages = [rest for name, rest in found if name == "FROM"]
    assert len(stages) == 2
    assert all(rest.startswith("${PYTHON_IMAGE}") for rest in stages)


def test_the_image_is_built_without_anything_from_a_registry_but_its_base() -> None:
    text = (ROOT / "Dockerfile").read_text()

    assert "# syntax=" not in text  # would fetch a frontend
    assert not any(rest.startswith("--mount") for name, rest in instructions() if name == "RUN")


def test_the_image_runs_the_supervisor_as_process_1_and_as_no_root() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["trouped"]
    assert int(last("USER").partition(":")[0]) > 0
    assert "PYTHONSAFEPATH=1" in last("ENV")


def test_the_image_knows_its_health_its_ports_and_its_data() -> None:
    assert json.loads(last("HEALTHCHECK").partition("CMD")[2]) == ["troupectl", "health"]
    assert set(last("EXPOSE").split()) == {"2379", "2380"}
    assert json.loads(last("VOLUME")) == ["/var/lib/trouped"]


def test_the_image_holds_every_package_there_is() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options"]["packages"].split()

    copied = {rest.split()[0] for name, rest in instructions() if name == "COPY"}
    allowed = re.findall(r"^!(\w+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert set(packages) <= copied
    assert set(packages) <= set(allowed)


def test_the_compose_file_starts_three_members_that_listen_everywhere_and_keep_their_data() -> None:
    found = services()

    assert list(found) == ["m1", "m2", "m3"]
    for name, service in found.items():
        config = parse(service["command"], {})
        check_bootstrap(config, resolve=lambda host: "")
        check_built(config, initialized=False)
        assert config.name == name
        assert [url.text for url in config.listen_client_urls] == ["http://0.0.0.0:2379"]
        assert [url.text for url in config.listen_peer_urls] == ["http://0.0.0.0:2380"]
        assert config.initial_cluster == {other: (f"http://{other}:2380",) for other in found}
        assert config.data_dir.startswith("/var/lib/trouped/")
        assert service["volumes"] == [f"{name}:/var/lib/trouped"]
    assert len({tuple(service["ports"]) for service in found.values()}) == 3


def test_a_single_member_is_the_first_of_the_three_by_itself() -> None:
    (found,) = services("compose.single.yaml").values()

    config = parse(found["command"], {})

    check_bootstrap(config, resolve=lambda host: "")
    assert config.initial_cluster == {"m1": ("http://m1:2380",)}
    assert found["extends"] == {"file": "compose.yaml", "service": "m1"}


def test_members_have_a_read_only_root_room_for_sockets_and_time_to_stop() -> None:
    for found in services().values():
        assert found["read_only"] is True
        assert any(entry.startswith("/run/trouped:") for entry in found["tmpfs"])
        assert found["stop_grace_period"] == "10s"


def test_the_systemd_unit_gives_a_private_run_directory_and_lets_the_root_stop_the_troupe() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read(ROOT / "deploy" / "trouped.service")
    found = unit["Service"]  # keys in lower case

    assert (found["runtimedirectory"], found["runtimedirectorymode"]) == ("trouped", "0700")
    assert found["killmode"] == "mixed"
    assert (found["type"], found["timeoutstartsec"]) == ("notify", "infinity")
    assert "ETCD_" not in found["environment"]
