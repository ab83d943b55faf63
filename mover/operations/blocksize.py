"""Which size of blocks suits a disk, from what its changes touched in the last days. Pure.

A block that a change touches is read, hashed, compressed and stored whole, so small scattered
changes cost less with small blocks; a full backup costs less with large ones. What a run costs at each size
follows exactly from its list of changed regions: nothing is read to know it. The manifest keeps
the last seven days of it.

Another size costs a full read, and all that the disk holds is stored anew beside the older points.
So it is taken only where the middle one of seven days would have cost at least a fifth less, and what a
full costs is made up for within 30 days; then seven new days are awaited before the next change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from mover.clock import Dice
from mover.config import FIRST_BLOCK_BYTES
from mover.model.point import BLOCK_SIZES, ID_BYTES, Touched, TouchedDay
from mover.model.region import RegionKind, Regions, distinct
from mover.pipeline.plan import Audit, make_plan
from mover.repository.layout import FAN_OUT
from mover.units import KIB, format_size

CANDIDATES = (256 * KIB, FIRST_BLOCK_BYTES)
"""Larger ones are none: they never cost a fifth less than these (bench.block_size)."""
DAYS = 7
"""So many are remembered and wanted: a week has its quiet days."""
LEAST_GAIN = 0.2
"""Less than a fifth is no reason to store a disk twice."""
_DAY_S = 86400.0
PAID_WITHIN_S = 30 * _DAY_S
_SAME_DAY_S = 20 * 3600.0
"""Runs that begin within this are one day; two daily ones are never, though one is late."""
_BLOCK_COST = 12 * KIB
"""What a block costs beside its bytes, in bytes: hand-over, records, index. Of bench.block_size."""


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """reason: why it is another size than before, in words for a report; else empty."""

    block_bytes: int
    reason: str = ""


def touched_by(regions: Regions, *, size_bytes: int, base_size_bytes: int, dice: Dice) -> tuple[int, ...]:
    """Bytes of blocks and map nodes that an incremental with these regions writes, at each of BLOCK_SIZES.

    dice: never thrown, since nothing is sampled.
    """
    found, audit = [], Audit(0, dice)
    for block_bytes in BLOCK_SIZES:
        plan = make_plan(
            regions,
            size_bytes=size_bytes,
            block_bytes=block_bytes,
            unlisted="unchanged",
            audit=audit,
            base_size_bytes=base_size_bytes,
        )
        firsts = np.concatenate([plan.firsts, plan.zero_firsts])
        counts = np.concatenate([plan.counts, plan.zero_counts])
        found.append(plan.copy_bytes + _nodes(firsts, firsts + counts - 1) * FAN_OUT * ID_BYTES)
    return tuple(found)


def _nodes(firsts: NDArray[np.int64], lasts: NDArray[np.int64]) -> int:
    """How many map nodes have one of these spans of blocks."""
    low, high = firsts // FAN_OUT, lasts // FAN_OUT
    between = int((high - low - 1).clip(min=0).sum())
    return between + len(distinct(np.concatenate([low, high])))


def after_full(former: Touched | None, regions: Regions) -> Touched:
    """What is remembered once a disk was read in full; regions: what it holds."""
    return Touched(regions.bytes_of(RegionKind.DATA), former.days if former else ())


def after_incremental(
    former: Touched | None, at: float, touched: Sequence[int], *, size_bytes: int, data_bytes: int
) -> Touched:
    """One more run, of its own day or of the one before. data_bytes: that changed; size_bytes: of the disk.

    All that changed may be new to the disk, which so holds at most this much: a full must not seem cheaper than it is.
    """
    former = former or Touched(size_bytes, ())
    held_bytes = min(size_bytes, former.held_bytes + data_bytes)
    days = list(former.days)
    if days and 0 <= at - days[-1].since < _SAME_DAY_S:
        last = days.pop()
        days.append(replace(last, bytes_at=tuple(a + b for a, b in zip(last.bytes_at, touched, strict=True))))
    else:
        days.append(TouchedDay(at, tuple(touched)))
    return Touched(held_bytes, tuple(days[-DAYS:]))


def forgotten(former: Touched | None) -> Touched | None:
    """With another size of blocks its days begin anew."""
    return former and replace(former, days=())


def choose(current: int, touched: Touched | None) -> BlockChoice:
    """The size of blocks for the next backup of a disk that has ``current`` now."""
    if touched is None or len(touched.days) < DAYS or current not in BLOCK_SIZES:
        return BlockChoice(current)
    every_s = (touched.days[-1].since - touched.days[0].since) / (DAYS - 1)
    costs = {size: _usual_cost(touched, size) for size in (*CANDIDATES, current)}
    best = min(costs, key=lambda size: (costs[size], size != current))
    saved = costs[current] - costs[best]
    if every_s <= 0 or saved <= LEAST_GAIN * costs[current]:
        return BlockChoice(current)
    paid_s = _cost(touched.held_bytes, best) / saved * every_s
    if paid_s > PAID_WITHIN_S:
        return BlockChoice(current)
    return BlockChoice(
        best,
        f"block size {format_size(best)} instead of {format_size(current)}: {saved / costs[current]:.0%} less to read "
        f"and store on the last {DAYS} days, made up for in {max(1, round(paid_s / _DAY_S))} days",
    )


def _usual_cost(touched: Touched, block_bytes: int) -> float:
    row = BLOCK_SIZES.index(block_bytes)
    return median(_cost(day.bytes_at[row], block_bytes) for day in touched.days)


def _cost(size_bytes: int, block_bytes: int) -> float:
    return size_bytes * (1 + _BLOCK_COST / block_bytes)
