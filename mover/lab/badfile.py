"""A file with bad places: one file served through FUSE that passes reads and writes on, or fails them.

There is no device mapper in many kernels, and a loop device fails as its file does: so a
loop on such a file is a disk with real, exact read errors. Speaks the kernel's protocol
itself (seven requests), in one thread; when the lab dies every access fails, as it should.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from enum import IntEnum
from pathlib import Path

from mover.errors import LabError
from mover.lab import loops

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHH32x")
_ATTR_OUT = struct.Struct("<QIIQQQQQQIIIIIIIIII")
_OPEN_OUT = struct.Struct("<QIi")
_IO_IN = struct.Struct("<QQII")
_WRITE_HEAD_BYTES = 40
_WRITE_OUT = struct.Struct("<II")

_MAX_IO_BYTES = 1 << 20
_MAX_PAGES_FLAG = 1 << 22
_BIG_WRITES_FLAG = 1 << 5
_DIRECT_IO_FLAG = 1


class _Ask(IntEnum):
    GETATTR = 3
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26


_UNANSWERED = {2, 36, 42}
"""Forget, interrupt, batch forget."""


class BadFile:
    """``path`` is ``source`` with errors. Needs root and FUSE; raises LabError without.

    bad_ranges: (offset, length) in bytes that cannot be read or written. vanish_after_bytes:
    once more was read, everything fails (0 = never).
    """

    def __init__(
        self,
        source: Path,
        path: Path,
        *,
        bad_ranges: tuple[tuple[int, int], ...] = (),
        vanish_after_bytes: int = 0,
    ) -> None:
        self.path = path
        self._bad = sorted((offset, offset + length) for offset, length in bad_ranges)
        self._readable_bytes = vanish_after_bytes or None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._file = os.open(source, os.O_RDWR)
        try:
            self._fuse = _mounted(path)
        except BaseException:
            os.close(self._file)
            raise
        self._server = threading.Thread(target=self._serve, name=f"bad-file-{path.name}", daemon=True)
        self._server.start()

    def close(self) -> None:
        """Unmount and end the server. Idempotent."""
        if self._fuse < 0:
            return
        loops.unmount(self.path)
        self._server.join()
        os.close(self._fuse)
        os.close(self._file)
        self._fuse = -1
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fuse, _MAX_IO_BYTES + 8192)
            except OSError as failure:
                if failure.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, kind, unique, *_ = _IN.unpack_from(request)
            if kind in _UNANSWERED:
                continue
            try:
                code, body = 0, self._answer(kind, memoryview(request)[_IN.size :])
            except OSError as failure:
                code, body = failure.errno or errno.EIO, b""
            try:
                os.writev(self._fuse, [_OUT.pack(_OUT.size + len(body), -code, unique), body])
            except OSError:
                # The asker was interrupted or the mount is going: nobody waits for this answer.
                continue

    def _answer(self, kind: int, body: memoryview) -> bytes:
        match kind:
            case _Ask.INIT:
                return self._init(body)
            case _Ask.GETATTR:
                return self._attributes()
            case _Ask.OPEN:
                return _OPEN_OUT.pack(1, _DIRECT_IO_FLAG, 0)
            case _Ask.READ:
                _, offset, length, _ = _IO_IN.unpack_from(body)
                return self._read(offset, length)
            case _Ask.WRITE:
                _, offset, length, _ = _IO_IN.unpack_from(body)
                return self._write(offset, body[_WRITE_HEAD_BYTES : _WRITE_HEAD_BYTES + length])
            case _Ask.FSYNC | _Ask.FLUSH:
                os.fsync(self._file)
                return b""
            case _Ask.RELEASE:
                return b""
        raise OSError(errno.ENOSYS, "not served")

    def _init(self, body: memoryview) -> bytes:
        major, minor, readahead, offered = _INIT_IN.unpack_from(body)
        flags = offered & (_MAX_PAGES_FLAG | _BIG_WRITES_FLAG)
        return _INIT_OUT.pack(major, min(minor, 31), readahead, flags, 16, 12, _MAX_IO_BYTES, 1, 256, 0)

    def _attributes(self) -> bytes:
        real = os.fstat(self._file)
        times = int(real.st_atime), int(real.st_mtime), int(real.st_ctime)
        mode = stat.S_IFREG | 0o600
        return _ATTR_OUT.pack(1, 0, 0, 1, real.st_size, real.st_blocks, *times, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _read(self, offset: int, length: int) -> bytes:
        """Up to the first bad place; an error when that is the first byte."""
        length = self._good_bytes(offset, length)
        if self._readable_bytes is not None:
            self._readable_bytes -= length
            if self._readable_bytes < 0:
                raise OSError(errno.EIO, "gone")
        return os.pread(self._file, length, offset)

    def _write(self, offset: int, data: memoryview) -> bytes:
        if self._good_bytes(offset, len(data)) < len(data):
            raise OSError(errno.EIO, "bad place")
        return _WRITE_OUT.pack(os.pwrite(self._file, data, offset), 0)

    def _good_bytes(self, offset: int, length: int) -> int:
        for start, end in self._bad:
            if start < offset + length and offset < end:
                if start <= offset:
                    raise OSError(errno.EIO, "bad place")
                return start - offset
        return length


def _mounted(path: Path) -> int:
    """Mount FUSE on a file (not a folder: one inode is all there is); the connection's descriptor."""
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR)
    except OSError as failure:
        raise LabError(
            f"read errors need FUSE: /dev/fuse: {failure.strerror}",
            remedy="Give the lab /dev/fuse, or arm another fault.",
        ) from failure
    options = f"fd={fuse},rootmode={stat.S_IFREG:o},user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"mover-lab", os.fsencode(path), b"fuse", 0, options.encode()):
        code = ctypes.get_errno()
        os.close(fuse)
        raise LabError(f"FUSE mount refused: {os.strerror(code)}", remedy="Run the lab with CAP_SYS_ADMIN.")
    return fuse
