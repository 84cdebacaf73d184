"""Keys between members: CURVE authenticates both sides and encrypts the link.

A member has its own secret key in one file and the public keys of all members it speaks to in a
folder, each as `<member name>.pub`; both kinds of file are ZeroMQ certificates, as
`zmq.auth.create_certificates` writes them. The folder is read again when it changes.

Rules:
1. A socket with CURVE and without a ZAP handler lets any key in, so there is always a handler; it
   allows what is in the folder and nothing else.
2. A frame counts only if the key of its connection is the one of the member that it names.
3. A member that has not told its name yet (it has just been added) may hold any key of the folder
   that belongs to no other member.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

DOMAIN: Final = "peers"
SUFFIX: Final = ".pub"


class PeerKeyError(Exception):
    """A key file that can't be read."""


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise PeerKeyError(f"peer key {path}: {error}") from error


class Keys:
    """The keys a member knows. All are in Z85, as in the files."""

    def __init__(self, secret_file: Path, allow_dir: Path) -> None:
        """Raises PeerKeyError."""
        self.public, secret = _load(secret_file)
        if secret is None:
            raise PeerKeyError(f"peer key {secret_file}: it holds no secret key")
        self.secret: bytes = secret
        self._folder = allow_dir
        self._state: list[tuple[str, int, int, int]] | None = None
        self.members: dict[str, bytes] = {}
        self.reload()

    def reload(self) -> bool:
        """Read the folder again if it has changed; True if it had. Raises PeerKeyError."""
        try:
            # Not by glob: to it a folder that can't be read is an empty one.
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
            paths = [self._folder / name for name in names]
            stats = [path.stat() for path in paths]
        except OSError as error:
            raise PeerKeyError(f"peer keys {self._folder}: {error}") from error
        # A file may be written over: the folder's own time tells nothing of that.
        state = [
            (path.name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            for path, stat in zip(paths, stats, strict=True)
        ]
        if state == self._state:
            return False
        found = {path.stem: _load(path)[0] for path in paths}
        self._state = state
        self.members = found
        return True

    def allows(self, key: bytes) -> bool:
        """Tell whether a key is in the folder."""
        return key in self.members.values()

    def of(self, name: str, names: Collection[str]) -> list[bytes]:
        """Return the keys that the member `name` may hold; `names` are those of all members."""
        if name:
            return [self.members[name]] if name in self.members else []
        return [key for owner, key in self.members.items() if owner not in names]

    def secure_dialler(self, socket: zmq.Socket[bytes], server_key: bytes) -> None:
        """Make a socket speak to the holder of `server_key` only."""
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret
        socket.curve_serverkey = server_key

    def secure_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket accept only who shows a key that the handler of its context allows."""
        socket.curve_secretkey = self.secret
        socket.curve_publickey = self.public
        socket.curve_server = True
        socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)


class Gate:
    """The ZAP handler of a context, on a thread of its own. `refused` counts keys not allowed."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys) -> None:
        self._keys = keys
        self.refused = 0
        quiet = logging.getLogger("trouped.zap")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        self._authenticator = ThreadAuthenticator(context, log=quiet)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(DOMAIN, self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Decide over a client's key; on the handler's thread, the only writer of `refused`."""
        if domain == DOMAIN and self._keys.allows(key):
            return True
        self.refused += 1
        return False

    def close(self) -> None:
        """Stop the handler."""
        self._authenticator.stop()
