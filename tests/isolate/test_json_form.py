"""Messages as JSON: every class there and back, what is refused, and what is never shown."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest

from actors import messages
from actors.json_form import (
    CLASSES,
    STREAM_MESSAGES,
    MessageFormError,
    from_json,
    read_bytes,
    replayable,
    shown_bytes,
    to_json,
)
from actors.neighbours import sender_of, senders
from actors.wire import NEIGHBOURS
from etcdpb import rpc_pb2 as pb
from kv.batch import Op, encode_batch

SAMPLES: dict[Any, list[Any]] = {
    int: [7],
    str: ["gateway-0"],
    bool: [True],
    bytes: [b"", b"text", b"\x00\xff"],
    list[int]: [[], [1, 2**63]],
    list[bytes]: [[b"a", b"\xfe"]],
    list[list[Any]]: [[[9, 1, [2, [3, b"body"], -5]]]],
}
NAMES = sorted(CLASSES.keys() - STREAM_MESSAGES)
PUT = {"put": {"key": "colour", "value": "blue"}}


def there_and_back(message: Any) -> Any:
    return from_json(json.loads(json.dumps(to_json(message))))


@pytest.mark.parametrize("name", NAMES)
def test_every_message_is_the_same_after_json(name: str) -> None:
    cls = CLASSES[name]
    hints = typing.get_type_hints(cls)
    fields = [SAMPLES[hints[field.name]] for field in dataclasses.fields(cls)]
    for number in range(max(map(len, fields), default=1)):
        message = cls(*(values[number % len(values)] for values in fields))

        assert there_and_back(message) == message


@pytest.mark.parametrize("name", NAMES)
def test_every_message_says_in_its_docstring_who_sends_it(name: str) -> None:
    kinds = senders(CLASSES[name])

    assert kinds
    assert set(kinds) <= {*NEIGHBOURS, "any"}


@pytest.mark.parametrize(
    "request_",
    [
        PUT,
        {"open_session": [81, 0]},
        {"delete_range": {"key": "a", "range_end": {"base64": "AA=="}}},
        {
            "txn": {
                "compare": [{"key": "k", "target": "VERSION", "result": "GREATER"}],
                "success": [{"request_put": {"key": "k"}}, {"request_range": {"key": "k"}}],
            }
        },
        {"cluster_version": {"text": "3.7.0"}},
        {"lease_grant": {"ID": 7, "TTL": 60}},
    ],
)
def test_a_batch_is_written_as_its_requests(request_: dict[str, Any]) -> None:
    data = read_bytes({"batch": {"session": 9, "first_id": 4, "requests": [request_]}})

    shown = shown_bytes(data)

    assert shown["batch"]["session"] == 9
    assert shown["batch"]["mark"] == 4
    assert read_bytes(json.loads(json.dumps(shown))) == data


def test_a_put_in_a_batch_is_a_put_request() -> None:
    data = read_bytes({"batch": {"requests": [PUT]}})

    assert pb.PutRequest(key=b"colour", value=b"blue").SerializeToString() in data


def test_bytes_that_only_look_like_a_batch_are_not_changed() -> None:
    data = encode_batch(1, 2, 3, bytes([Op.PUT]), [b"\xff no request \xff"])

    assert read_bytes(shown_bytes(data)) == data


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"Propos": {}}, "no message 'Propos'"),
        ({"Welcome": {"sender": "a", "incarnation": 1, "info": []}}, "no message 'Welcome'"),
        ({"Propose": {}, "from": 1}, "one message has one name"),
        ({"Propose": 3}, "the fields of Propose are an object"),
        ({"Prune": {"row": 3}}, "Prune has no 'row'; it has rows, revision"),
        ({"Prune": {"rows": "3"}}, "Prune.rows: int is wanted"),
        ({"Prune": {}}, "missing 2 required positional arguments: 'rows' and 'revision'"),
        ({"LeaseTold": {"ids": 3, "seconds": []}}, "a list is wanted"),
        ({"Noise": {"padding": 3}}, "text, "),
        ({"Noise": {"padding": {"base64": "?"}}}, "not base64"),
        ({"Noise": {"padding": {"batch": {"requests": [{"pet": {}}]}}}}, "no request 'pet'"),
        (
            {"Noise": {"padding": {"batch": {"requests": [{"put": {"kex": "a"}}]}}}},
            "PutRequest has no 'kex'",
        ),
    ],
)
def test_what_is_no_message_is_refused_in_words(written: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MessageFormError, match=complaint.replace("(", r"\(")):
        from_json(written)


def test_only_what_can_hold_no_password_may_be_shown_whole() -> None:
    put = read_bytes({"batch": {"requests": [PUT]}})
    unknown = encode_batch(1, 1, 1, bytes([200]), [b"pa55word"])

    assert replayable(messages.Propose(1, 1, 1, put))
    assert not replayable(messages.Propose(1, 1, 1, unknown))
    assert replayable(messages.Apply(2, 1, [1, 1, 1], [0, 0, 1], [put, b"", b"conf change"]))
    assert not replayable(messages.Apply(2, 1, [1, 1], [0, 0], [put, unknown]))
    assert not replayable(messages.Applied(1, 1, [[9, 1, [[2, b"token"]]]]))
    assert not replayable(messages.PeerMessages([1], [0], [b"entries"]))
    assert replayable(messages.ReadIndex("gateway-0", 3))


def test_who_says_a_message_is_the_neighbour_of_that_kind() -> None:
    assert sender_of(messages.ReadIndex("gateway-1", 3), ["applier", "gateway-1"]) == "gateway-1"
    with pytest.raises(LookupError, match="ReadIndex is sent by gateway"):
        sender_of(messages.ReadIndex("gateway-0", 3), ["applier"])
