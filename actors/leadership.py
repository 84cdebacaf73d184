"""MoveLeader: calls that wait until the board says that the target leads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actors.gateway_status import MemberWords
from actors.messages import TransferLeader
from api.grpc import Call
from etcdpb.rpc_pb2 import MoveLeaderResponse
from kv.errors import NOT_LEADER, TIMEOUT_LEADER_TRANSFER
from transport.log import Logger


@dataclass(slots=True)
class _Transfer:
    call: Call
    target: int
    began: float
    old_leader: int


class Transfers:
    """The transfers clients have asked for and that are not over. Times are monotonic seconds."""

    def __init__(
        self,
        status: MemberWords,
        order: Callable[[TransferLeader], object],
        header: Callable[[int], bytes],
        log: Logger,
        timeout: float,
    ) -> None:
        """`order` sends to the raft node; `timeout` in seconds, for callers without deadline."""
        self._status = status
        self._order = order
        self._header = header
        self._log = log
        self._timeout = timeout
        self._waiting: list[_Transfer] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, call: Call, target: int, now: float) -> None:
        """Ask the raft node to hand leadership to `target`, a voter; answer when it has it."""
        status = self._status
        if not status.is_leader:
            call.fail(NOT_LEADER)
            return
        transfer = _Transfer(call, target, now, status.leader)
        self._log.info("leadership transfer starting", **self._named(transfer))
        if target != status.leader:
            self._order(TransferLeader(target))
        self._waiting.append(transfer)
        self.look(now)

    def look(self, now: float) -> None:
        """Answer what is over."""
        leader = self._status.leader
        still = []
        for transfer in self._waiting:
            if leader == transfer.target:
                took = round(now - transfer.began, 6)
                self._log.info("leadership transfer finished", **self._named(transfer), took=took)
                response = MoveLeaderResponse().SerializeToString()
                transfer.call.reply(self._header(0) + response)
            elif now - transfer.began >= self._timeout:
                transfer.call.fail(TIMEOUT_LEADER_TRANSFER)
            elif not transfer.call.closed:
                still.append(transfer)
        self._waiting = still

    def _named(self, transfer: _Transfer) -> dict[str, str]:
        return {
            "local-member-id": f"{self._status.member_id:x}",
            "current-leader-member-id": f"{transfer.old_leader:x}",
            "transferee-member-id": f"{transfer.target:x}",
        }
