"""One life of a member under load, with everything that it asked of the disk on record.

Every acknowledgement goes into the same journal the moment the client has it, as (label, value):

    put      [[key, value, ...], revision]     one put, or the puts of one transaction
    delete   [key, revision]
    compact  revision
    read     [key, value, revision]            what a linearizable Range has shown

No value is ever written twice, and each says whose it is (`value_of`, `belongs`), so a lost,
doubled, mixed-up or torn write shows. TROUPED_DISK_SCALE makes all that happens to files happen
often: segments roll, snapshots are recorded, the database is checkpointed, its log begins again.
"""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

from etcdpb import rpc_pb2 as pb
from storage.files import RECORD_VARIABLE, SCALE_VARIABLE
from storage.recording import JOURNAL_NAME, Journal, Kind, open_journal, read_journal
from tests.client import Answer, Client
from tests.member import Member
from tests.storage.power import Disk

SCALE: Final = "256"  # segments of 16 KiB; a checkpoint for 32 pages, a new database log after 256
FLAGS: Final = ("--snapshot-count=100", "--snapshot-catchup-entries=50", "--max-wals=2")
WRITERS: Final = 5
PIPELINED: Final = 6  # requests in flight on each connection
PAUSE_SECONDS_MAX: Final = (
    0.006  # between requests: leaves the checkpoints, which yield, their turn
)
KEYS: Final = 25  # of each writer
VALUE_BYTES_MAX: Final = 700
COMPACTIONS: Final = 4  # in each half of the load

Request: TypeAlias = pb.PutRequest | pb.TxnRequest | pb.DeleteRangeRequest | pb.RangeRequest


def record_life(folder: Path, seconds: float, seed: int) -> Disk:
    """Run a member under load for so long, with a clean stop and a start in the middle."""
    journal = open_journal(folder / "io")
    environ = {RECORD_VARIABLE: str(folder / "io"), SCALE_VARIABLE: SCALE}
    member = Member(folder / "member", flags=FLAGS, environ=environ)
    # Root makes these before there is a disk to record; whoever needs them has to sync them.
    journal.record(Kind.MAKE_DIRECTORY, str(member.data_dir))
    journal.record(Kind.MAKE_DIRECTORY, str(member.data_dir / "member"))
    with member:
        _load(member.endpoint, journal, seconds / 2, seed)
        assert member.terminate() == 0
        member.start()
        _load(member.endpoint, journal, seconds / 2, seed + 1)
    return Disk(read_journal(folder / "io" / JOURNAL_NAME), member.folder)


def value_of(key: bytes, number: int, chance: Random) -> bytes:
    """Return a value that no other write has, with a checksum."""
    head = key + b" %d " % number
    content = head + chance.randbytes(chance.randint(0, VALUE_BYTES_MAX))
    return content + zlib.crc32(content).to_bytes(4)


def belongs(key: bytes, value: bytes) -> bool:
    """Whether a value is whole and was once written to this key."""
    content, checksum = value[:-4], value[-4:]
    return content.startswith(key + b" ") and zlib.crc32(content) == int.from_bytes(checksum)


def _load(endpoint: str, journal: Journal, seconds: float, seed: int) -> None:
    ending, errors = threading.Event(), list[str]()
    works: list[Callable[[], None]] = [
        _Writer(endpoint, journal, ending, number, seed).run for number in range(WRITERS)
    ]
    threads = [
        threading.Thread(target=_catching, args=(work, errors, ending), name="writer")
        for work in works
    ]
    for thread in threads:
        thread.start()
    with Client(endpoint) as client:
        for _ in range(COMPACTIONS):
            ending.wait(seconds / (COMPACTIONS + 1))
            _compact(client, journal)
    ending.wait(seconds / (COMPACTIONS + 1))
    ending.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a writer hangs"
    assert not errors, errors[:3]


def _catching(work: Callable[[], None], errors: list[str], ending: threading.Event) -> None:
    try:
        work()
    except AssertionError as error:
        errors.append(str(error))
        ending.set()


def _compact(client: Client, journal: Journal) -> None:
    revision = client.range(pb.RangeRequest(key=b"k")).header.revision
    if revision > 100:
        target = revision - 50
        client.call(pb.CompactionRequest(revision=target), pb.CompactionResponse)
        journal.acknowledge("compact", target)


class _Writer:
    """One connection with several requests in flight."""

    def __init__(
        self, endpoint: str, journal: Journal, ending: threading.Event, number: int, seed: int
    ) -> None:
        self._endpoint = endpoint
        self._journal = journal
        self._ending = ending
        self._name = b"%d/%d" % (seed, number)
        self._chance = Random(f"{seed}/{number}")
        self._sequence = 0

    def run(self) -> None:
        """Write until the end; every answer must be a good one."""
        flying: deque[tuple[Request, Callable[[], Answer]]] = deque()
        with Client(self._endpoint) as client:
            while flying or not self._ending.is_set():
                while len(flying) < PIPELINED and not self._ending.is_set():
                    request = self._request()
                    flying.append((request, client.begin(request)))
                    self._ending.wait(self._chance.uniform(0, PAUSE_SECONDS_MAX))
                if flying:
                    request, wait = flying.popleft()
                    answer = wait()
                    assert answer.ok, str(answer)
                    self._acknowledge(request, answer)

    def _request(self) -> Request:
        sort = self._chance.random()
        if sort < 0.08:
            return pb.DeleteRangeRequest(key=self._key())
        if sort < 0.16:
            return pb.RangeRequest(key=self._key())
        if sort < 0.30:
            first = self._put()
            second = self._put()
            while second.key == first.key:
                second = self._put()
            puts = [pb.RequestOp(request_put=put) for put in (first, second)]
            return pb.TxnRequest(success=puts)
        return self._put()

    def _key(self) -> bytes:
        return b"k%s/%d" % (self._name, self._chance.randrange(KEYS))

    def _put(self) -> pb.PutRequest:
        key = self._key()
        self._sequence += 1
        return pb.PutRequest(key=key, value=value_of(key, self._sequence, self._chance))

    def _acknowledge(self, request: Request, answer: Answer) -> None:
        message = answer.message
        if isinstance(request, pb.PutRequest) and isinstance(message, pb.PutResponse):
            value = [[request.key, request.value], message.header.revision]
            self._journal.acknowledge("put", value)
        elif isinstance(request, pb.TxnRequest) and isinstance(message, pb.TxnResponse):
            puts = [op.request_put for op in request.success]
            pairs = [part for put in puts for part in (put.key, put.value)]
            self._journal.acknowledge("put", [pairs, message.header.revision])
        elif isinstance(request, pb.DeleteRangeRequest):
            if isinstance(message, pb.DeleteRangeResponse) and message.deleted:
                self._journal.acknowledge("delete", [request.key, message.header.revision])
        elif isinstance(message, pb.RangeResponse):
            for kv in message.kvs:
                self._journal.acknowledge("read", [kv.key, kv.value, kv.mod_revision])
