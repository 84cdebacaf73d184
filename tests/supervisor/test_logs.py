"""Root's side of the log: levels, formats, outputs, readers that do not read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import StartError
from supervisor.logs import BUFFER_BYTES_MAX, LogSink, Outlet

READ_BYTES = 1 << 16


def sink(path: Path, level: str = "info", log_format: str = "json") -> LogSink:
    return LogSink(level=level, log_format=log_format, outputs=[str(path)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose writing end waits, as an inherited stderr does."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def drain(descriptor: int) -> bytes:
    """Read what is in the pipe now."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while data := os.read(descriptor, READ_BYTES):
            found += data
    except BlockingIOError:
        pass
    return found


def test_a_line_of_roots_own_has_etcds_keys(tmp_path: Path) -> None:
    sink(tmp_path / "log").log("info", "starting an etcd server", name="m1")

    (line,) = lines(tmp_path / "log")

    assert list(line) == ["level", "ts", "caller", "msg", "name"]
    assert line["ts"].endswith("Z")


def test_lines_below_the_level_are_left_out(tmp_path: Path) -> None:
    log = sink(tmp_path / "log", level="WARN")

    for level in ("debug", "info", "warn", "error", "fatal"):
        log.log(level, level)
    log.feed(b'{"level":"info","msg":"from a child"}\n')

    assert [line["msg"] for line in lines(tmp_path / "log")] == ["warn", "error", "fatal"]


def test_a_line_may_come_in_pieces(tmp_path: Path) -> None:
    log = sink(tmp_path / "log")

    log.feed(b'{"level":"info","ms')
    log.feed(b'g":"one"}\n{"level":"info","msg":"two"}\n{"le')

    assert [line["msg"] for line in lines(tmp_path / "log")] == ["one", "two"]


def test_what_is_not_json_is_wrapped(tmp_path: Path) -> None:
    sink(tmp_path / "log").feed(b"Fatal Python error: \xff\n")

    (line,) = lines(tmp_path / "log")

    assert line["level"] == "error"
    assert line["caller"] == "stderr"
    assert line["msg"] == "Fatal Python error: \ufffd"


def test_words_without_an_end_of_line_do_not_gather_for_ever(tmp_path: Path) -> None:
    log = sink(tmp_path / "log")

    log.feed(b"x" * 5000)

    assert lines(tmp_path / "log")[0]["msg"] == "x" * 5000


def test_the_console_format_is_tab_separated(tmp_path: Path) -> None:
    log = sink(tmp_path / "log", log_format="console")

    log.log("warn", "slow fdatasync", seconds=1)

    ts, *rest = (tmp_path / "log").read_text().rstrip("\n").split("\t")
    assert ts.startswith("20")
    assert rest == ["warn", "root", "slow fdatasync", '{"seconds": 1}']


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    for number in range(2):
        sink(tmp_path / "log").log("info", str(number))

    assert [line["msg"] for line in lines(tmp_path / "log")] == ["0", "1"]


def test_every_output_gets_every_line(tmp_path: Path) -> None:
    outputs = [str(tmp_path / "a"), str(tmp_path / "b")]

    LogSink(level="info", log_format="json", outputs=outputs).log("info", "one")

    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() != ""


def test_dev_null_among_the_outputs_silences_all(tmp_path: Path) -> None:
    outputs = [str(tmp_path / "a"), os.devnull]

    LogSink(level="info", log_format="json", outputs=outputs).log("info", "one")

    assert not (tmp_path / "a").exists()


def test_a_log_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no/such/log: no such file or directory"):
        sink(tmp_path / "no" / "such" / "log")


def test_what_a_reader_does_not_take_waits_and_comes_in_order(pipe: tuple[int, int]) -> None:
    read, write = pipe
    outlet = Outlet(write)
    sent = [b"%06d " % number + b"x" * 3000 + b"\n" for number in range(200)]

    for line in sent:
        assert outlet.put(line)
    found = drain(read)
    while found.count(b"\n") < len(sent):
        outlet.flush()
        found += drain(read)

    assert found == b"".join(sent)


def test_what_does_not_fit_is_dropped_whole_and_counted(pipe: tuple[int, int]) -> None:
    read, write = pipe
    outlet = Outlet(write)
    line = b"x" * 3999 + b"\n"
    count = BUFFER_BYTES_MAX // len(line) + 100

    taken = sum(outlet.put(line) for _ in range(count))
    found = drain(read)
    while len(found) < taken * len(line):
        outlet.flush()
        found += drain(read)

    assert outlet.dropped == count - taken > 0
    assert found == line * taken


def test_a_reader_that_is_gone_stops_nobody() -> None:
    read, write = os.pipe()
    outlet = Outlet(write)
    os.close(read)

    outlet.put(b"one\n")
    outlet.flush()

    assert outlet.dropped == 1
    os.close(write)


def test_the_next_line_tells_how_many_were_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.logs.BUFFER_BYTES_MAX", 200)
    log = sink(tmp_path / "log")

    log.log("info", "x" * 300)
    log.log("info", "short")
    log.log("info", "after")

    short, after = lines(tmp_path / "log")
    assert short["lines_not_written"] == 1
    assert "lines_not_written" not in after
