"""Where a running member keeps its sockets and counters, and how to find it from outside.

Layout: a base folder (`--run-dir`, else the first usable of `bases`) holds one private folder per
running member; `ROOT_FILE` in it says who runs there. The root process keeps an exclusive flock on
that file for its whole life, so "is it alive?" needs no process id and can't mistake another
process for it. `<data-dir>/member/run` names the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT_FILE: Final = "root.json"
POINTER: Final = Path("member", "run")
SYSTEM_BASE: Final = Path("/run/trouped")


class RunDirectoryError(Exception):
    """No run directory can be used; the text says which were looked at and why not."""


def bases(environ: Mapping[str, str], run_dir: str = "") -> tuple[Path, ...]:
    """Return the base folders in the order they are tried; with `run_dir` it alone.

    `$XDG_RUNTIME_DIR/trouped`, `/run/trouped`, `<temporary folder>/trouped-<uid>`.
    """
    chosen = run_dir or environ.get("ETCD_RUN_DIR", "")
    if chosen:
        return (Path(chosen).absolute(),)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    first = (Path(runtime, "trouped"),) if os.path.isabs(runtime) else ()
    own = f"trouped-{os.geteuid()}"
    temporary = Path(environ.get("TMPDIR") or tempfile.gettempdir(), own).absolute()
    return tuple(dict.fromkeys((*first, SYSTEM_BASE, temporary, Path("/tmp", own))))


def check_private(folder: Path) -> None:
    """Raise RunDirectoryError unless nobody else can put or swap files in this folder.

    It must be ours without access for group or others, or root's such that others can't write
    or can't touch what isn't theirs (sticky, as /tmp and a container's tmpfs are).
    """
    found = folder.stat(follow_symlinks=False)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise RunDirectoryError(f"{folder} is not a directory")
    if found.st_uid not in (0, os.geteuid()):
        raise RunDirectoryError(f"{folder} belongs to user {found.st_uid}, not to us")
    guarded = found.st_uid == 0 and (bool(mode & stat.S_ISVTX) or not mode & 0o022)
    if mode & 0o077 and not guarded:
        raise RunDirectoryError(f"{folder} has mode {mode:04o}: others have access, want 0700")


def is_living(folder: Path) -> bool:
    """Whether the root process that made this folder still runs."""
    try:
        descriptor = os.open(folder / ROOT_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def members(base: Path) -> list[Path]:
    """Return the folders below a base that are ours to look at, sorted, living or not."""
    try:
        check_private(base)
        entries = sorted(os.scandir(base), key=lambda entry: entry.name)
    except (OSError, RunDirectoryError):
        return []
    ours = os.geteuid()
    return [
        Path(entry.path)
        for entry in entries
        if entry.is_dir(follow_symlinks=False)
        and (ours == 0 or entry.stat(follow_symlinks=False).st_uid == ours)
        and Path(entry.path, ROOT_FILE).is_file()
    ]


def clean(base: Path) -> None:
    """Remove the folders whose root is gone."""
    for folder in members(base):
        if not is_living(folder):
            shutil.rmtree(folder, ignore_errors=True)


def find_run_directory(data_dir: str | None, environ: Mapping[str, str], run_dir: str = "") -> Path:
    """Return the folder of a running member: of this data directory, else of the only one.

    `ETCD_DATA_DIR` stands in for a `data_dir` that isn't given. Raises RunDirectoryError when
    there is none, or several without a data directory to tell them apart.
    """
    data_dir = data_dir or environ.get("ETCD_DATA_DIR") or None
    if data_dir is not None:
        return _of_data_directory(Path(data_dir), bases(environ, run_dir))
    looked = bases(environ, run_dir)
    living = _living(looked)
    if len(living) == 1:
        return living[0]
    if not living:
        shown = ", ".join(map(str, looked))
        raise RunDirectoryError(f"no running member found in {shown}; name one with --data-dir")
    shown = ", ".join(_describe(folder) for folder in living)
    raise RunDirectoryError(f"several members run: {shown}; name one with --data-dir")


def _living(looked: Sequence[Path]) -> list[Path]:
    return [folder for base in looked for folder in members(base) if is_living(folder)]


def _of_data_directory(data_dir: Path, looked: Sequence[Path]) -> Path:
    try:
        return _named_by(data_dir)
    except RunDirectoryError:
        for folder in _living(looked):  # the disk was too full to name it
            if _root(folder).get("data_dir") == str(data_dir.absolute()):
                return folder
        raise


def _named_by(data_dir: Path) -> Path:
    pointer = data_dir / POINTER
    try:
        folder = Path(pointer.read_text().strip())
    except FileNotFoundError:
        raise RunDirectoryError(f"no member runs on {data_dir}: {pointer} is missing") from None
    except OSError as error:
        raise RunDirectoryError(f"cannot read {pointer}: {error.strerror}") from None
    if not is_living(folder):
        raise RunDirectoryError(f"no member runs on {data_dir} ({folder} is a leftover)")
    check_private(folder)
    return folder


def _root(folder: Path) -> dict[str, Any]:
    """Return what a root has written of itself; nothing when it can't be read."""
    try:
        found = json.loads((folder / ROOT_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe(folder: Path) -> str:
    found = _root(folder)
    if "name" in found and "data_dir" in found:
        return f"{found['name']} (--data-dir {found['data_dir']})"
    return str(folder)
