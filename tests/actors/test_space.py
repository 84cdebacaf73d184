"""The reserve of disk space."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from actors.space import BALLAST_BYTES, ROOM_BYTES_MAX, SHARE_OF_DISK, Ballast
from storage.database import DiskFullError
from storage.failures import once_there_is_space
from storage.wal_errors import WalSpaceError


def test_the_reserve_takes_up_space_and_gives_it_back(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path)
    disk = os.statvfs(tmp_path)
    expected = min(BALLAST_BYTES, disk.f_blocks * disk.f_frsize // SHARE_OF_DISK)

    assert ballast.keep()
    taken = (tmp_path / "ballast").stat().st_blocks * 512
    freed = ballast.release()

    assert taken >= expected
    assert freed == expected
    assert not ballast.present
    assert ballast.release() == 0
    assert ballast.room_bytes == min(ROOM_BYTES_MAX, expected // 4)


def test_a_reserve_from_an_earlier_run_is_found(tmp_path: Path) -> None:
    Ballast(tmp_path).keep()

    assert Ballast(tmp_path).present


def test_a_reserve_that_was_only_begun_is_made_anew(tmp_path: Path) -> None:
    Ballast(tmp_path).keep()
    size = (tmp_path / "ballast").stat().st_size
    (tmp_path / "ballast").write_bytes(b"")

    ballast = Ballast(tmp_path)

    assert not ballast.present
    assert ballast.keep()
    assert (tmp_path / "ballast").stat().st_size == size


def test_a_start_on_a_full_disk_is_tried_again_after_each_making_of_space() -> None:
    full = [
        OSError(errno.ENOSPC, "full"),
        WalSpaceError("full"),
        DiskFullError("full"),
    ]
    told: list[Exception] = []

    def start() -> str:
        if len(told) < len(full):
            raise full[len(told)]
        return "started"

    assert once_there_is_space(start, told.append) == "started"
    assert told == full


def test_other_failures_of_a_start_are_not_waited_out() -> None:
    def start() -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        once_there_is_space(start, lambda error: pytest.fail(str(error)))


def test_no_reserve_is_made_of_the_last_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    nearly_full = os.statvfs_result(
        (real.f_bsize, real.f_frsize, 1 << 20, 100, 100, *tuple(real)[5:])
    )
    monkeypatch.setattr(os, "statvfs", lambda _: nearly_full)

    assert not Ballast(tmp_path).keep()
    assert not (tmp_path / "ballast").exists()
