"""Keys between members: who has none, a wrong one or another's is not listened to."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import zmq.auth

from tests.transport.peer_world import World
from tests.transport.test_peer_rejects import frame, stranger
from transport.lanes import Lane
from transport.peer_auth import Keys, PeerKeyError
from transport.peer_wire import Reason


def make_keys(folder: Path, *names: str, outsiders: tuple[str, ...] = ()) -> dict[int, Keys]:
    """Make certificates; the public keys of `names` are allowed, those of `outsiders` are not."""
    allowed = folder / "allowed"
    allowed.mkdir()
    for name in (*names, *outsiders):
        public, _ = zmq.auth.create_certificates(folder, name)
        if name in names:
            Path(public).rename(allowed / f"{name}.pub")
    return {
        number: Keys(folder / f"{name}.key_secret", allowed)
        for number, name in enumerate((*names, *outsiders), start=1)
    }


def test_members_with_each_others_keys_speak_to_each_other(tmp_path: Path) -> None:
    with World(tmp_path, keys=make_keys(tmp_path, "m1", "m2")) as world:
        world.connect()

        world[1].send([2], [Lane.APPEND], [b"secret"])

        assert world.take(2, 1).payloads == [b"secret"]
        assert world[1].stats()["encrypted"]


def test_a_key_that_is_not_in_the_folder_opens_nothing(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", outsiders=("m2",))
    (tmp_path / "m2.key").rename(tmp_path / "m2.pub")
    knows_m1 = Keys(tmp_path / "m2.key_secret", tmp_path / "allowed")
    with World(tmp_path, keys={1: keys[1], 2: knows_m1}) as world:
        world[2].send([1], [Lane.CONTROL], [b"let me in"])
        world.run(lambda: world[1].rejected[Reason.KEY_UNKNOWN])

        assert not world[1].received.payloads
        assert any("rejected" in line for line in world.log_lines())


def test_a_member_without_keys_is_not_understood(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", "m2")
    with World(tmp_path, keys={1: keys[1]}) as world:
        world[2].send([1], [Lane.CONTROL], [b"plain"])

        world.run(lambda: world[1].rejected[Reason.HANDSHAKE])

        assert not world[1].received.payloads


def test_a_plain_stranger_gets_no_frame_through(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", "m2")
    with World(tmp_path, keys=keys) as world:
        world.connect()
        with stranger(world) as dialler:
            dialler.send(frame())
            world.run(lambda: world[1].rejected[Reason.HANDSHAKE])

        world[2].send([1], [Lane.APPEND], [b"good"])
        assert world.take(1, 1).payloads == [b"good"]


def test_a_member_cannot_speak_in_the_name_of_another(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", "m2", "m3")
    with World(tmp_path, 3, start=[1], keys=keys) as world:
        world.start(2, keys=keys[3])
        world[2].send([1], [Lane.CONTROL], [b"I am m2"])

        world.run(lambda: world[1].rejected[Reason.KEY])

        assert not world[1].received.payloads


def test_a_dialler_speaks_only_to_the_member_it_means(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", "m2", "m3")
    with World(tmp_path, 2, start=[1], keys=keys) as world:
        world.start(2, keys=keys[3])  # somebody else behind the address of m2
        world[1].send([2], [Lane.APPEND], [b"for m2 alone"])

        world.run(lambda: world[2].rejected[Reason.HANDSHAKE] + sum(world[2].rejected))

        assert not world[2].received.payloads


def test_a_member_that_has_not_told_its_name_may_hold_any_free_key(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", "m2", "m3")
    with World(tmp_path, 3, start=[], keys=keys) as world:
        world.members[2] = replace(world.members[2], name="")
        for member_id in (1, 2, 3):
            world.start(member_id)

        world.connect()

        assert keys[1].of("", ["m1", "m2"]) == [keys[3].public]


def test_a_key_put_into_the_folder_later_is_let_in(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", "m2")
    late = tmp_path / "allowed" / "m2.pub"
    aside = late.rename(tmp_path / "m2.aside")
    keys[1].reload()
    assert not keys[1].allows(keys[2].public)

    aside.rename(late)

    assert keys[1].reload()
    assert keys[1].allows(keys[2].public)
    assert not keys[1].reload()


def test_a_key_that_is_written_over_counts(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, "m1", "m2", outsiders=("m3",))
    file = tmp_path / "allowed" / "m2.pub"
    before = file.stat().st_ino

    file.write_bytes((tmp_path / "m3.key").read_bytes())

    assert file.stat().st_ino == before
    assert keys[1].reload()
    assert keys[1].allows(keys[3].public)
    assert not keys[1].allows(keys[2].public)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_folder_that_cannot_be_read_takes_no_key_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    keys = make_keys(tmp_path, "m1", "m2")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(PeerKeyError):
        keys[1].reload()

    assert keys[1].allows(keys[2].public)


def test_who_has_lost_its_key_is_sent_nothing_more(tmp_path: Path) -> None:
    with World(tmp_path, keys=make_keys(tmp_path, "m1", "m2")) as world:
        world.connect()
        link = world[1].links[2]
        assert all(connection.up for connection in link.connections)

        (tmp_path / "allowed" / "m2.pub").unlink()
        world.run(lambda: all(connection.target is None for connection in link.connections))
        world[1].send([2], [Lane.APPEND], [b"secret"])
        world.run_for(0.5)

        assert not world[2].received.payloads
        assert not any(connection.up for connection in link.connections)


def test_unreadable_keys_are_told_with_their_path(tmp_path: Path) -> None:
    make_keys(tmp_path, "m1")
    allowed = tmp_path / "allowed"
    with pytest.raises(PeerKeyError, match=r"nowhere\.key_secret"):
        Keys(tmp_path / "nowhere.key_secret", allowed)
    with pytest.raises(PeerKeyError, match="holds no secret key"):
        Keys(allowed / "m1.pub", allowed)
    with pytest.raises(PeerKeyError, match="nofolder"):
        Keys(tmp_path / "m1.key_secret", tmp_path / "nofolder")
    (allowed / "m9.pub").write_text("garbage")
    with pytest.raises(PeerKeyError, match=r"m9\.pub"):
        Keys(tmp_path / "m1.key_secret", allowed)
