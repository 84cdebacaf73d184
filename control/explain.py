"""`troupectl explain`: where a request spent its time, mailbox by mailbox, and a verdict in words.

A request is named by the operations in its batch. What the raft node waits for is told apart: the
sync of its own log, a quorum of its followers, its leader.

Nothing is measured for it: everything is read from the flight recorders of all actors, also of the
stuck and the dead. A batch of requests is followed from its gateway's Propose (by the number of its
first request) to the raft node (by the sequence on the edge), to the first Apply sent after that,
to the applier's Applied that names the batch, and back; or until the gateway found the answer in
the database, when no message brought it. An only voter's Apply leaves before the log is synced:
until that is done the time is the raft node's, whatever the applier does. Results that were sent
before their COMMIT count if it came soon; otherwise they are sent again. Reads are followed by
their ReadIndex. So a recorder that holds RECORDS messages explains about the last hundred batches.
Only who has not answered a leader yet is asked of its raft node.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from control.fault import milliseconds
from control.observe import FROZEN, MemberView, Sample
from control.peek import ask_actor
from control.recorder import duration
from kv.operations import Operation, operation_names
from transport.recorder import Kind, Record

RAFT_NODE: Final = "raft-node"
APPLIER: Final = "applier"
SYNCING: Final = "syncing the log"
WRITING: Final = "writing the log"
AT_WORK: Final = "at work"
QUORUM: Final = "waiting for a quorum of followers"
LEADER: Final = "waiting for the leader"
NO_LEADER: Final = "waiting for an election"
FOUND: Final = "until the answer was found in the database"
BAR: Final = 40
MOSTLY: Final = 0.8
Trails = Mapping[str, Sequence[Record]]


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of a request's way. `start_ns` from its beginning; `behind` is in words."""

    actor: str
    what: str
    start_ns: int
    length_ns: int
    behind: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One batch of requests, or one round of reads. `finished` False: it is still under way."""

    kind: str
    operations: tuple[str, ...]
    gateway: str
    correlation: int
    requests: int
    began_ns: int
    total_ns: int
    finished: bool
    spans: tuple[Span, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class Explainer:
    """Explains from one look at all recorders of a member."""

    def __init__(self, view: MemberView, *, asks: bool = False) -> None:
        """`asks`: the raft node may be asked, and waited for, whose answer it lacks."""
        self._view = view
        self._asks = asks
        self._now = time.monotonic_ns()
        self._trails: Trails = {name: view.records(name) for name in view.board.names}
        self._positions = {name: view.board.position(name) for name in view.board.names}
        self._types = {view.type_name(tag): tag for tag in range(256)}
        self._doing: dict[str, Sample] = {}
        self._edges: dict[tuple[str, int, int], list[Record]] = {}
        self._looked_up: dict[str, list[Record]] = {}
        applied = self._types.get("Applied")
        for name, trail in self._trails.items():
            for record in trail:
                self._edges.setdefault((name, record.kind, record.peer), []).append(record)
                if record.kind == Kind.LOCAL and record.tag == applied:
                    self._looked_up.setdefault(name, []).append(record)

    def all(self, slower_than_ns: int = 0) -> list[Explanation]:
        """Return what can be explained, slowest first."""
        found = [
            explained
            for name in self._view.board.names
            if name.startswith("gateway-")
            for record in _first_asked(self._trails[name])
            if (explained := self.request(name, record)) is not None
        ]
        return sorted(
            (one for one in found if one.total_ns >= slower_than_ns), key=lambda one: -one.total_ns
        )

    def request(self, gateway: str, sent: Record) -> Explanation | None:
        """Explain what began with one record of a gateway; None if nothing begins there."""
        if sent.kind != Kind.OUT:
            return None
        if sent.tag == self._types.get("Propose"):
            return self._write(gateway, sent)
        if sent.tag == self._types.get("ReadIndex"):
            return self._read(gateway, sent)
        return None

    # --- finding ----------------------------------------------------------------------------------

    def _received(self, name: str, sender: str, sent: Record) -> Record | None:
        """Find the receiver's record of a message that `sender` has recorded as sent."""
        peer = self._positions[sender]
        for record in self._edges.get((name, Kind.IN, peer), ()):
            if (
                record.sequence == sent.sequence
                and record.tag == sent.tag
                and record.time_ns >= sent.time_ns
            ):
                return record
        return None

    def _sent_after(self, name: str, kind: str, to: str, after_ns: int) -> Record | None:
        peer, tag = self._positions[to], self._types.get(kind)
        for record in self._edges.get((name, Kind.OUT, peer), ()):
            if record.tag == tag and record.time_ns >= after_ns:
                return record
        return None

    def _answer(
        self, name: str, kind: str, gateway: str, sent: Record, ahead: int = 0
    ) -> Record | None:
        """Find the message to a gateway that answers what it sent, or that came `ahead` of it."""
        peer, tag = self._positions[gateway], self._types.get(kind)
        for record in self._edges.get((name, Kind.OUT, peer), ()):
            if record.tag != tag or record.operations & Operation.AHEAD != ahead:
                continue
            if record.time_ns < sent.time_ns or not record.correlation:
                continue
            reads = kind == "ReadStates"
            last = record.correlation if reads else record.correlation + record.items - 1
            first = 0 if reads else record.correlation
            if first <= sent.correlation <= last:
                return record
        return None

    def _told_ahead(self, gateway: str, sent: Record, apply: Record | None) -> Record | None:
        """Find results that were sent before their COMMIT, if that has come in time since.

        If it has not, they are sent again when it has.
        """
        committed = self._view.raft("committed")
        if apply is not None and committed < apply.correlation + apply.items - 1:
            return None
        return self._answer(APPLIER, "Applied", gateway, sent, Operation.AHEAD)

    def _found(self, gateway: str, sent: Record) -> Record | None:
        """Find the gateway's note that it looked the answer up, unless a message came before."""

        def first(records: Sequence[Record]) -> Record | None:
            for record in records:
                names = record.correlation <= sent.correlation < record.correlation + record.items
                ours = (
                    record.incarnation == sent.incarnation
                )  # others' requests have the numbers too
                if names and ours and record.time_ns >= sent.time_ns:
                    return record
            return None

        found = first(self._looked_up.get(gateway, ()))
        if found is None:
            return None
        came = first(self._edges.get((gateway, Kind.IN, self._positions[APPLIER]), ()))
        return found if came is None or found.time_ns < came.time_ns else None

    # --- the ways ---------------------------------------------------------------------------------

    def _write(self, gateway: str, sent: Record) -> Explanation | None:
        way = _Way(sent.time_ns, self._found(gateway, sent))
        raft = self._received(RAFT_NODE, gateway, sent)
        answer = self._answer(APPLIER, "Applied", gateway, sent)
        apply = None
        if raft is None:
            where = self._waits(RAFT_NODE, gateway, sent)
        else:
            way.to(RAFT_NODE, "in the mailbox", raft.time_ns)
            apply = self._sent_after(RAFT_NODE, "Apply", APPLIER, raft.time_ns)
        if answer is None:
            answer = self._told_ahead(gateway, sent, apply)
        if raft is not None:
            if answer is None and apply is None:
                self._through_raft(way, raft.time_ns, self._now)
            where = (RAFT_NODE, AT_WORK)
        if raft is not None and apply is not None and not _answered_before(answer, apply):
            self._through_raft(way, raft.time_ns, apply.time_ns)
            taken = self._received(APPLIER, RAFT_NODE, apply)
            where = self._waits(APPLIER, RAFT_NODE, apply)
            if taken is not None:
                way.to(APPLIER, "in the mailbox", taken.time_ns)
                where = (APPLIER, AT_WORK)
                synced = self._synced_ns(apply)
                if answer is not None:  # the word on the board came before that Flush was over
                    synced = min(synced, answer.time_ns)
                if synced >= self._now:
                    where = (RAFT_NODE, SYNCING)
                elif synced > taken.time_ns:
                    way.to(RAFT_NODE, SYNCING, synced)
            if answer is not None:
                way.to(APPLIER, AT_WORK, answer.time_ns)
        return self._ended("write", gateway, sent, way, (APPLIER, answer), where)

    def _through_raft(self, way: _Way, since: int, until: int) -> None:
        """Add a batch's time at the raft node, and in it the sync of the log that holds it."""
        sync, view = self._types.get("Sync"), self._view
        syncs = [one for one in self._trails[RAFT_NODE] if one.tag == sync and one.work_ns]
        own = [one for one in syncs if one.time_ns >= since and _end(one) <= until]
        if own:
            # A leader writes what it is given at once; others when it has come back from theirs.
            leads = view.raft("leader") == view.raft("member")
            one = own[0] if leads else own[-1]
            before = self._syncing_ns(since, one.time_ns)
            if 2 * before <= one.time_ns - since:  # else it had to wait for the sync before
                way.to(RAFT_NODE, WRITING if leads else AT_WORK, one.time_ns)
            way.to(RAFT_NODE, SYNCING, _end(one))
        elif until >= self._now and (began := view.raft("sync_since_ns")):
            way.to(RAFT_NODE, AT_WORK, max(began, since))
            way.to(RAFT_NODE, SYNCING, until)
            return
        way.to(RAFT_NODE, AT_WORK, until)

    def _syncing_ns(self, start: int, end: int) -> int:
        """Return how much of a time the raft node's log was being synced, by finished syncs."""
        sync = self._types.get("Sync")
        return sum(
            max(0, min(_end(one), end) - max(one.time_ns, start))
            for one in self._trails[RAFT_NODE]
            if one.tag == sync
        )

    def _others(self, start: int, end: int) -> tuple[str, str]:
        """Tell for whom a raft node waited that was not at work itself, and who that was."""
        member, leader = self._view.raft("member"), self._view.raft("leader")
        if not member or self._view.raft("alone"):
            return AT_WORK, ""
        if leader != member:
            return (LEADER, f"{leader:x}") if leader else (NO_LEADER, "")
        if end >= self._now:
            return QUORUM, self._missing(f"{member:x}")
        told = self._types.get("PeerReceived")
        senders = [
            record.correlation
            for record in self._trails[RAFT_NODE]
            if record.tag == told and record.kind == Kind.IN and start <= record.time_ns <= end
        ]
        return QUORUM, f"{senders[-1]:x} answered last" if senders else ""

    def _missing(self, member: str) -> str:
        """Ask the raft node which followers have not got all of its log."""
        stats = (ask_actor(self._view, RAFT_NODE, "stats") if self._asks else None) or {}
        last = stats.get("last_index", 0)
        missing = [
            follower
            for follower, progress in stats.get("progress", {}).items()
            if follower != member and progress["match"] < last
        ]
        return f"no answer yet of {', '.join(missing)}" if missing else ""

    def _synced_ns(self, apply: Record) -> int:
        """Tell when the Flush ended in which an Apply was sent ahead of the sync; now: not yet."""
        flush = self._types.get("Flush")
        for record in self._trails[RAFT_NODE]:
            ended = record.time_ns + record.work_ns
            if record.tag == flush and record.time_ns <= apply.time_ns <= ended:
                return ended
        doing = self._now_doing(RAFT_NODE)
        began = self._now - _running_ns(doing)
        return self._now if doing.doing == "Flush" and began <= apply.time_ns else 0

    def _read(self, gateway: str, sent: Record) -> Explanation | None:
        way = _Way(sent.time_ns)
        raft = self._received(RAFT_NODE, gateway, sent)
        answer = self._answer(RAFT_NODE, "ReadStates", gateway, sent)
        if raft is None:
            where = self._waits(RAFT_NODE, gateway, sent)
        else:
            way.to(RAFT_NODE, "in the mailbox", raft.time_ns)
            where = (RAFT_NODE, AT_WORK)
            if answer is not None:
                way.to(RAFT_NODE, AT_WORK, answer.time_ns)
        return self._ended("read", gateway, sent, way, (RAFT_NODE, answer), where)

    def _waits(self, name: str, sender: str, sent: Record) -> tuple[str, str] | None:
        """Tell where a message is that has no record at its receiver; None: that has forgotten."""
        edge = self._view.edge(sender, name)
        if edge.sent - edge.depth <= sent.sequence < edge.sent:
            return name, "in the mailbox"
        return None

    def _ended(
        self,
        kind: str,
        gateway: str,
        sent: Record,
        way: _Way,
        answered: tuple[str, Record | None],
        where: tuple[str, str] | None,
    ) -> Explanation | None:
        last, answer = answered
        got = None if answer is None else self._received(gateway, last, answer)
        if way.found is not None:
            way.to(gateway, FOUND, way.found.time_ns)
        elif got is not None:
            if not way.spans:
                way.to(last, "on the way (recorders have forgotten)", got.time_ns - got.wait_ns)
            way.to(gateway, "in the mailbox", got.time_ns)
            way.to(gateway, AT_WORK, got.time_ns + got.work_ns)
        else:
            if answer is not None:
                where = self._waits(gateway, last, answer)
            if where is None or self._is_past(gateway, sent, last):
                return None
            way.to(*where, self._now)
        spans = tuple(self._with_cause(span, sent.time_ns) for span in way.spans)
        total = sum(span.length_ns for span in spans)
        operations = tuple(operation_names(sent.operations))
        finished = way.found is not None or got is not None
        return Explanation(
            kind=kind,
            operations=operations,
            gateway=gateway,
            correlation=sent.correlation,
            requests=sent.items,
            began_ns=sent.time_ns,
            total_ns=total,
            finished=finished,
            spans=spans,
            verdict=verdict(spans, total, finished=finished, operations=operations),
        )

    def _is_past(self, gateway: str, sent: Record, last: str) -> bool:
        """Whether something later was answered: this was too, in a way no recorder holds."""
        peer = self._positions[last]
        return any(
            record.correlation > sent.correlation and record.time_ns > sent.time_ns
            for record in self._edges.get((gateway, Kind.IN, peer), ())
        )

    def _with_cause(self, span: Span, began_ns: int) -> Span:
        """Add what the actor was doing if it was at work for half of that time."""
        start, end = began_ns + span.start_ns, began_ns + span.start_ns + span.length_ns
        shares: dict[str, int] = {}
        for record in self._trails[span.actor]:
            if record.kind not in (Kind.IN, Kind.LOCAL) or not record.work_ns:
                continue
            if record.tag == self._types.get("Sync"):  # perhaps on another thread
                continue
            shared = min(end, record.time_ns + record.work_ns) - max(start, record.time_ns)
            if shared > 0:
                kind = self._view.type_name(record.tag)
                if record.kind == Kind.LOCAL and record.operations:
                    kind = _in_words(record.operations)
                shares[kind] = shares.get(kind, 0) + shared
        longest = sum(shares.values())
        cause = max(shares, key=lambda kind: shares[kind], default="")
        if cause and shares[cause] < MOSTLY * longest:
            cause += " and others"
        doing = self._now_doing(span.actor)
        if end >= self._now and doing.doing and _running_ns(doing) > longest:
            longest = min(_running_ns(doing), span.length_ns)
            operations = _in_words(self._view.doing_operations(span.actor))
            cause = f"{operations or doing.doing}, running for {duration(_running_ns(doing))}"
        if end >= self._now and doing.state == FROZEN:
            longest, cause = span.length_ns, "a stopped process"
        what, behind = span.what, cause if 2 * longest >= span.length_ns else ""
        if span.actor == RAFT_NODE and what == AT_WORK:
            if behind == "Flush" and 2 * self._syncing_ns(start, end) >= span.length_ns:
                what, behind = SYNCING, ""
            elif not behind:
                what, behind = self._others(start, end)
        return Span(span.actor, what, span.start_ns, span.length_ns, behind)

    def _now_doing(self, name: str) -> Sample:
        found = self._doing.get(name)
        if found is None:
            found = self._doing[name] = self._view.sample(name)
        return found


class _Way:
    """Spans one after the other; none goes beyond where the answer was `found`, if it was."""

    def __init__(self, began_ns: int, found: Record | None = None) -> None:
        self._began = self._at = began_ns
        self.found = found
        self.spans: list[Span] = []

    def to(self, actor: str, what: str, until_ns: int) -> None:
        """Add the stretch that ends at `until_ns`."""
        if self.found is not None:
            until_ns = min(until_ns, self.found.time_ns)
        until_ns = max(until_ns, self._at)
        if until_ns == self._at and self.spans and self.spans[-1].actor == actor:
            return  # nothing to tell
        self.spans.append(Span(actor, what, self._at - self._began, until_ns - self._at))
        self._at = until_ns


def _first_asked(trail: Sequence[Record]) -> list[Record]:
    """Return what was sent without what was only asked again: a request waits since the first.

    What a gateway asks for itself has no number: it opens a session, which is answered by none.
    """
    first: dict[tuple[int, int, int], Record] = {}
    for record in trail:
        if record.kind == Kind.OUT and record.correlation:
            first.setdefault((record.incarnation, record.tag, record.correlation), record)
    return list(first.values())


def _end(record: Record) -> int:
    return record.time_ns + record.work_ns


def _answered_before(answer: Record | None, apply: Record) -> bool:
    """Whether an Apply was sent too late to be the one that an answer came of."""
    return answer is not None and answer.time_ns < apply.time_ns


def _in_words(operations: int) -> str:
    return " and ".join(operation_names(operations))


def _running_ns(sample: Sample) -> int:
    return round(sample.doing_seconds * 1e9)


def verdict(
    spans: Sequence[Span], total_ns: int, *, finished: bool, operations: Sequence[str] = ()
) -> str:
    """Say in a sentence where the time went: `412 ms, Put: 390 ms waiting in ...`."""
    head = duration(total_ns) if finished else f"not answered for {duration(total_ns)}"
    head += f", {' and '.join(operations)}" if operations else ""
    if not spans:
        return head
    worst = max(spans, key=lambda span: span.length_ns)
    if worst.what == "in the mailbox":
        words = f"waiting in {worst.actor}'s mailbox"
        words += f" behind {worst.behind}" if worst.behind else ""
    elif worst.what == SYNCING or (worst.what == WRITING and not worst.behind):
        words = f"in {worst.actor}, {worst.what}"
    elif worst.what in (QUORUM, LEADER, NO_LEADER, FOUND):
        words = f"in {worst.actor}, {worst.what}"
        words += f": {worst.behind}" if worst.behind else ""
    elif worst.behind:
        words = f"in {worst.actor}, in {worst.behind}"
    elif worst.what == AT_WORK:
        words = f"in {worst.actor}, waiting for others"
    else:
        words = worst.what
    return f"{head}: {duration(worst.length_ns)} {words}"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what `troupectl explain` takes."""
    command.add_argument(
        "--over",
        "--slower-than",
        type=milliseconds,
        default=0.0,
        metavar="DURATION",
        help="only what took so long (200ms, 0.5s; a bare number is milliseconds)",
    )
    command.add_argument("--limit", type=int, default=5, help="only so many")
    command.add_argument(
        "--kept", action="store_true", help="what gateways have kept: slow ones, else samples"
    )


def explain(view: MemberView, *, slower_than_ms: float = 0.0, limit: int = 5) -> dict[str, Any]:
    """Return the slowest writes and rounds of reads that the recorders hold."""
    found = Explainer(view, asks=True).all(round(slower_than_ms * 1e6))
    return {"explained": len(found), "slowest": [one.to_dict() for one in found[:limit]]}


def kept(
    view: MemberView, *, slower_than_ms: float = 0.0, limit: int | None = None
) -> dict[str, Any]:
    """Return what gateways have kept: slow requests, else a sample each ten seconds; newest first.

    A gateway that does not answer is passed over.
    """
    answers = [
        ask_actor(view, name, "slow") for name in view.actors() if name.startswith("gateway-")
    ]
    found, samples = (
        [
            one
            for answer in answers
            for one in (answer or {}).get(which, [])
            if one["total_ns"] >= slower_than_ms * 1e6
        ]
        for which in ("slow", "samples")
    )
    chosen = sorted(found or samples, key=lambda one: -one["began_ns"])
    return {"explained": len(chosen), "slow": len(found), "slowest": chosen[:limit]}


def rendered(found: dict[str, Any]) -> RenderableType:
    """Return the explanations for people."""
    if not found["slowest"]:
        return Text("no such request is in the recorders")
    parts: list[RenderableType] = []
    for one in found["slowest"]:
        count = f" of {one['requests']} requests" if one["requests"] else ""
        head = f"{one['kind']}{count} by {one['gateway']}: {one['verdict']}"
        table = Table(title=head, title_justify="left", title_style="bold")
        for column in ("actor", "what", "for", "", "behind"):
            table.add_column(column, justify="right" if column == "for" else "left", no_wrap=True)
        for span in one["spans"]:
            table.add_row(
                span["actor"],
                span["what"],
                duration(span["length_ns"]),
                bar(span["start_ns"], span["length_ns"], one["total_ns"]),
                span["behind"],
            )
        parts.append(table)
    return Group(*parts)


def bar(start_ns: int, length_ns: int, total_ns: int) -> str:
    """Draw one span of a waterfall."""
    if not total_ns:
        return ""
    left = min(BAR - 1, BAR * start_ns // total_ns)
    return " " * left + "█" * max(1, min(BAR - left, round(BAR * length_ns / total_ns)))
