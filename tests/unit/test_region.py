"""The algebra of regions, against a disk of single bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.model.region import Region, RegionError, RegionKind, Regions

SIZE = 60
KINDS = st.sampled_from(list(RegionKind))
ROWS = st.lists(
    st.builds(Region, st.integers(0, SIZE - 1), st.integers(1, SIZE + 10), KINDS),
    max_size=12,
)


def painted(rows: list[Region]) -> list[int]:
    """0 unlisted, 1 data, 2 zero; data wins."""
    disk = [0] * SIZE
    for kind in (RegionKind.ZERO, RegionKind.DATA):
        for row in rows:
            if row.kind is kind:
                for place in range(row.offset_bytes, min(row.end_bytes, SIZE)):
                    disk[place] = int(kind)
    return disk


def assert_normal(regions: Regions) -> None:
    assert len(regions.starts) == len(regions.ends) == len(regions.kinds)
    assert (regions.starts < regions.ends).all()
    assert (regions.starts[1:] >= regions.ends[:-1]).all()
    touching = regions.starts[1:] == regions.ends[:-1]
    assert not (touching & (regions.kinds[1:] == regions.kinds[:-1])).any(), "equal neighbours are one"
    assert regions.starts.dtype == regions.ends.dtype == np.int64
    assert regions.kinds.dtype == np.uint8


@given(rows=ROWS)
@settings(max_examples=200, deadline=None)
def test_normal_form_says_the_same_as_the_rows(rows):
    regions = Regions.of(rows, size_bytes=SIZE)
    assert_normal(regions)
    assert painted(list(regions)) == painted(rows)
    assert regions.bytes_of(RegionKind.DATA) == painted(rows).count(1)
    assert regions.bytes_of(RegionKind.ZERO) == painted(rows).count(2)
    assert Regions.of(list(regions), size_bytes=SIZE) == regions, "normalising twice changes nothing"


@given(rows=ROWS, seed=st.randoms())
@settings(max_examples=50, deadline=None)
def test_order_and_repetition_do_not_matter(rows, seed):
    shuffled = rows + rows[:3]
    seed.shuffle(shuffled)
    assert Regions.of(shuffled, size_bytes=SIZE) == Regions.of(rows, size_bytes=SIZE)


@given(rows=ROWS)
@settings(max_examples=100, deadline=None)
def test_gaps_and_regions_cover_the_disk_once(rows):
    regions = Regions.of(rows, size_bytes=SIZE)
    gaps = regions.gaps(SIZE)
    assert_normal(gaps)
    inverse = painted(list(gaps))
    assert [bool(a) != bool(b) for a, b in zip(painted(rows), inverse, strict=True)] == [True] * SIZE


@given(rows=ROWS, offset=st.integers(0, SIZE - 1), length=st.integers(-1, SIZE))
@settings(max_examples=100, deadline=None)
def test_adding_data_is_like_listing_it(rows, offset, length):
    length = min(length, SIZE - offset)
    added = Regions.of(rows, size_bytes=SIZE).with_data(offset, length)
    assert_normal(added)
    if length > 0:
        rows = [*rows, Region(offset, length)]
    assert added == Regions.of(rows, size_bytes=SIZE)


@given(rows=ROWS)
@settings(max_examples=50, deadline=None)
def test_only_keeps_one_kind(rows):
    regions = Regions.of(rows, size_bytes=SIZE)
    for kind in RegionKind:
        chosen = regions.only(kind)
        assert_normal(chosen)
        assert [place == kind for place in painted(rows)] == [bool(p) for p in painted(list(chosen))]


@pytest.mark.parametrize("row", [(-1, 5), (5, 0), (5, -3), (SIZE, 1), (SIZE + 5, 1)])
def test_impossible_regions_are_refused(row):
    with pytest.raises(RegionError, match=str(row[0])):
        Regions.of([Region(0, 3), Region(*row)], size_bytes=SIZE)


def test_absurd_lengths_are_clipped_without_overflow():
    regions = Regions.of([Region(10, 2**63 - 1)], size_bytes=SIZE)
    assert list(regions) == [Region(10, SIZE - 10)]


def test_beyond_64_bits_is_refused():
    for row in (Region(0, 2**63), Region(2**64, 1)):
        with pytest.raises(RegionError):
            Regions.of([row], size_bytes=SIZE)


def test_an_unknown_kind_is_refused():
    with pytest.raises(RegionError, match="kind"):
        Regions.from_rows(np.array([[0, 5, 7]], np.int64), size_bytes=SIZE)


def test_an_empty_disk():
    assert list(Regions.whole(0)) == []
    assert list(Regions.of([], size_bytes=0).gaps(0)) == []
    assert list(Regions.whole(7)) == [Region(0, 7)]


def test_a_hundred_thousand_regions_stay_arrays():
    starts = np.arange(100_000, dtype=np.int64) * 100
    rows = np.stack([starts, np.full(100_000, 60), np.full(100_000, 1)], axis=1)
    regions = Regions.from_rows(rows, size_bytes=10_000_000)
    assert len(regions) == 100_000
    assert regions.bytes_of(RegionKind.DATA) == 6_000_000
    assert regions.gaps(10_000_000).bytes_of(RegionKind.DATA) == 4_000_000
