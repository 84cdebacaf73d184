"""IDs against those that etcd 3.5.1 gave to the same flags."""

from __future__ import annotations

from kv.identity import cluster_id, member_id

A = ["http://127.0.0.1:34801"]
B = ["http://127.0.0.1:34813", "http://127.0.0.1:34803"]
C = ["http://127.0.0.1:34805"]


def test_founding_members_have_the_ids_etcd_gave_them() -> None:
    found = [member_id(urls, "tok-1") for urls in (A, B, C)]

    assert found == [12477949188560845781, 8414164679892374311, 16077781112384422098]


def test_the_cluster_has_the_id_etcd_gave_it_whatever_the_order_of_its_members() -> None:
    members = [member_id(urls, "tok-1") for urls in (A, B, C)]

    assert cluster_id(members) == cluster_id(reversed(members)) == 4665586556850494517
    assert cluster_id(members[:1]) == 9449598565167091139


def test_a_member_added_later_has_the_id_etcd_gave_it_at_that_second() -> None:
    assert member_id(["http://127.0.0.1:34807"], "", 1795471119) == 13260734430619947184
    assert member_id(["http://127.0.0.1:34807"], "", 1795471120) != 13260734430619947184


def test_the_order_of_peer_urls_does_not_matter_but_the_token_does() -> None:
    assert member_id(B, "tok-1") == member_id(list(reversed(B)), "tok-1")
    assert member_id(A, "tok-1") != member_id(A, "tok-2")
