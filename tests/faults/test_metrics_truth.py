"""What the metrics say while and after things go wrong, and after a restart: no false green, no false red.

Each scenario breaks a real operation over a real repository, and looks at everything that an
alert looks at. A restart is a new board with the same catalog and the same repository.
"""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from mover.catalog.history import History
from mover.errors import (
    ConsistencyDowngraded,
    Damaged,
    DeviceFault,
    HypervisorUnreachable,
    JobCancelled,
    MoverError,
    NotFound,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
)
from mover.metrics import REGISTRY
from mover.model.machine import Consistency
from mover.model.region import Regions
from mover.operations.attended import attended
from mover.operations.backup import backup_vm
from mover.operations.board import Board
from mover.operations.clean import reconcile
from mover.operations.node import ReadingNode
from mover.operations.presence import look_for_vms
from mover.operations.verify import verify_point
from mover.storage.health import StoreMetrics
from mover.storage.memory import MemoryStore
from mover.storage.retry import RetryingStore
from tests.support.fakedevices import FailingDevice, MemoryDevice
from tests.support.faultystore import FaultyStore
from tests.support.faultystore import How as StoreHow
from tests.support.hypervisorfaults import How
from tests.support.repositories import flip, names
from tests.support.world import BLOCK, TestClock, World, world

TWO_DISKS = [3 * BLOCK, BLOCK + 4096]
FULL_STORE = StoreFull("no space left", remedy="make room")


class TickingClock(TestClock):
    """The ticks of progress come when the test says so."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._ticking = asyncio.Condition()

    async def sleep(self, seconds: float) -> None:
        if seconds != 1.0:
            await super().sleep(seconds)
            return
        async with self._ticking:
            await self._ticking.wait()

    async def tick(self, seconds: float = 1.0) -> None:
        """So much later, whoever tells of progress has told it."""
        self.elapsed += seconds
        async with self._ticking:
            self._ticking.notify_all()
        for _ in range(5):
            await asyncio.sleep(0)


class Watched:
    """A world whose jobs run as the executor runs them, and what the metrics say of it."""

    def __init__(self, made: World, folder) -> None:
        self.w, self.folder = made, folder
        node = made.node
        self.node = dataclasses.replace(node, progress=node.board.pulse.saw)
        self._history: History | None = None

    async def backup(self, vm, *, steps=None, request=None, **wishes):
        """A job, seen through to its end, 100 s after the last."""
        self.w.clock.elapsed += 100
        request = request or self.w.request(vm, **wishes)
        return await attended(self.node, "backup", backup_vm, request.values(), steps or self.w.steps())

    async def restart(self) -> None:
        """The process is gone; the next one recalls."""
        self.node.board.standing.close()
        await self.close()
        self._history = History(self.folder / "catalog.sqlite")
        board = Board.of(self.node.settings.serve, self.w.clock, self._history)
        self.node = dataclasses.replace(self.node, board=board, progress=board.pulse.saw)
        await board.standing.recall(self.node.repository)

    async def close(self) -> None:
        if self._history is not None:
            self.node.board.standing.close()
            await self._history.close()

    @property
    def now(self) -> float:
        return self.w.clock.now()

    def reading(self) -> ReadingNode:
        node = self.node
        return ReadingNode(node.settings, node.clock, node.repository, node.workers, standing=node.board.standing)


@pytest.fixture
async def seen(tmp_path):
    async with world(tmp_path, clock=TickingClock(), limits__disks=2) as made:
        watched = Watched(made, tmp_path)
        yield watched
        await watched.close()


@pytest.fixture
async def web(seen):
    """A VM with one point."""
    vm = seen.w.hypervisor.add_vm("web", TWO_DISKS, seed=7)
    await seen.backup(vm)
    return vm


def value(name, **labels):
    return REGISTRY.get_sample_value(f"mover_{name}", labels)


def of_vm(name, vm="web", **labels):
    return value(f"vm_{name}", vm=vm, **labels)


def stands(vm="web"):
    """(last success, last failure, damaged points): what the alerts on a VM look at first."""
    return (
        of_vm("last_success_timestamp_seconds", vm),
        of_vm("last_failure_timestamp_seconds", vm),
        of_vm("damaged_points", vm),
    )


async def stays(seen, expected, vm="web"):
    """Now, and after a restart."""
    assert stands(vm) == expected
    await seen.restart()
    assert stands(vm) == expected


def rewrite(seen, vm):
    """The guest changes every disk, so that a backup has something to read and to store."""
    for slot in ("scsi.0", "scsi.1"):
        seen.w.hypervisor.write(vm, slot, 100, str(seen.now).encode())


async def test_a_success_is_a_committed_point_and_nothing_else(seen):
    vm = seen.w.hypervisor.add_vm("web", TWO_DISKS)
    during = []

    async def look(call):
        is_there = bool(names(seen.w.store.inner, "points/"))
        during.append((is_there, stands()[0] is not None))

    seen.w.hypervisor.on_call = look
    report = await seen.backup(vm)
    assert set(during) == {(False, False), (True, True)}
    frozen_at = (await seen.node.repository.load(report["point"])).created_at
    await stays(seen, (frozen_at, None, 0))
    assert of_vm("base_snapshot_timestamp_seconds") == frozen_at
    assert of_vm("last_verified_timestamp_seconds") is None


async def test_one_of_two_disks_that_fails_is_a_failure(seen, web):
    before = of_vm("last_success_timestamp_seconds")
    read = value("bytes_total", stage="read")
    honest = seen.w.devices.locate

    async def second_is_broken(attachment, **facts):
        seen.w.devices.kind = FailingDevice if attachment.size_bytes == TWO_DISKS[1] else MemoryDevice
        return await honest(attachment, **facts)

    seen.w.devices.locate = second_is_broken
    with pytest.raises(DeviceFault):
        await seen.backup(web, full=True)
    assert value("bytes_total", stage="read") >= read
    assert value("disk_bytes_per_second", vm="web", disk="scsi.0", stage="read") == 0
    await stays(seen, (before, seen.now, 0))
    seen.w.devices.locate, seen.w.devices.kind = honest, MemoryDevice
    await seen.backup(web)
    await stays(seen, (seen.now, None, 0))


@pytest.mark.parametrize("prefix", ["packs/", "index/", "points/"])
async def test_a_store_that_is_full_is_a_failure_until_there_is_room(seen, web, prefix):
    before = of_vm("last_success_timestamp_seconds")
    rewrite(seen, web)
    seen.w.store.fail(1, StoreHow.ERROR, verb="create", prefix=prefix, error=FULL_STORE)
    with pytest.raises(StoreFull):
        await seen.backup(web)
    await stays(seen, (before, seen.now, 0))
    await seen.backup(web)
    await stays(seen, (seen.now, None, 0))


async def test_the_first_backup_of_a_vm_that_fails_is_no_gap(seen):
    vm = seen.w.hypervisor.add_vm("web", TWO_DISKS)
    seen.w.store.fail(1, StoreHow.ERROR, verb="create", prefix="packs/", error=FULL_STORE)
    with pytest.raises(StoreFull):
        await seen.backup(vm)
    await stays(seen, (0, seen.now, 0))


async def test_a_lost_answer_to_the_commit_is_made_good_by_the_next_attempt(seen, web):
    """The manifest is there, the job failed: the same job again finds it, and says so."""
    seen.w.store.fail(1, StoreHow.EFFECT_THEN_ERROR, verb="create", prefix="points/", error=FULL_STORE)
    request = seen.w.request(web)
    with pytest.raises(StoreFull):
        await seen.backup(web, request=request)
    failed_at = seen.now
    assert of_vm("last_failure_timestamp_seconds") == failed_at
    await seen.restart()
    assert of_vm("last_success_timestamp_seconds") == failed_at
    await seen.backup(web, request=request)
    await stays(seen, (failed_at, None, 0))


async def test_a_cancelled_job_is_neither_success_nor_failure(seen, web):
    before = of_vm("last_success_timestamp_seconds")
    steps = seen.w.steps()

    async def cancel(call):
        if call == "attach":
            steps.cancellation.wish()

    seen.w.hypervisor.on_call = cancel
    with pytest.raises(JobCancelled):
        await seen.backup(web, steps=steps)
    seen.w.hypervisor.on_call = None
    await stays(seen, (before, None, 0))
    assert value("job_last_progress_timestamp_seconds", vm="web", operation="backup") is None


async def test_a_job_that_is_stopped_and_resumed_leaves_no_red(seen, web):
    """SIGTERM: its task is cancelled; the next executor runs it from its top with the finished steps."""
    before = of_vm("last_success_timestamp_seconds")
    steps, request = seen.w.steps(), seen.w.request(web, full=True)
    copying = asyncio.Event()

    async def note(call):
        if call == "attach":
            copying.set()

    seen.w.hypervisor.on_call = note
    job = asyncio.create_task(seen.backup(web, steps=steps, request=request))
    await copying.wait()
    assert value("job_last_progress_timestamp_seconds", vm="web", operation="backup") == seen.now
    job.cancel()
    await asyncio.wait([job])
    assert stands() == (before, None, 0)
    total = value("bytes_total", stage="read")
    seen.w.active.add(steps.job_id)
    await seen.restart()
    assert stands() == (before, None, 0)
    report = await seen.backup(web, steps=steps, request=request)
    seen.w.active.clear()
    frozen_at = (await seen.node.repository.load(report["point"])).created_at
    assert frozen_at > before
    assert value("bytes_total", stage="read") >= total + sum(TWO_DISKS)
    await stays(seen, (frozen_at, None, 0))


async def test_a_reader_that_hangs_stands_still_and_its_rate_is_nothing(seen, web):
    entered, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Hanging(MemoryDevice):
        def read_into(self, buffer, offset_bytes):
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
            super().read_into(buffer, offset_bytes)

    def progress():
        return value("job_last_progress_timestamp_seconds", vm="web", operation="backup")

    seen.w.devices.kind = Hanging
    before = of_vm("last_success_timestamp_seconds")
    async with asyncio.TaskGroup() as group:
        job = group.create_task(seen.backup(web, full=True))
        await entered.wait()
        await seen.w.clock.tick()
        stood_at = progress()
        for _ in range(3):
            await seen.w.clock.tick(600)
            seen.node.board.tick()
        assert progress() == stood_at <= seen.now - 1800
        assert value("disk_bytes_per_second", vm="web", disk="scsi.0", stage="read") == 0
        assert value("disk_progress_ratio", vm="web", disk="scsi.0") == 0
        assert stands() == (before, None, 0)
        release.set()
    assert progress() is None
    frozen_at = (await seen.node.repository.load(job.result()["point"])).created_at
    await stays(seen, (frozen_at, None, 0))


async def test_damage_that_a_verification_finds_shows_until_the_point_is_whole_or_gone(seen, web):
    [point] = await seen.node.repository.points()
    await verify_point(seen.reading(), point.id)
    verified_at = seen.now
    store: MemoryStore = seen.w.store.inner
    pack = names(store, "packs/")[0]
    flip(store, pack, 200)
    seen.w.clock.elapsed += 50
    with pytest.raises(Damaged):
        await verify_point(seen.reading(), point.id)
    success = of_vm("last_success_timestamp_seconds")
    await stays(seen, (success, None, 1))
    assert of_vm("last_verified_timestamp_seconds") == verified_at
    flip(store, pack, 200)
    await verify_point(seen.reading(), point.id)
    await stays(seen, (success, None, 0))
    assert of_vm("last_verified_timestamp_seconds") == seen.now


async def test_a_newest_manifest_that_is_damaged_takes_its_success_back(seen, web):
    first = of_vm("last_success_timestamp_seconds")
    await seen.backup(web)
    newest = names(seen.w.store.inner, "points/")
    points = await seen.node.repository.points()
    name = next(name for name in newest if points[-1].id in name)
    flip(seen.w.store.inner, name, 40)
    await seen.restart()
    assert stands() == (first, None, 1)


async def test_a_list_of_changes_that_lies_is_counted_and_the_point_is_good(tmp_path):
    async with world(tmp_path, data__audit_full=True) as made:
        seen = Watched(made, tmp_path)
        vm = made.hypervisor.add_vm("web", [3 * BLOCK], seed=7)
        await seen.backup(vm)
        assert value("audit_mismatches_total", vm="web") == 0
        honest = made.hypervisor._changed
        made.hypervisor.write(vm, "scsi.0", 2 * BLOCK, b"unlisted")

        made.hypervisor._changed = lambda path, base, size: dataclasses.replace(
            honest(path, base, size), regions=Regions.of([], size_bytes=size)
        )
        report = await seen.backup(vm)
        assert value("audit_mismatches_total", vm="web") == 1
        assert of_vm("full_reason", reason="contradicted") == 1
        frozen_at = (await seen.node.repository.load(report["point"])).created_at
        await stays(seen, (frozen_at, None, 0))
        assert of_vm("full_reason", reason="contradicted") == 1
        await seen.close()


async def test_a_downgrade_is_told_until_the_next_point_is_as_asked(seen, web):
    seen.w.hypervisor.downgrade = True
    await seen.backup(web, consistency=Consistency.APPLICATION, on_downgrade="warn")
    assert (of_vm("consistency_downgraded"), of_vm("application_consistent")) == (1, 0)
    await stays(seen, (seen.now, None, 0))
    assert of_vm("consistency_downgraded") == 1
    success = seen.now
    with pytest.raises(ConsistencyDowngraded):
        await seen.backup(web, consistency=Consistency.APPLICATION, on_downgrade="fail")
    await stays(seen, (success, seen.now, 0))
    seen.w.hypervisor.downgrade = False
    await seen.backup(web, consistency=Consistency.APPLICATION)
    assert (of_vm("consistency_downgraded"), of_vm("application_consistent")) == (0, 1)
    await stays(seen, (seen.now, None, 0))


async def test_a_vm_that_was_deleted_fails_and_goes_with_its_points(seen, web):
    before = of_vm("last_success_timestamp_seconds")
    [point] = await seen.node.repository.points()
    del seen.w.hypervisor.state.vms[web.uuid]
    with pytest.raises(NotFound):
        await seen.backup(web)
    await stays(seen, (before, seen.now, 0))
    assert of_vm("present") is None
    await look_for_vms(seen.node)
    await stays(seen, (before, seen.now, 0))
    assert of_vm("present") == 0
    await seen.node.repository.delete_point(point.id, force=True)
    await seen.node.board.standing.recall(seen.node.repository)
    assert stands() == (0, seen.now, 0)
    seen.w.clock.elapsed += 8 * 86400
    await seen.node.board.standing.recall(seen.node.repository)
    await stays(seen, (None, None, None))


async def test_a_list_of_vms_that_is_cut_short_declares_none_dead(seen, web):
    whole = await seen.node.hypervisor.inventory()

    async def nothing():
        return dataclasses.replace(whole, vms=())

    seen.w.hypervisor.inventory = nothing
    await look_for_vms(seen.node)
    assert of_vm("present") == 1


async def test_without_prism_what_was_known_of_a_vm_stays(seen, web):
    del seen.w.hypervisor.state.vms[web.uuid]
    await look_for_vms(seen.node)
    seen.w.hypervisor.state.vms[web.uuid] = web
    seen.w.hypervisor.fail("inventory", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await look_for_vms(seen.node)
    assert of_vm("present") == 0
    await look_for_vms(seen.node)
    assert of_vm("present") == 1


async def test_a_prism_that_is_down_fails_jobs_and_hides_no_orphan(seen, web):
    before = of_vm("last_success_timestamp_seconds")
    [snapshot] = seen.w.hypervisor.state.snapshots.values()
    seen.w.hypervisor.state.snapshots["x"] = dataclasses.replace(
        snapshot, uuid="x", name=seen.node.name("a" * 16, "snapshot-1"), created_at=123.0
    )
    await reconcile(seen.node, apply=True)
    orphans = ("orphans", "orphans_oldest_timestamp_seconds")
    assert [value(name, kind="snapshot") for name in orphans] == [1, 123]
    seen.w.hypervisor.fail("leftovers", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await reconcile(seen.node, apply=True)
    assert [value(name, kind="snapshot") for name in orphans] == [1, 123]
    seen.w.hypervisor.fail("vm", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await seen.backup(web)
    await stays(seen, (before, seen.now, 0))
    del seen.w.hypervisor.state.snapshots["x"]
    await reconcile(seen.node, apply=True)
    assert [value(name, kind="snapshot") for name in orphans] == [0, None]


async def test_what_cannot_be_cleaned_up_is_an_orphan_and_what_was_is_none(seen, web):
    async def refuse(call):
        if call == "detach":
            raise HypervisorUnreachable("no answer", remedy="wait")

    seen.w.hypervisor.on_call = refuse
    with pytest.raises(HypervisorUnreachable):
        await seen.backup(web, exclude=("scsi.1",))
    intended_at = seen.now
    seen.w.clock.elapsed += 500
    await reconcile(seen.node, apply=True)
    assert value("orphans", kind="attachment") == 1
    assert value("orphans_oldest_timestamp_seconds", kind="attachment") == intended_at
    seen.w.hypervisor.on_call = None
    await reconcile(seen.node, apply=True)
    assert value("orphans", kind="attachment") == 0
    assert value("orphans_oldest_timestamp_seconds", kind="attachment") is None


async def test_a_base_that_expires_soon_is_no_orphan(seen, web):
    seen.w.clock.elapsed += seen.node.settings.prism.snapshot_life * 0.6
    await reconcile(seen.node, apply=True)
    assert "extend_snapshot" in seen.w.hypervisor.state.calls
    assert value("orphans", kind="snapshot") == 0


async def test_a_base_that_an_administrator_deletes_has_no_age(seen, web):
    assert of_vm("base_snapshot_timestamp_seconds") is not None
    seen.w.hypervisor.state.snapshots.clear()
    await reconcile(seen.node, apply=True)
    assert of_vm("base_snapshot_timestamp_seconds") is None
    await seen.backup(web)
    assert of_vm("base_snapshot_timestamp_seconds") == seen.now


async def test_a_clock_that_jumps_leaves_neither_red_nor_green(seen, web):
    """A year ahead: a failure and a point. Then the clock is right again."""
    year = 365 * 86400
    before = of_vm("last_success_timestamp_seconds")
    seen.w.clock.elapsed += year
    seen.w.hypervisor.fail("vm", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await seen.backup(web)
    await seen.backup(web)
    seen.w.clock.elapsed -= year
    await seen.restart()
    assert stands() == (before, None, 0)
    await seen.backup(web)
    assert stands() == (seen.now, None, 0)
    await stays(seen, (seen.now, None, 0))


async def test_a_repository_that_cannot_be_read_at_start_is_known_as_soon_as_it_can(seen, web):
    success = of_vm("last_success_timestamp_seconds")
    denied = StoreDenied("forbidden", remedy="give rights")
    seen.w.store.fail(1, StoreHow.ERROR, verb="list", prefix="points/", error=denied)
    with pytest.raises(StoreDenied):
        await seen.restart()
    assert stands() == (None, None, None)
    await seen.node.board.standing.recall(seen.node.repository)
    assert stands() == (success, None, 0)


async def test_what_the_store_answered_last_is_told(seen):
    faulty = FaultyStore(MemoryStore())
    store = RetryingStore(faulty, seen.w.clock, watch=StoreMetrics())
    await store.create("a", [b"x"])
    assert value("store_reachable") == 1
    told = []
    for error in (StoreUnreachable, StoreDenied, StoreFull):
        seen.w.clock.elapsed += 10
        faulty.fail(1, StoreHow.ERROR, verb="get", error=error("no", remedy="none", retryable=False))
        with pytest.raises(error):
            await store.get("a")
        told.append((value("store_reachable"), value("store_last_error_timestamp_seconds") == seen.now))
        await store.info("missing")
        assert value("store_reachable") == 1
    assert told == [(0, True), (0, True), (1, True)]
    seen.w.clock.elapsed += 10
    with pytest.raises(MoverError):
        await store.get("missing")
    assert value("store_reachable") == 1
    assert value("store_last_error_timestamp_seconds") == seen.now - 10
