"""Each call of the Prism edge under each fault, against the lab: it converges, and makes nothing twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mover.clock import SystemClock
from mover.errors import (
    BaseGone,
    ChangedRegionsInvalid,
    EffectUnknown,
    NotFound,
    SlotOccupied,
    SnapshotIncomplete,
    TaskFailed,
)
from mover.hypervisor.nutanix.ahv import Ahv
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.lab.server import Fault
from mover.model.machine import CloneSource, Consistency, EmptyDisk, Slot
from mover.model.region import RegionKind
from tests.support.prismworld import MIB, WEB, BriskClock, PrismWorld, path_of, prism_world

SLOT = Slot("scsi", 9)
FAULTS: dict[str, dict[str, Any]] = {
    "status-503": {"name": "status", "status": 503},
    "status-429": {"name": "status", "status": 429},
    "html-502": {"name": "status", "status": 502, "html": True},
    "effect-then-500": {"name": "effect_then_status", "status": 500},
    "effect-then-html": {"name": "effect_then_status", "status": 502, "html": True},
    "drop": {"name": "drop"},
    "lost-answer": {"name": "lost_answer"},
    "late-effect": {"name": "late_effect", "seconds": 0.05},
    "effect-then-hang": {"name": "effect_then_hang", "seconds": 0.4},
    "cut-body": {"name": "cut_body"},
    "logged-out": {"name": "logged_out"},
}
IN_CI = {"status-503", "effect-then-500", "lost-answer"}
WITHOUT_EFFECT = {"status-503", "html-502", "drop"}


def a_world(folder, fault="", **options):
    """Short of patience only where a call is to time out: a busy machine would time out the others."""
    patience_s = 0.3 if fault == "effect-then-hang" else 5.0
    return prism_world(folder, "element", changes={"call_timeout": patience_s}, vms=(WEB,), **options)


class Stage:
    """A snapshot to work with, and what each action is to leave behind."""

    def __init__(self, world: PrismWorld) -> None:
        self.world, self.ahv = world, world.ahv

    async def prepare(self) -> None:
        self.vm = await self.ahv.vm(self.world.uuid("web01"))
        self.proxy = self.world.lab.proxy_uuid
        self.snapshot = await self.world.freeze("base")
        self.disk = self.vm.data_disks()[0]
        self.path = path_of(self.snapshot, self.disk)
        self.source = CloneSource(path=self.path, container_uuid=self.disk.container_uuid)
        self.request = VmRequest("web02", self.vm.spec, NicMode.NEW_MAC, {})

    def slots(self) -> list[str]:
        return sorted(disk.label for disk in self.world.lab.vms["proxy01"].disks)

    async def about(self):
        assert (await self.ahv.about()).kind == "element"

    async def inventory(self):
        assert len((await self.ahv.inventory()).vms) == 2

    async def vm_(self):
        assert (await self.ahv.vm(self.vm.uuid)).name == "web01"

    async def snapshot_(self):
        made = await self.world.freeze("more")
        assert {one.uuid for one in self.world.lab.snapshots()} == {self.snapshot.uuid, made.uuid}

    async def extend(self):
        later = float(int(SystemClock().now()) + 9000)
        await self.ahv.extend_snapshot(self.snapshot.uuid, later)
        assert (await self.ahv.find_snapshot(self.snapshot.uuid)).expires_at == later

    async def delete(self):
        await self.ahv.delete_snapshot(self.snapshot.uuid)
        await self.world.lab.settle()
        assert self.world.lab.snapshots() == []

    async def regions(self):
        found = await self.ahv.changed_regions(self.path, None, size_bytes=self.disk.size_bytes)
        assert found.regions.bytes_of(RegionKind.DATA) > 0

    async def attach(self):
        made = await self.ahv.attach(self.proxy, SLOT, self.source)
        await self.world.lab.settle()
        assert self.slots() == ["scsi.0", "scsi.9"]
        assert made.vmdisk_uuid == self.world.lab.disk("proxy01", "scsi.9").vmdisk_uuid

    async def attach_empty(self):
        await self.ahv.attach(self.proxy, SLOT, EmptyDisk(MIB, self.disk.container_uuid))
        await self.world.lab.settle()
        assert self.slots() == ["scsi.0", "scsi.9"]

    async def detach(self):
        made = self.world.lab.disk("proxy01", "scsi.0").vmdisk_uuid
        await self.ahv.detach(self.proxy, made)
        assert self.slots() == []

    async def create(self):
        made = await self.ahv.create_vm(self.request, key="k")
        await self.world.lab.settle()
        assert [vm.uuid for vm in self.world.lab.vms.values() if vm.name == "web02"] == [made]

    async def finish(self):
        assert "categories" not in " ".join(await self.ahv.finish_vm(self.vm.uuid, self.request))
        assert self.world.lab.vms["web01"].boot_slot == ("SCSI", 0)

    async def power(self):
        await self.ahv.set_power(self.vm.uuid, on=False)
        assert not self.world.lab.vms["web01"].is_on

    async def delete_vm(self):
        await self.ahv.delete_vm(self.vm.uuid)
        assert "web01" not in self.world.lab.vms

    async def leftovers(self):
        left = await self.ahv.leftovers("mover-test0001-", self.proxy)
        assert len(left.snapshots) == 1


CALLS: list[tuple[str, Callable[[Stage], Awaitable[None]]]] = [
    ("v3.clusters.list", Stage.about),
    ("v3.idempotence_identifiers.create", Stage.about),
    ("v3.hosts.list", Stage.inventory),
    ("v3.subnets.list", Stage.inventory),
    ("v3.vms.list", Stage.inventory),
    ("v2.vms.list", Stage.inventory),
    ("v2.storage_containers.list", Stage.inventory),
    ("v3.vms.get", Stage.vm_),
    ("v2.vms.get", Stage.vm_),
    ("v3.idempotence_identifiers.create", Stage.snapshot_),
    ("v3.vm_snapshots.create", Stage.snapshot_),
    ("v3.vm_snapshots.get", Stage.snapshot_),
    ("v3.vm_snapshots.update", Stage.extend),
    ("v3.vm_snapshots.delete", Stage.delete),
    ("v3.data.changed_regions", Stage.regions),
    ("v2.vms.get", Stage.attach),
    ("v2.tasks.poll", Stage.attach),
    ("v2.vms.disks.detach", Stage.detach),
    ("v2.tasks.poll", Stage.detach),
    ("v3.vms.create", Stage.create),
    ("v3.tasks.get", Stage.create),
    ("v2.vms.update", Stage.finish),
    ("v2.vms.set_power_state", Stage.power),
    ("v3.vms.delete", Stage.delete_vm),
    ("v3.vm_snapshots.list", Stage.leftovers),
]


each_call = pytest.mark.parametrize(
    ("operation", "action"), CALLS, ids=[f"{name}-{act.__name__}" for name, act in CALLS]
)


@each_call
async def test_every_call_that_may_be_repeated_converges(tmp_path, operation, action):
    await _sweep(tmp_path, operation, action, IN_CI)


@pytest.mark.long
@each_call
async def test_every_call_converges_under_every_fault(tmp_path, operation, action):
    await _sweep(tmp_path, operation, action, FAULTS.keys() - IN_CI)


async def _sweep(tmp_path, operation, action, faults):
    for fault in sorted(faults):
        async with a_world(tmp_path / fault, fault) as world:
            stage = Stage(world)
            await stage.prepare()
            if operation == "v3.clusters.list":
                await world.ahv.close()
            armed = world.lab.faults.arm(operation=operation, **FAULTS[fault])
            await action(stage)
            assert armed.fired == 1, fault


@pytest.mark.parametrize("action", [Stage.attach, Stage.attach_empty], ids=["clone", "empty"])
@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in WITHOUT_EFFECT])
async def test_an_attach_with_effect_is_found_and_never_doubled(tmp_path, action, fault):
    async with a_world(tmp_path, fault) as world:
        stage = Stage(world)
        await stage.prepare()
        armed = world.lab.faults.arm(operation="v2.vms.disks.attach", **FAULTS[fault])
        await action(stage)
        assert armed.fired == 1
        assert armed.seen == (2 if fault in ("logged-out", "status-429") else 1)


@pytest.mark.parametrize("fault", sorted(WITHOUT_EFFECT))
async def test_an_attach_without_effect_stays_unknown(tmp_path, fault):
    async with a_world(tmp_path) as world:
        stage = Stage(world)
        await stage.prepare()
        world.lab.faults.arm(operation="v2.vms.disks.attach", **FAULTS[fault])
        with pytest.raises(EffectUnknown):
            await world.ahv.attach(stage.proxy, SLOT, stage.source)
        assert stage.slots() == ["scsi.0"]
        known = [world.lab.disk("proxy01").vmdisk_uuid]
        assert await world.ahv.find_attachment(stage.proxy, SLOT, stage.source, known_vmdisk_uuids=known) is None
        await stage.attach()


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("task_fails", TaskFailed),
        ("task_fails_after_effect", None),
        ("task_aborts", TaskFailed),
        ("task_slow", None),
        ("task_stuck", EffectUnknown),
        ("task_lost", None),
    ],
)
async def test_what_becomes_of_the_task_of_an_attach(tmp_path, fault, outcome):
    async with a_world(tmp_path) as world:
        stage = Stage(world)
        await stage.prepare()
        impatient = {"task_timeout": 10.0, "call_timeout": 1.0} if fault == "task_stuck" else {}
        settings = world.settings(**impatient)
        stage.ahv = Ahv(settings, clock=BriskClock(), state_dir=tmp_path)
        args = {"seconds": 0.1} if fault == "task_slow" else {}
        world.lab.faults.arm(fault, operation="v2.vms.disks.attach", count=0, **args)
        if outcome is None:
            await stage.attach()
        else:
            with pytest.raises(outcome):
                await stage.ahv.attach(stage.proxy, SLOT, stage.source)
            assert stage.slots() == ["scsi.0"]
        await stage.ahv.close()


async def test_a_slot_stolen_by_an_administrator_is_left_to_him(tmp_path):
    async with a_world(tmp_path) as world:
        stage = Stage(world)
        await stage.prepare()
        world.lab.faults.arm("administrator", operation="v2.vms.disks.attach", action="steal_slot", index=SLOT.index)
        with pytest.raises(SlotOccupied):
            await world.ahv.attach(stage.proxy, SLOT, stage.source)
        assert stage.slots() == ["scsi.0", "scsi.9"]
        assert world.lab.disk("proxy01", "scsi.9").source_path is None


@pytest.mark.parametrize(
    ("fault", "args"),
    [
        ("regions_beyond_end", {"begins_beyond": True}),
        ("regions_negative", {}),
        ("regions_looping", {"back_bytes": 4096}),
        ("regions_text", {}),
        ("regions_wrong_size", {}),
    ],
)
async def test_a_list_that_breaks_its_rules_is_refused(tmp_path, fault, args):
    async with a_world(tmp_path, regions_per_page=1) as world:
        stage = Stage(world)
        await stage.prepare()
        armed = world.lab.faults.arm(fault, operation="v3.data.changed_regions", nth=2, **args)
        with pytest.raises(ChangedRegionsInvalid):
            await stage.regions()
        assert armed.fired


@pytest.mark.parametrize(
    "fault", ["regions_overlapping", "regions_unsorted", "regions_unaligned", "regions_beyond_end"]
)
async def test_a_list_that_is_only_untidy_is_read(tmp_path, fault):
    async with a_world(tmp_path) as world:
        stage = Stage(world)
        await stage.prepare()
        honest = await world.ahv.changed_regions(stage.path, None, size_bytes=stage.disk.size_bytes)
        armed = world.lab.faults.arm(fault, operation="v3.data.changed_regions")
        found = await world.ahv.changed_regions(stage.path, None, size_bytes=stage.disk.size_bytes)
        assert armed.fired
        assert found.regions.bytes_of(RegionKind.DATA) >= honest.regions.bytes_of(RegionKind.DATA) * 0.9


async def test_a_base_that_goes_is_told_and_a_deleted_snapshot_too(tmp_path):
    async with a_world(tmp_path, regions_per_page=1) as world:
        stage = Stage(world)
        await stage.prepare()
        size = stage.disk.size_bytes
        second = await world.freeze("second")
        path = path_of(second, stage.disk)
        world.lab.faults.arm("base_gone", operation="v3.data.changed_regions")
        with pytest.raises(BaseGone):
            await world.ahv.changed_regions(path, stage.path, size_bytes=size)
        await world.ahv.changed_regions(path, stage.path, size_bytes=size)
        gone = {"action": "delete_snapshot", "uuid": second.uuid}
        world.lab.faults.arm("administrator", operation="v3.data.changed_regions", nth=2, **gone)
        with pytest.raises(NotFound):
            await world.ahv.changed_regions(path, None, size_bytes=size)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("snapshot_error", "told so"),
        ("snapshot_no_files", "lists no file"),
        ("snapshot_never_complete", "not complete"),
    ],
)
async def test_a_snapshot_that_never_becomes_usable_is_said(tmp_path, fault, says):
    """Brisk time runs on while a busy machine does not: what has an end of its own is not timed out before it."""
    async with a_world(tmp_path) as world:
        impatient = {"task_timeout": 70.0} if fault == "snapshot_never_complete" else {}
        world.ahv = Ahv(world.settings(**impatient), clock=BriskClock(200), state_dir=tmp_path)
        world.lab.faults.arm(fault, operation="v3.vm_snapshots.create")
        with pytest.raises(SnapshotIncomplete, match=says) as caught:
            await world.freeze("x")
        assert caught.value.facts["snapshot_uuid"]


async def test_a_downgraded_snapshot_says_so(tmp_path):
    async with a_world(tmp_path) as world:
        world.lab.faults.arm("snapshot_downgraded", operation="v3.vm_snapshots.create")
        assert (await world.freeze("x", Consistency.APPLICATION)).consistency is Consistency.CRASH


async def test_a_snapshot_of_a_vm_that_is_deleted_meanwhile(tmp_path):
    async with a_world(tmp_path) as world:
        args = {"action": "delete_vm", "vm": "web01"}
        world.lab.faults.add(Fault(name="administrator", operation="v3.vm_snapshots.create", args=args))
        with pytest.raises((NotFound, SnapshotIncomplete)):
            await world.freeze("x")


async def test_prism_restarting_in_the_midst_is_borne(tmp_path):
    async with a_world(tmp_path) as world:
        stage = Stage(world)
        await stage.prepare()
        await world.lab.restart()
        await stage.attach()
        assert (await world.freeze("base")).uuid == stage.snapshot.uuid
