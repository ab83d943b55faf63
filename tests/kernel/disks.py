"""Disks to plug into the guest, and the questions that its tests ask it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mover.lab import identity
from tests.support.qemu import GuestRefused, Machine

OURS = "7c174117-320b-480f-ac05-b0f622127511"
OTHER = "b29f577f-1354-4c4a-ae12-f3809dea44cf"
MIB = 1 << 20
SIZE = 8 * MIB
NOTHING = {"disks": [], "scsi": [], "nodes": [], "open": [], "held": 0}


def raw(folder: Path, name: str = "ours", size_bytes: int = SIZE) -> Path:
    """A disk whose blocks of 4 KiB tell disk and place, near both ends and in the middle."""
    file = folder / f"{name}.raw"
    with file.open("wb") as disk:
        disk.truncate(size_bytes)
        for offset in (0, size_bytes // 2, size_bytes - 4096):
            disk.seek(offset)
            disk.write(content(name, offset))
    return file


def content(name: str, offset: int) -> bytes:
    return f"{name}@{offset};".encode().ljust(32, b".") * 128


def serial(vmdisk_uuid: str, separator: str = "_") -> str:
    return vmdisk_uuid.replace("-", separator)


def named(vmdisk_uuid: str) -> dict[str, Any]:
    """As a Nutanix disk does it; QEMU has 36 letters for page 0x80, so the prefix stands in page 0x83 alone."""
    naa = int(identity.Identity.of(vmdisk_uuid).naa[:16], 16)
    nfs = f"NUTANIX NFS_4_0_289_{serial(vmdisk_uuid)}"
    return {"serial": serial(vmdisk_uuid), "device_id": nfs, "wwn": naa, "port_wwn": 0x5000C50000000001}


def locate(vm: Machine, vmdisk_uuid: str = OURS, *, slot: int = 3, size_bytes: int = SIZE, **how: Any) -> Any:
    return vm.ask("locate", vmdisk_uuid=vmdisk_uuid, size_bytes=size_bytes, slot=slot, **how)


def refusal(vm: Machine, vmdisk_uuid: str = OURS, **how: Any) -> GuestRefused:
    with pytest.raises(GuestRefused) as refused:
        locate(vm, vmdisk_uuid, **how)
    return refused.value


def read(vm: Machine, found: dict[str, Any], offset: int, length: int = 4096) -> bytes:
    return bytes.fromhex(vm.ask("read", device=found["device"], offset_bytes=offset, length_bytes=length))


def wait_for_disks(vm: Machine, count: int = 1) -> list[dict[str, Any]]:
    """All there are, once they are completely described."""
    while len(disks := vm.ask("disks")) < count:
        pass
    return list(disks.values())


def ext4(folder: Path, *, is_partition: bool = False) -> Path:
    """A disk that is one file system, or has it in its first partition, at 1 MiB."""
    system, file = folder / "ext4", folder / "ours.raw"
    start = MIB if is_partition else 0
    mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
    with system.open("wb") as disk:
        disk.truncate(SIZE - start)
    subprocess.run([mkfs, "-q", "-O", "^has_journal", system], check=True, timeout=30)
    table = bytes(446) + struct.pack("<B3sB3sII", 0, b"", 0x83, b"", start // 512, (SIZE - start) // 512)
    with file.open("wb") as disk:
        disk.write((table + bytes(48) + b"\x55\xaa").ljust(start, b"\0") if is_partition else b"")
        disk.write(system.read_bytes())
    return file
