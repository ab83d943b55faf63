"""The kernel's account of block devices, read below a root folder ("/" on a real node).

No udev is needed: containers have none. A device that goes away while it is read is
left out; what cannot be read is None or empty, never guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mover.device.identity import Identity, designator_texts, serial_text

_HCTL = re.compile(r"\d+:\d+:(\d+):\d+")
_OCTAL = re.compile(r"\\([0-7]{3})")
_PART_LINK = re.compile(r"-part\d+$")
_SECTOR = 512  # the unit of sysfs "size", whatever the device's own sector


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """One whole disk as sysfs describes it."""

    name: str
    """Kernel name, such as sdf: for people and paths, never proof of anything."""
    number: str
    """``major:minor``"""
    size_bytes: int
    sequence: int | None
    """Disk sequence number; None before Linux 5.15."""
    vendor: str
    model: str
    target: int | None
    """SCSI target id, where the kernel tells it."""
    identity: Identity

    @property
    def birth(self) -> tuple[str, int | None]:
        """Tells this disk from a later one under the same number."""
        return self.number, self.sequence

    def __str__(self) -> str:
        kind = " ".join(filter(None, (self.vendor, self.model))) or "disk"
        return f"{self.name} ({kind}, {self.size_bytes} bytes, {self.identity})"


@dataclass(frozen=True, slots=True)
class Mount:
    number: str
    source: str
    target: str


def disks(root: Path) -> tuple[BlockDevice, ...]:
    """Every whole disk that is completely described, by name."""
    try:
        names = sorted(os.listdir(root / "sys/block"))
    except FileNotFoundError:
        return ()
    links = _links(root)
    found = (_disk(root, name, links.get(name, ())) for name in names if not name.startswith("."))
    return tuple(disk for disk in found if disk is not None)


def disk(root: Path, name: str) -> BlockDevice | None:
    """One disk, read afresh; None when it is gone."""
    return _disk(root, name, _links(root).get(name, ()))


def _disk(root: Path, name: str, links: tuple[str, ...]) -> BlockDevice | None:
    folder = root / "sys/block" / name
    number, size = _text(folder / "dev"), _integer(folder / "size")
    if not number or size is None:
        return None
    return BlockDevice(
        name=name,
        number=number,
        size_bytes=size * _SECTOR,
        sequence=_integer(folder / "diskseq"),
        vendor=_text(folder / "device/vendor"),
        model=_text(folder / "device/model"),
        target=_target(folder / "device"),
        identity=Identity(kernel=_kernel_texts(folder), links=links),
    )


def _kernel_texts(folder: Path) -> tuple[str, ...]:
    serial = serial_text(_bytes(folder / "device/vpd_pg80"))
    designators = designator_texts(_bytes(folder / "device/vpd_pg83"))
    wwids = (_text(folder / "device/wwid"), _text(folder / "wwid"))
    return tuple(text for text in (serial, *designators, *wwids) if text)


def _links(root: Path) -> dict[str, tuple[str, ...]]:
    """Kernel name → names in /dev/disk/by-id that lead to it, partitions left out."""
    folder = root / "dev/disk/by-id"
    found: dict[str, tuple[str, ...]] = {}
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return found
    for link in names:
        try:
            target = Path(os.readlink(folder / link)).name
        except OSError:
            continue
        if not _PART_LINK.search(link):
            found[target] = (*found.get(target, ()), link)
    return found


def users(root: Path, device: BlockDevice) -> tuple[str, ...]:
    """Who uses the disk or one of its partitions, in words; empty when nobody does.

    A mount in a namespace that we cannot see is found later: the exclusive open fails.
    """
    folder = root / "sys/block" / device.name
    parts = {part.name: part for part in _partitions(folder)}
    numbers = {device.number, *(_text(part / "dev") for part in parts.values())}
    names = {device.name, *parts}
    holders = [
        f"{holder} holds {place.name}" for place in (folder, *parts.values()) for holder in _names(place / "holders")
    ]
    mounted = [
        f"{mount.source} is mounted on {mount.target}"
        for mount in mounts(root)
        if mount.number in numbers or (mount.source.startswith("/dev/") and Path(mount.source).name in names)
    ]
    swaps = [f"{swap} is swap space" for swap in _swaps(root) if Path(swap).name in names]
    return (*holders, *mounted, *swaps)


def mounts(root: Path) -> Iterator[Mount]:
    """The mounts of this process. Raises OSError when they cannot be read: then nothing is proven."""
    for line in (root / "proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if dash and len(fields) >= 5 and len(rest) >= 2:
            yield Mount(number=fields[2], source=_unescaped(rest[1]), target=_unescaped(fields[4]))


def _swaps(root: Path) -> list[str]:
    lines = _text(root / "proc/swaps").splitlines()[1:]
    return [_unescaped(line.split()[0]) for line in lines if line.startswith("/dev/")]


def _partitions(folder: Path) -> list[Path]:
    return [
        folder / name for name in _names(folder) if name.startswith(folder.name) and (folder / name / "dev").exists()
    ]


def _target(folder: Path) -> int | None:
    try:
        match = _HCTL.fullmatch(folder.resolve(strict=True).name)
    except OSError:
        return None
    return int(match[1]) if match else None


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _bytes(path: Path) -> bytes:
    # A page may exist and answer EIO or EINVAL when the disk does not support it.
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8", "replace").strip(" \0\n\t")


def _integer(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None
