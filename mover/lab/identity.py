"""How an AHV disk presents itself: serial, VPD pages in their binary form, names, sysfs files.

Everything derives from the vmdisk UUID, so a device looks the same after a restart.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import string
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

VENDOR = "NUTANIX"
MODEL = "VDISK"
SPELLINGS = {"underscore": "_", "dash": "-", "colon": ":"}
"""How firmware may write the UUID inside the serial; the first is what was observed."""

_HOST = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """What a device says of itself."""

    serial: str
    naa: str
    """NAA-6 designator, 32 hex digits, with Nutanix's OUI 50:6b:8d."""

    @classmethod
    def of(cls, vmdisk_uuid: str, spelling: str = "underscore") -> Identity:
        digest = hashlib.blake2b(vmdisk_uuid.encode(), digest_size=16).digest()
        first, second, third = digest[0] % 8, digest[1] % 4, int.from_bytes(digest[2:4], "big")
        uuid = vmdisk_uuid.replace("-", SPELLINGS[spelling])
        return cls(f"NFS_{first}_{second}_{third}_{uuid}", f"6506b8d{digest.hex()[:25]}")

    def page80(self) -> bytes:
        """Unit serial number."""
        text = self.serial.encode()
        return struct.pack(">BBH", 0, 0x80, len(text)) + text

    def page83(self) -> bytes:
        """Device identification: T10 vendor designator, then NAA-6."""
        vendor = VENDOR.ljust(8).encode() + self.serial.encode()
        designators = struct.pack(">BBBB", 2, 1, 0, len(vendor)) + vendor
        designators += struct.pack(">BBBB", 1, 3, 0, 16) + bytes.fromhex(self.naa)
        return struct.pack(">BBH", 0, 0x83, len(designators)) + designators

    def link_names(self) -> tuple[str, ...]:
        """Names below /dev/disk/by-id."""
        return (
            f"scsi-S{VENDOR}_{MODEL}_{self.serial}",
            f"scsi-1{VENDOR}_{self.serial}",
            f"scsi-3{self.naa}",
            f"wwn-0x{self.naa}",
        )


def derived_uuid(vmdisk_uuid: str, purpose: str) -> str:
    text = hashlib.blake2b(f"{purpose}:{vmdisk_uuid}".encode(), digest_size=16).hexdigest()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def letters(seed: int) -> Iterator[str]:
    """``sdb``, ``sdc``… shuffled in groups of 24 by the seed; ``sda`` is never given away."""
    names = itertools.chain.from_iterable(
        ("".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=width)) for width in (1, 2, 3)
    )
    next(names)
    dice = np.random.default_rng(seed)
    while group := list(itertools.islice(names, 24)):
        yield from (f"sd{group[place]}" for place in dice.permutation(len(group)))


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """What sysfs shows of a block device besides its identity."""

    dev: str
    size_bytes: int
    sector_bytes: int
    diskseq: int
    target: int
    """SCSI target: the slot."""


def make_skeleton(root: Path) -> None:
    """The folders and files that exist without any disk."""
    for name in ("sys/block", "sys/devices/lab", "sys/class/dmi/id", "sys/class/net", "dev/disk/by-id", "proc/self"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "proc/self/mountinfo").touch()
    scan = root / f"sys/class/scsi_host/host{_HOST}/scan"
    scan.parent.mkdir(parents=True, exist_ok=True)
    scan.touch()


def show(root: Path, name: str, identity: Identity, facts: BlockFacts) -> None:
    """Make the device appear, its block folder at once and complete, its links last as udev does."""
    address = f"{_HOST}:0:{facts.target}:0"
    scsi = root / "sys/devices/lab" / f"{name}-{facts.diskseq}" / address
    scsi.mkdir(parents=True, exist_ok=True)
    _write(scsi, {"vendor": VENDOR.ljust(8), "model": MODEL.ljust(16), "rev": "0   ", "type": "0"})
    _write(scsi, {"wwid": f"naa.{identity.naa}", "delete": ""})
    (scsi / "vpd_pg80").write_bytes(identity.page80())
    (scsi / "vpd_pg83").write_bytes(identity.page83())
    final = root / "sys/block" / name
    block = _staging(root, name)
    (block / "holders").mkdir(parents=True)
    (block / "queue").mkdir()
    _write(block, {"dev": facts.dev, "size": str(facts.size_bytes // 512), "ro": "0", "diskseq": str(facts.diskseq)})
    _write(block / "queue", {"logical_block_size": str(facts.sector_bytes)})
    (block / "device").symlink_to(os.path.relpath(scsi, final))
    if final.exists():
        # Shown by a lab that was killed before it could note it.
        shutil.rmtree(final)
    block.rename(final)
    for link in identity.link_names():
        path = root / "dev/disk/by-id" / link
        path.unlink(missing_ok=True)
        path.symlink_to(f"../../{name}")


def hide(root: Path, name: str) -> None:
    """Make the device disappear. Idempotent."""
    for link in (root / "dev/disk/by-id").iterdir():
        if link.is_symlink() and link.readlink().name == name:
            link.unlink()
    block = root / "sys/block" / name
    if block.exists():
        shutil.rmtree(block.rename(_staging(root, name)))
    for scsi in (root / "sys/devices/lab").glob(f"{name}-*"):
        shutil.rmtree(scsi)
    (root / "dev" / name).unlink(missing_ok=True)


def _staging(root: Path, name: str) -> Path:
    """Where a block folder is put together and taken apart, so that it comes and goes at once."""
    place = root / ".staging" / name
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    return place


def show_node(root: Path, product_uuid: str, mac_addresses: list[str]) -> None:
    """Which machine this is: SMBIOS UUID (upper case, as dmi prints it) and network cards."""
    (root / "sys/class/dmi/id/product_uuid").write_text(product_uuid.upper() + "\n")
    for index, mac in enumerate(mac_addresses):
        card = root / f"sys/class/net/eth{index}"
        card.mkdir(exist_ok=True)
        (card / "address").write_text(mac.lower() + "\n")


def _write(folder: Path, values: dict[str, str]) -> None:
    for name, value in values.items():
        (folder / name).write_text(value + "\n")
