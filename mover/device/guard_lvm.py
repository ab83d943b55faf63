"""Would LVM take a guest's disk? Reads its settings, tries its filters on names an attached disk may get.

With a devices file LVM ignores what is not listed. Otherwise the filters decide, and the
usual mistake is a pattern without ``$``: ``a|^/dev/sda|`` accepts /dev/sdaa, too.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mover.device import sysfs

_LIST = r'\[\s*(?:"(?:[^"\\]|\\.)*"\s*,?\s*)*\]'
_ASSIGNMENT = re.compile(rf'(?P<key>\w+)\s*=\s*(?P<value>{_LIST}|"(?:[^"\\]|\\.)*"|[\w./+-]+)')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DEFAULT = re.compile(r"^\s*#\s*use_devicesfile\s*=\s*([01])\s*$", re.MULTILINE)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_SAMPLE_IDS = (
    "scsi-1NUTANIX_NFS_1_0_5100_b29f577f_1354_4c4a_ae12_f3809dea44cf",
    "scsi-SNUTANIX_VDISK_NFS_1_0_5100_b29f577f_1354_4c4a_ae12_f3809dea44cf",
    "scsi-36506b8d0123456789abcdef012345678",
    "wwn-0x6506b8d0123456789abcdef012345678",
)


@dataclass(frozen=True, slots=True)
class LvmSettings:
    """What of lvm.conf matters here; None: not set."""

    use_devices_file: bool | None = None
    devices_file: str = "system.devices"
    filter: tuple[str, ...] | None = None
    global_filter: tuple[str, ...] | None = None


def parse_lvm(*texts: str) -> LvmSettings:
    """Later texts override earlier ones (lvm.conf, lvmlocal.conf; or the output of lvmconfig alone).

    A packaged lvm.conf states the built-in default of ``use_devicesfile`` in a comment;
    that counts where nothing else is said, since it differs between distributions.
    """
    values: dict[str, str] = {}
    for text in texts:
        if (default := _DEFAULT.search(text)) is not None:
            values.setdefault("use_devicesfile", default[1])
        values.update((match["key"], match["value"]) for match in _ASSIGNMENT.finditer(_uncommented(text)))
    flag = values.get("use_devicesfile")
    names = _strings(values.get("devicesfile"))
    return LvmSettings(
        use_devices_file=None if flag is None else flag == "1",
        devices_file=names[0] if names else "system.devices",
        filter=_strings(values.get("filter")),
        global_filter=_strings(values.get("global_filter")),
    )


def _uncommented(text: str) -> str:
    lines = (re.sub(r'^((?:[^"#]|"(?:[^"\\]|\\.)*")*)#.*$', r"\1", line) for line in text.splitlines())
    return "\n".join(lines)


def _strings(value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(re.sub(r"\\([\"\\])", r"\1", text) for text in _STRING.findall(value))


class FilterError(ValueError):
    """A filter that LVM, too, would not understand."""


def verdict(patterns: Sequence[str], names: Iterable[str]) -> tuple[bool, str | None]:
    """(accepted, deciding pattern) for a device with these path names, by LVM's rule.

    Per name the first pattern that matches decides; one accepted name is enough; a device
    that nothing matches is accepted. Raises FilterError.
    """
    rules = [(pattern, *_rule(pattern)) for pattern in patterns]
    rejected_by: str | None = None
    for name in names:
        for pattern, accepts, regex in rules:
            if regex.search(name):
                if accepts:
                    return True, pattern
                rejected_by = pattern
                break
    return rejected_by is None, rejected_by


def _rule(pattern: str) -> tuple[bool, re.Pattern[str]]:
    """``a|^/dev/sda1$|`` → (True, regex); any delimiter goes."""
    text = pattern.strip()
    if len(text) < 3 or text[0] not in "ar" or text[-1] != _CLOSING.get(text[1], text[1]):
        raise FilterError(f"{pattern!r} is no filter pattern")
    try:
        return text[0] == "a", re.compile(text[2:-1])
    except re.error as error:
        raise FilterError(f"{pattern!r} is no filter pattern: {error}") from None


def leak(patterns: Sequence[str], taken: Collection[str]) -> tuple[str, str | None] | None:
    """(device path, pattern) of a disk not there yet that would be accepted; None when none would be.

    ``taken``: kernel names in use now, which an attached disk cannot get. Names from sda to
    sdzzz's beginning are tried, whole and with partitions. Raises FilterError.
    """
    for name in _future_names():
        if name in taken:
            continue
        for suffix, link in (("", ""), ("1", "-part1")):
            aliases = [f"/dev/{name}{suffix}", *(f"/dev/disk/by-id/{text}{link}" for text in _SAMPLE_IDS)]
            is_accepted, pattern = verdict(patterns, aliases)
            if is_accepted:
                return aliases[0], pattern
    return None


def _future_names() -> Iterator[str]:
    for width in (1, 2):
        for letters in itertools.product(string.ascii_lowercase, repeat=width):
            yield f"sd{''.join(letters)}"
    yield "sdaaa"


Lvm = tuple[Literal["ok", "note", "problem"], str, str]
"""(state, what, remedy)"""


def judge(root: Path, settings: LvmSettings, *, is_installed: bool) -> Lvm:
    """What LVM would do with an attached disk on the node below ``root``."""
    if not is_installed:
        return "ok", "LVM is not installed.", ""
    listed = root / "etc/lvm/devices" / settings.devices_file
    if settings.use_devices_file and listed.exists():
        return _judge_devices_file(listed)
    if settings.use_devices_file:
        what = f"LVM's devices file is switched on, but {listed} does not exist, so LVM takes every disk."
        return "problem", what, _devices_file_remedy(root, settings.devices_file)
    return _judge_filters(root, settings)


def _judge_devices_file(listed: Path) -> Lvm:
    try:
        entries = [line for line in listed.read_text("utf-8", "replace").splitlines() if "IDTYPE=" in line]
    except OSError as error:
        return "problem", f"{listed} cannot be read: {error.strerror}", "Run as root."
    by_name = [line for line in entries if "IDTYPE=devname" in line]
    if by_name:
        what = f"LVM uses only what {listed} lists, but {len(by_name)} entry of it goes by device name, which can move."
        return "note", what, "Give that disk a serial or WWN, then run: lvm lvmdevices --update"
    return "ok", f"LVM uses only the {len(entries)} device(s) listed in {listed}.", ""


def _judge_filters(root: Path, settings: LvmSettings) -> Lvm:
    taken = {disk.name for disk in sysfs.disks(root)}
    for title, patterns in (("global_filter", settings.global_filter), ("filter", settings.filter)):
        if patterns is None:
            return "problem", f"LVM has no {title}: it would take a guest's volumes.", _filter_remedy(root)
        try:
            found = leak(patterns, taken)
        except FilterError as error:
            return "problem", f"LVM's {title}: {error}.", _filter_remedy(root)
        if found is not None:
            return "problem", _leak_text(title, *found), _filter_remedy(root)
    return "ok", "LVM's filters reject every disk that is not there yet.", ""


def _leak_text(title: str, path: str, pattern: str | None) -> str:
    if pattern is None:
        return f"LVM's {title} says nothing of {path}, so LVM would take it: it must end with a reject-all."
    if pattern[2:-1] in ("", ".*", "^.*", ".*$", "^.*$"):
        return f"LVM's {title} accepts every disk, by {pattern!r}: it would take a guest's volumes."
    if "$" not in pattern:
        return f"LVM's {title} accepts {path} by {pattern!r}: without $ at its end it matches longer names, too."
    return f"LVM's {title} accepts {path} by {pattern!r}."


def own_volumes(root: Path) -> tuple[str, ...]:
    """Paths of the disks and partitions that hold the node's own active logical volumes, stable ones first."""
    links = _stable_links(root)
    found = []
    for disk in sysfs.disks(root):
        folder = root / "sys/block" / disk.name
        places = [folder, *sorted(path.parent for path in folder.glob(f"{disk.name}*/dev"))]
        found += [place.name for place in places if any(_is_lvm(root, holder) for holder in _holders(place))]
    return tuple(links.get(name, f"/dev/{name}") for name in found)


def _stable_links(root: Path) -> dict[str, str]:
    paths = sorted((root / "dev/disk/by-id").glob("*"), key=lambda path: (not path.name.startswith("wwn-"), path.name))
    found: dict[str, str] = {}
    for path in paths:
        if path.is_symlink():
            found.setdefault(path.readlink().name, f"/dev/disk/by-id/{path.name}")
    return found


def _holders(place: Path) -> list[str]:
    return [path.name for path in (place / "holders").glob("*")]


def _is_lvm(root: Path, holder: str) -> bool:
    try:
        return (root / "sys/block" / holder / "dm/uuid").read_text().startswith("LVM-")
    except OSError:
        return False


def _filter_remedy(root: Path) -> str:
    accept = [f'"a|^{path}$|"' for path in own_volumes(root)]
    text = ", ".join([*accept, '"r|.*|"'])
    return (
        "While no guest disk is attached, put into the devices section of /etc/lvm/lvm.conf:\n"
        f"    global_filter = [ {text} ]\n"
        f"    filter = [ {text} ]\n"
        "then rebuild the initramfs (dracut -f, or update-initramfs -u) and check with: pvs -a"
    )


def _devices_file_remedy(root: Path, name: str) -> str:
    if own_volumes(root):
        return "While no guest disk is attached, run:\n    lvm vgimportdevices -a\nthen check with: lvm lvmdevices"
    return (
        "This node has no volume group of its own, so run:\n"
        f"    mkdir -p /etc/lvm/devices && touch /etc/lvm/devices/{name}\nthen check with: pvs -a"
    )
