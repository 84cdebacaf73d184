"""`troupectl isolate ACTOR`: one actor alone, between scripted neighbours and a prompt.

Runs as a process of its own, since it is the actor's root. Exit codes: 0; 1 when an expectation is
not met, the actor does not start or the data directory is in use; 2 for a line or flag that makes
no sense.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from control.isolate import add_arguments
from supervisor.errors import ConfigError, StartError
from supervisor.isolate_script import Script, ScriptError
from supervisor.isolated import ExpectationError, IsolatedActor, IsolatedActorError

SETTLE_SECONDS: Final = 0.3
FAILED_EXIT_CODE: Final = 1
SENSELESS_EXIT_CODE: Final = 2
READ_BYTES: Final = 64 << 10


def main() -> None:
    """Run the command line that `troupectl isolate` hands over."""
    parser = argparse.ArgumentParser(prog="troupectl isolate", description=__doc__)
    add_arguments(parser)
    sys.exit(run(sys.argv[1:], parser))


def run(argv: Sequence[str], parser: argparse.ArgumentParser) -> int:
    """Isolate the actor that is named; return the exit code."""
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="trouped-isolated-") as folder:
        try:
            actor = IsolatedActor(
                arguments.actor,
                Path(arguments.keep or folder),
                source=Path(arguments.data_dir) if arguments.data_dir else None,
                flags=[flag for flag in arguments.flags if flag != "--"],
            )
        except (StartError, ConfigError, IsolatedActorError) as error:
            return _refused(str(error), FAILED_EXIT_CODE)
        try:
            return _play(actor, arguments)
        except KeyboardInterrupt:
            return 130
        finally:
            actor.close()


def _play(actor: IsolatedActor, arguments: argparse.Namespace) -> int:
    script = Script(actor, _show)
    deadline = time.monotonic() + arguments.seconds if arguments.seconds else None
    try:
        if arguments.replay:
            with _opened(arguments.replay) as tapped:
                for text in tapped:
                    script.tapped(text)
            script.listen(SETTLE_SECONDS)
            _show({"replayed": script.replayed, "passed_over": script.passed_over})
        if arguments.script:
            with _opened(arguments.script) as lines:
                for number, text in enumerate(lines, 1):
                    _line(script, text, f"{arguments.script}:{number}")
        if not (arguments.script or arguments.replay):
            _prompt(script, actor.name, deadline)
        elif deadline is not None:
            script.line('{"start": true}')
            script.listen(max(0.0, deadline - time.monotonic()))
        else:
            script.listen(SETTLE_SECONDS)
    except ScriptError as error:
        return _refused(str(error), SENSELESS_EXIT_CODE)
    except (ExpectationError, IsolatedActorError, OSError) as error:
        return _refused(str(error), FAILED_EXIT_CODE)
    return 0


def _line(script: Script, text: str, place: str) -> None:
    try:
        script.line(text)
    except ScriptError as error:
        raise ScriptError(f"{place}: {error}") from None
    except ExpectationError as error:
        raise ExpectationError(f"{place}: {error}") from None


def _prompt(script: Script, name: str, deadline: float | None) -> None:
    """Carry out what is typed, and show what the actor says meanwhile, until end of file."""
    is_terminal = sys.stdin.isatty()
    script.line('{"start": true}')
    lines = _typed(sys.stdin.fileno())
    while True:
        if is_terminal:
            sys.stderr.write(f"{name}> ")
            sys.stderr.flush()
        while True:
            left = 60.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            script.listen(left, sys.stdin.fileno())
            text = next(lines)
            if text is None:
                script.listen(SETTLE_SECONDS)
                return
            if text:
                break
        for line in text.splitlines():
            try:
                script.line(line)
            except (ScriptError, ExpectationError, IsolatedActorError) as error:
                _refused(str(error), 0)


def _typed(descriptor: int) -> Iterator[str | None]:
    """Yield the whole lines that can be read now ("" for none yet), None at the end of file."""
    rest = b""
    while True:
        if not _readable(descriptor):
            yield ""
            continue
        data = os.read(descriptor, READ_BYTES)
        if not data:
            if rest:
                yield rest.decode()
            yield None
            return
        whole, newline, rest = (rest + data).rpartition(b"\n")
        yield (whole + newline).decode()


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0.0)[0])


def _opened(path: str) -> IO[str]:
    return open(sys.stdin.fileno(), closefd=False) if path == "-" else open(path)


def _show(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _refused(text: str, code: int) -> int:
    sys.stderr.write(f"troupectl: {text}\n")
    return code


if __name__ == "__main__":
    main()
