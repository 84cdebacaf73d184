"""The board that all actors write to."""

from __future__ import annotations

from pathlib import Path

from transport.counters import Board


def test_a_board_has_no_holes(tmp_path: Path) -> None:
    """A store into a hole of a full disk would be a SIGBUS."""
    Board(tmp_path / "board", create=["root", "applier"])

    found = (tmp_path / "board").stat()
    assert found.st_blocks * 512 >= found.st_size
