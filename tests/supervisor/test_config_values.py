"""Values as Go reads and prints them, and URLs as etcd checks them."""

from __future__ import annotations

import re

import pytest

from supervisor.cipher_suites import openssl_ciphers
from supervisor.feature_gates import parse_gates, resolve_gates
from supervisor.go_syntax import (
    HOUR,
    MILLISECOND,
    SECOND,
    duration_complaint,
    format_duration,
    parse_bool,
    parse_duration,
    parse_int,
    parse_uint,
)
from supervisor.urls import Url, parse_initial_cluster, parse_url, parse_urls, split_host_port


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1h0m0s", HOUR),
        ("100ms", 100 * MILLISECOND),
        ("1.5s", 1500 * MILLISECOND),
        (".5s", 500 * MILLISECOND),
        ("1us", 1000),
        ("1µs", 1000),
        ("1μs", 1000),
        ("-2h", -2 * HOUR),
        ("+3ns", 3),
        ("0", 0),
        ("1m1m", 120 * SECOND),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "5d", "s", "1 s", "1s ", "-", ".s", "9999999h", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="parse error"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("x", 'time: invalid duration "x"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
    ],
)
def test_a_bad_duration_is_complained_of_in_go_s_words(text: str, complaint: str) -> None:
    assert duration_complaint(text) == complaint


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (245 * SECOND, "4m5s"),
        (2 * HOUR, "2h0m0s"),
        (-SECOND, "-1s"),
    ],
)
def test_durations_are_printed_as_go_prints_them(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


def test_integers_take_go_s_prefixes_and_underscores_but_no_spaces() -> None:
    assert [parse_uint(text) for text in ("0x10", "0b11", "0o17", "017", "1_000")] == [
        16,
        3,
        15,
        15,
        1000,
    ]
    assert parse_int("-0x10") == -16
    for text in ("", " 1", "1_", "08", "+1", "-1", "1.0"):
        with pytest.raises(ValueError, match="parse error"):
            parse_uint(text)


def test_integers_beyond_their_type_are_out_of_range() -> None:
    assert parse_int(str(-(2**63))) == -(2**63)
    for read, value in ((parse_int, 2**63), (parse_uint, 2**64)):
        with pytest.raises(ValueError, match="value out of range"):
            read(str(value))


def test_booleans_are_go_s_words_alone() -> None:
    assert [parse_bool(text) for text in ("1", "T", "true", "f", "FALSE")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    for text in ("yes", "tRUE", "on", ""):
        with pytest.raises(ValueError, match="parse error"):
            parse_bool(text)


def test_a_url_has_its_parts_and_keeps_its_text() -> None:
    assert parse_url(" http://127.0.0.1:2379 ") == Url(
        "http", "127.0.0.1:2379", "", "http://127.0.0.1:2379"
    )
    assert parse_url("HTTPS://[::1]:2379").text == "https://[::1]:2379"
    assert parse_url("unix:///run/e.sock").address == "/run/e.sock"
    assert parse_url("unixs://localhost:23790").address == "localhost:23790"
    assert parse_url("unixs://localhost:23790").is_secure


def test_url_lists_are_sorted_and_without_doubles() -> None:
    found = parse_urls(["http://b:2", "http://a:1", "http://b:2"])

    assert [url.text for url in found] == ["http://a:1", "http://b:2"]


def test_host_and_port_are_split_as_go_splits_them() -> None:
    assert split_host_port("[::1]:80") == ("::1", "80")
    assert split_host_port(":80") == ("", "80")
    for text in ("localhost", "[::1]", "::1", "1:2:3"):
        with pytest.raises(ValueError, match="address"):
            split_host_port(text)


def test_a_member_of_the_initial_cluster_may_have_several_urls() -> None:
    found = parse_initial_cluster("a=http://h:2,b=http://i:1,,a=http://h:1")

    assert found == {"a": ("http://h:1", "http://h:2"), "b": ("http://i:1",)}


def test_a_gate_is_set_by_name_before_its_stage_before_its_default() -> None:
    found = resolve_gates(parse_gates("AllAlpha=true, PriorityRequest=false,AllBeta=false"))

    assert found["LeaseCheckpoint"] is True
    assert found["PriorityRequest"] is False
    assert found["FastLeaseKeepAlive"] is False
    assert resolve_gates({})["FastLeaseKeepAlive"] is True


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Foo=true", "unrecognized feature gate: Foo"),
        ("AllAlpha", "missing bool value for AllAlpha"),
        (
            "AllAlpha=x",
            'invalid value of AllAlpha=x, err: strconv.ParseBool: parsing "x": invalid syntax',
        ),
    ],
)
def test_unknown_gates_and_values_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_gates(text)


def test_cipher_suites_are_translated_and_unknown_ones_refused() -> None:
    names = ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_AES_128_GCM_SHA256")

    assert openssl_ciphers(names) == "ECDHE-RSA-CHACHA20-POLY1305"
    with pytest.raises(ValueError, match='unexpected TLS cipher suite "foo"'):
        openssl_ciphers(["foo"])
