"""Paging and tasks: everything, to the end, or an error."""

from __future__ import annotations

import pytest

from mover.errors import EffectUnknown, HypervisorUnreachable, SnapshotIncomplete, TaskFailed
from mover.hypervisor.nutanix.paging import list_v2_by_offset, list_v2_by_page, list_v3
from mover.hypervisor.nutanix.snapshots import make_snapshot
from mover.hypervisor.nutanix.tasks import wait_for_v2, wait_for_v3
from mover.model.machine import Consistency
from tests.support.tinyprism import TinyPrism, answers, error, serving, session_with


@pytest.fixture
async def prism(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield tiny


def name_of(entity):
    return entity["metadata"]["uuid"]


def v3_pages(names, *, cap, total=None):
    def answer(_match, call):
        start = call.body["offset"]
        page = names[start : start + min(cap, call.body["length"])]
        entities = [{"metadata": {"uuid": name}} for name in page]
        metadata = {"total_matches": len(names) if total is None else total(), "length": len(page), "offset": start}
        return 200, {"entities": entities, "metadata": metadata}

    return answer


async def test_v3_pages_are_followed_to_the_end_however_small(prism, tmp_path):
    names = [f"vm-{n}" for n in range(23)]
    prism.routes["POST v3/vms/list"] = v3_pages(names, cap=5)
    async with session_with(prism, tmp_path) as session:
        found = await list_v3(session, "vm", name_of, filter_="vm_name==web.*")
    assert found == names
    assert prism.sent("vms/list")[0].body == {"kind": "vm", "length": 100, "offset": 0, "filter": "vm_name==web.*"}
    assert [call.body["offset"] for call in prism.sent("vms/list")] == [0, 5, 10, 15, 20]


async def test_an_empty_list_is_empty(prism, tmp_path):
    prism.routes["POST v3/vms/list"] = v3_pages([], cap=5)
    async with session_with(prism, tmp_path) as session:
        assert await list_v3(session, "vm", name_of) == []


async def test_a_list_without_a_total_ends_at_an_empty_page(prism, tmp_path):
    def answer(_match, call):
        start = call.body["offset"]
        return 200, {"entities": [{"metadata": {"uuid": str(n)}} for n in range(start, min(start + 2, 5))]}

    prism.routes["POST v3/vms/list"] = answer
    async with session_with(prism, tmp_path) as session:
        assert len(await list_v3(session, "vm", name_of)) == 5


def reading(kind, session):
    if kind == "v3":
        return list_v3(session, "vm", name_of)
    if kind == "offset":
        return list_v2_by_offset(session, "vms/", dict, key="uuid", query={})
    return list_v2_by_page(session, "vms/", dict, key="uuid")


def one_after_another(prism, *answered):
    """These are the answers to any list; the last one for good."""
    left = iter(answered)
    prism.routes["(POST v3/vms/list|GET v2/vms/)"] = lambda _m, _c: (200, next(left, answered[-1]))


def page_of(*names, **metadata):
    page = {"entities": [{"uuid": name, "metadata": {"uuid": name}} for name in names]}
    return {**page, "metadata": metadata} if metadata else page


@pytest.mark.parametrize("end", [{}, {"entities": None}, {"metadata": {}}, {"metadata": {"count": 0}}], ids=str)
@pytest.mark.parametrize("kind", ["v3", "offset", "page"])
async def test_a_list_without_a_total_ends_where_its_pages_have_no_entries_any_more(prism, tmp_path, end, kind):
    one_after_another(prism, page_of("a", "b"), page_of("c"), end)
    async with session_with(prism, tmp_path) as session:
        assert len(await reading(kind, session)) == 3
    assert len(prism.sent("vms/")) == 3


@pytest.mark.parametrize("total", ["total_matches", "total_entities"])
async def test_a_page_without_entries_is_an_error_where_a_total_was_told(prism, tmp_path, total):
    one_after_another(prism, *[page_of("a", "b", **{total: 3}), {}] * 9)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(HypervisorUnreachable):
            await reading("v3", session)


@pytest.mark.parametrize("answer", [[], "", 0], ids=repr)
async def test_what_is_no_answer_to_a_list_does_not_end_it(prism, tmp_path, answer):
    one_after_another(prism, *[page_of("a", "b"), answer] * 9)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(HypervisorUnreachable):
            await reading("v3", session)


NOTHING = [None, {}, [], "", {"entities": None}, {"metadata": {"total_matches": 3, "grand_total_entities": 3}}]


@pytest.mark.parametrize("nothing", NOTHING, ids=str)
@pytest.mark.parametrize("kind", ["v3", "offset", "page"])
async def test_an_answer_without_a_list_is_read_again_and_never_an_empty_list(prism, tmp_path, nothing, kind):
    prism.routes["(POST v3/vms/list|GET v2/vms/)"] = lambda _m, _c: (200, nothing)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(HypervisorUnreachable):
            await reading(kind, session)
    assert len(prism.sent("vms/")) > 3
    async with session_with(prism, tmp_path) as session:
        good = {"entities": [{"uuid": "a", "metadata": {"uuid": "a"}}], "metadata": {"total_entities": 1}}
        answered = iter([(200, nothing)])
        prism.routes["(POST v3/vms/list|GET v2/vms/)"] = lambda _m, _c: next(answered, (200, good))
        assert len(await reading(kind, session)) == 1


async def test_a_total_of_nothing_is_an_empty_list_without_one_beside_it(prism, tmp_path):
    prism.routes["POST v3/vms/list"] = lambda _m, _c: (200, {"entities": None, "metadata": {"total_matches": 0}})
    async with session_with(prism, tmp_path) as session:
        assert await list_v3(session, "vm", name_of) == []


async def test_a_list_that_is_cut_short_is_an_error(prism, tmp_path):
    prism.routes["POST v3/vms/list"] = v3_pages(["a", "b"], cap=5, total=lambda: 9)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(HypervisorUnreachable, match="2 of 9"):
            await list_v3(session, "vm", name_of)


async def test_a_list_that_repeats_its_page_is_an_error(prism, tmp_path):
    page = {"entities": [{"metadata": {"uuid": "a"}}], "metadata": {"total_matches": 3}}
    prism.routes["POST v3/vms/list"] = lambda _m, _c: (200, page)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(HypervisorUnreachable, match="same page"):
            await list_v3(session, "vm", name_of)


async def test_a_list_that_changes_once_is_read_again(prism, tmp_path):
    totals = iter([4, 3, 3, 3, 3])
    names = ["a", "b", "c"]
    prism.routes["POST v3/vms/list"] = v3_pages(names, cap=2, total=lambda: next(totals))
    async with session_with(prism, tmp_path) as session:
        assert len(await list_v3(session, "vm", name_of)) == 3


async def test_a_list_that_never_holds_still_is_taken_as_seen(prism, tmp_path):
    totals = iter(range(3, 100))
    prism.routes["POST v3/vms/list"] = v3_pages(["a", "b", "c"], cap=2, total=lambda: next(totals))
    async with session_with(prism, tmp_path) as session:
        assert len(await list_v3(session, "vm", name_of)) == 3


async def test_v2_offsets_follow_what_came_not_what_was_asked(prism, tmp_path):
    names = [f"vm-{n}" for n in range(7)]

    def answer(_match, call):
        start = int(call.query["offset"])
        page = [{"uuid": name} for name in names[start : start + 3]]
        return 200, {"metadata": {"grand_total_entities": 7, "count": len(page)}, "entities": page}

    prism.routes["GET v2/vms/"] = answer
    async with session_with(prism, tmp_path) as session:
        found = await list_v2_by_offset(session, "vms/", dict, key="uuid", query={"include_vm_disk_config": "true"})
    assert [entity["uuid"] for entity in found] == names
    assert prism.sent("v2/vms")[1].query == {"include_vm_disk_config": "true", "offset": "3", "length": "100"}


async def test_v2_page_numbers_are_counted(prism, tmp_path):
    names = [f"k-{n}" for n in range(5)]

    def answer(_match, call):
        start = (int(call.query["page"]) - 1) * 2
        page = [{"storage_container_uuid": name} for name in names[start : start + 2]]
        return 200, {"metadata": {"grand_total_entities": 5, "total_entities": 5}, "entities": page}

    prism.routes["GET v2/storage_containers/"] = answer
    async with session_with(prism, tmp_path) as session:
        found = await list_v2_by_page(session, "storage_containers/", dict, key="storage_container_uuid")
    assert [entity["storage_container_uuid"] for entity in found] == names


def polled(status, **more):
    return 200, {"timed_out": False, "completed_tasks_info": [{"uuid": "t", "progress_status": status, **more}]}


async def test_v2_tasks_are_long_polled(prism, tmp_path):
    states = iter([(200, {"timed_out": True, "completed_tasks_info": []}), polled("Succeeded")])
    prism.routes["POST v2/tasks/poll"] = lambda _m, _c: next(states)
    prism.routes["GET v2/tasks/t"] = lambda _m, _c: (200, {"uuid": "t", "progress_status": "Running"})
    async with session_with(prism, tmp_path) as session:
        task = await wait_for_v2(session, {"task_uuid": "T"}, what="attach")
    assert task["progress_status"] == "Succeeded"
    assert prism.sent("poll")[0].body == {"completed_tasks": ["t"], "timeout_interval": 3}


async def test_v2_without_a_poll_is_looked_at(prism, tmp_path):
    states = iter(["queued", "Running", "SUCCEEDED"])
    prism.routes["GET v2/tasks/t"] = lambda _m, _c: (200, {"uuid": "t", "progress_status": next(states)})
    async with session_with(prism, tmp_path) as session:
        assert (await wait_for_v2(session, {"task_uuid": "t"}, what="x"))["progress_status"] == "SUCCEEDED"
    assert len(prism.sent("tasks/poll")) == 1


async def test_a_poll_refused_for_an_unknown_task_is_asked_again_when_it_is_known(prism, tmp_path):
    prism.script("POST v2/tasks/poll", answers(404))
    prism.script("GET v2/tasks/t", answers(404), answers(404))
    prism.routes["GET v2/tasks/t"] = lambda _m, _c: (200, {"uuid": "t", "progress_status": "Running"})
    prism.routes["POST v2/tasks/poll"] = lambda _m, _c: polled("Succeeded")
    async with session_with(prism, tmp_path) as session:
        assert await wait_for_v2(session, {"task_uuid": "t"}, what="x")
    ways = [call.method for call in prism.calls if "tasks" in call.path]
    assert ways == ["POST", "GET", "GET", "GET", "POST"]


@pytest.mark.parametrize("status", ["Failed", "ABORTED", "Canceled"])
async def test_a_failed_v2_task_says_why(prism, tmp_path, status):
    meta = {"error_code": 14, "error_detail": "NoSpace: full"}
    prism.routes["POST v2/tasks/poll"] = lambda _m, _c: polled(status, meta_response=meta)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(TaskFailed, match="NoSpace: full") as caught:
            await wait_for_v2(session, {"task_uuid": "t"}, what="attach")
    assert caught.value.facts["task_uuid"] == "t"


async def test_a_task_unknown_right_after_creation_is_awaited(prism, tmp_path):
    prism.script("tasks", answers(404), answers(404), answers(404))
    prism.routes["POST v2/tasks/poll"] = lambda _m, _c: polled("Succeeded")
    prism.routes["GET v2/tasks/t"] = lambda _m, _c: (200, {"uuid": "t", "progress_status": "Succeeded"})
    async with session_with(prism, tmp_path) as session:
        assert await wait_for_v2(session, {"task_uuid": "t"}, what="x")


async def test_a_task_that_stays_unknown_leaves_the_effect_unknown(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(EffectUnknown, match="does not know its own task"):
            await wait_for_v2(session, {"task_uuid": "t"}, what="x")
        with pytest.raises(EffectUnknown, match="names no task"):
            await wait_for_v2(session, {}, what="x")


async def test_a_task_that_never_ends_leaves_the_effect_unknown(prism, tmp_path):
    prism.routes["GET v2/tasks/t"] = lambda _m, _c: (200, {"uuid": "t", "progress_status": "Running"})
    async with session_with(prism, tmp_path, task_timeout=30.0) as session:
        with pytest.raises(EffectUnknown, match="not ended in 30 s"):
            await wait_for_v2(session, {"task_uuid": "t"}, what="x")


@pytest.mark.parametrize(
    "body",
    [
        {"status": {"execution_context": {"task_uuid": "T"}}},
        {"status": {"execution_context": {"task_uuid": ["T"]}}},
        {"status": {"execution_context": {"task_uuids": ["T"]}}},
        {"task_uuid": "T"},
    ],
)
async def test_v3_names_its_task_in_many_ways(prism, tmp_path, body):
    prism.routes["GET v3/tasks/t"] = lambda _m, _c: (200, {"uuid": "t", "status": "SUCCEEDED"})
    async with session_with(prism, tmp_path) as session:
        assert (await wait_for_v3(session, body, what="x"))["status"] == "SUCCEEDED"


async def test_v3_without_a_task_is_for_the_caller_to_look(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        assert await wait_for_v3(session, {"status": {"state": "PENDING"}}, what="x") is None


async def test_a_failed_central_task_is_explained_by_its_sub_tasks(prism, tmp_path):
    below = {"subtask_reference_list": [{"kind": "task", "uuid": "s"}], "error_detail": ""}
    prism.routes["GET v3/tasks/t"] = lambda _m, _c: (200, {"uuid": "t", "status": "FAILED", **below})
    prism.routes["GET v3/tasks/s"] = lambda _m, _c: (200, {"uuid": "s", "status": "FAILED", "error_detail": "deep"})
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(TaskFailed, match="deep"):
            await wait_for_v3(session, {"task_uuid": "t"}, what="x")


async def test_a_v3_task_error_body_is_read(prism, tmp_path):
    prism.routes["GET v3/tasks/t"] = lambda _m, _c: (404, error(404, "ENTITY_NOT_FOUND"))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(EffectUnknown):
            await wait_for_v3(session, {"task_uuid": "t"}, what="x")


async def test_a_snapshot_that_is_complete_late_is_told_by_what_it_lacks(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:

        def state(_match, _call):
            is_late = session.clock.monotonic() > session.task_timeout_s - 20
            return 200, {"metadata": {"uuid": "s"}, "status": {"state": "COMPLETE" if is_late else "PENDING"}}

        prism.routes["POST v3/idempotence_identifiers"] = lambda _m, _c: (200, {"uuid_list": ["s"]})
        prism.routes["GET v3/vm_snapshots/s"] = state
        with pytest.raises(SnapshotIncomplete, match="lists no file"):
            await make_snapshot(session, "v", name="n", consistency=Consistency.CRASH, key="k", expires_at=1.0)
        assert session.clock.monotonic() < session.task_timeout_s + 60
