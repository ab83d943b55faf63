"""Retries, limits and counters around a store that fails where it is told to."""

from __future__ import annotations

import asyncio

import pytest

from mover.clock import FakeClock
from mover.errors import ObjectExists, ObjectMissing, StorageError, StoreDenied, StoreFull, StoreUnfit, StoreUnreachable
from mover.metrics import REGISTRY
from mover.storage.limits import LimitedStore, Limits
from mover.storage.memory import MemoryStore
from mover.storage.metered import MeteredStore
from mover.storage.protocol import Store
from mover.storage.retry import Patience, RetryingStore
from mover.storage.stack import stacked
from tests.support.faultystore import EVERY_FAULT, FaultyStore, How


async def every_verb(store: Store) -> list[object]:
    """One call of each verb; what was seen."""
    await store.create("packs/0a/x", [b"sealed", b"records"])
    await store.replace("sessions/s", [b"beat"])
    seen: list[object] = [
        await store.get("packs/0a/x"),
        bytes(await store.get_range("packs/0a/x", 2, 5)),
        [info.name async for info in store.list("")],
        (await store.info("packs/0a/x")) is not None,
    ]
    await store.delete("packs/0a/x")
    return [*seen, await store.info("packs/0a/x")]


class TestRetry:
    @pytest.mark.parametrize("how", EVERY_FAULT)
    async def test_each_call_may_fail_once_and_the_end_is_the_same(self, how: How) -> None:
        wanted = await every_verb(FaultyStore(MemoryStore()))
        for nth in range(1, 9):
            faulty = FaultyStore(MemoryStore(FakeClock()))
            faulty.fail(nth, how)
            found = await every_verb(RetryingStore(faulty, FakeClock()))
            await faulty.settle()
            assert len(faulty.failed) == 1
            if how is not How.LATE_EFFECT:
                assert found == wanted, f"call {nth}: {faulty.calls}"

    @pytest.mark.parametrize("kind", [StoreDenied, StoreFull, ObjectMissing, StoreUnfit, ObjectExists, StorageError])
    async def test_what_time_does_not_mend_is_not_repeated(self, kind: type[StorageError]) -> None:
        faulty, clock = FaultyStore(MemoryStore()), FakeClock()
        faulty.fail(1, How.ERROR, error=kind("no", remedy="none"))
        with pytest.raises(kind):
            await RetryingStore(faulty, clock).create("a", [b"x"])
        assert faulty.calls == ["create a"]
        assert clock.elapsed == 0

    async def test_tries_are_bounded_and_the_last_error_says_how_many(self) -> None:
        faulty, clock = FaultyStore(MemoryStore()), FakeClock()
        faulty.fail(1, How.ERROR, times=20)
        with pytest.raises(StoreUnreachable) as error:
            await RetryingStore(faulty, clock).get("a")
        assert len(faulty.calls) == Patience().tries
        assert error.value.facts["tries"] == Patience().tries
        assert 20 < clock.elapsed < 60
        assert error.value.facts["seconds"] == pytest.approx(clock.elapsed, abs=0.1)

    async def test_the_budget_of_time_ends_it_too(self) -> None:
        faulty, clock = FaultyStore(MemoryStore()), FakeClock()
        faulty.fail(1, How.ERROR, times=20)
        with pytest.raises(StoreUnreachable):
            await RetryingStore(faulty, clock, Patience(tries=100, budget_s=5.0)).info("a")
        assert clock.elapsed < 5 + 15

    async def test_pauses_grow_and_differ_from_writer_to_writer(self) -> None:
        spent = []
        for seed in (1, 2):
            faulty, clock = FaultyStore(MemoryStore()), FakeClock(seed)
            faulty.fail(1, How.ERROR, times=3)
            await RetryingStore(faulty, clock).delete("a")
            spent.append(clock.elapsed)
        assert spent[0] != spent[1]
        assert all((0.5 + 1 + 2) / 2 <= each <= 0.5 + 1 + 2 for each in spent)

    async def test_a_listing_that_breaks_off_is_continued_without_repeats(self) -> None:
        faulty = FaultyStore(MemoryStore())
        for number in range(10):
            await faulty.create(f"index/{number}", [b"x"])
        faulty.fail(1, How.CUT_BODY)
        faulty.fail(2, How.CUT_BODY)
        names = [info.name async for info in RetryingStore(faulty, FakeClock()).list("index/")]
        assert names == [f"index/{number}" for number in range(10)]
        assert faulty.calls[10:] == ["list index/"] * 3

    async def test_a_late_create_of_our_own_does_no_harm(self) -> None:
        faulty = FaultyStore(MemoryStore())
        faulty.fail(1, How.LATE_EFFECT)
        store = RetryingStore(faulty, FakeClock())
        await store.create("points/p", [b"manifest"])
        await faulty.settle()
        assert await store.get("points/p") == b"manifest"

    async def test_cancelling_ends_the_pause(self) -> None:
        class Stuck(FakeClock):
            async def sleep(self, seconds: float) -> None:
                paused.set()
                await asyncio.get_running_loop().create_future()

        paused = asyncio.Event()
        faulty = FaultyStore(MemoryStore())
        faulty.fail(1, How.ERROR)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(RetryingStore(faulty, Stuck()).get("a"))
            await paused.wait()
            task.cancel()
        assert task.cancelled()
        assert faulty.calls == ["get a"]


class TestLimits:
    @pytest.mark.parametrize("verb", ["create", "replace", "get", "get_range", "info", "list", "delete"])
    async def test_a_call_without_an_answer_ends_as_unreachable(self, verb: str) -> None:
        faulty = FaultyStore(MemoryStore())
        store = LimitedStore(faulty, Limits(timeout_s=0.01, whole_s=0.01))
        await faulty.inner.create("packs/0a/x", [b"sealedrecords"])
        faulty.fail(1, How.HANG, verb=verb)
        with pytest.raises(StoreUnreachable, match="took longer") as error:
            await every_verb(store)
        assert error.value.retryable

    async def test_large_puts_have_more_time(self) -> None:
        limits = Limits(timeout_s=0.0, slowest_bytes_per_s=1000)
        store = LimitedStore(MemoryStore(), limits)
        await store.create("packs/0a/x", [bytes(10_000)])
        assert len(await store.get_range("packs/0a/x", 0, 10_000)) == 10_000

    async def test_a_heartbeat_does_not_wait_behind_packs(self) -> None:
        faulty = FaultyStore(MemoryStore())
        store = LimitedStore(faulty, Limits(data_calls=1))
        faulty.fail(1, How.HANG)
        async with asyncio.TaskGroup() as group:
            stuck = group.create_task(store.create("packs/0a/x", [b"x"]))
            waiting = group.create_task(store.create("packs/0a/y", [b"y"]))
            await asyncio.sleep(0)
            await store.replace("sessions/s", [b"beat"])
            assert not waiting.done()
            stuck.cancel()
        assert [info.name async for info in store.list("")] == ["packs/0a/y", "sessions/s"]


class TestCounters:
    def _value(self, name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    async def test_requests_are_counted_by_verb_and_outcome(self) -> None:
        before = {
            outcome: self._value("mover_store_requests_total", verb="get", outcome=outcome)
            for outcome in ("ok", "storage.missing")
        }
        store = MeteredStore(MemoryStore())
        await every_verb(store)
        with pytest.raises(ObjectMissing):
            await store.get("none")
        assert self._value("mover_store_requests_total", verb="get", outcome="ok") == before["ok"] + 1
        missing = self._value("mover_store_requests_total", verb="get", outcome="storage.missing")
        assert missing == before["storage.missing"] + 1

    async def test_bytes_count_what_succeeded(self) -> None:
        faulty = FaultyStore(MemoryStore())
        store = RetryingStore(MeteredStore(faulty), FakeClock())
        written, read = (self._value("mover_store_bytes_total", direction=way) for way in ("written", "read"))
        faulty.fail(1, How.ERROR)
        await store.create("a", [b"12345"])
        await store.get_range("a", 1, 3)
        assert self._value("mover_store_bytes_total", direction="written") == written + 5
        assert self._value("mover_store_bytes_total", direction="read") == read + 3

    async def test_a_cancelled_call_is_counted_as_that(self) -> None:
        faulty = FaultyStore(MemoryStore())
        faulty.fail(1, How.HANG)
        before = self._value("mover_store_requests_total", verb="info", outcome="cancelled")
        store = LimitedStore(MeteredStore(faulty), Limits(timeout_s=0.01))
        with pytest.raises(StoreUnreachable):
            await store.info("a")
        assert self._value("mover_store_requests_total", verb="info", outcome="cancelled") == before + 1

    async def test_a_listing_is_counted_by_how_it_ended(self) -> None:
        def counts() -> dict[str, float]:
            outcomes = ("ok", "cancelled", "storage.unreachable", "error")
            return {each: self._value("mover_store_requests_total", verb="list", outcome=each) for each in outcomes}

        faulty = FaultyStore(MemoryStore())
        metered = MeteredStore(faulty)
        for name in ("a", "b"):
            await faulty.create(name, [b"x"])
        before = counts()
        async for _ in metered.list(""):
            break  # seen enough: no failure
        _ = [info async for info in metered.list("")]
        faulty.fail(1, How.HANG)
        with pytest.raises(StoreUnreachable):
            _ = [info async for info in LimitedStore(metered, Limits(timeout_s=0.01)).list("")]
        faulty.fail(1, How.ERROR)
        with pytest.raises(StoreUnreachable):
            _ = [info async for info in metered.list("")]
        await asyncio.sleep(0)  # the listing that was left early is closed by the loop
        assert {each: count - before[each] for each, count in counts().items()} == {
            "ok": 2,
            "cancelled": 1,
            "storage.unreachable": 1,
            "error": 0,
        }


async def test_the_whole_stack_hangs_once_and_goes_on() -> None:
    faulty = FaultyStore(MemoryStore())
    store = stacked(faulty, FakeClock(), limits=Limits(timeout_s=0.01, whole_s=0.01))
    wanted = await every_verb(MemoryStore())
    for nth in range(1, 9):
        faulty.fail(nth * 2 - 1, How.HANG)
    assert await every_verb(store) == wanted
    assert len(faulty.failed) > 5
