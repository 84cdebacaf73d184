"""The console command `troupectl`: looks at a running member. Exit 0, 1 unhealthy or not found."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from control import edges, health, peek, top, tree
from control.observe import MemberView, ObserveError
from control.run_directory import ROOT_FILE, RunDirectoryError, find_run_directory
from transport.control import ControlTimeoutError


def main() -> None:
    """Run the command line."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    arguments = parser().parse_args(argv)
    try:
        view = MemberView(_run_directory(arguments))
        code: int = arguments.command(view, arguments)
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
    add("events", "the last starts, exits and kills, as root tells them")
    command = add("peek", "what an actor has before it")
    command.add_argument("actor")
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
        _show(arguments, rows, top.rendered(rows, view.info["name"]))
    else:
        top.live(view, Console())
    return 0


def _edges(view: MemberView, arguments: argparse.Namespace) -> int:
    rows = edges.edges(view)
    _show(arguments, rows, edges.rendered(rows))
    return 0


def _events(view: MemberView, arguments: argparse.Namespace) -> int:
    answer = tree.ask_root(view, "events", timeout=1.0)
    if answer is None:
        print("troupectl: root does not answer", file=sys.stderr)
        return 1
    lines = [json.dumps(event) for event in answer["events"]]
    _show(arguments, answer["events"], "\n".join(lines))
    return 0


def _peek(view: MemberView, arguments: argparse.Namespace) -> int:
    if arguments.actor not in view.board.names:
        known = ", ".join(view.actors())
        print(f"troupectl: no actor {arguments.actor!r}; there are {known}", file=sys.stderr)
        return 1
    found = peek.peek(view, arguments.actor)
    _show(arguments, found, peek.rendered(found))
    return 0


def _health(view: MemberView, arguments: argparse.Namespace) -> int:
    found = health.health(
        view.info["client_urls"],
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
