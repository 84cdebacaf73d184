"""etcdctl 3.5 and 3.4 can't tell trouped from etcd: commands run on both and print the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.etcdctl import Both, Etcdctl, Printed, binaries
from tests.member import Member, free_port

pytestmark = pytest.mark.e2e

VERSIONS = ("3.5", "3.4")
CLUSTER_VERSIONS = r"3\.\d+\.\d+"
FORMATS = ("simple", "json", "fields")


@pytest.fixture(scope="module", params=VERSIONS)
def binary(request: pytest.FixtureRequest) -> str:
    """An etcdctl of each version at hand."""
    path = binaries()[request.param]
    if path is None:
        pytest.skip(f"no etcdctl {request.param} here")
    return path


@pytest.fixture(scope="module")
def both(binary: str, member: Member, etcd_member: Member) -> Both:
    """The same etcdctl for both members."""
    return Both(binary, member, etcd_member)


@pytest.fixture(scope="module")
def one(binary: str, member: Member) -> Etcdctl:
    """An etcdctl for trouped alone."""
    return Etcdctl(binary, member)


@pytest.fixture
def fruit(both: Both) -> Iterator[None]:
    """Six keys, written in an order of their own; all keys are gone afterwards."""
    for key, value in ("pear", "4"), ("apple", "1"), ("fig", "9"), ("pea", "2"), ("apple", "3"):
        both("put", f"/fruit/{key}", value)
    both("put", "/nut", "hard")
    yield
    both("del", "", "--from-key")


def keys_of(printed: Printed) -> list[str]:
    return printed.out.split()[::2]


def test_an_endpoint_may_have_a_path(binary: str, member: Member, etcd_member: Member) -> None:
    for path in "/", "/v3?a=b":
        for server in member, etcd_member:
            etcdctl = Etcdctl(binary, server, f"http://{server.endpoint}{path}")

            assert etcdctl.run("put", "k", "v").out == "OK\n"
            assert etcdctl.run("get", "k", "--print-value-only").out == "v\n"


def test_an_endpoint_may_be_a_unix_socket(binary: str, tmp_path: Path) -> None:
    member = Member(tmp_path)
    member.client_port, member.peer_port = free_port(), free_port()
    path = f"unix://{tmp_path}/s"
    member.flags = [f"--listen-client-urls={member.url},{path}"]
    with member:
        etcdctl = Etcdctl(binary, member, path)

        assert etcdctl.run("put", "k", "v").out == "OK\n"
        assert etcdctl.run("get", "k", "--print-value-only").out == "v\n"


def test_put_says_ok_in_every_format(both: Both) -> None:
    assert both("put", "k", "v").out == "OK\n"
    assert json.loads(both("put", "k", "v", "-w", "json").out.replace(":X", ":0"))["header"]
    assert '"Revision"' in both("put", "k", "v", "-w", "fields").out


def test_put_shows_the_previous_value(both: Both) -> None:
    both("put", "previous", "one")

    printed = both("put", "previous", "two", "--prev-kv")

    assert printed.out == "OK\nprevious\none\n"
    both("put", "previous", "three", "--prev-kv", "-w", "json")


def test_put_reads_the_value_from_stdin(both: Both) -> None:
    both("put", "from-stdin", stdin="line\nline")

    assert both("get", "from-stdin", "--print-value-only").out == "line\nline\n"


def test_put_keeps_value_or_lease_when_told(both: Both) -> None:
    both("put", "kept", "value")

    both("put", "kept", "--ignore-value", stdin="")
    both("put", "kept", "new", "--ignore-lease")

    assert both("get", "kept").out == "kept\nnew\n"
    refused = both("put", "absent-key", "--ignore-value", stdin="", status=1)
    assert "key not found" in refused.errors[0]


def test_put_with_a_lease_that_does_not_exist_is_refused(both: Both) -> None:
    printed = both("put", "leased", "v", "--lease=1234abcd", status=1)

    assert printed.errors == ("Error: etcdserver: requested lease not found",)


def test_put_of_an_empty_key_is_refused(both: Both) -> None:
    assert "key is not provided" in both("put", "", "v", status=1).errors[0]


@pytest.mark.usefixtures("fruit")
@pytest.mark.parametrize("form", FORMATS)
def test_get_prints_alike_in_every_format(both: Both, form: str) -> None:
    for arguments in (
        ("/fruit/apple",),
        ("/nobody",),
        ("/fruit/", "--prefix"),
        ("/fruit/", "--prefix", "--keys-only"),
        ("/fruit/", "--prefix", "--limit=2"),
        ("/fruit/", "--prefix", "--hex"),
    ):
        if form == "simple" or "--hex" not in arguments:
            both("get", *arguments, "-w", form)


@pytest.mark.usefixtures("fruit")
def test_get_selects_what_its_flags_say(both: Both) -> None:
    assert keys_of(both("get", "/fruit/", "--prefix")) == [
        "/fruit/apple", "/fruit/fig", "/fruit/pea", "/fruit/pear",
    ]  # fmt: skip
    assert keys_of(both("get", "/fruit/pea", "--from-key")) == ["/fruit/pea", "/fruit/pear", "/nut"]
    assert keys_of(both("get", "/fruit/apple", "/fruit/pea")) == ["/fruit/apple", "/fruit/fig"]
    assert keys_of(both("get", "", "--prefix", "--limit=1")) == ["/fruit/apple"]
    assert both("get", "/fruit/pea", "--print-value-only").out == "2\n"
    assert both("get", "/fruit/pea", "--hex").out == (
        r"\x2f\x66\x72\x75\x69\x74\x2f\x70\x65\x61" "\n" r"\x32" "\n"
    )


@pytest.mark.usefixtures("fruit")
def test_get_counts_only(both: Both) -> None:
    if "--count-only" not in both.member.run("get", "--help").out:
        pytest.skip("this etcdctl can't")
    assert '"Count" : 4' in both("get", "/fruit", "--prefix", "--count-only", "-w", "fields").out


@pytest.mark.usefixtures("fruit")
@pytest.mark.parametrize("target", ["KEY", "VERSION", "CREATE", "MODIFY", "VALUE"])
def test_get_sorts(both: Both, target: str) -> None:
    for order in "ASCEND", "DESCEND":
        both("get", "/fruit", "--prefix", f"--sort-by={target}", f"--order={order}")
    both("get", "/fruit", "--prefix", f"--sort-by={target}", "--order=DESCEND", "--limit=2")
    both("get", "/fruit", "--prefix", f"--sort-by={target}")


@pytest.mark.usefixtures("fruit")
def test_get_reads_what_was(both: Both) -> None:
    now = json.loads(both("get", "/fruit/apple", "-w", "json").out.replace(":X", ":0"))
    created = now["kvs"][0]["create_revision"]

    assert both("get", "/fruit/apple", f"--rev={created}").out == "/fruit/apple\n1\n"
    assert both("get", "/fruit/apple", f"--rev={created - 1}").out == ""
    future = both("get", "/fruit/apple", "--rev=1000000", status=1)
    assert future.errors == ("Error: etcdserver: mvcc: required revision is a future revision",)


@pytest.mark.usefixtures("fruit")
def test_get_is_serializable_when_told(both: Both) -> None:
    assert both("get", "/fruit/pea", "--consistency=s").out == "/fruit/pea\n2\n"
    assert both("get", "/fruit/pea", "--consistency=l").out == "/fruit/pea\n2\n"


def test_get_refuses_flags_that_exclude_each_other(both: Both) -> None:
    both("get", "a", "--prefix", "--from-key", status=128)


@pytest.mark.usefixtures("fruit")
def test_del_counts_and_shows_what_it_deleted(both: Both) -> None:
    assert both("del", "/nobody").out == "0\n"
    assert both("del", "/nut").out == "1\n"
    assert both("del", "/fruit/pea", "--prev-kv").out == "1\n/fruit/pea\n2\n"
    assert both("del", "/fruit/a", "/fruit/g").out == "2\n"
    assert both("del", "/fruit", "--prefix", "--prev-kv", "-w", "json").out.count('"key"') == 1


@pytest.mark.usefixtures("fruit")
def test_del_takes_everything_from_a_key_on(both: Both) -> None:
    assert both("del", "/fruit/pea", "--from-key").out == "3\n"
    assert keys_of(both("get", "", "--from-key")) == ["/fruit/apple", "/fruit/fig"]


def test_txn_decides_by_its_comparisons(both: Both) -> None:
    both("put", "account", "100")
    script = 'value("account") = "100"\n\nput account 90\nget account\n\nget account\n\n'

    first, second = both("txn", stdin=script), both("txn", stdin=script)

    assert first.out == "SUCCESS\n\nOK\n\naccount\n90\n"
    assert second.out == "FAILURE\n\naccount\n90\n"


def test_txn_asks_when_interactive(both: Both) -> None:
    script = 'mod("nothing") = "0"\n\nput "a key" "a \\"value\\""\n\ndel "a key"\n\n'

    printed = both("txn", "-i", stdin=script)

    assert "compares:" in printed.out
    assert printed.out.endswith("SUCCESS\n\nOK\n")
    assert both("get", "a key").out == 'a key\na "value"\n'


def test_txn_compares_every_target(both: Both) -> None:
    both("put", "target", "v")
    for condition in (
        'ver("target") > "0"', 'version("target") < "1000"', 'create("target") > "1"',
        'c("target") = "0"', 'mod("target") > "1"', 'm("target") < "2"', 'value("target") = "v"',
        'val("target") > "w"', 'version("nobody") = "0"',
    ):  # fmt: skip
        both("txn", stdin=f"{condition}\n\nget target\n\nget nobody\n\n")
    both("txn", "-w", "json", stdin='ver("target") > "0"\n\nget target\nput a b\ndel a2\n\n\n')
    both("txn", "-w", "fields", stdin="\nput x y --prev-kv\nget target --keys-only\n\n\n")


def test_txn_refuses_to_put_a_key_twice(both: Both) -> None:
    printed = both("txn", stdin="\nput twice 1\nput twice 2\n\n\n", status=1)

    assert printed.errors == ("Error: etcdserver: duplicate key given in txn request",)


@pytest.mark.parametrize("flags", [(), ("--physical=true",)])
def test_compaction_forgets_the_past(both: Both, flags: tuple[str, ...]) -> None:
    for number in range(5):
        both("put", "compacted", str(number))
    kv = json.loads(both("get", "compacted", "-w", "json").out.replace(":X", ":0"))["kvs"][0]
    revision = kv["mod_revision"]

    printed = both("compaction", str(revision), *flags)

    assert printed.out == f"compacted revision {revision}\n"
    assert both("get", "compacted", f"--rev={revision}").out == "compacted\n4\n"
    past = both("get", "compacted", f"--rev={revision - 1}", status=1)
    assert past.errors == ("Error: etcdserver: mvcc: required revision has been compacted",)
    again = both("compaction", str(revision), status=1)
    assert again.errors == ("Error: etcdserver: mvcc: required revision has been compacted",)
    future = both("compaction", "100000", *flags, status=1)
    assert future.errors == ("Error: etcdserver: mvcc: required revision is a future revision",)


def test_endpoint_status_names_the_leader(one: Etcdctl) -> None:
    status = json.loads(re.sub(":X", ":0", one.run("endpoint", "status", "-w", "json").out))

    assert len(status) == 1
    answer = status[0]["Status"]
    assert answer["leader"] != 0
    assert re.fullmatch(CLUSTER_VERSIONS, answer["version"])
    assert answer["raftAppliedIndex"] <= answer["raftIndex"]
    assert answer["dbSize"] >= answer["dbSizeInUse"] > 0


def test_endpoint_status_fills_a_table(one: Etcdctl) -> None:
    table = one.run("endpoint", "status", "-w", "table").out

    header, row = (line for line in table.splitlines() if line.startswith("|"))
    assert header.split("|")[1].strip() == "ENDPOINT"
    assert len(row.split("|")) == len(header.split("|"))
    assert "true" in row  # IS LEADER
    one.run("endpoint", "status", "-w", "fields")


def test_endpoint_health_says_healthy(one: Etcdctl) -> None:
    printed = one.run("endpoint", "health")

    assert printed.status == 0, printed
    assert "ENDPOINT is healthy: successfully committed proposal: took = " in (
        printed.out + printed.err  # stderr in 3.4
    )
    answer = json.loads(one.run("endpoint", "health", "-w", "json").out)[0]
    assert answer["health"] is True
    table = one.run("endpoint", "health", "-w", "table").out
    assert re.search(r"\| +ENDPOINT \| +true \|", table)


def test_endpoint_hashkv_is_the_same_until_something_changes(both: Both) -> None:
    one = both.member
    both("put", "hashed", "1")
    first = one.run("endpoint", "hashkv")
    same = one.run("endpoint", "hashkv")
    both("put", "hashed", "2")
    other = one.run("endpoint", "hashkv")

    assert re.fullmatch(r"ENDPOINT, \d+\n", first.out)
    assert first == same
    assert first.out != other.out


def test_member_list_shows_the_member(one: Etcdctl) -> None:
    printed = one.run("member", "list")

    peer = f"http://127.0.0.1:{one.member.peer_port}"
    assert re.fullmatch(
        rf"[0-9a-f]+, started, {one.member.name}, {peer}, http://ENDPOINT, false\n", printed.out
    )
    members = json.loads(re.sub(":X", ":0", one.run("member", "list", "-w", "json").out))["members"]
    assert [m["name"] for m in members] == [one.member.name]
    assert members[0]["peerURLs"] == [peer]
    table = one.run("member", "list", "-w", "table").out
    assert table.count("started") == 1


def test_version_and_unknown_services_are_told_apart(one: Etcdctl) -> None:
    assert one.run("version").out.startswith("etcdctl version: 3.")


def test_a_user_name_is_passed_over_while_authentication_is_off(both: Both) -> None:
    assert both("--user=root:pw", "put", "named", "1").out == "OK\n"
    assert both("--user=root:pw", "get", "named").out == "named\n1\n"
    both("--user=root", "--password=pw", "del", "named")


def test_authentication_is_told_to_be_off(both: Both) -> None:
    if "status" not in both.member.run("auth", "--help").out:
        pytest.skip("this etcdctl can't")
    assert both("auth", "status").out == "Authentication Status: false\nAuthRevision: 1\n"
    both("auth", "status", "-w", "json")


def test_authentication_that_is_off_can_be_disabled(both: Both) -> None:
    assert both("auth", "disable").out == "Authentication Disabled\n"


def check_perf(etcdctl: Etcdctl, load: str) -> list[str]:
    """Run etcdctl's own load test for a minute; return its verdicts, the last one on all."""
    printed = etcdctl.run("check", "perf", f"--load={load}", timeout=180)
    verdicts = re.findall(r"^(?:PASS|FAIL|Slowest|Stddev).*", printed.out, re.MULTILINE)
    print(etcdctl.member.binary, *verdicts, sep="\n  ")  # noqa: T201
    return verdicts


@pytest.mark.slow
def test_check_perf_passes_with_a_small_load(both: Both) -> None:
    assert check_perf(both.member, "s")[-1] == "PASS"


@pytest.mark.slow
def test_check_perf_passes_with_a_medium_load_where_etcd_does(both: Both) -> None:
    ours = check_perf(both.member, "m")

    assert ours[-1] == "PASS" or check_perf(both.reference, "m")[-1] != "PASS"
