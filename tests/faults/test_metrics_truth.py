"""What the metrics say while and after things go wrong, and after a restart: no false green, no false red.

Each scenario breaks a real operation over a real repository, and looks at everything that an
alert looks at. A restart is a new board with the same catalog and the same repository.
"""

from __future__ import annotations

import asyncio

import pytest

from mover.errors import DeviceFault, HypervisorUnreachable, JobCancelled
from tests.support.fakedevices import FailingDevice, MemoryDevice
from tests.support.hypervisorfaults import How
from tests.support.repositories import names
from tests.support.watched import of_vm, stands, stays, value
from tests.support.world import TWO_DISKS


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
    async with asyncio.TaskGroup() as group:
        job = group.create_task(seen.backup(web, steps=steps, request=request))
        await copying.wait()
        assert value("job_last_progress_timestamp_seconds", vm="web", operation="backup") == seen.now
        job.cancel()
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
