"""An actor's side of the log: one write a line, never waiting."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from transport.log import LINE_BYTES_MAX, Logger, timestamp


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe as root makes it: the writing end does not wait."""
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    yield ends
    for end in ends:
        os.close(end)


def read(descriptor: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in os.read(descriptor, 1 << 20).splitlines()]


def test_a_line_has_level_time_caller_message_and_fields(pipe: tuple[int, int]) -> None:
    Logger(pipe[1], "applier").warning("apply request took too long", took="1s")

    (line,) = read(pipe[0])

    assert list(line) == ["level", "ts", "caller", "msg", "took"]
    assert (line["level"], line["caller"], line["took"]) == ("warn", "applier", "1s")


def test_times_are_printed_as_etcd_prints_them() -> None:
    assert timestamp(1.0000021) == "1970-01-01T00:00:01.000002Z"
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{6}Z", timestamp(1_700_000_000.5))


def test_a_long_line_is_cut_to_one_write_and_stays_json(pipe: tuple[int, int]) -> None:
    Logger(pipe[1], "applier").error("actor crashed", stack="a" * 9000 + "the end", more="b" * 9000)

    data = os.read(pipe[0], 1 << 20)

    line = json.loads(data)
    assert len(data) <= LINE_BYTES_MAX + 1
    assert line["cut"] is True
    assert line["stack"].endswith("the end")


def test_a_message_that_is_too_long_by_itself_is_cut_too(pipe: tuple[int, int]) -> None:
    Logger(pipe[1], "applier").info("m" * 9000)

    (line,) = read(pipe[0])

    assert line["cut"] is True
    assert line["msg"].startswith("mmm")


def test_a_line_of_signs_that_json_spells_out_is_cut_to_one_write_too(
    pipe: tuple[int, int],
) -> None:
    Logger(pipe[1], "applier").error("\n" * 3000, error="\0" * 3000, stack="ß" * 3000)

    data = os.read(pipe[0], 1 << 20)

    assert len(data) <= LINE_BYTES_MAX + 1
    assert json.loads(data)["cut"] is True


def test_a_full_pipe_drops_and_the_next_line_says_how_many(pipe: tuple[int, int]) -> None:
    log = Logger(pipe[1], "applier")
    while not log.dropped:
        log.info("fill", text="x" * 3000)
    log.info("dropped too", text="x" * 3000)
    dropped = log.dropped

    whole = read(pipe[0])
    log.info("goes through")
    log.info("and another")

    assert all(line["msg"] == "fill" for line in whole)
    told, after = read(pipe[0])
    assert (told["msg"], told["lines_dropped"]) == ("goes through", dropped)
    assert dropped == 2
    assert "lines_dropped" not in after
