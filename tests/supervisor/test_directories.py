"""The data directory and the run directory: private, locked, found again, cleaned up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from control.run_directory import RunDirectoryError, bases, check_private, clean, is_living
from supervisor.config import Config, parse
from supervisor.data_directory import (
    check_data_dir,
    data_dir_warnings,
    is_initialized,
    lock_data_dir,
    lock_wal_dir,
)
from supervisor.errors import StartError
from supervisor.run_directory import find_run_directory, remove_run_directory, run_directory
from transport.address import PATH_BYTES_MAX

Start = Callable[..., Path]

LOCKER = """
import sys
from supervisor.data_directory import lock_data_dir
lock_data_dir(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A private folder with a path short enough for sockets, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="tr-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(tmp_path: Path, base: Path) -> Iterator[Start]:
    """Give a member a run directory, as its root does, and take it away at the end."""
    made: list[tuple[Path, int]] = []

    def begin(
        name: str = "m1", environ: Mapping[str, str] | None = None, run_dir: str = ""
    ) -> Path:
        config = member(tmp_path, name, run_dir or ("" if environ is not None else str(base)))
        descriptor = lock_data_dir(config.data_dir)
        made.append((Path(), descriptor))
        folder = run_directory(config, environ or {})
        made[-1] = (folder, descriptor)
        return folder

    yield begin
    for folder, descriptor in made:
        if folder.name:
            remove_run_directory(folder)
        os.close(descriptor)


def member(tmp_path: Path, name: str, run_dir: str) -> Config:
    return parse([f"--name={name}", f"--data-dir={tmp_path / name}", f"--run-dir={run_dir}"], {})


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_data_directory_is_made_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "m1.etcd"

    descriptor = lock_data_dir(data_dir)

    assert (mode(data_dir), mode(data_dir / "member")) == (0o700, 0o700)
    assert os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_data_directory_in_use_is_refused_until_the_last_holder_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCKER, str(tmp_path / "d")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"

        with pytest.raises(StartError) as caught:
            lock_data_dir(tmp_path / "d")
        holder.kill()

    text = f'cannot use data dir "{tmp_path / "d"}": in use by another process'
    assert str(caught.value) == text
    os.close(lock_data_dir(tmp_path / "d"))


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")

    with pytest.raises(StartError, match=r"cannot use data dir .*file is a file"):
        lock_data_dir(file)
    with pytest.raises(StartError, match=r"file/below: not a directory"):
        lock_data_dir(file / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(StartError, match="permission denied"):
        lock_data_dir(tmp_path / "d")


def test_strange_files_and_open_modes_of_a_data_directory_are_warned_of(tmp_path: Path) -> None:
    for name in ("member", "fixtures", "stranger"):
        (tmp_path / name).mkdir()
    tmp_path.chmod(0o755)

    found = data_dir_warnings(tmp_path)

    assert [msg for msg, _ in found] == [
        "check file permission",
        "found invalid file under data directory",
    ]
    assert found[1][1]["filename"] == "stranger"


def test_a_member_is_initialized_once_its_log_has_files(tmp_path: Path) -> None:
    assert not is_initialized(tmp_path / "wal")
    (tmp_path / "wal").mkdir()
    assert not is_initialized(tmp_path / "wal")
    (tmp_path / "wal" / "lost+found").mkdir()
    assert not is_initialized(tmp_path / "wal")
    (tmp_path / "wal" / f"{0:016x}-{1:016x}.wal").write_bytes(b"")
    assert is_initialized(tmp_path / "wal")


def test_a_log_that_cannot_be_looked_for_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")

    with pytest.raises(StartError, match=r"cannot use wal dir .*: not a directory"):
        is_initialized(file)


def test_a_data_directory_of_etcd_is_refused_unless_trouped_lives_there_too(tmp_path: Path) -> None:
    check_data_dir(tmp_path / "absent")
    check_data_dir(tmp_path)
    (tmp_path / "member" / "snap").mkdir(parents=True)
    check_data_dir(tmp_path)
    (tmp_path / "member" / "snap" / "db").write_bytes(b"bbolt")

    with pytest.raises(StartError, match=r"is etcd's: .* etcdctl make-mirror"):
        check_data_dir(tmp_path)

    (tmp_path / "member" / "db").mkdir()
    check_data_dir(tmp_path)


def test_a_run_directory_is_private_short_and_named_in_the_data_directory(
    tmp_path: Path, start: Start
) -> None:
    folder = start()

    assert mode(folder) == 0o700
    assert len(bytes(folder / "snapshotter.4294967295")) < PATH_BYTES_MAX
    assert (tmp_path / "m1" / "member" / "run").read_text() == f"{folder}\n"
    assert json.loads((folder / "root.json").read_text()) == {
        "pid": os.getpid(),
        "name": "m1",
        "data_dir": str(tmp_path / "m1"),
    }


def test_a_member_is_found_by_its_data_directory_by_variable_or_because_it_is_alone(
    tmp_path: Path, base: Path, start: Start
) -> None:
    folder = start()
    data_dir = str(tmp_path / "m1")

    assert find_run_directory(data_dir, {}) == folder
    assert find_run_directory(None, {"ETCD_DATA_DIR": data_dir}) == folder
    assert find_run_directory(None, {"ETCD_RUN_DIR": str(base)}) == folder
    assert find_run_directory(None, {}, run_dir=str(base)) == folder


def test_two_members_have_two_folders_and_must_be_told_apart(
    tmp_path: Path, base: Path, start: Start
) -> None:
    first, second = start("m1"), start("m2")

    assert first != second
    assert find_run_directory(str(tmp_path / "m2"), {}) == second
    with pytest.raises(RunDirectoryError, match=r"several members run: m1 .*, m2 .*--data-dir"):
        find_run_directory(None, {}, run_dir=str(base))


def test_a_full_disk_does_not_keep_a_member_from_starting_nor_from_being_found(
    tmp_path: Path, base: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", full)
    folder = start()
    start("m2")

    found = find_run_directory(str(tmp_path / "m1"), {}, run_dir=str(base))

    assert found == folder
    assert not list((tmp_path / "m1" / "member").glob("run*"))


def test_the_folder_of_a_member_that_was_killed_is_a_leftover_and_cleaned(
    tmp_path: Path, base: Path, start: Start
) -> None:
    script = (
        "import os, sys; from supervisor.config import parse\n"
        "from supervisor.data_directory import lock_data_dir\n"
        "from supervisor.run_directory import run_directory\n"
        "config = parse(sys.argv[1:], {}); lock_data_dir(config.data_dir)\n"
        "print(run_directory(config, {}), flush=True); sys.stdin.read()\n"
    )
    flags = ["--name=dead", f"--data-dir={tmp_path / 'dead'}", f"--run-dir={base}"]
    command = [sys.executable, "-c", script, *flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        dead = Path(root.stdout.readline().decode().strip())
        assert is_living(dead)
        root.kill()

    assert not is_living(dead)
    with pytest.raises(RunDirectoryError, match="is a leftover"):
        find_run_directory(str(tmp_path / "dead"), {})
    living = start()
    assert find_run_directory(None, {}, run_dir=str(base)) == living
    assert not dead.exists()


def test_cleaning_leaves_the_living_alone(base: Path, start: Start) -> None:
    folder = start()

    clean(base)

    assert is_living(folder)


def test_without_a_member_the_places_looked_at_are_named(tmp_path: Path, base: Path) -> None:
    with pytest.raises(RunDirectoryError, match=f"no running member found in {base}"):
        find_run_directory(None, {}, run_dir=str(base))
    with pytest.raises(RunDirectoryError, match="no member runs on"):
        find_run_directory(str(tmp_path), {})


def test_a_base_that_others_can_enter_is_refused(base: Path, start: Start) -> None:
    base.chmod(0o777)

    with pytest.raises(StartError, match="mode 0777: others have access"):
        start()


def test_a_base_of_another_user_or_behind_a_link_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)

    with pytest.raises(RunDirectoryError, match="is not a directory"):
        check_private(link)
    if os.geteuid() == 0:
        foreign = tmp_path / "foreign"
        foreign.mkdir(mode=0o700)
        os.chown(foreign, 12345, 12345)
        with pytest.raises(RunDirectoryError, match="belongs to user 12345"):
            check_private(foreign)


def test_a_base_too_long_for_socket_paths_is_refused_with_the_reason(
    tmp_path: Path, start: Start
) -> None:
    with pytest.raises(StartError, match=r"too long for socket paths: \d+ > \d+ bytes"):
        start(run_dir=str(tmp_path / ("x" * 100)))


def test_the_places_are_tried_in_order(tmp_path: Path) -> None:
    own = f"trouped-{os.geteuid()}"

    found = bases({"XDG_RUNTIME_DIR": "/run/user/7", "TMPDIR": str(tmp_path)})

    assert [str(path) for path in found] == [
        "/run/user/7/trouped",
        "/run/trouped",
        str(tmp_path / own),
        f"/tmp/{own}",
    ]
    assert bases({"XDG_RUNTIME_DIR": "/x", "ETCD_RUN_DIR": "/y"}) == (Path("/y"),)


def test_an_unusable_place_is_passed_over(
    tmp_path: Path, base: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr("control.run_directory.SYSTEM_BASE", blocked / "trouped")

    folder = start(environ={"XDG_RUNTIME_DIR": str(blocked), "TMPDIR": str(base)})

    assert folder.parents[1] == base


def test_a_log_elsewhere_is_locked_too(tmp_path: Path) -> None:
    wal_dir = str(tmp_path / "disk" / "wal")
    descriptor = lock_wal_dir(wal_dir)

    with pytest.raises(StartError, match=f'wal dir "{wal_dir}": in use by another process'):
        lock_wal_dir(wal_dir)
    os.close(descriptor)

    os.close(lock_wal_dir(wal_dir))
    assert not Path(wal_dir).exists()
