"""Watchers beside etcd, `make bench-watch`: latency, events per second, idle watchers, catching up.

Four scenes, each on a fresh member of either server, in turn:

  latency   1 writer at 1,000 puts/s, 1,000 watchers of one prefix: put -> event p50, p99
  fan-out   100 watchers of all keys, puts as fast as they go: events delivered per second
  idle      10,000 watchers of distinct keys: put throughput with and without them, memory
  catch-up  100 watchers from 100,000 revisions back: put p99 before and meanwhile, duration

The client counts events by a mark in their values and does not parse protobuf: what is measured
is the server. Every put's value holds the time it was sent, so an event tells its own latency.
Writes docs/benchmarks/watch.json and docs/benchmarks.md, unless --quick, --only or --no-docs.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import uvloop
from ngh2 import Configuration, Connection, Role
from ngh2.enums import Setting
from ngh2.events import DataReceived

from benchmarks import bench, report, results
from benchmarks.client import ClosedLoop, Load, LoadConnection, OpenLoop
from benchmarks.generator import Options, load, running
from benchmarks.members import Member, Server
from benchmarks.pairs import turns
from benchmarks.payloads import PUT_PATH, Request, frame, headers, key
from etcdpb import rpc_pb2

WATCH_PATH: Final = "/etcdserverpb.Watch/Watch"
MARK: Final = b"\xf0\x9f\x91\x80mark"
KEYS: Final = 10_000
VALUE_BYTES: Final = 256
CONNECTIONS: Final = 10
_TIME: Final = struct.Struct("<d")
_PREFIX: Final = struct.Struct(">BI")


def puts(authority: str) -> Iterator[Request]:
    """Yield puts whose values say when they were made."""
    head = headers(PUT_PATH, authority)
    filling = b"x" * (VALUE_BYTES - len(MARK) - 8)
    number = 0
    while True:
        number = (number * 1_103_515_245 + 12_345) % (1 << 31)
        value = filling + MARK + _TIME.pack(time.monotonic())
        put = rpc_pb2.PutRequest(key=key(number % KEYS), value=value)
        yield head, frame(put.SerializeToString())


class WatchConnection(asyncio.Protocol):
    """One connection with one stream of watchers. Counts events, notes latencies."""

    def __init__(self, authority: str, creates: list[rpc_pb2.WatchCreateRequest]) -> None:
        self._engine = Connection(Role.CLIENT, Configuration())
        self._engine.initiate_connection(
            {Setting.INITIAL_WINDOW_SIZE: 1 << 20, Setting.ENABLE_PUSH: 0}
        )
        self._engine.set_local_window_size(16 << 20)
        self._authority = authority
        self._creates = creates
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""
        self.events = 0
        self.responses = 0
        self.latencies: list[float] = []
        self.noting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Create the watchers."""
        self._transport = cast("asyncio.WriteTransport", transport)
        stream = self._engine.send_request(headers(WATCH_PATH, self._authority))
        for create in self._creates:
            request = rpc_pb2.WatchRequest(create_request=create)
            self._engine.send_data(stream, frame(request.SerializeToString()))
        self._write()

    def _write(self) -> None:
        data = self._engine.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Count, and note how old the last event of each response is."""
        self._engine.receive_data(data)
        pieces = [self._rest]
        pieces += [event.data for event in self._engine.events() if isinstance(event, DataReceived)]
        whole = b"".join(pieces)
        place = 0
        now = time.monotonic()
        while len(whole) - place >= 5:
            end = place + 5 + _PREFIX.unpack_from(whole, place)[1]
            if end > len(whole):
                break
            self.responses += 1
            found = whole.rfind(MARK, place, end)
            if found >= 0 and self.noting:
                self.latencies.append(now - _TIME.unpack_from(whole, found + len(MARK))[0])
            place = end
        self.events += whole.count(MARK, 0, place)
        self._rest = whole[place:]
        self._write()


async def connect(
    endpoint: str, creates: list[rpc_pb2.WatchCreateRequest], connections: int = CONNECTIONS
) -> list[WatchConnection]:
    """Spread watchers over connections; return when all are created."""
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    made: list[WatchConnection] = []
    for number in range(connections):
        share = creates[number::connections]
        _, protocol = await loop.create_connection(
            lambda share=share: WatchConnection(endpoint, share),  # type: ignore[misc]
            host,
            int(port),
        )
        made.append(protocol)
    while sum(each.responses for each in made) < len(creates):
        await asyncio.sleep(0.01)
    return made


async def write(
    endpoint: str, seconds: float, *, rate: float = 0.0, in_flight: int = 100
) -> dict[str, float]:
    """Put for a while; return puts per second and latencies in milliseconds."""
    load: Load
    if rate:
        load = OpenLoop(puts(endpoint), in_flight, rate)
    else:
        load = ClosedLoop(puts(endpoint), in_flight)
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    for _ in range(1 if rate else 4):
        _, connection = await loop.create_connection(lambda: LoadConnection(load), host, int(port))
        load.connections.append(connection)
    began = time.monotonic()
    load.begin()
    await asyncio.sleep(seconds)
    load.stop()
    await load.drained.wait()
    took = time.monotonic() - began
    record = load.record
    if record.errors:
        raise AssertionError(f"puts failed: {record.errors}")
    for connection in load.connections:
        connection.close()
    rate = len(record.latencies) / took
    found = {"puts": len(record.latencies), "puts_per_second": rate}
    return found | quantiles(list(record.latencies))


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    ordered = sorted(seconds) or [0.0]
    return {
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }


def all_keys(count: int, start: int = 0) -> list[rpc_pb2.WatchCreateRequest]:
    """Return requests for watchers of all keys of the benchmark."""
    return [
        rpc_pb2.WatchCreateRequest(key=b"/bench", range_end=b"/benci", start_revision=start)
        for _ in range(count)
    ]


async def delivered(watching: list[WatchConnection], wanted: int, patience: float) -> bool:
    """Wait until so many events have come; False when it took too long."""
    deadline = time.monotonic() + patience
    while sum(each.events for each in watching) < wanted:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.005)
    return True


async def latency(member: Member, seconds: float) -> dict[str, float]:
    """Scene (a)."""
    watching = await connect(member.endpoint, all_keys(1000))
    first = await write(member.endpoint, 1.0, rate=1000)
    for each in watching:
        each.noting = True
    began = time.monotonic()
    result = await write(member.endpoint, seconds, rate=1000)
    done = await delivered(watching, round(1000 * (first["puts"] + result["puts"])), 30)
    took = time.monotonic() - began
    noted = [latency for each in watching for latency in each.latencies]
    events = sum(each.events for each in watching)
    return (
        {"put_" + name: value for name, value in result.items()}
        | quantiles(noted)
        | {"events": events, "complete": done, "seconds": took}
    )


async def fan_out(member: Member, seconds: float) -> dict[str, float]:
    """Scene (b)."""
    watching = await connect(member.endpoint, all_keys(100))
    began = time.monotonic()
    result = await write(member.endpoint, seconds)
    done = await delivered(watching, 100 * round(result["puts"]), 60)
    took = time.monotonic() - began
    events = sum(each.events for each in watching)
    return result | {"events_per_second": events / took, "complete": done, "seconds": took}


async def idle(member: Member, seconds: float) -> dict[str, float]:
    """Scene (c)."""
    await write(member.endpoint, 1.0)
    without = await write(member.endpoint, seconds)
    before = member.pss_bytes()
    began = time.monotonic()
    creates = [rpc_pb2.WatchCreateRequest(key=b"/idle/%d" % number) for number in range(10_000)]
    await connect(member.endpoint, creates)
    took = time.monotonic() - began
    memory = member.pss_bytes() - before
    with_watchers = await write(member.endpoint, seconds)
    again = with_watchers["puts_per_second"]
    return {
        "puts_without": without["puts_per_second"],
        "puts_with": again,
        "ratio": again / without["puts_per_second"],
        "created_seconds": took,
        "bytes_per_watcher": memory / 10_000,
    }


async def catch_up(member: Member, seconds: float, history: int) -> dict[str, float]:
    """Scene (d). What writes is a process of its own: this one is busy with what it receives."""
    written = 0
    while written < history:
        result = await write(member.endpoint, min(2.0, seconds), in_flight=1000)
        written += round(result["puts"])
    steady = Options(
        op="put", in_flight=100, seconds=seconds, warmup=0.5, rate=1000, value_bytes=VALUE_BYTES
    )
    before = await asyncio.to_thread(load, member.endpoint, steady)
    with ExitStack() as stack:
        writer = await asyncio.to_thread(stack.enter_context, running(member.endpoint, steady))
        began = time.monotonic()
        watching = await connect(member.endpoint, all_keys(100, start=2))
        took: list[float] = []
        caught_up = asyncio.ensure_future(delivered(watching, 100 * written, 120))
        caught_up.add_done_callback(lambda _: took.append(time.monotonic() - began))
        await asyncio.to_thread(stack.close)
        done = await caught_up
    meanwhile = writer.result
    if meanwhile is None or meanwhile.errors:
        raise AssertionError(f"puts failed: {meanwhile}")
    return {
        "before_p99_ms": before.p99,
        "meanwhile_p99_ms": meanwhile.p99,
        "before_p50_ms": before.p50,
        "meanwhile_p50_ms": meanwhile.p50,
        "caught_up_seconds": took[0],
        "complete": done,
    }


SCENES: Final = {"latency": latency, "fan-out": fan_out, "idle": idle}
NAMES: Final = (*SCENES, "catch-up")


def run(
    server: Server, scene: str, seconds: float, history: int, folder: Path | None
) -> dict[str, Any]:
    """Run one scene on a fresh member and return its figures."""
    with tempfile.TemporaryDirectory(prefix="trouped-bench-", dir=folder) as directory:
        member = Member(server, Path(directory))
        member.start()
        try:
            if scene in SCENES:
                return uvloop.run(SCENES[scene](member, seconds))
            return uvloop.run(catch_up(member, seconds, history))
        finally:
            member.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 when a floor is not met."""
    options = bench.parser(__doc__)
    options.add_argument("--only", choices=NAMES, nargs="+", help="some scenes; no docs")
    options.add_argument("--rounds", type=int, help="rounds for each server (3)")
    options.add_argument("--seconds", type=float, help="length of a run (5)")
    given = options.parse_args(arguments)
    rounds = given.rounds or (1 if given.quick else 3)
    seconds = given.seconds or (1.0 if given.quick else 5.0)
    history = 10_000 if given.quick else 100_000
    both = bench.servers(given)
    facts = results.facts(*both)
    scenes: dict[str, list[list[dict[str, float]]]] = {}
    for scene in given.only or NAMES:
        runs: list[list[dict[str, float]]] = [[], []]
        for order in turns(rounds):
            for which in order:
                runs[which].append(run(both[which], scene, seconds, history, given.directory))
        scenes[scene] = runs
    result: dict[str, Any] = {
        "facts": facts,
        "labels": [server.label for server in both],
        "rounds": rounds,
        "seconds": seconds,
        "history": history,
        "scenes": scenes,
    }
    print(report.watch_section(result))
    if not (given.quick or given.only or given.no_docs):
        results.save("watch", result)
        report.write()
    missed = [said for _, _, met, said in report.watch_floors(scenes) if not met]
    for said in missed:
        print(f"floor not met: {said}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
