"""How many requests clients of each version have made (etcd_server_client_requests_total).

As in call_counts.py the words of a gateway hold pairs (what, how many), and a successor goes on
counting. The first two pairs are of clients that don't tell a version; what is no version, or finds
no free pair, is counted there too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from actors.metrics import GatewayMetric
from api.interceptors import Interceptor
from kv.errors import INVALID_CLIENT_API_VERSION, NOT_SUPPORTED_FOR_LEARNER, Status
from transport.counters import Board, Cell

PAIRS_MAX: Final = 12
REMEMBERED_MAX: Final = 100
VERSION: Final = b"client-api-version"
UNCOUNTED: Final = (INVALID_CLIENT_API_VERSION, NOT_SUPPORTED_FOR_LEARNER)
_VERSION: Final = re.compile(rb"(\d{1,3})\.(\d{1,3})\.(\d{1,3})")


class ClientRequests:
    """An api.grpc.Intercept that counts what it lets pass."""

    def __init__(
        self, board: Board, name: str, interceptor: Interceptor, streams: Iterable[bytes]
    ) -> None:
        """`streams` are the paths of methods that are not unary."""
        self._intercept = interceptor
        self._streams = frozenset(streams)
        self._words = board.words
        self._own = board.block(name) + Cell.METRICS + GatewayMetric.CLIENT_REQUESTS
        self._words[self._own] = what(None, is_stream=False)
        self._words[self._own + 2] = what(None, is_stream=True)
        self._places: dict[tuple[bytes | None, bool], int] = {}  # -> word of the count
        self._passing: dict[tuple[bytes | None, bytes], int] = {}  # (version, path) -> the same

    def __call__(self, path: bytes, fields: Mapping[bytes, bytes]) -> Status | None:
        """Decide over a call, and count it; every call comes through here, so no step too many."""
        version = fields.get(VERSION)
        place = self._passing.get((version, path))
        if place is None or not self._intercept.is_plain(fields):
            return self._decide(path, fields, version)
        self._words[place] += 1
        return None

    def _decide(
        self, path: bytes, fields: Mapping[bytes, bytes], version: bytes | None
    ) -> Status | None:
        refused = self._intercept(path, fields)
        if refused is None or refused not in UNCOUNTED:
            key = version, path in self._streams
            place = self._places.get(key) or self._place(*key)
            self._words[place] += 1
            if refused is None and key in self._places:
                self._passing[version, path] = place
        return refused

    def _place(self, version: bytes | None, is_stream: bool) -> int:
        wanted, words = what(version, is_stream=is_stream), self._words
        place = self._own + 2 * is_stream + 1
        for pair in range(self._own, self._own + 2 * PAIRS_MAX, 2):
            if words[pair] in (0, wanted):
                words[pair] = wanted
                place = pair + 1
                break
        if len(self._places) < REMEMBERED_MAX:  # somebody may make up versions
            self._places[version, is_stream] = place
        return place


def what(version: bytes | None, *, is_stream: bool) -> int:
    """Return the word that stands for a client's version and a kind of call; never 0."""
    parts = _VERSION.fullmatch(version or b"")
    packed = 0
    if parts is not None and max(map(int, parts.groups())) < 256:
        major, minor, patch = map(int, parts.groups())
        packed = 1 + (major << 16 | minor << 8 | patch)
    return 2 * (1 + packed) + is_stream


def labels(found: int) -> tuple[str, str]:
    """Return (type, client_api_version) of such a word, as etcd labels them."""
    packed = found // 2 - 2
    version = f"{packed >> 16}.{packed >> 8 & 255}.{packed & 255}" if packed >= 0 else "unknown"
    return ("stream" if found & 1 else "unary"), version


def total(board: Board) -> dict[tuple[str, str], int]:
    """Return (type, client_api_version) -> how many requests all gateways have seen."""
    found: dict[tuple[str, str], int] = {}
    for name in board.names:
        if name.startswith("gateway-"):
            first = board.block(name) + Cell.METRICS + GatewayMetric.CLIENT_REQUESTS
            for pair in range(first, first + 2 * PAIRS_MAX, 2):
                if board.words[pair]:
                    key = labels(board.words[pair])
                    found[key] = found.get(key, 0) + board.words[pair + 1]
    return found
