"""Which disks have series of their own in the metrics: only so many, and only for a while after their end.

What a disk without series does still counts in the node's totals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mover import logs
from mover.clock import Clock
from mover.metrics import DISK_BUSY, DISK_BYTES, DISK_PROGRESS, DISK_RATE, SERIES_DROPPED
from mover.pipeline.flow import Count

_LOG = logs.get(__name__)


@dataclass(eq=False, slots=True)
class Share:
    """One watcher's part in the series of a disk; without a disk it counts for nothing."""

    own: _Own | None
    rates: dict[str, float] = field(default_factory=dict)
    """Stage → bytes a second."""


@dataclass(eq=False, slots=True)
class _Own:
    """The series of one disk, and who feeds them now."""

    vm: str
    disk: str
    shares: list[Share] = field(default_factory=list)
    stages: set[str] = field(default_factory=set)
    ended_at: float = 0.0
    """Monotonic; it means something while there are no shares."""


class DiskSeries:
    """The series of the disks of one node. Used on the event loop only."""

    def __init__(self, clock: Clock, *, most: int, grace_s: float) -> None:
        """most: disks with series, of those in flight and those just ended; grace_s: how long the latter keep them."""
        self._clock = clock
        self._most, self._grace_s = most, grace_s
        self._own: dict[tuple[str, str], _Own] = {}

    def begin(self, vm: str, disk: str, stages: tuple[str, ...]) -> Share:
        """A disk is in flight; its series begin with these stages at nothing, so that no first increment is missed.

        Where there are too many, the disk that ended first makes room; if none has ended, this one goes without.
        """
        self.expire()
        own = self._own.get((vm, disk))
        if own is None:
            if len(self._own) >= self._most and not self._make_room():
                return Share(None)
            own = self._own[vm, disk] = _Own(vm, disk)
        share = Share(own)
        own.shares.append(share)
        for stage in stages:
            own.stages.add(stage)
            DISK_BYTES.labels(vm, disk, stage)
            DISK_RATE.labels(vm, disk, stage)
        return share

    def feed(self, share: Share, grown: Mapping[str, Count], *, passed_s: float, done_ratio: float | None) -> None:
        """What the disk did since the last time, ``passed_s`` ago. done_ratio: None before anything is planned."""
        own = share.own
        if own is None:
            return
        for stage, count in grown.items():
            own.stages.add(stage)
            DISK_BYTES.labels(own.vm, own.disk, stage).inc(count.size_bytes)
            if count.seconds:
                DISK_BUSY.labels(own.vm, own.disk, stage).inc(count.seconds)
            share.rates[stage] = count.size_bytes / max(passed_s, 1e-6)
            self._show_rate(own, stage)
        if done_ratio is not None:
            DISK_PROGRESS.labels(own.vm, own.disk).set(done_ratio)

    def end(self, share: Share) -> None:
        """The disk is not in flight any more: nothing of it moves, its totals stay for the grace."""
        own = share.own
        if own is None:
            return
        share.own = None
        own.shares.remove(share)
        own.ended_at = self._clock.monotonic()
        for stage in own.stages:
            self._show_rate(own, stage)

    def expire(self) -> None:
        """End the series whose grace is over. Called at about 1 Hz."""
        now = self._clock.monotonic()
        for own in [own for own in self._own.values() if not own.shares and now - own.ended_at >= self._grace_s]:
            self._remove(own)

    def _make_room(self) -> bool:
        SERIES_DROPPED.inc()
        ended = [own for own in self._own.values() if not own.shares]
        if ended:
            self._remove(min(ended, key=lambda own: own.ended_at))
        else:
            _LOG.info("a disk has no series of its own", most=self._most, setting="serve.disk_series")
        return bool(ended)

    def _show_rate(self, own: _Own, stage: str) -> None:
        rate = sum(share.rates.get(stage, 0.0) for share in own.shares)
        DISK_RATE.labels(own.vm, own.disk, stage).set(rate)

    def _remove(self, own: _Own) -> None:
        del self._own[own.vm, own.disk]
        for stage in own.stages:
            for family in (DISK_BYTES, DISK_RATE, DISK_BUSY):
                family.remove(own.vm, own.disk, stage)
        DISK_PROGRESS.remove(own.vm, own.disk)
