"""Direct I/O on one open descriptor: whole transfers, or the exact range that failed.

Opening decides nothing about identity: ``locate`` proves first, and again on the
descriptor that it hands over. Plain blocking calls, safe from several threads at once.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Protocol, Self

from mover.clock import stopwatch
from mover.device import ioctl
from mover.errors import DeviceFault, DeviceRefused
from mover.units import align_down, align_up

FILE_ALIGNMENT = 4096
"""Good for files on any disk; the file system's own smaller one gains nothing here."""

# A medium fault concerns some sectors, so it is worth finding which. Anything else
# (device gone, no space) concerns the whole request.
_MEDIUM = {errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO}
_GONE = {errno.ENXIO, errno.ENODEV, errno.ESHUTDOWN, errno.EBADF}
_MAX_PROBES = 1024
_MAX_PROBE_S = 10.0
"""Each probe of a dying disk can take its SCSI time-out."""


class Transfer(Protocol):
    """``os.preadv`` and ``os.pwritev``, or a test's stand-in with bad sectors."""

    def __call__(self, fd: int, buffers: list[memoryview], offset: int, /) -> int: ...


class DirectDevice:
    """An open block device or file, read and written past the page cache. Owns its descriptor."""

    def __init__(
        self,
        fd: int,
        *,
        name: str,
        size_bytes: int,
        sector_bytes: int,
        is_block: bool,
        on_close: Callable[[int], None] | None = None,
        on_release: Callable[[], None] | None = None,
        read: Transfer = os.preadv,
        write: Transfer = os.pwritev,
    ) -> None:
        self._fd = fd
        self._tail_fd = -1
        self._name = name
        self._size_bytes = size_bytes
        self._sector_bytes = sector_bytes
        self._on_close = on_close
        self._on_release = on_release
        self._read, self._write = read, write
        self._lock = Lock()
        self.is_block = is_block

    @classmethod
    def open_source(cls, path: Path, *, name: str | None = None) -> Self:
        """Open for reading a path that the caller vouches for (a user's file, a bench)."""
        return cls._open(path, os.O_RDONLY, name)

    @classmethod
    def open_target(cls, path: Path, *, name: str | None = None) -> Self:
        """Open for writing a path that the caller vouches for; what it holds is overwritten."""
        return cls._open(path, os.O_RDWR, name)

    @classmethod
    def _open(cls, path: Path, mode: int, name: str | None) -> Self:
        is_block = stat.S_ISBLK(path.stat().st_mode)
        fd = open_direct(path, mode | (os.O_EXCL if is_block else 0))
        with closing_on_error(fd):
            size, sector = measure(fd)
            return cls(fd, name=name or str(path), size_bytes=size, sector_bytes=sector, is_block=is_block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DirectDevice {self._name}>"

    @property
    def name(self) -> str:
        """For people: path and identity."""
        return self._name

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def sector_bytes(self) -> int:
        """What offsets, lengths and buffer addresses must be multiples of."""
        return self._sector_bytes

    @property
    def is_writable(self) -> bool:
        return ioctl.status_flags(self._fd) & os.O_ACCMODE == os.O_RDWR

    @property
    def is_direct(self) -> bool:
        """False where the file system (tmpfs, some FUSE) has no direct I/O."""
        return bool(ioctl.status_flags(self._fd) & os.O_DIRECT)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """Fill the buffer wholly. Raises DeviceFault with the exact range that failed."""
        self._whole(self._read, buffer, offset_bytes)

    def write_from(self, buffer: memoryview, offset_bytes: int) -> None:
        """Write the buffer wholly. Raises DeviceFault with the exact range that failed."""
        self._whole(self._write, buffer, offset_bytes)

    def flush(self) -> None:
        """Everything written is on the medium when this returns. Raises DeviceFault."""
        for fd in (self._fd, self._tail_fd):
            if fd < 0:
                continue
            try:
                os.fdatasync(fd)
            except OSError as error:
                raise self._fault("Flushing", [(0, self._size_bytes)], error) from error

    def close(self) -> None:
        """Idempotent; waits for no reader, so end them first."""
        with self._lock:
            fd, self._fd = self._fd, -1
            tail, self._tail_fd = self._tail_fd, -1
        if tail >= 0:
            os.close(tail)
        if fd >= 0:
            try:
                if self._on_close is not None:
                    self._on_close(fd)
            finally:
                os.close(fd)

    def release(self) -> None:
        """Flush, have the kernel forget the disk, close: then Prism can take it away. Idempotent."""
        if self._fd < 0:
            return
        try:
            if self.is_writable:
                self.flush()
            if self._on_release is not None:
                self._on_release()
        finally:
            self.close()

    def _whole(self, call: Transfer, view: memoryview, offset: int) -> None:
        end = offset + len(view)
        if offset < 0 or end > self._size_bytes or offset % self._sector_bytes:
            raise ValueError(f"{offset}+{len(view)} is not an aligned range of {self._name}")
        direct = align_down(len(view), self._sector_bytes)
        if direct == len(view):
            self._transfer(call, self._fd, view, offset)
            return
        if end != self._size_bytes:
            raise ValueError(f"{len(view)} bytes at {offset} do not end at a sector of {self._name}")
        # Slices are released as they are left: a fault's traceback must not keep a buffer from its pool.
        if direct:
            with view[:direct] as part:
                self._transfer(call, self._fd, part, offset)
        with view[direct:] as part:
            self._transfer(call, self._tail(), part, offset + direct)

    def _tail(self) -> int:
        """A buffered descriptor of the same open inode: direct I/O cannot move less than a sector."""
        with self._lock:
            if self._tail_fd < 0:
                mode = ioctl.status_flags(self._fd) & os.O_ACCMODE
                self._tail_fd = os.open(f"/proc/self/fd/{self._fd}", mode | os.O_CLOEXEC)
            return self._tail_fd

    def _transfer(self, call: Transfer, fd: int, view: memoryview, offset: int) -> None:
        """Short transfers go on where they stopped; Python repeats interrupted ones."""
        done = 0
        while done < len(view):
            with view[done:] as rest:
                try:
                    count = call(fd, [rest], offset + done)
                except OSError as error:
                    self._after(error, call, fd, rest, offset + done)
                    return
            step = count if done + count == len(view) else align_down(count, self._sector_bytes)
            if step <= 0:
                ended = OSError(errno.ENXIO, "the device ends here")
                raise self._fault(self._verb(call), [(offset + done, len(view) - done)], ended)
            done += step

    def _after(self, error: OSError, call: Transfer, fd: int, view: memoryview, offset: int) -> None:
        """Find which sectors fail; return if the request succeeds when it is repeated."""
        if error.errno not in _MEDIUM:
            raise self._fault(self._verb(call), [(offset, len(view))], error) from error
        probe = _Prober(call, fd, self._sector_bytes)
        if not probe.moves(view, offset):
            spans = list(_merged(probe.failing(view, offset))) or [(offset, len(view))]
            if self.is_block and _is_gone(fd):
                pulled = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
                raise self._fault(self._verb(call), [(offset, len(view))], pulled) from error
            raise self._fault(self._verb(call), spans, error, is_exact=not probe.gave_up) from error

    def _verb(self, call: Transfer) -> str:
        return "Reading" if call is self._read else "Writing"

    def _fault(self, verb: str, spans: list[tuple[int, int]], error: OSError, *, is_exact: bool = True) -> DeviceFault:
        offset, length = spans[0]
        reason = error.strerror or str(error)
        return DeviceFault(
            f"{verb} {self._name} failed at bytes {offset} to {offset + length - 1}: {reason}",
            remedy=_remedy(error.errno),
            device=self._name,
            operation=verb.lower(),
            offset_bytes=offset,
            length_bytes=length,
            is_exact=is_exact,
            failed_bytes=sum(size for _, size in spans),
            errno=error.errno or 0,
        )


class _Prober:
    """Halves a failed request until each failing piece is one sector, within limits."""

    def __init__(self, call: Transfer, fd: int, sector_bytes: int) -> None:
        self._call, self._fd, self._sector = call, fd, sector_bytes
        self._probes = 0
        self._until = stopwatch() + _MAX_PROBE_S

    @property
    def gave_up(self) -> bool:
        return self._probes > _MAX_PROBES or stopwatch() > self._until

    def failing(self, view: memoryview, offset: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of the pieces of a failed request that fail, ascending."""
        if len(view) <= self._sector or self.gave_up:
            yield offset, len(view)
            return
        half = align_up(len(view) // 2, self._sector)
        for start, end in ((0, half), (half, len(view))):
            with view[start:end] as part:
                if not self.moves(part, offset + start):
                    yield from self.failing(part, offset + start)

    def moves(self, view: memoryview, offset: int) -> bool:
        """Try once more, wholly."""
        self._probes += 1
        done = 0
        while done < len(view):
            try:
                with view[done:] as rest:
                    count = self._call(self._fd, [rest], offset + done)
            except OSError:
                return False
            if count <= 0:
                return False
            done += count
        return True


def _merged(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    last: tuple[int, int] | None = None
    for offset, length in spans:
        if last is not None and sum(last) == offset:
            last = last[0], last[1] + length
            continue
        if last is not None:
            yield last
        last = offset, length
    if last is not None:
        yield last


def _is_gone(fd: int) -> bool:
    """A pulled disk answers EIO as a bad one does, but the kernel takes its size away."""
    try:
        return ioctl.size_bytes(fd) == 0
    except OSError:
        return True


def _remedy(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "Free space there, or choose another place, and run it again."
    if number in _GONE:
        return "The disk went away while in use: see Prism's tasks for who detached it, then run the job again."
    return "See the node's kernel log and Prism's alerts for the storage behind it, then run the job again."


def open_direct(path: Path, flags: int) -> int:
    """Open with O_DIRECT where the file system can, else buffered. Raises OSError."""
    try:
        return os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def measure(fd: int) -> tuple[int, int]:
    """(size, sector) in bytes of an open device or file. Raises DeviceRefused for anything else."""
    facts = os.fstat(fd)
    if stat.S_ISBLK(facts.st_mode):
        return ioctl.size_bytes(fd), ioctl.sector_bytes(fd)
    if stat.S_ISREG(facts.st_mode):
        return facts.st_size, FILE_ALIGNMENT
    raise DeviceRefused("This is neither a block device nor a file", remedy="Name a disk or a raw image file.")


@contextmanager
def closing_on_error(fd: int) -> Iterator[int]:
    """Close the descriptor if the block raises; whoever leaves it quietly owns it."""
    try:
        yield fd
    except BaseException:
        os.close(fd)
        raise
