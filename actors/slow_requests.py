"""Slow requests explained while the recorders still know: kept by the gateway they came through.

A turn of the gateway's timers looks through the gateway's own new records (tens of microseconds):
an answer whose question was asked longer than the threshold ago is explained there and then, and
kept, as long as that costs a hundredth of the time: where everything is slow, explaining it all
would make it slower. So is one request in ten seconds whatever it took, as a sample, for explaining
reads all recorders and takes milliseconds; one a second if both leave as traces (tracing).
"""

from __future__ import annotations

import random
from collections import deque
from time import monotonic
from typing import Any, Final

from actors import messages
from actors.tracing import Sampler, TraceExporter
from actors.wire import WIRE
from control.explain import Explainer
from control.observe import MemberView
from transport.context import ActorContext
from transport.counters import RECORDS, Board
from transport.log import Logger
from transport.recorder import Kind, Record, fields_since

KEPT_MAX: Final = 50
OPEN_MAX: Final = 1000
EXPLAINED_PER_TURN: Final = 2
SHARE_MAX: Final = 0.01
CREDIT_SECONDS_MAX: Final = 0.05  # some ten of them one after the other, after a quiet time
SAMPLE_SECONDS: Final = 10.0
OFTEN_SECONDS: Final = 1.0
_TAGS: Final = {cls: tag for tag, cls in WIRE.items()}
PROPOSE: Final = _TAGS[messages.Propose]
READ_INDEX: Final = _TAGS[messages.ReadIndex]
APPLIED: Final = _TAGS[messages.Applied]
READ_STATES: Final = _TAGS[messages.ReadStates]


class SlowRequests:
    """What was slow at one gateway. Used by its own thread; `to_list` by any."""

    def __init__(self, context: ActorContext, board: Board, log: Logger) -> None:
        """The threshold is --warning-unary-request-duration; 0 keeps samples only."""
        self._run_dir = context.run_dir
        self._board = board
        self._log = log
        self._name = name = context.name
        threshold = float(context.config["warning_unary_request_duration_seconds"])
        self._threshold_ns = round(threshold * 1e9)
        self._view: MemberView | None = None
        self._seen = board.words[board.recorder(name)]
        self._open: dict[tuple[int, int], Record] = {}
        self._next_sample = 0.0
        self._credit = CREDIT_SECONDS_MAX
        self._credited = 0.0
        self._slow: deque[dict[str, Any]] = deque(maxlen=KEPT_MAX)
        self._samples: deque[dict[str, Any]] = deque(maxlen=KEPT_MAX)
        rate = int(context.config.get("distributed_tracing_sampling_rate") or 0)
        self._sampler = Sampler(rate, random.random)
        self._traces: TraceExporter | None = None
        if context.config.get("enable_distributed_tracing"):
            self._traces = TraceExporter(context.config, name, log)

    def look(self, now: float) -> list[dict[str, Any]]:
        """Look at what was answered since the last turn; return what was slow and is new."""
        newest = self._board.words[self._board.recorder(self._name)]
        if newest == self._seen:
            return []
        found: list[tuple[Record, int]] = []
        for fields in fields_since(self._board, self._name, max(self._seen, newest - RECORDS)):
            self._note(Record(*fields), found)
        self._seen = newest
        found.sort(key=lambda one: -one[1])
        slow = [sent for sent, took in found if 0 < self._threshold_ns <= took]
        told = self._explain_some(slow, now)
        for one in told:
            self._slow.append(one)
            self._log.warning("request stats", **_stats(one))
            self._trace(one)
        self._sampler.saw(sum(max(1, sent.items) for sent, _ in found))
        if found and not slow and now >= self._next_sample:
            sample = self._explained(found[0][0])
            often = self._traces is not None or sample is None
            self._next_sample = now + (OFTEN_SECONDS if often else SAMPLE_SECONDS)
            if sample:
                self._samples.append(sample)
                if self._sampler.wants():
                    self._trace(sample)
        return told

    def _explain_some(self, slow: list[Record], now: float) -> list[dict[str, Any]]:
        """Explain the slowest as far as the credit goes; its unit is the seconds that takes."""
        earned = (now - self._credited) * SHARE_MAX
        self._credit = min(CREDIT_SECONDS_MAX, self._credit + earned)
        self._credited = now
        told = []
        for sent in slow[:EXPLAINED_PER_TURN]:
            if self._credit <= 0.0:
                break
            began = monotonic()
            explained = self._explained(sent)
            self._credit -= monotonic() - began
            if explained is not None:
                told.append(explained)
        return told

    def _trace(self, explained: dict[str, Any]) -> None:
        if self._traces is not None:
            self._traces.send(explained)

    def to_list(self) -> dict[str, list[dict[str, Any]]]:
        """Return what is kept, oldest first."""
        return {"slow": list(self._slow), "samples": list(self._samples)}

    def _note(self, record: Record, found: list[tuple[Record, int]]) -> None:
        """Match answers with what was asked, for the first time if it was asked again."""
        if record.kind == Kind.OUT and record.tag in (PROPOSE, READ_INDEX):
            if len(self._open) >= OPEN_MAX:
                del self._open[next(iter(self._open))]
            self._open.setdefault((record.tag, record.correlation), record)
            return
        if record.kind not in (Kind.IN, Kind.LOCAL) or not record.correlation:
            return
        asked = {APPLIED: PROPOSE, READ_STATES: READ_INDEX}.get(record.tag)
        if asked is None:
            return
        last = record.correlation + (record.items - 1 if asked == PROPOSE else 0)
        for tag, correlation in [key for key in self._open if key[0] == asked]:
            if correlation > last:
                break
            sent = self._open.pop((tag, correlation))
            found.append((sent, record.time_ns + record.work_ns - sent.time_ns))

    def _explained(self, sent: Record) -> dict[str, Any] | None:
        if self._view is None:
            self._view = MemberView(self._run_dir, self._board)
        explained = Explainer(self._view).request(self._name, sent)
        return explained.to_dict() if explained is not None else None


def _stats(explained: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of etcd's line of that name, as far as they are known, and the verdict."""
    return {
        "time spent": f"{explained['total_ns'] / 1e9:.6f}s",
        "operations": explained["operations"],
        "request count": explained["requests"],
        "verdict": explained["verdict"],
    }
