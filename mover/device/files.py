"""Raw image files as devices: a restore's target that is whole or not there, and a source.

A target is written under ``<name>.<8 hex>.partial`` beside its place and gets its name by
``commit``. Whatever ends it before (no space, an error, Ctrl-C) takes the partial file
away; after a kill it stays, unmistakable, and the next restore to that name removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Self

from mover.clock import secret_bytes
from mover.device import ioctl
from mover.device.direct import FILE_ALIGNMENT, DirectDevice, closing_on_error
from mover.errors import TargetExists, UsageError

_PARTIAL = ".partial"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_SUCH_CALL = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def open_file_source(path: Path) -> DirectDevice:
    """A raw image file for reading. Raises UsageError when it cannot be opened."""
    try:
        return DirectDevice.open_source(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", remedy="Name a readable raw image.") from error


class FileTarget:
    """A WritableDevice over a new sparse file of zeroes; it exists under its name only after ``commit``."""

    def __init__(self, device: DirectDevice, partial: Path, path: Path) -> None:
        self._device = device
        self._partial = partial
        self._path = path
        self._is_committed = False

    @classmethod
    def create(cls, path: Path, size_bytes: int) -> Self:
        """Raises TargetExists (the file, or a restore to it that runs now) and UsageError (folder, rights, size)."""
        path = path.absolute()
        try:
            _check_free(path)
            _sweep(path)
            partial, fd = _create_locked(path)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            with closing_on_error(fd):
                os.ftruncate(fd, size_bytes)
                _go_direct(fd)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _unusable(path, error) from error
        device = DirectDevice(fd, name=str(path), size_bytes=size_bytes, sector_bytes=FILE_ALIGNMENT, is_block=False)
        return cls(device, partial, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def size_bytes(self) -> int:
        return self._device.size_bytes

    @property
    def sector_bytes(self) -> int:
        return self._device.sector_bytes

    @property
    def is_direct(self) -> bool:
        """False where the file system has no direct I/O: then the page cache is used."""
        return self._device.is_direct

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        self._device.read_into(buffer, offset_bytes)

    def write_from(self, buffer: memoryview, offset_bytes: int) -> None:
        self._device.write_from(buffer, offset_bytes)

    def flush(self) -> None:
        self._device.flush()

    def commit(self) -> None:
        """Durable, then under its name, never over another file. Raises TargetExists, DeviceFault."""
        self._device.flush()
        try:
            _publish(self._partial, self._path)
        except FileExistsError:
            raise _exists(self._path) from None
        except OSError as error:
            raise _unusable(self._path, error) from error
        self._is_committed = True

    def close(self) -> None:
        """Idempotent. What was not committed is taken away."""
        try:
            if not self._is_committed:
                self._partial.unlink(missing_ok=True)
        finally:
            self._device.close()


def _check_free(path: Path) -> None:
    if os.path.lexists(path):
        raise _exists(path)


def _exists(path: Path) -> TargetExists:
    return TargetExists(f"{path} exists already", remedy="Name a file that does not exist, or move that one away.")


def _sweep(path: Path) -> None:
    """Remove what killed restores to this name left. The names go, never the bytes of an inode."""
    ours = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(_PARTIAL)}")
    for name in os.listdir(path.parent):
        if ours.fullmatch(name) is None:
            continue
        stale = path.parent / name
        # For writing, since NFS locks exclusively for writers only.
        with suppress(FileNotFoundError), open(stale, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TargetExists(
                    f"Another process is writing {path} now", remedy="Wait for it to end, or name another file."
                ) from None
            stale.unlink()


def _create_locked(path: Path) -> tuple[Path, int]:
    """A new partial file under lock; made again if a sweep came between."""
    while True:
        partial = path.with_name(f"{path.name}.{secret_bytes(4).hex()}{_PARTIAL}")
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with closing_on_error(fd):
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return partial, fd
        os.close(fd)


def _go_direct(fd: int) -> None:
    # Set afterwards: opening with O_DIRECT may fail when the file has been made already.
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETFL, ioctl.status_flags(fd) | os.O_DIRECT)


def _publish(partial: Path, path: Path) -> None:
    """Give the file its name, create-only, durably. Raises FileExistsError, OSError."""
    try:
        os.link(partial, path)
    except FileExistsError:
        if not os.path.samefile(partial, path):  # else a file server that was asked twice answered the second
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here (FAT, some FUSE): claim the name, then replace the claim.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        partial.replace(path)
    partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:  # SMB and some FUSE keep names in their own way
            raise
    finally:
        os.close(folder)


def _unusable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be made: {error.strerror or error}",
        remedy="Name a file in an existing, writable folder of a file system that can hold files of that size.",
    )
