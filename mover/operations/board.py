"""What a node keeps for its metrics: the disks in flight, the jobs that run, how each VM stands."""

from __future__ import annotations

from dataclasses import dataclass

from mover.catalog.history import History
from mover.clock import Clock
from mover.config import ServeSettings
from mover.operations.gauges import Standing
from mover.operations.pulse import Pulse
from mover.operations.series import DiskSeries


@dataclass(frozen=True, slots=True)
class Board:
    """One per process that runs jobs."""

    series: DiskSeries
    pulse: Pulse
    standing: Standing

    @classmethod
    def of(cls, settings: ServeSettings, clock: Clock, history: History | None = None) -> Board:
        series = DiskSeries(clock, most=settings.disk_series, grace_s=settings.series_grace)
        return cls(series, Pulse(clock), Standing(clock, history))

    def tick(self) -> None:
        """Bring up to date what changes by itself. Called at about 1 Hz."""
        self.series.expire()
        self.pulse.tick()
