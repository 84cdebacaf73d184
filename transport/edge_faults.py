"""Faults of edges, for tests: frames that are dropped, doubled, held back or swapped.

They act between the sequence number and the socket, so the receiver sees what a broken pipe would
do: a gap, a copy, a late message. Streams must heal all of it. `Links` has none of this unless a
rule was set; every rule ends by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

Verb = Literal["drop", "duplicate", "delay", "reorder"]
VERBS: Final = ("drop", "duplicate", "delay", "reorder")
HELD_MAX: Final = 10_000
Transmit = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to messages for `receiver` ("" for all) of type `tag` (0 for all).

    A share `ratio` of them is hit; a delay holds them for `seconds`. It ends at `until`
    (CLOCK_MONOTONIC, seconds).
    """

    verb: Verb
    receiver: str
    tag: int
    until: float
    ratio: float = 1.0
    seconds: float = 0.0


@dataclass(slots=True)
class _Held:
    due: float
    stream: int
    frame: bytes
    transmit: Transmit


class EdgeFaults:
    """The faults of one actor's outgoing edges; its own thread sends, any thread sets rules."""

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        self._clock = clock
        self._chance = chance
        self._held: dict[str, deque[_Held]] = {}
        self.rules: tuple[Rule, ...] = ()
        self.hit = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to do."""
        return not self._held and all(rule.until <= self._clock() for rule in self.rules)

    @property
    def next_due(self) -> float | None:
        """When a held frame wants to go; None if none is held."""
        return min((held[0].due for held in self._held.values()), default=None)

    def send(self, receiver: str, tag: int, stream: int, frame: bytes, transmit: Transmit) -> None:
        """Send a frame, as far as the rules let it."""
        now = self._clock()
        self.release(now, {receiver: stream})
        rule = self._rule(receiver, tag, now)
        if rule is None:
            if receiver in self._held:
                self._hold(receiver, _Held(now, stream, frame, transmit))
            else:
                transmit(frame)
            return
        self.hit += 1
        if rule.verb == "delay":
            self._hold(receiver, _Held(now + rule.seconds, stream, frame, transmit))
        elif rule.verb == "duplicate":
            transmit(frame)
            transmit(frame)
        elif rule.verb == "reorder":
            waiting = self._held.pop(receiver, None)
            if waiting is None:
                self._hold(receiver, _Held(rule.until, stream, frame, transmit))
                return
            transmit(frame)
            for held in waiting:
                if held.stream == stream:
                    held.transmit(held.frame)

    def release(self, now: float, streams: dict[str, int]) -> None:
        """Send what was held long enough, without rules all; of streams that are over, nothing."""
        if not self.rules:
            now = float("inf")
        for receiver, stream in streams.items():
            waiting = self._held.get(receiver)
            while waiting and (waiting[0].stream != stream or waiting[0].due <= now):
                held = waiting.popleft()
                if held.stream == stream:
                    held.transmit(held.frame)
            if waiting is not None and not waiting:
                del self._held[receiver]

    def _hold(self, receiver: str, held: _Held) -> None:
        waiting = self._held.setdefault(receiver, deque())
        if len(waiting) < HELD_MAX:
            waiting.append(held)

    def _rule(self, receiver: str, tag: int, now: float) -> Rule | None:
        for rule in self.rules:
            if (
                now < rule.until
                and rule.receiver in ("", receiver)
                and rule.tag in (0, tag)
                and (rule.ratio >= 1.0 or self._chance() < rule.ratio)
            ):
                return rule
        return None
