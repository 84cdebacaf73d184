"""A container engine, and the members of compose.yaml as containers on a private network.

Plain `docker` commands, so that no plugin is needed; DOCKER_HOST says which engine. Nothing is
published on the host: clients reach containers by their addresses. Everything made is named after
this process and removed at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from tests.client import Client

ROOT: Final = Path(__file__).parents[2]
BASE: Final = os.environ.get("PYTHON_IMAGE", "python:3.11-slim")
SOURCES: Final = ("Dockerfile", ".dockerignore", "setup.cfg", "pyproject.toml", "README.md")
READY_SECONDS: Final = 60.0


class EngineError(Exception):
    """A docker command failed; holds what it printed."""


def docker(*arguments: str, timeout: float = 120.0) -> str:
    """Run a command and return its output. Raises EngineError."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise EngineError(f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def why_not(image: str) -> str:
    """Say why containers can't be had from an image here; empty when they can."""
    if shutil.which("docker") is None:
        return "no docker command"
    try:
        docker("version", timeout=20)
    except EngineError as error:
        return f"no engine answers: {str(error).strip().splitlines()[-1]}"
    try:
        docker("image", "inspect", image, timeout=20)
    except EngineError:
        try:
            docker("pull", image, timeout=300)
        except EngineError:
            return f"no image {image}: make a base (debootstrap, docker import), set PYTHON_IMAGE"
    return ""


def build(folder: Path, tag: str) -> None:
    """Build the image from a copy of the sources, with wheels made here if there are none yet."""
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        source = ROOT / line.removeprefix("!")
        if line.startswith("!") and source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=ignored)
    wheelhouse = folder / "wheelhouse"
    if not wheelhouse.exists():
        wheels = [".", "setuptools>=68", "wheel"]
        command = [sys.executable, "-m", "pip", "wheel", "-q", f"--wheel-dir={wheelhouse}", *wheels]
        subprocess.run(command, cwd=folder, check=True, timeout=600)
    for wheel in wheelhouse.glob("trouped-*.whl"):
        wheel.unlink()
    arguments = [f"--build-arg=PYTHON_IMAGE={BASE}", "--build-arg=PIP_NO_INDEX=1", f"--tag={tag}"]
    docker("build", *arguments, str(folder), timeout=900)


class Containers:
    """The services of compose.yaml, running. A context manager."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.prefix = f"trouped-test-{os.getpid()}"
        self.network = f"{self.prefix}-net"
        document = yaml.safe_load((ROOT / "compose.yaml").read_text())
        self.services: dict[str, dict[str, Any]] = document["services"]
        self._clients: dict[str, Client] = {}

    def __enter__(self) -> Self:
        docker("network", "create", self.network)
        try:
            for name in self.services:
                self._run(name)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            for name in self.services:
                sys.stderr.write(f"--- {name}\n{self.log_end(name)}\n")
        self._remove()

    def container(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def _run(self, name: str) -> None:
        service = self.services[name]
        volume, _, place = service["volumes"][0].partition(":")
        options = [f"--network={self.network}", f"--network-alias={name}", f"--hostname={name}"]
        options += [f"--volume={self.prefix}-{volume}:{place}", f"--name={self.container(name)}"]
        options += [f"--tmpfs={entry}" for entry in service["tmpfs"]]
        options += [f"--cap-drop={entry}" for entry in service["cap_drop"]]
        options += [f"--security-opt={entry}" for entry in service["security_opt"]]
        options += ["--read-only"] if service["read_only"] else []
        docker("run", "--detach", *options, self.image, *service["command"])

    def _remove(self) -> None:
        for client in self._clients.values():
            client.close()
        for name in self.services:
            for arguments in (
                ("rm", "--force", "--volumes", self.container(name)),
                ("volume", "rm", "--force", f"{self.prefix}-{name}"),
            ):
                subprocess.run(["docker", *arguments], capture_output=True, timeout=60, check=False)
        docker("network", "rm", self.network)

    # --- looking ----------------------------------------------------------------------------------

    def state(self, name: str) -> dict[str, Any]:
        """Return the engine's own view of a container."""
        found: dict[str, Any] = json.loads(docker("inspect", self.container(name)))[0]
        return found

    def client(self, name: str) -> Client:
        """Return a connection to a member, at the address it has now."""
        address = self.state(name)["NetworkSettings"]["Networks"][self.network]["IPAddress"]
        endpoint = f"{address}:2379"
        if endpoint not in self._clients:
            self._clients[endpoint] = Client(endpoint)
        return self._clients[endpoint]

    def troupectl(self, name: str, *arguments: str) -> str:
        """Run troupectl inside a container."""
        return docker("exec", self.container(name), "troupectl", *arguments)

    def log_end(self, name: str) -> str:
        """Return the last lines a member has logged."""
        command = ["docker", "logs", "--tail=15", self.container(name)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    def is_healthy(self, name: str) -> bool:
        """Whether a member's own health check passes."""
        try:
            self.troupectl(name, "health")
        except EngineError:
            return False
        return True

    def wait_for(
        self, holds: Callable[[], bool], what: str, seconds: float = READY_SECONDS
    ) -> float:
        """Wait until something holds; return how long it took. Raises EngineError."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds:
                raise EngineError(f"not within {seconds} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - began

    # --- hurting ----------------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        """Take a container off the network."""
        docker("network", "disconnect", self.network, self.container(name))

    def mend(self, name: str) -> None:
        """Put it on again, perhaps at another address."""
        docker("network", "connect", f"--alias={name}", self.network, self.container(name))
