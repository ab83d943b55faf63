"""What a SCSI disk itself answers now: sysfs shows what the kernel asked once, when the disk came.

A disk that is exchanged without an event leaves its predecessor's identity in sysfs. Prism's disks are all
SCSI, so what cannot be asked is none of them; only a lab's disks, loop devices and files, go unasked.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat

from mover.device.identity import designator_texts, serial_text

_SG_IO = 0x2285
_FROM_DEVICE = -3
_INQUIRY, _VITAL = 0x12, 1
_PAGE_BYTES = 1020
"""A target that knows one byte of it takes it for 252."""
_SENSE_BYTES = 64
_TIMEOUT_MS = 5000
NOT_SCSI = {errno.ENOTTY, errno.EINVAL}
"""Its driver knows no such request."""
_LOOP = 7
"""Major number of loop devices, the same in every kernel."""
_GOOD, _CHECK_CONDITION = 0, 2


class _Request(ctypes.Structure):
    """``struct sg_io_hdr`` of the kernel."""

    _fields_ = [
        ("interface_id", ctypes.c_int),
        ("direction", ctypes.c_int),
        ("command_length", ctypes.c_ubyte),
        ("sense_room", ctypes.c_ubyte),
        ("vector_count", ctypes.c_ushort),
        ("data_length", ctypes.c_uint),
        ("data", ctypes.c_void_p),
        ("command", ctypes.c_void_p),
        ("sense", ctypes.c_void_p),
        ("timeout_ms", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("message_status", ctypes.c_ubyte),
        ("sense_length", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("residual", ctypes.c_int),
        ("duration_ms", ctypes.c_uint),
        ("info", ctypes.c_uint),
    ]


def texts(fd: int) -> tuple[str, ...] | None:
    """What an open disk names itself, from VPD pages 0x80 and 0x83; None for a loop device or a file.

    A page that it does not have counts as empty. Raises OSError when it does not answer: ENXIO if it may later,
    one of NOT_SCSI if it is no SCSI disk.
    """
    try:
        serial, designators = serial_text(_page(fd, 0x80)), designator_texts(_page(fd, 0x83))
    except OSError as error:
        if error.errno in NOT_SCSI and _is_of_a_lab(fd):
            return None
        raise
    return (*((serial,) if serial else ()), *designators)


def _is_of_a_lab(fd: int) -> bool:
    facts = os.fstat(fd)
    return stat.S_ISREG(facts.st_mode) or (stat.S_ISBLK(facts.st_mode) and os.major(facts.st_rdev) == _LOOP)


def _page(fd: int, code: int) -> bytes:
    command = (ctypes.c_ubyte * 6)(_INQUIRY, _VITAL, code, *_PAGE_BYTES.to_bytes(2, "big"), 0)
    data = (ctypes.c_ubyte * _PAGE_BYTES)()
    sense = (ctypes.c_ubyte * _SENSE_BYTES)()
    request = _Request(
        interface_id=ord("S"),
        direction=_FROM_DEVICE,
        command_length=len(command),
        sense_room=_SENSE_BYTES,
        data_length=_PAGE_BYTES,
        data=ctypes.addressof(data),
        command=ctypes.addressof(command),
        sense=ctypes.addressof(sense),
        timeout_ms=_TIMEOUT_MS,
    )
    fcntl.ioctl(fd, _SG_IO, request)
    if request.host_status or request.status not in (_GOOD, _CHECK_CONDITION):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return bytes(data)[: _PAGE_BYTES - request.residual] if request.status == _GOOD else b""
