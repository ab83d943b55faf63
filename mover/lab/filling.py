"""First content and daily changes of the guests' disks.

The quick kind (mixed) is made here: seeded bytes, zeroes and holes. Real file systems
come from ``guests`` and ``living``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mover.lab import guests, living
from mover.lab.options import DiskSpec, VmSpec

_CHUNK = 1 << 20
_PIECE = 64 << 10


def demo_vms(scale: float = 1.0) -> tuple[VmSpec, ...]:
    """The three guests of the demo: web01 with a CD-ROM, db01 with a volume group, files01 with two disks."""
    return tuple(_vm_spec(guest) for guest in guests.demo_guests(scale))


def _vm_spec(guest: guests.GuestSpec) -> VmSpec:
    disks = [
        DiskSpec.model_validate(
            {"size_bytes": disk.size_bytes, "content": disk.kind, "content_bytes": disk.content_bytes}
        )
        for disk in guest.disks
    ]
    if guest.has_cdrom:
        disks.append(DiskSpec(kind="CDROM"))
    if guest.has_volume_group:
        disks.append(DiskSpec(kind="VOLUME_GROUP"))
    return VmSpec(
        name=guest.name,
        description=guest.description,
        disks=tuple(disks),
        memory_mib=guest.memory_bytes >> 20,
        sockets=guest.vcpus,
        categories={"Backup": ["Gold"]},
    )


def fill(path: Path, spec: DiskSpec, seed: int, scratch: Path) -> list[str]:
    """The first content of a disk. scratch: where trees of files are laid out. Raises LabError.

    Returns what had to be made otherwise, in words (a tool is missing).
    """
    if spec.content == "mixed":
        fill_mixed(path, seed)
    elif spec.content == "random":
        with open(path, "r+b") as file:
            for at in range(0, spec.size_bytes, _CHUNK):
                file.write(_random(f"{seed}/{at}", min(_CHUNK, spec.size_bytes - at)))
    elif spec.content != "empty":
        used = spec.content_bytes or spec.size_bytes // 4
        disk = guests.DiskSpec("scsi.0", spec.content, spec.size_bytes, used)
        guest = guests.GuestSpec(path.stem, "", (disk,))
        return guests.make(guest, [path], scratch=scratch, seed=seed)
    return []


def change(disks: Sequence[tuple[Path, str]], seed: int, turn: int, scratch: Path) -> list[str]:
    """One ordinary day of a guest; disks: files and their content. Says in words what changed.

    scratch: a folder of this call's own, for mount points.
    """
    said = []
    for number, (path, content) in enumerate(disks):
        if content in ("mixed", "random"):
            change_mixed(path, seed + number, turn)
            said.append("pieces of 64 KiB rewritten")
        else:
            scratch.mkdir(parents=True, exist_ok=True)
            said += living.live([path], turn, scratch=scratch, seed=seed + number)
    return said


def fill_mixed(path: Path, seed: int) -> None:
    """Per MiB in turn: seeded random bytes, nothing, written zeroes, text that compresses."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for number in range(-(-size // _CHUNK)):
            length = min(_CHUNK, size - number * _CHUNK) // 2
            if number % 4 == 0:
                piece = _random(f"{seed}/{number}", length)
            elif number % 4 == 2:
                piece = bytes(length)
            elif number % 4 == 3:
                piece = (f"line {seed} {number}\n".encode() * length)[:length]
            else:
                continue
            os.pwrite(file.fileno(), piece, number * _CHUNK)


def change_mixed(path: Path, seed: int, turn: int) -> None:
    """In every fourth MiB one piece of 64 KiB: new bytes, or zeroes where there were bytes."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for number in range(0, -(-size // _CHUNK), 4):
            at = number * _CHUNK + (turn % 8) * _PIECE
            length = min(_PIECE, size - at)
            if length > 0:
                zero = number // 4 % 3 == 2
                os.pwrite(file.fileno(), bytes(length) if zero else _random(f"{seed}/{turn}/{number}", length), at)


def _random(words: str, length: int) -> bytes:
    return hashlib.shake_128(words.encode()).digest(length)
