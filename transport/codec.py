"""Messages as MessagePack arrays: [tag, field, ...].

The table of tags is the caller's, because it is the whole wire contract. Tags are never reused,
and a message may only grow at its end, with a default: an older peer ignores what it does not
know, a newer one fills in what is missing. Fields are flat (numbers, bytes, text, lists of these):
hot messages are columns, a list per field and never an object per request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import msgpack


class UnknownTagError(ValueError):
    """The sender speaks a newer protocol than this process."""


class Codec:
    """Encodes and decodes the message classes of one wire table."""

    def __init__(self, wire: Mapping[int, type]) -> None:
        assert len(set(wire.values())) == len(wire), "a class has two tags"
        self._wire = dict(wire)
        self.tags = {cls: tag for tag, cls in wire.items()}
        """By class."""
        self._fields = {cls: _getter(cls) for cls in wire.values()}
        self._width = {tag: 1 + len(dataclasses.fields(cls)) for tag, cls in wire.items()}
        self._pack = msgpack.Packer().pack

    def tag(self, message: object) -> int:
        """Return the tag of a message; KeyError if it has none (a local message)."""
        return self.tags[type(message)]

    def name(self, tag: int) -> str:
        """Return the class name behind a tag, for people."""
        cls = self._wire.get(tag)
        return cls.__name__ if cls else f"?{tag}"

    def encode(self, message: object) -> bytes:
        """Serialise one message of the table."""
        cls = type(message)
        packed: bytes = self._pack((self.tags[cls], *self._fields[cls](message)))
        return packed

    def decode(self, data: bytes | memoryview) -> Any:
        """Rebuild a message from what `encode` made of it."""
        fields = msgpack.unpackb(data)
        tag = fields[0]
        try:
            cls = self._wire[tag]
        except KeyError:
            raise UnknownTagError(tag) from None
        return cls(*fields[1 : self._width[tag]])


def _getter(cls: type) -> Callable[[Any], tuple[Any, ...]]:
    names = [field.name for field in dataclasses.fields(cls)]
    if not names:
        return lambda message: ()
    if len(names) == 1:
        one = attrgetter(names[0])
        return lambda message: (one(message),)
    return attrgetter(*names)
