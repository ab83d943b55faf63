"""Budget and Meter: who gets bytes first, and what many threads count."""

from __future__ import annotations

import asyncio
import threading
from random import Random

import pytest

from mover.errors import ConfigError
from mover.pipeline.channel import Channel, Closed
from mover.pipeline.flow import Budget, Meter, grown
from tests.support.threads import spawn


def wait_until_queued(budget: Budget, *, buffers: int = 0, packs: int = 0) -> None:
    while len(budget._buffer_queue) < buffers or len(budget._pack_queue) < packs:
        threading.Event().wait(0.001)


def test_buffers_never_take_the_share_of_packs():
    budget = Budget(100, kept_for_packs_bytes=40)
    assert budget.try_acquire(60)
    assert not budget.try_acquire(1)
    budget.reserve_pack(40)
    assert budget.used_bytes == 100
    budget.release(60)
    budget.release_pack(40)
    assert budget.used_bytes == 0


def test_a_waiting_pack_goes_before_waiting_buffers():
    budget = Budget(100, kept_for_packs_bytes=40)
    order = []
    assert budget.try_acquire(60)
    budget.reserve_pack(40)
    (first,) = spawn(lambda: (budget.acquire(10), order.append("buffer")))
    wait_until_queued(budget, buffers=1)
    (second,) = spawn(lambda: (budget.reserve_pack(40), order.append("pack")))
    wait_until_queued(budget, packs=1)
    budget.release(60)
    second.join(10)
    first.join(10)
    assert order[0] == "pack" or budget.packs_bytes == 80
    assert not budget.try_acquire(11), "what is left is too little"
    assert (budget.packs_bytes, budget.buffers_bytes) == (80, 10)


def test_while_a_pack_waits_no_buffer_is_leased():
    budget = Budget(100, kept_for_packs_bytes=50)
    budget.reserve_pack(40)
    budget.reserve_pack(40)
    (waiting,) = spawn(lambda: budget.reserve_pack(20))
    wait_until_queued(budget, packs=1)
    assert not budget.try_acquire(1)
    budget.release_pack(40)
    waiting.join(10)
    assert budget.try_acquire(1)


def test_buffers_are_served_in_order_of_asking():
    budget = Budget(80, kept_for_packs_bytes=40)
    assert budget.try_acquire(40)
    order, threads = [], []
    for number, size in enumerate([30, 5, 5]):
        threads += spawn(lambda n=number, s=size: (budget.acquire(s), order.append(n)))
        wait_until_queued(budget, buffers=number + 1)
    budget.release(10)
    assert not order, "the first one wants 30, and nobody passes it"
    budget.release(30)
    for thread in threads:
        thread.join(10)
    assert sorted(order) == [0, 1, 2]
    assert budget.buffers_bytes == 40


def test_forget_sends_the_waiting_away():
    budget = Budget(80, kept_for_packs_bytes=40)
    owner, answers = object(), []
    assert budget.try_acquire(40)
    threads = spawn(*[lambda: answers.append(budget.acquire(10, owner=owner))] * 2)
    wait_until_queued(budget, buffers=2)
    budget.forget(owner)
    for thread in threads:
        thread.join(10)
    assert answers == [False, False]
    assert budget.buffers_bytes == 40


def test_what_can_never_fit_is_refused():
    budget = Budget(100, kept_for_packs_bytes=40)
    with pytest.raises(ConfigError, match="one pack"):
        budget.reserve_pack(41)
    with pytest.raises(ConfigError, match="one buffer"):
        budget.acquire(61)
    with pytest.raises(ConfigError, match="the packs"):
        Budget(100, kept_for_packs_bytes=95)


def test_what_is_only_pleasant_leaves_room():
    budget = Budget(100, kept_for_packs_bytes=40)
    assert budget.try_acquire(30, left_bytes=30)
    assert not budget.try_acquire(1, left_bytes=30)
    assert budget.try_acquire(30)


async def test_the_asynchronous_face():
    budget = Budget(80, kept_for_packs_bytes=40)
    await budget.acquire_async(40)
    async with asyncio.TaskGroup() as group:
        group.create_task(budget.acquire_async(10))
        cancelled = group.create_task(budget.acquire_async(10))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        budget.release(40)
    assert budget.buffers_bytes == 10
    async with asyncio.TaskGroup() as group:
        late = group.create_task(budget.acquire_async(40))
        await asyncio.sleep(0)
        budget.release(10)  # grants it
        late.cancel()  # before it could run
    assert budget.used_bytes == 0
    with pytest.raises(ConfigError):
        await budget.acquire_async(41)


def test_no_deadlock_between_packs_and_buffers():
    """Random readers, computers that need room in packs while holding buffers, one uploader."""
    budget = Budget(64, kept_for_packs_bytes=16)
    channel: Channel[int] = Channel(1000)
    full: Channel[int] = Channel(1000)
    state = {"room": 0, "is_open": False}
    lock = threading.Lock()

    def read(seed: int) -> None:
        dice = Random(seed)
        for _ in range(200):
            size = dice.randrange(1, 8)
            assert budget.acquire(size)
            channel.put(size)

    def compute() -> None:
        while True:
            try:
                size = channel.get()
            except Closed:
                return
            with lock:
                if state["room"] < size:
                    if state["is_open"]:
                        full.put(16)
                    state["is_open"] = True
                    budget.reserve_pack(16)
                    state["room"] = 16
                state["room"] -= size
            budget.release(size)

    def upload() -> None:
        while True:
            try:
                budget.release_pack(full.get())
            except Closed:
                return

    readers = spawn(*[lambda s=seed: read(s) for seed in range(4)])
    others = spawn(compute, compute, upload)
    for thread in readers:
        thread.join(30)
        assert not thread.is_alive(), "deadlock"
    channel.close()
    for thread in others[:2]:
        thread.join(30)
        assert not thread.is_alive(), "deadlock"
    full.close()
    others[2].join(30)
    assert budget.buffers_bytes == 0
    assert budget.packs_bytes == 16
    assert set(budget.waited_s()) == {"buffers", "packs"}


def test_a_meter_counts_from_many_threads():
    meter = Meter()
    meter.plan(1000)

    def work() -> None:
        for _ in range(500):
            meter.add("read", size_bytes=2, seconds=0.5)
            meter.advance(2)

    for thread in spawn(work, work):
        thread.join(10)
    count = meter.read()["read"]
    assert (count.items, count.size_bytes, count.seconds) == (1000, 2000, 500.0)
    assert (meter.planned_bytes, meter.done_bytes) == (1000, 2000)
    assert grown("read", {}, meter.read()) == count
    assert grown("none", {}, meter.read()).items == 0
