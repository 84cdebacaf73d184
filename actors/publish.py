"""A gateway's way to readiness: open the session, publish the member, then serve.

Gateway 0 puts the member's name and client URLs into the log; the others wait to see them. `ready
to serve client requests` is logged once the member's attributes have been applied, so a quorum and
a leader exist. A member alone waits for the cluster version too (cluster_version.py), which it
decides itself at the same moment; among several a silent one holds nobody up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgpack

from actors import failpoints
from actors.proposals import Proposals
from kv.batch import Op
from kv.errors import Status
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
        self._in_flight = False
        self.done = False

    def start(self, *, publish: bool) -> None:
        """Publish what differs; without `publish` only look."""
        if self.done or self._in_flight:
            return
        with self._reader.view() as view:
            members = view.members()
            version = view.cluster_version()
        me = next((m for m in members if m.id == self._member_id), None)
        published = me is not None and (me.name, tuple(me.client_urls)) == self._attributes
        if published and (version is not None or len(members) > 1):
            self.done = True
            self._ready()
        elif publish and not published:
            name, urls = self._attributes
            failpoints.hit("beforePublishing")
            self._in_flight = True
            data = msgpack.packb((self._member_id, name, list(urls)))
            self._proposals.add(Op.MEMBER_ATTRIBUTES, data, _Step(self))

    def stepped(self, *, refused: bool) -> None:
        """The proposal is over: look again, after a refusal on the next `start`."""
        self._in_flight = False
        if not refused:
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
