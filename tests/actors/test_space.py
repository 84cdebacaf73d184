"""The reserve of disk space."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.space import BALLAST_BYTES, SHARE_OF_DISK, Ballast


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


def test_a_reserve_from_an_earlier_run_is_found(tmp_path: Path) -> None:
    Ballast(tmp_path).keep()

    assert Ballast(tmp_path).present


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
