"""The three guests of the demo: what they are, and how their disks are made from a seed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.random import Generator

from mover.errors import LabError
from mover.lab import content, filesystems, tools
from mover.units import GIB, KIB, MIB, align_up, format_size

DISK_KINDS = ("web", "database", "share", "areas")
"""ext4 with many files · XFS with few large ones · partition table and ext4 · no file system."""

_TREES = {
    "web": content.web_tree,
    "database": content.database_tree,
    "database-ext4": content.database_tree,
    "share": content.share_tree,
}
_MIN_BYTES = {"web": 24 * MIB, "database": filesystems.XFS_MIN_BYTES, "share": 24 * MIB, "areas": 4 * MIB}


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk to be made; ``content_bytes`` of it are used, the rest stays sparse."""

    slot: str
    kind: str
    size_bytes: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A VM to be made. CD-ROM and volume group are entries of its disk list without bytes here."""

    name: str
    description: str
    disks: tuple[DiskSpec, ...]
    vcpus: int = 2
    memory_bytes: int = 2 * GIB
    has_cdrom: bool = False
    has_volume_group: bool = False


def demo_guests(scale: float = 1.0) -> tuple[GuestSpec, ...]:
    """web01, db01 and files01. scale: of sizes and content; tests use 0.01, where XFS stays 300 MiB, sparse."""

    def disk(slot: str, kind: str, size_bytes: int, content_bytes: int) -> DiskSpec:
        size = max(_MIN_BYTES[kind], align_up(int(size_bytes * scale), MIB))
        return DiskSpec(slot, kind, size, max(512 * KIB, int(content_bytes * scale)))

    return (
        GuestSpec("web01", "web server", (disk("scsi.0", "web", GIB, 240 * MIB),), has_cdrom=True),
        GuestSpec("db01", "database server", (disk("scsi.0", "database", GIB, 200 * MIB),), has_volume_group=True),
        GuestSpec(
            "files01",
            "file server",
            (disk("scsi.0", "share", 512 * MIB, 64 * MIB), disk("scsi.1", "areas", GIB, 160 * MIB)),
        ),
    )


def make(spec: GuestSpec, paths: Sequence[Path], *, scratch: Path, seed: int = 0) -> list[str]:
    """Fill the (new, zero) disk files of one guest, in the order of its disks; sizes as specified.

    scratch: a folder with room for the content of one disk; two guests may share it.
    Returns what had to be made otherwise, in words (a tool is missing). Raises LabError.
    """
    notes: list[str] = []
    for number, (disk, path) in enumerate(zip(spec.disks, paths, strict=True)):
        dice = content.dice_for("make", seed, spec.name, number)
        kind, note = _possible(disk.kind)
        if note:
            notes.append(f"a {disk.kind} disk: {note}")
        try:
            if kind == "areas":
                _make_areas(path, disk.content_bytes, dice)
            else:
                _make_file_system(path, kind, disk.content_bytes, dice, scratch / f"{spec.name}-{number}")
        except OSError as failure:
            raise LabError(
                f"disk {disk.slot} of {spec.name} cannot be made: {failure.strerror}",
                remedy=f"Free {format_size(3 * disk.content_bytes)} where the lab's folder lies.",
            ) from failure
    return notes


def _possible(kind: str) -> tuple[str, str]:
    """What this machine's tools can make of a kind of disk, and what to say if that is another."""
    if kind == "database" and tools.find("mkfs.xfs") is None:
        kind, note = _possible("web")
        return (kind, note) if note else ("database-ext4", "ext4 instead of XFS, mkfs.xfs is missing")
    if kind in ("web", "share") and tools.find("mkfs.ext4") is None:
        return "areas", "no file system, mkfs.ext4 is missing"
    return kind, ""


def _make_file_system(path: Path, kind: str, content_bytes: int, dice: Generator, scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    tree = scratch / "tree"
    tree.mkdir(parents=True)
    filesystems.write_tree(_TREES[kind](dice, content_bytes), tree)
    if kind == "database":
        filesystems.make_xfs(path, tree, scratch)
    elif kind == "share":
        filesystems.partition(path)
        filesystems.make_ext4(path, tree, offset_bytes=filesystems.PARTITION_BYTES)
    else:
        filesystems.make_ext4(path, tree)
    shutil.rmtree(scratch)


def _make_areas(path: Path, content_bytes: int, dice: Generator) -> None:
    """Random, written zero, text and page areas all over the disk, holes between, data at both ends."""
    with open(path, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        pieces = 16
        length = min(content_bytes // pieces, size // pieces // 2) // 4096 * 4096
        makers = (content.picture, content.pages, _zeroes, content.log_text)
        for number in range(pieces):
            start = (size - length) * number // (pieces - 1) // 4096 * 4096
            file.seek(start)
            file.write(makers[number % 4](dice, length))
        for offset in dice.integers(0, size // 4096, 64).tolist():
            file.seek(offset * 4096)
            file.write(content.picture(dice, 4096))
        file.seek(size - 512)
        file.write(content.picture(dice, 512))


def _zeroes(_: Generator, size_bytes: int) -> bytes:
    return bytes(size_bytes)
