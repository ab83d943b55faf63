"""Would this node activate a guest's volume that is attached to it? Looks, explains, refuses.

A clone carries the guest's LVM, md and file-system labels. If the node was made from the
same template, even its own root volume has a twin. So whatever scans new disks by itself
must be told to leave them alone, before the first attach.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mover.device import guard_lvm, guard_multipath
from mover.device.container import recognise
from mover.errors import GuardRefused

_TOOL_TIMEOUT_S = 15.0

Run = Callable[[Sequence[str]], str | None]
"""A program's standard output; None when it is not there or fails."""


@dataclass(frozen=True, slots=True)
class GuardFinding:
    """One line of ``mover check``."""

    subject: str
    """lvm | multipath | md | automount | btrfs | zfs | container"""
    state: Literal["ok", "note", "problem"]
    """note: worth knowing, refuses nothing."""
    what: str
    remedy: str = ""
    """Exact text to paste; empty when all is well."""

    @property
    def is_ok(self) -> bool:
        return self.state != "problem"


def runner(root: Path) -> Run:
    """Programs of this node if ``root`` is it; elsewhere (a lab's folder) there are none."""
    return run_tool if root == Path("/") else lambda _: None


def run_tool(command: Sequence[str]) -> str | None:
    """Run one of the node's own tools, in English, with a time limit."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    program = shutil.which(command[0], path=path)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_TIMEOUT_S,
            check=False,
            env={"LC_ALL": "C", "PATH": path},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def inspect_node(root: Path, run: Run) -> list[GuardFinding]:
    """Everything that could act on a new disk by itself, one finding each. Blocking; changes nothing."""
    found = [_lvm(root, run), _multipath(root, run), _md(root, run), _automount(root)]
    return [*found, *_notes(root)]


def require_safe(findings: Iterable[GuardFinding]) -> None:
    """Raise GuardRefused if any finding is a problem."""
    problems = [finding for finding in findings if not finding.is_ok]
    if problems:
        raise GuardRefused(
            "This node would touch an attached guest disk: " + " ".join(problem.what for problem in problems),
            remedy="\n".join(problem.remedy for problem in problems),
            subjects=[problem.subject for problem in problems],
        )


def _lvm(root: Path, run: Run) -> GuardFinding:
    in_force = run(["lvmconfig", "--typeconfig", "full", "devices"])
    packaged = root / "etc/lvm/lvm.conf"
    # Without the tool (a container shows the host's /etc at most) the files themselves are read.
    texts = [in_force] if in_force else [_read(packaged), _read(root / "etc/lvm/lvmlocal.conf")]
    is_installed = bool(in_force) or packaged.exists() or _has_program(root, "lvm")
    state, what, remedy = guard_lvm.judge(root, guard_lvm.parse_lvm(*texts), is_installed=is_installed)
    return GuardFinding("lvm", state, what, remedy)


def _multipath(root: Path, run: Run) -> GuardFinding:
    config = root / "etc/multipath.conf"
    if not (config.exists() or _has_program(root, "multipathd")):
        return GuardFinding("multipath", "ok", "multipath is not installed.")
    unit = run(["systemctl", "show", "multipathd.service", "--property=ActiveState,UnitFileState"])
    if unit is not None and _is_switched_off(unit):
        return GuardFinding("multipath", "ok", "multipathd is switched off.")
    files = [config, *sorted(root.glob("etc/multipath/conf.d/*.conf"))]
    text = run(["multipath", "-t"]) or "\n".join(_read(path) for path in files)
    state, what, remedy = guard_multipath.judge(guard_multipath.parse_multipath(text))
    return GuardFinding("multipath", state, what, remedy)


def _is_switched_off(unit: str) -> bool:
    facts = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    return facts.get("ActiveState") == "inactive" and facts.get("UnitFileState") in ("disabled", "masked", "")


def _md(root: Path, run: Run) -> GuardFinding:
    paths = [root / "etc/mdadm.conf", root / "etc/mdadm/mdadm.conf"]
    paths += sorted(root.glob("etc/mdadm.conf.d/*.conf")) + sorted(root.glob("etc/mdadm/mdadm.conf.d/*.conf"))
    if not _has_program(root, "mdadm") and run(["mdadm", "--version"]) is None:
        return GuardFinding("md", "ok", "mdadm is not installed.")
    words = md_auto("\n".join(_read(path) for path in paths))
    if words[:1] == ("-all",):
        return GuardFinding("md", "ok", "mdadm assembles only the arrays that its file names.")
    place = "/etc/mdadm/mdadm.conf" if (root / "etc/mdadm").is_dir() else "/etc/mdadm.conf"
    says = f"AUTO {' '.join(words)}" if words else "no AUTO line"
    return GuardFinding(
        "md",
        "problem",
        f"mdadm would assemble a guest's array ({says}).",
        f"Let mdadm --detail --scan >> {place} name this node's own arrays, then put into it, as the only AUTO line:\n"
        "    AUTO -all\nthen rebuild the initramfs (dracut -f, or update-initramfs -u)",
    )


def md_auto(text: str) -> tuple[str, ...]:
    """The words of mdadm.conf's AUTO line, in order; the first that fits an array decides on it."""
    joined = re.sub(r"\n[ \t]+", " ", re.sub(r"#.*", "", text))
    for line in joined.splitlines():
        words = line.split()
        # mdadm knows its keywords by their first three letters, in any case.
        if words and len(words[0]) >= 3 and "auto".startswith(words[0].lower()):
            return tuple(word.lower() for word in words[1:])
    return ()


def _automount(root: Path) -> GuardFinding:
    has_udisks = any((root / path).exists() for path in _UDISKS)
    has_usbmount = (root / "etc/usbmount/usbmount.conf").exists()
    if not has_usbmount and not (has_udisks and _is_desktop(root)):
        return GuardFinding("automount", "ok", "Nothing here mounts new disks by itself.")
    if any(_IGNORES.search(_read(path)) for path in sorted(root.glob("etc/udev/rules.d/*.rules"))):
        return GuardFinding("automount", "ok", "A udev rule keeps automounters off Nutanix disks.")
    return GuardFinding(
        "automount",
        "problem",
        "This node has a desktop (udisks) or usbmount that mounts new disks by itself.",
        "Put into /etc/udev/rules.d/99-mover.rules:\n"
        '    SUBSYSTEM=="block", ENV{ID_VENDOR}=="NUTANIX", ENV{UDISKS_IGNORE}="1", ENV{UDISKS_AUTO}="0"\n'
        "then run: udevadm control --reload (and remove usbmount), or use a node without a desktop.",
    )


_UDISKS = ("usr/lib/systemd/system/udisks2.service", "lib/systemd/system/udisks2.service")
_IGNORES = re.compile(r'^[^#\n]*NUTANIX[^\n]*UDISKS_(?:IGNORE\}="1"|AUTO\}="0")', re.MULTILINE)


def _is_desktop(root: Path) -> bool:
    for place in ("etc/systemd/system/default.target", "usr/lib/systemd/system/default.target"):
        path = root / place
        if path.is_symlink():
            return path.readlink().name == "graphical.target"
    return False


def _notes(root: Path) -> list[GuardFinding]:
    notes = []
    if re.search(r" - btrfs ", _read(root / "proc/self/mountinfo")):
        notes.append(
            GuardFinding(
                "btrfs",
                "note",
                "This node uses btrfs, which confuses disks of equal UUID: never back up its own template here.",
            )
        )
    if (root / "sys/module/zfs").exists():
        notes.append(
            GuardFinding(
                "zfs", "note", "ZFS is loaded: import pools by name, never all (zpool import -a), on this node."
            )
        )
    if recognise(root, os.environ if root == Path("/") else {}) is not None:
        notes.append(
            GuardFinding(
                "container",
                "note",
                "This is a container: the host's LVM, multipath and md decide, and are not seen from here.",
                "Run mover check once on the host itself, from a checkout: make install, .venv/bin/mover check.",
            )
        )
    return notes


def _has_program(root: Path, name: str) -> bool:
    return any((root / folder / name).exists() for folder in ("usr/sbin", "sbin", "usr/bin"))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
