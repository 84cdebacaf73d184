"""Client libraries of others with their own tests: the sdist from the index, a venv of its own.

They register the same protobuf names as we do, so they live in processes and venvs apart. Both are
kept in a cache folder (`XDG_CACHE_HOME`, else `~/.cache`), so only the first run needs the index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INSTALL_SECONDS: Final = 600.0


class UnavailableError(Exception):
    """The package index was not reachable, or has not what is asked of it."""


@dataclass(frozen=True, slots=True)
class Sdist:
    """A client's sdist. `needs` is what its tests want besides what it declares itself.

    `endpoint` is the variable its tests read the server's URL from; `options` go to its pytest.
    Left out are tests that change whatever server listens on localhost:2379, not the one named.
    """

    name: str
    version: str
    needs: tuple[str, ...]
    endpoint: str
    options: tuple[str, ...]

    @property
    def home(self) -> Path:
        """The cache folder of this version."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "trouped-tests" / f"{self.name}-{self.version}"

    @property
    def python(self) -> Path:
        """The interpreter that has the client."""
        return self.home / "venv" / "bin" / "python"

    @property
    def source(self) -> Path:
        """The unpacked sdist, with the tests."""
        return self.home / f"{self.name}-{self.version}"

    def install(self) -> None:
        """Download, unpack and install it unless that is done. Raises UnavailableError."""
        done = self.home / "installed"
        if done.exists():
            return
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        _run(sys.executable, "-m", "venv", str(self.home / "venv"))
        pip = (str(self.python), "-m", "pip", "--quiet", "--disable-pip-version-check")
        wanted = f"{self.name}=={self.version}"
        where = ("--no-deps", "--no-binary", self.name, "--dest", str(self.home))
        _run(*pip, "download", *where, wanted)
        archive = self.home / f"{self.name}-{self.version}.tar.gz"
        with tarfile.open(archive) as packed:
            if hasattr(tarfile, "data_filter"):  # not in 3.11.0 to 3.11.3
                packed.extraction_filter = tarfile.data_filter
            packed.extractall(self.home)
        _run(*pip, "install", str(archive), *self.needs)
        done.touch()


AETCD: Final = Sdist(
    "aetcd",
    "1.0.0",
    ("pytest==9.0.3", "pytest-asyncio==1.3.0", "pytest-cov==7.1.0", "pytest-mock==3.15.1"),
    "TEST_ETCD_HTTP_URL",
    (
        *("--with-cluster", "--no-cov", "tests/integration"),
        "--deselect=tests/integration/test_auth.py",
    ),
)
# Its generated code and its use of fixtures in properties are of before these versions.
ETCD3: Final = Sdist(
    "etcd3",
    "0.12.0",
    ("protobuf<3.21", "hypothesis<5", "pytest<9", "mock", "six", "tenacity==6.1.0"),
    "PYTHON_ETCD_HTTP_URL",
    (
        "tests",
        "--deselect=tests/test_etcd3.py::TestAlarms",
        "--deselect=tests/test_etcd3.py::TestClient::test_compact",
    ),
)


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
