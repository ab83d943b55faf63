"""The runbooks of a restore: a point becomes a new VM; one of its disks joins an existing VM.

Entry points: ``restore_vm`` and ``restore_disk_into`` (node, values, steps), values being a
``RestoreRequest`` or ``RestoreDiskRequest``. The VM is made first, powered off and without
disks: a spec or network that Prism refuses is known before a byte is moved.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mover import logs
from mover.catalog.ledger import Kind
from mover.errors import (
    AmbiguousName,
    HypervisorError,
    MoverError,
    NotFound,
    RequestRefused,
    SlotOccupied,
    StateDamaged,
    StateFull,
    UsageError,
)
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.jobs.steps import Call, Steps, Values
from mover.model.machine import Slot, Vm
from mover.model.point import DiskImage, ReadMode, RestorePoint
from mover.operations.attach import BUS, SLOTS, free_slots
from mover.operations.checks import check_proxy, require_space
from mover.operations.clean import settle
from mover.operations.containers import bytes_needed, choose_containers, idle_containers
from mover.operations.fill import FillJob, FillPlan, fill_one
from mover.operations.names import prefix_of
from mover.operations.node import Node
from mover.operations.progress import Progress
from mover.operations.reading import Reading, reading
from mover.operations.report import point_words
from mover.operations.request import RestoreDiskRequest, RestoreRequest
from mover.operations.values import dump

_LOG = logs.get(__name__)


async def restore_vm(node: Node, values: Mapping[str, Any], steps: Steps) -> Values:
    """A new VM from a restore point; gives the report. Half-made things do not stay."""
    request = RestoreRequest.read(values)
    with logs.bind(vm=request.name):
        async with _cleaned(node, steps.job_id), reading(node.repository) as reader:
            return await _RestoreVm(node, request, steps, await node.repository.load(request.point_id)).run(reader)


async def restore_disk_into(node: Node, values: Mapping[str, Any], steps: Steps) -> Values:
    """One disk of a point, added to an existing VM at a free slot; gives the report."""
    request = RestoreDiskRequest.read(values)
    async with _cleaned(node, steps.job_id), reading(node.repository) as reader:
        point = await node.repository.load(request.point_id)
        plan = await steps.step("plan", _plan_disk, node, request, point)
        with logs.bind(vm=plan["vm"]):
            work = FillJob(node, steps.job_id, plan["vm"], point, reader.get, steps.cancellation)
            row = await steps.step("disk", fill_one, work, plan["disk"])
    about = {"vm": plan["vm"], "vm_uuid": request.vm_uuid, **point_words(point)}
    return {**about, "disks": [row], "warnings": []}


@asynccontextmanager
async def _cleaned(node: Node, job: str) -> AsyncIterator[None]:
    """Settle with the cluster at the end; a stop (cancelled task) settles nothing: it goes on later."""
    try:
        yield
    except MoverError as error:
        error.facts["owed"] = [action.reason for action in await settle(node, job)]
        raise
    except Exception:
        await settle(node, job)
        raise
    await settle(node, job)


class _RestoreVm:
    """The steps of one job, in the order of ``run``."""

    def __init__(self, node: Node, request: RestoreRequest, steps: Steps, point: RestorePoint) -> None:
        self._node = node
        self._request = request
        self._steps = steps
        self._point = point

    async def run(self, reader: Reading) -> Values:
        steps, point = self._steps, self._point
        plan = await steps.step("plan", self._plan)
        vm_uuid = await steps.step("create", self._create, plan)
        work = FillJob(self._node, steps.job_id, self._request.name, point, reader.get, steps.cancellation)
        plans = [dump(self._fill_plan(n, image, plan, vm_uuid)) for n, image in enumerate(point.disks)]
        rows = await steps.together([Call(f"disk {p['device_uuid']}", fill_one, (work, p)) for p in plans])
        finished = await steps.step("finish", self._finish, vm_uuid, plan)
        return {
            "vm": self._request.name,
            "vm_uuid": vm_uuid,
            **point_words(point),
            "nic_mode": plan["nic_mode"],
            "is_on": finished["is_on"],
            # A plan of an older version does not tell.
            "warnings": [*_missing(point), *plan.get("idle", ()), *finished["warnings"]],
            "disks": rows,
        }

    async def _plan(self) -> Values:
        """Where each disk goes, and what becomes of the network cards. Nothing is made yet."""
        self._tell("plan")
        node, point = self._node, self._point
        await check_proxy(node, (await node.hypervisor.about()).cluster.uuid, what="the place of the restore")
        containers, idle = await _places(node, point.disks, self._request.container_map)
        return {"containers": containers, "nic_mode": str(await self._nic_mode()), "idle": idle}

    async def _nic_mode(self) -> NicMode:
        lives = await _lives(self._node, self._point.vm_uuid)
        if self._request.nic_mode == "auto":
            return NicMode.DISCONNECTED if lives else NicMode.KEEP
        mode = NicMode(self._request.nic_mode)
        if mode is NicMode.KEEP and lives:
            raise RequestRefused(
                f"{self._point.vm_name} still exists, so its network cards cannot be had twice",
                remedy="Use --nics disconnected or --nics new-mac, or delete the original first.",
            )
        return mode

    async def _create(self, plan: Values) -> str:
        """The VM, off and without disks; under this job's key there is only ever one."""
        self._tell("create")
        node, job = self._node, self._steps.job_id
        former = await node.ledger.open_entries(job, Kind.VM)
        tries = len(await node.ledger.entries(job, Kind.VM))
        key = former[0].facts["key"] if former else node.name(job, f"vm-{tries + 1}")
        if former:
            entry = former[0]
        else:
            known = await node.hypervisor.leftovers(prefix_of(node.install), node.proxy_uuid)
            facts = {"name": self._request.name, "key": key, "known": [vm.uuid for vm in known.vms]}
            entry = await node.ledger.intend(Kind.VM, job=job, ordinal=0, facts=facts)
        try:
            vm_uuid = await node.hypervisor.create_vm(self._vm_request(plan, key), key=key)
        except RequestRefused:
            # It was not made and never will be: nothing is owed for it.
            await node.ledger.note(entry, settled=True)
            raise
        await node.ledger.made(entry, vm_uuid)
        return vm_uuid

    async def _finish(self, vm_uuid: str, plan: Values) -> Values:
        """Boot disk, power. The VM is whole now: what Prism refuses from here on is no reason to delete it."""
        self._tell("finish")
        node = self._node
        entries = await node.ledger.entries(self._steps.job_id, Kind.VM)
        entry = next(entry for entry in entries if entry.identity == vm_uuid)
        try:
            warnings = [*await node.hypervisor.finish_vm(vm_uuid, self._vm_request(plan, entry.facts["key"]))]
        except NotFound:
            raise
        except (HypervisorError, StateDamaged, StateFull) as error:
            warnings = [
                f"What it lacks of the original is not known ({error.message}): compare both in Prism, "
                "its boot disk and its HA priority above all."
            ]
        is_on = self._request.power_on
        if is_on:
            try:
                await node.hypervisor.set_power(vm_uuid, on=True)
            except HypervisorError as error:
                is_on = False
                warnings.append(f"It could not be powered on ({error.message}): start it in Prism.")
        await node.ledger.given(entry)
        return {"warnings": warnings, "is_on": is_on}

    def _vm_request(self, plan: Values, key: str) -> VmRequest:
        return VmRequest(
            name=self._request.name,
            spec=self._point.vm_spec,
            nic_mode=NicMode(plan["nic_mode"]),
            network_map=self._request.network_map,
            description=f"{key}: restored from {self._point.id} of {self._point.vm_name}",
        )

    def _fill_plan(self, ordinal: int, image: DiskImage, plan: Values, vm_uuid: str) -> FillPlan:
        container = plan["containers"][image.device_uuid]
        return FillPlan(ordinal, image.device_uuid, image.size_bytes, container, vm_uuid, str(image.slot))

    def _tell(self, phase: str) -> None:
        self._node.progress(Progress(self._steps.job_id, self._request.name, None, phase))


def _missing(point: RestorePoint) -> list[str]:
    """What the restored VM lacks, from what was known when it was saved."""
    lost = [
        f"{image.slot} comes back empty: {image.reason}" for image in point.disks if image.mode is ReadMode.EXCLUDED
    ]
    return [*point.warnings, *lost]


async def _lives(node: Node, vm_uuid: str) -> bool:
    try:
        await node.hypervisor.vm(vm_uuid)
    except NotFound:
        return False
    return True


async def _places(
    node: Node, images: Sequence[DiskImage], mapped: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Device UUID → UUID of a storage container with room for all; and in words what was mapped in vain.

    Raises RequestRefused, SpaceShort.
    """
    there = await node.hypervisor.containers()
    chosen = choose_containers(there, images, mapped)
    require_space(there, bytes_needed(images, chosen), keep_bytes=node.settings.limits.container_free)
    return chosen, idle_containers(there, images, mapped)


async def _plan_disk(node: Node, request: RestoreDiskRequest, point: RestorePoint) -> Values:
    """Which image, which slot, which container. Raises UsageError kinds, SlotOccupied, NotFound."""
    image = image_at(point, request.disk)
    if image.mode is ReadMode.EXCLUDED:
        raise UsageError(
            f"Disk {image.slot} is not in point {point.id} of {point.vm_name}: {image.reason}",
            remedy="Choose another disk or another point.",
        )
    target = await node.hypervisor.vm(request.vm_uuid)
    await check_proxy(node, target.cluster_uuid, what=target.name)
    if target.uuid == node.proxy_uuid:
        raise RequestRefused(
            "The target is the Proxy VM itself", remedy="Restore into another VM, or to a file with --to-file."
        )
    _check_slot(request.slot, target)
    mapped = {"*": request.container_uuid} if request.container_uuid else {}
    containers, _ = await _places(node, (image,), mapped)
    plan = FillPlan(0, image.device_uuid, image.size_bytes, containers[image.device_uuid], target.uuid, request.slot)
    return {"vm": target.name, "disk": dump(plan)}


def _check_slot(slot: str | None, target: Vm) -> None:
    """Raises UsageError for what is no SCSI slot, SlotOccupied."""
    if slot is None:
        return
    free = free_slots(target.disks)
    hint = f"choose a free one such as {free[0]}" if free else "free one: none is"
    try:
        wanted = Slot.parse(slot)
    except ValueError:
        wanted = None
    if wanted is None or wanted.bus != BUS or wanted.index >= SLOTS:
        raise UsageError(
            f"{slot!r} is no SCSI slot, from {BUS}.0 to {BUS}.{SLOTS - 1}", remedy=f"Leave --slot out, or {hint}."
        )
    if wanted not in free:
        raise SlotOccupied(f"Slot {slot} of {target.name} is occupied", remedy=f"Leave --slot out, or {hint}.")


def image_at(point: RestorePoint, disk: str | None) -> DiskImage:
    """The image of a slot (``scsi.1``), or the only one. Raises UsageError, AmbiguousName."""
    slots = ", ".join(str(image.slot) for image in point.disks)
    found = [image for image in point.disks if disk is None or str(image.slot) == disk.lower()]
    if not found:
        raise UsageError(f"Point {point.id} of {point.vm_name} has no disk {disk}", remedy=f"Its disks are: {slots}.")
    if len(found) > 1:
        raise AmbiguousName(
            f"Point {point.id} of {point.vm_name} has several disks", remedy=f"Name one with --disk: {slots}."
        )
    return found[0]
