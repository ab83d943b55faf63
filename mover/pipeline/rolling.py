"""The rolling slice: which blocks a run compares, so that in time every block is one of them. Pure.

A sample finds a lie about many blocks, not one about a single block. So each run also
compares the next stretch of the disk, as much of it as its share of the time says: of a
disk that must be seen within 90 days, 1/90 for each day since the last run. The place and
the time up to which the pace was kept stand in the manifest, so any node goes on from there.

Every block is compared within the time, give or take a run. One run compares at most half
of the disk, whatever the gap before it; what is owed beyond that follows with the next run.
"""

from __future__ import annotations

from dataclasses import dataclass

from mover.model.point import SlicePlace

MOST = 2
"""One run compares at most the disk divided by this: a long gap must not become a full read."""
TOLD = 8
"""A slice of at least the disk divided by this is named in the report: it explains a long run."""
_ROUNDING = 1e-4
"""Of a block: Unix times as floats are no more exact than that on a large disk."""
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Slice:
    """``count`` blocks from ``first`` on, going on at block 0 behind the end. blocks: of the disk."""

    first: int
    count: int
    blocks: int
    block_bytes: int
    paid_until: float
    """Unix time up to which the pace is kept once these are compared."""
    owed_s: float = 0.0
    """How long nothing was compared, at most the whole time."""

    def spans(self) -> list[tuple[int, int]]:
        """(first block, end), ascending and disjoint."""
        end = self.first + self.count
        if end <= self.blocks:
            return [(self.first, end)] if self.count else []
        return [(0, end - self.blocks), (self.first, self.blocks)]

    def done(self) -> SlicePlace:
        """Where the next run goes on."""
        next_block = (self.first + self.count) % max(1, self.blocks)
        return SlicePlace(next_block * self.block_bytes, self.paid_until)

    def note(self) -> str:
        """Words for a report where this slice is a large part of the disk, else nothing."""
        if self.count * TOLD < self.blocks or not self.count:
            return ""
        return f", {self.count / self.blocks:.0%} of the disk compared after {self.owed_s / _DAY_S:.0f} days"


def next_slice(
    place: SlicePlace | None, *, now: float, size_bytes: int, block_bytes: int, within_s: float
) -> Slice | None:
    """What this run compares; None when nothing ever is (``within_s`` 0).

    Without a place the pace begins now, at block 0. A clock that went back owes nothing.
    """
    if not within_s:
        return None
    blocks = -(-size_bytes // block_bytes)
    place = place or SlicePlace(0, now)
    first = place.offset_bytes // block_bytes
    if first >= blocks:
        first = 0
    owed_s = min(max(0.0, now - place.paid_until), within_s)
    # Whole blocks only, and only what is compared is paid: runs in quick succession lose nothing.
    due = int(blocks * owed_s / within_s + _ROUNDING)
    count = min(due, -(-blocks // MOST))
    paid_until = now - owed_s + (count * within_s / blocks if blocks else 0.0)
    return Slice(first, count, blocks, block_bytes, paid_until, owed_s)
