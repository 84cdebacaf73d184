"""What a batch holds, in 16 bits and in words."""

from __future__ import annotations

import pytest

from kv.batch import Op
from kv.operations import NAMES_MAX, Operation, operation_names, operations_of


def test_a_batch_is_named_by_what_is_in_it_each_once() -> None:
    found = operations_of(bytes([Op.PUT, Op.TXN, Op.PUT, Op.DELETE_RANGE] * 100))

    assert found == Operation.PUT | Operation.TXN | Operation.DELETE_RANGE
    assert operation_names(found) == ["Put", "DeleteRange", "Txn"]


def test_nothing_has_no_name() -> None:
    assert operations_of(b"") == 0
    assert operation_names(0) == []


@pytest.mark.parametrize("op", list(Op))
def test_every_op_of_the_log_has_a_name_of_its_own(op: Op) -> None:
    (name,) = operation_names(operations_of(bytes([op])))

    assert name != "Other"


def test_an_op_of_a_later_version_is_other() -> None:
    assert operation_names(operations_of(b"\xf0")) == ["Other"]


def test_many_kinds_are_cut_short() -> None:
    names = operation_names(operations_of(bytes(Op)))

    assert names[NAMES_MAX:] == ["others"]


def test_all_fit_into_the_recorders_bits() -> None:
    assert max(Operation) < 1 << 16
