"""`troupectl fault VERB`: breaks a member that was started with --enable-faults, for a while."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, Final

from control.observe import MemberView, ObserveError
from control.peek import ask_actor

ROOTS: Final = ("kill", "freeze", "fsync-slow", "fsync-fail", "disk-full")
ACTORS: Final = ("crash", "suspend", "resume", "hang", "slow", "hog")
EDGES: Final = ("drop", "duplicate", "delay", "reorder", "flood")
PEERS: Final = ("cut", "mend")
VERBS: Final = (*ROOTS, *ACTORS, *EDGES, *PEERS, "heal")
ANSWER_SECONDS: Final = 5.0
DISK: Final = ("fsync-slow", "fsync-fail", "disk-full")
KEY_FILE: Final = "faults.key"
"""In the run directory of a member with --enable-faults: who can read it may break it over HTTP."""
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(us|µs|ms|s|)")
_MILLISECONDS: Final = {"us": 0.001, "µs": 0.001, "ms": 1.0, "": 1.0, "s": 1000.0}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what `troupectl fault` takes."""
    command.add_argument("verb", choices=VERBS)
    command.add_argument("target", nargs="?", default="", help="an actor, FROM:TO, or a peer")
    command.add_argument("--for", type=float, default=10.0, dest="seconds", metavar="SECONDS")
    command.add_argument("--ms", type=float, help="for slow, delay and fsync-slow")
    command.add_argument(
        "--p99",
        type=milliseconds,
        metavar="DURATION",
        help="for slow, instead of --ms: one message of 50 takes that long in its handler, so that "
        "the actor's work p99 is it and the median stays (200ms, 0.5s; at most 1s)",
    )
    command.add_argument(
        "--type", default="", help="only this type of messages on an edge; hang: in the next such"
    )
    command.add_argument("--ratio", type=float, default=1.0, help="share of messages on an edge")
    command.add_argument("--count", type=int, help="messages of a flood")
    command.add_argument("--bytes", type=int, help="memory that a hog takes (256 MiB)")
    command.add_argument(
        "--at-start", action="store_true", help="crash: at every start, until the member gives up"
    )


def milliseconds(text: str) -> float:
    """Return a duration as `200ms`, `0.5s` or a bare number in ms. Raises ArgumentTypeError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"no duration: {text!r}; say 200ms or 0.5s")
    return float(found[1]) * _MILLISECONDS[found[2]]


def key(run_dir: Path) -> str:
    """Return what an HTTP client proves by that it may inject faults; empty if nobody may."""
    try:
        return (run_dir / KEY_FILE).read_text().strip()
    except FileNotFoundError:
        return ""


def inject(view: MemberView, verb: str, target: str, **arguments: Any) -> dict[str, Any]:
    """Inject a fault; return what was answered. Raises ObserveError if it was refused.

    `target` is an actor; FROM:TO for an edge (an empty TO means all); a peer for cut and mend.
    """
    known = {key: value for key, value in arguments.items() if value is not None}
    if verb == "heal":
        return _healed(view)
    if verb in PEERS:
        return _linked(view, verb, **({"peer": target} if target else {}), **known)
    if verb in EDGES:
        sender, _, receiver = target.partition(":")
        return _asked(view, sender, verb, known | {"to": receiver})
    if verb in DISK:
        return _asked(view, "root", verb, known | ({"actor": target} if target else {}))
    if target not in (*view.board.names, "zygote"):
        raise ObserveError(f"no actor {target!r}; there are {', '.join(view.actors())}")
    if verb == "resume":  # of a freeze, then of a suspension or a hang
        _asked(view, "root", verb, known | {"actor": target})
    to = "root" if verb in ROOTS or (verb == "crash" and known.get("at_start")) else target
    return _asked(view, to, verb, known | {"actor": target})


def _healed(view: MemberView) -> dict[str, Any]:
    """End all faults, root's first: who is frozen answers nobody.

    What an actor answered; {"error": …} for one that does not answer, which is dead, or stuck and
    about to be replaced: its faults end with it. Raises ObserveError if nobody may.
    """
    found: dict[str, Any] = {"root": _asked(view, "root", "heal", {})}
    for name in view.actors():
        try:
            found[name] = _asked(view, name, "heal", {})
            if name == "transport":
                _linked(view, "mend")
        except ObserveError as error:
            found[name] = {"error": str(error)}
    return found


def _linked(view: MemberView, verb: str, **known: Any) -> dict[str, Any]:
    return _answer(ask_actor(view, "transport", verb, ANSWER_SECONDS, **known), "transport")


def _asked(view: MemberView, name: str, verb: str, known: dict[str, Any]) -> dict[str, Any]:
    if name not in view.board.names:
        raise ObserveError(f"no actor {name!r}; there are {', '.join(view.actors())}")
    return _answer(ask_actor(view, name, "fault", ANSWER_SECONDS, verb=verb, **known), name)


def _answer(answer: dict[str, Any] | None, name: str) -> dict[str, Any]:
    if answer is None:
        raise ObserveError(f"{name} does not answer")
    if "error" in answer:
        raise ObserveError(answer["error"])
    return answer
