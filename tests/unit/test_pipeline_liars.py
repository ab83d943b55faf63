"""Every kind of lying list: caught by a full audit, and by samples as often as the documents say."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.model.point import ReadMode
from mover.model.region import Region, RegionKind, Regions
from mover.pipeline.plan import Audit, Purpose, make_plan
from tests.support.plaincopies import BLOCK, full, incremental, restored, workers
from tests.support.plainrepo import MemoryDisk, PlainRepository

BLOCKS = 30
SIZE = BLOCKS * BLOCK + 1000
OLD = Random(5).randbytes(SIZE)


def regions(*rows: Region) -> Regions:
    return Regions.of(rows, size_bytes=SIZE)


def changed(old: bytes, *blocks: int) -> bytes:
    new = bytearray(old)
    for block in blocks:
        new[block * BLOCK] ^= 0xFF
    return bytes(new)


def at(block: int, kind: RegionKind = RegionKind.DATA, blocks: int = 1) -> Region:
    return Region(block * BLOCK, blocks * BLOCK, kind)


CUT = (changed(OLD, 2, 3, 20), regions(at(2), at(3)))
EMPTY = (changed(OLD, 17), regions())
LYING_ZERO = (OLD, regions(at(4, RegionKind.ZERO)))
LYING_TAIL = (changed(OLD, BLOCKS), regions(at(0)))


@pytest.mark.parametrize(("new", "listed"), [CUT, EMPTY, LYING_ZERO, LYING_TAIL])
async def test_a_full_audit_catches_every_lie_and_reads_the_whole_disk(new, listed):
    repository = PlainRepository()
    with workers() as pool:
        base = await full(repository, MemoryDisk(OLD), pool)
        result = await incremental(
            repository, MemoryDisk(new), pool, listed, base.node_ids, SIZE, Audit(0, Random(1), is_full=True)
        )
        assert result.mismatch
        assert result.mode is ReadMode.FULL
        assert "wrong" in result.reason
        assert result.bytes_read >= SIZE
        assert (await restored(repository, result.node_ids, SIZE, pool))[0] == new
        assert pool.budget.used_bytes == 0


async def test_unlisted_data_in_a_full_is_caught():
    listed = regions(at(0, blocks=5))
    with workers() as pool:
        repository = PlainRepository()
        result = await full(
            repository, MemoryDisk(OLD), pool, regions=listed, unlisted="zero", audit=Audit(0, Random(1), is_full=True)
        )
        assert result.mismatch
        assert (await restored(repository, result.node_ids, SIZE, pool))[0] == OLD


async def test_an_honest_list_passes_a_full_audit_and_is_counted():
    with workers() as pool:
        repository = PlainRepository()
        base = await full(repository, MemoryDisk(OLD), pool)
        new = bytearray(changed(OLD, 2))
        new[5 * BLOCK : 7 * BLOCK] = bytes(2 * BLOCK)
        listed = regions(at(2), at(5, RegionKind.ZERO, 2))
        audit = Audit(0, Random(1), is_full=True)
        result = await incremental(repository, MemoryDisk(new), pool, listed, base.node_ids, SIZE, audit)
        assert not result.mismatch
        assert result.audited == {"unchanged": BLOCKS + 1 - 3, "zeroed": 2, "unlisted": 0}
        assert result.bytes_new == BLOCK
        assert (await restored(repository, result.node_ids, SIZE, pool))[0] == new


async def test_the_block_after_the_last_region_is_always_looked_at():
    """A list that was cut, with too few samples to hit by chance."""
    with workers() as pool:
        repository = PlainRepository()
        base = await full(repository, MemoryDisk(OLD), pool)
        for seed in range(10):
            result = await incremental(
                repository,
                MemoryDisk(changed(OLD, 2, 3)),
                pool,
                regions(at(2)),
                base.node_ids,
                SIZE,
                Audit(1, Random(seed)),
            )
            assert result.mismatch


@pytest.mark.parametrize(("samples", "lies"), [(64, 500), (64, 100), (16, 500), (128, 50)])
def test_samples_find_lies_as_often_as_documented(samples, lies):
    """10,000 blocks, `lies` of them wrong in one stretch or scattered: found with >= 1 - (1 - f)^n."""
    blocks, runs = 10_000, 300
    promised = 1 - (1 - lies / blocks) ** samples
    dice = Random(samples * lies)
    for is_scattered in (True, False):
        found = 0
        for _ in range(runs):
            plan = make_plan(
                Regions.of([], size_bytes=blocks * BLOCK),
                size_bytes=blocks * BLOCK,
                block_bytes=BLOCK,
                unlisted="unchanged",
                audit=Audit(samples, dice),
                base_size_bytes=blocks * BLOCK,
            )
            drawn = {int(b) for b in plan.firsts[plan.purposes == Purpose.CHECK_UNCHANGED]}
            start = dice.randrange(blocks - lies)
            wrong = dice.sample(range(blocks), lies) if is_scattered else range(start, start + lies)
            found += not drawn.isdisjoint(wrong)
        assert found / runs >= promised - 3 * (promised * (1 - promised) / runs) ** 0.5


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_whatever_the_list_says_a_full_audit_makes_the_point_right(seed):
    """Random new content, random list that need not agree with it."""

    async def run() -> None:
        dice = Random(seed)
        new = changed(OLD, *dice.sample(range(BLOCKS), 3))
        rows = [at(dice.randrange(BLOCKS - 2), dice.choice(list(RegionKind)), dice.randrange(1, 3)) for _ in range(4)]
        with workers() as pool:
            repository = PlainRepository()
            base = await full(repository, MemoryDisk(OLD), pool)
            audit = Audit(0, dice, is_full=True)
            result = await incremental(repository, MemoryDisk(new), pool, regions(*rows), base.node_ids, SIZE, audit)
            assert (await restored(repository, result.node_ids, SIZE, pool))[0] == new

    asyncio.run(run())
