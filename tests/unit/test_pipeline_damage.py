"""Damage in the repository: named when verified, never written when restored."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from mover.errors import Damaged, DeviceFault, StoreUnreachable
from mover.model.point import ID_BYTES
from tests.support.plaincopies import BLOCK, DATA, Nth, assert_nothing_leaked, full, restore, workers
from tests.support.plainrepo import MemoryDisk, PlainMap, PlainRepository

SIZE = 24 * BLOCK + 100
CONTENT = Random(4).randbytes(SIZE)


async def verified(repository, node_ids, pool):
    return await restore(repository, node_ids, SIZE, pool, None)


async def test_verify_names_every_damaged_object_and_what_depends_on_it():
    repository = PlainRepository()
    in_order = DATA.model_copy(update={"readers": 1, "compute_threads": 1})  # so that the packs are known
    with workers(in_order) as pool:
        node_ids = (await full(repository, MemoryDisk(CONTENT), pool)).node_ids
        assert (await verified(repository, node_ids, pool)).damage == ()
        ids = [node_ids[i : i + ID_BYTES] for i in range(0, len(node_ids), ID_BYTES)]
        flipped, gone, lost = ids[2], repository.where[ids[-2]][0], ids[9]
        pack, offset, _ = repository.where[flipped]
        assert pack != gone
        repository.packs[pack][offset + 7] ^= 1
        repository.packs[gone] = bytearray()
        del repository.where[lost]
        damage = {d.object_name: d for d in (await verified(repository, node_ids, pool)).damage}
        assert_nothing_leaked(pool)
        assert damage[f"packs/{pack}"].ranges == [(2 * BLOCK, BLOCK)]
        assert damage["index"].ranges == [(9 * BLOCK, BLOCK)]
        in_gone = {
            (i * BLOCK, min(BLOCK, SIZE - i * BLOCK))
            for i, x in enumerate(ids)
            if repository.where.get(x, (-1,))[0] == gone
        }
        assert set(damage[f"packs/{gone}"].ranges) == in_gone
        for broken in (flipped, lost):
            assert broken in ids
        with pytest.raises(Damaged):
            await restore(repository, node_ids, SIZE, pool, MemoryDisk(bytes(SIZE)))
        assert_nothing_leaked(pool)


async def test_no_neighbour_of_a_damaged_block_is_written_with_it():
    repository, target = PlainRepository(), MemoryDisk(bytes(SIZE))
    in_order = DATA.model_copy(update={"readers": 1, "compute_threads": 1})  # so that a pack holds six neighbours
    with workers(in_order) as pool:
        node_ids = (await full(repository, MemoryDisk(CONTENT), pool)).node_ids
        pack, offset, _ = repository.where[node_ids[2 * ID_BYTES : 3 * ID_BYTES]]
        repository.packs[pack][offset] ^= 1
        with pytest.raises(Damaged):
            await restore(repository, node_ids, SIZE, pool, target)
        assert_nothing_leaked(pool)
    wrong = [i for i in range(SIZE) if target.content[i] not in (0, CONTENT[i])]
    assert wrong == []
    assert not any(offset <= 2 * BLOCK < offset + length for offset, length in target.writes)


async def test_verify_finds_the_blocks_of_a_damaged_map_node():
    repository = PlainRepository()

    class BadNode(PlainMap):
        async def ids(self, first_block: int, count: int) -> bytes:
            if first_block + count > 16:
                raise Damaged("node 1", remedy="none", object="node-1")
            return await super().ids(first_block, count)

    async def open_map(image):
        return BadNode(bytearray(image.node_ids))

    with workers() as pool:
        node_ids = (await full(repository, MemoryDisk(CONTENT), pool)).node_ids
        repository.open_map = open_map
        (damage,) = (await verified(repository, node_ids, pool)).damage
        assert damage.object_name == "node-1"
        assert damage.lost_bytes == SIZE - 16 * BLOCK
        with pytest.raises(Damaged):
            await restore(repository, node_ids, SIZE, pool, MemoryDisk(bytes(SIZE)))


class Gated(PlainRepository):
    """The first six fetches wait for each other; then the first meets damage, the second an unreachable store."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.go = asyncio.Event()

    async def fetch(self, pack_no: int, *, offset_bytes: int, length_bytes: int) -> bytes:
        self.waiting += 1
        number = self.waiting
        if number == 6:
            asyncio.get_running_loop().call_soon(self.go.set)
        if number <= 6:
            await self.go.wait()
        if number == 1:
            raise Damaged("rotten", remedy="none", object="packs/0")
        if number == 2:
            raise StoreUnreachable("no answer", remedy="Look at the store.")
        return await super().fetch(pack_no, offset_bytes=offset_bytes, length_bytes=length_bytes)


async def test_a_fetch_that_is_cancelled_before_it_begins_gives_its_bytes_back():
    """The place of one that met damage goes to the next, which the other one's failure ends before its first line."""
    content = Random(7).randbytes(60 * BLOCK)
    roomy = DATA.model_copy(update={"budget": 640 * BLOCK})
    with workers(roomy) as pool:
        repository = Gated()
        node_ids = (await full(repository, MemoryDisk(content), pool)).node_ids
        assert len(repository.packs) >= 10
        with pytest.raises(StoreUnreachable):
            await restore(repository, node_ids, len(content), pool, None)
        assert_nothing_leaked(pool)


async def test_an_unreachable_store_is_not_damage():
    repository = PlainRepository()
    with workers() as pool:
        node_ids = (await full(repository, MemoryDisk(CONTENT), pool)).node_ids
        repository.fault = Nth("fetch", 2, StoreUnreachable("no answer", remedy="Look at the store."))
        with pytest.raises(StoreUnreachable):
            await verified(repository, node_ids, pool)


async def test_a_target_that_forgets_is_found_by_reading_back():
    class Forgetful(MemoryDisk):
        def write_from(self, buffer: memoryview, offset_bytes: int) -> None:
            pass

    repository = PlainRepository()
    with workers() as pool:
        node_ids = (await full(repository, MemoryDisk(CONTENT), pool)).node_ids
        with pytest.raises(DeviceFault, match="does not hold"):
            await restore(repository, node_ids, SIZE, pool, Forgetful(bytes(SIZE)))
        assert_nothing_leaked(pool)
