"""Attach and detach when things go wrong: nothing is sent twice, nothing of others is touched."""

from __future__ import annotations

import pytest

from mover.errors import (
    Conflict,
    EffectUnknown,
    NotFound,
    Overloaded,
    RequestRefused,
    RightsMissing,
    SlotOccupied,
    TaskFailed,
)
from mover.hypervisor.nutanix import disks
from mover.hypervisor.nutanix.forms import Shapes
from mover.model.machine import CloneSource, EmptyDisk, Slot
from tests.support.tinyprism import (
    CONTAINER,
    MIB,
    PROXY,
    TinyPrism,
    answers,
    error,
    hang_up,
    html,
    serving,
    session_with,
)
from tests.support.tinyproxy import UNKNOWN, Proxy, entry

PATH = "/default/.snapshot/61/4-1-8261/.acropolis/vmdisk/5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13"
SOURCE = CloneSource(path=PATH, container_uuid=CONTAINER)
SLOT = Slot("scsi", 5)


@pytest.fixture
async def proxy(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield Proxy(tiny)


async def attach(proxy, tmp_path, source=SOURCE, shapes=None):
    async with session_with(proxy.tiny, tmp_path) as session:
        return await disks.attach(session, PROXY, SLOT, source, shapes or Shapes())


async def test_a_clone_lands_in_the_slot_that_was_asked_for(proxy, tmp_path):
    made = await attach(proxy, tmp_path)
    assert (made.vmdisk_uuid, made.device_uuid, made.slot) == ("clone-5", "dev-clone-5", SLOT)
    assert (made.source_path, made.size_bytes) == (PATH, 64 * MIB)
    assert proxy.attaches == [
        {
            "disk_address": {"device_bus": "SCSI", "device_index": 5},
            "vm_disk_clone": {"disk_address": {"ndfs_filepath": PATH}},
        }
    ]


@pytest.mark.parametrize("fault", UNKNOWN)
async def test_a_lost_answer_with_effect_is_found_by_looking(proxy, tmp_path, fault):
    proxy.tiny.script("attach", UNKNOWN[fault], effect_first=True)
    assert (await attach(proxy, tmp_path)).vmdisk_uuid == "clone-5"
    assert len(proxy.attaches) == 1


@pytest.mark.parametrize("fault", UNKNOWN)
async def test_a_lost_answer_without_effect_stays_unknown_and_is_not_sent_again(proxy, tmp_path, fault):
    proxy.tiny.script("attach", UNKNOWN[fault])
    with pytest.raises(EffectUnknown):
        await attach(proxy, tmp_path)
    assert len(proxy.attaches) == 1


async def test_a_lost_empty_disk_is_known_by_slot_size_and_container(proxy, tmp_path):
    proxy.tiny.script("attach", hang_up(), effect_first=True)
    made = await attach(proxy, tmp_path, EmptyDisk(size_bytes=7 * MIB, container_uuid=CONTAINER))
    assert (made.vmdisk_uuid, made.size_bytes) == ("clone-5", 7 * MIB)


@pytest.mark.parametrize(
    "stranger",
    [
        entry(5, "x", source={"ndfs_filepath": PATH + "2"}),
        entry(5, "x", source={"vmdisk_uuid": "5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13"}),
        entry(5, "x"),
        entry(6, "x", source={"ndfs_filepath": PATH}),
        entry(5, "root-disk", source={"ndfs_filepath": PATH}),
    ],
)
async def test_a_stranger_in_the_slot_is_never_taken_for_ours(proxy, tmp_path, stranger):
    proxy.entries.append(stranger)
    async with session_with(proxy.tiny, tmp_path) as session:
        assert await disks.find_attachment(session, PROXY, SLOT, SOURCE, {"root-disk"}) is None


@pytest.mark.parametrize(
    "stranger",
    [
        entry(5, "x", size=8 * MIB),
        entry(5, "x", size=7 * MIB, container="other"),
        entry(5, "x", size=7 * MIB, source={"vmdisk_uuid": "y"}),
        entry(5, "x", size=7 * MIB, source={"ndfs_filepath": PATH}),
    ],
)
async def test_an_empty_disk_that_differs_is_never_taken_for_ours(proxy, tmp_path, stranger):
    proxy.entries.append(stranger)
    empty = EmptyDisk(size_bytes=7 * MIB, container_uuid=CONTAINER)
    async with session_with(proxy.tiny, tmp_path) as session:
        assert await disks.find_attachment(session, PROXY, SLOT, empty, ()) is None


async def test_an_occupied_slot_is_refused_before_anything_is_sent(proxy, tmp_path):
    proxy.entries.append(entry(5, "theirs"))
    with pytest.raises(SlotOccupied, match="theirs"):
        await attach(proxy, tmp_path)
    assert proxy.attaches == []


async def test_a_slot_stolen_in_between_is_said(proxy, tmp_path):
    def steal(_match, _call):
        proxy.entries.append(entry(5, "theirs"))
        return 400, error(400, "INVALID_ARGUMENT", "slot in use")

    proxy.tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = steal
    with pytest.raises(SlotOccupied, match="theirs"):
        await attach(proxy, tmp_path)
    assert len(proxy.attaches) == 1


async def test_the_other_form_follows_only_a_refusal_that_had_no_effect(proxy, tmp_path):
    proxy.refuse[False] = (400, {"message": "storage_container_uuid is required"})
    shapes = Shapes()
    assert (await attach(proxy, tmp_path, shapes=shapes)).vmdisk_uuid == "clone-5"
    assert [one["vm_disk_clone"].get("storage_container_uuid") for one in proxy.attaches] == [None, CONTAINER]
    proxy.entries = proxy.entries[:1]
    await attach(proxy, tmp_path, shapes=shapes)
    assert proxy.attaches[-1]["vm_disk_clone"]["storage_container_uuid"] == CONTAINER
    assert len(proxy.attaches) == 3


async def test_the_container_of_a_path_is_looked_up_by_its_name(proxy, tmp_path):
    proxy.refuse[False] = (422, {"message": "required"})
    await attach(proxy, tmp_path, CloneSource(path=PATH))
    assert proxy.attaches[-1]["vm_disk_clone"]["storage_container_uuid"] == CONTAINER


async def test_a_source_that_is_gone_is_not_found(proxy, tmp_path):
    gone = (400, {"message": f"File {PATH} does not exist", "error_code": {"code": 3}})
    proxy.refuse = {False: gone, True: gone}
    with pytest.raises(NotFound, match="8261"):
        await attach(proxy, tmp_path)


async def test_a_refusal_of_both_forms_is_the_first_ones(proxy, tmp_path):
    proxy.refuse = {False: (400, {"message": "first"}), True: (400, {"message": "second"})}
    with pytest.raises(RequestRefused, match="first"):
        await attach(proxy, tmp_path)


async def test_a_failed_task_without_effect_is_a_failure(proxy, tmp_path):
    proxy.task_status, proxy.task_detail, proxy.has_effect = "Failed", "NoSpace", False
    with pytest.raises(TaskFailed, match="NoSpace"):
        await attach(proxy, tmp_path, EmptyDisk(size_bytes=MIB, container_uuid=CONTAINER))
    assert len(proxy.attaches) == 1


async def test_a_failed_task_with_effect_is_an_attachment(proxy, tmp_path):
    proxy.task_status, proxy.task_detail = "Failed", "INTERNAL_ERROR"
    assert (await attach(proxy, tmp_path)).vmdisk_uuid == "clone-5"
    assert len(proxy.attaches) == 1


async def test_success_with_another_source_in_the_slot_is_no_success(proxy, tmp_path):
    def steal(_match, _call):
        proxy.entries.append(entry(5, "theirs", source={"ndfs_filepath": "/other"}))
        return 201, {"task_uuid": "t"}

    proxy.tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = steal
    with pytest.raises(EffectUnknown, match="theirs"):
        await attach(proxy, tmp_path)
    assert len(proxy.attaches) == 1


async def test_a_disk_of_another_size_than_ordered_is_not_forgotten(proxy, tmp_path):
    def rounded(_match, _call):
        proxy.entries.append(entry(5, "ours", size=8 * MIB))
        return 201, {"task_uuid": "t"}

    proxy.tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = rounded
    with pytest.raises(EffectUnknown, match="ours"):
        await attach(proxy, tmp_path, EmptyDisk(size_bytes=7 * MIB, container_uuid=CONTAINER))


async def test_success_that_never_shows_is_unknown(proxy, tmp_path):
    proxy.has_effect = False
    with pytest.raises(EffectUnknown, match="not shown"):
        await attach(proxy, tmp_path)


@pytest.mark.parametrize("status", [429, 409])
async def test_a_busy_prism_is_looked_at_and_asked_again(proxy, tmp_path, status):
    proxy.tiny.script("attach", answers(status), answers(status))
    assert (await attach(proxy, tmp_path)).vmdisk_uuid == "clone-5"
    assert len(proxy.attaches) == 3


WRONG = answers(500, {"message": "kInvalidArgument: storage container is required", "error_code": {"code": 1000}})


async def test_a_500_that_says_what_is_wrong_is_followed_by_another_form_when_nothing_came(proxy, tmp_path):
    proxy.tiny.script("attach", WRONG)
    assert (await attach(proxy, tmp_path)).vmdisk_uuid == "clone-5"
    assert ["storage_container_uuid" in sent["vm_disk_clone"] for sent in proxy.attaches] == [False, True]


async def test_a_500_that_says_what_is_wrong_and_did_it_anyway_makes_one(proxy, tmp_path):
    proxy.tiny.script("attach", WRONG, effect_first=True)
    assert (await attach(proxy, tmp_path)).vmdisk_uuid == "clone-5"
    assert len(proxy.attaches) == 1


async def test_forms_that_all_end_in_a_500_leave_the_effect_unknown(proxy, tmp_path):
    proxy.tiny.script("attach", WRONG, *[answers(422)] * 3)
    with pytest.raises(EffectUnknown, match="is required"):
        await attach(proxy, tmp_path)
    assert len(proxy.attaches) == 4


@pytest.mark.parametrize("then", [422, 403])
async def test_a_500_that_did_it_late_without_naming_the_source_frees_no_slot_for_a_second_one(proxy, tmp_path, then):
    """SlotOccupied or RightsMissing would say that nothing was made: the caller would take another slot."""
    proxy.tiny.script("GET v2/vms", *[answers(200, {"vm_disk_info": [entry(0, "root-disk")]})] * 14)
    proxy.entries.append(entry(5, "late"))
    proxy.tiny.script("attach", WRONG, answers(then))
    with pytest.raises(EffectUnknown, match="is required"):
        await attach(proxy, tmp_path)
    assert len(proxy.attaches) == 2


async def test_a_429_with_effect_does_not_make_two(proxy, tmp_path):
    proxy.tiny.script("attach", answers(429), effect_first=True)
    assert (await attach(proxy, tmp_path)).vmdisk_uuid == "clone-5"
    assert len(proxy.attaches) == 1


async def test_a_task_that_cannot_be_asked_about_is_replaced_by_a_look(proxy, tmp_path):
    proxy.tiny.script("tasks", *[html()] * 500)
    assert (await attach(proxy, tmp_path)).vmdisk_uuid == "clone-5"
    assert len(proxy.attaches) == 1


async def test_a_prism_that_goes_silent_after_accepting_leaves_the_effect_unknown(proxy, tmp_path):
    proxy.tiny.script("attach", hang_up(), effect_first=True)
    proxy.tiny.script("GET v2/vms", answers(200, {"vm_disk_info": proxy.entries[:1]}), *[html()] * 500)
    with pytest.raises(EffectUnknown, match="could not be asked"):
        await attach(proxy, tmp_path)
    assert len(proxy.attaches) == 1


@pytest.mark.parametrize(("status", "kind"), [(429, Overloaded), (409, Conflict)])
async def test_a_prism_that_stays_busy_is_given_up(proxy, tmp_path, status, kind):
    proxy.tiny.script("attach", *[answers(status)] * 99)
    with pytest.raises(kind):
        await attach(proxy, tmp_path)


async def test_a_viewer_may_not_attach(proxy, tmp_path):
    proxy.tiny.script("attach", answers(403))
    with pytest.raises(RightsMissing):
        await attach(proxy, tmp_path)
    assert len(proxy.attaches) == 1


async def test_a_vm_that_is_gone_is_not_found(proxy, tmp_path):
    proxy.tiny.routes.pop(f"GET v2/vms/{PROXY}")
    with pytest.raises(NotFound):
        await attach(proxy, tmp_path)
    async with session_with(proxy.tiny, tmp_path) as session:
        assert await disks.find_attachment(session, PROXY, SLOT, SOURCE, ()) is None
        await disks.detach(session, PROXY, "clone-5")
