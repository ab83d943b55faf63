"""Long writes go past the page cache where the file system and the memory allow it; the bytes are the same."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

import pytest

from mover.storage import durable
from mover.units import MIB

SIZES = (0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 4095, 4 * MIB)


@pytest.fixture
def descriptor(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def memory_of(size_bytes, *, shift_bytes=0):
    """Page-aligned bytes without a period, or a view that is off by a little."""
    memory = mmap.mmap(-1, size_bytes + shift_bytes + 1)
    memory[:] = (bytes(range(251)) * (len(memory) // 251 + 1))[: len(memory)]
    return memoryview(memory)[shift_bytes : shift_bytes + size_bytes]


def takes_direct_writes(descriptor):
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return True


def held(descriptor):
    return os.pread(descriptor, 1 << 24, 0)


@pytest.mark.parametrize("shift_bytes", [0, 1, 512])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_the_bytes_are_the_same_at_any_size_and_place(descriptor, size_bytes, shift_bytes):
    first, second = memory_of(size_bytes, shift_bytes=shift_bytes), memory_of(4097)
    assert durable.write_all(descriptor, [first, second], past_cache=True) == size_bytes + 4097
    assert held(descriptor) == bytes(first) + bytes(second)
    assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT


def test_a_long_aligned_part_goes_past_the_cache(descriptor, monkeypatch):
    seen = []
    write = os.write

    def spy(fd, data):
        seen.append((bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT), len(data)))
        return write(fd, data)

    monkeypatch.setattr(os, "write", spy)
    durable.write_all(descriptor, [memory_of(2 * MIB + 7)], past_cache=True)
    assert seen == ([(True, 2 * MIB)] if takes_direct_writes(descriptor) else [])


def test_a_file_system_without_direct_writes_gets_ordinary_ones(descriptor, monkeypatch):
    call = fcntl.fcntl

    def refuse(fd, what, flags=0):
        if what == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct writes")
        return call(fd, what, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    part = memory_of(2 * MIB)
    durable.write_all(descriptor, [part], past_cache=True)
    assert held(descriptor) == bytes(part)


@pytest.mark.parametrize("taken", [4096, 5000, MIB])
def test_a_write_cut_short_is_continued(descriptor, monkeypatch, taken):
    write, cuts = os.write, [taken]
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[: cuts.pop()]) if cuts else data))
    # A copied piece is not aligned: it is refused, or it is written; either way nothing is lost or doubled.
    part = memory_of(3 * MIB + 11)
    assert durable.write_all(descriptor, [part], past_cache=True) == len(part)
    assert held(descriptor) == bytes(part)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_server_that_takes_the_flag_but_no_such_write_gets_ordinary_ones(descriptor, monkeypatch, number):
    def refuse(fd, data):
        raise OSError(number, "no direct writes")

    monkeypatch.setattr(durable, "_set_direct", lambda fd, is_direct: True)
    monkeypatch.setattr(os, "write", refuse)
    part = memory_of(2 * MIB + 5)
    assert durable.write_all(descriptor, [part], past_cache=True) == len(part)
    assert held(descriptor) == bytes(part)


def test_a_full_disk_is_said_and_not_tried_again(descriptor, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="no room"):
        durable.write_all(descriptor, [memory_of(2 * MIB)], past_cache=True)
