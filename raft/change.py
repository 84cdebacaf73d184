"""Configuration changes and their bytes in Entry.data, which are raftpb's.

A ConfChange (version 1) changes one member, without joint consensus. A ConfChangeV2 changes many:
through a joint configuration if there is more than one change or the transition asks for it. An
empty one leaves the joint configuration. `context` belongs to the application.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TypeAlias

from raft.message import message
from raft.state import EntryType
from raft.varint import varint


class ConfChangeDecodeError(ValueError):
    """The bytes are not a configuration change."""


class ConfChangeType(IntEnum):
    """raftpb.ConfChangeType."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3

    def __str__(self) -> str:
        return "ConfChange" + "".join(word.capitalize() for word in self.name.split("_"))


class ConfChangeTransition(IntEnum):
    """raftpb.ConfChangeTransition: how a change uses joint consensus."""

    AUTO = 0
    """Simple if it is a single change, else as JOINT_IMPLICIT."""
    JOINT_IMPLICIT = 1
    """Joint; the leader leaves it by itself as soon as it is applied."""
    JOINT_EXPLICIT = 2
    """Joint; the application proposes to leave it."""

    def __str__(self) -> str:
        return "ConfChangeTransition" + "".join(w.capitalize() for w in self.name.split("_"))


@message
class ConfChangeSingle:
    """One operation. Node 0 changes nothing: how an application refuses what it has committed."""

    type: ConfChangeType
    node_id: int


@message
class ConfChange:
    """raftpb.ConfChange. `id` is the application's."""

    type: ConfChangeType
    node_id: int
    context: bytes = b""
    id: int = 0


@message
class ConfChangeV2:
    """raftpb.ConfChangeV2."""

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""


Change: TypeAlias = ConfChange | ConfChangeV2


def as_v2(change: Change) -> ConfChangeV2:
    """Return the change in its general form."""
    if isinstance(change, ConfChangeV2):
        return change
    return ConfChangeV2((ConfChangeSingle(change.type, change.node_id),), context=change.context)


def leaves_joint(change: ConfChangeV2) -> bool:
    """Tell whether the change only leaves a joint configuration."""
    return change.transition == ConfChangeTransition.AUTO and not change.changes


def enters_joint(change: ConfChangeV2) -> tuple[bool, bool]:
    """Return (enters a joint configuration, leaves it automatically)."""
    if change.transition == ConfChangeTransition.AUTO and len(change.changes) <= 1:
        return False, False
    return True, change.transition != ConfChangeTransition.JOINT_EXPLICIT


def encode(change: Change | None) -> tuple[EntryType, bytes]:
    """Return (type, data) of an entry that carries the change; None leaves a joint one."""
    if change is None:
        return EntryType.CONF_CHANGE_V2, b""
    if isinstance(change, ConfChange):
        data = _field(1, change.id) + _field(2, change.type) + _field(3, change.node_id)
        return EntryType.CONF_CHANGE, data + _bytes_field(4, change.context)
    data = _field(1, change.transition)
    for single in change.changes:
        body = _field(1, single.type) + _field(2, single.node_id)
        data += b"\x12" + varint(len(body)) + body
    return EntryType.CONF_CHANGE_V2, data + _bytes_field(3, change.context)


def decode(entry_type: int, data: bytes) -> Change:
    """Return the change an entry carries. Raises ConfChangeDecodeError."""
    try:
        if entry_type == EntryType.CONF_CHANGE:
            return _decode_v1(data)
        if entry_type == EntryType.CONF_CHANGE_V2:
            return _decode_v2(data)
    except (IndexError, TypeError, ValueError) as error:
        raise ConfChangeDecodeError(f"not a configuration change: {error}") from error
    raise ConfChangeDecodeError(f"entry type {entry_type} is no configuration change")


def _decode_v1(data: bytes) -> ConfChange:
    type_ = node_id = id_ = 0
    context = b""
    for number, value in _parse(data):
        if isinstance(value, bytes):
            context = value if number == 4 else context
        elif number == 1:
            id_ = value
        elif number == 2:
            type_ = value
        elif number == 3:
            node_id = value
    return ConfChange(ConfChangeType(type_), node_id, context, id_)


def _decode_v2(data: bytes) -> ConfChangeV2:
    transition = 0
    changes = []
    context = b""
    for number, value in _parse(data):
        if isinstance(value, bytes):
            if number == 2:
                fields = dict(_parse(value))
                kind, node_id = fields.get(1, 0), fields.get(2, 0)
                if isinstance(kind, bytes) or isinstance(node_id, bytes):
                    raise TypeError("a number was expected")
                changes.append(ConfChangeSingle(ConfChangeType(kind), node_id))
            elif number == 3:
                context = value
        elif number == 1:
            transition = value
    return ConfChangeV2(tuple(changes), ConfChangeTransition(transition), context)


# The protobuf wire format, as far as it is needed: varints and length-delimited fields.


def _field(number: int, value: int) -> bytes:
    return bytes((number << 3,)) + varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(value)) + value if value else b""


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise ValueError("varint is larger than 64 bits")
            return value, place
        shift += 7


def _parse(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        value, place = _read_varint(data, place)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2:
            if place + value > len(data):
                raise ValueError("field is cut short")
            yield key >> 3, data[place : place + value]
            place += value
        else:
            raise ValueError(f"unknown wire type {key & 7}")


# The short form of tests and traces: "v1 l2 r3 u4".

_LETTERS = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}
_NAMES = {kind: letter for letter, kind in _LETTERS.items()}


def parse_changes(text: str) -> tuple[ConfChangeSingle, ...]:
    """Read `v1 l2 r3 u4`: add voter 1, add learner 2, remove 3, update 4. Raises ValueError."""
    changes = []
    for token in text.split():
        if len(token) < 2:
            raise ValueError(f"unknown token {token}")
        if token[0] not in _LETTERS:
            raise ValueError(f"unknown input: {token}")
        changes.append(ConfChangeSingle(_LETTERS[token[0]], int(token[1:])))
    return tuple(changes)


def describe_changes(changes: Sequence[ConfChangeSingle]) -> str:
    """Return what parse_changes reads."""
    return " ".join(f"{_NAMES[change.type]}{change.node_id}" for change in changes)
