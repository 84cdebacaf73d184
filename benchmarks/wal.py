"""How fast the log is: python -m benchmarks.wal [folder]."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from raft.state import Entry, HardState, SnapshotMetadata
from storage.files import OsFiles
from storage.wal import SEGMENT_BYTES, Wal

FILES = OsFiles()
BATCH_BYTES = 32 << 10


def quantiles(seconds: list[float]) -> str:
    """Format p50 and p99 in microseconds."""
    ordered = sorted(seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"p50 {p50 * 1e6:7.1f} us   p99 {p99 * 1e6:7.1f} us"


def timed(call: Callable[[], object]) -> float:
    """Return how long a call took, in seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def appends(wal: Wal) -> list[float]:
    """Append 20,000 entries of 300 bytes one by one, not synced."""
    data, first = os.urandom(300), wal.last_index + 1
    return [
        timed(lambda i=i: wal.append([Entry(3, i, data)], HardState(3, 1, i - 1)))  # type: ignore[misc]
        for i in range(first, first + 20_000)
    ]


def synced(wal: Wal) -> list[float]:
    """Append and sync 500 batches of 32 KiB."""
    data, first = os.urandom(BATCH_BYTES), wal.last_index + 1

    def batch(index: int) -> None:
        wal.append([Entry(3, index, data)], None)
        wal.sync()

    return [timed(lambda i=i: batch(i)) for i in range(first, first + 500)]  # type: ignore[misc]


def bare(path: Path) -> list[float]:
    """Write and fdatasync 500 times 32 KiB in a zero-filled file: what the disk allows."""
    data = os.urandom(BATCH_BYTES)
    descriptor = FILES.create(path)
    FILES.pwrite(descriptor, [bytes(1 << 20)] * 17, 0)
    FILES.fdatasync(descriptor)

    def batch(place: int) -> None:
        FILES.pwrite(descriptor, [data], place * (BATCH_BYTES + 96))
        FILES.fdatasync(descriptor)

    return [timed(lambda i=i: batch(i)) for i in range(500)]  # type: ignore[misc]


def replays(folder: Path, count: int, size: int) -> str:
    """Fill a segment with records of `count` entries of `size` bytes and open it."""
    wal = Wal.create(folder, b"", FILES)
    data, index = os.urandom(size), 1
    while wal.bytes_written < SEGMENT_BYTES - 2 * BATCH_BYTES:
        wal.append([Entry(3, index + i, data) for i in range(count)], HardState(3, 1, index))
        index += count
    wal.close()
    whole = min(timed(lambda: Wal.open(folder, FILES)[0].close()) for _ in range(3))
    wal, _ = Wal.open(folder, FILES)
    wal.save_snapshot(SnapshotMetadata(index - 1, 3))
    wal.close()
    covered = min(timed(lambda: Wal.open(folder, FILES)[0].close()) for _ in range(3))
    return f"{whole * 1e3:6.1f} ms, {covered * 1e3:6.1f} ms when a snapshot covers all"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        started = time.perf_counter()
        wal = Wal.create(folder / "wal", b"", FILES)
        print(f"create                       {(time.perf_counter() - started) * 1e3:6.1f} ms")
        print("append 300 B                ", quantiles(appends(wal)))
        wal.sync()
        print("append 32 KiB and sync      ", quantiles(synced(wal)))
        print("bare write and fdatasync    ", quantiles(bare(folder / "bare")))
        wal.close()
        for count, size in ((1, 32 << 10), (10, 3000), (100, 300), (1, 300)):
            text = replays(folder / f"wal-{count}-{size}", count, size)
            print(f"replay a segment of {count:3} x {size:5} B ", text)


if __name__ == "__main__":
    main()
