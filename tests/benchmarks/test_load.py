"""The load generator against a server that knows what it was asked."""

from __future__ import annotations

import argparse
import asyncio
import itertools

import pytest

from benchmarks.generator import GeneratorError, Options, load
from benchmarks.latency import LoadResult
from benchmarks.load import connections_for, parser, run
from benchmarks.payloads import (
    PUT_PATH,
    RANGE_PATH,
    put_body,
    range_body,
    requests,
)
from benchmarks.unary import CallError, linearizable_range, put
from etcdpb import rpc_pb2
from tests.benchmarks.tiny_server import TinyServer


def options(server: TinyServer, *more: str) -> argparse.Namespace:
    return parser().parse_args(["--endpoint", server.endpoint, "--keys", "100", *more])


def run_here(server: TinyServer, *more: str) -> LoadResult:
    """Run a load in this process, without uvloop."""
    return asyncio.run(run(options(server, *more)))


def test_a_counted_load_sends_exactly_that_many() -> None:
    with TinyServer() as server:
        result = run_here(server, "--count", "1003", "--in-flight", "20", "--connections", "4")

        assert result.ops == result.all_ops == 1003
        assert server.paths == {PUT_PATH: 1003}
        assert server.connections == 4
        assert result.failed == 0
        assert result.response_bytes == 5 * 1003
        assert 0 < result.p50 <= result.p90 <= result.p99 <= result.max


def test_a_timed_load_counts_what_was_answered_in_its_window() -> None:
    with TinyServer() as server:
        result = run_here(server, "--seconds", "0.3", "--warmup", "0.1", "--in-flight", "4")

        asked = server.paths[PUT_PATH]
        assert 0 < result.ops < asked
        assert asked - 4 <= result.all_ops <= asked
        assert result.ops_per_second == pytest.approx(result.ops / result.seconds, rel=0.01)


def test_a_fill_puts_every_key_once() -> None:
    with TinyServer() as server:
        run_here(server, "--op", "fill", "--count", "100", "--in-flight", "7")

        keys = {rpc_pb2.PutRequest.FromString(body[5:]).key for body in server.bodies}
        assert len(server.bodies) == 100
        assert keys == {b"/benchmark/%010d" % number for number in range(100)}


def test_a_mixed_load_sends_four_ranges_for_a_put() -> None:
    with TinyServer() as server:
        run_here(server, "--op", "mixed", "--count", "500")

        assert server.paths == {PUT_PATH: 100, RANGE_PATH: 400}


def test_prebuilt_bodies_are_the_ones_protobuf_makes() -> None:
    puts = requests("put", authority="x", keys=50, value_bytes=17)
    reads = requests("serializable", authority="x", keys=50)

    first = [body for _, body in itertools.islice(puts, 20)]
    assert set(first) <= {put_body(number, 17) for number in range(50)}
    assert len(set(first)) > 1
    head, body = next(reads)
    assert body in {range_body(number, serializable=True) for number in range(50)}
    assert (b":path", RANGE_PATH.encode()) in head


def test_answers_that_are_not_ok_are_errors_with_their_text() -> None:
    with TinyServer(fail_every=10) as server:
        result = run_here(server, "--count", "100", "--in-flight", "1")

        assert result.ops == 90
        assert result.errors == {"8 etcdserver: too many requests": 10}


def test_a_lost_connection_makes_its_open_calls_errors_and_ends_the_load() -> None:
    with TinyServer(cut_at=51) as server:
        result = run_here(server, "--count", "1000", "--in-flight", "1")

        assert result.ops == 50
        assert result.errors == {"connection lost": 1}


def test_a_stall_delays_every_put_that_was_due_in_it() -> None:
    # A closed loop would see one slow put; the schedule sees all that were due meanwhile.
    with TinyServer(stall_at=20, stall_seconds=0.4) as server:
        result = run_here(
            server,
            *("--rate", "200", "--in-flight", "1", "--seconds", "1", "--warmup", "0"),
            *("--timeline", "0.1"),
        )

        assert result.max >= 390
        assert result.p90 > 200  # 80 of 200 were due in the stall
        assert result.p50 < 200
        assert 195 <= result.all_ops <= 201  # none left out because the server was slow
        assert result.failed == 0
        # The first may have been answered before the window began.
        shown = sum(count for _, count, _ in result.timeline)
        assert result.all_ops - 1 <= shown <= result.all_ops
        worst = max(result.timeline, key=lambda each: each[2])
        assert worst[2] == pytest.approx(result.max, abs=0.001)
        assert worst[0] <= 0.3  # the bin of the time it was due, not of its answer


def test_a_closed_loop_sees_the_same_stall_once() -> None:
    with TinyServer(stall_at=20, stall_seconds=0.3) as server:
        result = run_here(server, "--in-flight", "1", "--count", "500")

        assert result.max >= 290
        assert result.p99 < 100


def test_an_open_loop_keeps_its_rate_and_its_bound() -> None:
    with TinyServer() as server:
        result = run_here(server, "--rate", "500", "--seconds", "0.6", "--warmup", "0.1")

        assert result.all_ops == pytest.approx(0.7 * 500, abs=30)
        assert result.failed == 0


def test_the_generator_runs_as_a_process_and_gives_its_json_back() -> None:
    with TinyServer() as server:
        result = load(server.endpoint, Options(op="range", in_flight=10, count=300, keys=50))

        assert (result.op, result.ops, result.errors) == ("range", 300, {})
        assert server.paths == {RANGE_PATH: 300}
        assert result.client_us_per_op > 0


def test_a_run_with_errors_is_not_a_result() -> None:
    with (
        TinyServer(fail_every=100) as server,
        pytest.raises(GeneratorError, match="too many requests"),
    ):
        load(server.endpoint, Options(op="put", in_flight=10, count=300, keys=50))


def test_nobody_at_the_endpoint_breaks_the_generator() -> None:
    with TinyServer() as server:
        endpoint = server.endpoint

    with pytest.raises(GeneratorError, match="without a result"):
        load(endpoint, Options(op="put", in_flight=1, count=1))


def test_a_single_call_returns_the_message_or_raises_the_status() -> None:
    with TinyServer(fail_every=2) as server:
        assert put(server.endpoint) == 0
        with pytest.raises(CallError, match="too many requests") as caught:
            linearizable_range(server.endpoint)

        assert caught.value.code == 8


def test_ten_calls_share_a_connection_once_there_are_enough() -> None:
    assert [connections_for(number) for number in (1, 10, 100, 1000)] == [1, 1, 10, 100]
