"""The disk bank: independence of clones, immutability of snapshots, and what a kill leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mover.errors import LabError
from mover.lab import disks, filesystems, living, loops, tools
from mover.lab.disks import DiskBank
from mover.lab.hotplug import Hotplug
from tests.support.loopdevices import none_left

MIB = 1 << 20
needs_root = pytest.mark.skipif(loops.usable() is not None, reason=f"loop devices: {loops.usable()}")
KINDS = [pytest.param(False, id="plain"), pytest.param(True, id="xfs", marks=[pytest.mark.root, needs_root])]


@pytest.fixture(params=KINDS)
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskBank]:
    made = DiskBank(tmp_path / "lab", use_loop=request.param)
    yield made
    made.close()
    assert none_left(tmp_path)
    assert loops.mounts_below(tmp_path) == []


def write(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_new_disk_is_zero_and_occupies_nothing(bank: DiskBank) -> None:
    path = bank.create("a", 256 * MIB)
    assert path == bank.path("a")
    assert path.stat().st_size == 256 * MIB
    assert path.stat().st_blocks == 0
    assert bank.allocation(path) == [(0, 256 * MIB, True)]
    with pytest.raises(FileExistsError):
        bank.create("a", MIB)


def test_snapshot_and_clone_do_not_see_later_writes(bank: DiskBank) -> None:
    live = bank.create("a", MIB)
    write(live, 0, b"old")
    frozen = bank.freeze("a", "s1")
    clone = bank.clone(frozen, "b")
    write(live, 0, b"new")
    write(clone, 3, b"own")
    assert [path.read_bytes()[:6] for path in (live, frozen, clone)] == [
        b"new\0\0\0",
        b"old\0\0\0",
        b"old\0\0\0"[:3] + b"own",
    ]


def test_freeze_again_gives_the_first_bytes(bank: DiskBank) -> None:
    live = bank.create("a", MIB)
    first = bank.freeze("a", "s1")
    write(live, 0, b"later")
    assert bank.freeze("a", "s1") == first
    assert first.read_bytes()[:5] == bytes(5)


def test_difference_between_snapshots(bank: DiskBank) -> None:
    live = bank.create("a", 64 * MIB)
    write(live, MIB, bytes([1, 2, 3, 4]) * (MIB // 4))
    first = bank.freeze("a", "s1")
    write(live, MIB + 8192, b"x")
    write(live, MIB + 65536, bytes(4096))
    second = bank.freeze("a", "s2")
    expected = [(MIB + 8192, 4096, False), (MIB + 65536, 4096, True)]
    assert bank.difference(second, first) == expected
    assert bank.difference(second, first) == expected
    assert bank.difference(second, second) == []


def test_grow_keeps_bytes_and_refuses_to_shrink(bank: DiskBank) -> None:
    live = bank.create("a", MIB)
    write(live, 0, b"kept")
    bank.grow("a", 2 * MIB)
    assert live.stat().st_size == 2 * MIB
    assert live.read_bytes()[:4] == b"kept"
    with pytest.raises(ValueError, match="cannot shrink"):
        bank.grow("a", MIB)


def test_drop_removes_the_snapshot_folder_with_its_last_file(bank: DiskBank) -> None:
    bank.create("a", MIB)
    frozen = bank.freeze("a", "s1")
    bank.drop(frozen)
    bank.drop(frozen)
    assert not frozen.parent.exists()


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    first = DiskBank(tmp_path / "lab")
    write(first.create("a", MIB), 0, b"kept")
    first.close()
    second = DiskBank(tmp_path / "lab")
    try:
        assert second.path("a").read_bytes()[:4] == b"kept"
        assert second.has_reflink == first.has_reflink
    finally:
        second.close()


def test_second_lab_on_the_same_folder_is_refused(bank: DiskBank) -> None:
    with pytest.raises(LabError, match="another lab"):
        DiskBank(bank.folder)
    with pytest.raises(LabError, match="another lab"):
        disks.clean(bank.folder)


def test_plain_folder_stays_plain(tmp_path: Path) -> None:
    DiskBank(tmp_path, use_loop=False).close()
    again = DiskBank(tmp_path)
    again.close()
    assert again.how == "plain files"


def test_clean_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert disks.clean(tmp_path / "none") == []


@pytest.mark.root
@needs_root
def test_missing_mkfs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find", lambda name: None)
    bank = DiskBank(tmp_path)
    bank.close()
    assert bank.how == "plain files (mkfs.xfs is missing)"
    with pytest.raises(LabError, match=r"mkfs\.xfs is missing"):
        DiskBank(tmp_path / "other", use_loop=True)


@pytest.mark.root
@needs_root
def test_kernel_without_xfs_gives_plain_files_now_and_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LabError("the kernel refused to mount", remedy="none")

    monkeypatch.setattr(loops, "mount", refuse)
    for expected in ("plain files (the kernel refused to mount)", "plain files"):
        bank = DiskBank(tmp_path)
        bank.close()
        assert bank.how == expected
    assert none_left(tmp_path)
    with pytest.raises(LabError, match="refused to mount"):
        DiskBank(tmp_path / "other", use_loop=True)


def test_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="cannot use"):
        DiskBank(tmp_path / "file" / "lab")


KILLED = """
import os, signal, sys
from pathlib import Path
from mover.lab.disks import DiskBank
from mover.lab.hotplug import Hotplug, PlugFaults
folder = Path(sys.argv[1])
bank = DiskBank(folder)
hotplug = Hotplug(folder / "kernel", bank)
for name in ("plain", "bad"):
    bank.create(name, 1 << 20).write_bytes(b"kept" * (1 << 18))
hotplug.plug(bank.path("plain"), vmdisk_uuid="plain", slot_index=1, faults=PlugFaults(decoy=True))
hotplug.plug(bank.path("bad"), vmdisk_uuid="bad", slot_index=3, faults=PlugFaults(bad_ranges=((0, 4096),)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_lab(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.root
@needs_root
def test_clean_after_a_kill_leaves_no_loop_and_no_mount(tmp_path: Path) -> None:
    killed_lab(tmp_path)
    assert len(loops.below(tmp_path)) == 4
    assert disks.clean(tmp_path)
    assert none_left(tmp_path)
    assert loops.mounts_below(tmp_path) == []
    assert disks.clean(tmp_path) == []


@pytest.mark.root
@needs_root
def test_restart_after_a_kill_takes_the_mount_over(tmp_path: Path) -> None:
    killed_lab(tmp_path)
    bank = DiskBank(tmp_path)
    try:
        assert bank.path("plain").read_bytes()[:4] == b"kept"
    finally:
        bank.close()
        disks.clean(tmp_path)
    assert none_left(tmp_path)


KILLED_AT_WORK = """
import os, signal, sys
from pathlib import Path
from mover.lab import filesystems, guests, trees
from mover.lab.disks import DiskBank
folder = Path(sys.argv[1])
bank = DiskBank(folder)
works = []
for spec in guests.demo_guests(0.01)[:2]:
    path = bank.create(spec.name, spec.disks[0].size_bytes)
    guests.make(spec, [path], scratch=folder / "scratch")
    works.append(trees.opened(filesystems.find(path), folder / "scratch"))
    tree = works[-1].__enter__()
    tree.append(next(iter(tree.files("var/log"))), b"the last line" * 9999)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("is_cleaned", [True, False])
def test_guest_killed_at_work_works_on(tmp_path: Path, is_cleaned: bool) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_AT_WORK, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(loops.mounts_below(tmp_path)) == 3
    if is_cleaned:
        disks.clean(tmp_path)
        assert none_left(tmp_path)
        assert loops.mounts_below(tmp_path) == []
    bank = DiskBank(tmp_path)
    try:
        Hotplug(tmp_path / "kernel", bank).close()
        for name in ("web01", "db01"):
            living.live([bank.path(name)], 1, scratch=tmp_path / "scratch")
            assert filesystems.fsck(bank.path(name))[0]
    finally:
        bank.close()
    assert none_left(tmp_path)
