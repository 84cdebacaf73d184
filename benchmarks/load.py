"""The load generator, a process of its own: `python -m benchmarks.load --endpoint 127.0.0.1:2379`.

Prints one JSON object (see `benchmarks.latency.LoadResult`); with --announce one before it, with
the moment the window opens, in CLOCK_MONOTONIC.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.client import ClosedLoop, Load, LoadConnection, OpenLoop, Record
from benchmarks.latency import LoadResult, percentile, timeline, write_samples
from benchmarks.payloads import OPS, requests

DRAIN_TIMEOUT: Final = 30.0


def parser() -> argparse.ArgumentParser:
    """Return the options of the generator."""
    options = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    add = options.add_argument
    add(
        "--endpoint",
        default="127.0.0.1:2379",
        help="host:port of the client API; of several, with commas between, connections take turns",
    )
    add("--op", choices=OPS, default="put")
    add("--in-flight", type=int, default=100, help="requests at once, over all connections")
    add("--connections", type=int, help="default: connections_for(in-flight)")
    add("--seconds", type=float, default=5.0, help="length of the window")
    add("--count", type=int, help="send exactly so many, whatever the time")
    add("--warmup", type=float, default=0.5, help="seconds of load before the window")
    add("--rate", type=float, help="requests a second on a schedule (open loop)")
    add("--keys", type=int, default=100_000)
    add("--value-bytes", type=int, default=256)
    add("--seed", type=int, default=1)
    add("--timeline", type=float, metavar="SECONDS", help="also the worst request of each bin")
    add("--samples", type=Path, help="write every (due, latency) here, as pairs of doubles")
    add("--announce", action="store_true", help="say when the window opens")
    return options


def connections_for(in_flight: int) -> int:
    """Return how many connections carry so many requests: ten each once there are enough."""
    return 1 if in_flight <= 10 else in_flight // 10


async def run(options: argparse.Namespace) -> LoadResult:
    """Connect, warm up, measure, drain. Raises OSError when no connection can be made."""
    endpoints = [endpoint.rpartition(":") for endpoint in options.endpoint.split(",")]
    source = requests(
        options.op,
        authority=options.endpoint.partition(",")[0],
        keys=options.keys,
        value_bytes=options.value_bytes,
        seed=options.seed,
    )
    load: Load
    if options.rate:
        load = OpenLoop(source, options.in_flight, options.rate, options.count)
    else:
        load = ClosedLoop(source, options.in_flight, options.count)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_crash)
    wanted = options.connections or connections_for(options.in_flight)
    for number in range(wanted):
        host, _, port = endpoints[number % len(endpoints)]
        _, connection = await loop.create_connection(lambda: LoadConnection(load), host, int(port))
        load.connections.append(connection)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in the middle would be counted as the server's latency
    load.begin()
    warmed_up = 0
    if options.count is None:
        await asyncio.sleep(options.warmup)
        warmed_up = len(load.record.latencies)
        load.record = Record()
    return await _window(load, options, warmed_up)


async def _window(load: Load, options: argparse.Namespace, warmed_up: int) -> LoadResult:
    started = time.monotonic()
    cpu = _cpu_seconds()
    if options.announce:
        print(json.dumps({"started": started}), flush=True)
    if options.count is None:
        await _drained_within(load, options.seconds)
    else:
        await load.drained.wait()
    elapsed = time.monotonic() - started
    cpu = _cpu_seconds() - cpu
    record = load.record
    ops = len(record.latencies)
    load.stop()
    if not await _drained_within(load, DRAIN_TIMEOUT):
        record.errors["unanswered"] = load.in_flight
    for connection in load.connections[:]:
        load.connections.remove(connection)
        connection.close()
    if options.samples:
        write_samples(options.samples, record.due, record.latencies)
    ordered = sorted(record.latencies)
    return LoadResult(
        op=options.op,
        ops=ops,
        seconds=round(elapsed, 4),
        ops_per_second=round(ops / elapsed, 1),
        p50=_milliseconds(percentile(ordered, 50)),
        p90=_milliseconds(percentile(ordered, 90)),
        p99=_milliseconds(percentile(ordered, 99)),
        max=_milliseconds(percentile(ordered, 100)),
        all_ops=warmed_up + len(ordered),
        errors=record.errors,
        client_cpu_seconds=round(cpu, 4),
        client_us_per_op=round(cpu / max(ops, 1) * 1e6, 2),
        response_bytes=record.response_bytes,
        started=started,
        timeline=timeline(record.due, record.latencies, started, options.timeline)
        if options.timeline
        else [],
    )


async def _drained_within(load: Load, seconds: float) -> bool:
    try:
        await asyncio.wait_for(load.drained.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _crash(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process: figures taken after a fault in the generator would be wrong."""
    print(context.get("exception") or context["message"], file=sys.stderr, flush=True)
    os._exit(2)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the generator; exit code 1 when any request failed."""
    options = parser().parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(run(options))
    print(json.dumps(result.to_dict()), flush=True)
    return 1 if result.errors else 0


if __name__ == "__main__":
    sys.exit(main())
