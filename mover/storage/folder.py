"""The blocking half of the folder store: one call per verb, run in the store's threads.

Errors of the operating system pass through as OSError; what they mean is said in ``local``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mover.storage import durable
from mover.storage.durable import Publish, lineage, opened, parent_of
from mover.storage.manynames import ManyNames
from mover.storage.names import is_part
from mover.storage.problems import folder_gone, object_exists, object_missing, object_short
from mover.storage.protocol import ObjectInfo
from mover.storage.threads import Abandon
from mover.units import MIB

_SWEPT = ".swept"
_STALE_S = 24 * 3600.0
"""No single object takes a day to write; a younger temporary may belong to a living writer."""
_COMPARE_BYTES = 4 * MIB


class Folder:
    """Objects as files below one open folder. Safe from several threads."""

    def __init__(self, path: Path) -> None:
        """OSError when the folder cannot be opened."""
        self.path = path
        self.publish = Publish.LINK
        self._durable_folders: set[str] = set()
        self._root_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._root_fd = self._root_fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    def create(self, name: str, parts: list[memoryview], abandon: Abandon) -> None:
        temporary = self._write_temporary(name, parts)
        try:
            if not abandon.pass_point_of_no_return():
                return
            self.publish = durable.publish(temporary, name, self.publish, root_fd=self._root_fd)
        except FileExistsError:
            self._accept_same(name, parts)
        finally:
            durable.remove(temporary, root_fd=self._root_fd)
        durable.sync_folder(parent_of(name), root_fd=self._root_fd)

    def replace(self, name: str, parts: list[memoryview], abandon: Abandon) -> None:
        temporary = self._write_temporary(name, parts)
        try:
            if not abandon.pass_point_of_no_return():
                return
            os.rename(temporary, name, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
        finally:
            durable.remove(temporary, root_fd=self._root_fd)
        durable.sync_folder(parent_of(name), root_fd=self._root_fd)

    def read(self, name: str, offset_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        """The range; the whole file without a length."""
        try:
            with opened(name, os.O_RDONLY, root_fd=self._root_fd) as descriptor:
                seen = os.fstat(descriptor)
                if not stat.S_ISREG(seen.st_mode):
                    raise IsADirectoryError(name)
                size_bytes = seen.st_size
                wanted = size_bytes if length_bytes is None else length_bytes
                if offset_bytes + wanted > size_bytes:  # before memory is taken for what cannot come
                    raise object_short(name, wanted_end=offset_bytes + wanted, found_end=size_bytes)
                data = durable.read_range(descriptor, offset_bytes, wanted)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._check_root()
            raise object_missing(name, str(self.path)) from None
        if len(data) != wanted:
            raise object_short(name, wanted_end=offset_bytes + wanted, found_end=offset_bytes + len(data))
        return data

    def info(self, name: str) -> ObjectInfo | None:
        try:
            seen = os.stat(name, dir_fd=self._root_fd)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return None
        return ObjectInfo(name, seen.st_size, seen.st_mtime) if stat.S_ISREG(seen.st_mode) else None

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose name starts with ``prefix``, in the order of names. For one thread at a time."""
        start = parent_of(prefix)
        waiting = [iter(self._entries(start + "/" if start else "", prefix))]
        while waiting:
            path = next(waiting[-1], None)
            if path is None:
                waiting.pop()
            elif path.endswith("/"):
                waiting.append(iter(self._entries(path, prefix)))
            elif (found := self.info(path)) is not None:
                yield found

    def delete(self, name: str) -> None:
        try:
            was_there = durable.remove(name, root_fd=self._root_fd)
        except (NotADirectoryError, IsADirectoryError):
            return
        if was_there:
            durable.sync_folder(parent_of(name), root_fd=self._root_fd)
        else:
            self._check_root()

    def free_bytes(self) -> int:
        room = os.fstatvfs(self._root_fd)
        return room.f_bavail * room.f_frsize

    def sweep(self, now: float) -> int:
        """Remove temporaries of dead writers, at most once a day; their number."""
        with suppress(FileNotFoundError):
            if now - os.stat(_SWEPT, dir_fd=self._root_fd).st_mtime < _STALE_S:
                return 0
        with opened(_SWEPT, os.O_WRONLY | os.O_CREAT, root_fd=self._root_fd) as descriptor:
            os.utime(descriptor, (now, now))
        return sum(durable.sweep(below, now - _STALE_S, root_fd=self._root_fd) for below in self._folders(""))

    def _write_temporary(self, name: str, parts: list[memoryview]) -> str:
        folder = parent_of(name)
        try:
            self._make_durable(folder)
            return durable.write_temporary(folder, parts, root_fd=self._root_fd)
        except FileNotFoundError:  # a folder that we knew was removed under us
            self._durable_folders.difference_update(lineage(folder))
        self._make_durable(folder)
        return durable.write_temporary(folder, parts, root_fd=self._root_fd)

    def _make_durable(self, folder: str) -> None:
        """Also what others made: only who has synced a folder's parent knows that it will be there."""
        for place in lineage(folder):
            if place not in self._durable_folders:
                durable.make_folder(place, root_fd=self._root_fd)
                self._durable_folders.add(place)

    def _accept_same(self, name: str, parts: list[memoryview]) -> None:
        """Our own lost answer counts as success; other bytes are a conflict."""
        with opened(name, os.O_RDONLY, root_fd=self._root_fd) as descriptor:
            size_bytes = sum(part.nbytes for part in parts)
            if os.fstat(descriptor).st_size != size_bytes or not _holds(descriptor, parts):
                raise object_exists(name, str(self.path))
            os.fsync(descriptor)

    def _entries(self, folder: str, prefix: str) -> ManyNames:
        """Paths in ``folder`` (``""`` or ending in ``/``) that start with ``prefix``; folders end in ``/``.

        Ordered so that a walk in this order meets full names in their order.
        """
        paths = (folder + name for name in self._visible(folder))
        found = ManyNames(path for path in paths if path.startswith(prefix))
        if not found:
            self._check_root()
        return found

    def _visible(self, folder: str) -> Iterator[str]:
        """Names of files and, with a ``/`` behind, of folders. None where there is no such folder.

        What could be no object's (temporaries, lost+found) is left out.
        """
        with (
            suppress(FileNotFoundError, NotADirectoryError),
            opened(folder or ".", os.O_RDONLY | os.O_DIRECTORY, root_fd=self._root_fd) as descriptor,
            os.scandir(descriptor) as found,
        ):
            for entry in found:
                if is_part(entry.name):
                    yield entry.name + "/" if entry.is_dir() else entry.name

    def _folders(self, folder: str) -> Iterator[str]:
        yield folder
        for name in self._visible(folder):
            if name.endswith("/"):
                yield from self._folders(folder + name)

    def _check_root(self) -> None:
        """Something is missing: only that, or the folder itself was removed under us?"""
        if os.fstat(self._root_fd).st_nlink == 0:
            raise folder_gone(self.path)


def _holds(descriptor: int, parts: list[memoryview]) -> bool:
    """Whether the file begins with exactly these bytes."""
    offset_bytes = 0
    for part in parts:
        for start in range(0, part.nbytes, _COMPARE_BYTES):
            piece = part[start : start + _COMPARE_BYTES]
            if durable.read_range(descriptor, offset_bytes, piece.nbytes) != bytes(piece):
                return False
            offset_bytes += piece.nbytes
    return True
