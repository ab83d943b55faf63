"""Plug disks into VMs and out again, each noted in the ledger before and after.

Prism's attach has no key: one lease per VM, one attach at a time, into a free slot that we
choose. After an unknown effect we look, and never send again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mover.catalog.ledger import Entry, Kind
from mover.errors import (
    Conflict,
    EffectUnknown,
    HypervisorError,
    HypervisorUnreachable,
    NoFreeSlot,
    Overloaded,
    SlotOccupied,
)
from mover.model.machine import Attachment, CloneSource, Disk, EmptyDisk, Slot
from mover.operations.node import Node

BUS = "scsi"
SLOTS = 256
_ROUNDS = 3
_LOOKS = 4
_LOOK_PAUSE_S = 2.0
# After these the call may still take effect; after any other answer it has or has not.
_UNSETTLED = (EffectUnknown, HypervisorUnreachable, Overloaded, Conflict)


@dataclass(frozen=True, slots=True)
class Wish:
    """One attach: what to plug in where, and whose it is in the ledger's words."""

    job: str
    kind: Kind
    ordinal: int
    vm_uuid: str
    source: CloneSource | EmptyDisk
    slot: Slot | None = None
    """Exactly there; None: a free one is chosen."""
    first: int | None = None
    """The lowest index to be chosen; None: the setting's, which is for the Proxy VM."""
    is_own_vm: bool = False
    """This job made the VM and still owns it, so nobody else plugs disks there."""


async def plug(node: Node, wish: Wish) -> tuple[Entry, Attachment]:
    """Attach, and note what was made.

    Raises NoFreeSlot, SlotOccupied, and what ``Hypervisor.attach`` raises; whatever may have
    been made then stands in the ledger.
    """
    async with node.lanes.lease(wish.vm_uuid):
        return await plug_leased(node, wish)


async def plug_leased(node: Node, wish: Wish) -> tuple[Entry, Attachment]:
    """``plug``, by who holds the VM's lease already."""
    for last in (False,) * (_ROUNDS - 1) + (True,):
        try:
            return await _plug_once(node, wish)
        except SlotOccupied:
            # An administrator was faster: look again, take another one.
            if last or wish.slot is not None:
                raise
    raise AssertionError("unreachable")


async def _plug_once(node: Node, wish: Wish) -> tuple[Entry, Attachment]:
    vm_uuid, source = wish.vm_uuid, wish.source
    disks = await node.hypervisor.disks(vm_uuid)
    taken = await _slots_in_doubt(node, vm_uuid)
    slot = wish.slot or choose_slot(disks, wish, node, taken)
    if slot is None:
        raise await _no_free_slot(node, vm_uuid)
    known = sorted(disk.vmdisk_uuid for disk in disks if disk.vmdisk_uuid)
    facts = {"vm_uuid": vm_uuid, "slot": str(slot), "known": known, **_source_facts(source)}
    facts["is_own_vm"] = wish.is_own_vm
    if isinstance(source, EmptyDisk):
        facts["is_told_by_slot"] = wish.slot is None and slot != min(free_slots(disks, taken=taken))
    entry = await node.ledger.intend(wish.kind, job=wish.job, ordinal=wish.ordinal, facts=facts)
    try:
        attachment = await node.hypervisor.attach(vm_uuid, slot, source)
    except EffectUnknown as error:
        attachment = await _look(node, vm_uuid, slot, source, known, error)
    except SlotOccupied:
        await node.ledger.gone(entry)
        raise
    except HypervisorError as error:
        if not isinstance(error, _UNSETTLED):
            await node.ledger.note(entry, settled=True)
        raise
    return await node.ledger.made(entry, attachment.vmdisk_uuid, size_bytes=attachment.size_bytes), attachment


async def _look(
    node: Node,
    vm_uuid: str,
    slot: Slot,
    source: CloneSource | EmptyDisk,
    known: Collection[str],
    error: EffectUnknown,
) -> Attachment:
    """What an attach with a lost answer made; raises its error when nothing shows up."""
    for _ in range(_LOOKS):
        found = await node.hypervisor.find_attachment(vm_uuid, slot, source, known_vmdisk_uuids=known)
        if found is not None:
            return found
        await node.clock.sleep(_LOOK_PAUSE_S)
    raise error


async def unplug(node: Node, entry: Entry) -> None:
    """Detach, and thereby delete, the disk that an entry made. Idempotent."""
    assert entry.identity is not None
    await detach(node, entry.facts["vm_uuid"], entry.identity)
    await node.ledger.gone(entry)


async def detach(node: Node, vm_uuid: str, vmdisk_uuid: str) -> None:
    """Detach one disk under the VM's lease."""
    async with node.lanes.lease(vm_uuid):
        await node.hypervisor.detach(vm_uuid, vmdisk_uuid)


def choose_slot(disks: Collection[Disk], wish: Wish, node: Node, taken: Collection[Slot]) -> Slot | None:
    """A free slot for us, among these disks of the VM.

    A clone tells by its source whose it is and takes the lowest. An empty disk can only be told by
    its place: it takes one that nobody is given by default.
    """
    free = free_slots(disks, first=node.settings.node.first_slot if wish.first is None else wish.first, taken=taken)
    if free and isinstance(wish.source, EmptyDisk):
        return node.clock.random().choice(free[1:] or free)
    return free[0] if free else None


async def _no_free_slot(node: Node, vm_uuid: str) -> NoFreeSlot:
    return NoFreeSlot(
        f"{(await node.hypervisor.vm(vm_uuid)).name} has no free SCSI slot",
        remedy="Detach disks that are not needed, or lower limits.attached; see: mover orphans",
    )


def free_slots(disks: Collection[Disk], *, first: int = 0, taken: Collection[Slot] = ()) -> list[Slot]:
    """SCSI slots with nothing in them (volume groups take slots too), lowest first."""
    used = {disk.slot for disk in disks} | set(taken)
    slots = (Slot(BUS, index) for index in range(first, SLOTS))
    return [slot for slot in slots if slot not in used]


async def _slots_in_doubt(node: Node, vm_uuid: str) -> set[Slot]:
    """Slots where an attach of ours may still take effect."""
    open_entries = await node.ledger.open_entries()
    return {
        Slot.parse(entry.facts["slot"])
        for entry in open_entries
        if entry.identity is None and entry.facts.get("vm_uuid") == vm_uuid and "slot" in entry.facts
    }


def _source_facts(source: CloneSource | EmptyDisk) -> dict[str, Any]:
    if isinstance(source, EmptyDisk):
        return {"size_bytes": source.size_bytes, "container": source.container_uuid}
    return {"source_path": source.path, "source_vmdisk": source.vmdisk_uuid}
