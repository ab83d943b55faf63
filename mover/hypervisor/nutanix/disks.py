"""Attach and detach by v2: the calls that have no key, and that delete.

An attach is sent only while no earlier one can still take effect. What stands in a slot is
ours only if it came from the source that we named. Detach goes by vmdisk UUID alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mover import logs
from mover.errors import (
    Conflict,
    EffectUnknown,
    HypervisorError,
    HypervisorUnreachable,
    NotFound,
    Overloaded,
    RequestRefused,
    SlotOccupied,
    TaskFailed,
)
from mover.hypervisor.nutanix import v2
from mover.hypervisor.nutanix.forms import Shapes, Source, contradicts, is_from
from mover.hypervisor.nutanix.inventory import read_containers, read_disks
from mover.hypervisor.nutanix.patience import BusyWait
from mover.hypervisor.nutanix.session import Repeat, Session
from mover.hypervisor.nutanix.tasks import wait_for_v2
from mover.hypervisor.nutanix.words import said_in, says_busy, says_missing
from mover.model.machine import Attachment, Disk, EmptyDisk, Slot

log = logs.get(__name__)

_PAUSE_S = 0.5
# After a lost answer Prism may still be at work: look for this long before giving up.
_LOOKS = 12
_LOOK_PAUSE_S = 1.0
_BUSY_TRIES = 6
_GONE_LOOKS = 20
_DETACH_TRIES = 3
_LOOK_REMEDY = "Nothing is sent twice: `mover orphans` looks what became of it."


async def attach(session: Session, vm_uuid: str, slot: Slot, source: Source, shapes: Shapes) -> Attachment:
    """Plug a disk into a free slot. NOT idempotent.

    Sent again, in another form, only after a proof that the former request had no effect: a refusal
    (4xx, or a 500 that says what is wrong) or a task that ended FAILED, and in each case an empty slot by GET; and
    within BUSY_WITHIN_S.
    Raises SlotOccupied, NotFound, RequestRefused, RightsMissing, TaskFailed, Overloaded, Conflict,
    HypervisorUnreachable: nothing was made. EffectUnknown: look later.
    """
    wait = BusyWait(session.clock)
    before = await _disks(session, vm_uuid)
    _must_be_free(before, vm_uuid, slot)
    order = _Order(session, vm_uuid, slot, source, frozenset(disk.vmdisk_uuid or "" for disk in before), wait)
    refusal: HypervisorError | None = None
    for form in shapes.candidates(source):
        if refusal is not None and wait.is_over:
            # Its task could outlast the intent.
            break
        try:
            container = await _container_of(session, source) if form.with_container else None
            if form.with_container and container is None:
                continue
            await order.send(container, with_bus=form.with_bus)
        except (NotFound, RequestRefused, Conflict, TaskFailed) as refused:
            found = await order.look_after(refused, refusal)
            if found is not None:
                return found
            refusal = refusal or refused
            if refused.facts.get("is_still_busy"):
                raise (refusal if isinstance(refusal, EffectUnknown) else refused) from None
            log.info("prism.attach-refused", slot=str(slot), form=repr(form), said=refused.message)
        except EffectUnknown as unknown:
            found = await order.look_for_lost(unknown)
            if found is not None:
                return found
            refusal = unknown
            log.info("prism.attach-refused", slot=str(slot), form=repr(form), said=unknown.message)
        except HypervisorError:
            # While the effect of a form before is unknown, nobody may believe that nothing was made.
            if isinstance(refusal, EffectUnknown):
                raise refusal from None
            raise
        else:
            shapes.learn(source, form)
            return await order.look_for_made()
    raise _classified(refusal or _no_form(source), source)


async def _container_of(session: Session, source: Source) -> str | None:
    """The container that a source lives in: as the caller says, else by the first part of its path."""
    if isinstance(source, EmptyDisk) or source.container_uuid or not source.path:
        return source.container_uuid
    name = source.path.strip("/").partition("/")[0]
    return next((found.uuid for found in await read_containers(session) if found.name == name), None)


@dataclass(frozen=True, slots=True)
class _Order:
    """One attach: what we asked for, and what stood there before."""

    session: Session
    vm_uuid: str
    slot: Slot
    source: Source
    known: frozenset[str]
    wait: BusyWait
    """One for all forms: an intent outlives the last request by what this wait may take, not by a multiple."""

    @property
    def what(self) -> str:
        return f"attach to {self.slot} of VM {self.vm_uuid}"

    async def send(self, container: str | None, *, with_bus: bool) -> None:
        """POST and wait for the task. A 429, or a refusal or failure since the VM is busy (it migrates to another
        host), had no effect, yet is looked at before a repetition."""
        body = v2.attach_body(self.slot, self.source, container_uuid=container, with_bus=with_bus)
        refusals = 0
        while True:
            try:
                answer = await self.session.post("v2", f"vms/{self.vm_uuid}/disks/attach", body, repeat=Repeat.NEVER)
                with self._accepted():
                    await wait_for_v2(self.session, answer, what=self.what)
                return
            except Overloaded:
                refusals += 1
                if refusals == _BUSY_TRIES or self.wait.is_over:
                    raise
                await self.session.clock.sleep(_PAUSE_S * 2**refusals)
            except (RequestRefused, Conflict, TaskFailed) as busy:
                if not _is_busy(busy):
                    raise
                await self.wait.once(busy, then="run the command again")
            if await self._there() is not None:
                raise self._unknown("was refused as too busy, and yet the slot is taken")

    async def look_for_made(self) -> Attachment:
        """The task succeeded: read what stands in the slot now."""
        with self._accepted():
            for _ in range(_LOOKS):
                disk = await self._there()
                if disk is not None and disk.vmdisk_uuid and disk.vmdisk_uuid not in self.known:
                    if contradicts(disk, self.source):
                        # Not SlotOccupied: that would say that nothing was made.
                        raise self._unknown(f"is reported done, but the slot shows another disk ({disk.vmdisk_uuid})")
                    return as_attachment(self.vm_uuid, disk)
                await self.session.clock.sleep(_LOOK_PAUSE_S)
        raise self._unknown("is reported done, but the disk is not shown")

    async def look_after(self, refused: HypervisorError, before: HypervisorError | None) -> Attachment | None:
        """After a definite refusal: None when the slot is empty (proven without effect).

        before: how the form before it ended. While its effect is unknown, a disk that shows no source may be of it.
        """
        with self._accepted():
            disk = await self._there()
        if disk is None:
            return None
        if is_from(disk, self.source) and disk.vmdisk_uuid not in self.known:
            log.warning("prism.attach-failed-with-effect", slot=str(self.slot), said=refused.message)
            return as_attachment(self.vm_uuid, disk)
        if isinstance(before, EffectUnknown) and not contradicts(disk, self.source):
            raise before
        raise _occupied(self.vm_uuid, self.slot, disk)

    async def look_for_lost(self, unknown: EffectUnknown) -> Attachment | None:
        """The answer was lost: look, for a while; then raise it.

        None: it was a 500 that tells what is wrong with the request, and nothing came. Another form of it may
        follow: into the same slot, so that the two together can never make two disks.
        """
        with self._accepted():
            for _ in range(_LOOKS):
                found = await find_attachment(self.session, self.vm_uuid, self.slot, self.source, self.known)
                if found is not None:
                    return found
                await self.session.clock.sleep(_LOOK_PAUSE_S)
            if unknown.facts.get("says_refused") and await self._there() is None:
                return None
        raise unknown

    async def _there(self) -> Disk | None:
        return _in_slot(await _disks(self.session, self.vm_uuid), self.slot)

    @contextmanager
    def _accepted(self) -> Iterator[None]:
        """Once Prism may be at work, a failure to ask is no failure of the attach: its effect is unknown."""
        try:
            yield
        except (TaskFailed, SlotOccupied, EffectUnknown):
            raise
        except HypervisorError as error:
            raise self._unknown(f"was sent, then Prism could not be asked about it: {error.message}") from None

    def _unknown(self, why: str) -> EffectUnknown:
        return EffectUnknown(f"{self.what} {why}", remedy=_LOOK_REMEDY, vm_uuid=self.vm_uuid, slot=str(self.slot))


async def find_attachment(
    session: Session, vm_uuid: str, slot: Slot, source: Source, known: Collection[str]
) -> Attachment | None:
    """What stands in our slot, if it is from that attach: not known before, and of the same source.

    A clone is proven by its source. An empty disk has none: for it the slot, the exact size,
    the container and the absence of a source must all agree. Only reads.
    """
    try:
        disk = _in_slot(await _disks(session, vm_uuid), slot)
    except NotFound:
        return None
    if disk is None or not disk.vmdisk_uuid or disk.vmdisk_uuid in known or not is_from(disk, source):
        return None
    return as_attachment(vm_uuid, disk)


async def detach(session: Session, vm_uuid: str, vmdisk_uuid: str) -> None:
    """Unplug and thereby DELETE. Idempotent: by vmdisk UUID, gone already is success; proven by a GET.

    A VM that is busy (it migrates) is waited for. Raises TaskFailed, RequestRefused, Conflict or EffectUnknown
    when the disk is still there.
    """
    what = f"detach disk {vmdisk_uuid} from VM {vm_uuid}"
    then = "run `mover orphans --apply`, which detaches the disk"
    wait, tries = BusyWait(session.clock), 0
    failure: HypervisorError | None = None
    while tries < _DETACH_TRIES:
        try:
            if not await _has(session, vm_uuid, vmdisk_uuid):
                return
        except Conflict as unclear:
            await wait.once(unclear, then=then)
            continue
        failure = await _try_detach(session, vm_uuid, vmdisk_uuid, what)
        if await _is_gone(session, vm_uuid, vmdisk_uuid, looks=2 if failure else _GONE_LOOKS):
            return
        if failure and _is_busy(failure):
            await wait.once(failure, then=then)
        else:
            tries += 1
    raise failure or EffectUnknown(
        f"{what}: Prism reports success, but still shows the disk",
        remedy="Look at the VM's disks in Prism; `mover orphans --apply` detaches what is ours.",
        vm_uuid=vm_uuid,
        vmdisk_uuid=vmdisk_uuid,
    )


def _is_busy(failure: HypervisorError) -> bool:
    return isinstance(failure, Conflict) or says_busy(said_in(failure))


async def _is_gone(session: Session, vm_uuid: str, vmdisk_uuid: str, *, looks: int) -> bool:
    """Proven so. After a VM's last disk v3 may lag behind v2 for longer than a read waits: that is looked at again."""
    for look in range(looks):
        try:
            if not await _has(session, vm_uuid, vmdisk_uuid):
                return True
        except Conflict as unclear:
            log.info("prism.detach-unclear", vm_uuid=vm_uuid, said=unclear.message)
        if look < looks - 1:
            await session.clock.sleep(_LOOK_PAUSE_S)
    return False


async def _try_detach(session: Session, vm_uuid: str, vmdisk_uuid: str, what: str) -> HypervisorError | None:
    """One request and its task; a failure is returned, since only a GET says whether it matters."""
    body = v2.detach_body(vm_uuid, vmdisk_uuid)
    try:
        answer = await session.post("v2", f"vms/{vm_uuid}/disks/detach", body)
    except (NotFound, RequestRefused, Conflict, EffectUnknown) as failure:
        return failure
    try:
        await wait_for_v2(session, answer, what=what)
    except (TaskFailed, EffectUnknown, HypervisorUnreachable, Overloaded) as failure:
        return failure
    return None


async def _has(session: Session, vm_uuid: str, vmdisk_uuid: str) -> bool:
    try:
        return any(disk.vmdisk_uuid == vmdisk_uuid for disk in await _disks(session, vm_uuid))
    except NotFound:
        return False


async def _disks(session: Session, vm_uuid: str) -> tuple[Disk, ...]:
    """As they are now; v2's silence about them is held against v3. Raises NotFound, Conflict."""
    return await read_disks(session, vm_uuid)


def _in_slot(disks: Collection[Disk], slot: Slot) -> Disk | None:
    return next((disk for disk in disks if disk.slot == slot), None)


def as_attachment(vm_uuid: str, disk: Disk) -> Attachment:
    return Attachment(
        vm_uuid=vm_uuid,
        slot=disk.slot,
        vmdisk_uuid=disk.vmdisk_uuid or "",
        device_uuid=disk.device_uuid,
        size_bytes=disk.size_bytes,
        source_path=disk.source_path,
        source_vmdisk_uuid=disk.source_vmdisk_uuid,
    )


def _must_be_free(disks: Collection[Disk], vm_uuid: str, slot: Slot) -> None:
    there = _in_slot(disks, slot)
    if there is not None:
        raise _occupied(vm_uuid, slot, there)


def _occupied(vm_uuid: str, slot: Slot, disk: Disk) -> SlotOccupied:
    return SlotOccupied(
        f"Slot {slot} of VM {vm_uuid} holds another disk ({disk.vmdisk_uuid or disk.device_uuid})",
        remedy="Choose a free slot, or free this one; on the Proxy VM leave the slots from node.first_slot on to us.",
        vm_uuid=vm_uuid,
        slot=str(slot),
        vmdisk_uuid=disk.vmdisk_uuid or "",
    )


def _no_form(source: Source) -> RequestRefused:
    return RequestRefused(
        f"No form of the attach request fits the source {source}",
        remedy="The storage container of the source is not known here: is it on this cluster?",
    )


def _classified(refusal: HypervisorError, source: Source) -> HypervisorError:
    """A refusal that speaks of something missing is the source's: the VM itself was read just before."""
    if isinstance(source, EmptyDisk) or isinstance(refusal, NotFound | EffectUnknown):
        return refusal
    if not says_missing(said_in(refusal)):
        return refusal
    return NotFound(
        f"The source {source.path or source.vmdisk_uuid} cannot be attached: {refusal.message}",
        remedy="The snapshot or disk is gone, or on another cluster than the Proxy VM: run the command again.",
        **refusal.facts,
    )
