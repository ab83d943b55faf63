"""Detach when things go wrong, and a VM that somebody else keeps busy."""

from __future__ import annotations

import pytest

from mover.clock import FakeClock
from mover.errors import Conflict, EffectUnknown, HypervisorUnreachable, TaskFailed
from mover.hypervisor.nutanix import disks
from mover.hypervisor.nutanix.forms import Shapes
from mover.model.machine import CloneSource, Slot
from tests.support.tinyprism import MIB, PROXY, TinyPrism, serving, session_with
from tests.support.tinyproxy import UNKNOWN, Proxy, entry

SOURCE = CloneSource(path="/default/.snapshot/61/4-1-8261/.acropolis/vmdisk/5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13")


@pytest.fixture
async def proxy(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield Proxy(tiny)


async def attach(proxy, tmp_path):
    async with session_with(proxy.tiny, tmp_path) as session:
        await disks.attach(session, PROXY, Slot("scsi", 5), SOURCE, Shapes())


async def detach(proxy, tmp_path, vmdisk="root-disk"):
    async with session_with(proxy.tiny, tmp_path) as session:
        await disks.detach(session, PROXY, vmdisk)


async def test_detach_is_proven_by_a_look_and_idempotent(proxy, tmp_path):
    proxy.entries.append(entry(5, "clone-5"))
    await detach(proxy, tmp_path, "clone-5")
    await detach(proxy, tmp_path, "clone-5")
    assert [one["disk_address"]["vmdisk_uuid"] for one in proxy.entries] == ["root-disk"]
    assert len(proxy.tiny.sent("detach")) == 1


@pytest.mark.parametrize("fault", UNKNOWN)
async def test_detach_survives_a_lost_answer(proxy, tmp_path, fault):
    proxy.entries.append(entry(5, "clone-5"))
    proxy.tiny.script("detach", UNKNOWN[fault], effect_first=True)
    await detach(proxy, tmp_path, "clone-5")
    assert len(proxy.entries) == 1


async def test_a_failed_detach_task_with_effect_is_success(proxy, tmp_path):
    proxy.entries.append(entry(5, "clone-5"))
    proxy.task_status, proxy.task_detail = "Failed", "not found"
    await detach(proxy, tmp_path, "clone-5")
    assert len(proxy.tiny.sent("detach")) == 1


async def test_a_detach_without_effect_is_tried_again_then_an_error(proxy, tmp_path):
    proxy.task_status, proxy.task_detail, proxy.ignores_detach = "Failed", "kSomethingNew", 1
    await detach(proxy, tmp_path)
    assert len(proxy.tiny.sent("detach")) == 2
    proxy.entries, proxy.ignores_detach = [entry(0, "root-disk")], 99
    with pytest.raises(TaskFailed, match="kSomethingNew"):
        await detach(proxy, tmp_path)
    assert len(proxy.tiny.sent("detach")) == 5
    proxy.task_status = "Succeeded"
    with pytest.raises(EffectUnknown, match="still shows"):
        await detach(proxy, tmp_path)


MIGRATES = "kVmMigrating: the VM is being migrated"


async def test_a_detach_waits_out_a_live_migration(proxy, tmp_path):
    proxy.task_status, proxy.task_detail, proxy.ignores_detach = "Failed", MIGRATES, 20
    await detach(proxy, tmp_path)
    assert proxy.entries == []
    assert len(proxy.tiny.sent("detach")) == 21


@pytest.mark.parametrize("act", [detach, attach], ids=["detach", "attach"])
async def test_a_vm_that_stays_busy_is_given_up_within_minutes_and_without_a_last_pause(
    proxy, tmp_path, act, monkeypatch
):
    """Nor is the same attach then asked for in its other forms, each for as long."""
    pauses, sleep = [], FakeClock.sleep

    async def noted(clock, seconds):
        pauses.append((len(proxy.tiny.sent("disks/(attach|detach)")), seconds))
        await sleep(clock, seconds)

    monkeypatch.setattr(FakeClock, "sleep", noted)
    proxy.task_status, proxy.task_detail, proxy.ignores_detach, proxy.has_effect = "Failed", MIGRATES, 9999, False
    with pytest.raises(TaskFailed, match="migrated") as caught:
        await act(proxy, tmp_path)
    assert "wait until its migration" in caught.value.remedy
    assert 840 < sum(seconds for _, seconds in pauses) <= 900
    sent = len(proxy.tiny.sent("disks/(attach|detach)"))
    assert sum(seconds for after, seconds in pauses if after == sent) <= 1
    bodies = [str(call.body) for call in proxy.tiny.sent("disks/(attach|detach)")]
    assert len(set(bodies)) == 1


async def test_disks_that_prism_does_not_show_are_not_gone(proxy, tmp_path):
    """v2 shows none where it was not asked for them: a detach would be done without being sent."""
    there = {"uuid": "dev-x", "disk_size_bytes": 64, "device_properties": {"device_type": "DISK"}}
    entity = {"metadata": {"uuid": PROXY}, "status": {"name": "proxy", "resources": {"disk_list": [there]}}}
    proxy.tiny.routes[f"GET v3/vms/{PROXY}"] = lambda _m, _c: (200, entity)
    proxy.tiny.routes[f"GET v2/vms/{PROXY}"] = lambda _m, _c: (200, {"uuid": PROXY})
    with pytest.raises(Conflict):
        await detach(proxy, tmp_path)


async def test_a_last_disk_that_v3_shows_for_a_while_yet_is_gone(proxy, tmp_path):
    """Longer than one read waits for the two interfaces to agree: the detach did work."""
    there = {"uuid": "dev-root-disk", "disk_size_bytes": 64 * MIB, "device_properties": {"device_type": "DISK"}}
    late = iter([[there]] * 15)

    def entity(_match, _call):
        return 200, {"metadata": {"uuid": PROXY}, "status": {"resources": {"disk_list": next(late, [])}}}

    proxy.tiny.routes[f"GET v3/vms/{PROXY}"] = entity
    await detach(proxy, tmp_path)
    assert len(proxy.tiny.sent("detach")) == 1
    assert next(late, None) is None


@pytest.mark.parametrize("nothing", [None, [], "gone"])
async def test_an_answer_of_nothing_is_no_answer(proxy, tmp_path, nothing):
    proxy.tiny.routes[f"GET v2/vms/{PROXY}"] = lambda _m, _c: (200, nothing)
    with pytest.raises(HypervisorUnreachable):
        await detach(proxy, tmp_path)
