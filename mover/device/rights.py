"""What the kernel lets this process do with block devices, told without opening any.

A disk of this node that is not ours is never touched: device rules are proven by
access(2), which applies them and opens nothing, on nodes that exist or on one of a
moment. Everything else is read below a root folder.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, Protocol

from mover.device.cgroup import allows_blocks_of
from mover.device.mountinfo import MountPoint, mount_of
from mover.errors import DeviceRightsMissing

SCSI_MAJORS = (8, *range(65, 72), *range(128, 136))
"""The block numbers of SCSI disks, sixteen disks each: the first is sda to sdp."""
_SYS_ADMIN = 21
_ALL_IDS = ["0", "0", "4294967295"]
_AT_FDCWD, _AT_EACCESS = -100, 0x200
_FLAGS = "see deploy/container/README.md for the whole command."


@dataclass(frozen=True, slots=True)
class NodeFinding:
    """One line of ``mover check`` about this process."""

    subject: str
    state: Literal["ok", "note", "problem"]
    what: str
    remedy: str = ""
    stops: bool = False
    """Without it no attached disk could be used: jobs are not begun."""


class Kernel(Protocol):
    """What only a running kernel can answer."""

    def refusal(self, path: Path, mode: int = os.R_OK | os.W_OK) -> int:
        """Why this process may not read and write it: an errno, 0 if it may. Opens nothing."""

    def refusal_of_number(self, major: int, minor: int) -> int | None:
        """The same of a block device that need not exist; None where that cannot be tried."""


class RunningKernel:
    """The one below us. scratch: folders in which a node of a moment may be made."""

    def __init__(self, *scratch: Path) -> None:
        self._scratch = scratch
        self._libc = ctypes.CDLL(None, use_errno=True)

    def refusal(self, path: Path, mode: int = os.R_OK | os.W_OK) -> int:
        refused = self._libc.faccessat(_AT_FDCWD, os.fsencode(path), mode, _AT_EACCESS)
        return ctypes.get_errno() if refused else 0

    def refusal_of_number(self, major: int, minor: int) -> int | None:
        for folder in self._scratch:
            try:
                with tempfile.TemporaryDirectory(prefix=".check-", dir=folder) as place:
                    node = Path(place) / "node"
                    os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
                    return self.refusal(node)
            except OSError:  # no such folder, read-only, or no CAP_MKNOD
                continue
        return None


def inspect_rights(
    root: Path, points: Sequence[MountPoint], rules: Sequence[str] | None, kernel: Kernel, *, in_container: bool
) -> list[NodeFinding]:
    """Capability, device nodes, device rules, /sys, network: a finding each. rules: version 1's device list."""
    found = [_capability(root, in_container), _dev(points, in_container)]
    found += [_block_devices(root, rules, kernel, in_container), _sys(root, points, kernel, in_container)]
    return [*found, *_network(root, in_container)]


def require_rights(findings: Iterable[NodeFinding]) -> None:
    """Raise DeviceRightsMissing if any finding makes attached disks unusable."""
    stopping = [finding for finding in findings if finding.stops]
    if stopping:
        raise DeviceRightsMissing(
            "This process could not use an attached disk: " + " ".join(finding.what for finding in stopping),
            remedy="\n".join(finding.remedy for finding in stopping),
            subjects=[finding.subject for finding in stopping],
        )


def _capability(root: Path, in_container: bool) -> NodeFinding:
    if text_of(root / "proc/self/uid_map").split() not in ([], _ALL_IDS):
        return NodeFinding(
            "capability",
            "problem",
            "This runs in a user namespace (rootless): nobody in one may set a disk read-only.",
            f"Start the container as root of the host (sudo podman run …); {_FLAGS}",
            stops=True,
        )
    if _effective(root) >> _SYS_ADMIN & 1:
        return NodeFinding("capability", "ok", "CAP_SYS_ADMIN is there: source disks are set read-only")
    return NodeFinding(
        "capability",
        "problem",
        "CAP_SYS_ADMIN is missing: a source disk could not be set read-only while it is read.",
        f"Start the container with --cap-add SYS_ADMIN (with Docker also --user 0); {_FLAGS}"
        if in_container
        else "Run as root, or give the unit AmbientCapabilities=CAP_SYS_ADMIN.",
        stops=True,
    )


def _effective(root: Path) -> int:
    for line in text_of(root / "proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value.strip(), 16)
    return 0


def _dev(points: Sequence[MountPoint], in_container: bool) -> NodeFinding:
    point = mount_of(PurePath("/dev"), points)
    kind = point.kind if point is not None else "nothing"
    if point is not None and "nodev" in point.options:
        what, remedy = "/dev is mounted with nodev: no device in it can be opened.", "Mount it without nodev."
        return NodeFinding("/dev", "problem", what, remedy, stops=True)
    if kind == "devtmpfs":
        return NodeFinding("/dev", "ok", "/dev is the kernel's own: new disks appear in it")
    if in_container:
        return NodeFinding(
            "/dev",
            "problem",
            f"/dev is the container's own ({kind}): a disk that is attached later gets no node in it.",
            f"Start it with --volume /dev:/dev (--privileged and --device only copy what is there then); {_FLAGS}",
            stops=True,
        )
    remedy = "Let udev run, or mount a devtmpfs on /dev."
    return NodeFinding("/dev", "note", f"/dev is on {kind}: something must make the nodes of new disks.", remedy)


def _block_devices(root: Path, rules: Sequence[str] | None, kernel: Kernel, in_container: bool) -> NodeFinding:
    refusals = {path.name: kernel.refusal(path) for path in _scsi_nodes(root)}
    shut = _shut_majors(rules, kernel)
    if shut.get(SCSI_MAJORS[0]) or errno.EPERM in refusals.values():
        return NodeFinding(
            "block devices",
            "problem",
            "The device rules of this process's control group deny SCSI disks.",
            f"Start the container with {_rule_flags(SCSI_MAJORS)}: {_FLAGS}"
            if in_container
            else "Give the unit DeviceAllow=block-sd rw.",
            stops=True,
        )
    closed = [name for name, number in refusals.items() if number == errno.EACCES]
    if closed:
        return NodeFinding(
            "block devices",
            "problem",
            f"/dev/{closed[0]} may not be opened by user {os.geteuid()}: nodes of disks are their group's.",
            f"Start the container with --group-add disk, or --user 0; {_FLAGS}"
            if in_container
            else "Run as root, or in the group disk.",
            stops=True,
        )
    return _some_or_all(shut, tried=[*refusals], in_container=in_container)


def _some_or_all(shut: dict[int, bool], *, tried: Sequence[str], in_container: bool) -> NodeFinding:
    denied = [major for major, is_shut in shut.items() if is_shut]
    if denied:
        flags = f"Start the container with {_rule_flags(denied)}: {_FLAGS}"
        remedy = flags if in_container else "Give the unit DeviceAllow=block-sd rw."
        what = f"The device rules deny SCSI disks of the numbers {', '.join(map(str, denied))}: the 17th and later."
        return NodeFinding("block devices", "note", what, remedy)
    if shut:
        return NodeFinding("block devices", "ok", "the device rules let every SCSI disk be opened")
    if tried:
        return NodeFinding("block devices", "ok", f"{', '.join(tried)} may be opened (asked, not done)")
    what = "Whether a SCSI disk may be opened cannot be told: there is none, and no node can be made."
    return NodeFinding("block devices", "note", what, "Run mover check once while a disk is attached.")


def _shut_majors(rules: Sequence[str] | None, kernel: Kernel) -> dict[int, bool]:
    """Major number → whether the device rules shut it; empty when that cannot be told."""
    if rules is not None:
        return {major: not allows_blocks_of(rules, major) for major in SCSI_MAJORS}
    refusals = {major: kernel.refusal_of_number(major, 255) for major in SCSI_MAJORS}
    return {major: number == errno.EPERM for major, number in refusals.items() if number is not None}


def _rule_flags(majors: Sequence[int]) -> str:
    first = f"--device-cgroup-rule='b {majors[0]}:* rw'"
    return f"{first}, and the same for {', '.join(map(str, majors[1:]))}" if majors[1:] else first


def _scsi_nodes(root: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(root / "sys/block"))
    except OSError:
        return []
    return [root / "dev" / name for name in names if name.startswith("sd") and (root / "dev" / name).exists()]


def _sys(root: Path, points: Sequence[MountPoint], kernel: Kernel, in_container: bool) -> NodeFinding:
    point = mount_of(PurePath("/sys"), points)
    if point is None or point.kind != "sysfs" or not (root / "sys/block").is_dir():
        return NodeFinding(
            "/sys",
            "problem",
            "There is no /sys here: what a disk says about itself cannot be read, so none could be proven.",
            f"Start the container with --volume /sys:/sys:ro; {_FLAGS}" if in_container else "Mount a sysfs on /sys.",
            stops=True,
        )
    scans = sorted(root.glob("sys/class/scsi_host/host*/scan"))
    if "ro" not in point.options and not any(kernel.refusal(scan, os.W_OK) for scan in scans):
        return NodeFinding("/sys", "ok", "/sys is there, SCSI hosts may be asked to look again")
    return NodeFinding(
        "/sys",
        "note",
        "SCSI hosts cannot be asked to look again: a disk that does not announce itself never comes.",
        "Needed only where attached disks come late: "
        + ("start the container with --volume /sys:/sys and --user 0." if in_container else "run as root."),
    )


def _network(root: Path, in_container: bool) -> list[NodeFinding]:
    """Prism knows us by our NICs; a network namespace of one's own shows none of the machine's."""
    nics = [nic for nic in (root / "sys/class/net").glob("*") if nic.name != "lo"]
    if not in_container or any((nic / "device").exists() for nic in nics):
        return []
    return [
        NodeFinding(
            "network",
            "problem",
            "The machine's NICs are not seen from here: Prism could not tell which VM this is.",
            f"Start the container with --network host; {_FLAGS}",
            stops=True,
        )
    ]


def text_of(path: Path) -> str:
    """A small file of the kernel's; empty when it is not there or may not be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
