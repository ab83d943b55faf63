"""File systems inside disk files: make, find, mount, check. Root mounts them; others need not."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mover.errors import LabError
from mover.lab import loops, tools
from mover.units import MIB

PARTITION_BYTES = 1 * MIB
"""Where the first partition begins."""
XFS_MIN_BYTES = 300 * MIB
"""mkfs.xfs refuses less."""

_MBR_ENTRY = struct.Struct("<B3sB3sII")
_EXT4_OPTIONS = "noinit_itable"
_XFS_OPTIONS = "nouuid"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One file system inside a disk file."""

    kind: str
    """ext4 | xfs"""
    path: Path
    offset_bytes: int = 0

    @property
    def io_name(self) -> str:
        """How e2fsprogs name a file system that begins inside a file."""
        return f"{self.path}?offset={self.offset_bytes}" if self.offset_bytes else str(self.path)


def find(path: Path) -> FileSystem | None:
    """The file system on a disk, directly or in its first partition; by magic numbers."""
    with open(path, "rb") as file:
        for offset in (0, _first_partition(file)):
            if offset is None:
                continue
            file.seek(offset)
            head = file.read(2048)
            if head[:4] == b"XFSB":
                return FileSystem("xfs", path, offset)
            if head[1080:1082] == b"\x53\xef":
                return FileSystem("ext4", path, offset)
    return None


def _first_partition(file: Any) -> int | None:
    file.seek(0)
    head = file.read(512)
    if head[510:512] != b"\x55\xaa":
        return None
    start = int(_MBR_ENTRY.unpack_from(head, 446)[4])
    return start * 512 or None


def partition(path: Path) -> None:
    """A DOS partition table with one Linux partition to the end of the disk."""
    sectors = (path.stat().st_size - PARTITION_BYTES) // 512
    entry = _MBR_ENTRY.pack(0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION_BYTES // 512, sectors)
    with open(path, "r+b") as file:
        file.seek(440)
        file.write(b"MOVR\0\0" + entry + bytes(48) + b"\x55\xaa")


def write_tree(files: Iterable[tuple[str, bytes]], folder: Path) -> None:
    """Lay (path, bytes) out below a folder."""
    for name, data in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def make_ext4(path: Path, tree: Path, *, offset_bytes: int = 0) -> None:
    """An ext4 with the files of ``tree``, without mounting. Raises LabError."""
    blocks = (path.stat().st_size - offset_bytes) // 4096
    options = f"lazy_itable_init=1,nodiscard,root_owner=0:0,offset={offset_bytes}"
    features = (
        "has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,dir_index,filetype,sparse_super"
    )
    arguments = ["-q", "-F", "-b", "4096", "-I", "256", "-m", "1", "-O", features, "-E", options, "-d", str(tree)]
    tools.run("mkfs.ext4", *arguments, str(path), str(blocks))


def make_xfs(path: Path, tree: Path, scratch: Path) -> None:
    """An XFS with the files of ``tree``, without mounting. Raises LabError.

    Its sectors are 4096 bytes, so that it mounts from devices of either sector size.
    """
    prototype = scratch / "prototype"
    prototype.write_text("\n".join(["/dev/null", "0 0", "d--755 0 0", *_prototype(tree), "$", ""]))
    try:
        tools.run("mkfs.xfs", "-q", "-f", "-K", "-s", "size=4096", "-p", str(prototype), str(path))
    finally:
        prototype.unlink()


def _prototype(folder: Path) -> Iterator[str]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield f"{entry.name} d--755 0 0"
            yield from _prototype(entry)
            yield "$"
        else:
            yield f"{entry.name} ---644 0 0 {entry}"


@contextmanager
def mounted(filesystem: FileSystem, scratch: Path, *, read_only: bool = False) -> Iterator[Path]:
    """The files of a disk, through the kernel, as root. Leaves neither mount nor loop behind."""
    place = scratch / f"mount-{filesystem.path.stem}"
    place.mkdir(parents=True, exist_ok=True)
    node = scratch / f"node-{filesystem.path.stem}"
    loop = loops.attach(
        filesystem.path,
        node,
        sector_bytes=4096,
        offset_bytes=filesystem.offset_bytes,
        is_strict=False,
        read_only=read_only,
    )
    try:
        options = _XFS_OPTIONS if filesystem.kind == "xfs" else _EXT4_OPTIONS
        if read_only:
            options += ",norecovery" if filesystem.kind == "xfs" else ",noload"
        loops.mount(node, place, filesystem.kind, options=options, read_only=read_only)
        try:
            yield place
        finally:
            loops.unmount(place, patience_s=10.0)
    finally:
        loops.release(loop.number)
        node.unlink(missing_ok=True)
        place.rmdir()


def fsck(path: Path) -> tuple[bool, str]:
    """Check the file system on a disk without changing it → (clean, what the checker said).

    Raises LabError when there is none or its checker is not installed.
    """
    filesystem = find(path)
    if filesystem is None:
        raise LabError(f"no file system on {path.name}", remedy="Check the disk that holds one.")
    if filesystem.kind == "xfs":
        code, said = tools.call("xfs_repair", "-n", *(["-f"] if path.is_file() else []), str(path))
    else:
        code, said = tools.call("e2fsck", "-f", "-n", filesystem.io_name)
    return code == 0, said


def tree_digest(path: Path, scratch: Path) -> str | None:
    """SHA-256 over all names, modes and bytes of a disk's files; None where it cannot be mounted.

    The disk is mounted read-only without replaying its journal, so nothing changes.
    """
    filesystem = find(path)
    if filesystem is None or loops.usable() is not None:
        return None
    digest = hashlib.sha256()
    with mounted(filesystem, scratch, read_only=True) as top:
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                file = Path(folder) / name
                digest.update(f"{file.relative_to(top)}\0{file.stat().st_mode:o}\0{file.stat().st_size}\0".encode())
                with open(file, "rb") as reading:
                    digest.update(hashlib.file_digest(reading, "sha256").digest())
    return digest.hexdigest()
