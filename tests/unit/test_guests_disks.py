"""Guests are real: their file systems check clean, their files change, the same seed makes the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mover.errors import LabError
from mover.lab import content, extents, filesystems, guests, living, loops, tools, trees
from mover.lab.disks import DiskBank
from tests.support.loopdevices import none_left
from tests.support.programs import needs

SCALE = 0.01
needs_root = pytest.mark.skipif(loops.usable() is not None, reason=f"loop devices: {loops.usable()}")
needs_tools = needs("mkfs.ext4", "mkfs.xfs", "debugfs", "xfs_db")
SPECS = {spec.name: spec for spec in guests.demo_guests(SCALE)}
WAYS = [pytest.param(True, id="mounted", marks=[pytest.mark.root, needs_root]), pytest.param(False, id="unmounted")]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[DiskBank]:
    made = DiskBank(tmp_path / "lab", use_loop=False)
    yield made
    made.close()
    assert none_left(tmp_path)
    assert loops.mounts_below(tmp_path) == []


def make(bank: DiskBank, name: str, seed: int = 0) -> list[Path]:
    spec = SPECS[name]
    paths = [bank.create(f"{name}-{number}-{seed}", disk.size_bytes) for number, disk in enumerate(spec.disks)]
    assert guests.make(spec, paths, scratch=bank.folder / "scratch", seed=seed) == []
    return paths


def without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "usable", lambda: "as asked")


@needs_tools
@pytest.mark.parametrize(("name", "kinds"), [("web01", ["ext4"]), ("db01", ["xfs"]), ("files01", ["ext4", None])])
def test_disks_hold_what_the_guest_says(bank: DiskBank, name: str, kinds: list[str | None]) -> None:
    paths = make(bank, name)
    found = [filesystems.find(path) for path in paths]
    assert [one and one.kind for one in found] == kinds
    for path, disk, filesystem in zip(paths, SPECS[name].disks, found, strict=True):
        assert path.stat().st_size == disk.size_bytes
        assert path.stat().st_blocks * 512 < disk.size_bytes
        if filesystem is not None:
            assert filesystems.fsck(path)[0]
    assert os.listdir(bank.folder / "scratch") == []


def test_areas_have_every_kind_of_space(bank: DiskBank) -> None:
    [_, spec] = SPECS["files01"].disks
    path = bank.create("areas", 16 << 20)
    guests.make(guests.GuestSpec("one", "", (spec,)), [path], scratch=bank.folder / "scratch")
    data = path.read_bytes()
    rows = bank.allocation(path)
    written = [data[offset : offset + length] for offset, length, is_zero in rows if not is_zero]
    assert any(is_zero for _, _, is_zero in rows)
    assert bytes(16384) in b"".join(written)
    assert any(data[:4096])
    assert any(data[-512:])


@needs_tools
@pytest.mark.parametrize("is_root", WAYS)
@pytest.mark.parametrize("name", ["web01", "db01", "files01"])
def test_a_round_of_life_changes_a_little_and_stays_clean(
    bank: DiskBank, name: str, is_root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_root:
        without_root(monkeypatch)
    paths = make(bank, name)
    before = [bank.freeze(path.stem, "s0") for path in paths]
    for number in (1, 2):
        said = living.live(paths, number, scratch=bank.folder / "scratch")
        assert len(said) == len(paths)
        after = [bank.freeze(path.stem, f"s{number}") for path in paths]
        for old, new in zip(before, after, strict=True):
            changed = sum(length for _, length, _ in bank.difference(new, old))
            used = sum(length for _, length, is_zero in bank.allocation(new) if not is_zero)
            assert 0 < changed < used / 2
            if filesystems.find(new) is not None:
                assert filesystems.fsck(new)[0]
        before = after
    assert [path.name for path in (bank.folder / "scratch").rglob("*") if path.is_file()] == []


@needs_tools
def test_same_seed_same_files(bank: DiskBank) -> None:
    spec = SPECS["web01"]
    trees_made = [
        list(content.web_tree(content.dice_for("a", seed), spec.disks[0].content_bytes)) for seed in (1, 1, 2)
    ]
    assert trees_made[0] == trees_made[1]
    assert trees_made[0] != trees_made[2]
    assert sum(len(data) for _, data in trees_made[0]) <= spec.disks[0].content_bytes * 1.2


@needs_tools
@pytest.mark.root
@needs_root
@pytest.mark.parametrize("name", ["web01", "db01", "files01"])
def test_digest_of_the_files_follows_the_files_not_the_layout(bank: DiskBank, name: str) -> None:
    scratch = bank.folder / "scratch"
    path = make(bank, name)[0]
    frozen = bank.freeze(path.stem, "s0")
    first = filesystems.tree_digest(frozen, scratch)
    assert first == filesystems.tree_digest(path, scratch)
    living.live([path], 1, scratch=scratch)
    assert filesystems.tree_digest(path, scratch) != first
    assert filesystems.tree_digest(frozen, scratch) == first
    assert bank.difference(frozen, frozen) == []


@needs_tools
def test_digest_without_root_is_none(bank: DiskBank, monkeypatch: pytest.MonkeyPatch) -> None:
    without_root(monkeypatch)
    assert filesystems.tree_digest(make(bank, "web01")[0], bank.folder / "scratch") is None


@needs_tools
@pytest.mark.parametrize("name", ["web01", "db01"])
def test_fsck_sees_damage(bank: DiskBank, name: str) -> None:
    path = make(bank, name)[0]
    data = bytearray(path.read_bytes()[: 8 << 20])
    for at in range(4096 * 2, 8 << 20, 4096 * 5):
        data[at : at + 512] = b"\xa5" * 512
    with open(path, "r+b") as file:
        file.write(data)
    assert not filesystems.fsck(path)[0]


def test_fsck_of_a_disk_without_file_system_is_said(bank: DiskBank) -> None:
    with pytest.raises(LabError, match="no file system"):
        filesystems.fsck(bank.create("empty", 1 << 20))


def holds(disk: Path, data: bytes) -> bool:
    """Whether the bytes stand in an allocated part of the disk."""
    with open(disk, "rb") as file:
        return any(
            data in os.pread(file.fileno(), end - start, start) for start, end in extents.data_spans(file.fileno())
        )


@needs_tools
@pytest.mark.parametrize("is_root", WAYS)
@pytest.mark.parametrize("name", ["web01", "db01", "files01"])
def test_overwritten_bytes_are_read_back_through_the_file_system(
    bank: DiskBank, name: str, is_root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_root:
        without_root(monkeypatch)
    disk, scratch = make(bank, name)[0], bank.folder / "scratch"
    filesystem = filesystems.find(disk)
    assert filesystem is not None
    data = content.pages(content.dice_for("overwrite"), 8192)
    with trees.opened(filesystem, scratch) as tree:
        files = tree.files("var/lib/db")
        path = max(files, key=lambda name: files[name])
        tree.overwrite(path, [(4096, data)])
    assert holds(disk, data)
    if loops.usable() is None:
        with filesystems.mounted(filesystem, scratch, read_only=True) as top:
            assert (top / path).read_bytes()[4096:12288] == data


@needs_tools
@pytest.mark.parametrize("is_root", WAYS)
def test_files_come_grow_and_go(bank: DiskBank, is_root: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_root:
        without_root(monkeypatch)
    disk = make(bank, "web01")[0]
    filesystem = filesystems.find(disk)
    assert filesystem is not None
    with trees.opened(filesystem, bank.folder / "scratch") as tree:
        leaving = next(iter(tree.files("srv/uploads")))
        tree.remove(leaving)
        tree.add("srv/uploads/new", b"a" * 5000)
        tree.append("srv/uploads/new", b"b" * 5000)
        files = tree.files("srv/uploads")
        assert leaving not in files
        assert files["srv/uploads/new"] == 10000
        assert tree.files("no/such/folder") == {}
    assert filesystems.fsck(disk)[0]


def test_missing_programs_make_another_guest_and_say_so(bank: DiskBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find", lambda name: None)
    spec = SPECS["db01"]
    path = bank.create("db", spec.disks[0].size_bytes)
    notes = guests.make(spec, [path], scratch=bank.folder / "scratch")
    assert notes == ["a database disk: no file system, mkfs.ext4 is missing"]
    assert living.live([path], 1, scratch=bank.folder / "scratch")
    with pytest.raises(LabError, match=r"e2fsck is not installed") as caught:
        tools.run("e2fsck")
    assert caught.value.remedy == "Install e2fsprogs."


def test_no_space_is_a_clear_error(bank: DiskBank, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filesystems, "write_tree", full)
    path = bank.create("web", SPECS["web01"].disks[0].size_bytes)
    with pytest.raises(LabError, match="No space left on device"):
        guests.make(SPECS["web01"], [path], scratch=bank.folder / "scratch")


@needs_tools
def test_database_without_xfs_is_ext4(bank: DiskBank, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tools.find
    monkeypatch.setattr(tools, "find", lambda name: None if name == "mkfs.xfs" else real(name))
    spec = SPECS["db01"]
    path = bank.create("db", spec.disks[0].size_bytes)
    notes = guests.make(spec, [path], scratch=bank.folder / "scratch")
    assert notes == ["a database disk: ext4 instead of XFS, mkfs.xfs is missing"]
    assert filesystems.fsck(path)[0]
