"""Attach to a VM that somebody else keeps busy: as patient as a detach, and never beyond the life of its intent."""

from __future__ import annotations

import pytest

from mover.config import PrismSettings
from mover.errors import Conflict, EffectUnknown, HypervisorError, NotFound, Overloaded, TaskFailed
from mover.hypervisor.nutanix import disks
from mover.hypervisor.nutanix.forms import Shapes
from mover.hypervisor.protocol import BUSY_WITHIN_S
from mover.model.machine import CloneSource, Slot
from mover.operations.reconcile import intent_life_s
from tests.support.tinyprism import CONTAINER, PROXY, TinyPrism, answers, error, serving, session_with
from tests.support.tinyproxy import Proxy, entry

SOURCE = CloneSource(path="/migration/.snapshot/61/4-1-8261/.acropolis/vmdisk/5a1e", container_uuid=CONTAINER)
MIGRATES = "The VM is migrating"


@pytest.fixture
async def proxy(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield Proxy(tiny)


@pytest.fixture
async def session(proxy, tmp_path):
    async with session_with(proxy.tiny, tmp_path) as made:
        yield made


async def attach(session):
    return await disks.attach(session, PROXY, Slot("scsi", 5), SOURCE, Shapes())


@pytest.mark.parametrize(
    "busy", [answers(409), answers(422, error(422, "X", MIGRATES)), answers(400, {"message": MIGRATES})]
)
async def test_an_attach_waits_for_a_vm_that_is_busy_however_prism_says_so(proxy, session, busy):
    proxy.tiny.script("attach", *[busy] * 20)
    assert (await attach(session)).vmdisk_uuid == "clone-5"
    assert len(proxy.attaches) == 21
    assert len({str(body) for body in proxy.attaches}) == 1
    assert session.clock.monotonic() > 400


async def test_a_last_refusal_as_busy_that_made_a_disk_is_looked_after(proxy, session):
    busy = answers(409)
    proxy.tiny.script("attach", *[busy] * 99)
    with pytest.raises(Conflict) as caught:
        await attach(session)
    assert "wait until its migration" in caught.value.remedy
    sent = len(proxy.attaches)
    proxy.tiny.scripts.clear()
    proxy.tiny.calls.clear()

    def take(_match, _call):
        if len(proxy.attaches) == sent:
            proxy.entries.append(entry(5, "late", source={"ndfs_filepath": SOURCE.path}))
        return 409, error(409, "X", MIGRATES)

    proxy.tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = take
    assert (await attach(session)).vmdisk_uuid == "late"


async def test_all_forms_together_are_sent_within_the_life_of_the_intent(proxy, session):
    """Each form with a wait of its own would be sent for four times as long."""
    times = []

    def refuse(_match, _call):
        times.append(session.clock.monotonic())
        busy = len(times) % 25
        return (409, error(409, "X", MIGRATES)) if busy else (422, error(422, "INVALID", "container is required"))

    proxy.tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = refuse
    with pytest.raises(HypervisorError):
        await attach(session)
    assert len({str(body) for body in proxy.attaches}) > 1
    assert 600 < times[-1] <= BUSY_WITHIN_S
    settings = PrismSettings()
    assert times[-1] + settings.task_timeout + 900 <= intent_life_s(settings)


@pytest.mark.parametrize("is_task", [True, False])
async def test_a_container_called_migration_does_not_make_a_missing_snapshot_busy(proxy, session, is_task):
    said = f"NFS: {SOURCE.path} not found"
    proxy.task_status, proxy.task_detail, proxy.has_effect = "Failed", said, False
    if not is_task:
        proxy.tiny.script("attach", *[answers(422, error(422, "X", said))] * 9)
    with pytest.raises(NotFound, match="cannot be attached"):
        await attach(session)
    assert len(proxy.attaches) == 4
    assert session.clock.monotonic() < 60


@pytest.mark.parametrize("late", [30, BUSY_WITHIN_S + 1])
async def test_no_other_form_is_tried_once_the_time_for_a_busy_vm_has_passed(proxy, session, late):
    """A first form that waited, and whose task failed late: the next one's task could outlast the intent."""

    def fail(_match, _call):
        session.clock.elapsed += late
        failed = {"uuid": "t", "progress_status": "Failed", "meta_response": {"error_detail": "kUnknownForm"}}
        return 200, {"completed_tasks_info": [failed]}

    proxy.has_effect = False
    proxy.tiny.routes["POST v2/tasks/poll"] = fail
    with pytest.raises(TaskFailed, match="kUnknownForm"):
        await attach(session)
    assert len(proxy.attaches) == (4 if late == 30 else 1)


async def test_an_attach_whose_effect_is_unknown_stays_so_when_the_time_has_passed(proxy, session):
    def refuse(_match, _call):
        session.clock.elapsed += BUSY_WITHIN_S + 1
        return 500, {"message": "kInvalidArgument: container is required", "error_code": {"code": 1}}

    proxy.tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = refuse
    with pytest.raises(EffectUnknown):
        await attach(session)
    assert len(proxy.attaches) == 1


async def test_one_that_is_too_busy_to_answer_is_not_asked_for_beyond_that_time(proxy, session):
    def refuse(_match, _call):
        session.clock.elapsed += BUSY_WITHIN_S / 2
        return 429, error(429, "TOO_MANY_REQUESTS")

    proxy.tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = refuse
    with pytest.raises(Overloaded):
        await attach(session)
    assert len(proxy.attaches) == 2
