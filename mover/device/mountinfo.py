"""The mounts of this process with all that the kernel says of each, read below a root folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of ``/proc/self/mountinfo``."""

    source_root: str
    """Which folder of the file system (or control group) is seen here."""
    target: PurePath
    options: frozenset[str]
    kind: str
    """File-system type: ext4, overlay, tmpfs, sysfs, cgroup2 …"""
    super_options: frozenset[str]


def mount_points(root: Path) -> tuple[MountPoint, ...]:
    """In the order of mounting: a later one hides an earlier one at the same place. Raises OSError."""
    text = (root / "proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    return tuple(point for point in map(_parsed, text.splitlines()) if point is not None)


def mount_of(path: PurePath, points: Sequence[MountPoint]) -> MountPoint | None:
    """The mount that an absolute path without symlinks lies on."""
    found: MountPoint | None = None
    for point in points:
        is_above = path == point.target or point.target in path.parents
        if is_above and (found is None or len(point.target.parts) >= len(found.target.parts)):
            found = point
    return found


def _parsed(line: str) -> MountPoint | None:
    before, dash, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split(" ")
    if not dash or len(fields) < 6 or len(rest) < 3:
        return None
    return MountPoint(
        source_root=_unescaped(fields[3]),
        target=PurePath(_unescaped(fields[4])),
        options=frozenset(fields[5].split(",")),
        kind=rest[0],
        super_options=frozenset(rest[2].split(",")),
    )


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
