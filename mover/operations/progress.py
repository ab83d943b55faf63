"""Progress of disks in flight: events for people, figures for metrics, about once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mover.clock import Clock
from mover.jobs.steps import first_of
from mover.metrics import DISK_BYTES, DISK_PROGRESS, DISK_RATE
from mover.pipeline.flow import Meter

Result = TypeVar("Result")
_EVERY_S = 1.0


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
    """Tells of one disk of one job, until it is closed."""

    def __init__(self, sink: ProgressSink, clock: Clock, *, job: str, vm: str, disk: str) -> None:
        self._sink, self._clock = sink, clock
        self._job, self._vm, self._disk = job, vm, disk
        self._last: dict[str, int] = {}
        self._last_at = clock.monotonic()

    def phase(self, phase: str, reason: str = "") -> None:
        """The disk enters a phase: ask, attach, copy, restore, detach, done."""
        self._sink(Progress(self._job, self._vm, self._disk, phase, figures=dict(self._last), reason=reason))

    async def during(self, phase: str, meter: Meter, work: Awaitable[Result]) -> Result:
        """Await ``work``, telling of its meter at its beginning, about once a second, and at its end."""
        try:
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(self._tick(phase, meter))
                result = await work
                ticking.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        self._tell(phase, meter)
        return result

    def close(self) -> None:
        """Take the disk's rate and progress out of the metrics: it is no longer in flight."""
        for stage in self._last:
            DISK_RATE.remove(self._vm, self._disk, stage)
        if self._last:
            DISK_PROGRESS.remove(self._vm, self._disk)

    async def _tick(self, phase: str, meter: Meter) -> None:
        while True:
            self._tell(phase, meter)
            await self._clock.sleep(_EVERY_S)

    def _tell(self, phase: str, meter: Meter) -> None:
        figures = {stage: count.size_bytes for stage, count in meter.read().items()}
        now = self._clock.monotonic()
        passed = max(now - self._last_at, 1e-6)
        for stage, size in figures.items():
            more = size - self._last.get(stage, 0)
            DISK_BYTES.labels(self._vm, self._disk, stage).inc(max(0, more))
            DISK_RATE.labels(self._vm, self._disk, stage).set(more / passed)
        if figures:
            DISK_PROGRESS.labels(self._vm, self._disk).set(meter.done_bytes / max(1, meter.planned_bytes))
        self._last, self._last_at = figures, now
        self._sink(
            Progress(self._job, self._vm, self._disk, phase, meter.done_bytes, meter.planned_bytes, figures=figures)
        )
