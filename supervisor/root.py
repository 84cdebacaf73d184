"""The root actor: starts the children, restarts what fails, ends what is stuck, stops in order.

Owns      the tree, the log's outlets, the listening sockets and the lock on the data directory.
Receives  ChildForked, ChildExited, LogWritten, StopRequested, Tick (see root_inbox).
Sends     `stop` to children's control mailboxes; signals.
Crashes   never on a child's fault: past a child's intensity it stops the member and ends with the
          child's own exit code, so that whoever runs the member decides.

Incarnation n+1 of a child starts only after waitpid of n. Root forks nothing itself (the zygote
does) and waits in nothing but its own inbox.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pykka

from supervisor.crash_report import CrashReporter, Ended, in_words
from supervisor.faults import RootFaults
from supervisor.init_daemon import InitDaemon
from supervisor.logs import LogSink
from supervisor.nursery import Nursery
from supervisor.root_inbox import (
    ChildExited,
    ChildForked,
    LogWritten,
    RootInbox,
    StopRequested,
)
from supervisor.spec import ChildSpec
from supervisor.strategy import Escalate, History, Restart, child_ended, next_pause
from supervisor.stuck import StuckDetector
from supervisor.traces import TRACE_SIGNAL
from supervisor.tree import MESSAGE_NAMES
from transport.control import ControlClient, ControlServer
from transport.counters import Board, Cell, State
from transport.mailbox import Tick

STOP_SECONDS: Final = 1.3
EVENTS_MAX: Final = 100
TRACE_SECONDS: Final = 0.05
"""Between asking a stuck child for its stack and killing it."""
ZYGOTE: Final = ChildSpec(
    name="zygote", module="supervisor.zygote", exit_code=88, reason="forks every child"
)


@dataclass(slots=True)
class Child:
    """What root knows of a child now."""

    spec: ChildSpec
    history: History
    pid: int = 0
    incarnation: int = 0
    start_at: float | None = None
    last_reason: str = ""
    control: ControlClient | None = None
    killed: bool = False
    kill_at: float | None = None
    stuck_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What every start order says, and what root was given."""

    run_dir: Path
    data_dir: Path
    member_name: str
    config: Mapping[str, Any]
    sockets: Mapping[str, Sequence[int]] = field(default_factory=dict)
    lock_fd: int = -1
    log_read_fd: int = -1
    log_write_fd: int = -1
    stuck_detection: bool = True
    zygote_within: float = 15.0
    """Seconds in which the zygote must have made a child."""
    notify_socket: str = ""
    """See init_daemon."""


class RootActor(pykka.ThreadingActor):
    """See the module docstring. Runs on the main thread of its process."""

    def __init__(
        self, specs: Sequence[ChildSpec], around: Surroundings, board: Board, sink: LogSink
    ) -> None:
        self._around = around
        self._board = board
        self._sink = sink
        self._children = {spec.name: Child(spec, History(spec)) for spec in specs}
        self._pids: dict[int, Child] = {}
        self._early_exits: dict[int, int] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._stopping_since: float | None = None
        self._chance = random.SystemRandom()
        self._zygote = History(ZYGOTE)
        self._zygote_asked: float | None = None
        descriptors = {around.log_write_fd, *(fd for fds in around.sockets.values() for fd in fds)}
        if around.lock_fd >= 0:
            descriptors.add(around.lock_fd)
        modules = sorted({spec.module for spec in specs})
        self._faults = RootFaults(
            around.run_dir, self._pid_of, enabled=bool(around.config.get("enable_faults"))
        )
        self._nursery = Nursery(
            member_name=around.member_name,
            modules=modules,
            descriptors=descriptors,
            output=around.log_write_fd,
            broken=lambda: self._faults.crashes_at_start(ZYGOTE.name),
            failed=self._without_zygote,
        )
        self._stuck = StuckDetector(board)
        self._init_daemon = InitDaemon(around.notify_socket, board, sink)
        self._crashes = CrashReporter(around.run_dir, around.data_dir)
        self.exit_code = 0
        self.failure: BaseException | None = None
        super().__init__()

    actor_inbox: RootInbox

    def _create_actor_inbox(self) -> RootInbox:  # type: ignore[override]
        return RootInbox(self._nursery, self._around.log_read_fd)

    def serve(self) -> None:
        """Run on this thread until the member has stopped; then see `failure` and `exit_code`."""
        self._start_actor_loop()

    def _start_actor_loop(self) -> None:
        control = ControlServer(
            self._around.run_dir / "root.ctl",
            {
                "tree": lambda _: self.tree(),
                "events": lambda _: {"events": list(self._events)},
                "stats": lambda _: self.stats(),
                "fault": self._faults.order,
            },
        )
        control.start()
        self._board.set("root", Cell.PID, os.getpid())
        self._board.set("root", Cell.INCARNATION, 1)
        self._board.set("root", Cell.STATE, State.RUNNING)
        for child in self._children.values():
            self._start(child)
        self._actor_loop()

    def on_receive(self, message: Any) -> None:
        """Handle one message of the inbox."""
        if type(message) is LogWritten:
            self._sink.feed(message.data)
        elif type(message) is Tick:
            self._tick(message.now)
        elif type(message) is ChildForked:
            self._forked(message)
        elif type(message) is ChildExited:
            self._exited(message)
        elif type(message) is StopRequested:
            self._stop_requested(message)
        else:
            raise AssertionError(f"root was sent {message!r}")

    # --- starting ---------------------------------------------------------------------------------

    def _start(self, child: Child) -> None:
        spec, around = child.spec, self._around
        child.incarnation += 1
        child.start_at = None
        child.killed = False
        child.kill_at = None
        child.stuck_seconds = 0.0
        self._stuck.started(spec.name, time.monotonic())
        for cell, value in (
            (Cell.INCARNATION, child.incarnation),
            (Cell.STATE, State.STARTING),
            (Cell.STARTED_NS, time.clock_gettime_ns(time.CLOCK_BOOTTIME)),
            (Cell.TAG, 0),
        ):
            self._board.set(spec.name, cell, value)
        sockets = {k: list(v) for k, v in around.sockets.items() if k in spec.listens}
        close = [fd for k, fds in around.sockets.items() if k not in spec.listens for fd in fds]
        if around.lock_fd >= 0 and not spec.keeps_lock:
            close.append(around.lock_fd)
        self._nursery.order(
            {
                "name": spec.name,
                "module": spec.module,
                "incarnation": child.incarnation,
                "run_dir": str(around.run_dir),
                "data_dir": str(around.data_dir),
                "member_name": around.member_name,
                "config": dict(around.config),
                "sockets": sockets,
                "lock_fd": around.lock_fd if spec.keeps_lock else -1,
                "log_fd": around.log_write_fd,
                "root_pid": os.getpid(),
                "close": close,
                "oom_score_adj": spec.oom_score_adj,
                "nice": spec.nice,
                "crash": self._faults.crashes_at_start(spec.name),
            }
        )

    def _forked(self, message: ChildForked) -> None:
        child = self._children[message.name]
        self._zygote_asked = None
        assert message.incarnation == child.incarnation, message
        child.pid = message.pid
        self._pids[message.pid] = child
        self._board.set(message.name, Cell.PID, message.pid)
        self._note("started", message.name, incarnation=child.incarnation)
        early = self._early_exits.pop(message.pid, None)
        if not self._nursery.awaits_answers:
            self._early_exits.clear()  # orphans of somebody else's, such as a container's
        if early is not None:
            self._ended(child, early)
        elif self._stopping_since is not None:
            self._kill(child)

    # --- ending -----------------------------------------------------------------------------------

    def _exited(self, message: ChildExited) -> None:
        child = self._pids.get(message.pid)
        if child is not None:
            self._ended(child, message.status)
        elif message.pid in self._nursery.pids:
            self._zygote_ended(message)
        elif self._nursery.awaits_answers:
            self._early_exits[message.pid] = message.status

    def _zygote_ended(self, message: ChildExited) -> None:
        self._nursery.pids.discard(message.pid)
        if self._stopping_since is not None:
            return
        now, reason = time.monotonic(), _reason(message.status)
        self._sink.log("warn", "zygote ended, starting a new one", reason=reason)
        self._note("exited", ZYGOTE.name, pid=message.pid, reason=reason)
        decision = child_ended(self._zygote, now, self._chance.random)
        if isinstance(decision, Escalate):
            self._escalate(self._zygote, decision, now, reason)

    def _without_zygote(self, error: OSError) -> None:
        self._sink.log("error", "no process for a zygote, trying again", error=str(error))

    def _ended(self, child: Child, status: int) -> None:
        self._pids.pop(child.pid, None)
        name, pid = child.spec.name, child.pid
        child.last_reason = _reason(status)
        child.pid = 0
        self._board.set(name, Cell.PID, 0)
        self._board.set(name, Cell.LAST_EXIT, status)
        self._note("exited", name, incarnation=child.incarnation, reason=child.last_reason)
        if self._stopping_since is not None:
            self._board.set(name, Cell.STATE, State.STOPPED)
            self._stop_next()
            return
        now = time.monotonic()
        decision = child_ended(child.history, now, self._chance.random)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in child.spec.final_exit_codes:
            decision = Escalate(os.WEXITSTATUS(status))
        board = self._board.copy()  # it still says what the child was doing
        ended = self._ended_child(child, pid, decision, now)
        if isinstance(decision, Escalate):
            self._board.set(name, Cell.STATE, State.FAILED)
            self._report(ended, board)
            self._escalate(child.history, decision, now, child.last_reason)
            return
        restarts = self._board.get(name, Cell.RESTARTS) + 1
        self._board.set(name, Cell.RESTARTS, restarts)
        self._sink.log(
            "warn",
            "actor ended, restarting",
            actor=name,
            reason=child.last_reason,
            restarts=restarts,
            delay_ms=round(decision.delay * 1000),
        )
        if decision.delay:
            self._board.set(name, Cell.STATE, State.BACKOFF)
            child.start_at = now + decision.delay
            self.actor_inbox.wake_at(child.start_at)
            self._report(ended, board)
        else:
            self._start(child)
            self._report(ended, board)

    def _ended_child(
        self, child: Child, pid: int, decision: Restart | Escalate, now: float
    ) -> Ended:
        return Ended(
            spec=child.spec,
            incarnation=child.incarnation,
            pid=pid,
            reason=child.last_reason,
            restarts_used=_used(child.history, now),
            decision=decision,
            stuck_seconds=child.stuck_seconds,
        )

    def _report(self, ended: Ended, board: Board) -> None:
        """Have it written down, now that the next incarnation is under way."""
        report = self._crashes.report(ended, board)
        self._events[-1] |= {"decision": in_words(ended.decision), "report": report}

    def _escalate(self, history: History, decision: Escalate, now: float, reason: str) -> None:
        """Stop the member, and say why in one line."""
        spec = history.spec
        if decision.exit_code in spec.final_exit_codes:
            words, why = "actor ended with what a restart cannot mend, stopping the member", {}
        else:
            words = "actor ended too often, stopping the member"
            why = {
                "ends": len(history.ended),
                "in_seconds": round(now - history.ended[0], 3),
                "allowed": f"{spec.restarts} in {spec.period:g} s",
            }
        found = {"reason": reason, **why, "exit_code": decision.exit_code}
        self._sink.log("error", words, actor=spec.name, **found)
        self._note("escalated", spec.name, **found)
        self.exit_code = decision.exit_code
        self._begin_stop()

    # --- time -------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._board.set("root", Cell.LOOPS, self._board.get("root", Cell.LOOPS) + 1)
        self._sink.flush()
        self._nursery.retry()
        if self._stopping_since is not None:
            self._stop_next()
            return
        self._init_daemon.look()
        self._stuck.look_begins(now)
        if self._around.stuck_detection:
            self._look_for_stuck_zygote(now)
        for child in self._children.values():
            if child.start_at is not None:
                if now >= child.start_at:
                    self._start(child)
                else:
                    self.actor_inbox.wake_at(child.start_at)
            elif child.kill_at is not None:
                self._kill_if_due(child, now)
            elif child.pid and self._around.stuck_detection and not child.killed:
                self._look_for_stuck(child, now)

    def _look_for_stuck_zygote(self, now: float) -> None:
        """End a zygote that owes a child for too long: a new one gets its orders."""
        if not (self._nursery.awaits_answers and self._nursery.pid):
            self._zygote_asked = None
        elif self._zygote_asked is None:
            self._zygote_asked = now
        elif now - max(self._zygote_asked, self._stuck.awake_since) > self._around.zygote_within:
            self._zygote_asked = None
            self._sink.log("error", "zygote is stuck, killing it", pid=self._nursery.pid)
            with suppress(ProcessLookupError):
                os.kill(self._nursery.pid, signal.SIGKILL)

    def _look_for_stuck(self, child: Child, now: float) -> None:
        stuck = self._stuck.judge(child.spec, now)
        if stuck is not None:
            doing = MESSAGE_NAMES.get(stuck.tag, f"message {stuck.tag}") if stuck.tag else "nothing"
            found = {"doing": doing, "seconds": round(stuck.seconds, 3)}
            self._sink.log("error", "actor is stuck, killing it", actor=child.spec.name, **found)
            self._note("stuck", child.spec.name, incarnation=child.incarnation, **found)
            with suppress(ProcessLookupError):
                os.kill(child.pid, TRACE_SIGNAL)
            child.stuck_seconds = stuck.seconds
            child.kill_at = now + TRACE_SECONDS
            self.actor_inbox.wake_at(child.kill_at)

    def _kill_if_due(self, child: Child, now: float) -> None:
        assert child.kill_at is not None
        if now >= child.kill_at:
            child.kill_at = None
            if child.pid:
                self._kill(child)
        else:
            self.actor_inbox.wake_at(child.kill_at)

    # --- stopping ---------------------------------------------------------------------------------

    def _stop_requested(self, message: StopRequested) -> None:
        name = signal.Signals(message.number).name
        if self._stopping_since is not None:
            self._sink.log("warn", "received a second signal, stopping at once", signal=name)
            self._stopping_since = 0.0
            self._stop_next()
            return
        self._sink.log("info", "received signal; shutting down", signal=name)
        self._begin_stop()

    def _begin_stop(self) -> None:
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._init_daemon.stopping()
            self._stop_next()

    def _stop_next(self) -> None:
        """Ask the next step's children to stop; kill whoever is past his time."""
        assert self._stopping_since is not None
        elapsed = time.monotonic() - self._stopping_since
        living = [child for child in self._children.values() if child.pid]
        if not living:
            self._finish()
            return
        draining = [child for child in living if child.spec.drains_first]
        middle = [child for child in reversed(living) if not child.spec.stops_last]
        for child in draining or middle or living:
            allowed = child.spec.shutdown + (0 if child.spec.drains_first else 0.9)
            if elapsed > min(allowed, STOP_SECONDS):
                self._kill(child)
            elif child.control is None:
                self._ask_to_stop(child)
        self.actor_inbox.wake_at(time.monotonic() + 0.02)

    def _ask_to_stop(self, child: Child) -> None:
        self._board.set(child.spec.name, Cell.STATE, State.STOPPING)
        # Kept: what a socket has not sent yet is lost when it is closed.
        child.control = ControlClient(self._around.run_dir / f"{child.spec.name}.ctl")
        child.control.tell("stop")

    def _kill(self, child: Child) -> None:
        child.killed = True
        with suppress(ProcessLookupError):  # reaped already: its end is a message in the inbox
            os.kill(child.pid, signal.SIGKILL)

    def _finish(self) -> None:
        self._board.set("root", Cell.STATE, State.STOPPED)
        self._drain_log()
        self._crashes.settle()
        self._sink.log("info", "stopped", exit_code=self.exit_code)
        self._sink.flush()
        self.actor_stopped.set()

    def _drain_log(self) -> None:
        os.set_blocking(self._around.log_read_fd, False)
        while True:
            try:
                data = os.read(self._around.log_read_fd, 1 << 18)
            except BlockingIOError:
                return
            if not data:
                return
            self._sink.feed(data)

    # --- telling ----------------------------------------------------------------------------------

    def _note(self, event: str, actor: str, **fields: Any) -> None:
        self._events.append({"ts": time.time(), "event": event, "actor": actor, **fields})

    def tree(self) -> dict[str, Any]:
        """Return the tree for troupectl; called on the control thread, reads only."""
        now = time.monotonic()
        return {
            "member": self._around.member_name,
            "pid": os.getpid(),
            "zygote": {
                "pid": self._nursery.pid,
                "restarts": self._nursery.restarts,
                "used": _used(self._zygote, now),
                "allowed": ZYGOTE.restarts,
                "period": ZYGOTE.period,
            },
            "children": [
                {
                    "name": child.spec.name,
                    "pid": child.pid,
                    "incarnation": child.incarnation,
                    "state": State(self._board.get(child.spec.name, Cell.STATE)).name.lower(),
                    "restarts": self._board.get(child.spec.name, Cell.RESTARTS),
                    "restart": child.spec.restart,
                    "used": _used(child.history, now),
                    "allowed": child.spec.restarts,
                    "next_backoff": round(next_pause(child.history, now), 3),
                    "period": child.spec.period,
                    "last_exit": child.last_reason,
                    "reason": child.spec.reason,
                }
                for child in self._children.values()
            ],
        }

    def _pid_of(self, name: str) -> int:
        return self._nursery.pid if name == "zygote" else self._children[name].pid

    def stats(self) -> dict[str, Any]:
        """Return root's own figures; called on the control thread, reads only."""
        return {
            "pid": os.getpid(),
            "log_lines_dropped": self._sink.dropped,
            "zygote_restarts": self._nursery.restarts,
            "stopping": self._stopping_since is not None,
        }

    def _handle_failure(self, *failure: Any) -> None:
        self.failure = failure[1]
        super()._handle_failure(*failure)


def _used(history: History, now: float) -> int:
    return sum(1 for when in history.ended if now - when <= history.spec.period)


def _reason(status: int) -> str:
    """Say in words how a process ended; `status` is waitpid's."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = number in signal.valid_signals() and number < signal.SIGRTMIN
        return f"killed by {signal.Signals(number).name if known else f'signal {number}'}"
    return f"exit code {os.WEXITSTATUS(status)}"
