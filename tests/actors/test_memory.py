"""The memory of actors is read beside the loop, at most once in some seconds."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from actors import memory
from actors.memory import ActorMemory
from tests.actors.boards import make_board
from transport.counters import Board, Cell


@pytest.fixture
def board(tmp_path: Path) -> Board:
    made = make_board(tmp_path)
    for name in made.names:
        made.set(name, Cell.PID, os.getpid())
    return made


async def fresh(read: ActorMemory) -> None:
    done = asyncio.Event()
    read.when_fresh(done.set)
    await done.wait()


def test_memory_is_that_of_the_process_and_is_told_again_for_a_while(board: Board) -> None:
    async def run() -> None:
        read = ActorMemory(board, asyncio.get_running_loop())
        assert read.pss_bytes("applier") == -1

        await fresh(read)

        assert read.pss_bytes("applier") > 1 << 20
        assert read.pss_bytes("root") > 1 << 20
        again: list[int] = []
        read.when_fresh(lambda: again.append(1))
        assert again == [1]

    asyncio.run(run())


def test_a_new_process_has_not_the_memory_of_the_one_before(board: Board) -> None:
    async def run() -> None:
        read = ActorMemory(board, asyncio.get_running_loop())
        await fresh(read)

        board.set("applier", Cell.PID, os.getppid())

        assert read.pss_bytes("applier") == -1
        assert read.pss_bytes("lessor") > 0
        again: list[int] = []
        read.when_fresh(lambda: again.append(1))
        assert again == []
        await fresh(read)

    asyncio.run(run())


def test_a_slow_kernel_holds_up_neither_the_loop_nor_a_scrape_for_long(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    begun: list[int] = []

    def slow(pid: int) -> int:
        begun.append(pid)
        go_on.wait(30.0)
        return 7

    monkeypatch.setattr(memory, "pss_bytes", slow)

    async def run() -> None:
        read = ActorMemory(board, asyncio.get_running_loop())
        began = time.monotonic()
        await asyncio.gather(fresh(read), fresh(read))
        assert memory.WAIT_SECONDS <= time.monotonic() - began < 10.0
        assert len(begun) == 1, "one thread reads for all scrapes"
        assert read.pss_bytes("applier") == -1

        go_on.set()
        await fresh(read)

        assert read.pss_bytes("applier") == 7

    asyncio.run(run())
