"""For programs of another architecture: QEMU's user mode knows no SG_IO, which a loop device's driver does not either.

It answers "not implemented", and mover refuses every disk that cannot be asked who it is. The kernel's own answer is
"no such request here": that lets the lab's devices through, and no SCSI disk.
"""

from __future__ import annotations

import errno
import fcntl
from typing import Any

_SG_IO = 0x2285
_ask = fcntl.ioctl


def _ioctl(descriptor: Any, request: int, *more: Any) -> Any:
    if request == _SG_IO:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
    return _ask(descriptor, request, *more)


fcntl.ioctl = _ioctl
