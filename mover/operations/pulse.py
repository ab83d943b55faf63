"""When each running job last got on, for whoever watches for jobs that are stuck."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from mover.clock import Clock
from mover.metrics import JOB_LAST_PROGRESS
from mover.operations.progress import Progress


@dataclass(slots=True)
class _Beat:
    """One job: where it last was seen, and when that was new."""

    labels: tuple[str, str]
    at: float
    seen: dict[str | None, tuple[str, int, int]] = field(default_factory=dict)
    """Disk (None: the whole VM) → phase, bytes done, bytes of all stages."""
    waiting: int = 0
    """Parts of it that wait for what other jobs hold."""
    working: int = 0
    """Parts of it that hold such a thing."""


class Pulse:
    """The jobs of one node. Used on the event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beats: dict[str, _Beat] = {}

    @contextmanager
    def running(self, job: str, operation: str, vm: str) -> Iterator[None]:
        """The job runs for the length of the block; after it, it is nobody's to watch."""
        beat = self._beats[job] = _Beat((vm, operation), self._clock.now())
        self._show(beat.labels)
        try:
            yield
        finally:
            del self._beats[job]
            self._show(beat.labels)

    def saw(self, event: Progress) -> None:
        """Progress, if it is any: the same phase and the same figures again are not."""
        beat = self._beats.get(event.job)
        state = (event.phase, event.done_bytes, sum(event.figures.values()))
        if beat is not None and beat.seen.get(event.disk) != state:
            beat.seen[event.disk] = state
            self._touch(beat)

    @asynccontextmanager
    async def holding(
        self, job: str, place: AbstractAsyncContextManager[None], *, is_work: bool = True
    ) -> AsyncIterator[None]:
        """Enter ``place``, which other jobs may hold: to wait for it is not to be stuck.

        is_work: inside, bytes move; a job that has such a part is watched by that part alone.
        """
        beat = self._beats.get(job) or _Beat(("", ""), 0.0)
        state = "waiting"
        beat.waiting += 1
        try:
            async with place:
                beat.waiting -= 1
                beat.working += is_work
                state = "inside"
                yield
        finally:
            if state == "waiting":
                beat.waiting -= 1
            else:
                beat.working -= is_work

    def tick(self) -> None:
        """Jobs that only wait for others get on with these. Called at about 1 Hz."""
        for beat in self._beats.values():
            if beat.waiting and not beat.working:
                self._touch(beat)

    def _touch(self, beat: _Beat) -> None:
        beat.at = self._clock.now()
        self._show(beat.labels)

    def _show(self, labels: tuple[str, str]) -> None:
        """Jobs that share a VM and an operation show the one that has stood still for longest."""
        times = [beat.at for beat in self._beats.values() if beat.labels == labels]
        if times:
            JOB_LAST_PROGRESS.labels(*labels).set(min(times))
        else:
            JOB_LAST_PROGRESS.remove(*labels)
