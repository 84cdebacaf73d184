"""What the image and the compose file promise."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import yaml

from supervisor.config import parse

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), with comments gone and lines joined."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


def last(name: str) -> str:
    return next(rest for found, rest in reversed(instructions()) if found == name)


def service() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    found: dict[str, Any] = document["services"]["m1"]
    return found


def test_neither_image_nor_compose_file_sets_a_variable_of_a_flag() -> None:
    settings = [rest for name, rest in instructions() if name in ("ENV", "ARG")]

    assert not any("ETCD_" in rest for rest in settings)
    assert "environment" not in service()
    assert "env_file" not in service()


def test_the_base_image_can_be_chosen_for_every_stage() -> None:
    found = instructions()

    assert found[0] == ("ARG", "PYTHON_IMAGE=python:3.11-slim")
    stages = [rest for name, rest in found if name == "FROM"]
    assert len(stages) == 2
    assert all(rest.startswith("${PYTHON_IMAGE}") for rest in stages)


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


def test_the_compose_file_starts_a_member_that_listens_everywhere_and_keeps_its_data() -> None:
    found = service()

    config = parse(found["command"], {})

    assert [url.text for url in config.listen_client_urls] == ["http://0.0.0.0:2379"]
    assert [url.text for url in config.listen_peer_urls] == ["http://0.0.0.0:2380"]
    assert config.data_dir.startswith("/var/lib/trouped/")
    assert found["volumes"] == ["m1:/var/lib/trouped"]


def test_the_compose_file_has_a_read_only_root_room_for_sockets_and_time_to_stop() -> None:
    found = service()

    assert found["read_only"] is True
    assert any(entry.startswith("/run/trouped:") for entry in found["tmpfs"])
    assert found["stop_grace_period"] == "10s"


def test_the_systemd_unit_gives_a_private_run_directory_and_lets_the_root_stop_the_troupe() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read(ROOT / "deploy" / "trouped.service")
    found = unit["Service"]  # keys in lower case

    assert (found["runtimedirectory"], found["runtimedirectorymode"]) == ("trouped", "0700")
    assert found["killmode"] == "mixed"
    assert "ETCD_" not in found["environment"]
