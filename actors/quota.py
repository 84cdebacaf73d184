"""The space quota: what would not fit is refused before it is proposed, and raises NOSPACE.

Rules (RULES A7, etcd's quotaAlarmer):
1. Space is decided here, before the log; of what is in the log only the replicated alarm decides.
2. The quota counts the pages of the database that hold data, less what an empty one has more than
   an empty etcd: quotas are the same size here and there. What is on its way counts too, as an
   estimate; near the quota the database itself is asked.
3. Who is refused is answered when the alarm is in the log: it can be listed then. A request that
   adds nothing is never refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from actors.proposals import Answer
from etcdpb.rpc_pb2 import AlarmRequest, AlarmType
from kv.batch import Op
from kv.errors import NO_SPACE, Status
from kv.quota import KV_OVERHEAD, cost
from storage.reader import Reader

NEAR_BYTES: Final = 1 << 20  # more than the estimate of one request can miss
WAITING_MAX: Final = 10_000
EMPTY_BYTES: Final = 32 << 10
"""An empty database is so much bigger than etcd's 20 KiB."""


class SpaceQuota:
    """One gateway's view of the quota."""

    def __init__(
        self,
        limit: int,
        reader: Reader,
        propose: Callable[[int, bytes, Answer], None],
        *,
        member_id: int,
    ) -> None:
        """`limit` in bytes, below 0 for none; `propose` puts the alarm into the log."""
        self._limit = limit
        self._reader = reader
        self._propose = propose
        self._member_id = member_id
        self._room = -1
        self._waiting: list[Answer] = []
        self._raising = False

    def seen(self, used: int) -> None:
        """Take how many bytes of the database are in use now."""
        self._room = self._limit + EMPTY_BYTES - used - NEAR_BYTES

    def refuses(self, op: int, request: bytes, answer: Answer) -> bool:
        """Whether a request has no room; it is answered then. For requests that take space."""
        if self._limit < 0:
            return False
        self._room -= len(request) + KV_OVERHEAD
        return self._room < 0 and self._refuses_near(op, request, answer)

    def _refuses_near(self, op: int, request: bytes, answer: Answer) -> bool:
        wanted = cost(op, request)
        if not wanted:
            return False
        _, used = self._reader.sizes()
        self.seen(used)
        if used + wanted < self._limit + EMPTY_BYTES:
            return False
        self._refuse(answer)
        return True

    def _refuse(self, answer: Answer) -> None:
        if (not self._raising and self._is_raised()) or len(self._waiting) >= WAITING_MAX:
            answer.fail(NO_SPACE)
            return
        self._waiting.append(answer)
        if not self._raising:
            self._raising = True
            alarm = AlarmRequest(
                action=AlarmRequest.ACTIVATE, memberID=self._member_id, alarm=AlarmType.NOSPACE
            )
            self._propose(Op.ALARM, alarm.SerializeToString(), _Raised(self))

    def _is_raised(self) -> bool:
        with self._reader.view() as view:
            return (self._member_id, AlarmType.NOSPACE) in view.alarms()

    def raised(self) -> None:
        """The alarm is in the log, or could not be put there: answer who waits."""
        self._raising = False
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            if not answer.closed:
                answer.fail(NO_SPACE)


class _Raised:
    """Waits for the alarm."""

    def __init__(self, quota: SpaceQuota) -> None:
        self._quota = quota
        self.closed = False

    def answered(self, revision: int, body: bytes) -> None:
        self.closed = True
        self._quota.raised()

    def fail(self, status: Status) -> None:
        self.closed = True
        self._quota.raised()
