"""Plans against a disk of single bytes; the audit's sample; plans of enormous disks."""

from __future__ import annotations

import tracemalloc
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.model.region import Region, RegionKind, Regions
from mover.pipeline.gather import arrange, wanted_ids
from mover.pipeline.plan import Audit, Piece, Purpose, cut, make_plan
from mover.units import MIB, TIB
from tests.support.plainrepo import Places

BLOCK = 10
NO_AUDIT = Audit(0, Random(0))


def blocks_of(firsts, counts) -> list[int]:
    return [block for first, count in zip(firsts, counts, strict=True) for block in range(first, first + count)]


def expected(regions: Regions, size: int, unlisted: str, base_size: int) -> dict[int, str]:
    """Block → copy, zero or quiet, by looking at every byte."""
    kinds = [0] * size
    for region in regions:
        kinds[region.offset_bytes : region.end_bytes] = [int(region.kind)] * region.length_bytes
    found = {}
    for block in range(-(-size // BLOCK)):
        inside = set(kinds[block * BLOCK : (block + 1) * BLOCK])
        if unlisted == "unchanged" and base_size < size and (block + 1) * BLOCK > base_size:
            found[block] = "copy"
        elif inside == {0}:
            found[block] = "copy" if unlisted == "read" else "quiet"
        else:
            found[block] = "zero" if inside == {2} else "copy"
    return found


@given(
    size=st.integers(1, 200),
    rows=st.lists(st.tuples(st.integers(0, 199), st.integers(1, 60), st.sampled_from(list(RegionKind))), max_size=8),
    unlisted=st.sampled_from(["zero", "unchanged", "read"]),
    growth=st.integers(0, 40),
    window=st.integers(1, 30),
    read=st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_a_plan_reads_what_it_must_and_nothing_else(size, rows, unlisted, growth, window, read):
    regions = Regions.of([Region(a % size, b, k) for a, b, k in rows], size_bytes=size)
    base_size = max(0, size - growth)
    for audit in (NO_AUDIT, Audit(0, Random(0), is_full=True)):
        plan = make_plan(
            regions, size_bytes=size, block_bytes=BLOCK, unlisted=unlisted, audit=audit, base_size_bytes=base_size
        )
        wanted = expected(regions, size, unlisted, base_size)
        copied = plan.purposes == Purpose.COPY
        read_blocks = blocks_of(plan.firsts, plan.counts)
        assert read_blocks == sorted(set(read_blocks)), "in order, none twice"
        assert blocks_of(plan.firsts[copied], plan.counts[copied]) == [b for b, k in wanted.items() if k == "copy"]
        zero = {"zero", "quiet"} if unlisted == "zero" else {"zero"}
        assert blocks_of(plan.zero_firsts, plan.zero_counts) == [b for b, k in wanted.items() if k in zero]
        if audit.is_full:
            assert read_blocks == list(wanted), "a full audit reads all"
            assert plan.read_bytes == size
        pieces = [piece for part in plan.windows(window) for piece in cut(part, read)]
        assert [b for p in pieces for b in range(p.first, p.first + p.blocks)] == read_blocks
        assert all(p.blocks <= read for p in pieces)
        assert sum(plan.piece_bytes(p) for p in pieces) == plan.read_bytes
        assert all(sum(span.blocks for span in part) <= window for part in plan.windows(window))


def test_reads_are_aligned_to_the_read_size():
    assert list(cut([Piece(3, 9, Purpose.COPY)], 4)) == [
        Piece(3, 1, Purpose.COPY),
        Piece(4, 4, Purpose.COPY),
        Piece(8, 4, Purpose.COPY),
    ]


def test_a_base_larger_than_the_disk_is_refused():
    with pytest.raises(ValueError, match="base"):
        make_plan(
            Regions.whole(50),
            size_bytes=50,
            block_bytes=BLOCK,
            unlisted="unchanged",
            audit=NO_AUDIT,
            base_size_bytes=60,
        )


@given(seed=st.integers(0, 999), samples=st.integers(1, 40), blocks=st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_each_stratum_gives_one_sample(seed, samples, blocks):
    plan = make_plan(
        Regions.of([], size_bytes=blocks * BLOCK),
        size_bytes=blocks * BLOCK,
        block_bytes=BLOCK,
        unlisted="zero",
        audit=Audit(samples, Random(seed)),
    )
    drawn = blocks_of(plan.firsts, plan.counts)
    assert set(plan.purposes) <= {Purpose.CHECK_UNLISTED}
    for index in range(samples):
        low, high = blocks * index // samples, blocks * (index + 1) // samples
        assert low == high or any(low <= block < high for block in drawn)
    assert len(drawn) <= samples + blocks.bit_length()


def test_samples_of_a_class_with_holes_stay_in_it():
    listed = [Region(block * BLOCK, BLOCK) for block in range(0, 1000, 3)]
    plan = make_plan(
        Regions.of(listed, size_bytes=1000 * BLOCK),
        size_bytes=1000 * BLOCK,
        block_bytes=BLOCK,
        unlisted="unchanged",
        audit=Audit(50, Random(2)),
        base_size_bytes=1000 * BLOCK,
    )
    drawn = plan.firsts[plan.purposes == Purpose.CHECK_UNCHANGED]
    assert len(drawn) >= 50
    assert (drawn % 3 != 0).all()


def test_ten_terabytes_with_100000_regions_are_planned_in_little_memory():
    dice = np.random.default_rng(1)
    size = 10 * TIB
    starts = np.sort(dice.integers(0, size - MIB, 100_000))
    lengths = dice.integers(4096, MIB, 100_000)
    kinds = np.where(dice.random(100_000) < 0.2, RegionKind.ZERO, RegionKind.DATA)
    tracemalloc.start()
    regions = Regions.from_rows(np.stack([starts, lengths, kinds], axis=1), size_bytes=size)
    plan = make_plan(
        regions,
        size_bytes=size,
        block_bytes=MIB,
        unlisted="unchanged",
        audit=Audit(64, Random(1)),
        base_size_bytes=size,
    )
    pieces = sum(1 for window in plan.windows(4096) for _ in cut(window, 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 100_000 < pieces < 250_000
    assert peak < 64 * MIB


# --- a restore's windows


def make_id(number: int) -> bytes:
    return number.to_bytes(32, "little")


def test_packs_come_in_order_of_first_need_and_records_in_order_of_the_disk():
    ids = b"".join(make_id(n) for n in (7, 0, 8, 7, 9, 10))
    is_zero, wanted = wanted_ids(ids)
    assert wanted == b"".join(make_id(n) for n in (7, 8, 7, 9, 10))
    places = Places([(5, 300, 10), (1, 50, 10), (5, 300, 10), (5, 100, 10), (-1, 0, 0)])
    window = arrange(ids, is_zero, places, first_block=100, most_bytes=1000)
    assert [s.pack_no for s in window.segments] == [5, 1]
    first = window.segments[0]
    assert (first.offset_bytes, first.length_bytes) == (100, 210)
    assert [[(r.id, r.blocks) for r in run] for run in first.runs] == [
        [(make_id(7), (100, 103))],
        [(make_id(9), (104,))],
    ]
    assert first.blocks == [100, 103, 104]
    assert window.zero_spans == [(101, 1)]
    assert window.missing == [105]


def test_far_records_and_long_runs_are_fetched_apart():
    ids = b"".join(make_id(n) for n in range(1, 5))
    is_zero, _ = wanted_ids(ids)
    places = Places([(0, 0, 100), (0, 100, 100), (0, 200, 100), (0, 10_000_000, 100)])
    window = arrange(ids, is_zero, places, first_block=0, most_bytes=200)
    assert [(s.offset_bytes, s.length_bytes) for s in window.segments] == [(0, 200), (200, 100), (10_000_000, 100)]


@pytest.mark.parametrize(
    ("most_run", "wanted"),
    [
        (1, [[0], [1], [2], [4], [5], [6, 8], [7]]),
        (2, [[0, 1], [2], [4, 5], [6, 8], [7]]),
        (9, [[0, 1, 2], [4, 5], [6, 8], [7]]),
    ],
)
def test_neighbouring_blocks_are_a_run_however_their_records_lie(most_run, wanted):
    ids = b"".join(make_id(n) for n in (1, 2, 3, 0, 5, 6, 7, 8, 7))
    is_zero, _ = wanted_ids(ids)
    places = Places([(0, offset, 100) for offset in (200, 0, 100, 300, 500, 400, 600, 400)])
    (segment,) = arrange(ids, is_zero, places, first_block=0, most_bytes=1000, most_run=most_run).segments
    assert [[block for record in run for block in record.blocks] for run in segment.runs] == wanted
    assert sorted(segment.blocks) == [0, 1, 2, 4, 5, 6, 7, 8]


def test_a_window_of_zeroes_needs_nothing():
    is_zero, wanted = wanted_ids(bytes(32 * 5))
    window = arrange(bytes(32 * 5), is_zero, Places([]), first_block=3, most_bytes=10)
    assert (wanted, window.segments, window.zero_spans, window.missing) == (b"", [], [(3, 5)], [])
