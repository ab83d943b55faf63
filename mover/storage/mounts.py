"""What file system a folder lies on, and how late a listing there may be. Pure but for one reader.

A network file system shows a client its own cache of a folder: what another node wrote is listed
only when that has run out.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_LONGEST_S = 60.0
"""The default of Linux' NFS and CIFS clients (acdirmax), and of most that go through FUSE at worst."""
_CACHING = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs", "fuse")
"""Clients with a cache of their own. ceph, gfs2, ocfs2, lustre and gpfs keep caches coherent."""


@dataclass(frozen=True, slots=True)
class Mount:
    """kind: nfs4, ext4, fuse.sshfs …; options: those of the mount and of its file system."""

    kind: str
    options: tuple[str, ...]


def mount_of(device: str, mountinfo: str) -> Mount | None:
    """device: ``major:minor`` as stat has it of the folder. mountinfo: the text of /proc/self/mountinfo."""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, facts = before.split(), after.split()
        if dash and len(fields) > 5 and fields[2] == device and len(facts) > 2:
            return Mount(facts[0], (*fields[5].split(","), *facts[2].split(",")))
    return None


def list_lag_s(mount: Mount | None) -> float:
    """Seconds until a listing surely shows what another node has written; 0 where one computer holds it all."""
    if mount is None or mount.kind.partition(".")[0] not in _CACHING:
        return 0.0
    if {"noac", "actimeo=0", "acdirmax=0"} & set(mount.options):
        return 0.0
    given = [re.fullmatch(r"(?:acdirmax|actimeo)=(\d+)", option) for option in mount.options]
    return min(_LONGEST_S, max((float(found[1]) for found in given if found), default=_LONGEST_S))


def read_mount(folder: Path) -> Mount | None:
    """The mount that a folder lies on; None where the kernel does not say."""
    try:
        number = folder.stat().st_dev
        text = Path("/proc/self/mountinfo").read_text("utf-8", errors="replace")
    except OSError:
        return None
    return mount_of(f"{os.major(number)}:{os.minor(number)}", text)
