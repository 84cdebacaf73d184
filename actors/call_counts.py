"""What all gateways of a member have done for clients, by method, through the board.

A gateway's words hold pairs (what, how many), taken into use as methods are called: `what` is
1 + the method's place among all paths * CODES + the gRPC code of calls answered (or STARTED,
RECEIVED, SENT: calls begun and messages), the same in every gateway. A successor goes on from its
predecessor's counts, so no counter ever falls while the member lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actors.metrics import GatewayMetric
from api.grpc import Method
from transport.counters import METRIC_WORDS, Board, Cell

CODES: Final = 32
STARTED: Final = 31
RECEIVED: Final = 30
SENT: Final = 29
Call = tuple[str, str]  # path and kind
PAIRS_MAX: Final = (METRIC_WORDS - GatewayMetric.CALLS) // 2


class CallCounts:
    """One gateway's counts, and the sum over all. What finds no free pair is not counted."""

    def __init__(self, board: Board, name: str, router: Mapping[bytes, Method]) -> None:
        self._words = board.words
        self._methods = [router[path] for path in sorted(router)]
        self._paths = [path.decode() for path in sorted(router)]
        self._own = board.block(name) + Cell.METRICS + GatewayMetric.CALLS
        self._blocks = [
            board.block(other) + Cell.METRICS + GatewayMetric.CALLS
            for other in board.names
            if other.startswith("gateway-")
        ]
        self._expired = board.block(name) + Cell.METRICS + GatewayMetric.EXPIRED
        self._expired_before = board.words[self._expired]
        self._places: dict[int, tuple[int, int]] = {}  # what -> (word of the count, count before)
        for what, place in self._pairs(self._own):
            self._places[what] = place, self._words[place]

    def _pairs(self, block: int) -> list[tuple[int, int]]:
        words = self._words
        found = []
        for pair in range(block, block + 2 * PAIRS_MAX, 2):
            if not words[pair]:
                break
            found.append((words[pair], pair + 1))
        return found

    def publish(self) -> None:
        """Bring this gateway's words up to date; takes microseconds."""
        expired = sum(method.expired for method in self._methods)
        self._words[self._expired] = self._expired_before + expired
        for place, method in enumerate(self._methods):
            if method.started:
                first = 1 + place * CODES
                for code, count in enumerate(method.handled):
                    if count:
                        self._publish(first + code, count)
                self._publish(first + STARTED, method.started)
                self._publish(first + RECEIVED, method.received)
                self._publish(first + SENT, method.sent)

    def open(self) -> dict[str, int]:
        """Return how many calls of each method are under way at this gateway. Any thread may ask.

        An open stream is one of them; methods without any are left out.
        """
        found = {}
        for path, method in zip(self._paths, self._methods, strict=True):
            if count := method.started - sum(method.handled):
                found[path.rpartition("/")[2]] = count
        return found

    def _publish(self, what: int, count: int) -> None:
        known = self._places.get(what)
        if known is None:
            if len(self._places) == PAIRS_MAX:
                return
            pair = self._own + 2 * len(self._places)
            known = self._places[what] = pair + 1, 0
            self._words[pair] = what
        self._words[known[0]] = known[1] + count

    def total(self) -> dict[Call, dict[int, int]]:
        """Return, for each method, how often each code (or STARTED...) came in this member."""
        self.publish()
        total: dict[Call, dict[int, int]] = {
            (path, method.kind.value): {}
            for path, method in zip(self._paths, self._methods, strict=True)
        }
        for block in self._blocks:
            for what, place in self._pairs(block):
                method, code = divmod(what - 1, CODES)
                if method < len(self._paths):
                    call = self._paths[method], self._methods[method].kind.value
                    counts = total.setdefault(call, {})
                    counts[code] = counts.get(code, 0) + self._words[place]
        return total
