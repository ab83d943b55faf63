"""What the control groups above this process allow it: memory, processors, tasks, io, devices.

Both versions of control groups, also side by side; read below a root folder, nothing is
written. What no group limits is None; what cannot be read counts as not limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from mover.device.mountinfo import MountPoint, mount_points
from mover.units import format_rate

_UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as the largest number of whole pages."""
_THROTTLES = {
    "blkio.throttle.read_bps_device": "reads",
    "blkio.throttle.write_bps_device": "writes",
    "blkio.throttle.read_iops_device": "reads",
    "blkio.throttle.write_iops_device": "writes",
}
_KEYS = {"rbps": "reads", "wbps": "writes", "riops": "reads", "wiops": "writes"}
_RULE = re.compile(r"([abc]) (\*|\d+):(\*|\d+) ([rwm]+)")


@dataclass(frozen=True, slots=True)
class Limits:
    """The tightest of each along the path of groups that can be seen from here."""

    memory_bytes: int | None
    cores: float | None
    """Processor seconds per second."""
    tasks: int | None
    """Processes and threads together."""
    throttles: tuple[str, ...]
    """Devices whose io is limited, in words."""
    device_rules: tuple[str, ...] | None
    """Version 1's white list; None where there is none or version 2, whose rules cannot be read."""


def limits(root: Path) -> Limits:
    """Raises OSError when the process's own mounts cannot be read."""
    groups = _Groups(root)
    rules = groups.texts("devices", "devices.list")
    return Limits(
        memory_bytes=_least(groups, "memory", "memory.max", "memory.limit_in_bytes"),
        cores=min(_quotas(groups), default=None),
        tasks=_least(groups, "pids", "pids.max"),
        throttles=tuple(sorted(set(_throttles(groups)))),
        device_rules=tuple(rules[0].splitlines()) if rules else None,
    )


def allows_blocks_of(rules: Sequence[str], major: int) -> bool:
    """Whether version 1's rules let every block device of that major number be read and written."""
    for rule in rules:
        match = _RULE.fullmatch(rule.strip())
        if match is None or match[1] not in "ab" or match[3] != "*":
            continue
        if match[2] in ("*", str(major)) and {"r", "w"} <= set(match[4]):
            return True
    return False


class _Groups:
    """Where the files of each controller stand, for this process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._mounts = [point for point in mount_points(root) if point.kind in ("cgroup", "cgroup2")]
        self._own = dict(_own_groups(root))

    def texts(self, controller: str, *names: str) -> list[str]:
        """What the files of these names say, from our own group upwards."""
        found = []
        for folder in self._folders(controller):
            for name in names:
                try:
                    found.append((folder / name).read_text("ascii", "replace").strip())
                except OSError:  # not this version's name, or the topmost group, which has no limits
                    continue
        return found

    def _folders(self, controller: str) -> Iterator[Path]:
        for point in self._mounts:
            if point.kind == "cgroup" and controller not in point.super_options:
                continue
            own = self._own.get("" if point.kind == "cgroup2" else controller)
            if own is not None:
                yield from _upwards(self._root, point, own)


def _own_groups(root: Path) -> Iterator[tuple[str, PurePath]]:
    """Controller ("" for version 2) → our group's path."""
    for line in (root / "proc/self/cgroup").read_text("utf-8", "surrogateescape").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0":
            yield "", PurePath(path)
        else:
            yield from ((name, PurePath(path)) for name in names.split(",") if name)


def _upwards(root: Path, point: MountPoint, own: PurePath) -> Iterator[Path]:
    """From our group's folder to the top of the mount. A container may see its own group only, as the top."""
    top = root / point.target.relative_to("/")
    try:
        below = own.relative_to(point.source_root)
    except ValueError:
        below = PurePath()
    folder = top / below
    if not folder.is_dir():
        folder = top
    while folder != top:
        yield folder
        folder = folder.parent
    yield top


def _least(groups: _Groups, controller: str, *names: str) -> int | None:
    numbers = [int(text) for text in groups.texts(controller, *names) if text.isdecimal()]
    return min((number for number in numbers if number < _UNLIMITED), default=None)


def _quotas(groups: _Groups) -> Iterator[float]:
    for text in groups.texts("cpu", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)
    pairs = zip(groups.texts("cpu", "cpu.cfs_quota_us"), groups.texts("cpu", "cpu.cfs_period_us"), strict=False)
    for quota, period in pairs:
        if quota.isdecimal() and period.isdecimal():  # no quota is written as -1
            yield int(quota) / int(period)


def _throttles(groups: _Groups) -> Iterator[str]:
    for name, verb in _THROTTLES.items():
        for text in groups.texts("blkio", name):
            for line in text.splitlines():
                device, _, value = line.partition(" ")
                yield _words(device, verb, value, is_bytes="bps" in name)
    for text in groups.texts("io", "io.max"):
        for line in text.splitlines():
            device, *pairs = line.split()
            for key, _, value in (pair.partition("=") for pair in pairs):
                if key in _KEYS and value.isdecimal():
                    yield _words(device, _KEYS[key], value, is_bytes=key.endswith("bps"))


def _words(device: str, verb: str, value: str, *, is_bytes: bool) -> str:
    return f"{device} {verb} {format_rate(int(value)) if is_bytes else f'{value}/s'}"
