"""A gateway's way to readiness: open the session, publish the member, then serve.

Gateway 0 puts the member's name and client URLs into the log, and proposes the cluster version when
none is decided; the others wait to see it. `ready to serve client requests` is logged once the
member's attributes have been applied, so a quorum and a leader exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgpack

from actors.proposals import Proposals
from kv.batch import Op
from kv.errors import Status
from kv.version import CLUSTER_VERSION
from storage.reader import Reader


class Publisher:
    """Publishes once; the state machine ignores what it knows already."""

    def __init__(
        self,
        proposals: Proposals,
        reader: Reader,
        *,
        member_id: int,
        name: str,
        client_urls: Sequence[str],
        ready: Callable[[], None],
    ) -> None:
        self._proposals = proposals
        self._reader = reader
        self._member_id = member_id
        self._attributes = (name, tuple(client_urls))
        self._ready = ready
        self._in_flight = 0
        self.done = False

    def start(self, *, publish: bool) -> None:
        """Publish what differs; without `publish` only look."""
        if self.done or self._in_flight:
            return
        with self._reader.view() as view:
            me = next((m for m in view.members() if m.id == self._member_id), None)
            version = view.cluster_version()
        published = me is not None and (me.name, tuple(me.client_urls)) == self._attributes
        if published and version is not None:
            self.done = True
            self._ready()
            return
        if not publish:
            return
        if not published:
            name, urls = self._attributes
            data = msgpack.packb((self._member_id, name, list(urls)))
            self._propose(Op.MEMBER_ATTRIBUTES, data)
        if version is None:
            self._propose(Op.CLUSTER_VERSION, CLUSTER_VERSION.encode())

    def _propose(self, op: int, data: bytes) -> None:
        self._in_flight += 1
        self._proposals.add(op, data, _Step(self))

    def stepped(self, *, refused: bool) -> None:
        """One proposal is over: look again when all are, after a refusal on the next `start`."""
        self._in_flight -= 1
        if not self._in_flight and not refused:
            self.start(publish=True)


class _Step:
    """Waits for one proposal; its outcome counts once, whatever comes later."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.closed = False

    def answered(self, revision: int, body: bytes) -> None:
        self.closed = True
        self._publisher.stepped(refused=False)

    def fail(self, status: Status) -> None:
        self.closed = True
        self._publisher.stepped(refused=True)
