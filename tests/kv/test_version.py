"""Which cluster version a leader proposes (etcd's decideClusterVersion)."""

from __future__ import annotations

import pytest

from kv.version import CLUSTER_VERSION, MIN_CLUSTER_VERSION, VERSION, next_cluster_version, packed


@pytest.mark.parametrize(
    ("decided", "lowest", "proposed"),
    [
        (None, "3.7.1", "3.7.0"),
        (None, "3.5.9", "3.5.0"),
        (None, "", MIN_CLUSTER_VERSION),
        ("3.0.0", "", None),
        ("3.0.0", "3.7.1", "3.7.0"),
        ("3.6.0", "3.7.0", "3.7.0"),
        ("3.7.0", "3.7.5", None),  # the patch is none of the cluster's business
        ("3.7.0", "3.6.9", None),  # never lowered
        ("3.7.0", "4.0.0", None),  # never over a major version
    ],
)
def test_the_version_follows_the_lowest_member(
    decided: str | None, lowest: str, proposed: str | None
) -> None:
    assert next_cluster_version(decided, packed(lowest) if lowest else 0) == proposed


def test_our_own_versions_belong_together() -> None:
    assert next_cluster_version(None, packed(VERSION)) == CLUSTER_VERSION


@pytest.mark.parametrize("text", ["3.7", "3.7.x", "3.7.300", ""])
def test_what_is_no_version_is_not_packed(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        packed(text)
