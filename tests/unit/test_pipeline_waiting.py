"""A wait that has not ended counts already, and none is counted twice."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mover.pipeline import waiting
from mover.pipeline.channel import Channel, Closed
from mover.pipeline.flow import Budget
from mover.pipeline.waiting import Waiting
from tests.support.repositories import until


@pytest.fixture
def watch(monkeypatch):
    """Seconds on the stopwatch; the test sets them."""
    now = [100.0]
    monkeypatch.setattr(waiting, "stopwatch", lambda: now[0])
    return now


def test_seconds_are_those_of_each_who_waits(watch):
    waits = Waiting()
    watch[0] += 5
    assert (waits.now, waits.seconds()) == (0, 0)
    waits.enter()
    watch[0] += 2
    waits.enter()
    watch[0] += 3
    assert (waits.now, waits.seconds()) == (2, 8)
    waits.leave()
    watch[0] += 1
    assert waits.seconds() == 9
    waits.leave()
    watch[0] += 100
    assert (waits.now, waits.seconds()) == (0, 9)


async def test_a_budget_tells_of_waits_that_hang(watch):
    budget = Budget(1000, kept_for_packs_bytes=500)
    assert budget.try_acquire(500)
    async with asyncio.TaskGroup() as group:
        group.create_task(budget.acquire_async(100))
        await asyncio.sleep(0)
        watch[0] += 60
        assert budget.waiting_now() == {"buffers": 1, "packs": 0}
        assert budget.waited_s() == {"buffers": 60, "packs": 0}
        budget.release(500)
    watch[0] += 60
    assert budget.waiting_now() == {"buffers": 0, "packs": 0}
    assert budget.waited_s() == {"buffers": 60, "packs": 0}


async def test_whoever_gives_up_waits_no_more(watch):
    budget = Budget(1000, kept_for_packs_bytes=500)
    assert budget.try_acquire(500)
    thread = threading.Thread(target=budget.acquire, args=(100,), kwargs={"owner": "lane"})
    async with asyncio.TaskGroup() as group:
        waiter = group.create_task(budget.acquire_async(100))
        thread.start()
        await until(lambda: budget.waiting_now()["buffers"] == 2)
        waiter.cancel()
    assert budget.waiting_now()["buffers"] == 1
    budget.forget("lane")
    thread.join()
    assert budget.waiting_now()["buffers"] == 0


def test_an_empty_channel_tells_of_its_idle_thread(watch):
    channel: Channel[int] = Channel(1)

    def take() -> None:
        with pytest.raises(Closed):
            channel.get()

    thread = threading.Thread(target=take)
    thread.start()
    while not channel._gets.now:
        pass
    watch[0] += 30
    assert channel.statistics().get_wait_s == 30
    channel.close()
    thread.join()
    watch[0] += 30
    assert channel.statistics().get_wait_s == 30
