"""The CURVE keys between members, read once before the start: a typo should not crash actors."""

from __future__ import annotations

from pathlib import Path

from supervisor.config import Config
from supervisor.errors import StartError
from transport.peer_auth import Keys, PeerKeyError


def check_peer_keys(config: Config) -> None:
    """Raise StartError if keys are wanted and can't be read, or this member's is not among them."""
    if not config.peer_curve_secret_file:
        return
    try:
        keys = Keys(Path(config.peer_curve_secret_file), Path(config.peer_curve_allow_dir))
    except PeerKeyError as error:
        raise StartError(str(error)) from None
    known = keys.members.get(config.name)
    if known is not None and known != keys.public:
        raise StartError(
            f"peer key {config.peer_curve_secret_file} does not belong to "
            f"{Path(config.peer_curve_allow_dir, config.name)}.pub"
        )
