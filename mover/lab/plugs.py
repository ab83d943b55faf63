"""What is plugged, and what is wrong with it: plain values that survive a restart as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mover.errors import LabError


@dataclass(frozen=True, slots=True)
class PlugFaults:
    """What is wrong with one plugged disk; the default is nothing."""

    late_s: float = 0.0
    """Appears only after so many seconds (or at ``Hotplug.appear``)."""
    never: bool = False
    wrong_serial: bool = False
    """Identity of another vmdisk."""
    missing_bytes: int = 0
    """The device is so much smaller than its disk."""
    decoy: bool = False
    """A second device of the same size with another serial appears beside it, first."""
    bad_ranges: tuple[tuple[int, int], ...] = ()
    """(offset, length) where reads and writes give EIO; as root only."""
    vanish_after_bytes: int = 0
    """When more than so much was read, the device is gone: EIO everywhere; as root only."""
    sector_bytes: int = 0
    """512 or 4096; 0 = what the disk's file allows (4096 on clones that share extents)."""
    spelling: str = "underscore"
    """How the UUID is written in the serial: underscore, dash, colon."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PlugFaults:
        """From JSON. Raises LabError on an unknown name."""
        unknown = set(values) - {one.name for one in fields(cls)}
        if unknown:
            raise LabError(
                f"no such device fault: {', '.join(sorted(unknown))}",
                remedy=f"Known are {', '.join(one.name for one in fields(cls))}.",
            )
        ranges = tuple((int(offset), int(length)) for offset, length in values.get("bad_ranges", ()))
        return cls(**{**values, "bad_ranges": ranges})

    @property
    def needs_bad_file(self) -> bool:
        return bool(self.bad_ranges) or self.vanish_after_bytes > 0


@dataclass(frozen=True, slots=True)
class Plug:
    """One plugged disk as it is remembered."""

    vmdisk_uuid: str
    name: str
    path: Path
    slot_index: int
    faults: PlugFaults = field(default_factory=PlugFaults)
    loop_number: int | None = None
    sector_bytes: int = 512
    diskseq: int = 0
    is_shown: bool = False
    decoy_of: str | None = None


def plug_of(row: dict[str, Any]) -> Plug:
    return Plug(**{**row, "path": Path(row["path"]), "faults": PlugFaults.of(row["faults"])})
