"""Member and cluster IDs, computed as etcd computes them.

The same flags give the same IDs on every member without any talk between them, so that members
of one initial cluster agree on who they are before the first election.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha1


def member_id(peer_urls: Sequence[str], token: str, now: int | None = None) -> int:
    """Return the 64-bit ID of a member with these peer URLs in the cluster named by `token`.

    A member added later has token "" and `now`, the time in whole Unix seconds: added again with
    the URLs of a removed one it must get another ID (etcd membership.NewMember).
    """
    text = "".join(sorted(peer_urls)) + token
    if now is not None:
        text += str(now)
    return _first_word(text.encode())


def cluster_id(member_ids: Iterable[int]) -> int:
    """Return the 64-bit ID of the cluster that these members founded (etcd RaftCluster.genID)."""
    return _first_word(b"".join(member.to_bytes(8, "big") for member in sorted(member_ids)))


def _first_word(data: bytes) -> int:
    return int.from_bytes(sha1(data, usedforsecurity=False).digest()[:8], "big")
