"""ResponseHeader written by hand beside protobuf's own."""

import pytest

from api.header import HeaderWriter
from etcdpb.rpc_pb2 import ResponseHeader

CLUSTER_ID = 0xCDF8_1819_4E3A_8C32
MEMBER_ID = 0x8E9E_05C5_2164_694D
REVISIONS = [0, 1, 127, 128, 129, 255, 256, 16_383, 16_384, 300, 2**32, 2**63 - 1, 5]


def field_1(revision: int, term: int) -> bytes:
    """Return the header as the first field of a response, by protobuf."""
    header = ResponseHeader(
        cluster_id=CLUSTER_ID, member_id=MEMBER_ID, revision=revision, raft_term=term
    ).SerializeToString()
    return b"\x0a" + bytes((len(header),)) + header


@pytest.mark.parametrize("term", [0, 1, 300])
def test_a_header_is_what_protobuf_writes(term: int) -> None:
    write = HeaderWriter(CLUSTER_ID, MEMBER_ID)
    write.term = term

    assert [write(revision) for revision in REVISIONS] == [
        field_1(revision, term) for revision in REVISIONS
    ]


def test_a_new_term_shows_in_the_next_header_of_the_same_revision() -> None:
    write = HeaderWriter(CLUSTER_ID, MEMBER_ID)
    write.term = 2
    write(1000)

    write.term = 3

    assert write(1000) == field_1(1000, 3)


def test_revisions_one_after_the_other() -> None:
    write = HeaderWriter(CLUSTER_ID, MEMBER_ID)
    write.term = 7

    for revision in range(1, 2000):
        assert write(revision) == field_1(revision, 7)
