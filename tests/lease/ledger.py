"""Who acknowledged what about leases and keys: random requests, and the check that all of it holds.

Each clerk has leases and keys of its own and does one thing after another, so every answer leaves
one possible state. A request without an answer leaves two: what it was about is set aside and
never used again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from google.protobuf.message import Message

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.lease.leases import leases, left

TTL: Final = 3600
CLERKS: Final = 4
LEASES: Final = 6
KEYS: Final = 20
COMPACT_EVERY: Final = 97
TIMEOUT_SECONDS: Final = 20.0


class Clerk:
    """One writer. `kept` is key -> lease (0: none) of keys that are there, `granted` its leases."""

    def __init__(self, number: int, endpoints: Sequence[str]) -> None:
        self.prefix = b"clerk%03d/" % number
        self.kept: dict[bytes, int] = {}
        self.gone: set[bytes] = set()
        self.granted: set[int] = set()
        self.revoked: set[int] = set()
        self.aside: set[bytes | int] = set()
        self.answered = self.unanswered = 0
        self._chance = random.Random(number)
        self._endpoints = endpoints
        self._turn = number
        self._client = Client(endpoints[number % len(endpoints)])
        self._next_lease = (number + 1) << 32
        self._next_key = 0
        self._keys = [self._new_key() for _ in range(KEYS)]

    def close(self) -> None:
        self._client.close()

    def step(self) -> None:
        """Do one random thing."""
        chance = self._chance
        if len(self.granted) < LEASES:
            self._grant()
        elif self.answered % COMPACT_EVERY == COMPACT_EVERY - 1:
            self._compact()
        elif chance.random() < 0.04:
            self._revoke(chance.choice(sorted(self.granted)))
        elif chance.random() < 0.1:
            self._txn(*chance.sample(self._keys, 2))
        elif chance.random() < 0.1:
            self._delete(chance.choice(self._keys))
        else:
            lease = 0 if chance.random() < 0.2 else chance.choice(sorted(self.granted))
            self._put(chance.choice(self._keys), lease)

    def _ask(self, request: Message, *about: bytes | int) -> Any:
        """Return the answer's message; None, with everything it was about set aside, if none."""
        answer = self._client.answer(request, TIMEOUT_SECONDS, wait=True)
        if answer.ok:
            self.answered += 1
            return answer.message
        self.unanswered += 1
        for each in about:
            self._set_aside(each)
        self._turn += 1
        self._client.close()
        self._client = Client(self._endpoints[self._turn % len(self._endpoints)])
        return None

    def _set_aside(self, what: bytes | int) -> None:
        self.aside.add(what)
        if isinstance(what, bytes):
            self.kept.pop(what, None)
            self.gone.discard(what)
            if what in self._keys:
                self._keys[self._keys.index(what)] = self._new_key()
            return
        self.granted.discard(what)
        for key in [key for key, lease in self.kept.items() if lease == what]:
            self._set_aside(key)

    def _new_key(self) -> bytes:
        self._next_key += 1
        return self.prefix + b"%04d" % self._next_key

    def _grant(self) -> None:
        self._next_lease += 1
        lease = self._next_lease
        if self._ask(pb.LeaseGrantRequest(ID=lease, TTL=TTL), lease):
            self.granted.add(lease)

    def _revoke(self, lease: int) -> None:
        if self._ask(pb.LeaseRevokeRequest(ID=lease), lease):
            self.granted.discard(lease)
            self.revoked.add(lease)
            for key in [key for key, its in self.kept.items() if its == lease]:
                self._is_gone(key)

    def _put(self, key: bytes, lease: int) -> None:
        if self._ask(pb.PutRequest(key=key, value=b"v", lease=lease), key):
            self._is_kept(key, lease)

    def _delete(self, key: bytes) -> None:
        if self._ask(pb.DeleteRangeRequest(key=key), key):
            self._is_gone(key)

    def _txn(self, put: bytes, deleted: bytes) -> None:
        lease = self._chance.choice(sorted(self.granted))
        request = pb.TxnRequest()
        request.success.add(request_put=pb.PutRequest(key=put, lease=lease))
        request.success.add(request_delete_range=pb.DeleteRangeRequest(key=deleted))
        if self._ask(request, put, deleted):
            self._is_kept(put, lease)
            self._is_gone(deleted)

    def _compact(self) -> None:
        now = self._ask(pb.RangeRequest(key=b"x"))
        if now is not None:
            # Another clerk may have compacted later than this by now.
            self._client.answer(pb.CompactionRequest(revision=now.header.revision), wait=True)

    def _is_kept(self, key: bytes, lease: int) -> None:
        self.kept[key] = lease
        self.gone.discard(key)

    def _is_gone(self, key: bytes) -> None:
        self.kept.pop(key, None)
        self.gone.add(key)

    def check(self, client: Client) -> None:
        """Assert that a member has exactly what was acknowledged."""
        request = pb.RangeRequest(key=self.prefix, range_end=self.prefix[:-1] + b"0")
        found = {kv.key: kv.lease for kv in client.range(request).kvs}
        certain = {key: lease for key, lease in found.items() if key not in self.aside}
        assert certain == self.kept
        there = set(leases(client))
        assert there >= self.granted
        assert not there & self.revoked
        for lease in self.granted:
            attached = {key for key in left(client, lease).keys if key not in self.aside}
            assert attached == {key for key, its in self.kept.items() if its == lease}

    def let_go(self, client: Client) -> None:
        """Revoke every lease; assert that keys without one are what is left."""
        for lease in sorted(self.granted):
            client.call(pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse)
        self.revoked |= self.granted
        self.granted = set()
        self.kept = {key: lease for key, lease in self.kept.items() if not lease}
        self.check(client)


class Ledger:
    """Some clerks, each on a thread. Ledgers of one cluster need numbers of their own."""

    def __init__(self, endpoints: Sequence[str], number: int = 0) -> None:
        self.clerks = [Clerk(number * CLERKS + place, endpoints) for place in range(CLERKS)]
        self._over = threading.Event()

    @contextmanager
    def written(self) -> Iterator[None]:
        """Let the clerks work for the length of the block."""
        self._over.clear()
        threads = [threading.Thread(target=self._work, args=(c,)) for c in self.clerks]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _work(self, clerk: Clerk) -> None:
        while not self._over.is_set():
            clerk.step()

    @property
    def answered(self) -> int:
        return sum(clerk.answered for clerk in self.clerks)

    def check(self, endpoint: str) -> None:
        """Assert that a member has exactly what was acknowledged."""
        with Client(endpoint) as client:
            for clerk in self.clerks:
                clerk.check(client)

    def let_go(self, endpoint: str) -> None:
        """Revoke every lease; assert that keys without one are what is left."""
        with Client(endpoint) as client:
            for clerk in self.clerks:
                clerk.let_go(client)

    def close(self) -> None:
        for clerk in self.clerks:
            clerk.close()

    def __str__(self) -> str:
        lost = sum(clerk.unanswered for clerk in self.clerks)
        attached = sum(bool(lease) for clerk in self.clerks for lease in clerk.kept.values())
        granted = sum(len(clerk.granted) for clerk in self.clerks)
        return (
            f"{self.answered} requests answered, {lost} not; {granted} leases with {attached} keys"
        )
