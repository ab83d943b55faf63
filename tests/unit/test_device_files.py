"""A restore to a file: whole under its name, or not there."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from mmap import mmap
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.device import files, ioctl
from mover.device.files import FileTarget, open_file_source
from mover.errors import TargetExists, UsageError

SIZE = (1 << 20) + 513


def write(target: FileTarget, offset: int, byte: bytes, length: int) -> None:
    with mmap(-1, 1 << 20) as memory, memoryview(memory) as view:
        view[:length] = byte * length
        target.write_from(view[:length], offset)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_file_has_its_name_only_when_committed(tmp_path: Path):
    path = tmp_path / "web01.raw"
    with FileTarget.create(path, SIZE) as target:
        assert (target.size_bytes, target.sector_bytes) == (SIZE, 4096)
        assert str(path) in target.name
        write(target, 4096, b"a", 8192)
        write(target, 1 << 20, b"z", 513)
        assert not path.exists()
        target.flush()
        target.commit()
    content = path.read_bytes()
    assert len(content) == SIZE
    assert content[4096:12288] == b"a" * 8192
    assert content[-513:] == b"z" * 513
    assert content[:4096] == bytes(4096)
    assert names(tmp_path) == ["web01.raw"]


def test_what_was_not_written_takes_no_space(tmp_path: Path):
    path = tmp_path / "sparse.raw"
    with FileTarget.create(path, 1 << 34) as target:
        write(target, 1 << 33, b"x", 4096)
        target.commit()
    assert path.stat().st_size == 1 << 34
    assert path.stat().st_blocks * 512 < 1 << 20


def test_nothing_is_left_of_a_restore_that_failed(tmp_path: Path):
    with FileTarget.create(tmp_path / "x.raw", SIZE) as target:
        write(target, 0, b"a", 4096)
        assert names(tmp_path) != []
    assert names(tmp_path) == []


def test_an_existing_file_is_never_touched(tmp_path: Path):
    path = tmp_path / "x.raw"
    path.write_bytes(b"precious")
    with pytest.raises(TargetExists, match="exists already"):
        FileTarget.create(path, SIZE)
    assert path.read_bytes() == b"precious"
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(TargetExists):
        FileTarget.create(path, SIZE)


def test_a_file_that_comes_up_meanwhile_wins(tmp_path: Path):
    path = tmp_path / "x.raw"
    with FileTarget.create(path, SIZE) as target:
        path.write_bytes(b"precious")
        with pytest.raises(TargetExists):
            target.commit()
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["x.raw"]


def test_two_restores_to_one_name_do_not_run_side_by_side(tmp_path: Path):
    with FileTarget.create(tmp_path / "x.raw", SIZE) as first:
        with pytest.raises(TargetExists, match="Another process"):
            FileTarget.create(tmp_path / "x.raw", SIZE)
        first.commit()
    assert names(tmp_path) == ["x.raw"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from mover.device.files import FileTarget
target = FileTarget.create(Path(sys.argv[1]), 1 << 20)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_kill_leaves_is_unmistakable_and_swept_by_the_next_restore(tmp_path: Path):
    path = tmp_path / "x.raw"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False, cwd=Path.cwd())
    assert killed.returncode < 0
    [left] = names(tmp_path)
    assert left.startswith("x.raw.")
    assert left.endswith(".partial")
    mine = ["x.raw.notes", "x.raw.important.partial", "x.raw.old.0123abcd.partial", "x.raw.0123ABCD.partial"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    with FileTarget.create(path, SIZE) as target:
        target.commit()
    assert names(tmp_path) == sorted(["x.raw", *mine])


def test_a_restore_to_a_longer_name_is_not_in_the_way(tmp_path: Path):
    with FileTarget.create(tmp_path / "web01.raw", SIZE) as other:
        with FileTarget.create(tmp_path / "web01", SIZE) as target:
            target.commit()
        other.commit()
    assert names(tmp_path) == ["web01", "web01.raw"]


def test_leftovers_are_locked_in_the_way_that_file_servers_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """NFS makes record locks of flock: an exclusive one needs a descriptor that may write."""
    lock = files.fcntl.flock

    def nfs(file: int | IO[bytes], how: int) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if ioctl.status_flags(number) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(number, how)

    monkeypatch.setattr(files.fcntl, "flock", nfs)
    (tmp_path / "x.raw.0123abcd.partial").write_bytes(b"left")
    with FileTarget.create(tmp_path / "x.raw", SIZE) as target:
        target.commit()
    assert names(tmp_path) == ["x.raw"]


def test_a_partial_file_that_cannot_be_removed_keeps_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "no")

    before = set(os.listdir("/proc/self/fd"))
    target = FileTarget.create(tmp_path / "x.raw", SIZE)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OSError, match="no"):
        target.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_link_that_a_file_server_made_twice_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    link = os.link

    def twice(old: Path, new: Path) -> None:
        link(old, new)
        link(old, new)

    monkeypatch.setattr(files.os, "link", twice)
    with FileTarget.create(tmp_path / "x.raw", SIZE) as target:
        target.commit()
    assert names(tmp_path) == ["x.raw"]


def test_a_file_system_that_cannot_sync_folders_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(fd: int) -> None:
        raise OSError(errno.EINVAL, "not for folders")

    monkeypatch.setattr(files.os, "fsync", refused)
    with FileTarget.create(tmp_path / "x.raw", SIZE) as target:
        target.commit()
    assert names(tmp_path) == ["x.raw"]


def test_a_finished_file_survives_a_kill_before_its_second_name_went(tmp_path: Path):
    """Between link and unlink a file has two names; a later sweep must take the name, not the bytes."""
    done = tmp_path / "moved.raw"
    done.write_bytes(b"whole")
    os.link(done, tmp_path / "x.raw.0123abcd.partial")
    with FileTarget.create(tmp_path / "x.raw", SIZE) as target:
        target.commit()
    assert done.read_bytes() == b"whole"
    assert names(tmp_path) == ["moved.raw", "x.raw"]


def test_file_systems_without_hard_links_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", no_links)
    with FileTarget.create(tmp_path / "x.raw", SIZE) as target:
        target.commit()
    assert names(tmp_path) == ["x.raw"]
    assert (tmp_path / "x.raw").stat().st_size == SIZE


@pytest.mark.parametrize("path", ["no/such/folder/x.raw", "file/x.raw", "x" * 300])
def test_a_place_that_cannot_hold_it_is_a_users_mistake(tmp_path: Path, path: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        FileTarget.create(tmp_path / path, SIZE)
    assert str(tmp_path) in caught.value.message
    assert names(tmp_path) == ["file"]


def test_a_size_that_no_file_can_have_leaves_nothing(tmp_path: Path):
    # A limit of the process: ext4 has one of its own, XFS makes a file of any size.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, limits[1]))
    try:
        with pytest.raises(UsageError):
            FileTarget.create(tmp_path / "x.raw", 1 << 31)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_without_direct_io_it_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    control, open_ = files.fcntl.fcntl, os.open

    def no_direct(fd: int, command: int, *flags: int) -> int:
        if command == files.fcntl.F_SETFL:
            raise OSError(errno.EINVAL, "no direct I/O here")
        return control(fd, command, *flags)

    def no_direct_open(path: Path, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct I/O here")
        return open_(path, flags, *args, **kwargs)

    monkeypatch.setattr(files.fcntl, "fcntl", no_direct)
    monkeypatch.setattr(os, "open", no_direct_open)
    path = tmp_path / "x.raw"
    with FileTarget.create(path, SIZE) as target:
        assert not target.is_direct
        write(target, 4096, b"a", 4096)
        target.commit()
    with open_file_source(path) as source, mmap(-1, 8192) as memory, memoryview(memory) as view:
        assert not source.is_direct
        source.read_into(view, 0)
        assert bytes(view) == bytes(4096) + b"a" * 4096


def test_a_source_that_is_not_there_is_a_users_mistake(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        open_file_source(tmp_path / "none.raw")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 40 * 4096),
    st.lists(st.tuples(st.integers(0, 39), st.integers(1, 12), st.integers(1, 255)), max_size=12),
)
def test_any_writes_give_the_file_that_a_plain_one_would_be(
    tmp_path: Path, size: int, writes: list[tuple[int, int, int]]
):
    model = bytearray(size)
    path = tmp_path / "any.raw"
    with FileTarget.create(path, size) as target:
        for sector, count, byte in writes:
            offset = sector * 4096
            length = min(count * 4096, size - offset)
            if length > 0:
                write(target, offset, bytes([byte]), length)
                model[offset : offset + length] = bytes([byte]) * length
        target.commit()
    assert path.read_bytes() == model
    path.unlink()
