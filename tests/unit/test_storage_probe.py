"""The probe finds each way in which a store can break its promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from mover.clock import FakeClock
from mover.errors import ObjectExists, StorageError, StoreDenied, StoreFull, StoreUnfit, StoreUnreachable
from mover.storage.local import LocalStore
from mover.storage.memory import MemoryStore
from mover.storage.note import recall
from mover.storage.probe import probe
from mover.storage.protocol import Bytes, ObjectInfo, Store, StoreTraits
from tests.support.faultystore import FaultyStore, How


class Overwriting(MemoryStore):
    """Takes every create."""

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        await self.replace(name, parts)


class Racing(MemoryStore):
    """Refuses a second create, but not one that comes close behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self._last = ""

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        if name == self._last and name.endswith("race"):
            return
        self._last = name
        await super().create(name, parts)


class Forgetful(MemoryStore):
    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        return


class Mangling(MemoryStore):
    async def get(self, name: str) -> bytes:
        return (await super().get(name))[::-1]


class WholeForRange(MemoryStore):
    """Ignores the range, as some gateways do."""

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        return await self.get(name)


class NoRange(MemoryStore):
    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        raise StorageError("no ranges here", remedy="none")


class WholeInPlaceOfRange(MemoryStore):
    """What obstore makes of a server that answers a range with the whole object."""

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        raise StoreUnreachable("non-partial", remedy="none", ignores_range=True)


class Blind(MemoryStore):
    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for info in ():
            yield info


class Undying(MemoryStore):
    async def delete(self, name: str) -> None:
        return


class Frozen(MemoryStore):
    """Does not rewrite."""

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        if await self.info(name) is None:
            await super().replace(name, parts)


class Suspicious(MemoryStore):
    """Takes its own repeated put for a conflict."""

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        if await self.info(name) is not None:
            raise ObjectExists("it is there", remedy="none")
        await super().create(name, parts)


class Late(MemoryStore):
    """Lists what is older than three seconds."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self._now = clock.now

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in super().list(prefix):
            if self._now() - info.modified_at > 3:
                yield info


async def left(store: Store) -> list[str]:
    return [info.name async for info in MemoryStore.list(store, "")]  # type: ignore[arg-type]  # past what it hides


async def test_an_honest_store_is_fit_and_clean_afterwards() -> None:
    store = MemoryStore(FakeClock())
    traits = await probe(store, FakeClock())
    assert traits.has_create_only
    assert traits.list_lag_s == 0
    assert await left(store) == []


@pytest.mark.parametrize("kind", [Overwriting, Racing])
async def test_a_careless_store_is_told_as_the_weaker_mode(kind: type[MemoryStore]) -> None:
    store = kind()
    traits = await probe(store, FakeClock())
    assert not traits.has_create_only
    assert not store.traits.has_create_only
    assert await left(store) == ["store.json"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Forgetful, "does not give back a new object"),
        (Mangling, "gives other bytes for a new object"),
        (WholeForRange, "other bytes than the range"),
        (NoRange, "cannot read a part"),
        (WholeInPlaceOfRange, "cannot read a part"),
        (Blind, "does not list"),
        (Frozen, "other bytes for a rewritten object"),
        (Suspicious, "cannot tell a repeated put"),
    ],
)
async def test_a_store_that_breaks_a_promise_is_unfit(kind: type[MemoryStore], said: str) -> None:
    store = kind()
    with pytest.raises(StoreUnfit, match=said) as error:
        await probe(store, FakeClock())
    assert "another store" in error.value.remedy
    assert await left(store) == []


async def test_a_store_that_keeps_what_is_deleted_is_unfit() -> None:
    with pytest.raises(StoreUnfit, match="keeps an object after its delete"):
        await probe(Undying(), FakeClock())


async def test_the_lag_of_a_listing_is_measured_with_a_margin() -> None:
    clock = FakeClock()
    traits = await probe(Late(clock), clock)
    assert 6 <= traits.list_lag_s < 10


async def test_what_was_found_weak_is_known_to_every_later_process() -> None:
    clock = FakeClock()
    store = Late(clock)
    found = await probe(store, clock)
    store.learn(StoreTraits(has_create_only=True, list_lag_s=0.0, description="a new process"))
    await recall(store)
    assert (store.traits.has_create_only, store.traits.list_lag_s) == (True, found.list_lag_s)
    careless = Overwriting()
    await probe(careless, clock)
    careless.learn(replace(careless.traits, has_create_only=True))
    await recall(careless)
    assert not careless.traits.has_create_only


@pytest.mark.parametrize("note", [b"", b"{}", b"[]", b"\xff", b'{"create_only": true, "list_lag_s": "x"}'])
async def test_a_damaged_note_counts_as_the_weakest(note: bytes) -> None:
    store = MemoryStore()
    await store.replace("store.json", [note])
    await recall(store)
    assert not store.traits.has_create_only
    assert store.traits.list_lag_s == 60


@pytest.mark.parametrize(("noted", "taken"), [("-5", 0), ("7", 7), ("1e300", 60), ("NaN", 60)])
async def test_a_noted_lag_stalls_nobody_for_long(noted: str, taken: float) -> None:
    store = MemoryStore()
    await store.replace("store.json", [b'{"create_only": true, "list_lag_s": %s}' % noted.encode()])
    await recall(store)
    assert store.traits.list_lag_s == taken


async def test_what_is_known_as_weak_stays_so_whatever_one_race_showed() -> None:
    store = MemoryStore()
    store.learn(StoreTraits(has_create_only=False, list_lag_s=2.0, description="as the operator says"))
    traits = await probe(store, FakeClock())
    assert not traits.has_create_only
    assert traits.list_lag_s == 2
    assert await left(store) == []


async def test_a_cancelled_probe_changes_nothing_that_is_known() -> None:
    store = FaultyStore(MemoryStore())
    before = StoreTraits(has_create_only=False, list_lag_s=0.0, description="as the operator says")
    store.learn(before)
    store.fail(1, How.HANG, verb="get")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(probe(store, FakeClock()))
        await asyncio.sleep(0)
        assert store.failed
        task.cancel()
    assert store.traits == before


@pytest.mark.parametrize("kind", [StoreDenied, StoreFull])
async def test_what_is_not_possible_at_all_keeps_its_own_error(kind: type[StorageError]) -> None:
    store = FaultyStore(MemoryStore())
    store.fail(1, How.ERROR, verb="create", error=kind("no", remedy="none"))
    before = store.traits
    with pytest.raises(kind):
        await probe(store, FakeClock())
    assert store.traits == before


async def test_leftovers_of_a_killed_probe_go_with_the_next() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    await store.create("probe/old/one", [b"x"])
    await clock.sleep(4000)
    await store.create("probe/new/one", [b"x"])
    await probe(store, clock)
    assert await left(store) == ["probe/new/one"]


async def test_each_call_of_a_probe_may_fail_and_nothing_stays() -> None:
    healthy = FaultyStore(MemoryStore())
    await probe(healthy, FakeClock())
    for nth in range(1, len(healthy.calls) + 1):
        store = FaultyStore(MemoryStore())
        store.fail(nth, How.EFFECT_THEN_ERROR, error=StoreDenied("no", remedy="none"))
        with suppress(StoreDenied):  # a listing that has shown enough is not read to its bad end
            await probe(store, FakeClock())
        assert len(store.failed) == 1
        deletes_failed = store.failed[0].startswith("delete")
        assert await left(store.inner) == [] or deletes_failed


async def test_a_probe_leaves_no_folder_behind_in_a_folder(tmp_path) -> None:
    store = LocalStore(tmp_path)
    for _ in range(2):
        await probe(store, FakeClock())
    await store.close()
    assert list((tmp_path / "probe").iterdir()) == []
