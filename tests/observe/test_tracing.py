"""OpenTelemetry: what explain shows arrives at a collector; without the packages it is refused."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from actors.tracing import MILLION, WAITING_MAX, Sampler, TraceExporter
from etcdpb import rpc_pb2 as pb
from supervisor import not_built
from tests.client import Client
from tests.member import Member, MemberError
from tests.supervisor.toys import eventually
from transport.log import Logger

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CONFIG = {
    "distributed_tracing_service_name": "shop",
    "distributed_tracing_instance_id": "m7",
}


class Collector:
    """Takes OTLP traces on a port of its own."""

    def __init__(self) -> None:
        service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        self.received: list[Any] = []
        self._server = grpc.server(ThreadPoolExecutor(1))
        handler = grpc.unary_unary_rpc_method_handler(
            self._take,
            request_deserializer=service.ExportTraceServiceRequest.FromString,
            response_serializer=lambda data: data,
        )
        path, _, method = EXPORT[1:].partition("/")
        generic = grpc.method_handlers_generic_handler(path, {method: handler})
        self._server.add_generic_rpc_handlers((generic,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _take(self, request: Any, _: grpc.ServicerContext) -> bytes:
        self.received.append(request)
        return b""

    def close(self) -> None:
        self._server.stop(None)

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resource(self) -> dict[str, str]:
        attributes = self.received[0].resource_spans[0].resource.attributes
        return {one.key: one.value.string_value for one in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def logger() -> Logger:
    return Logger(os.open(os.devnull, os.O_WRONLY), "gateway-0")


def explained(began_ns: int) -> dict[str, Any]:
    return {
        "kind": "write",
        "gateway": "gateway-0",
        "requests": 3,
        "began_ns": began_ns,
        "total_ns": 9000,
        "verdict": "9.0 µs: 5.0 µs waiting in applier's mailbox behind Apply",
        "spans": [
            {"actor": "raft-node", "what": "at work", "start_ns": 0, "length_ns": 4000}
            | {"behind": ""},
            {"actor": "applier", "what": "in the mailbox", "start_ns": 4000, "length_ns": 5000}
            | {"behind": "Apply"},
        ],
    }


def test_an_explanation_arrives_as_a_trace(collector: Collector) -> None:
    exporter = TraceExporter(
        CONFIG | {"distributed_tracing_address": collector.address}, "gateway-0", logger()
    )
    exporter.send(explained(time.monotonic_ns()))

    eventually(lambda: len(collector.spans()) == 3, "all spans arrive")

    spans = {span.name: span for span in collector.spans()}
    whole, box = spans["write"], spans["applier in the mailbox"]
    assert box.parent_span_id == whole.span_id
    assert {span.trace_id for span in spans.values()} == {whole.trace_id}
    assert box.start_time_unix_nano - whole.start_time_unix_nano == 4000
    assert box.end_time_unix_nano - box.start_time_unix_nano == 5000
    assert abs(whole.start_time_unix_nano - time.time_ns()) < 20e9
    texts = {one.key: one.value.string_value for one in box.attributes}
    assert texts["trouped.behind"] == "Apply"
    found = collector.resource()
    assert (found["service.name"], found["service.instance.id"]) == ("shop", "m7")


def test_what_nobody_takes_is_dropped_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TraceExporter, "_run", lambda self: threading.Event().wait(0.01))
    exporter = TraceExporter(CONFIG | {"distributed_tracing_address": "x:1"}, "g", logger())

    for _ in range(WAITING_MAX + 5):
        exporter.send({})

    assert exporter.dropped == 5


def test_the_sampling_rate_is_in_a_million_requests() -> None:
    sampler = Sampler(MILLION // 100, lambda: 0.5)
    sampler.saw(40)
    assert not sampler.wants()
    sampler.saw(60)
    assert sampler.wants()
    assert not sampler.wants()


def test_a_rate_of_nothing_takes_no_sample() -> None:
    sampler = Sampler(0, lambda: 0.0)
    sampler.saw(MILLION)

    assert not sampler.wants()


@pytest.mark.e2e
def test_a_member_sends_traces_of_its_requests(collector: Collector, tmp_path: Path) -> None:
    flags = [
        "--enable-distributed-tracing",
        f"--distributed-tracing-address={collector.address}",
        "--distributed-tracing-sampling-rate=1000000",
    ]
    with Member(tmp_path, flags=flags) as member, Client(member.endpoint) as client:

        def has_arrived() -> bool:
            assert client.answer(pb.PutRequest(key=b"a", value=b"pa55word"), timeout=9.0).ok
            return any(span.name == "applier at work" for span in collector.spans())

        eventually(has_arrived, "a trace has arrived")

    assert collector.resource()["service.name"] == "etcd"
    assert "pa55word" not in str(collector.received)


@pytest.mark.e2e
@pytest.mark.slow
def test_without_a_collector_the_member_works_and_says_so(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk.trace")
    flags = ["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000000"]
    flags += ["--distributed-tracing-address=127.0.0.1:1"]
    with Member(tmp_path, flags=flags) as member, Client(member.endpoint) as client:

        def is_told() -> bool:
            assert client.answer(pb.PutRequest(key=b"a"), timeout=9.0).ok
            return '"msg":"traces were not sent"' in member.log

        eventually(is_told, "the log says that no collector takes them")


def test_without_the_packages_the_flag_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked" / "opentelemetry"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("")
    environ = {"PYTHONPATH": str(blocked.parent)}
    monkeypatch.setattr(not_built, "TRACING", ("no_such_package.sdk",))

    assert not not_built._has_tracing()
    with pytest.raises(MemberError, match=r"needs more packages: pip install trouped\[tracing\]"):
        Member(tmp_path, flags=["--enable-distributed-tracing"], environ=environ).start()
