"""`troupectl fault disk-full` is a full disk: what is allocated goes on, what grows fails."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from storage.faults import FaultyFiles
from supervisor.faults import RootFaults


def test_only_writes_that_make_a_file_longer_find_no_space(tmp_path: Path) -> None:
    faults = RootFaults(tmp_path, lambda _: 0, enabled=True)
    files = FaultyFiles(tmp_path / "disk-faults")
    descriptor = files.create(tmp_path / "file")
    files.pwrite(descriptor, [b"0123456789"], 0)

    faults.order({"verb": "disk-full"})

    files.pwrite(descriptor, [b"ab", b"cd"], 6)
    with pytest.raises(OSError, match="No space left") as full:
        files.pwrite(descriptor, [b"ab", b"cd"], 7)
    assert full.value.errno == errno.ENOSPC
    faults.order({"verb": "heal"})
    files.pwrite(descriptor, [b"ab", b"cd"], 7)
    files.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"012345aabcd"
