"""Limits of disks: on the node, in a storage container, on the Proxy VM. Each holds, and none of them stands still."""

from __future__ import annotations

import asyncio

import pytest

from mover.catalog.ledger import Kind
from mover.errors import NoFreeSlot, RequestRefused
from mover.model.machine import CloneSource, Slot
from tests.support.hypervisorfaults import How
from tests.support.world import BLOCK, world

FAST = "30000000-0000-4000-8000-000000000002"


class Seen:
    """The most disks of ours that were on the Proxy VM at a time: in all, and of each container."""

    def __init__(self, w, vm):
        self._w = w
        self._container = {disk.vmdisk_uuid: disk.container_uuid for disk in vm.disks}
        self.most = 0
        self.most_by_container = dict.fromkeys(self._container.values(), 0)
        w.hypervisor.on_done = self._look

    async def _look(self, _call):
        disks = self._w.hypervisor.state.vms[self._w.node.proxy_uuid].disks[1:]
        self.most = max(self.most, len(disks))
        there = [self._container.get((disk.source_path or "").rpartition("/")[2]) for disk in disks]
        for container in self.most_by_container:
            self.most_by_container[container] = max(self.most_by_container[container], there.count(container))


def in_two_containers(w):
    """Six disks, every other one in another container."""
    vm = w.hypervisor.add_vm("web", [2 * BLOCK] * 6)
    for slot in ("scsi.1", "scsi.3", "scsi.5"):
        vm = w.hypervisor.change_disk(vm, slot, container_uuid=FAST)
    return vm


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"limits__disks": 3}, 3),
        ({"limits__disks": 4, "limits__attached": 2}, 2),
        ({"limits__disks": 4, "limits__attached": 1}, 1),
        ({"limits__disks": 6, "limits__per_container": 1}, 2),
        ({"limits__disks": 1, "limits__per_container": 1, "limits__attached": 1}, 1),
    ],
)
async def test_a_vm_with_more_disks_than_the_limit_is_copied_within_it(tmp_path, limits, most):
    async with world(tmp_path, **limits) as w:
        vm = in_two_containers(w)
        seen = Seen(w, vm)
        report = await w.backup(vm)
        assert len(report["disks"]) == 6
        assert seen.most == most
        assert max(seen.most_by_container.values()) <= limits.get("limits__per_container", 6)
        w.assert_only_base()


async def test_who_waits_for_a_busy_container_keeps_nobody_else_from_going(tmp_path):
    async with world(tmp_path, limits__disks=2, limits__per_container=1) as w:
        vm = in_two_containers(w)
        seen = Seen(w, vm)
        await w.backup(vm)
        assert seen.most == 2
        assert set(seen.most_by_container.values()) == {1}


async def test_backups_and_restores_share_the_places_on_the_proxy(tmp_path):
    async with world(tmp_path, limits__disks=8, limits__attached=2) as w:
        vm = w.hypervisor.add_vm("web", [2 * BLOCK] * 4)
        point = (await w.backup(vm))["point"]
        w.clock.elapsed += 60
        seen = Seen(w, vm)
        await asyncio.gather(w.backup(vm), w.restore(point, "web2"))
        assert seen.most == 2
        assert w.ours() == {"snapshots": 1, "attached": 0, "vms": 1}


async def left_behind(w, vm, slot="scsi.9"):
    """A disk on the Proxy VM and in the ledger, of a job that was killed."""
    snapshot = await w.hypervisor.snapshot(vm.uuid, name="n", consistency="crash", key="k", expires_at=1.0)
    path = snapshot.files[0].path
    facts = {"vm_uuid": w.node.proxy_uuid, "slot": slot, "known": [], "source_path": path}
    entry = await w.node.ledger.intend(Kind.ATTACHMENT, job="00000000000000dd", ordinal=0, facts=facts)
    made = await w.hypervisor.attach(w.node.proxy_uuid, Slot.parse(slot), CloneSource(path=path))
    await w.hypervisor.delete_snapshot(snapshot.uuid)
    return await w.node.ledger.made(entry, made.vmdisk_uuid)


async def test_what_an_earlier_job_left_on_the_proxy_counts_and_makes_room(tmp_path):
    async with world(tmp_path, limits__attached=1) as w:
        vm = w.hypervisor.add_vm("web", [BLOCK] * 3)
        entry = await left_behind(w, vm)
        w.active.add(entry.job)
        seen = Seen(w, vm)
        await w.backup(vm)
        assert seen.most == 1
        assert not (await w.node.ledger.entry(entry.id)).is_open
        w.assert_only_base()


async def test_a_place_that_an_earlier_job_does_not_give_back_is_said(tmp_path):
    async with world(tmp_path, limits__attached=1) as w:
        vm = w.hypervisor.add_vm("web", [BLOCK])
        w.active.add((await left_behind(w, vm)).job)
        w.hypervisor.fail("detach", 1, How.ERROR)
        with pytest.raises(NoFreeSlot, match=r"allows \(1\)") as caught:
            await w.backup(vm)
        assert caught.value.retryable
        assert "limits.attached" in caught.value.remedy
        assert w.ours()["attached"] == 1
        await w.backup(vm)
        assert w.ours()["attached"] == 0


async def test_a_failed_disk_gives_its_place_back(tmp_path):
    async with world(tmp_path, limits__attached=1, limits__disks=1) as w:
        vm = w.hypervisor.add_vm("web", [BLOCK] * 2)
        w.hypervisor.fail("attach", 1, How.ERROR, error=RequestRefused("no", remedy="none"))
        with pytest.raises(RequestRefused):
            await w.backup(vm)
        await w.backup(vm)
        w.assert_only_base()


async def test_where_only_the_slot_tells_disks_are_attached_and_found_one_by_one(tmp_path, monkeypatch):
    async with world(tmp_path, node__trust_slot=True) as w:
        vm = w.hypervisor.add_vm("web", [BLOCK] * 4)
        events, honest = [], w.devices.locate

        async def locate(attachment, **how):
            assert how["before"] == "before"
            await asyncio.sleep(0)
            found = await honest(attachment, **how)
            events.append("located")
            return found

        def census():
            events.append("census")
            return "before"

        async def note(call):
            if call == "attach":
                events.append(call)

        monkeypatch.setattr(w.devices, "locate", locate)
        monkeypatch.setattr(w.devices, "census", census)
        w.hypervisor.on_call = note
        await w.backup(vm)
        assert events == ["census", "attach", "located"] * 4
