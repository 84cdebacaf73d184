"""The file that clocks are kept in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from actors.lease_clocks import FIRST_SLOTS, ClockFile, read_expiries
from kv.lease import Clock


def clock(number: int, expiry: int = 100) -> Clock:
    return Clock(number, 10, 0, number + 1, expiry)


def expiries(path: Path, term: int) -> dict[tuple[int, int], int]:
    file = ClockFile(path)
    found, _ = file.load(term)
    file.close()
    return found


def test_a_successor_finds_what_was_kept_last(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    file = ClockFile(path)
    file.begin(3)
    first, second, negative = clock(1), clock(2), clock(-(1 << 63))
    for one in (first, second, negative):
        file.keep(one)
    second.expiry = 900
    file.keep(second)
    file.drop(first)

    assert expiries(path, 3) == {(2, 3): 900, (-(1 << 63), -(1 << 63) + 1): 100}


def test_the_file_is_good_for_its_term_only(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    file = ClockFile(path)
    file.begin(3)
    file.keep(clock(1))

    assert expiries(path, 4) == {}
    file.begin(4)
    assert expiries(path, 4) == {}
    assert expiries(path, 3) == {}


def test_others_read_when_leases_expire(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    before = read_expiries(path, 3)
    file = ClockFile(path)
    file.begin(3)
    gone = clock(3)
    for one in (clock(1, 500), clock(-2, 400), gone):
        file.keep(one)
    file.drop(gone)

    assert before == {}
    assert read_expiries(path, 3) == {1: 500, -2: 400}
    assert read_expiries(path, 4) == {}


def test_it_tells_when_a_lessor_was_last_at_work(tmp_path: Path) -> None:
    file = ClockFile(tmp_path / "leases")
    file.begin(3)
    file.at_work(77)

    assert file.load(3)[1] == 77


def test_it_grows_and_uses_freed_slots_again(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    file = ClockFile(path)
    file.begin(1)
    clocks = [clock(number) for number in range(3 * FIRST_SLOTS)]
    for one in clocks:
        file.keep(one)
    size = path.stat().st_size
    for one in clocks:
        file.drop(one)
    for one in clocks:
        file.keep(one)

    assert path.stat().st_size == size
    assert len(expiries(path, 1)) == 3 * FIRST_SLOTS


def test_a_new_term_gives_no_room_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "leases"
    file = ClockFile(path)
    sizes = [path.stat().st_size]
    file.begin(1)
    file.keep(clock(5))
    shortened = os.ftruncate

    def truncate(descriptor: int, length: int) -> None:
        shortened(descriptor, length)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(os, "ftruncate", truncate)
    file.begin(2)

    assert len(sizes) == 2
    assert min(sizes) == sizes[0]
    assert expiries(path, 2) == {}


def test_a_file_of_something_else_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    path.write_bytes(b"\x03\0\0\0\0\0\0\0" * 50)

    assert expiries(path, 3) == {}


def test_a_clock_for_which_a_full_disk_has_no_room_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "leases"
    file = ClockFile(path)
    file.begin(1)
    clocks = [clock(number) for number in range(FIRST_SLOTS + 1)]
    for one in clocks[:-1]:
        file.keep(one)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        file.keep(clocks[-1])
    before = len(expiries(path, 1))
    file.keep(clocks[-1])

    assert before == FIRST_SLOTS
    assert len(expiries(path, 1)) == FIRST_SLOTS + 1


def test_the_file_has_no_holes(tmp_path: Path) -> None:
    """A store into a hole of a full disk would be a SIGBUS."""
    path = tmp_path / "leases"
    file = ClockFile(path)
    file.begin(1)
    for number in range(3 * FIRST_SLOTS):
        file.keep(clock(number))

    found = path.stat()
    assert found.st_blocks * 512 >= found.st_size
