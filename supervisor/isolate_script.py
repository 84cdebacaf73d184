"""What is said to an isolated actor, line by line, and what is printed: JSON objects both.

    {"Propose": {...}}                     send a message; from whom is clear, or "from" tells
    {"Propose": {...}, "from": "gateway-0"}
    {"expect": {"Apply": {"first_index": 2}}, "seconds": 2}    wait for it; fields may be left out
    {"expect": "Apply", "to": "applier"}
    {"expect": "exit"}                     wait until it ends by itself
    {"have": {"gateway-0": 9}}             what a neighbour's Hello says it holds
    {"info": {"raft-node": [1, 2]}}        what a neighbour's Welcome says
    {"metrics": {"raft-node": {"TERM": 3}}}    words of neighbours on the board
    {"fault": "slow", "ms": 20, "for": 5}  as troupectl fault; "to" is the other end of an edge
    {"state": true}  {"log": true}  {"wait": 0.5}  {"kill": true}  {"start": true}

Empty lines and lines that begin with # are passed over. The actor starts with the first line that
is no `have`, `info` or `metrics`. What it sends is printed as {"to": ..., "Apply": {...}}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from actors import metrics
from actors.json_form import (
    CLASSES,
    MessageFormError,
    fields_from_json,
    from_json,
    to_json,
)
from actors.neighbours import Heard, sender_of
from actors.wire import kind
from control.observe import ObserveError
from supervisor.isolated import EXPECT_SECONDS, IsolatedActor

METRICS: Final[Mapping[str, Any]] = {
    "raft-node": metrics.RaftMetric,
    "applier": metrics.ApplierMetric,
    "gateway": metrics.GatewayMetric,
    "transport": metrics.TransportMetric,
    "lessor": metrics.LessorMetric,
    "snapshotter": metrics.SnapshotterMetric,
}
BEFORE_START: Final = ("have", "info", "metrics")


class ScriptError(ValueError):
    """A line that says nothing one can do."""


class Script:
    """Carries out lines on an actor. `show` is called with every object that is to be printed."""

    def __init__(self, actor: IsolatedActor, show: Callable[[dict[str, Any]], None]) -> None:
        self._actor = actor
        self._show = show
        self._began = time.monotonic()
        self._told_exit = 0
        self.replayed = 0
        self.passed_over = 0
        self._verbs: dict[str, Callable[[dict[str, Any]], None]] = {
            "expect": self._expect,
            "have": self._have,
            "info": self._info,
            "metrics": self._metrics,
            "fault": self._fault,
            "state": lambda _: self._show({"state": self._actor.state()}),
            "log": lambda _: self._show({"log": self._actor.log().splitlines()}),
            "wait": lambda line: self.listen(float(line["wait"])),
            "kill": lambda _: self._kill(),
            "start": lambda _: None if self._actor.alive else self._start(),
        }

    def line(self, text: str) -> None:
        """Carry out one line. Raises ScriptError, ExpectationError or IsolatedActorError."""
        text = text.strip()
        if not text or text.startswith("#"):
            return
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ScriptError(f"not JSON: {error}") from None
        if not isinstance(line, dict):
            raise ScriptError("a line is an object")
        verb = next((name for name in self._verbs if name in line), None)
        if verb not in BEFORE_START and self._actor.process is None:
            self._start()
        try:
            if verb is not None:
                self._verbs[verb](line)
            else:
                self._send(line)
        except (MessageFormError, LookupError, ObserveError) as error:
            raise ScriptError(str(error).strip("'\"")) from None
        self.listen(0.0)

    def tapped(self, text: str) -> None:
        """Send what a line of `troupectl tap --values --json` shows the actor was sent.

        Lines of what it sent itself, and messages without their values, are passed over.
        """
        try:
            line = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise ScriptError(f"not what a tap prints: {error}") from None
        if line.get("direction") != "in":
            return
        if "message" not in line:
            self.passed_over += 1
            return
        if self._actor.process is None:
            self._start()
        try:
            message = from_json(line["message"])
            self._actor.send(line["peer"], message, int(line.get("items", 1)))
        except (MessageFormError, LookupError) as error:
            raise ScriptError(f"not what a tap prints: {error}") from None
        self.replayed += 1
        self.listen(0.0)

    def listen(self, seconds: float, descriptor: int = -1) -> None:
        """Show what the actor says within `seconds`, or until `descriptor` can be read."""
        actor = self._actor
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            actor.hear(max(0.0, left), () if descriptor < 0 else (descriptor,))
            heard, actor.heard = actor.heard, []
            for one in heard:
                self._tell(one)
            if not heard or descriptor >= 0 or left <= 0:
                break
        if actor.process is not None and not actor.alive:
            self._tell_exit()

    def _tell(self, one: Heard) -> None:
        at = round(one.at - self._began, 6)
        self._show({"at": at, "to": one.to, **to_json(one.message)})

    def _tell_exit(self) -> None:
        incarnation = self._actor.incarnation
        if self._told_exit < incarnation:
            self._told_exit = incarnation
            exited = {"exited": self._actor.exit_words(), "incarnation": incarnation}
            trace = self._actor.trace()
            self._show(exited | ({"trace": trace.splitlines()} if trace else {}))

    def _start(self) -> None:
        self._actor.start()
        shown = {"started": self._actor.name, "incarnation": self._actor.incarnation}
        self._show(shown | {"data_dir": str(self._actor.data_dir)})

    def _kill(self) -> None:
        self._actor.kill()

    def _send(self, line: dict[str, Any]) -> None:
        sender = line.pop("from", None)
        items = int(line.pop("items", 1))
        message = from_json(line)
        names = self._actor.neighbours.names
        self._actor.send(sender or sender_of(message, names), message, items)

    def _expect(self, line: dict[str, Any]) -> None:
        wanted, seconds = line["expect"], float(line.get("seconds", EXPECT_SECONDS))
        if wanted == "exit":
            self._actor.wait_exit(seconds)
            self._tell_exit()
            return
        name, fields = (wanted, {}) if isinstance(wanted, str) else next(iter(wanted.items()))
        cls = CLASSES.get(name)
        if cls is None:
            raise ScriptError(f"no message {name!r}")
        matching = fields_from_json(cls, fields)
        found = self._actor.expect(cls, to=line.get("to"), timeout=seconds, **matching)
        self._show({"met": to_json(found)})

    def _have(self, line: dict[str, Any]) -> None:
        for name, have in line["have"].items():
            self._actor.neighbours.says(name, have=int(have))

    def _info(self, line: dict[str, Any]) -> None:
        for name, info in line["info"].items():
            self._actor.neighbours.says(name, info=[int(word) for word in info])

    def _metrics(self, line: dict[str, Any]) -> None:
        for name, words in line["metrics"].items():
            table = METRICS.get(kind(name))
            for word, value in words.items():
                if table is None or word not in table.__members__:
                    known = ", ".join(table.__members__) if table is not None else "none"
                    raise ScriptError(f"{name} has no metric {word!r}; there are {known}")
                self._actor.set_metric(name, table[word], int(value))

    def _fault(self, line: dict[str, Any]) -> None:
        arguments = {name: value for name, value in line.items() if name != "fault"}
        self._show({"fault": self._actor.fault(line["fault"], **arguments)})
