"""Messages between actors as JSON and back: for prompts, scripts and replays, never on a hot path.

A message is an object with one key, its class: `{"Propose": {"session": 9, ...}}`. Bytes are a
string where they are printable text, else `{"base64": "..."}`; data that is a batch of requests is
`{"batch": {"session", "mark", "first_id", "requests": [{"put": {"key": "a", "value": "b"}}]}}`.
Both directions take and give the same form, and nothing is left out: what may hold secrets must
not be put into it (`replayable` tells).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

import msgpack
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from actors import messages
from actors.wire import WIRE
from etcdpb import rpc_pb2 as pb
from kv.batch import Batch, BatchDecodeError, Op, decode_batch, encode_batch
from raft.state import EntryType

CLASSES: Final[dict[str, type[Any]]] = {cls.__name__: cls for cls in WIRE.values()}
_HINTS: Final = {cls: typing.get_type_hints(cls) for cls in WIRE.values()}
STREAM_MESSAGES: Final = frozenset({"Hello", "Welcome"})
"""What links say to each other; nobody else may."""
SHOWN: Final[dict[int, type[Any]]] = {
    Op.PUT: pb.PutRequest,
    Op.DELETE_RANGE: pb.DeleteRangeRequest,
    Op.TXN: pb.TxnRequest,
    Op.COMPACT: pb.CompactionRequest,
    Op.ALARM: pb.AlarmRequest,
    Op.LEASE_GRANT: pb.LeaseGrantRequest,
    Op.LEASE_REVOKE: pb.LeaseRevokeRequest,
}
"""Requests that may be shown when values are asked for."""
PACKED: Final = frozenset({Op.OPEN_SESSION, Op.MEMBER_ATTRIBUTES})
"""Requests that are msgpack lists."""
PUBLIC: Final = frozenset(
    {
        *SHOWN, *PACKED, Op.CLUSTER_VERSION, Op.LEASE_EXPIRE, Op.LEASE_CHECKPOINT,
    }
)  # fmt: skip
"""Requests that hold no secret but keys and values."""
NUMBERS_AS_BYTES: Final = frozenset({"LeaseFacts", "LeaseAsk"})


class MessageFormError(ValueError):
    """What was written is no message; the text says what is wrong."""


def to_json(message: Any) -> dict[str, Any]:
    """Return a message of the wire table as an object that json.dumps takes."""
    cls = type(message)
    hints = _HINTS[cls]
    return {
        cls.__name__: {
            field.name: _shown(getattr(message, field.name), hints[field.name])
            for field in dataclasses.fields(cls)
        }
    }


def from_json(written: Mapping[str, Any]) -> Any:
    """Return the message that was written. Raises MessageFormError."""
    if len(written) != 1:
        raise MessageFormError(f"one message has one name, not {sorted(written)}")
    ((name, fields),) = written.items()
    cls = CLASSES.get(name)
    if cls is None or name in STREAM_MESSAGES:
        known = ", ".join(sorted(CLASSES.keys() - STREAM_MESSAGES))
        raise MessageFormError(f"no message {name!r}; there are {known}")
    if not isinstance(fields, Mapping):
        raise MessageFormError(f"the fields of {name} are an object")
    try:
        return cls(**fields_from_json(cls, fields))
    except TypeError as error:  # one is missing
        raise MessageFormError(str(error).replace(".__init__()", ":")) from None


def fields_from_json(cls: type[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return some fields of a message class with their values. Raises MessageFormError."""
    hints = _HINTS[cls]
    known = [field.name for field in dataclasses.fields(cls)]
    found = {}
    for name, value in fields.items():
        if name not in known:
            raise MessageFormError(f"{cls.__name__} has no {name!r}; it has {', '.join(known)}")
        try:
            found[name] = _read(value, hints[name])
        except (TypeError, ValueError, KeyError) as error:
            raise MessageFormError(f"{cls.__name__}.{name}: {error}") from None
    return found


def replayable(message: Any) -> bool:
    """Whether a message may be shown whole to somebody who asks for values.

    Keys and values are in it, but no request that can hold a password or a token.
    """
    if isinstance(message, messages.Propose):
        return _is_public(message.batch)
    if isinstance(message, messages.Apply):
        return all(
            not data or kind != EntryType.NORMAL or _is_public(data)
            for kind, data in zip(message.types, message.datas, strict=True)
        )
    name = type(message).__name__
    if name in STREAM_MESSAGES or name not in CLASSES:
        return False
    hints = _HINTS[type(message)]
    return name in NUMBERS_AS_BYTES or all(_is_plain(hint) for hint in hints.values())


def _is_public(data: bytes) -> bool:
    try:
        return all(op in PUBLIC for op in decode_batch(data).ops)
    except BatchDecodeError:
        return False


def _is_plain(hint: Any) -> bool:
    return hint in (int, bool, str, float) or hint == list[int]


# --- bytes and lists ------------------------------------------------------------------------------


def _shown(value: Any, hint: Any) -> Any:
    if isinstance(value, bytes):
        return shown_bytes(value) if hint is bytes else {"base64": _base64(value)}
    if isinstance(value, list | tuple):
        inner = typing.get_args(hint)
        return [_shown(one, inner[0] if inner else Any) for one in value]
    return value


def _read(value: Any, hint: Any) -> Any:
    if isinstance(value, Mapping):
        return read_bytes(value)
    if isinstance(hint, types.GenericAlias) or isinstance(value, list):
        if not isinstance(value, list):
            raise MessageFormError(f"a list is wanted, not {value!r}")
        inner = typing.get_args(hint)
        return [_read(one, inner[0] if inner else Any) for one in value]
    if hint is bytes:
        return read_bytes(value)
    if hint is not Any and not (type(value) is hint or (hint is int and isinstance(value, int))):
        raise MessageFormError(f"{getattr(hint, '__name__', hint)} is wanted, not {value!r}")
    return value


def shown_bytes(value: bytes) -> Any:
    """Return bytes as text where they are, as a batch where they are one, else as base64."""
    text = _text(value)
    if text is not None:
        return text
    try:
        shown = _batch(decode_batch(value))
        if read_bytes(shown) == value:
            return shown
    except (BatchDecodeError, DecodeError, ValueError, TypeError, KeyError):
        pass
    return {"base64": _base64(value)}


def read_bytes(value: Any) -> bytes:
    """Return the bytes that were written: text, {"base64"}, {"text"} or {"batch"}."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping) and len(value) == 1:
        ((form, inner),) = value.items()
        if form == "text":
            return str(inner).encode()
        if form == "base64":
            try:
                return base64.b64decode(inner, validate=True)
            except (binascii.Error, TypeError) as error:
                raise MessageFormError(f"not base64: {error}") from None
        if form == "batch":
            return _read_batch(inner)
    raise MessageFormError(f'text, {{"base64"}} or {{"batch"}} is wanted, not {value!r}')


def _text(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


# --- batches of requests --------------------------------------------------------------------------


def _batch(batch: Batch) -> dict[str, Any]:
    requests = [_request(op, data) for op, data in zip(batch.ops, batch.requests, strict=True)]
    return {
        "batch": {
            "session": batch.session,
            "mark": batch.mark,
            "first_id": batch.first_id,
            "requests": requests,
        }
    }


def _request(op: int, data: bytes) -> dict[str, Any]:
    name = Op(op).name.lower()
    if op in SHOWN:
        return {name: _fields(SHOWN[op].FromString(data))}
    if op in PACKED:
        return {name: msgpack.unpackb(data)}
    return {name: {"base64": _base64(data)}}


def _read_batch(written: Mapping[str, Any]) -> bytes:
    ops, requests = [], []
    for request in written.get("requests", ()):
        ((name, inner),) = request.items()
        if name.upper() not in Op.__members__:
            known = ", ".join(op.name.lower() for op in Op)
            raise MessageFormError(f"no request {name!r}; there are {known}")
        op = Op[name.upper()]
        ops.append(op)
        if op in SHOWN and "base64" not in inner:
            requests.append(_filled(SHOWN[op](), inner).SerializeToString())
        elif op in PACKED and isinstance(inner, list):
            requests.append(msgpack.packb(inner))
        else:
            requests.append(read_bytes(inner))
    first_id = int(written.get("first_id", 0))
    session, mark = int(written.get("session", 0)), int(written.get("mark", first_id))
    return encode_batch(session, mark, first_id, bytes(ops), requests)


def _fields(message: Message) -> dict[str, Any]:
    return {field.name: _field(field, value) for field, value in message.ListFields()}


def _field(field: Any, value: Any) -> Any:
    if hasattr(value, "extend"):  # repeated
        return [_one(field, one) for one in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _fields(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    if isinstance(value, bytes):
        text = _text(value)
        return {"base64": _base64(value)} if text is None else text
    return value


def _filled(message: Message, written: Mapping[str, Any]) -> Message:
    for name, value in written.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            known = ", ".join(message.DESCRIPTOR.fields_by_name)
            raise MessageFormError(f"{message.DESCRIPTOR.name} has no {name!r}; it has {known}")
        inner = getattr(message, name)
        is_repeated = hasattr(inner, "extend")
        if field.message_type is not None:
            if not is_repeated:
                inner.SetInParent()
            for one in value if is_repeated else [value]:
                _filled(inner.add() if is_repeated else inner, one)
        elif is_repeated:
            inner.extend(_value(field, one) for one in value)
        else:
            setattr(message, name, _value(field, value))
    return message


def _value(field: Any, written: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return read_bytes(written)
    if field.enum_type is not None and isinstance(written, str):
        return field.enum_type.values_by_name[written].number
    return written
