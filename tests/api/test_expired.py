"""Which calls count as expired: those whose time was over, whoever noticed first."""

from __future__ import annotations

import pytest

from api.grpc import DEADLINE_SLACK
from api.grpc_call import Call
from kv.errors import NO_LEADER, TIMEOUT, TIMEOUT_DUE_TO_LEADER_FAIL, Status
from tests.api.wire import LATER, Wire


def opened(wire: Wire, timeout: bytes = b"5S") -> tuple[int, Call]:
    stream_id = wire.open(LATER, (b"grpc-timeout", timeout))
    wire.send(stream_id, b"x", end=True)
    wire.exchange()
    return stream_id, wire.service.waiting[0][0]


def test_a_deadline_that_passes_is_counted_once() -> None:
    wire = Wire()
    _, call = opened(wire)

    wire.clock.now += 5
    wire.server.wake(wire.clock.now)
    wire.server.wake(wire.clock.now)

    assert call.method.expired == 1


@pytest.mark.parametrize(("left", "expired"), [(DEADLINE_SLACK / 2, 1), (DEADLINE_SLACK * 2, 0)])
def test_a_client_that_gives_up_at_its_deadline_is_counted_and_one_that_cancels_is_not(
    left: float, expired: int
) -> None:
    wire = Wire()
    stream_id, call = opened(wire)

    wire.clock.now += 5 - left
    wire.client.reset_stream(stream_id)
    wire.exchange()

    assert call.cancelled
    assert call.method.expired == expired


@pytest.mark.parametrize(
    ("status", "expired"), [(TIMEOUT, 1), (TIMEOUT_DUE_TO_LEADER_FAIL, 1), (NO_LEADER, 0)]
)
def test_what_the_server_gave_up_is_counted_and_other_refusals_are_not(
    status: Status, expired: int
) -> None:
    _, call = opened(Wire())

    call.fail(status)
    call.fail(status)

    assert call.method.expired == expired
