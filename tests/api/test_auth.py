"""The Auth service while authentication is off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from api.auth import AuthService
from etcdpb.rpc_pb2 import AuthDisableResponse, AuthStatusResponse
from kv.errors import AUTH_NOT_ENABLED
from tests.api.backend import Backend, Caller


def ask(method: str) -> tuple[Backend, Caller]:
    """Call a method with an empty request; serve its read at revision 7."""
    backend, caller = Backend(view=SimpleNamespace(revision=7)), Caller()
    handler: Any = getattr(AuthService(backend), method)
    handler(caller, b"")
    backend.serve()
    return backend, caller


def test_nobody_gets_a_token() -> None:
    _, caller = ask("authenticate")

    assert caller.outcomes == [(AUTH_NOT_ENABLED.code, AUTH_NOT_ENABLED.text)]


def test_the_status_is_off_at_the_first_revision() -> None:
    _, caller = ask("status")

    response = AuthStatusResponse.FromString(caller.outcomes[0])
    assert (response.enabled, response.authRevision, response.header.revision) == (False, 1, 7)


def test_to_disable_what_is_off_changes_nothing() -> None:
    backend, caller = ask("disable")

    assert AuthDisableResponse.FromString(caller.outcomes[0]).header.revision == 7
    assert backend.proposed == []


@pytest.mark.parametrize("method", ["authenticate", "status", "disable"])
def test_every_answer_needs_a_quorum(method: str) -> None:
    backend, _ = ask(method)

    assert [serializable for _, _, serializable in backend.reads] == [False]
