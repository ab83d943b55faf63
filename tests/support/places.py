"""Trees that look like a machine or a container, for questions about what they allow."""

from __future__ import annotations

import os
from pathlib import Path

from mover.config import Settings
from mover.device.container import inspect_below
from mover.device.rights import NodeFinding

FULL = 0x1FFFFFFFFFF
SYS_ADMIN = 1 << 21
HOST = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
24 27 0:6 / /dev rw,nosuid - devtmpfs devtmpfs rw,size=4k
27 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
"""

CONTAINER = """\
600 580 0:50 / / ro,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u
601 600 0:52 / /proc rw,nosuid - proc proc rw
602 600 0:6 / /dev rw,nosuid - devtmpfs devtmpfs rw
603 600 0:22 / /sys rw,nosuid - sysfs sysfs rw
604 603 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw
605 600 8:1 /var/lib/containers/storage/volumes/mover/_data /var/lib/mover rw - ext4 /dev/sda1 rw
"""

UNITS = {"state": Path("/var/lib/mover")}


class ToldKernel:
    """Answers as told. refused: path or major number → errno; numbers: False where no node can be made."""

    def __init__(self, *, numbers: bool = True, refused: dict[object, int] | None = None) -> None:
        self._numbers = numbers
        self._refused = refused or {}

    def refusal(self, path: Path, mode: int = os.R_OK | os.W_OK) -> int:
        return self._refused.get(path.name, 0)

    def refusal_of_number(self, major: int, minor: int) -> int | None:
        return self._refused.get(major, 0) if self._numbers else None


class Place:
    """A machine below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment: dict[str, str] = {}
        self.kernel = ToldKernel()
        self.mounts(HOST)
        self.file("proc/self/uid_map", "         0          0 4294967295\n")
        self.file("proc/self/status", f"Name:\tmover\nCapEff:\t{FULL:016x}\n")
        self.file("proc/self/cgroup", "0::/system.slice/mover.service\n")
        self.file("sys/class/net/eth0/device/vendor", "0x1af4\n")
        self.file("sys/class/net/lo/address", "00:00:00:00:00:00\n")
        self.group("/system.slice/mover.service")
        (root / "sys/block/sda").mkdir(parents=True)
        self.file("dev/sda")

    def file(self, path: str, text: str = "") -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
        return full

    def mounts(self, text: str) -> None:
        self.file("proc/self/mountinfo", text)

    def group(self, path: str, **files: str) -> None:
        """Files of a control group; ``_`` for the dot in their names."""
        (self.root / f"sys/fs/cgroup{path}").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            self.file(f"sys/fs/cgroup{path}/{name.replace('_', '.', 1)}", text)

    def contain(self) -> None:
        """Podman, rightly started."""
        self.mounts(CONTAINER)
        self.file("run/.containerenv")
        self.file("proc/self/cgroup", "0::/\n")

    def look(self, settings: Settings | None = None, folders: dict[str, Path] | None = None) -> dict[str, NodeFinding]:
        found = inspect_below(
            self.root, settings or Settings(), UNITS if folders is None else folders, self.kernel, self.environment
        )
        assert all(line.remedy for line in found if line.state != "ok")
        return {line.subject: line for line in found}

    def states(self) -> dict[str, str]:
        return {subject: line.state for subject, line in self.look().items() if line.state != "ok"}
