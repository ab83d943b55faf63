"""Files that a power cut cannot undo: write beside, sync, publish under the name, sync the folder.

Blocking; everything is relative to the descriptor of the store's root folder, so that a
file system which is unmounted meanwhile is never replaced by its empty mount point.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mover.clock import secret_bytes
from mover.units import MIB

TEMPORARY = ".part-"
"""Prefix of files being written; a crash leaves them, a sweep removes them."""

_PARTS_A_CALL = 1024
_UNCACHE_BYTES = MIB
_SECTOR_BYTES = 4096
"""Direct writes are aligned to this, in memory and in the file; no common device asks for more."""
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
"""In place of a descriptor: paths are the process's own."""
_NO_SUCH_CALL = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_LINKS = _NO_SUCH_CALL | {errno.EPERM}


class Publish(enum.Enum):
    """How a finished file gets its name without replacing one, the best first."""

    LINK = "link"
    RENAME_NOREPLACE = "rename without replace"
    LOOK_FIRST = "look, then rename"


@contextmanager
def opened(path: str, flags: int, *, root_fd: int, mode: int = 0o640) -> Iterator[int]:
    """A descriptor for the time of the block."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=root_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_temporary(folder: str, parts: Sequence[memoryview], *, root_fd: int) -> str:
    """A new, synced file in ``folder`` that holds ``parts``; its path. Nothing stays on failure."""
    path = join(folder, TEMPORARY + secret_bytes(8).hex())
    try:
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, root_fd=root_fd) as descriptor:
            size_bytes = write_all(descriptor, parts, past_cache=True)
            os.fdatasync(descriptor)
            if size_bytes >= _UNCACHE_BYTES:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    except BaseException:
        with suppress(OSError):
            remove(path, root_fd=root_fd)
        raise
    return path


def write_all(descriptor: int, parts: Sequence[memoryview], *, past_cache: bool = False) -> int:
    """All parts in a row without joining them; bytes written.

    past_cache: what is long and aligned goes from its own memory to the device.
    """
    total = _write_past_cache(descriptor, parts[0]) if past_cache and parts else 0
    if total:
        parts = [parts[0][total:], *parts[1:]]
    for first in range(0, len(parts), _PARTS_A_CALL):
        waiting = [part for part in parts[first : first + _PARTS_A_CALL] if part.nbytes]
        while waiting:
            written = os.writev(descriptor, waiting)
            total += written
            waiting = _rest(waiting, written)
    return total


def _write_past_cache(descriptor: int, part: memoryview) -> int:
    """Bytes written without the page cache; 0 where the file system or the place in memory does not allow it."""
    whole = part.nbytes - part.nbytes % _SECTOR_BYTES
    if whole < _UNCACHE_BYTES or not _set_direct(descriptor, True):
        return 0
    written = 0
    try:
        # The system takes no more than some 2 GiB in one call.
        while written < whole and written % _SECTOR_BYTES == 0:
            written += os.write(descriptor, part[written:whole])
    except OSError as error:
        # Some file systems take the flag and refuse the write.
        if error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        _set_direct(descriptor, False)
    return written


def _set_direct(descriptor: int, is_direct: bool) -> bool:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _rest(parts: list[memoryview], written: int) -> list[memoryview]:
    for number, part in enumerate(parts):
        if written < part.nbytes:
            return [part[written:], *parts[number + 1 :]]
        written -= part.nbytes
    return []


def publish(temporary: str, path: str, how: Publish, *, root_fd: int) -> Publish:
    """Give the file its name, once; the way that worked. FileExistsError when the name is taken.

    A file system without hard links gets the next best way. The temporary name may stay.
    """
    if how is Publish.LINK:
        try:
            os.link(temporary, path, src_dir_fd=root_fd, dst_dir_fd=root_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            how = Publish.RENAME_NOREPLACE
        else:
            return how
    if how is Publish.RENAME_NOREPLACE:
        try:
            _rename_noreplace(temporary, path, root_fd=root_fd)
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                raise
            how = Publish.LOOK_FIRST
        else:
            return how
    if exists(path, root_fd=root_fd):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    os.rename(temporary, path, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    return how


def _rename_noreplace(temporary: str, path: str, *, root_fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(root_fd, os.fsencode(temporary), root_fd, os.fsencode(path), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def make_folder(folder: str, *, root_fd: int) -> None:
    """The folder, there and durable in its parent, which must be both already."""
    with suppress(FileExistsError):
        os.mkdir(folder, 0o750, dir_fd=root_fd)
    sync_folder(parent_of(folder), root_fd=root_fd)


def sync_folder(folder: str, *, root_fd: int) -> None:
    """Names that came or went in the folder are durable on return.

    Some network file systems have no such call (SMB, some FUSE): names are theirs to keep there.
    """
    with opened(folder or ".", os.O_RDONLY | os.O_DIRECTORY, root_fd=root_fd) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                raise


def sweep(folder: str, older_than: float, *, root_fd: int) -> int:
    """Remove temporaries in ``folder`` last written before that Unix time; their number."""
    with opened(folder or ".", os.O_RDONLY | os.O_DIRECTORY, root_fd=root_fd) as descriptor:
        left = [name for name in os.listdir(descriptor) if name.startswith(TEMPORARY)]
        return sum(_remove_older(name, older_than, root_fd=descriptor) for name in left)


def _remove_older(name: str, older_than: float, *, root_fd: int) -> bool:
    with suppress(FileNotFoundError):  # its writer lives, and was quicker
        if os.stat(name, dir_fd=root_fd).st_mtime < older_than:
            return remove(name, root_fd=root_fd)
    return False


def exists(path: str, *, root_fd: int) -> bool:
    try:
        os.stat(path, dir_fd=root_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove(path: str, *, root_fd: int) -> bool:
    """True if it was there."""
    try:
        os.unlink(path, dir_fd=root_fd)
    except FileNotFoundError:
        return False
    return True


def read_range(descriptor: int, offset_bytes: int, length_bytes: int) -> bytes:
    """The range, or less at the end of the file. The usual single read is not copied."""
    data = os.pread(descriptor, length_bytes, offset_bytes)
    if len(data) == length_bytes or not data:
        return data
    pieces = [data]
    missing = length_bytes - len(data)
    while missing and (data := os.pread(descriptor, missing, offset_bytes + length_bytes - missing)):
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def parent_of(path: str) -> str:
    """The folder of a relative path; empty for the root's own entries."""
    return path.rpartition("/")[0]


def lineage(folder: str) -> list[str]:
    """The folder and those above it, the uppermost first, the root itself left out."""
    parts = folder.split("/") if folder else []
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def make_root(path: Path) -> None:
    """The store's own folder and what is missing above it, each durable in its parent."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o750)
        sync_folder(str(folder.parent), root_fd=_AT_FDCWD)
