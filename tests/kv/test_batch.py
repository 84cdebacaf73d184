"""The encoding of a raft entry's requests."""

from __future__ import annotations

import msgpack
import pytest

from kv.batch import Batch, BatchDecodeError, Op, decode_batch, encode_batch


def test_a_batch_comes_back_as_it_was() -> None:
    data = encode_batch((1 << 64) - 1, 3, 7, bytes([Op.PUT, Op.TXN]), [b"one", b""])

    assert decode_batch(data) == Batch((1 << 64) - 1, 3, 7, b"\x02\x04", [b"one", b""])


def test_fields_of_a_newer_version_are_passed_over() -> None:
    data = msgpack.packb((5, 1, 1, b"\x02", [b"x"], "later"))

    assert decode_batch(data) == Batch(5, 1, 1, b"\x02", [b"x"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(7),
        msgpack.packb((1, 2, 3)),
        msgpack.packb((1, 1, 1, b"\x02\x02", [b"x"])),
        encode_batch(1, 1, 1, b"\x02", [b"x"])[:-1],
        encode_batch(1, 1, 1, b"\x02", [b"x"]) + b"\0",
    ],
)
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(BatchDecodeError):
        decode_batch(data)


def test_op_numbers_never_change() -> None:
    assert [(op.name, op.value) for op in Op] == [
        ("OPEN_SESSION", 1),
        ("PUT", 2),
        ("DELETE_RANGE", 3),
        ("TXN", 4),
        ("COMPACT", 5),
        ("MEMBER_ATTRIBUTES", 6),
        ("CLUSTER_VERSION", 7),
        ("ALARM", 8),
        ("LEASE_GRANT", 9),
        ("LEASE_REVOKE", 10),
        ("LEASE_EXPIRE", 11),
        ("LEASE_CHECKPOINT", 12),
    ]
