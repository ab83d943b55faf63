"""Which machine this is: the SMBIOS UUID, which on AHV is the VM's own, and its NICs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mover.device.identity import is_uuid, normalised
from mover.errors import ProxyUnfit

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_NOBODY = "00:00:00:00:00:00"
_PLACEHOLDERS = {"0" * 32, "f" * 32}
"""What firmware shows that was never told a UUID."""


class OwnIdentity(NamedTuple):
    smbios_uuid: str
    """Lower case with dashes."""
    mac_addresses: tuple[str, ...]
    """Lower case with colons, sorted, loopback left out."""


def own_identity(root: Path, *, proxy_uuid: str | None = None) -> OwnIdentity:
    """Read below ``root`` ("/" on a real node); ``proxy_uuid`` is the setting that overrides SMBIOS.

    Raises ProxyUnfit when SMBIOS names no UUID, or none that this user may read.
    """
    return OwnIdentity(_dashed(proxy_uuid) if proxy_uuid else _smbios_uuid(root), _mac_addresses(root))


def _smbios_uuid(root: Path) -> str:
    path = root / "sys/class/dmi/id/product_uuid"
    try:
        return _dashed(path.read_text("ascii"))
    except PermissionError:
        why = f"{path} is readable by root only"
    except FileNotFoundError:
        why = f"there is no {path}: not a VM with SMBIOS, or a container without the host's /sys"
    except (OSError, UnicodeDecodeError) as error:
        why = f"{path}: {error}"
    raise ProxyUnfit(
        f"This node cannot tell which VM it is: {why}",
        remedy="Run as root, or set node.proxy_uuid to the UUID of this VM as Prism shows it.",
    )


def _dashed(text: str) -> str:
    flat = normalised(text)
    if not is_uuid(flat) or flat in _PLACEHOLDERS:
        raise ProxyUnfit(
            f"{text.strip()!r} is not the UUID of a VM",
            remedy="Set node.proxy_uuid to the UUID of this VM as Prism shows it.",
        )
    return f"{flat[:8]}-{flat[8:12]}-{flat[12:16]}-{flat[16:20]}-{flat[20:]}"


def _mac_addresses(root: Path) -> tuple[str, ...]:
    found = set()
    for path in root.glob("sys/class/net/*/address"):
        try:
            address = path.read_text("ascii").strip().lower()
        except (OSError, UnicodeDecodeError):  # an interface that just went away, or a tunnel
            continue
        if _MAC.fullmatch(address) and address != _NOBODY:
            found.add(address)
    return tuple(sorted(found))
