"""How VMs stand in the metrics: names, clocks, memory, and what has left."""

from __future__ import annotations

import dataclasses
import sqlite3

import pytest

from mover.catalog.history import Fact, History, What
from mover.clock import FakeClock
from mover.errors import Damaged, StoreUnreachable
from mover.metrics import REGISTRY
from mover.model.machine import Consistency, Slot
from mover.model.point import DiskImage, PointSummary, ReadMode, RestorePoint
from mover.operations.gauges import Standing
from mover.storage.protocol import StoreTraits


def point(point_id, vm="web", *, uuid="", at=1000.0, base=True, problem=None, **facts):
    given = {
        "id": point_id,
        "vm_uuid": uuid or f"uuid-of-{vm}",
        "vm_name": vm,
        "cluster_uuid": "c",
        "created_at": at,
        "committed_at": at + 10,
        "consistency_asked": Consistency.CRASH,
        "consistency": Consistency.CRASH,
        "disks": (DiskImage("d", Slot("scsi", 0), 1024, ReadMode.INCREMENTAL, "changes"),),
        "session_id": "s",
        "job_id": "j",
        "is_base": base,
    }
    return RestorePoint(**{**given, **facts}), problem


class Shelf:
    """A repository of given points."""

    def __init__(self, *points, list_lag_s=0.0):
        self.all = list(points)
        self.damaged = set()
        self.is_down = False
        self.traits = StoreTraits(True, list_lag_s, "shelf")
        self.loaded = []

    @property
    def store(self):
        return self

    async def points(self, vm_uuid=None):
        if self.is_down:
            raise StoreUnreachable("no answer", remedy="wait")
        rows = sorted(self.all, key=lambda row: row[0].created_at)
        return [
            PointSummary(
                one.id,
                one.vm_uuid,
                "" if problem else one.vm_name,
                one.created_at,
                one.committed_at,
                1024,
                0,
                0,
                ReadMode.FULL,
                one.consistency,
                one.is_base and not problem,
                1,
                problem,
            )
            for one, problem in rows
        ]

    async def load(self, summary):
        self.loaded.append(summary.id)
        if summary.id in self.damaged:
            raise Damaged("flipped", remedy="restore another")
        return next(one for one, _ in self.all if one.id == summary.id)


@pytest.fixture
def clock():
    return FakeClock(start=10_000.0)


@pytest.fixture
async def history(tmp_path):
    made = History(tmp_path / "catalog.sqlite")
    yield made
    await made.close()


@pytest.fixture
def standing(clock, history):
    made = Standing(clock, history)
    yield made
    made.close()


def told(vm="web", *, of="vm", **labels):
    """Everything that the metrics say of a VM, without the prefix."""
    return {
        sample.name.removeprefix("mover_vm_").removesuffix("_timestamp_seconds"): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("vm") == vm and sample.name.startswith(f"mover_{of}_")
    }


STANDS = {
    "last_success": 1000,
    "base_snapshot": 1000,
    "damaged_points": 0,
    "application_consistent": 0,
    "consistency_downgraded": 0,
    "unprotected_volume_groups": 0,
}


async def test_a_committed_point_is_all_that_is_told(standing):
    await standing.committed(point("p1")[0])
    assert told() == STANDS


async def test_recalled_it_is_the_same_and_a_second_recall_reads_nothing_again(standing):
    shelf = Shelf(point("p0", at=500), point("p1"))
    await standing.recall(shelf)
    assert told() == STANDS
    await standing.recall(shelf)
    assert shelf.loaded == ["p1"]


async def test_a_failure_shows_until_a_success_and_over_a_restart(standing, clock, history):
    shelf = Shelf(point("p1"))
    await standing.recall(shelf)
    await standing.failed("uuid-of-web", "web")
    assert told() == {**STANDS, "last_failure": 10_000}
    standing.close()
    assert told() == {}
    after = Standing(clock, history)
    await after.recall(shelf)
    assert told() == {**STANDS, "last_failure": 10_000}
    clock.elapsed += 100
    shelf.all.append(point("p2", at=10_050))
    await after.committed(shelf.all[-1][0])
    assert told() == {**STANDS, "last_success": 10_050, "base_snapshot": 10_050}
    assert await history.all() == []
    after.close()


async def test_a_failure_that_the_history_still_has_is_older_than_the_point(standing, history, clock):
    """Killed between the manifest and the history's line."""
    await history.note(Fact("uuid-of-web", "web", What.FAILED, "", clock.now()))
    await standing.recall(Shelf(point("p1", at=9_995)))
    assert "last_failure" not in told()


async def test_a_vm_that_never_succeeded_is_no_green_gap(standing, history, clock):
    await standing.failed("uuid-of-new", "new")
    assert told("new") == {"last_success": 0, "last_failure": 10_000, "damaged_points": 0}
    await standing.recall(Shelf())
    assert told("new")["last_success"] == 0
    clock.elapsed += 8 * 86400
    await standing.recall(Shelf())
    assert told("new") == {}
    after = Standing(clock, history)
    await after.recall(Shelf())
    assert told("new") == {}


async def test_vms_of_one_name_are_told_apart_and_hide_nothing(standing):
    shelf = Shelf(point("p1", uuid="aaaaaaaa-1"), point("p2", uuid="bbbbbbbb-1", at=2000))
    await standing.recall(shelf)
    assert told() == {}
    assert told("web (aaaaaaaa)")["last_success"] == 1000
    assert told("web (bbbbbbbb)")["last_success"] == 2000
    shelf.all.pop()
    await standing.recall(shelf)
    assert told("web (aaaaaaaa)") == told("web (bbbbbbbb)") == {}
    assert told() == STANDS


async def test_two_vms_may_change_names_with_each_other(standing):
    shelf = Shelf(point("p1", "one", uuid="u1"), point("p2", "two", uuid="u2", at=2000))
    await standing.recall(shelf)
    shelf.all = [point("p3", "two", uuid="u1", at=3000), point("p4", "one", uuid="u2", at=4000)]
    await standing.recall(shelf)
    assert (told("two")["last_success"], told("one")["last_success"]) == (3000, 4000)


async def test_a_vm_that_left_the_repository_is_told_no_more(standing):
    shelf = Shelf(point("p1"), point("p2", "other"))
    await standing.recall(shelf)
    shelf.all = shelf.all[1:]
    await standing.recall(shelf)
    assert told() == {}
    assert told("other") == STANDS
    assert REGISTRY.get_sample_value("mover_audit_mismatches_total", {"vm": "web"}) is None
    assert REGISTRY.get_sample_value("mover_audit_mismatches_total", {"vm": "other"}) == 0


async def test_a_repository_that_does_not_answer_changes_nothing(standing):
    shelf = Shelf(point("p1"))
    await standing.recall(shelf)
    shelf.is_down = True
    with pytest.raises(StoreUnreachable):
        await standing.recall(shelf)
    assert told() == STANDS


async def test_a_newest_point_that_cannot_be_read_is_no_success(standing):
    shelf = Shelf(point("p1"), point("p2", at=2000), point("p3", at=3000, problem="cut off"))
    shelf.damaged = {"p2"}
    await standing.recall(shelf)
    assert told() == {**STANDS, "base_snapshot": 2000, "damaged_points": 2}
    shelf.damaged.add("p1")
    fresh = Standing(FakeClock(start=10_000.0))
    standing.close()
    await fresh.recall(shelf)
    assert (told()["last_success"], told()["damaged_points"]) == (0, 3)
    fresh.close()


async def test_a_point_from_the_future_is_not_believed(standing, clock):
    """The node's clock was a year ahead when it was made: it would hide every failure until then."""
    shelf = Shelf(point("p1"), point("p2", at=10_000 + 365 * 86400))
    await standing.recall(shelf)
    assert told()["last_success"] == 1000
    shelf.all = shelf.all[1:]
    await standing.recall(shelf)
    assert told()["last_success"] == 0
    clock.elapsed += 366 * 86400
    await standing.recall(shelf)
    assert told()["last_success"] == shelf.all[0][0].created_at


async def test_a_failure_from_the_future_does_not_stay_for_ever(standing, history, clock):
    clock.elapsed = 365 * 86400
    await history.note(Fact("uuid-of-web", "web", What.FAILED, "", clock.now()))
    clock.elapsed = 0
    await standing.recall(Shelf(point("p1")))
    assert told() == STANDS


async def test_a_list_that_lags_does_not_undo_what_was_just_committed(standing, clock):
    shelf = Shelf(point("p1"), list_lag_s=30.0)
    await standing.recall(shelf)
    await standing.committed(point("p2", at=9_990)[0])
    await standing.committed(point("q1", "new", at=9_990)[0])
    clock.elapsed += 29
    await standing.recall(shelf)
    assert (told()["last_success"], told("new")["last_success"]) == (9_990, 9_990)
    clock.elapsed += 2
    await standing.recall(shelf)
    assert told()["last_success"] == 1000
    assert told("new") == {}


async def test_verified_and_damaged_are_heard_of_from_other_commands(standing, clock, history, tmp_path):
    await standing.recall(Shelf(point("p1"), point("p2", at=2000)))
    beside = History(tmp_path / "catalog.sqlite")
    command = Standing(FakeClock(start=10_000.0), beside)
    await command.damaged(point("p1")[0])
    await command.verified(point("p2", at=2000)[0])
    command.close()
    await beside.close()
    await standing.remember()
    assert (told()["damaged_points"], told()["last_verified"]) == (1, 10_000)
    clock.elapsed += 60
    await standing.verified(point("p1")[0])
    await standing.remember()
    assert (told()["damaged_points"], told()["last_verified"]) == (0, 10_060)


async def test_a_damaged_point_that_was_deleted_hurts_no_more(standing):
    shelf = Shelf(point("p1"), point("p2", at=2000))
    await standing.recall(shelf)
    await standing.damaged(shelf.all[0][0])
    assert told()["damaged_points"] == 1
    shelf.all = shelf.all[1:]
    await standing.recall(shelf)
    assert told()["damaged_points"] == 0


async def test_a_base_is_told_as_long_as_its_snapshot_is_there(standing):
    shelf = Shelf(point("p1"), point("p2", at=2000, base=False))
    await standing.recall(shelf)
    assert (told()["base_snapshot"], told()["last_success"]) == (1000, 2000)
    standing.lose_bases(["p1"])
    assert "base_snapshot" not in told()
    await standing.committed(point("p3", at=3000)[0])
    assert told()["base_snapshot"] == 3000


async def test_a_catalog_that_cannot_be_used_costs_memory_and_nothing_else(tmp_path, clock):
    folder = tmp_path / "catalog.sqlite"
    folder.mkdir()
    history = History(folder)
    standing = Standing(clock, history)
    await standing.recall(Shelf(point("p1")))
    await standing.failed("uuid-of-web", "web")
    await standing.damaged(point("p1")[0])
    await standing.remember()
    assert told() == {**STANDS, "last_failure": 10_000, "damaged_points": 1}
    standing.close()
    await history.close()


async def test_a_catalog_of_an_older_version_gets_its_table(tmp_path):
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=1")
    connection.close()
    history = History(path)
    await history.note(Fact("u", "web", What.VERIFIED, "", 9_000))
    await history.note(Fact("u", "renamed", What.VERIFIED, "", 10_000))
    assert [dataclasses.astuple(fact) for fact in await history.all() or ()] == [
        ("u", "renamed", What.VERIFIED, "", 10_000)
    ]
    await history.forget("u", What.VERIFIED)
    assert await history.all() == []
    await history.close()


async def test_a_vm_that_is_gone_is_told_over_a_restart_until_it_is_backed_up_again(standing, clock, history):
    shelf = Shelf(point("p1"), point("p2", "other"))
    await standing.recall(shelf)
    assert "present" not in told()
    await standing.looked_for({"uuid-of-web": False, "uuid-of-other": True, "a stranger": False})
    assert (told()["present"], told("other")["present"]) == (0, 1)
    standing.close()
    after = Standing(clock, history)
    await after.recall(shelf)
    assert told() == STANDS | {"present": 0}
    assert "present" not in told("other")
    await after.committed(point("p3")[0])
    assert told()["present"] == 1
    after.close()
    again = Standing(clock, history)
    await again.recall(shelf)
    assert told() == STANDS
    again.close()


async def test_vms_of_other_clusters_are_not_looked_for(standing):
    await standing.recall(Shelf(point("p1"), point("p2", "far", cluster_uuid="elsewhere")))
    await standing.failed("uuid-of-new", "new")
    assert standing.of_cluster("c") == {"uuid-of-web", "uuid-of-new"}


async def test_of_a_vm_that_moved_to_another_cluster_ours_says_nothing(standing, clock, history):
    """There it is backed up: that it is gone here would be told for as long as that goes on."""
    await standing.recall(Shelf(point("p1")))
    await standing.looked_for({"uuid-of-web": False})
    assert told()["present"] == 0
    moved = Shelf(point("p1"), point("p2", at=clock.now() + 60, cluster_uuid="elsewhere"))
    clock.elapsed += 600
    await standing.recall(moved)
    assert standing.of_cluster("c") == set()
    assert "present" not in told()
    standing.close()
    after = Standing(clock, history)
    await after.recall(moved)
    assert told()["last_success"] == moved.all[1][0].created_at
    assert "present" not in told()
    after.close()
