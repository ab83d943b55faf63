"""The block-device ioctls that Python's standard library does not name."""

from __future__ import annotations

import errno
import fcntl
import struct

BLKROSET = 0x125D
BLKROGET = 0x125E
BLKSSZGET = 0x1268
BLKGETSIZE64 = 0x80081272
BLKGETDISKSEQ = 0x80081280

_NO_SUCH_CALL = {errno.ENOTTY, errno.EINVAL, errno.ENOSYS}


def size_bytes(fd: int) -> int:
    """Bytes of an open block device."""
    return _get(fd, BLKGETSIZE64, "Q")


def sector_bytes(fd: int) -> int:
    """Logical sector size of an open block device."""
    return _get(fd, BLKSSZGET, "i")


def disk_sequence(fd: int) -> int | None:
    """The number that the kernel never gives twice until it restarts; None before Linux 5.15."""
    try:
        return _get(fd, BLKGETDISKSEQ, "Q")
    except OSError as error:
        if error.errno in _NO_SUCH_CALL:
            return None
        raise


def is_read_only(fd: int) -> bool:
    """Whether the kernel refuses writes to the device."""
    return _get(fd, BLKROGET, "i") != 0


def set_read_only(fd: int, *, on: bool) -> None:
    """Have the kernel refuse writes, by anybody. Raises OSError without CAP_SYS_ADMIN."""
    fcntl.ioctl(fd, BLKROSET, struct.pack("i", int(on)))


def status_flags(fd: int) -> int:
    """The flags under which a descriptor is open."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def _get(fd: int, request: int, layout: str) -> int:
    answer = fcntl.ioctl(fd, request, bytes(struct.calcsize(layout)))
    value: int = struct.unpack(layout, answer)[0]
    return value
