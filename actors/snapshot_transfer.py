"""What two snapshotters say to each other over the transport's SNAPSHOT lane.

    sender                                   receiver
    Offer(id, size, checksum, payload)  ->
                                        <-   Accept(id, offset)       what it has already
    Chunk(id, offset, crc, data) ...    ->
                                        <-   Ack(id, offset)          everything below it is there
                                        <-   Done(id, ok, reason)

Rules:
1. Nothing is relied upon to arrive: as long as nothing moves the sender repeats its Offer, and the
   receiver, restarted or not, answers with an Accept: "send from here on".
2. A chunk is taken only if it begins where the last one ended, its CRC is right and it fits the
   size; anything else is counted and changes nothing. One behind a gap and a damaged one are
   answered with an Accept, one that is there already with an Ack.
3. WINDOW_BYTES at most are on their way without an Ack: that is all the back-pressure there is.
4. The whole is believed only when its SHA-256 and its content are what the Offer said
   (storage.snapshot.verify).

This table of tags is apart from the member's own (actors/wire.py): these are read by other
members, perhaps of another version. Tags are never reused and messages only grow at their end.
"""

from __future__ import annotations

from typing import Any, Final, cast
from zlib import crc32

import msgpack

from actors.peer_codec import PeerMessageError, decode_peer
from raft.message import message
from raft.messages import MsgSnap
from storage.snapshot import CHECKSUM_BYTES
from transport.codec import Codec

CHUNK_BYTES: Final = 256 << 10
CHUNK_BYTES_MAX: Final = 1 << 20
WINDOW_BYTES: Final = 8 * CHUNK_BYTES
RETRY_SECONDS: Final = 0.5
RETRY_SECONDS_MAX: Final = 4.0
UNHEARD_SECONDS_MAX: Final = 30.0


class TransferError(ValueError):
    """What another member's snapshotter sent can't be used; the text says why."""


@message
class Offer:
    """sender -> receiver: a file of `size` bytes with this SHA-256. `payload` is raft's MsgSnap."""

    id: int
    size: int
    checksum: bytes
    payload: bytes


@message
class Accept:
    """receiver -> sender: send from `offset` on, whatever was sent before."""

    id: int
    offset: int


@message
class Chunk:
    """sender -> receiver: bytes from `offset` on; `crc` is their CRC-32."""

    id: int
    offset: int
    crc: int
    data: bytes


@message
class Ack:
    """receiver -> sender: everything before `offset` is there."""

    id: int
    offset: int


@message
class Done:
    """receiver -> sender: the file is verified and on its way to raft, or `reason` says why not."""

    id: int
    ok: bool
    reason: str


Message = Offer | Accept | Chunk | Ack | Done
_codec: Final = Codec({1: Offer, 2: Accept, 3: Chunk, 4: Ack, 5: Done})
_KINDS: Final[dict[type, tuple[type, ...]]] = {
    Offer: (int, int, bytes, bytes),
    Accept: (int, int),
    Chunk: (int, int, int, bytes),
    Ack: (int, int),
    Done: (int, bool, str),
}


def encode(body: Message) -> bytes:
    """Return a message as the payload of a PeerMessages."""
    return _codec.encode(body)


def decode(payload: bytes) -> Message:
    """Return the message that `encode` was given. Raises TransferError."""
    try:
        body: Any = _codec.decode(payload)
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise TransferError(f"not a message of a transfer: {error}") from error
    values = [getattr(body, name) for name in body.__slots__]
    if not all(map(isinstance, values, _KINDS[type(body)])):
        raise TransferError(f"{type(body).__name__} with fields of other types")
    return cast(Message, body)


def announced_in(offer: Offer, sender: int, own_id: int) -> MsgSnap:
    """Return the MsgSnap of an Offer from member `sender`. Raises TransferError."""
    try:
        found = decode_peer(offer.payload)
    except PeerMessageError as error:
        raise TransferError(f"an offer without a snapshot message: {error}") from error
    if not isinstance(found, MsgSnap):
        raise TransferError(f"an offer with a {type(found).__name__}")
    if found.from_ != sender or found.to != own_id:
        raise TransferError(f"an offer from {found.from_:x} to {found.to:x} came from {sender:x}")
    metadata = found.snapshot.metadata
    if metadata.index <= 0 or metadata.term <= 0 or metadata.term > found.term:
        raise TransferError(f"an offer of index {metadata.index} of term {metadata.term}")
    if offer.size <= 0 or len(offer.checksum) != CHECKSUM_BYTES:
        raise TransferError("an offer without size or checksum")
    return found


def is_sound(chunk: Chunk, size: int) -> bool:
    """Tell whether a chunk is whole and fits into a file of `size` bytes."""
    length = len(chunk.data)
    fits = 0 < length <= CHUNK_BYTES_MAX and 0 <= chunk.offset <= size - length
    return fits and crc32(chunk.data) == chunk.crc
