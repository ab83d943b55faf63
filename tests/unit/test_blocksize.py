"""The size of blocks by how a disk changes: what a run touches, block by block; when another one is taken, when not."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.model.point import BLOCK_SIZES, ID_BYTES, Touched, TouchedDay
from mover.model.region import Region, RegionKind, Regions
from mover.operations.blocksize import (
    CANDIDATES,
    DAYS,
    LEAST_GAIN,
    PAID_WITHIN_S,
    after_full,
    after_incremental,
    choose,
    forgotten,
    touched_by,
)
from mover.repository.layout import FAN_OUT
from mover.units import GIB, KIB, MIB

DAY = 86400.0
SMALL, USUAL, LARGE = 256 * KIB, MIB, 4 * MIB
NODE_BYTES = FAN_OUT * ID_BYTES


def touched(*regions: Region, size: int = 8 * GIB, base: int | None = None) -> dict[int, int]:
    made = Regions.of(regions, size_bytes=size)
    found = touched_by(made, size_bytes=size, base_size_bytes=size if base is None else base, dice=Random(0))
    return dict(zip(BLOCK_SIZES, found, strict=True))


def days(*costs: tuple[int, ...], every_s: float = DAY, held: int = GIB) -> Touched:
    """A day a tuple of five."""
    return Touched(held, tuple(TouchedDay(number * every_s, cost) for number, cost in enumerate(costs)))


def scattered(pages: int) -> tuple[int, ...]:
    """A day of pages far from each other: each touches one block, whatever its size."""
    return tuple(pages * size for size in BLOCK_SIZES)


# --- what a run touches ---


@given(
    runs=st.lists(st.tuples(st.integers(0, 60 * MIB), st.integers(1, 3 * MIB), st.sampled_from(RegionKind)), max_size=8)
)
@settings(max_examples=30, deadline=None)
def test_what_is_touched_is_what_looking_at_each_block_says(runs):
    size = 63 * MIB + 5 * KIB
    regions = Regions.of([Region(*run) for run in runs], size_bytes=size)
    found = touched_by(regions, size_bytes=size, base_size_bytes=size, dice=Random(0))
    for block_bytes, told in zip(BLOCK_SIZES, found, strict=True):
        copied, nodes = 0, set()
        for block in range(-(-size // block_bytes)):
            low, high = block * block_bytes, min((block + 1) * block_bytes, size)
            kinds = [
                (region.kind, max(low, region.offset_bytes), min(high, region.end_bytes))
                for region in regions
                if region.offset_bytes < high and low < region.end_bytes
            ]
            zeroes = sum(end - start for kind, start, end in kinds if kind is RegionKind.ZERO)
            copied += high - low if kinds and zeroes < high - low else 0
            nodes |= {block // FAN_OUT} if kinds else set()
        assert told == copied + len(nodes) * NODE_BYTES


def test_each_map_node_that_a_change_touches_counts_once():
    far = [Region(number * 256 * MIB, 4 * KIB) for number in range(32)]
    found = touched(*far)
    assert found[SMALL] == 32 * (SMALL + NODE_BYTES)
    assert found[USUAL] == 32 * USUAL + 8 * NODE_BYTES
    assert found[LARGE] == 32 * LARGE + 2 * NODE_BYTES


def test_a_zeroed_stretch_touches_nodes_alone():
    found = touched(Region(0, 3 * GIB, RegionKind.ZERO))
    assert (found[SMALL], found[USUAL]) == (12 * NODE_BYTES, 3 * NODE_BYTES)


def test_a_grown_tail_is_touched():
    assert touched(base=8 * GIB - MIB)[SMALL] == 4 * SMALL + NODE_BYTES
    assert set(touched().values()) == {0}


def test_a_hundred_thousand_regions_need_no_object_each(monkeypatch):
    rows = np.stack([np.arange(100_000) * 8 * MIB, np.full(100_000, 8192), np.full(100_000, 1)], axis=1)
    size = 100_000 * 8 * MIB
    monkeypatch.setattr(Regions, "__iter__", None)
    found = touched_by(Regions.from_rows(rows, size_bytes=size), size_bytes=size, base_size_bytes=size, dice=Random(0))
    assert found[0] == 100_000 * SMALL + 3125 * NODE_BYTES


# --- what is remembered ---


def test_runs_of_one_day_are_one_and_seven_days_stay():
    known = None
    for hour in range(24 * 9):
        known = after_incremental(known, hour * 3600.0, (1, 2, 3, 4, 5), size_bytes=GIB, data_bytes=0)
    assert len(known.days) == DAYS
    assert {day.bytes_at for day in known.days[:-1]} == {(20, 40, 60, 80, 100)}
    assert known.held_bytes == GIB


def test_daily_runs_that_are_late_or_early_are_a_day_each():
    known = None
    for at in (0, 26, 47, 71.5):
        known = after_incremental(known, at * 3600.0, (1,) * 5, size_bytes=GIB, data_bytes=0)
    assert len(known.days) == 4


def test_a_clock_that_went_back_begins_a_day():
    known = after_incremental(None, 10 * DAY, (1,) * 5, size_bytes=GIB, data_bytes=0)
    known = after_incremental(known, 9 * DAY, (1,) * 5, size_bytes=GIB, data_bytes=0)
    assert [day.since for day in known.days] == [10 * DAY, 9 * DAY]


def test_a_full_tells_what_the_disk_holds_and_forgets_no_day():
    known = after_incremental(None, 0.0, (1,) * 5, size_bytes=GIB, data_bytes=0)
    regions = Regions.of([Region(0, 3 * MIB), Region(4 * MIB, MIB, RegionKind.ZERO)], size_bytes=GIB)
    assert after_full(known, regions) == Touched(3 * MIB, known.days)
    assert after_full(None, regions) == Touched(3 * MIB, ())
    assert forgotten(known) == Touched(GIB, ())
    assert forgotten(None) is None


def test_what_changed_may_all_be_new_to_the_disk_up_to_its_size():
    known = after_full(None, Regions.of([Region(0, MIB)], size_bytes=GIB))
    known = after_incremental(known, 0.0, (1,) * 5, size_bytes=GIB, data_bytes=3 * MIB)
    assert known.held_bytes == 4 * MIB
    assert after_incremental(known, DAY, (1,) * 5, size_bytes=GIB, data_bytes=GIB).held_bytes == GIB
    assert after_incremental(None, DAY, (1,) * 5, size_bytes=GIB, data_bytes=MIB).held_bytes == GIB


# --- which size is taken ---


def test_small_scattered_changes_get_small_blocks_and_say_why():
    chosen = choose(USUAL, days(*[scattered(100)] * DAYS))
    assert chosen.block_bytes == SMALL
    assert chosen.reason.startswith("block size 256 KiB instead of 1.00 MiB: 7")
    assert "made up for in 14 days" in chosen.reason


@pytest.mark.parametrize(
    ("known", "current"),
    [
        (None, USUAL),
        (days(*[scattered(100)] * (DAYS - 1)), USUAL),
        (days(*[(MIB,) * 5] * DAYS), USUAL),
        (days(*[(MIB,) * 5] * DAYS), SMALL),
        (days(*[(MIB,) * 5] * DAYS), LARGE),
        (days(*[scattered(10)] * DAYS), USUAL),
        (days(*[scattered(100)] * DAYS, every_s=7 * DAY), USUAL),
        (days(*[scattered(100)] * 3, *[(0,) * 5] * 4), USUAL),
        (days(*[scattered(100)] * DAYS, every_s=-DAY), USUAL),
        (days(*[(0,) * 5] * DAYS), USUAL),
        (days(*[scattered(100)] * DAYS), 128 * KIB),
    ],
    ids=[
        "nothing known",
        "six days",
        "long runs",
        "long runs, small blocks",
        "long runs, large blocks",
        "so few that a full never pays",
        "so seldom that a full never pays",
        "three days of seven",
        "a clock that went back",
        "nothing changes",
        "a size that is none",
    ],
)
def test_it_stays_as_it_is(known, current):
    assert choose(current, known) == choose(current, None)


COSTS = st.lists(st.integers(0, 4 * GIB), min_size=5, max_size=5).map(tuple)


@given(
    costs=st.lists(COSTS, min_size=DAYS, max_size=DAYS),
    held=st.integers(1, 64 * GIB),
    current=st.sampled_from(BLOCK_SIZES),
    every_s=st.floats(3600.0, 40 * DAY),
)
@settings(max_examples=200, deadline=None)
def test_another_size_always_gains_a_fifth_and_pays_in_time(costs, held, current, every_s):
    chosen = choose(current, days(*costs, held=held, every_s=every_s))
    if chosen.block_bytes == current:
        assert chosen.reason == ""
        return
    assert chosen.block_bytes in CANDIDATES
    assert chosen.reason
    middle = {size: sorted(cost[BLOCK_SIZES.index(size)] for cost in costs)[DAYS // 2] for size in BLOCK_SIZES}
    # The cost of a block itself is below a twentieth of a block, on either side.
    assert middle[chosen.block_bytes] < middle[current] * (1 - LEAST_GAIN) * 1.06
    assert (middle[current] * 1.06 - middle[chosen.block_bytes]) * PAID_WITHIN_S / every_s >= held


@given(costs=st.lists(COSTS, min_size=40, max_size=40), held=st.integers(1, GIB))
@settings(max_examples=30, deadline=None)
def test_no_disk_changes_its_size_twice_within_seven_days(costs, held):
    current, known, switched = USUAL, Touched(held, ()), []
    for number, cost in enumerate(costs):
        chosen = choose(current, known)
        if chosen.reason:
            current, known = chosen.block_bytes, forgotten(known)
            switched.append(number)
        else:
            known = after_incremental(known, number * DAY, cost, size_bytes=GIB, data_bytes=0)
    assert all(later - earlier > DAYS for earlier, later in pairwise(switched))


@given(cost=COSTS, held=st.integers(1, GIB), current=st.sampled_from(BLOCK_SIZES))
@settings(max_examples=100, deadline=None)
def test_a_disk_that_goes_on_as_before_changes_its_size_once_at_most(cost, held, current):
    known = days(*[cost] * DAYS, held=held)
    chosen = choose(current, known)
    assert choose(chosen.block_bytes, known).reason == ""


@given(
    runs=st.lists(st.tuples(st.integers(0, 8 * GIB - 1), st.integers(1, 256 * MIB)), min_size=1, max_size=40),
    held=st.integers(1, 8 * GIB),
)
@settings(max_examples=60, deadline=None)
def test_small_blocks_are_kept_whatever_data_changes_later(runs, held):
    """Large blocks never touch fewer bytes of data: all that they save is what blocks and map nodes cost."""
    found = touched(*(Region(*run) for run in runs))
    known = days(*[tuple(found[size] for size in BLOCK_SIZES)] * DAYS, held=held)
    assert choose(SMALL, known) == choose(SMALL, None)
