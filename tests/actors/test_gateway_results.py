"""What a gateway does with the results of writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors import gateway as gateway_module
from actors.gateway import UNREAD, Gateway
from api.grpc import Limits
from kv.errors import Code
from tests.api.wire import LATER, Wire

PIECE = 50_000


def written(size: int, count: int) -> Wire:
    """Answer `count` writes of a client that reads nothing with results of `size` bytes."""
    wire = Wire(limits=Limits(connection_queue_bytes=10 * PIECE), reads=False)
    gateway: Any = SimpleNamespace(header=lambda revision: b"")
    for _ in range(count):
        wire.call(LATER, b"")
        call, _ = wire.service.waiting.pop()
        Gateway._deliver(gateway, call, 7, b"x" * size)
        wire.exchange()
    return wire


def test_results_that_a_client_does_not_read_are_dropped_when_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not those of one that has asked for much at once, and reads."""
    monkeypatch.setattr(gateway_module, "UNREAD_BYTES_MAX", 40 * PIECE)
    wire = written(PIECE, 100)

    dropped = [each for each in wire.answers.values() if b"grpc-status" in each.headers]
    assert 39 * PIECE < wire.server.http2.queued_body_size() < 44 * PIECE
    assert {(each.code, each.text) for each in dropped} == {(Code.RESOURCE_EXHAUSTED, UNREAD)}


def test_small_results_are_not_dropped() -> None:
    wire = written(1000, 100)

    assert not [each for each in wire.answers.values() if b"grpc-status" in each.headers]
