"""raft's messages between members, as bytes. Transports carry them unread.

A message is a MessagePack array [tag, to, from, term, field, ...]; entries travel as columns. Tags
are never reused and messages only grow at their end: an older member ignores what it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final, get_type_hints

import msgpack

from raft.change import ConfChangeDecodeError, decode
from raft.messages import (
    MsgApp,
    MsgAppResp,
    MsgHeartbeat,
    MsgHeartbeatResp,
    MsgPreVote,
    MsgPreVoteResp,
    MsgProp,
    MsgReadIndex,
    MsgReadIndexResp,
    MsgSnap,
    MsgTimeoutNow,
    MsgTransferLeader,
    MsgVote,
    MsgVoteResp,
    PeerMessage,
)
from raft.state import ConfState, Entry, EntryType, Snapshot, SnapshotMetadata
from transport.codec import Codec
from transport.lanes import Lane

_PROP: Final = 1
_APP: Final = 2
_SNAP: Final = 8
_PLAIN: Final[dict[int, type]] = {
    3: MsgAppResp,
    4: MsgVote,
    5: MsgVoteResp,
    6: MsgPreVote,
    7: MsgPreVoteResp,
    9: MsgHeartbeat,
    10: MsgHeartbeatResp,
    11: MsgTransferLeader,
    12: MsgTimeoutNow,
    13: MsgReadIndex,
    14: MsgReadIndexResp,
}
_codec: Final = Codec(_PLAIN)
_HINTS: Final = {cls: get_type_hints(cls) for cls in _PLAIN.values()}
_FIELDS: Final = {cls: (attrgetter(*hints), (*hints.values(),)) for cls, hints in _HINTS.items()}
_NUMBERS: Final = {
    cls: attrgetter(*[name for name, kind in hints.items() if kind is int])
    for cls, hints in _HINTS.items()
}
_KINDS: Final = frozenset(int(kind) for kind in EntryType)
_BULKY: Final = frozenset({MsgApp, MsgProp})


class PeerMessageError(ValueError):
    """What another member sent is not a message of raft."""


def lane_of(message: PeerMessage) -> Lane:
    """Return the lane of a message: nothing small ever waits behind entries."""
    return Lane.APPEND if type(message) in _BULKY else Lane.CONTROL


def encode_peer(message: PeerMessage) -> bytes:
    """Return a message as bytes."""
    if isinstance(message, MsgApp):
        m = message
        numbers = (_APP, m.to, m.from_, m.term, m.log_term, m.index, m.commit)
        return _pack((*numbers, *_columns(m.entries)))
    if isinstance(message, MsgProp):
        head = (_PROP, message.to, message.from_, message.term)
        return _pack((*head, *_columns(message.entries)))
    if isinstance(message, MsgSnap):
        metadata, conf = message.snapshot.metadata, message.snapshot.metadata.conf_state
        head = (_SNAP, message.to, message.from_, message.term)
        configuration = (
            conf.voters,
            conf.learners,
            conf.voters_outgoing,
            conf.learners_next,
            conf.auto_leave,
        )
        snapshot = (message.snapshot.data, metadata.index, metadata.term, configuration)
        return _pack((*head, *snapshot))
    return _codec.encode(message)


def decode_peer(data: bytes) -> PeerMessage:
    """Return the message that encode_peer was given. Raises PeerMessageError."""
    try:
        fields = msgpack.unpackb(data, use_list=False)
        tag = fields[0]
        if tag == _APP:
            to, from_, term, log_term, index, commit, *columns = fields[1:10]
            _check_numbers((to, from_, term, log_term, index, commit))
            entries = _entries(*columns, first_index=index + 1)
            return MsgApp(to, from_, term, log_term, index, entries, commit)
        if tag == _PROP:
            to, from_, term, *columns = fields[1:7]
            _check_numbers((to, from_, term))
            return MsgProp(to, from_, term, _entries(*columns, first_index=0))
        if tag == _SNAP:
            to, from_, term, held, index, snapshot_term, conf = fields[1:8]
            conf_state = ConfState(*conf[:5])
            _check_types((held, *conf[:5]), (bytes, tuple, tuple, tuple, tuple, bool))
            _check_numbers((to, from_, term, index, snapshot_term, *chain(*conf[:4])))
            metadata = SnapshotMetadata(index, snapshot_term, conf_state)
            return MsgSnap(to, from_, term, Snapshot(held, metadata))
        message: PeerMessage = _codec.decode(data)
        fields_of, kinds = _FIELDS[type(message)]
        _check_types(fields_of(message), kinds)
        _check_signs(_NUMBERS[type(message)](message))
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise PeerMessageError(f"not a message of raft: {error}") from error
    return message


_PASSED_ON: Final = frozenset({MsgProp, MsgReadIndex, MsgTransferLeader})
_WITHOUT_TERM: Final = frozenset({MsgProp, MsgReadIndex})


def read_peer(sender: int, receiver: int, data: bytes) -> PeerMessage | None:
    """Return the message that `sender` sent to `receiver`; None if it is not that.

    A snapshot never comes this way: its file has to be here first. Who has just stopped leading
    passes on what others passed on to it, in their names, and of a transfer in that of who is to
    lead.
    """
    try:
        received = decode_peer(data)
    except PeerMessageError:
        return None
    kind = type(received)
    if received.to != receiver or kind is MsgSnap:
        return None
    if received.from_ != sender and kind not in _PASSED_ON:
        return None
    if kind is MsgProp:
        proposed = received.entries  # type: ignore[union-attr]
        return received if proposed and all(map(_may_be_proposed, proposed)) else None
    return received if received.term or kind in _WITHOUT_TERM else None


def _may_be_proposed(entry: Entry) -> bool:
    """Tell whether an entry is what its type says."""
    if entry.type != EntryType.NORMAL:
        try:
            decode(entry.type, entry.data)
        except ConfChangeDecodeError:
            return False
    return True


def _pack(fields: tuple[Any, ...]) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def _columns(entries: Sequence[Entry]) -> tuple[list[int], list[int], list[bytes]]:
    return (
        [entry.term for entry in entries],
        [int(entry.type) for entry in entries],
        [entry.data for entry in entries],
    )


def _check_types(values: Sequence[object], kinds: tuple[type, ...]) -> None:
    if tuple(map(type, values)) != kinds:
        raise PeerMessageError(f"fields {tuple(map(type, values))} instead of {kinds}")


def _check_numbers(values: Sequence[Any]) -> None:
    """Indexes, terms and ids are whole and not negative."""
    _check_types(values, (int,) * len(values))
    _check_signs(values)


def _check_signs(values: Sequence[int]) -> None:
    if values and min(values) < 0:
        raise PeerMessageError(f"{min(values)} where no number is negative")


def _entries(
    terms: Sequence[int], kinds: Sequence[int], datas: Sequence[bytes], *, first_index: int
) -> tuple[Entry, ...]:
    """Return entries; those of a proposal have no index yet (first_index 0)."""
    if not len(terms) == len(kinds) == len(datas):
        raise PeerMessageError(f"{len(terms)} terms for {len(datas)} entries")
    _check_numbers(terms)
    _check_numbers(kinds)
    _check_types(datas, (bytes,) * len(datas))
    if not _KINDS.issuperset(kinds):
        raise PeerMessageError(f"entries of the types {set(kinds)}")
    step = 1 if first_index else 0
    return tuple(
        [
            Entry(term, first_index + step * place, data, kind)
            for place, (term, kind, data) in enumerate(zip(terms, kinds, datas, strict=True))
        ]
    )
