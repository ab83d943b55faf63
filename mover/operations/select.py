"""Which VMs are meant, by name, UUID or pattern; and which disks are left out. Pure.

The Proxy VM itself and VMs that the cluster refuses to have backed up are never chosen.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mover.errors import AmbiguousName, NoSuchVm, ProxyUnfit, RequestRefused, UsageError
from mover.model.machine import Disk, DiskKind, Slot, Vm
from mover.units import parse_size

_PATTERN = frozenset("*?[")
_SHOWN = 5


def select_vms(vms: Collection[Vm], wanted: Sequence[str], *, proxy_uuid: str) -> list[Vm]:
    """The VMs that the words mean, each once, in order of the words.

    A word is a UUID, an exact name, or a pattern with ``*``, ``?``, ``[…]``. Raises NoSuchVm
    with near names, AmbiguousName (several VMs of one exact name), ProxyUnfit and
    RequestRefused for VMs that must not be backed up, if named; patterns pass over those.
    """
    chosen: dict[str, Vm] = {}
    for word in wanted:
        for vm in _matches(vms, word, proxy_uuid):
            chosen.setdefault(vm.uuid, vm)
    return list(chosen.values())


def _matches(vms: Collection[Vm], word: str, proxy_uuid: str) -> list[Vm]:
    if _PATTERN & set(word):
        found = [vm for vm in vms if fnmatch.fnmatchcase(vm.name, word) and may_back_up(vm, proxy_uuid)]
        if found:
            return sorted(found, key=lambda vm: (vm.name, vm.uuid))
    # A pattern that matches nothing may be the very name of a VM: [old] web01.
    vm = find_vm(vms, word)
    check_may_back_up(vm, proxy_uuid)
    return [vm]


def find_vm(vms: Collection[Vm], word: str) -> Vm:
    """The one VM of that name or UUID. Raises NoSuchVm, AmbiguousName."""
    found = [vm for vm in vms if vm.uuid == word.lower()] or [vm for vm in vms if vm.name == word]
    if not found:
        raise _no_such(vms, word)
    if len(found) > 1:
        listed = ", ".join(sorted(vm.uuid for vm in found))
        raise AmbiguousName(
            f"{len(found)} VMs are named {word!r}",
            remedy=f"Name one by its UUID: {listed}.",
            uuids=sorted(vm.uuid for vm in found),
        )
    return found[0]


def may_back_up(vm: Vm, proxy_uuid: str) -> bool:
    """Neither ourselves nor a VM that the cluster refuses."""
    return vm.uuid != proxy_uuid and vm.refusal is None


def check_may_back_up(vm: Vm, proxy_uuid: str) -> None:
    """Raises ProxyUnfit for ourselves, RequestRefused with the cluster's reason."""
    if vm.uuid == proxy_uuid:
        raise ProxyUnfit(
            f"{vm.name} is the Proxy VM that this mover runs in",
            remedy="Back it up from another node, or with its cluster's own snapshots.",
        )
    if vm.refusal is not None:
        raise RequestRefused(
            f"The cluster refuses backups of {vm.name}: {vm.refusal}",
            remedy="Leave it out: such VMs are rebuilt, not restored.",
        )


def check_has_disk(vm: Vm) -> None:
    """Raises UsageError for a VM of which a snapshot would hold nothing."""
    if not vm.data_disks():
        groups = any(disk.kind is DiskKind.VOLUME_GROUP for disk in vm.disks)
        why = ": volume groups are in no snapshot of it" if groups else ""
        raise UsageError(
            f"{vm.name} has no disk to back up{why}",
            remedy="Leave it out, or add its disk first: a restore point needs one.",
        )


def _no_such(vms: Collection[Vm], word: str) -> NoSuchVm:
    near = difflib.get_close_matches(word, sorted({vm.name for vm in vms}), 3, 0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See the VMs there are with: mover inventory"
    return NoSuchVm(f"No VM matches {word!r}", remedy=hint, near=near)


@dataclass(frozen=True, slots=True)
class DiskFilter:
    """Leaves out disks by slot (``scsi.2``), bus (``ide``), or size (``>2TiB``, ``<1GiB``, ``=40GiB``)."""

    text: str

    def __post_init__(self) -> None:
        self.excludes(Disk("", Slot("scsi", 0), kind=DiskKind.DISK))

    @property
    def is_rule(self) -> bool:
        """By size: that no disk is as large is ordinary. A slot or bus that is not there is more likely a slip."""
        return self.text.strip()[:1] in ("<", ">", "=")

    def excludes(self, disk: Disk) -> bool:
        """Raises UsageError when the text is none of the three."""
        text = self.text.strip().lower()
        if text[:1] in "<>=" and text:
            limit = parse_size(text[1:])
            sizes = {"<": disk.size_bytes < limit, ">": disk.size_bytes > limit, "=": disk.size_bytes == limit}
            return sizes[text[0]]
        if text.isalpha():
            return disk.slot.bus == text
        try:
            return disk.slot == Slot.parse(text)
        except ValueError:
            raise UsageError(
                f"{self.text!r} excludes nothing: it is no slot, bus or size",
                remedy="Write a slot (scsi.2), a bus (sata) or a size (>2TiB, <1GiB, =40GiB).",
            ) from None


def exclusions(disks: Sequence[Disk], filters: Sequence[str]) -> dict[str, str]:
    """Device UUID → the filter that leaves it out. Raises UsageError if all are left out."""
    parsed = [DiskFilter(text) for text in filters]
    found = {disk.device_uuid: item.text for disk in disks for item in parsed if item.excludes(disk)}
    if disks and len(found) == len(disks):
        raise UsageError("All disks of the VM are excluded", remedy="Exclude fewer: a restore point needs a disk.")
    return found


def idle_exclusions(vm: Vm, filters: Sequence[str]) -> list[str]:
    """In words: which filters leave out nothing of this VM, rules by size aside."""
    idle = [item.text for item in _idle([vm], filters) if not item.is_rule]
    return [f"--exclude {text} matches no disk of {vm.name}, which has {_slots(vm)}" for text in idle]


def check_exclusions(vms: Sequence[Vm], filters: Sequence[str]) -> list[str]:
    """Raises UsageError for a slot or bus that none of these VMs has; gives the rules by size that match nothing."""
    idle = _idle(vms, filters)
    for item in idle:
        if not item.is_rule:
            there = "; ".join(f"{vm.name} has {_slots(vm)}" for vm in vms[:_SHOWN])
            raise UsageError(
                f"--exclude {item.text} matches no disk of any VM chosen",
                remedy=f"Correct it, or leave it out: {there}{' …' if len(vms) > _SHOWN else ''}.",
            )
    return [item.text for item in idle]


def _idle(vms: Sequence[Vm], filters: Sequence[str]) -> list[DiskFilter]:
    disks = [disk for vm in vms for disk in vm.data_disks()]
    return [item for item in map(DiskFilter, filters) if not any(item.excludes(disk) for disk in disks)]


def _slots(vm: Vm) -> str:
    return ", ".join(str(disk.slot) for disk in vm.data_disks()) or "no disk"
