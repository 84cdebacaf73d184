"""Big reads in slices: a range or a hash that would hold up the event loop works a bit per turn.

A client that does not read takes no turns and holds no connection until it can be written to
again: a stream when its queue is full, a unary call when too much waits for the whole client.
Nor does it take a place from others: jobs that have waited for it count for its connection alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from api.grpc import Call
from api.header import HeaderWriter
from etcdpb.rpc_pb2 import RangeRequest, TxnRequest
from kv.errors import REQUEST_TOO_MANY_REQUESTS, EtcdError
from storage.reader import Reader
from storage.scan import HashScan, Scan
from storage.txn_scan import TxnScan

SCANS_MAX: Final = 1000
"""Jobs at once that have not waited for their clients; and, of one connection, that have."""
Finished = Callable[[int, int, int, int], None]


class Job(Protocol):
    """Work in slices for one call."""

    def ready(self) -> bool:
        """Whether there is room for what a step makes; if not, the call's on_drain tells when."""

    def step(self) -> bool:
        """Work about a millisecond; True when done. Raises EtcdError."""

    def finish(self, call: Call) -> None:
        """Answer the call."""

    def close(self) -> None:
        """Let go of what the job holds; a step after that takes it again."""


class Scans:
    """A queue of jobs, one slice a turn, round robin."""

    def __init__(
        self, reader: Reader, header: HeaderWriter, call_soon: Callable[[Callable[[], None]], Any]
    ) -> None:
        self._reader = reader
        self._header = header
        self._call_soon = call_soon
        self._jobs: deque[tuple[Call, Job]] = deque()
        self._scheduled = False
        self._stalled = 0
        self._slow: dict[Call, object] = {}  # calls that have waited -> their connections
        self._slow_of: Counter[object] = Counter()

    def __len__(self) -> int:
        return len(self._jobs) + self._stalled

    def start_range(self, call: Call, request: RangeRequest, floor: int, *, stream: bool) -> None:
        """Start a range over a view that holds at least the applied index `floor`."""
        scan = self._reader.scan(request, floor, stream=stream)
        self.start(
            call,
            _StreamJob(scan, self._header, call) if stream else _UnaryJob(scan, self._header, call),
        )

    def start_txn(self, call: Call, request: TxnRequest, floor: int) -> None:
        """Start a read-only txn over a view that holds at least the applied index `floor`."""
        self.start(call, _UnaryJob(self._reader.scan_txn(request, floor), self._header, call))

    def start_hash(self, call: Call, revision: int, floor: int, finished: Finished) -> None:
        """Hash the history up to a revision (0: the newest) and tell `finished`."""
        self.start(call, _HashJob(self._reader.hash_kv(revision, floor), finished))

    def start(self, call: Call, job: Job) -> None:
        """Queue a job; too many at once are refused."""
        if len(self) - len(self._slow) >= SCANS_MAX:
            job.close()
            raise EtcdError(REQUEST_TOO_MANY_REQUESTS)
        self._jobs.append((call, job))
        self._schedule()

    def _schedule(self) -> None:
        if self._jobs and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        call, job = self._jobs.popleft()
        if call.closed:
            self._end(call, job)
        elif not job.ready():
            job.close()
            self._stall(call, job)
        else:
            self._work(call, job)
        self._schedule()

    def _work(self, call: Call, job: Job) -> None:
        try:
            if job.step():
                job.finish(call)
                self._end(call, job)
            else:
                self._jobs.append((call, job))
        except EtcdError as error:
            self._end(call, job)
            call.fail(error.status)

    def _end(self, call: Call, job: Job) -> None:
        job.close()
        if call in self._slow:
            connection = self._slow.pop(call)
            self._slow_of[connection] -= 1
            if not self._slow_of[connection]:
                del self._slow_of[connection]

    def _stall(self, call: Call, job: Job) -> None:
        """Wait until the client reads, or has gone; too many that wait for one client fail."""
        if call not in self._slow:
            connection = call.connection
            if self._slow_of[connection] >= SCANS_MAX:
                call.fail(REQUEST_TOO_MANY_REQUESTS)
                return
            self._slow[call] = connection
            self._slow_of[connection] += 1
        self._stalled += 1

        def go_on() -> None:
            call.on_drain = call.on_close = None
            self._stalled -= 1
            self._jobs.append((call, job))
            self._schedule()

        call.on_drain = call.on_close = go_on


class _UnaryJob:
    """Answers in one message; begins and goes on only while there is room for one."""

    def __init__(self, scan: Scan | TxnScan, header: HeaderWriter, call: Call) -> None:
        self._scan = scan
        self._header = header
        self._call = call
        self.step = scan.step
        self.close = scan.close

    def ready(self) -> bool:
        return self._call.take_room(0)

    def finish(self, call: Call) -> None:
        answer = b"".join([self._header(self._scan.revision), *self._scan.body()])
        call.take_room(len(answer))
        call.reply(answer)


class _HashJob:
    def __init__(self, scan: HashScan, finished: Finished) -> None:
        self._scan = scan
        self._finished = finished
        self.step = scan.step
        self.close = scan.close

    def ready(self) -> bool:
        return True

    def finish(self, call: Call) -> None:
        scan = self._scan
        self._finished(scan.revision, scan.hash, scan.compact_revision, scan.hash_revision)


class _StreamJob:
    """Sends RangeStream's chunks as they come; waits while the client does not read."""

    def __init__(self, scan: Scan, header: HeaderWriter, call: Call) -> None:
        self._scan = scan
        self._header = header
        self._call = call
        self.close = scan.close

    def ready(self) -> bool:
        return self._call.writable

    def step(self) -> bool:
        done: bool = self._scan.step()
        self._send()
        return done

    def finish(self, call: Call) -> None:
        self._send()
        call.finish()

    def _send(self) -> None:
        for chunk in self._scan.chunks(self._header):
            self._call.send(chunk)
