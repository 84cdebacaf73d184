"""Clients of every kind on one member, and how long each of them had to wait since a moment.

None retries. Each subject is a closed loop on a connection of its own: an answer, a short rest, the
next call. What is looked at after a fault is the calls that were under way or begun since then.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from etcdpb import rpc_pb2 as pb
from etcdpb.kv_pb2 import KeyValue
from tests.client import OPTIONS, CallError, Client
from tests.watch.streams import StreamEndedError, Watches

CALL_SECONDS: Final = 15.0
REST_SECONDS: Final = 0.004
RECONNECT_SECONDS: Final = 0.02
HEALTHY_SECONDS: Final = 30.0
LEASE_SECONDS: Final = 60
KEY: Final = b"matrix/counter"
SUBJECTS: Final = ("put", "get", "serializable get", "watch", "keep-alive")


@dataclass
class Calls:
    """What one subject saw: (begun, ended, error or "") of each call, CLOCK_MONOTONIC."""

    spans: list[tuple[float, float, str]] = field(default_factory=list)
    under_way: float = 0.0

    def since(self, moment: float) -> list[tuple[float, float, str]]:
        """Return the calls that had not ended at a moment."""
        return [span for span in list(self.spans) if span[1] >= moment]


class Load:
    """All subjects at once. A context manager; `calls` are by subject."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._ending = threading.Event()
        self.calls = {subject: Calls() for subject in SUBJECTS}
        self.acknowledged = 0
        self.unknown = 0
        self._acknowledged_at: dict[int, float] = {}
        self._asked = 0
        self._values: set[bytes] = set()
        self._doubled: set[bytes] = set()
        with Client(endpoint) as client:
            granted = client.call(
                pb.LeaseGrantRequest(TTL=LEASE_SECONDS), pb.LeaseGrantResponse, CALL_SECONDS
            )
            self._lease = granted.ID
            found = client.range(pb.RangeRequest(key=KEY)).kvs
            self.version_before = found[0].version if found else 0
        self._threads = [
            threading.Thread(target=target, args=arguments, daemon=True)
            for target, *arguments in (
                (self._loop, "put", self._put),
                (self._loop, "get", lambda client: client.get(KEY, timeout=CALL_SECONDS)),
                (
                    self._loop,
                    "serializable get",
                    lambda client: client.get(KEY, serializable=True, timeout=CALL_SECONDS),
                ),
                (self._watch,),
                (self._keep_alive,),
            )
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.wait_healthy(time.monotonic())
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 5)

    # --- subjects ---------------------------------------------------------------------------------

    def _loop(self, subject: str, call: Callable[[Client], Any]) -> None:
        calls = self.calls[subject]
        with Client(self._endpoint) as client:
            while not self._ending.is_set():
                began = calls.under_way = time.monotonic()
                error = ""
                try:
                    call(client)
                except CallError as failed:
                    error = failed.answer.code
                calls.spans.append((began, time.monotonic(), error))
                calls.under_way = 0.0
                self._ending.wait(RECONNECT_SECONDS if error else REST_SECONDS)

    def _put(self, client: Client) -> None:
        self._asked += 1  # every attempt has a value of its own: twice in the history is doubled
        try:
            revision = client.put(KEY, b"%d" % self._asked, timeout=CALL_SECONDS)
        except CallError:
            self.unknown += 1
            raise
        self.acknowledged += 1
        self._acknowledged_at[revision] = time.monotonic()

    def _watch(self) -> None:
        """From a put's answer to its event; a stream that ends is an error, and opened again."""
        calls, revision = self.calls["watch"], 0
        while not self._ending.is_set():
            with Watches(self._endpoint) as watches:
                stream = watches.stream()
                try:
                    stream.create(KEY, start_revision=revision)
                    while not self._ending.is_set():
                        try:
                            response = stream.next(0.05)
                        except queue.Empty:
                            continue
                        for event in response.events:
                            revision = event.kv.mod_revision + 1
                            self._seen(calls, event.kv)
                except StreamEndedError as error:
                    now = time.monotonic()
                    calls.spans.append((now, now, str(error)))
                    self._ending.wait(RECONNECT_SECONDS)

    def _seen(self, calls: Calls, pair: KeyValue) -> None:
        now = time.monotonic()
        if pair.value in self._values:
            self._doubled.add(pair.value)
        self._values.add(pair.value)
        answered = self._acknowledged_at.pop(pair.mod_revision, now)
        calls.spans.append((min(answered, now), now, ""))

    def _keep_alive(self) -> None:
        calls = self.calls["keep-alive"]
        while not self._ending.is_set():
            channel = grpc.insecure_channel(self._endpoint, options=OPTIONS)
            try:
                self._renew(channel, calls)
            except grpc.RpcError as error:
                code: Any = error
                now = time.monotonic()
                calls.spans.append((calls.under_way or now, now, code.code().name))
                self._ending.wait(RECONNECT_SECONDS)
            finally:
                channel.close()

    def _renew(self, channel: Any, calls: Calls) -> None:
        asked: queue.SimpleQueue[pb.LeaseKeepAliveRequest | None] = queue.SimpleQueue()
        stub = channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=pb.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=pb.LeaseKeepAliveResponse.FromString,
        )
        answers: Iterator[pb.LeaseKeepAliveResponse] = stub(iter(asked.get, None))
        while not self._ending.is_set():
            calls.under_way = began = time.monotonic()
            asked.put(pb.LeaseKeepAliveRequest(ID=self._lease))
            answer = next(answers)
            calls.spans.append((began, time.monotonic(), "" if answer.TTL > 0 else "TTL 0"))
            calls.under_way = 0.0
            self._ending.wait(5 * REST_SECONDS)
        asked.put(None)

    # --- looking ----------------------------------------------------------------------------------

    def wait_healthy(self, moment: float) -> bool:
        """Wait until every subject has had a good answer to a call begun since a moment."""
        until = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < until:
            if all(
                any(began >= moment and not error for began, _, error in calls.spans[-50:])
                for calls in self.calls.values()
            ):
                return True
            time.sleep(0.005)
        return False

    def added(self, subject: str, moment: float) -> tuple[float, set[str]]:
        """Return the seconds by which the slowest call since a moment was slower, and errors."""
        calls = self.calls[subject]
        spans = list(calls.spans)
        usual = statistics.median([e - b for b, e, bad in spans if not bad][:200] or [0.0])
        since = [span for span in spans if span[1] >= moment]
        worst = max((ended - began for began, ended, _ in since), default=0.0)
        if calls.under_way:
            worst = max(worst, time.monotonic() - calls.under_way)
        return max(0.0, worst - usual), {error for _, _, error in since if error}

    def data_error(self) -> str:
        """Return what is wrong with the counter: "" if every put was applied once."""
        acknowledged = self.acknowledged
        with Client(self._endpoint) as client:
            found = client.range(pb.RangeRequest(key=KEY), timeout=CALL_SECONDS).kvs
        version = (found[0].version if found else 0) - self.version_before
        if version < acknowledged:
            return f"lost: {acknowledged} acknowledged, {version} applied"
        acknowledged = self.acknowledged + self.unknown + 1  # one may be under way
        if version > acknowledged:
            return f"doubled: {acknowledged} asked for, {version} applied"
        if self._doubled:
            return f"doubled: {sorted(self._doubled)[:5]}"
        return ""
