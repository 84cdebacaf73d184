"""Leases beside etcd, `make bench-leases`: many that are kept alive, and expiry under load.

Each scene runs on a fresh member of either server, in turn:

  kept      100,000 leases, granted as fast as it goes, then each renewed three times in its TTL
            for longer than that TTL, then as fast as it goes: memory, CPU, rates; none may be lost
  expiring  150 leases a second with a key each, never renewed, while puts saturate the server: how
            long after its TTL each key is deleted, by a watcher; none may go early

Writes docs/benchmarks/leases.json and docs/benchmarks.md, unless --quick, --only or --no-docs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import bench, report, results
from benchmarks.calls import Calls, check, connect
from benchmarks.client import ClosedLoop, LoadConnection
from benchmarks.generator import Options, running
from benchmarks.members import Member, Server
from benchmarks.pairs import turns
from benchmarks.payloads import PUT_PATH, Request, frame, headers
from etcdpb import rpc_pb2

GRANT_PATH: Final = "/etcdserverpb.Lease/LeaseGrant"
KEEP_ALIVE_PATH: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
WATCH_PATH: Final = "/etcdserverpb.Watch/Watch"
CONNECTIONS: Final = 10
GRANTS_IN_FLIGHT: Final = 200
RENEWALS_IN_FLIGHT: Final = 100  # on each connection, when it goes as fast as it can
RENEWALS_PER_TTL: Final = 3
TICK_SECONDS: Final = 0.005
PUTS_IN_FLIGHT: Final = 1000
PREFIX: Final = b"/expiring/"
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; times in seconds. `kept_ttl` is shorter than `kept_seconds`."""

    leases: int
    kept_ttl: int
    kept_seconds: float
    fast_seconds: float
    expiring: int
    expiring_ttl: int
    expiring_per_second: float


FULL: Final = Size(100_000, 60, 80.0, 10.0, 3_000, 5, 150.0)
QUICK: Final = Size(2_000, 3, 4.0, 1.0, 150, 2, 100.0)


def quantiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p99 and the greatest in milliseconds, named `name_p50_ms` and so on."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    places = {"p50": last // 2, "p99": last * 99 // 100, "max": last}
    return {f"{name}_{word}_ms": 1e3 * ordered[place] for word, place in places.items()}


# --- kept -----------------------------------------------------------------------------------------


def _grants(authority: str, ttl: int) -> Iterator[Request]:
    head = headers(GRANT_PATH, authority)
    number = 0
    while True:
        number += 1
        request = rpc_pb2.LeaseGrantRequest(ID=number, TTL=ttl)
        yield head, frame(request.SerializeToString())


async def grant_all(endpoint: str, count: int, ttl: int) -> float:
    """Grant leases 1 to `count`; return grants a second."""
    load = ClosedLoop(_grants(endpoint, ttl), GRANTS_IN_FLIGHT, count)
    host, _, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(lambda: LoadConnection(load), host, int(port))
        load.connections.append(connection)
    begun = time.monotonic()
    load.begin()
    await load.drained.wait()
    took = time.monotonic() - begun
    if load.record.errors:
        raise AssertionError(f"grants failed: {load.record.errors}")
    for connection in load.connections:
        connection.close()
    return count / took


class Renewals:
    """One stream of keep-alives. `due` are the times of those under way, in order."""

    def __init__(self, calls: Calls, leases: Sequence[int]) -> None:
        self.calls = calls
        self.latencies: list[float] = []
        self.answered = 0
        self.lost: set[int] = set()
        self.flat_out = False
        self._leases = leases
        self._next = 0
        self._due: deque[float] = deque()
        self._stream = calls.open(KEEP_ALIVE_PATH, self._take)

    def renew(self, due: float) -> None:
        """Renew the next lease; the caller flushes."""
        lease = self._leases[self._next % len(self._leases)]
        self._next += 1
        self._due.append(due)
        self.calls.send(self._stream, rpc_pb2.LeaseKeepAliveRequest(ID=lease))

    @property
    def under_way(self) -> int:
        """How many have not been answered yet."""
        return len(self._due)

    def _take(self, message: bytes, now: float) -> None:
        answer = rpc_pb2.LeaseKeepAliveResponse.FromString(message)
        if answer.TTL <= 0:
            self.lost.add(answer.ID)
        self.latencies.append(now - self._due.popleft())
        self.answered += 1
        if self.flat_out:
            self.renew(now)


async def _steady(streams: Sequence[Renewals], per_second: float, seconds: float) -> None:
    """Renew on a schedule."""
    begun = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < begun + seconds:
        while sent < (now - begun) * per_second:
            streams[sent % len(streams)].renew(begun + sent / per_second)
            sent += 1
        for stream in streams:
            stream.calls.flush()
        check([stream.calls for stream in streams])
        await asyncio.sleep(TICK_SECONDS)


async def _drained(streams: Sequence[Renewals]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(stream.under_way for stream in streams):
        check([stream.calls for stream in streams])
        if time.monotonic() > deadline:
            raise AssertionError("keep-alives were not answered")
        await asyncio.sleep(TICK_SECONDS)


async def kept(member: Member, size: Size) -> dict[str, float]:
    """Grant, keep alive on a schedule, keep alive as fast as it goes."""
    before = member.pss_bytes()
    granted = await grant_all(member.endpoint, size.leases, size.kept_ttl)
    after = member.pss_bytes()
    connections = await connect(member.endpoint, CONNECTIONS)
    streams = [
        Renewals(calls, range(number + 1, size.leases + 1, CONNECTIONS))
        for number, calls in enumerate(connections)
    ]
    rate = size.leases * RENEWALS_PER_TTL / size.kept_ttl
    cpu = member.cpu_seconds()
    begun = time.monotonic()
    await _steady(streams, rate, size.kept_seconds)
    await _drained(streams)
    cpu_percent = 100 * (member.cpu_seconds() - cpu) / (time.monotonic() - begun)
    latencies = [each for stream in streams for each in stream.latencies]
    steady_pss = member.pss_bytes()
    answered = sum(stream.answered for stream in streams)
    cpu = member.cpu_seconds()
    begun = time.monotonic()
    for stream in streams:
        stream.flat_out = True
        for _ in range(RENEWALS_IN_FLIGHT):
            stream.renew(begun)
        stream.calls.flush()
    await asyncio.sleep(size.fast_seconds)
    took = time.monotonic() - begun
    fast = sum(stream.answered for stream in streams) - answered
    spent = member.cpu_seconds() - cpu
    for stream in streams:
        stream.flat_out = False
    await _drained(streams)
    lost = set().union(*(stream.lost for stream in streams))
    for calls in connections:
        calls.close()
    return {
        "leases": size.leases,
        "grants_per_second": granted,
        "bytes_per_lease": (after - before) / size.leases,
        "steady_pss_bytes": steady_pss,
        "steady_per_second": rate,
        "steady_cpu_percent": cpu_percent,
        **quantiles("steady", latencies),
        "fast_per_second": fast / took,
        "fast_us_per_renewal": 1e6 * spent / max(fast, 1),
        "lost": len(lost),
    }


# --- expiring -------------------------------------------------------------------------------------


class Expiries:
    """Grants leases with a key each and sees the keys go. Times by number of the lease."""

    def __init__(self, calls: Calls, watching: Calls, ttl: int) -> None:
        self.asked: dict[int, float] = {}
        self.granted: dict[int, float] = {}
        self.gone: dict[int, float] = {}
        self.ttl = ttl
        self.watched = False
        self._calls = calls
        stream = watching.open(WATCH_PATH, self._told)
        create = rpc_pb2.WatchCreateRequest(
            key=PREFIX, range_end=PREFIX[:-1] + b"0", filters=[rpc_pb2.WatchCreateRequest.NOPUT]
        )
        watching.send(stream, rpc_pb2.WatchRequest(create_request=create))
        watching.flush()

    def grant(self, number: int) -> None:
        """Grant lease `number`, then put its key."""
        self.asked[number] = time.monotonic()
        request = rpc_pb2.LeaseGrantRequest(ID=number, TTL=self.ttl)
        self._calls.unary(GRANT_PATH, request, partial(self._is_granted, number))
        self._calls.flush()

    def _is_granted(self, number: int, message: bytes, now: float) -> None:
        if self.ttl != rpc_pb2.LeaseGrantResponse.FromString(message).TTL:
            raise AssertionError("another TTL was granted")
        self.granted[number] = now
        put = rpc_pb2.PutRequest(key=PREFIX + b"%08d" % number, value=b"v", lease=number)
        self._calls.unary(PUT_PATH, put, lambda _message, _now: None)

    def _told(self, message: bytes, now: float) -> None:
        self.watched = True
        for event in rpc_pb2.WatchResponse.FromString(message).events:
            self.gone.setdefault(int(event.kv.key[len(PREFIX) :]), now)


async def _expire(endpoint: str, size: Size) -> dict[str, float]:
    calls, watching = await connect(endpoint, 2)
    expiries = Expiries(calls, watching, size.expiring_ttl)
    while not expiries.watched:
        await asyncio.sleep(TICK_SECONDS)
    begun = time.monotonic()
    deadline = begun + size.expiring / size.expiring_per_second + size.expiring_ttl
    deadline += PATIENCE_SECONDS
    number = 0
    while len(expiries.gone) < size.expiring and time.monotonic() < deadline:
        due = (time.monotonic() - begun) * size.expiring_per_second
        while number < min(due, size.expiring):
            number += 1
            expiries.grant(number)
        check([calls, watching])
        await asyncio.sleep(TICK_SECONDS)
    calls.close()
    watching.close()
    gone, ttl = expiries.gone, size.expiring_ttl
    late = [when - expiries.granted[number] - ttl for number, when in gone.items()]
    early = sum(when < expiries.asked[number] + ttl for number, when in gone.items())
    return {
        "expiring": size.expiring,
        "never": size.expiring - len(gone),
        "early": early,
        "over_a_second": sum(each > 1.0 for each in late),
        **quantiles("late", late),
    }


async def expiring(member: Member, size: Size) -> dict[str, float]:
    """Let leases expire under puts that saturate the server."""
    seconds = size.expiring / size.expiring_per_second + size.expiring_ttl + 1.0
    options = Options(
        op="put", in_flight=PUTS_IN_FLIGHT, connections=CONNECTIONS, seconds=seconds, warmup=1.0
    )
    loop = asyncio.get_running_loop()
    load = running(member.endpoint, options)
    run = await loop.run_in_executor(None, load.__enter__)
    try:
        found = await _expire(member.endpoint, size)
    finally:
        await loop.run_in_executor(None, load.__exit__, None, None, None)
    if run.result is None:
        raise AssertionError("a run that ended has a result")
    return found | {"puts_per_second": run.result.ops_per_second}


SCENES: Final = {"kept": kept, "expiring": expiring}


def run(server: Server, scene: str, size: Size, folder: Path | None) -> dict[str, float]:
    """Run one scene on a fresh member and return its figures."""
    with tempfile.TemporaryDirectory(prefix="trouped-bench-", dir=folder) as directory:
        member = Member(server, Path(directory))
        member.start()
        try:
            return uvloop.run(SCENES[scene](member, size))
        finally:
            member.stop()


def wrong(scenes: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> list[str]:
    """Return what must not be and was: leases lost, expired early, too late or never."""
    names = ("lost", "early", "over_a_second", "never")
    subject = [run for runs in scenes.values() for run in runs[0]]
    return [name for name in names if any(run.get(name) for run in subject)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 when the subject did something `wrong`."""
    options = bench.parser(__doc__)
    options.add_argument("--rounds", type=int, help="rounds for each server (3)")
    options.add_argument("--only", choices=list(SCENES), nargs="+", help="some scenes; no docs")
    given = options.parse_args(arguments)
    size = QUICK if given.quick else FULL
    both = bench.servers(given)
    facts = results.facts(*both)
    scenes: dict[str, list[list[dict[str, float]]]] = {}
    for scene in given.only or SCENES:
        runs: list[list[dict[str, float]]] = [[], []]
        for order in turns(given.rounds or (1 if given.quick else 3)):
            for which in order:
                runs[which].append(run(both[which], scene, size, given.directory))
        scenes[scene] = runs
    result: dict[str, Any] = {
        "facts": facts,
        "labels": [server.label for server in both],
        "leases": size.leases,
        "kept_ttl": size.kept_ttl,
        "kept_seconds": size.kept_seconds,
        "expiring": size.expiring,
        "expiring_ttl": size.expiring_ttl,
        "expiring_per_second": size.expiring_per_second,
        "scenes": scenes,
    }
    print(report.leases_section(result))
    if not (given.quick or given.only or given.no_docs):
        results.save("leases", result)
        report.write()
    bad = wrong(scenes)
    for name in bad:
        print(f"not met: leases {name.replace('_', ' ')}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
