"""restore(backup(x)) = x over random disks, sizes, regions and histories."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.model.region import Region, RegionKind, Regions
from mover.pipeline.plan import Audit
from tests.support.plaincopies import BLOCK, DATA, full, incremental, restored, workers
from tests.support.plainrepo import MemoryDisk, PlainRepository


def random_content(dice: Random, size: int) -> bytearray:
    """A third zero blocks, a third repeated ones, a third random."""
    content = bytearray()
    while len(content) < size:
        kind = dice.randrange(3)
        content += (bytes(BLOCK), bytes([dice.randrange(1, 4)]) * BLOCK, dice.randbytes(BLOCK))[kind]
    return content[:size]


def true_regions(old: bytes, new: bytes, dice: Random) -> Regions:
    """What an honest hypervisor reports: 512-byte granularity, sometimes more than changed."""
    rows = []
    for start in range(0, len(new), 512):
        now, before = new[start : start + 512], old[start : start + 512]
        if now != before or dice.random() < 0.02:
            is_zero = not any(now) and dice.random() < 0.8
            rows.append(Region(start, len(now), RegionKind.ZERO if is_zero else RegionKind.DATA))
    dice.shuffle(rows)
    return Regions.of(rows, size_bytes=len(new))


def live(dice: Random, content: bytes, growth: int) -> bytearray:
    """A guest that changes some places, zeroes others, and may have grown."""
    changed = bytearray(content) + bytes(growth)
    for _ in range(dice.randrange(8)):
        start = dice.randrange(len(changed))
        length = min(dice.choice([1, 512, BLOCK, 3 * BLOCK]), len(changed) - start)
        changed[start : start + length] = bytes(length) if dice.random() < 0.4 else dice.randbytes(length)
    return changed


@given(seed=st.integers(0, 10**6), size=st.integers(1, 40 * BLOCK), growths=st.lists(st.integers(0, 5000), max_size=3))
@settings(max_examples=40, deadline=None)
def test_a_history_of_backups_restores_every_state(seed, size, growths):
    async def run() -> None:
        dice, repository = Random(seed), PlainRepository()
        pool = workers()
        with pool:
            content = random_content(dice, size)
            points = [((await full(repository, MemoryDisk(content), pool)).node_ids, bytes(content))]
            for growth in growths:
                base_ids, base = points[-1]
                content = live(dice, base, growth)
                regions = true_regions(base + bytes(growth), content, dice)
                result = await incremental(repository, MemoryDisk(content), pool, regions, base_ids, len(base))
                assert not result.mismatch, result.reason
                points.append((result.node_ids, bytes(content)))
            for node_ids, wanted in points:
                for fresh in (True, False):
                    got, outcome = await restored(repository, node_ids, len(wanted), pool, fresh=fresh)
                    assert got == wanted
                    assert outcome.damage == ()
            assert pool.budget.used_bytes == 0

    asyncio.run(run())


@pytest.mark.parametrize("unlisted", ["zero", "read"])
async def test_a_sparse_full_reads_only_what_it_must(unlisted):
    content = bytearray(40 * BLOCK)
    content[5 * BLOCK : 9 * BLOCK] = Random(1).randbytes(4 * BLOCK)
    disk, repository = MemoryDisk(content), PlainRepository()
    regions = Regions.of([Region(5 * BLOCK + 100, 4 * BLOCK - 200)], size_bytes=len(content))
    with workers() as pool:
        result = await full(repository, disk, pool, regions=regions, unlisted=unlisted, audit=Audit(0, Random(1)))
        got, _ = await restored(repository, result.node_ids, len(content), pool)
    assert got == content
    assert result.bytes_read == (4 * BLOCK if unlisted == "zero" else 40 * BLOCK)
    assert result.bytes_new == 4 * BLOCK


async def test_neighbours_are_written_together_and_each_once():
    content = Random(4).randbytes(40 * BLOCK + 77)
    content = content[: 9 * BLOCK] + content[:BLOCK] + bytes(BLOCK) + content[11 * BLOCK :]
    repository, target = PlainRepository(), MemoryDisk(bytes(len(content)))
    in_order = DATA.model_copy(update={"readers": 1, "compute_threads": 1})  # so that a pack holds six neighbours
    with workers(in_order) as pool:
        node_ids = (await full(repository, MemoryDisk(content), pool)).node_ids
        await restored(repository, node_ids, len(content), pool, target=target)
    assert target.content == content
    spans = [(offset // BLOCK, length // BLOCK) for offset, length in sorted(target.writes)]
    assert spans[:5] == [(0, 1), (1, 5), (6, 3), (9, 1), (11, 3)], "the copy of the first block is written apart"
    assert sum(length for _, length in target.writes) == len(content) - BLOCK, "all but the zeroes, once"


async def test_neighbours_are_read_together_and_in_order():
    disk = MemoryDisk(Random(2).randbytes(10 * BLOCK + 77))
    with workers() as pool:
        await full(PlainRepository(), disk, pool)
    assert sorted(disk.reads) == [
        (0, 3 * BLOCK),
        (3 * BLOCK, 3 * BLOCK),
        (6 * BLOCK, 3 * BLOCK),
        (9 * BLOCK, BLOCK + 77),
    ]


async def test_each_part_of_a_pack_is_fetched_once():
    repository = PlainRepository()
    with workers() as pool:
        result = await full(repository, MemoryDisk(Random(2).randbytes(30 * BLOCK)), pool)
        await restored(repository, result.node_ids, 30 * BLOCK, pool)
    fetched = [range(offset, offset + length) for _, offset, length in repository.fetched]
    assert sum(len(part) for part in fetched) == 30 * BLOCK
