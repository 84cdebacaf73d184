"""Members of the cluster as the state machine knows them, and changes to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import msgpack


@dataclass(frozen=True, slots=True)
class Member:
    """A member, as MemberList tells it. An empty name: not started yet."""

    id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


Kind: TypeAlias = Literal["add", "remove", "update", "promote"]
MemberChange: TypeAlias = tuple[Kind, Member]


def encode_member_change(change: MemberChange) -> bytes:
    """Return a change as the context of a configuration change."""
    kind, member = change
    data: bytes = msgpack.packb(
        (kind, member.id, member.name, member.peer_urls, member.client_urls, member.is_learner)
    )
    return data


def decode_member_change(context: bytes) -> MemberChange | None:
    """Return what encode_member_change was given; None for an empty context."""
    if not context:
        return None
    kind, member_id, name, peer_urls, client_urls, is_learner = msgpack.unpackb(context)[:6]
    return kind, Member(member_id, name, tuple(peer_urls), tuple(client_urls), is_learner)


def change_members(members: dict[int, Member], change: MemberChange) -> Member | None:
    """Carry out a change; return the member as it is now, None if it is gone.

    What a member has published of itself outlives an update and a promotion, as in etcd's
    membership store. A change to a member that isn't there changes nothing.
    """
    kind, member = change
    known = members.get(member.id)
    if kind == "remove":
        members.pop(member.id, None)
        return None
    if kind == "add":
        now = member
    elif known is None:
        return None
    elif kind == "update":
        now = replace(known, peer_urls=member.peer_urls)
    else:
        now = replace(known, is_learner=False)
    members[member.id] = now
    return now
