"""The lane that joins threads to the loop, the threads of a process, a disk's share of buffers."""

from __future__ import annotations

import mmap
import threading

import pytest

from mover.config import DataSettings
from mover.metrics import REGISTRY
from mover.pipeline.flow import Budget
from mover.pipeline.lane import Lane
from mover.pipeline.workers import Scratch, Workers


async def test_buffers_go_together_only_while_they_abound():
    page = mmap.PAGESIZE
    budget = Budget(32 * page, kept_for_packs_bytes=16 * page)
    lane, workers = Lane(), Workers(DataSettings(readers=4, compute_threads=2), budget)
    with workers.disk_buffers(lane, page, 4) as buffers:
        runs = [buffers.lease(4 * page) for _ in range(6)]
        assert [len(run) for run in runs] == [4, 4, 1, 1, 1, 1]
        assert budget.buffers_bytes == 12 * page
        for run in runs[:2]:
            buffers.give_back(run)
        short = buffers.lease(2 * page)
        assert len(short) == 2, "no more than is asked for"
        lane.fail(RuntimeError("stopped"))
        assert buffers.lease(page) is None
        for run in (*runs[2:], short):
            buffers.give_back(run)
        assert budget.buffers_bytes == 0
    await lane.drain()
    workers.stop()


async def test_a_lane_keeps_the_first_error_and_ends_when_all_have_left():
    lane = Lane()
    stopped = []
    lane.when_stopped(lambda: stopped.append(True))
    first, second = ValueError("first"), ValueError("second")
    barrier = threading.Barrier(3)
    errors = iter([first, second])

    def work() -> None:
        barrier.wait(10)
        if lane.error is None:
            lane.fail(first)
        raise next(errors)

    lane.spawn(3, work, "test")
    await lane.drain()
    assert lane.error is first
    assert stopped == [True]


async def test_workers_start_once_and_publish():
    data = DataSettings(compute_threads=1, restore_threads=1)
    with Workers(data, Budget(data.budget)) as workers:
        with pytest.raises(RuntimeError, match="already"):
            workers.start()
        workers.publish()
        workers.publish()
        assert REGISTRY.get_sample_value("mover_budget_bytes", {"state": "total"}) == data.budget
        lane = Lane()
        seen = []
        workers.submit_compute(lane, lambda scratch: seen.append(len(scratch.take(5000))))
        await lane.drain()
        assert seen == [5000]
        lane = Lane()
    with pytest.raises(RuntimeError, match="stopped"):
        workers.submit_compute(lane, lambda _: None)
    await lane.drain()


def test_a_scratch_buffer_grows_and_stays():
    scratch = Scratch()
    small = scratch.take(100)
    assert len(small) == 100
    big = scratch.take(10_000)
    big[:3] = b"abc"
    assert bytes(scratch.take(3)) == b"abc"
