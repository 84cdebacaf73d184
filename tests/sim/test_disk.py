"""What a simulated disk holds after a power loss."""

from __future__ import annotations

import random
from pathlib import Path

from tests.sim.disk import SimFiles

FOLDER = Path("/d")


def test_a_rename_over_a_file_leaves_the_old_or_the_new_one() -> None:
    found = set()
    for seed in range(50):
        files = SimFiles(random.Random(seed), lambda _: None)
        files.make_directory(FOLDER)
        for name in ("old", "new"):
            descriptor = files.create(FOLDER / name)
            files.pwrite(descriptor, [name.encode()], 0)
            files.fdatasync(descriptor)
        files.sync_directory(FOLDER)
        files.sync_directory(FOLDER.parent)

        files.rename(FOLDER / "new", FOLDER / "old")
        files.lose_power()

        found.add(files.pread(files.open(FOLDER / "old"), 10, 0))
    assert found == {b"old", b"new"}
