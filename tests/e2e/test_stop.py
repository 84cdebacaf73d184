"""SIGTERM ends a member soon, whatever its clients have open."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.member import Member
from tests.watch.streams import Watches

STOP_SECONDS_MAX = 1.5


@pytest.mark.parametrize("streams", [0, 1, 50])
def test_a_member_stops_within_its_time_with_streams_open(tmp_path: Path, streams: int) -> None:
    with Member(tmp_path) as member, Watches(member.endpoint) as watches:
        for _ in range(streams):
            watches.stream().watch(b"a")

        began = time.monotonic()
        status = member.terminate()
        took = time.monotonic() - began

    print(f"{streams} streams open: stopped after {took:.2f} s")  # noqa: T201
    assert status == 0
    assert took < STOP_SECONDS_MAX
