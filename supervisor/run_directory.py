"""Making the run directory of this member: private, unique, short, gone when the member is.

What is in it and how others find it is told in `control.run_directory`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from control.run_directory import (
    POINTER,
    ROOT_FILE,
    RunDirectoryError,
    bases,
    check_private,
    clean,
    find_run_directory,
)
from supervisor.config import Config
from supervisor.errors import StartError
from transport.address import PATH_BYTES_MAX

__all__ = ["find_run_directory", "remove_run_directory", "run_directory"]

FILE_BYTES_MAX: Final = 32
"""Room for "/", the longest actor's name and its incarnation behind the run directory."""

_held: dict[Path, int] = {}
"""Run directory -> descriptor with the lock that says its root lives: held until it is removed."""


def run_directory(config: Config, environ: Mapping[str, str]) -> Path:
    """Make the folder for sockets and counters, lock it and name it in the data directory.

    `<data-dir>/member` must exist already. The lock lives as long as this process or until
    `remove_run_directory`. Leftovers of members that are gone are removed on the way. Raises
    StartError with what is wrong about each place that was tried.
    """
    reasons: list[str] = []
    # The flag's variable is in `config` already, or was ignored because of a configuration file.
    environ = {key: text for key, text in environ.items() if key != "ETCD_RUN_DIR"}
    for base in bases(environ, config.run_dir):
        try:
            folder = _make(base, config)
        except OSError as error:
            reasons.append(f"{error.filename or base}: {error.strerror}")
            continue
        except RunDirectoryError as error:
            reasons.append(str(error))
            continue
        _name_it(folder, config)
        return folder
    raise StartError(f"cannot make a run directory (--run-dir): {'; '.join(reasons)}")


def _make(base: Path, config: Config) -> Path:
    label = re.sub(r"[^A-Za-z0-9_-]", "", config.name)[:12] or "member"
    folder = base / f"{label}-{secrets.token_hex(3)}"
    length = len(os.fsencode(folder))
    if length + FILE_BYTES_MAX >= PATH_BYTES_MAX:
        room = PATH_BYTES_MAX - FILE_BYTES_MAX - 1
        raise RunDirectoryError(f"{folder} is too long for socket paths: {length} > {room} bytes")
    base.mkdir(mode=0o700, parents=bool(config.run_dir), exist_ok=True)
    check_private(base)
    clean(base)
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)  # whatever the umask says
    data_dir = str(Path(config.data_dir).absolute())
    root = {"pid": os.getpid(), "name": config.name, "data_dir": data_dir}
    descriptor = os.open(folder / ".root", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, json.dumps(root).encode())
    # Only now does it look like a member to others: locked before it has the name they look for.
    os.rename(folder / ".root", folder / ROOT_FILE)
    _held[folder] = descriptor
    return folder


def _name_it(folder: Path, config: Config) -> None:
    pointer = Path(config.data_dir) / POINTER
    partial = pointer.with_suffix(".new")
    try:
        partial.write_text(f"{folder}\n")
        partial.replace(pointer)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with suppress(OSError):
                partial.unlink()
            return  # a full disk ends nothing; the folder says itself whose it is
        remove_run_directory(folder)
        reason = os.strerror(error.errno or errno.EIO)
        raise StartError(f"cannot write {pointer}: {reason.lower()}") from None


def remove_run_directory(folder: Path) -> None:
    """Remove the folder and give up its lock; to be called by the process that made it."""
    shutil.rmtree(folder, ignore_errors=True)
    descriptor = _held.pop(folder, None)
    if descriptor is not None:
        os.close(descriptor)
