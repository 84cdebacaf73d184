"""The console command `troupectl`: looks at a running member. Exit 0, 1 unhealthy or not found."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from control import (
    crash,
    edges,
    events,
    explain,
    fault,
    health,
    isolate,
    peek,
    recorder,
    state,
    tap,
    top,
    tree,
)
from control.observe import BOARD_FILE, MemberView, ObserveError
from control.run_directory import ROOT_FILE, RunDirectoryError, find_run_directory
from transport.control import ControlTimeoutError
from transport.peer_keygen import generate_keys


def main() -> None:
    """Run the command line."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    if argv[:1] == ["isolate"]:
        isolate.hand_over(argv[1:])
    arguments = parser().parse_args(argv)
    code: int
    if arguments.command is _keygen:  # needs no member
        code = _keygen(arguments)
        return code
    try:
        view = MemberView(_run_directory(arguments))
        code = arguments.command(view, arguments)
    except (RunDirectoryError, ObserveError, ControlTimeoutError) as error:
        print(f"troupectl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data-dir", help="the member's data directory (or ETCD_DATA_DIR)")
    common.add_argument(
        "--run-dir", default="", help="the member's --run-dir, or its own folder in there"
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    made = argparse.ArgumentParser(prog="troupectl", description="look at a running member")
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(command=globals()[f"_{name}"])
        return command

    add("tree", "the supervision tree")
    command = add("top", "what every actor does now")
    command.add_argument("--once", action="store_true", help="print one table and end")
    add("edges", "the streams between actors")
    command = add("events", "the last starts, exits and kills, as root tells them")
    command.add_argument("--follow", action="store_true", help="go on with those to come")
    add("page", "the address of the web page, with the key to faults if the member takes them")
    command = add("peek", "what an actor has before it")
    command.add_argument("actor")
    command = add("recorder", "the last messages of an actor, alive or not")
    command.add_argument("actor")
    command.add_argument("--last", type=int, default=0, help="only so many")
    command = add("tap", "what an actor receives and sends, live")
    command.add_argument("actor")
    command.add_argument("--type", action="append", default=[], help="only this type (repeatable)")
    command.add_argument("--from", action="append", default=[], dest="peers", metavar="ACTOR")
    command.add_argument("--limit", type=int, default=0, help="end after so many messages")
    command.add_argument("--for", type=float, default=0.0, dest="seconds", metavar="SECONDS")
    command.add_argument("--values", action="store_true", help="show keys and values")
    command = add("state", "an actor's own summary of its state")
    command.add_argument("actor")
    command = add("explain", "where the slowest requests spent their time")
    explain.add_arguments(command)
    fault.add_arguments(add("fault", "break an actor, an edge or the disk for a while"))
    commands.add_parser("isolate", help="run one actor alone, between scripted neighbours")
    command = add("crash", "the reports of actors that ended")
    command.add_argument("what", choices=("list", "show"))
    command.add_argument("name", nargs="?", default="last", help="a report, or its beginning")
    command = add("keygen", "make a member's pair of CURVE keys for --peer-curve-secret-file")
    command.add_argument("folder", type=Path, help="where NAME.secret and NAME.pub go")
    command.add_argument("name", help="the member's --name")
    command = add("health", "exit 0 if the member answers GET /health with true")
    command.add_argument("--timeout", type=float, default=health.TIMEOUT_SECONDS)
    command.add_argument("--serializable", action="store_true", help="this member alone")
    command.add_argument("--cert", help="client certificate")
    command.add_argument("--key", help="its key")
    return made


def _run_directory(arguments: argparse.Namespace) -> Path:
    folder = Path(arguments.run_dir) if arguments.run_dir else None
    if folder is not None and (folder / ROOT_FILE).is_file():
        return folder
    return find_run_directory(arguments.data_dir, os.environ, arguments.run_dir)


def _show(arguments: argparse.Namespace, found: Any, rendered: RenderableType) -> None:
    if arguments.json:
        print(json.dumps(found))
        return
    console = Console()
    if not console.is_terminal:  # nothing is cut in a pipe
        console = Console(width=200)
    console.print(rendered)


def _tree(view: MemberView, arguments: argparse.Namespace) -> int:
    found = tree.tree(view)
    _show(arguments, found, tree.rendered(found))
    return 0


def _top(view: MemberView, arguments: argparse.Namespace) -> int:
    if arguments.once or arguments.json or not sys.stdout.isatty():
        rows = top.once(view)
        width = Console().width if sys.stdout.isatty() else top.WIDE
        _show(arguments, rows, top.rendered(rows, view.info["name"], width))
    else:
        top.live(view, Console())
    return 0


def _edges(view: MemberView, arguments: argparse.Namespace) -> int:
    rows = edges.edges(view)
    _show(arguments, rows, edges.rendered(rows))
    return 0


def _events(view: MemberView, arguments: argparse.Namespace) -> int:
    if arguments.follow:
        return _follow_events(view)
    answer = tree.ask_root(view, "events", timeout=1.0)
    if answer is None:
        print("troupectl: root does not answer", file=sys.stderr)
        return 1
    lines = [json.dumps(event) for event in answer["events"]]
    _show(arguments, answer["events"], "\n".join(lines))
    return 0


def _follow_events(view: MemberView) -> int:
    """Print events, a line each, until the member has ended."""
    with events.EventReader(view) as reader:
        while (view.run_dir / BOARD_FILE).exists():
            for event in reader.read() or ():
                print(json.dumps(event), flush=True)
            time.sleep(events.POLL_SECONDS)
    return 0


def _page(view: MemberView, arguments: argparse.Namespace) -> int:
    key = fault.key(view.run_dir)
    urls = [*view.info.get("metrics_urls", ()), *view.info.get("http_urls", ())]
    served = [url for url in urls if url.startswith("http")]
    if not served:
        raise ObserveError("the member serves no HTTP over TCP")
    address = f"{served[0]}/debug/actors" + (f"#key={key}" if key else "")
    print(json.dumps({"url": address}) if arguments.json else address)
    return 0


def _actor(view: MemberView, arguments: argparse.Namespace) -> str:
    """Return the actor that was named. Raises ObserveError if there is none."""
    name: str = arguments.actor
    if name not in view.board.names:
        known = ", ".join(view.actors())
        raise ObserveError(f"no actor {name!r}; there are {known}")
    return name


def _peek(view: MemberView, arguments: argparse.Namespace) -> int:
    found = peek.peek(view, _actor(view, arguments))
    _show(arguments, found, peek.rendered(found))
    return 0


def _recorder(view: MemberView, arguments: argparse.Namespace) -> int:
    name = _actor(view, arguments)
    rows = recorder.recorder(view, name, arguments.last)
    _show(arguments, rows, recorder.rendered(rows, name))
    return 0


def _tap(view: MemberView, arguments: argparse.Namespace) -> int:
    def show(message: dict[str, Any]) -> None:
        print(json.dumps(message) if arguments.json else tap.line(message), flush=True)

    found = tap.tap(
        view,
        _actor(view, arguments),
        show,
        types=arguments.type,
        peers=arguments.peers,
        values=arguments.values,
        limit=arguments.limit,
        seconds=arguments.seconds,
    )
    if found["dropped"]:
        print(f"troupectl: {found['dropped']} messages came too fast", file=sys.stderr)
    return 0


def _state(view: MemberView, arguments: argparse.Namespace) -> int:
    found = state.state(view, _actor(view, arguments))
    _show(arguments, found, state.rendered(found))
    return 0 if found["answers"] else 1


def _explain(view: MemberView, arguments: argparse.Namespace) -> int:
    look = explain.kept if arguments.kept else explain.explain
    found = look(view, slower_than_ms=arguments.over, limit=arguments.limit)
    _show(arguments, found, explain.rendered(found))
    return 0


def _fault(view: MemberView, arguments: argparse.Namespace) -> int:
    found = fault.inject(
        view,
        arguments.verb,
        arguments.target,
        ms=arguments.ms,
        p99_ms=arguments.p99,
        type=arguments.type,
        ratio=arguments.ratio,
        count=arguments.count,
        bytes=arguments.bytes,
        at_start=arguments.at_start or None,
        **{"for": arguments.seconds},
    )
    _show(arguments, found, json.dumps(found))
    silent = [
        name for name, answer in found.items() if isinstance(answer, dict) and "error" in answer
    ]
    if silent:
        print(f"troupectl: not healed: {', '.join(silent)}", file=sys.stderr)
    return 1 if silent else 0


def _crash(view: MemberView, arguments: argparse.Namespace) -> int:
    if arguments.what == "list":
        rows = crash.listing(view)
        _show(arguments, rows, crash.rendered_listing(rows))
        return 0
    report = crash.load(crash.crash_directory(Path(view.info["data_dir"])), arguments.name)
    _show(arguments, report, crash.rendered(report))
    return 0


def _keygen(arguments: argparse.Namespace) -> int:
    try:
        secret, public = generate_keys(arguments.folder, arguments.name)
    except (OSError, ValueError) as error:
        print(f"troupectl: {error}", file=sys.stderr)
        return 1
    found = {"secret": str(secret), "public": str(public)}
    _show(arguments, found, f"secret key {secret}\npublic key {public}")
    return 0


def _health(view: MemberView, arguments: argparse.Namespace) -> int:
    found = health.health(
        view.info["http_urls"],
        timeout=arguments.timeout,
        serializable=arguments.serializable,
        cert=arguments.cert,
        key=arguments.key,
    )
    words = "is healthy" if found["healthy"] else f"is unhealthy: {found['reason']}"
    _show(arguments, found, f"{found['url'] or view.info['name']} {words}")
    return 0 if found["healthy"] else 1


if __name__ == "__main__":
    main()
