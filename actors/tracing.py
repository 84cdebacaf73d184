"""OpenTelemetry traces of what `explain` shows, sent to a collector by OTLP over gRPC.

Only with --enable-distributed-tracing, and the packages of `pip install trouped[tracing]`. Nothing
is measured for it: a trace is an explanation (control.explain) that a gateway has made anyway, of a
slow request always, else of one request a second at most, with the likelihood that
--distributed-tracing-sampling-rate asks for. A thread makes spans of it; the SDK's own thread sends
them. What a collector does not take is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from queue import Full, Queue
from typing import Any, Final

from kv.version import VERSION
from transport.log import Logger

WAITING_MAX: Final = 100
SPANS_MAX: Final = 1000
SEND_MILLISECONDS: Final = 1000
COMPLAINT_SECONDS: Final = 60.0
MILLION: Final = 1_000_000
Explained = Mapping[str, Any]


class Sampler:
    """Decides which explanations become traces: slow ones, and of others `rate` in a million."""

    def __init__(self, rate: int, chance: Callable[[], float]) -> None:
        """`chance` gives numbers from 0 to 1."""
        self._rate = rate
        self._chance = chance
        self._requests = 0

    def saw(self, requests: int) -> None:
        """Count requests that were answered since the last sample."""
        self._requests += requests

    def wants(self) -> bool:
        """Whether the sample that was just taken, one for all counted, is to be sent."""
        likelihood = self._requests * self._rate / MILLION
        self._requests = 0
        return likelihood > 0 and self._chance() < likelihood


class TraceExporter:
    """Sends explanations. `send` never waits and may be called by any one thread."""

    def __init__(self, config: Mapping[str, Any], name: str, log: Logger) -> None:
        """`name` is the gateway's; the flags are etcd's --distributed-tracing-*."""
        self._address = str(config["distributed_tracing_address"])
        self._service = str(config["distributed_tracing_service_name"])
        self._instance = str(config["distributed_tracing_instance_id"])
        self._name = name
        self._log = log
        self._waiting: Queue[Explained] = Queue(WAITING_MAX)
        # CLOCK_MONOTONIC, which records have, to the time of day, which collectors want.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self.dropped = 0
        threading.Thread(target=self._run, name="tracing", daemon=True).start()

    def send(self, explained: Explained) -> None:
        """Have one explanation sent; dropped if too many wait."""
        try:
            self._waiting.put_nowait(explained)
        except Full:
            self.dropped += 1

    # --- on the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        # Imported here: they take half a second and 20 MB, and are there only with the extra.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._tell_of_failures()
        attributes = {"service.name": self._service, "service.version": VERSION}
        if self._instance:
            attributes["service.instance.id"] = self._instance
        provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=self._address, insecure=True)
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter, max_queue_size=SPANS_MAX, schedule_delay_millis=SEND_MILLISECONDS
            )
        )
        tracer = provider.get_tracer("trouped")
        while True:
            self._make_spans(tracer, self._waiting.get())

    def _make_spans(self, tracer: Any, explained: Explained) -> None:
        """Make a span of the request, and one below it of each stretch of its way."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        began = self._epoch_ns + explained["began_ns"]
        whole = tracer.start_span(
            explained["kind"],
            kind=SpanKind.SERVER,
            start_time=began,
            attributes={
                "trouped.gateway": explained["gateway"],
                "trouped.requests": explained["requests"],
                "trouped.verdict": explained["verdict"],
            },
        )
        below = set_span_in_context(whole)
        for part in explained["spans"]:
            start = began + part["start_ns"]
            span = tracer.start_span(
                f"{part['actor']} {part['what']}",
                context=below,
                start_time=start,
                attributes={
                    "trouped.actor": part["actor"],
                    "trouped.what": part["what"],
                    **({"trouped.behind": part["behind"]} if part["behind"] else {}),
                },
            )
            span.end(end_time=start + part["length_ns"])
        whole.end(end_time=began + explained["total_ns"])

    def _tell_of_failures(self) -> None:
        """Put what the SDK complains of into the member's log, now and then."""
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.addHandler(_Complaints(self._log, self._address))


class _Complaints(logging.Handler):
    def __init__(self, log: Logger, address: str) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._address = address
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + COMPLAINT_SECONDS
            text = record.getMessage()[:300]
            self._log.warning("traces were not sent", address=self._address, reason=text)
