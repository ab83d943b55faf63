"""What a disk says about itself, and whether that is the vmdisk we attached.

A Nutanix disk's serial is ``NFS_<a>_<b>_<c>_<vmdisk uuid>``; who passes it on (VPD pages,
wwid, udev) rewrites separators and case, so texts are compared by letters and digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_UUID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
_SERIAL = re.compile(r"nfs[-_:. ]\d+[-_:. ]\d+[-_:. ]\d+[-_:. ]((?:[0-9a-f][-_:. ]?){31}[0-9a-f])(?![0-9a-f])", re.I)
_LOGICAL_UNIT = 0
_BINARY = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """Texts by origin: what the kernel read from the disk, and what udev made of it."""

    kernel: tuple[str, ...] = ()
    """VPD pages 0x80 and 0x83, wwid."""
    links: tuple[str, ...] = ()
    """Names in /dev/disk/by-id: second-hand, and stale for a moment after a hot-plug."""

    def carries(self, vmdisk_uuid: str) -> bool:
        """Whether this is that vmdisk: the kernel's word first, udev's only where the kernel has none."""
        wanted = normalised(vmdisk_uuid)
        if any(wanted in normalised(text) for text in self.kernel):
            return True
        return not _uuids(self.kernel) and any(wanted in normalised(text) for text in self.links)

    def others(self, vmdisk_uuid: str) -> frozenset[str]:
        """UUIDs of other vmdisks that the kernel's texts name (letters and digits only)."""
        return _uuids(self.kernel) - {normalised(vmdisk_uuid)}

    def __str__(self) -> str:
        texts = self.kernel or self.links
        return " | ".join(dict.fromkeys(texts)) if texts else "no identity"


def is_uuid(text: str) -> bool:
    """Whether it is a whole UUID: an empty or cut one would be "contained" in any text."""
    return _UUID.fullmatch(text.lower()) is not None


def normalised(text: str) -> str:
    """Lower case, letters and digits only."""
    return "".join(char for char in text.lower() if char.isascii() and char.isalnum())


def _uuids(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(normalised(match[1]) for text in texts for match in _SERIAL.finditer(text))


def serial_text(page: bytes) -> str | None:
    """VPD page 0x80 → the unit serial number; None when the page is not one."""
    body = _body(page, 0x80)
    return (_printable(body) or None) if body is not None else None


def designator_texts(page: bytes) -> tuple[str, ...]:
    """VPD page 0x83 → the designators of the logical unit, binary ones in hex.

    Designators of ports and of the target are left out: several disks share those. A
    page that is cut short yields what was whole.
    """
    body = _body(page, 0x83)
    if body is None:
        return ()
    return tuple(text for text in _designators(body) if text)


def _designators(body: bytes) -> Iterator[str]:
    at = 0
    while at + 4 <= len(body):
        code_set, association, length = body[at] & 0x0F, body[at + 1] >> 4 & 0x03, body[at + 3]
        value = body[at + 4 : at + 4 + length]
        at += 4 + length
        if association == _LOGICAL_UNIT and len(value) == length:
            yield value.hex() if code_set == _BINARY else _printable(value)


def _body(page: bytes, code: int) -> bytes | None:
    if len(page) < 4 or page[1] != code:
        return None
    length = int.from_bytes(page[2:4], "big")
    return page[4 : 4 + length]


def _printable(value: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else " " for byte in value).strip()
