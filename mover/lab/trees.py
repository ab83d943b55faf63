"""Changing the files of a guest's disk: through the kernel as root, otherwise with the file system's own tools.

Without root ext4 is edited by debugfs; of an XFS only existing bytes can be overwritten,
at the places that xfs_db names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from mover.errors import LabError
from mover.lab import loops, tools
from mover.lab.filesystems import FileSystem, mounted

_BLOCK_BYTES = 4096


class Tree(Protocol):
    """Paths are relative, without a leading slash; folders exist already."""

    def files(self, folder: str) -> dict[str, int]:
        """Path → size in bytes of the files of one folder, sorted; empty when it does not exist."""

    def overwrite(self, path: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Replace existing bytes: (offset, data), each inside the file, offsets on 4 KiB."""


@runtime_checkable
class GrowingTree(Tree, Protocol):
    """One whose files can also come, grow and go."""

    def add(self, path: str, data: bytes) -> None:
        """A new file."""

    def append(self, path: str, data: bytes) -> None:
        """A longer file."""

    def remove(self, path: str) -> None:
        """One file fewer."""


@contextmanager
def opened(filesystem: FileSystem, scratch: Path) -> Iterator[Tree]:
    """The files of a disk, to be changed; everything is on the disk when this ends."""
    if loops.usable() is None:
        with mounted(filesystem, scratch) as top:
            yield MountedTree(top)
    elif filesystem.kind == "ext4":
        private = scratch / f"edit-{filesystem.path.stem}"
        private.mkdir(parents=True, exist_ok=True)
        yield DebugfsTree(filesystem, private)
        private.rmdir()
    else:
        yield XfsTree(filesystem)


class MountedTree:
    """Files below a mount."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def files(self, folder: str) -> dict[str, int]:
        place = self._top / folder
        entries = sorted(place.iterdir()) if place.is_dir() else []
        return {f"{folder}/{entry.name}": entry.stat().st_size for entry in entries if entry.is_file()}

    def overwrite(self, path: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        with open(self._top / path, "r+b", buffering=0) as file:
            for offset, data in pieces:
                os.pwrite(file.fileno(), data, offset)

    def add(self, path: str, data: bytes) -> None:
        (self._top / path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with open(self._top / path, "ab") as file:
            file.write(data)

    def remove(self, path: str) -> None:
        (self._top / path).unlink()


class DebugfsTree:
    """An ext4 in a file, edited without mounting it."""

    def __init__(self, filesystem: FileSystem, scratch: Path) -> None:
        self._filesystem = filesystem
        self._scratch = scratch

    def files(self, folder: str) -> dict[str, int]:
        rows = re.findall(r"^/\d+/100\d+/\d+/\d+/([^/]+)/(\d+)/$", self._run(f"ls -p /{folder}"), re.MULTILINE)
        return {f"{folder}/{name}": int(size) for name, size in sorted(rows)}

    def overwrite(self, path: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        blocks = [
            at // _BLOCK_BYTES for offset, data in pieces for at in range(offset, offset + len(data), _BLOCK_BYTES)
        ]
        said = self._run(*(f"bmap /{path} {block}" for block in blocks))
        places = [int(line) for line in said.splitlines() if line.isdigit()]
        if len(places) != len(blocks) or 0 in places:
            raise LabError(f"debugfs does not say where {path} lies", remedy="Run the lab as root.")
        data = b"".join(piece + bytes(-len(piece) % _BLOCK_BYTES) for _, piece in pieces)
        lengths = [
            min(_BLOCK_BYTES, len(piece) - at) for _, piece in pieces for at in range(0, len(piece), _BLOCK_BYTES)
        ]
        with open(self._filesystem.path, "r+b", buffering=0) as file:
            for number, (place, length) in enumerate(zip(places, lengths, strict=True)):
                start = self._filesystem.offset_bytes + place * _BLOCK_BYTES
                os.pwrite(file.fileno(), data[number * _BLOCK_BYTES :][:length], start)

    def add(self, path: str, data: bytes) -> None:
        source = self._scratch / "file"
        source.write_bytes(data)
        folder, _, name = path.rpartition("/")
        self._run(f"cd /{folder}", f"write {source} {name}")
        source.unlink()

    def append(self, path: str, data: bytes) -> None:
        source = self._scratch / "file"
        self._run(f"dump /{path} {source}")
        whole = source.read_bytes() + data
        self.remove(path)
        self.add(path, whole)

    def remove(self, path: str) -> None:
        self._run(f"rm /{path}")

    def _run(self, *requests: str) -> str:
        script = self._scratch / "requests"
        script.write_text("\n".join([*requests, ""]))
        said = tools.run("debugfs", "-w", "-f", str(script), self._filesystem.io_name)
        script.unlink()
        if "Could not allocate" in said or "while writing" in said:
            raise LabError(
                f"debugfs failed: {said.strip().splitlines()[-1]}", remedy="Use a larger disk or fewer changes."
            )
        return said


class XfsTree:
    """An XFS in a file: existing bytes only, since no tool edits it unmounted."""

    def __init__(self, filesystem: FileSystem) -> None:
        self._path = filesystem.path
        said = self._ask("sb 0", "print agblocks")
        self._group_bytes = int(said.split("=")[1]) * _BLOCK_BYTES

    def files(self, folder: str) -> dict[str, int]:
        code, said = tools.call("xfs_db", "-r", "-f", "-c", f"path /{folder}", "-c", "ls", str(self._path))
        names = [] if code else re.findall(r"\sregular\s+\S+\s+\d+ (\S+)", said)
        return {f"{folder}/{name}": self._size(f"{folder}/{name}") for name in sorted(names)}

    def _size(self, path: str) -> int:
        return int(self._ask(f"path /{path}", "print core.size").split("=")[1])

    def overwrite(self, path: str, pieces: Sequence[tuple[int, bytes]]) -> None:
        said = self._ask(f"path /{path}", "bmap")
        rows = re.findall(r"data offset (\d+) startblock \d+ \((\d+)/(\d+)\) count (\d+)", said)
        extents = [tuple(int(number) for number in row) for row in rows]
        with open(self._path, "r+b", buffering=0) as file:
            for offset, data in pieces:
                for at in range(0, len(data), _BLOCK_BYTES):
                    place = self._place(extents, (offset + at) // _BLOCK_BYTES)
                    os.pwrite(file.fileno(), data[at : at + _BLOCK_BYTES], place)

    def _place(self, extents: list[tuple[int, ...]], block: int) -> int:
        for first, group, start, count in extents:
            if first <= block < first + count:
                return group * self._group_bytes + (start + block - first) * _BLOCK_BYTES
        raise LabError("xfs_db does not say where a file lies", remedy="Run the lab as root.")

    def _ask(self, *commands: str) -> str:
        options = [part for command in commands for part in ("-c", command)]
        return tools.run("xfs_db", "-r", "-f", *options, str(self._path))
