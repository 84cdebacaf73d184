"""Makes the pair of CURVE keys of one member (see peer_auth for who needs which file)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import zmq.auth

from transport.peer_auth import SUFFIX

SECRET_SUFFIX: Final = ".secret"


def generate_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write `<name>.secret` (0600) and `<name>.pub` into a folder; return both paths.

    Makes the folder. Raises FileExistsError rather than replace a key, and OSError.
    """
    if not name or "/" in name:
        raise ValueError(f"not a member's name: {name!r}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret, public = folder / f"{name}{SECRET_SUFFIX}", folder / f"{name}{SUFFIX}"
    for path in (secret, public):
        if path.exists():
            raise FileExistsError(f"{path} exists already")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        made_public, made_secret = zmq.auth.create_certificates(made, "key")
        os.chmod(made_secret, 0o600)
        os.chmod(made_public, 0o644)
        os.rename(made_secret, secret)
        os.rename(made_public, public)
    return secret, public
