"""The rolling slice: whatever the rhythm of the runs, every block is compared in time, and no run reads much."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.model.point import SlicePlace
from mover.model.region import Region, RegionKind, Regions
from mover.pipeline.plan import Audit, Purpose, make_plan
from mover.pipeline.rolling import MOST, Slice, next_slice
from mover.units import MIB, TIB
from tests.support.plaincopies import full, incremental, restored, workers
from tests.support.plainrepo import MemoryDisk, PlainRepository

DAY = 86400.0
WITHIN = 90 * DAY
BLOCK = 4096


def slice_of(place: SlicePlace | None, now: float, blocks: int, *, within_s: float = WITHIN) -> Slice:
    found = next_slice(place, now=now, size_bytes=blocks * BLOCK, block_bytes=BLOCK, within_s=within_s)
    assert found is not None
    return found


def blocks_of(rolling: Slice) -> list[int]:
    return [block for low, high in rolling.spans() for block in range(low, high)]


@given(
    blocks=st.integers(1, 300),
    gaps=st.lists(st.floats(0.001, 44.9), min_size=30, max_size=120),
    start=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_runs_of_any_rhythm_compare_every_block_within_the_time_give_or_take_a_run(blocks, gaps, start):
    """Gaps of less than half the time: beyond that the bound of a run speaks, see the next test."""
    now, place = float(start), None
    begun = now
    seen = dict.fromkeys(range(blocks), begun)
    longest = max(gaps) * DAY
    for gap in gaps:
        now += gap * DAY
        rolling = slice_of(place, now, blocks)
        for block in blocks_of(rolling):
            seen[block] = now
        # One block's share of the time is the rounding.
        assert now - min(seen.values()) <= WITHIN + longest + WITHIN / blocks + 1 or place is None
        place = rolling.done()


@given(blocks=st.integers(1, 500), gap_days=st.floats(0, 5000), first=st.integers(0, 499))
@settings(max_examples=200, deadline=None)
def test_a_run_compares_at_most_half_and_two_runs_all(blocks, gap_days, first):
    place = SlicePlace(first * BLOCK, 0.0)
    one = slice_of(place, gap_days * DAY, blocks)
    assert one.count <= -(-blocks // MOST)
    assert len(set(blocks_of(one))) == one.count
    assert all(0 <= block < blocks for block in blocks_of(one))
    if gap_days * DAY >= WITHIN:
        two = slice_of(one.done(), gap_days * DAY, blocks)
        assert set(blocks_of(one)) | set(blocks_of(two)) == set(range(blocks))
        three = slice_of(two.done(), gap_days * DAY, blocks)
        assert three.count <= 1, "what was owed is paid, but for rounding"


def test_runs_in_quick_succession_compare_no_more_and_lose_nothing():
    place, now, compared = None, 0.0, 0
    for _ in range(1000):
        rolling = slice_of(place, now, 90)
        compared += rolling.count
        place = rolling.done()
        now += DAY / 100
    assert compared == 9


@pytest.mark.parametrize("offset", [50 * BLOCK, 49 * BLOCK + 1, 10**15])
def test_a_disk_that_shrank_begins_again_or_goes_on(offset):
    rolling = slice_of(SlicePlace(offset, 0.0), 9 * DAY, 50)
    assert rolling.first == (49 if offset < 50 * BLOCK else 0)
    assert rolling.count == 5


def test_a_clock_that_went_back_owes_nothing_and_the_pace_goes_on():
    rolling = slice_of(SlicePlace(0, 1000 * DAY), 10 * DAY, 90)
    assert (rolling.count, rolling.done().paid_until) == (0, 10 * DAY)
    assert slice_of(rolling.done(), 11 * DAY, 90).count == 1


def test_the_first_run_begins_now_and_zero_switches_it_off():
    assert slice_of(None, 5 * DAY, 90).done() == SlicePlace(0, 5 * DAY)
    assert next_slice(SlicePlace(0, 0.0), now=DAY, size_bytes=BLOCK, block_bytes=BLOCK, within_s=0) is None
    empty = next_slice(None, now=DAY, size_bytes=0, block_bytes=BLOCK, within_s=WITHIN)
    assert empty is not None
    assert empty.done() == SlicePlace(0, DAY)


def test_a_large_slice_is_told_and_a_usual_one_is_not():
    assert slice_of(SlicePlace(0, 0.0), 1 * DAY, 900).note() == ""
    assert slice_of(SlicePlace(0, 0.0), 100 * DAY, 900).note() == ", 50% of the disk compared after 90 days"


def plan_with(rolling: tuple[tuple[int, int], ...], regions: Regions, blocks: int, samples: int = 0):
    return make_plan(
        regions,
        size_bytes=blocks * BLOCK,
        block_bytes=BLOCK,
        unlisted="unchanged",
        audit=Audit(samples, Random(1), rolling=rolling),
        base_size_bytes=blocks * BLOCK,
    )


@given(
    rows=st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30), st.sampled_from(list(RegionKind))), max_size=6),
    first=st.integers(0, 99),
    count=st.integers(0, 100),
    samples=st.integers(0, 10),
)
@settings(max_examples=200, deadline=None)
def test_a_plan_reads_every_block_of_the_slice_once(rows, first, count, samples):
    regions = Regions.of([Region(a * BLOCK, b * BLOCK, k) for a, b, k in rows], size_bytes=100 * BLOCK)
    spans = Slice(first, count, 100, BLOCK, 0.0).spans()
    with_slice, without = plan_with(tuple(spans), regions, 100, samples), plan_with((), regions, 100, samples)
    read = [b for f, c in zip(with_slice.firsts, with_slice.counts, strict=True) for b in range(f, f + c)]
    assert read == sorted(set(read)), "in order, none twice"
    plain = {b for f, c in zip(without.firsts, without.counts, strict=True) for b in range(f, f + c)}
    sliced = {(first + number) % 100 for number in range(count)}
    assert set(read) == plain | sliced
    copied = with_slice.purposes == Purpose.COPY
    assert with_slice.copy_bytes == without.copy_bytes
    assert (with_slice.firsts[copied] == without.firsts[without.purposes == Purpose.COPY]).all()
    assert (with_slice.zero_firsts == without.zero_firsts).all()


def test_a_slice_of_ten_terabytes_is_a_few_spans():
    size, dice = 10 * TIB, np.random.default_rng(1)
    starts = np.sort(dice.integers(0, size - MIB, 100_000))
    rows = np.stack([starts, np.full(100_000, 4096), np.full(100_000, int(RegionKind.DATA))], axis=1)
    rolling = next_slice(SlicePlace(size // 2, 0.0), now=DAY, size_bytes=size, block_bytes=MIB, within_s=WITHIN)
    assert rolling is not None
    plan = make_plan(
        Regions.from_rows(rows, size_bytes=size),
        size_bytes=size,
        block_bytes=MIB,
        unlisted="unchanged",
        audit=Audit(64, Random(1), rolling=rolling.spans()),
        base_size_bytes=size,
    )
    compared = int(plan.counts[plan.purposes != Purpose.COPY].sum())
    assert 0.98 * rolling.count < compared < rolling.count + 100
    assert len(plan.firsts) < 110_000


@pytest.mark.parametrize("hidden", [0, 7, 15, 29, 30])
async def test_a_block_left_out_of_the_list_at_any_place_is_found_within_the_time(hidden):
    """No samples; the last block is short. Each run is honest but for the one that hid the change."""
    blocks = 31
    size = 30 * BLOCK + 1000
    old = Random(5).randbytes(size)
    new = bytearray(old)
    new[hidden * BLOCK] ^= 0xFF
    silent = Regions.of([], size_bytes=size)
    with workers() as pool:
        repository = PlainRepository()
        maps = (await full(repository, MemoryDisk(old), pool)).node_ids
        place, runs, result = SlicePlace(0, 0.0), 0, None
        while result is None or not result.mismatch:
            runs += 1
            assert runs <= 91, "the whole time and a run"
            rolling = next_slice(place, now=runs * DAY, size_bytes=size, block_bytes=BLOCK, within_s=WITHIN)
            assert rolling is not None
            assert rolling.count <= 1
            audit = Audit(0, Random(1), rolling=rolling.spans())
            result = await incremental(repository, MemoryDisk(bytes(new)), pool, silent, maps, size, audit)
            maps, place = result.node_ids, rolling.done()
        assert runs >= hidden * 90 // blocks
        assert (await restored(repository, maps, size, pool))[0] == bytes(new)
