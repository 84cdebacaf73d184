"""What is refused before a handler runs, decided by headers and by what the member is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from api.interceptors import Interceptor
from kv.errors import (
    INVALID_CLIENT_API_VERSION,
    NO_LEADER,
    NOT_SUPPORTED_FOR_LEARNER,
    Status,
)

PUT, RANGE = b"/etcdserverpb.KV/Put", b"/etcdserverpb.KV/Range"


@dataclass
class Member:
    """What a member knows of itself."""

    leader: int = 7
    is_learner: bool = False


def asked(member: Member, path: bytes = PUT, **headers: bytes) -> Status | None:
    fields = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return Interceptor(member)(path, fields)


def test_a_call_that_wants_a_leader_is_refused_at_once_without_one() -> None:
    member = Member(leader=0)

    assert asked(member, hasleader=b"true") == NO_LEADER
    assert asked(member, hasleader=b"false") is None
    assert asked(member) is None
    assert asked(Member(), hasleader=b"true") is None


def test_a_client_version_that_is_no_text_is_refused() -> None:
    assert asked(Member(), client_api_version=b"\xff\xfe") == INVALID_CLIENT_API_VERSION
    assert asked(Member(), client_api_version="3.5 é".encode()) is None
    assert asked(Member(), client_api_version=b"3.5") is None


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (RANGE, True),
        (b"/etcdserverpb.Maintenance/Status", True),
        (b"/etcdserverpb.Maintenance/Snapshot", True),
        (PUT, False),
        (b"/etcdserverpb.KV/RangeStream", False),
        (b"/etcdserverpb.Watch/Watch", False),
        (b"/etcdserverpb.Cluster/MemberList", False),
    ],
)
def test_a_learner_answers_little(path: bytes, *, allowed: bool) -> None:
    refused = asked(Member(is_learner=True), path)

    assert refused == (None if allowed else NOT_SUPPORTED_FOR_LEARNER)
    assert asked(Member(), path) is None
