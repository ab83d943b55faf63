"""Progress of disks in flight: events for people, figures for metrics, about once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mover.clock import Clock
from mover.jobs.steps import first_of
from mover.metrics import BYTES, STAGE_SECONDS
from mover.operations.series import DiskSeries, Share
from mover.pipeline.flow import Count, Meter, grown

Result = TypeVar("Result")
_EVERY_S = 1.0
_STAGES = {
    "copy": ("read", "new", "stored"),
    "restore": ("fetched", "written"),
    "verify": ("fetched", "opened"),
}
"""Phase that moves bytes → stages that a disk in it has from the beginning."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One event for people: a disk (or, with disk None, the whole VM) is in this phase.

    done_bytes of planned_bytes; figures: bytes by stage (read, new, stored, written …), so far.
    """

    job: str
    vm: str
    disk: str | None
    phase: str
    done_bytes: int = 0
    planned_bytes: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    reason: str = ""


ProgressSink = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The sink of whoever does not look."""


class DiskWatch:
    """Tells of one disk of one job, until it is closed.

    With ``series`` the disk has its own in the metrics; the node's totals count it always.
    """

    def __init__(
        self, sink: ProgressSink, clock: Clock, *, job: str, vm: str, disk: str, series: DiskSeries | None = None
    ) -> None:
        self._sink, self._clock = sink, clock
        self._job, self._vm, self._disk = job, vm, disk
        self._series = series
        self._share: Share | None = None
        self._last: dict[str, Count] = {}
        self._last_at = clock.monotonic()

    def phase(self, phase: str, reason: str = "") -> None:
        """The disk enters a phase: ask, attach, copy, restore, detach, done."""
        self._sink(Progress(self._job, self._vm, self._disk, phase, figures=_sizes(self._last), reason=reason))

    async def during(self, phase: str, meter: Meter, work: Awaitable[Result]) -> Result:
        """Await ``work``, telling of its meter at its beginning, about once a second, and at its end."""
        if self._series and self._share is None:
            self._share = self._series.begin(self._vm, self._disk, _STAGES.get(phase, ()))
        try:
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(self._tick(phase, meter))
                result = await work
                ticking.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        finally:
            # What was moved was moved, also where it ended badly.
            self._count(meter)
        self._tell(phase, meter)
        return result

    def close(self) -> None:
        """The disk is no longer in flight: its series rest, and end after their grace."""
        if self._series and self._share:
            self._series.end(self._share)

    async def _tick(self, phase: str, meter: Meter) -> None:
        while True:
            self._count(meter)
            self._tell(phase, meter)
            await self._clock.sleep(_EVERY_S)

    def _count(self, meter: Meter) -> None:
        counts = meter.read()
        now = self._clock.monotonic()
        new = {stage: grown(stage, self._last, counts) for stage in counts}
        for stage, count in new.items():
            BYTES.labels(stage).inc(count.size_bytes)
            if count.seconds:
                STAGE_SECONDS.labels(stage, "busy").inc(count.seconds)
        if self._series and self._share:
            done = meter.done_bytes / meter.planned_bytes if meter.planned_bytes else None
            self._series.feed(self._share, new, passed_s=now - self._last_at, done_ratio=done)
        self._last, self._last_at = counts, now

    def _tell(self, phase: str, meter: Meter) -> None:
        done, planned = meter.done_bytes, meter.planned_bytes
        self._sink(Progress(self._job, self._vm, self._disk, phase, done, planned, figures=_sizes(self._last)))


def _sizes(counts: dict[str, Count]) -> dict[str, int]:
    return {stage: count.size_bytes for stage, count in counts.items()}
