"""etcd-io/raft's way of writing states and messages down, for traces and golden tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from raft.change import Change, ConfChangeDecodeError, as_v2, decode, describe_changes
from raft.messages import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    Message,
    MsgReadIndex,
    MsgReadIndexResp,
    MsgStorageAppend,
)
from raft.ready import Ready
from raft.roles import SoftState
from raft.state import ConfState, Entry, EntryType, HardState, Snapshot

EntryFormatter: TypeAlias = Callable[[bytes], str]
"""Writes down the data of a normal entry."""

_ENTRY_TYPES = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}


def quote(data: bytes) -> str:
    """Return data in double quotes, with what can't be printed escaped."""
    return '"' + "".join(map(_shown, data.decode("utf-8", "surrogateescape"))) + '"'


def _shown(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:
        # A byte that is not UTF-8.
        return f"\\x{ord(char) - 0xDC00:02x}"
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def describe_target(id_: int) -> str:
    """Return who a message goes to or comes from."""
    if id_ == LOCAL_APPEND_THREAD:
        return "AppendThread"
    if id_ == LOCAL_APPLY_THREAD:
        return "ApplyThread"
    return f"{id_:x}" if id_ else "None"


def describe_hard_state(hard_state: HardState) -> str:
    """Return `Term:1 Vote:1 Commit:10`."""
    vote = f" Vote:{hard_state.vote}" if hard_state.vote else ""
    return f"Term:{hard_state.term}{vote} Commit:{hard_state.commit}"


def describe_soft_state(soft_state: SoftState) -> str:
    """Return `Lead:1 State:StateLeader`."""
    return f"Lead:{soft_state.lead} State:{soft_state.raft_state}"


def _ids(ids: Iterable[int]) -> str:
    return "[" + " ".join(map(str, ids)) + "]"


def describe_conf_state(state: ConfState) -> str:
    """Return the configuration in one line."""
    return (
        f"Voters:{_ids(state.voters)} VotersOutgoing:{_ids(state.voters_outgoing)} "
        f"Learners:{_ids(state.learners)} LearnersNext:{_ids(state.learners_next)} "
        f"AutoLeave:{str(state.auto_leave).lower()}"
    )


def describe_snapshot(snapshot: Snapshot) -> str:
    """Return a snapshot's metadata in one line."""
    metadata = snapshot.metadata
    return (
        f"Index:{metadata.index} Term:{metadata.term} "
        f"ConfState:{describe_conf_state(metadata.conf_state)}"
    )


def describe_conf_change(change: Change) -> str:
    """Return a change in one line."""
    general = as_v2(change)
    parts = [f"transition:{general.transition}"]
    parts += [f"changes:{{type:{c.type} node_id:{c.node_id}}}" for c in general.changes]
    if general.context:
        parts.append(f"context:{quote(general.context)}")
    return " ".join(parts)


def describe_entry(entry: Entry, formatter: EntryFormatter = quote) -> str:
    """Return `1/11 EntryNormal "data"`: term, index, type and data."""
    if entry.type == EntryType.NORMAL:
        data = formatter(entry.data)
    else:
        try:
            data = describe_changes(as_v2(decode(entry.type, entry.data)).changes)
        except ConfChangeDecodeError as error:
            data = str(error)
    kind = _ENTRY_TYPES[EntryType(entry.type)]
    return f"{entry.term}/{entry.index} {kind}" + (f" {data}" if data else "")


def describe_entries(entries: Sequence[Entry], formatter: EntryFormatter = quote) -> str:
    """Return one line per entry, each ended."""
    return "".join(describe_entry(entry, formatter) + "\n" for entry in entries)


def describe_message(
    message: Message, formatter: EntryFormatter = quote, *, indent: str = ""
) -> str:
    """Return a message in one line, or more when it carries much."""
    from_, to = describe_target(message.from_), describe_target(message.to)
    log_term, index = getattr(message, "log_term", 0), getattr(message, "index", 0)
    text = (
        f"{indent}{from_}->{to} {type(message).__name__} Term:{message.term} Log:{log_term}/{index}"
    )
    if getattr(message, "reject", False):
        text += f" Rejected (Hint: {getattr(message, 'reject_hint', 0)})"
    hard_state = message.hard_state if isinstance(message, MsgStorageAppend) else None
    if commit := hard_state.commit if hard_state else getattr(message, "commit", 0):
        text += f" Commit:{commit}"
    if hard_state and hard_state.vote:
        text += f" Vote:{hard_state.vote}"
    text += _describe_carried(_carried(message), formatter, indent)
    snapshot = getattr(message, "snapshot", None)
    if snapshot is not None and snapshot.metadata.index:
        text += f"\n{indent}  Snapshot: {describe_snapshot(snapshot)}"
    if responses := getattr(message, "responses", ()):
        text += " Responses:["
        for response in responses:
            text += "\n" + describe_message(response, formatter, indent=indent + "  ")
        text += f"\n{indent}]"
    return text


def _carried(message: Message) -> Sequence[Entry]:
    if isinstance(message, MsgReadIndex | MsgReadIndexResp):
        # raftpb carries the context of a read as an entry.
        return (Entry(0, 0, message.context),)
    return getattr(message, "entries", ())


def _describe_carried(entries: Sequence[Entry], formatter: EntryFormatter, indent: str) -> str:
    if not entries:
        return ""
    if len(entries) == 1:
        return f" Entries:[{describe_entry(entries[0], formatter)}]"
    lines = "".join(f"\n{indent}  {describe_entry(entry, formatter)}" for entry in entries)
    return f" Entries:[{lines}\n{indent}]"


def describe_ready(ready: Ready, formatter: EntryFormatter = quote) -> str:
    """Return all that a Ready asks for."""
    text = ""
    if ready.soft_state is not None:
        text += describe_soft_state(ready.soft_state) + "\n"
    if ready.hard_state is not None:
        text += f"HardState {describe_hard_state(ready.hard_state)}\n"
    if ready.read_states:
        states = (f"{{{s.index} {_ids(s.context)}}}" for s in ready.read_states)
        text += f"ReadStates [{' '.join(states)}]\n"
    if ready.entries:
        text += "Entries:\n" + describe_entries(ready.entries, formatter)
    if ready.snapshot is not None:
        text += f"Snapshot {describe_snapshot(ready.snapshot)}\n"
    if ready.committed_entries:
        text += "CommittedEntries:\n" + describe_entries(ready.committed_entries, formatter)
    if ready.messages:
        text += "Messages:\n"
        text += "".join(describe_message(m, formatter) + "\n" for m in ready.messages)
    if not text:
        return "<empty Ready>"
    return f"Ready MustSync={str(ready.must_sync).lower()}:\n{text}"
