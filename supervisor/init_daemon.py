"""sd_notify(3): tells an init daemon that asks (NOTIFY_SOCKET) that the member serves or stops.

A message is one datagram and never waits.
"""

from __future__ import annotations

import socket
from typing import Final

from actors.metrics import GatewayMetric
from supervisor.logs import LogSink
from transport.counters import Board, Cell

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


class InitDaemon:
    """What the init daemon has been told so far. Each state is told once."""

    def __init__(self, address: str, board: Board, sink: LogSink) -> None:
        """`address` is NOTIFY_SOCKET's: a path, or a name after an "@"; empty if nobody asks."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._board = board
        self._sink = sink
        self._gateways = [name for name in board.names if name.startswith("gateway-")]
        self._waits_for_ready = bool(address)

    def look(self) -> None:
        """Tell that the member serves as soon as one of its gateways does."""
        if self._waits_for_ready and any(map(self._serves, self._gateways)):
            self._waits_for_ready = not self._tell(READY)

    def stopping(self) -> None:
        """Tell that the member stops."""
        self._waits_for_ready = False
        if self._address:
            self._tell(STOPPING)

    def _serves(self, gateway: str) -> bool:
        return bool(self._board.get(gateway, Cell.METRICS + GatewayMetric.READY))

    def _tell(self, state: str) -> bool:
        """Send a state; False if the socket is full: it is to be tried again."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto(state.encode(), self._address)
            except BlockingIOError:
                return False
            except OSError as error:
                self._sink.log("error", "failed to notify init daemon", error=str(error))
                return True
        self._sink.log("info", "successfully notified init daemon", state=state)
        return True
