"""A folder that looks like the kernel's account of disks, for tests of ``device/``.

The layout is the seam that the lab's hot-plug uses too: ``sys/block``, ``sys/class``,
``dev`` and ``proc/self/mountinfo``. Backing is a plain file or a real loop device.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

NAA = bytes.fromhex("6506b8d9aabbccddeeff001122334455")


class FakeKernel:
    """Disks appear whole, as they do in sysfs: built aside, then renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("sys/block", "sys/class/dmi/id", "sys/class/net", "dev/disk/by-id", "proc/self"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "proc/self/mountinfo").write_text("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n")
        self._minor = 0

    def plug(
        self,
        backing: Path,
        *,
        name: str,
        vmdisk_uuid: str = "",
        serial: str | None = None,
        size_bytes: int | None = None,
        sequence: int | None = None,
        in_kernel: bool = True,
        in_links: bool = True,
        target: int | None = None,
        vendor: str = "NUTANIX ",
    ) -> None:
        """serial: what the disk says (default: Nutanix's form of the UUID; "" says nothing)."""
        self._minor += 16
        number, real_sequence, real_bytes = _facts(backing) or (f"8:{self._minor}", self._minor, backing.stat().st_size)
        if serial is None:
            serial = f"NFS_4_0_289_{vmdisk_uuid.replace('-', '_')}" if vmdisk_uuid else ""
        folder = self.root / "sys" / f".{name}"
        self._device_folder(folder, name, target)
        (folder / "holders").mkdir()
        (folder / "queue").mkdir()
        write = {
            "dev": f"{number}\n",
            "size": f"{(real_bytes if size_bytes is None else size_bytes) // 512}\n",
            "ro": "0\n",
            "diskseq": f"{real_sequence if sequence is None else sequence}\n",
            "queue/logical_block_size": "512\n",
            "device/vendor": f"{vendor}\n",
            "device/model": "VDISK           \n",
            "device/delete": "",
        }
        for path, text in write.items():
            (folder / path).write_text(text)
        if in_kernel and serial:
            (folder / "device/vpd_pg80").write_bytes(vpd80(serial))
            (folder / "device/vpd_pg83").write_bytes(vpd83(serial))
            (folder / "device/wwid").write_text(f"t10.NUTANIX {serial}\n")
        (self.root / "dev" / name).symlink_to(backing)
        if in_links and serial:
            for link in (f"scsi-1NUTANIX_{serial}", f"scsi-SNUTANIX_VDISK_{serial}"):
                self.link(f"{link}", name)
        folder.rename(self.root / "sys/block" / name)

    def _device_folder(self, folder: Path, name: str, target: int | None) -> None:
        """On a real kernel ``device`` leads to a folder named host:channel:target:lun."""
        folder.mkdir()
        if target is None:
            (folder / "device").mkdir()
            return
        real = self.root / "sys/devices" / name / f"2:0:{target}:0"
        real.mkdir(parents=True)
        (folder / "device").symlink_to(real)

    def link(self, link: str, name: str) -> None:
        path = self.root / "dev/disk/by-id" / link
        path.unlink(missing_ok=True)
        path.symlink_to(f"../../{name}")

    def unplug(self, name: str) -> None:
        shutil.rmtree(self.root / "sys/block" / name)
        shutil.rmtree(self.root / "sys/devices" / name, ignore_errors=True)
        (self.root / "dev" / name).unlink()
        for link in (self.root / "dev/disk/by-id").iterdir():
            if os.readlink(link).endswith(f"/{name}"):
                link.unlink()

    def set(self, name: str, path: str, content: str | bytes) -> None:
        """Overwrite one attribute of a disk."""
        data = content.encode() if isinstance(content, str) else content
        (self.root / "sys/block" / name / path).write_bytes(data)

    def hold(self, name: str, holder: str) -> None:
        (self.root / "sys/block" / name / "holders" / holder).mkdir()

    def partition(self, name: str, number: int, *, dev: str, holder: str | None = None) -> None:
        folder = self.root / "sys/block" / name / f"{name}{number}"
        (folder / "holders").mkdir(parents=True)
        (folder / "dev").write_text(f"{dev}\n")
        (folder / "partition").write_text(f"{number}\n")
        if holder:
            (folder / "holders" / holder).mkdir()

    def mount(self, *, number: str, source: str, target: str) -> None:
        with (self.root / "proc/self/mountinfo").open("a") as lines:
            lines.write(f"99 27 {number} / {target} rw,relatime shared:7 - ext4 {source} rw\n")

    def number(self, name: str) -> str:
        return (self.root / "sys/block" / name / "dev").read_text().strip()

    def own(self, product_uuid: str, **macs: str) -> None:
        (self.root / "sys/class/dmi/id/product_uuid").write_text(f"{product_uuid}\n")
        for interface, mac in macs.items():
            folder = self.root / "sys/class/net" / interface
            folder.mkdir(exist_ok=True)
            (folder / "address").write_text(f"{mac}\n")


def _facts(backing: Path) -> tuple[str, int, int] | None:
    """Number, sequence and size of a block device, as the real kernel has them; None for a file."""
    facts = backing.stat()
    if not stat.S_ISBLK(facts.st_mode):
        return None
    number = f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
    real = Path("/sys/dev/block") / number
    return number, int((real / "diskseq").read_text()), int((real / "size").read_text()) * 512


def vpd80(serial: str) -> bytes:
    text = serial.encode()
    return bytes([0, 0x80]) + len(text).to_bytes(2, "big") + text


def vpd83(serial: str) -> bytes:
    """A NAA-6 designator of the logical unit, a T10 one with the serial, and one of a port."""
    body = (
        designator(NAA, code_set=1, association=0, kind=3)
        + designator(f"NUTANIX {serial}".encode(), code_set=2, association=0, kind=1)
        + designator(b"\x00\x00\x00\x01", code_set=1, association=1, kind=4)
    )
    return bytes([0, 0x83]) + len(body).to_bytes(2, "big") + body


def designator(value: bytes, *, code_set: int, association: int, kind: int) -> bytes:
    return bytes([code_set, association << 4 | kind, 0, len(value)]) + value
