"""A fixture of all tests of storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.files import OsFiles


@pytest.fixture(autouse=True)
def left_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Close what a test leaves open, as the end of the process would that it plays."""
    descriptors: set[int] = set()
    open_, create, close = OsFiles.open, OsFiles.create, OsFiles.close

    def opened(files: OsFiles, path: Path) -> int:
        descriptors.add(found := open_(files, path))
        return found

    def created(files: OsFiles, path: Path) -> int:
        descriptors.add(found := create(files, path))
        return found

    def closed(files: OsFiles, descriptor: int) -> None:
        descriptors.discard(descriptor)
        close(files, descriptor)

    monkeypatch.setattr(OsFiles, "open", opened)
    monkeypatch.setattr(OsFiles, "create", created)
    monkeypatch.setattr(OsFiles, "close", closed)
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)
