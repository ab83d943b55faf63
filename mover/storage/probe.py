"""Tries on a new store every promise that the repository lives by, before it is trusted.

Its objects are below ``probe/`` and go away again; what a killed probe left goes with the next.
Only the ``note`` of what it found weak stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from mover.clock import Clock, secret_bytes
from mover.errors import MoverError, ObjectExists, ObjectMissing, StorageError, StoreUnfit
from mover.storage.note import note
from mover.storage.protocol import Store, StoreTraits

_FOLDER = "probe/"
_LEFT_OVER_S = 3600.0
_LONGEST_LAG_S = 30.0
"""A listing that is later than this would make every session wait; such stores are refused."""
_POLL_S = 0.5
_SIZE_BYTES = 64 * 1024


async def probe(store: Store, clock: Clock) -> StoreTraits:
    """What the store really does; the store goes by it from now on.

    A store that lets a second create through is described as without create-only (a weaker
    mode, see ``protocol``), and a note in the store says so to later processes. Raises
    StoreUnfit when it loses, cuts or mixes up what it was given; StoreDenied, StoreFull,
    StoreUnreachable when a verb is not possible at all.
    """
    await _remove_leftovers(store, clock)
    before = store.traits
    store.learn(replace(before, has_create_only=True))
    trial = _Trial(store, clock, f"{_FOLDER}{clock.new_uuid()}")
    try:
        found = await trial.run()
    except MoverError:
        await trial.clean_quietly()
        raise
    finally:
        store.learn(before)
    await trial.clean()
    await note(store, found)
    # Known weakness stays: one race that went well proves less than an operator's word or an earlier find.
    traits = replace(
        found,
        has_create_only=found.has_create_only and before.has_create_only,
        list_lag_s=max(found.list_lag_s, before.list_lag_s),
    )
    store.learn(traits)
    return traits


async def _remove_leftovers(store: Store, clock: Clock) -> None:
    async for info in store.list(_FOLDER):
        if clock.now() - info.modified_at > _LEFT_OVER_S:
            await store.delete(info.name)


@dataclass
class _Trial:
    store: Store
    clock: Clock
    place: str
    data: bytes = field(default_factory=lambda: secret_bytes(_SIZE_BYTES))

    async def run(self) -> StoreTraits:
        await self._reads_what_was_put()
        has_create_only = await self._refuses_second() and await self._decides_race()
        list_lag_s = await self._lists()
        await self._replaces()
        await self._deletes()
        described = self.store.traits
        has_create_only = has_create_only and described.has_create_only
        return replace(described, has_create_only=has_create_only, list_lag_s=list_lag_s)

    async def clean(self) -> None:
        for name in (self._name("one"), self._name("race"), self._name("beat")):
            await self.store.delete(name)

    async def clean_quietly(self) -> None:
        """After a failure: its own error is the one to tell, the next probe cleans what stays."""
        try:
            await self.clean()
        except StorageError:
            return

    async def _reads_what_was_put(self) -> None:
        name = self._name("one")
        await self.store.create(name, [self.data[:1000], self.data[1000:]])
        await self._must_hold(name, self.data, "a new object")
        await self._answers_lost(name)
        for offset_bytes, length_bytes in ((0, 1), (4095, 4098), (_SIZE_BYTES - 1, 1)):
            wanted = self.data[offset_bytes : offset_bytes + length_bytes]
            if bytes(await self._range(name, offset_bytes, length_bytes)) != wanted:
                raise self._unfit("gives other bytes than the range that was asked for")

    async def _answers_lost(self, name: str) -> None:
        """The same put once more, as after a lost answer, must count as done."""
        try:
            await self.store.create(name, [self.data])
        except ObjectExists:
            raise self._unfit("cannot tell a repeated put from a conflict") from None

    async def _range(self, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        try:
            return bytes(await self.store.get_range(name, offset_bytes, length_bytes))
        except StorageError as error:
            if type(error) not in (StorageError, ObjectMissing) and not error.facts.get("ignores_range"):
                raise
            raise self._unfit("cannot read a part of an object") from error

    async def _refuses_second(self) -> bool:
        name = self._name("one")
        try:
            await self.store.create(name, [secret_bytes(_SIZE_BYTES)])
        except ObjectExists:
            await self._must_hold(name, self.data, "an object after a refused second create")
            return True
        return False

    async def _decides_race(self) -> bool:
        name = self._name("race")
        rivals = [secret_bytes(_SIZE_BYTES), secret_bytes(_SIZE_BYTES)]
        answers = await asyncio.gather(*(self.store.create(name, [rival]) for rival in rivals), return_exceptions=True)
        for answer in answers:
            if answer is not None and not isinstance(answer, ObjectExists):
                raise answer
        winners = [rival for rival, answer in zip(rivals, answers, strict=True) if answer is None]
        if len(winners) != 1:
            return False
        await self._must_hold(name, winners[0], "the winner of a race")
        return True

    async def _lists(self) -> float:
        """Seconds until a listing shows the object."""
        started = self.clock.monotonic()
        while True:
            waited_s = self.clock.monotonic() - started
            async for info in self.store.list(self.place):
                if info.name == self._name("one") and info.size_bytes == _SIZE_BYTES:
                    return 0.0 if waited_s < _POLL_S else 2 * waited_s
            if waited_s > _LONGEST_LAG_S:
                raise self._unfit(f"does not list an object {_LONGEST_LAG_S:.0f} s after its put")
            await self.clock.sleep(_POLL_S)

    async def _replaces(self) -> None:
        name = self._name("beat")
        for beat in (b"first", b"second beat"):
            await self.store.replace(name, [beat])
            await self._must_hold(name, beat, "a rewritten object")

    async def _deletes(self) -> None:
        name = self._name("beat")
        await self.store.delete(name)
        await self.store.delete(name)
        if await self.store.info(name) is not None:
            raise self._unfit("keeps an object after its delete")

    async def _must_hold(self, name: str, data: bytes, what: str) -> None:
        try:
            held = await self.store.get(name)
        except ObjectMissing as error:
            raise self._unfit(f"does not give back {what}") from error
        if held != data:
            raise self._unfit(f"gives other bytes for {what}")

    def _name(self, what: str) -> str:
        # No folder of its own: that of a store of files would stay.
        return f"{self.place}-{what}"

    def _unfit(self, what: str) -> StoreUnfit:
        return StoreUnfit(
            f"{self.store.traits.description} {what}",
            remedy="A repository there would not be safe: choose another store, or repair this one.",
        )
