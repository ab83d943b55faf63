"""A job that stands still shows; one that waits for others does not."""

from __future__ import annotations

import asyncio

import pytest

from mover.clock import FakeClock
from mover.metrics import REGISTRY
from mover.operations.progress import Progress
from mover.operations.pulse import Pulse


@pytest.fixture
def clock():
    return FakeClock(start=1000.0)


@pytest.fixture
def pulse(clock):
    return Pulse(clock)


def last(vm="web", operation="backup"):
    labels = {"vm": vm, "operation": operation}
    return REGISTRY.get_sample_value("mover_job_last_progress_timestamp_seconds", labels)


def event(phase="copy", done=0, disk="scsi.0", job="j1"):
    return Progress(job, "web", disk, phase, done)


def test_only_what_is_new_is_progress(pulse, clock):
    with pulse.running("j1", "backup", "web"):
        assert last() == 1000
        seen = []
        for told in (event("look"), event("look"), event(done=1), event(done=1), event(done=2), event(job="other")):
            clock.elapsed += 10
            pulse.saw(told)
            seen.append(last())
    assert seen == [1010, 1010, 1030, 1030, 1050, 1050]
    assert last() is None


def test_two_jobs_of_one_vm_show_the_one_that_stands_still(pulse, clock):
    with pulse.running("j1", "backup", "web"):
        clock.elapsed += 5
        with pulse.running("j2", "backup", "web"):
            clock.elapsed += 5
            pulse.saw(event(job="j2"))
            assert last() == 1000
            pulse.saw(event(job="j1"))
            assert last() == 1010
        assert last() == 1010
    assert last() is None


def test_a_job_that_fails_is_watched_no_more(pulse):
    with pytest.raises(ValueError, match="x"), pulse.running("j1", "backup", "web"):
        raise ValueError("x")
    assert last() is None


async def test_waiting_for_what_others_hold_is_no_standstill(pulse, clock):
    lane = asyncio.Lock()
    await lane.acquire()

    async def disk():
        async with pulse.holding("j1", lane):
            inside.set()
            await asyncio.Event().wait()

    inside = asyncio.Event()
    with pulse.running("j1", "backup", "web"):
        async with asyncio.TaskGroup() as group:
            working = group.create_task(disk())
            await asyncio.sleep(0)
            clock.elapsed += 3600
            pulse.tick()
            assert last() == 4600
            lane.release()
            await inside.wait()
            clock.elapsed += 3600
            pulse.tick()
            assert last() == 4600
            working.cancel()
        pulse.tick()
        assert last() == 4600


async def test_a_part_that_stands_still_is_not_hidden_by_one_that_waits(pulse, clock):
    lane, inside = asyncio.Semaphore(1), asyncio.Event()

    async def disk():
        async with pulse.holding("j1", lane):
            inside.set()
            await asyncio.Event().wait()

    with pulse.running("j1", "backup", "web"):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(disk()) for _ in range(2)]
            await inside.wait()
            clock.elapsed += 3600
            pulse.tick()
            assert last() == 1000
            for task in tasks:
                task.cancel()
    assert last() is None


async def test_a_turn_that_is_held_for_all_of_a_job_is_no_work(pulse, clock):
    async with pulse.holding("j1", asyncio.Lock(), is_work=False):
        with pulse.running("j1", "backup", "web"):
            clock.elapsed += 10
            pulse.tick()
            assert last() == 1000
