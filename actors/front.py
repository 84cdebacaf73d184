"""What a gateway listens with: a server for clients, and two that serve pages alone.

All gateways share the listening sockets, which root holds open; who takes new connections from
them is for balance.py to say.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from actors.balance import Balance
from actors.client_requests import ClientRequests
from actors.gateway_http import MemberPages
from actors.metrics import GatewayMetric
from api.grpc import Kind, Limits, Method
from api.http1 import ANY_HOST, HttpRoutes
from api.interceptors import Interceptor
from api.server import ClientServer
from transport.context import ActorContext
from transport.counters import Board, Cell

DRAIN_SECONDS: Final = 0.8


class Front:
    """The servers of one gateway; `begin` opens them."""

    def __init__(
        self, context: ActorContext, board: Board, metric: Callable[[int, int], None]
    ) -> None:
        """`metric(word, value)` sets a word of this gateway on the board."""
        self._context = context
        self._board = board
        self._metric = metric
        first = int(context.config["gateways"])
        standbys = int(context.config["standby_gateways"])
        names = [f"gateway-{slot}" for slot in range(first, first + standbys)]
        cores = len(os.sched_getaffinity(0))
        self._balance = Balance(board, context.name, names, shares=cores > 1)
        words = board.block(context.name) + Cell.METRICS
        self._received_before = board.words[words + GatewayMetric.RECEIVED_BYTES]
        self._sent_before = board.words[words + GatewayMetric.SENT_BYTES]

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        router: Mapping[bytes, Method],
        interceptor: Interceptor,
        pages: MemberPages,
    ) -> None:
        """Serve the methods of `router` and the pages from now on."""
        sockets = self._context.sockets
        limits = Limits.of(self._context.config)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = limits.within(descriptors, sixteenths=1)
        named, routes = pages.routes(), HttpRoutes()
        config = self._context.config
        named.hosts = routes.hosts = frozenset(config.get("host_whitelist", ANY_HOST))
        named.origins = routes.origins = frozenset(config.get("cors", ANY_HOST))
        if not sockets.get("http"):
            routes = named
        clients = ClientServer(loop, router, routes, limits.within(descriptors, sixteenths=14))
        clients.may_accept = self._balance.may_accept
        streams = (path for path, method in router.items() if method.kind is not Kind.UNARY)
        clients.intercept = ClientRequests(self._board, self._context.name, interceptor, streams)
        self._clients = clients
        self._pages = {
            "http": ClientServer(loop, {}, named, few),
            "metrics": ClientServer(loop, {}, pages.routes(for_metrics=True), few),
        }
        for server in self._pages.values():
            server.may_accept = lambda _: self._balance.may_take_pages()
        self._balance.look(time.monotonic())
        for purpose, server in ({"client": clients} | self._pages).items():
            for descriptor in sockets.get(purpose, ()):
                server.listen(socket.socket(fileno=descriptor))

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._clients.connections

    def flush(self) -> None:
        """Send what the turn's answers put together."""
        self._clients.flush()

    def look(self, now: float, *, leaderless: bool) -> None:
        """End streams that lack a leader; see which gateways live; tell the board."""
        clients = self._clients
        if leaderless:
            clients.end_leaderless()
        self._balance.look(now)
        self._balance.tell(clients.connections)
        self._metric(GatewayMetric.RECEIVED_BYTES, self._received_before + clients.bytes_received)
        self._metric(GatewayMetric.SENT_BYTES, self._sent_before + clients.bytes_sent)

    async def shutdown(self) -> None:
        """Take nobody any more and answer those who are there, for a moment."""
        servers = (self._clients, *self._pages.values())
        await asyncio.gather(*(server.shutdown(DRAIN_SECONDS) for server in servers))
