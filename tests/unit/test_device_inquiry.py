"""What is made of a disk's answers to INQUIRY: names, a page that it has not, no answer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from types import SimpleNamespace

import pytest

from mover.device import inquiry

NOTHING = 99
"""No descriptor of this process: the kernel is never asked here."""


@pytest.fixture
def disk(monkeypatch):
    """Answers by page; what is set in ``outcome`` is the fate of every request."""

    class Disk:
        pages = {}
        outcome = {}

    def ioctl(fd, number, request):
        assert (fd, number, request.command_length) == (NOTHING, 0x2285, 6)
        command = (ctypes.c_ubyte * 6).from_address(request.command)
        assert command[:2] == [0x12, 1]
        body = Disk.pages.get(command[2])
        if body is None:
            request.status, request.residual = 2, request.data_length
        else:
            page = bytes([0, command[2]]) + len(body).to_bytes(2, "big") + body
            ctypes.memmove(request.data, page, len(page))
            request.residual = request.data_length - len(page)
        for field, value in Disk.outcome.items():
            setattr(request, field, value)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return Disk


def test_serial_and_designators_are_its_names(disk):
    disk.pages = {0x80: b" NFS_1 ", 0x83: bytes([2, 1, 0, 3]) + b"abc"}
    assert inquiry.texts(NOTHING) == ("NFS_1", "abc")


def test_a_page_that_it_does_not_have_is_empty(disk):
    disk.pages = {0x80: b"NFS_1"}
    assert inquiry.texts(NOTHING) == ("NFS_1",)


@pytest.mark.parametrize("outcome", [{"host_status": 3}, {"status": 8}, {"status": 0x28}], ids=["time", "busy", "full"])
def test_a_disk_that_is_busy_or_silent_has_not_answered(disk, outcome):
    disk.pages, disk.outcome = {0x80: b"NFS_1", 0x83: b""}, outcome
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        inquiry.texts(NOTHING)


NUMBERS = {"loop3": 0x703, "sda": 0x800, "vda": 0xFE00}


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL])
@pytest.mark.parametrize(
    ("mode", "name", "is_excused"),
    [
        (stat.S_IFREG, None, True),
        (stat.S_IFBLK, "loop3", True),
        (stat.S_IFBLK, "sda", False),
        (stat.S_IFBLK, "vda", False),
        (stat.S_IFCHR, "loop3", False),
    ],
)
def test_what_knows_no_such_request_is_excused_in_a_lab_alone(monkeypatch, number, mode, name, is_excused):
    def ioctl(fd, request, argument):
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    facts = SimpleNamespace(st_mode=mode | 0o600, st_rdev=NUMBERS.get(name, 0))
    monkeypatch.setattr(inquiry, "os", SimpleNamespace(fstat=lambda fd: facts, major=os.major))
    if is_excused:
        assert inquiry.texts(NOTHING) is None
        return
    with pytest.raises(OSError, match="no") as caught:
        inquiry.texts(NOTHING)
    assert caught.value.errno in inquiry.NOT_SCSI


def test_a_file_is_excused(tmp_path):
    with (tmp_path / "disk.raw").open("wb") as file:
        assert inquiry.texts(file.fileno()) is None
