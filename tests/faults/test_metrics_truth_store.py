"""What the metrics say when the store or what it keeps goes wrong: see ``test_metrics_truth.py``."""

from __future__ import annotations

import pytest

from mover.errors import Damaged, MoverError, StoreDenied, StoreFull, StoreUnreachable
from mover.operations.verify import verify_point
from mover.storage.health import StoreMetrics
from mover.storage.memory import MemoryStore
from mover.storage.retry import RetryingStore
from tests.support.faultystore import FaultyStore
from tests.support.faultystore import How as StoreHow
from tests.support.repositories import flip, names
from tests.support.watched import of_vm, stands, stays, value
from tests.support.world import TWO_DISKS

FULL_STORE = StoreFull("no space left", remedy="make room")


def rewrite(seen, vm):
    """The guest changes every disk, so that a backup has something to read and to store."""
    for slot in ("scsi.0", "scsi.1"):
        seen.w.hypervisor.write(vm, slot, 100, str(seen.now).encode())


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
