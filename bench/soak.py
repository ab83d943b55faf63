"""Rounds of backup, incremental, restore and verify in one process, for as long as you like: what is left?

The last points stay, as a retention would have it. Watched over the rounds: anonymous and shared
memory, descriptors, threads, bytes of the budget, loop devices, open sessions in the repository;
every restored disk is compared with its source. Ends with 1 when a bound is broken: memory that
grows, anything left, a byte that differs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import subprocess
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy import stats

from bench import ours
from bench.kit import Bench, Folder, Out, Quick, bench, settings_of, work_folder
from bench.sample_disk import attached, empty_target, loops_below
from mover.cli.sample import Sample
from mover.cli.trial import memory_bytes
from mover.clock import SystemClock, stopwatch
from mover.config import Settings
from mover.heap import prepare_heap
from mover.pipeline.flow import Budget
from mover.pipeline.workers import Workers
from mover.repository.keys import ScryptCost
from mover.repository.repository import Repository
from mover.storage.health import StoreMetrics
from mover.storage.protocol import Store
from mover.storage.stack import open_store
from mover.units import GIB, MIB, format_size, parse_size

GROWTH = MIB
"""Bytes an hour that memory may grow."""
LEAST_RISE = MIB // 2
"""What memory must have risen by, whatever the slope: an allocator takes it in steps. An hour's second half shows
the bound; of shorter runs it shows leaks only."""
WARM_SHARE = 0.5
"""Of the rounds, left out: pools fill, threads come when they are first needed, and bring their memory."""
JUDGED_ROUNDS = 200
"""Fewer say nothing of what grows: threads come as they are first needed, the index joins its files at 64."""
SLACK = 2
"""Descriptors or threads by which the last third may exceed the one before."""
_MOST_POINTS = 1000
"""For the slope: every pair of points counts."""
_FULL_EVERY = 10
"""Rounds; between them incrementals."""
_POINTS_KEPT = 30
_MOST_STATES = 2000
"""Kept of all rounds, evenly spread: the watcher does not grow either."""


@dataclass(frozen=True, slots=True)
class State:
    """What the process holds after a round."""

    seconds: float
    memory: int
    descriptors: int
    """Without those of the local index, whose files are joined when they are many."""
    threads: int
    index_files: int
    budget: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Slope:
    """Bytes an hour, with the range that holds the true one with 95 %."""

    median: float
    low: float
    high: float
    hours: float
    """Over which it was looked at."""


def slope(seconds: Sequence[float], memory: Sequence[float]) -> Slope | None:
    """Theil and Sen's, after the warm-up; it forgives single peaks. None for too few rounds."""
    if len(seconds) < JUDGED_ROUNDS:
        return None
    start = int(len(seconds) * WARM_SHARE)
    at, held = np.array(seconds[start:]), np.array(memory[start:], float)
    if len(at) > _MOST_POINTS:
        chosen = np.linspace(0, len(at) - 1, _MOST_POINTS).astype(int)
        at, held = at[chosen], held[chosen]
    found = stats.theilslopes(held, at / 3600, alpha=0.95)
    return Slope(float(found.slope), float(found.low_slope), float(found.high_slope), float(at[-1] - at[0]) / 3600)


def broken(states: Sequence[State], growth: Slope | None) -> list[str]:
    """Every bound that does not hold, in words."""
    found = []
    if growth is not None and growth.low > GROWTH and growth.low * growth.hours > LEAST_RISE:
        found.append(f"memory grows by at least {format_size(growth.low)} an hour; {format_size(GROWTH)} may be")
    third, last = len(states) // 3, states[-1]
    for what in ("descriptors", "threads") if len(states) >= JUDGED_ROUNDS else ():
        former, now = (max(getattr(state, what) for state in part) for part in (states[third:-third], states[-third:]))
        if now > former + SLACK:
            found.append(f"{what} grow: at most {former} in the second third of the rounds, {now} in the last")
    if last.budget:
        found.append(f"{format_size(last.budget)} of the budget were never given back")
    if last.sessions:
        found.append(f"{last.sessions} sessions are open in the repository")
    return found


class Watched:
    """States of the rounds: each, or when they become many every second, fourth ...; and the last one."""

    def __init__(self, most: int = _MOST_STATES) -> None:
        self.rounds = 0
        # All of its memory at once: a list of objects would be growth of the watcher's own.
        self._rows = np.full((most, len(fields(State))), np.nan)
        self._kept, self._stride = 0, 1
        self._last: State | None = None

    @property
    def states(self) -> list[State]:
        kept = [State(seconds, *map(int, others)) for seconds, *others in self._rows[: self._kept].tolist()]
        return kept if self._last is None or self._last == kept[-1] else [*kept, self._last]

    def add(self, state: State) -> None:
        if self._kept == len(self._rows):
            self._kept = -(-self._kept // 2)
            self._rows[: self._kept] = self._rows[::2].copy()
            self._stride *= 2
        if self.rounds % self._stride == 0:
            self._rows[self._kept] = astuple(state)
            self._kept += 1
        self._last = state
        self.rounds += 1


class Soak:
    """One process as the daemon is one: store, repository and threads stay open for all rounds."""

    def __init__(self, place: Path, size_bytes: int, settings: Settings) -> None:
        self._place, self._settings = place, settings
        self._sample = Sample(place / "disk.raw", size_bytes=size_bytes)
        self._budget = Budget(settings.data.budget)
        self._began = stopwatch()
        self.watched = Watched()
        self.failures: list[str] = []

    async def run(self, rounds: int, seconds: float, run: Bench) -> None:
        """Until so many rounds and seconds are over."""
        prepare_heap()
        async with self._opened() as (repository, workers):
            while self.watched.rounds < rounds or stopwatch() - self._began < seconds:
                number = self.watched.rounds
                await self._round(repository, workers, number)
                if number >= _POINTS_KEPT:
                    await repository.delete_point(f"{number - _POINTS_KEPT:08}")
                state = await self._state(repository)
                self.watched.add(state)
                if self.watched.rounds % 50 == 0:
                    run.say(f"{self.watched.rounds} rounds, {format_size(state.memory)}")

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[Repository, Workers]]:
        store = await open_store(
            str(self._place / "repository"), {}, clock=SystemClock(), create=True, watch=StoreMetrics()
        )
        try:
            repository = await self._repository(store)
            with Workers(self._settings.data, self._budget) as workers:
                yield repository, workers
            await repository.close()
        finally:
            await store.close()

    async def _repository(self, store: Store) -> Repository:
        clock = SystemClock()
        await Repository.init(store, passphrase=ours.PASSPHRASE, clock=clock, cost=ScryptCost(16, 1, 1))
        return await Repository.open(
            store,
            passphrase=ours.PASSPHRASE,
            cache_dir=self._place / "cache",
            clock=clock,
            reserve=self._budget.reserve_pack,
            release=self._budget.release_pack,
        )

    async def _round(self, repository: Repository, workers: Workers, number: int) -> None:
        """A change, a backup, a restore onto an empty device, a comparison, a verification."""
        request: dict[str, Any] = {"point": f"{number:08}"}
        if number % _FULL_EVERY:
            changed = await workers.blocking(self._sample.change)
            regions = [(region.offset_bytes, region.length_bytes) for region in changed]
            request |= {"base": f"{number - 1:08}", "regions": regions}
        with attached(self._sample.path, read_only=True) as source:
            backup = {**request, "devices": [str(source)]}
            done = await ours.backup(repository, workers, self._settings, backup)
            if done["mismatch"]:
                self.failures.append(f"round {number}: the changed regions were contradicted")
            with empty_target(self._place, self._sample.size_bytes) as target:
                restore = {**request, "devices": [str(target)]}
                await ours.restore(repository, workers, self._settings, restore)
                if not await workers.blocking(partial(_are_alike, source, target)):
                    self.failures.append(f"round {number}: the restored disk differs")
        verified = await ours.restore(repository, workers, self._settings, {**request, "devices": []})
        if verified["damaged"] or not verified["verified"]:
            self.failures.append(f"round {number}: the point does not verify")

    async def _state(self, repository: Repository) -> State:
        return State(
            seconds=stopwatch() - self._began,
            memory=memory_bytes(),
            **_held(self._place),
            index_files=len(list((self._place / "cache").rglob("*.segment"))),
            budget=self._budget.used_bytes,
            sessions=len(await repository.leftovers()),
        )


def _are_alike(source: Path, target: Path) -> bool:
    return subprocess.run(["cmp", "-s", str(source), str(target)], check=False).returncode == 0


def _held(cache: Path | None = None) -> dict[str, int]:
    """Descriptors, but those of files below ``cache``, and threads."""
    prefix = f"{cache}/" if cache else "//"
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            count += not os.readlink(f"/proc/self/fd/{entry}").startswith(prefix)
    return {"descriptors": count, "threads": threading.active_count()}


def _more(before: dict[str, int]) -> dict[str, int]:
    """What is held now beyond that; the maps of index files go with the objects that hold them."""
    gc.collect()
    now = _held()
    return {what: now[what] - count for what, count in before.items() if now[what] > count}


def _add(run: Bench, soak: Soak, growth: Slope | None) -> None:
    for state in soak.watched.states:
        run.add("soak.memory", state.memory, "bytes", "lower").in_order_of = "round"
        for name in ("descriptors", "threads"):
            run.add(f"soak.{name}", getattr(state, name), "count", "lower").in_order_of = "round"
        run.add("soak.index_files", state.index_files, "count", "neither").in_order_of = "round"
    if soak.watched.rounds < JUDGED_ROUNDS:
        run.note(f"too few rounds to judge whether anything grows: it takes {JUDGED_ROUNDS}")
    if growth is None:
        return
    run.add("soak.growth", growth.median, "bytes/h", "lower").target = GROWTH
    shown = f"{format_size(growth.low)} to {format_size(growth.high)} an hour with 95 %"
    run.note(f"memory after the warm-up: {shown}")
    if growth.low <= GROWTH < growth.high:
        run.note("that is neither proven to hold nor to break the bound: a longer run narrows it")


def main(
    minutes: Annotated[float, typer.Option(min=0.0, help="How long at least.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds at least.")] = JUDGED_ROUNDS,
    size: Annotated[str, typer.Option(help="Of the disk.")] = "128MiB",
    folder: Folder = None,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Soak: ends with 1 when memory grows, anything is left, or a restored byte differs."""
    minutes, rounds, size = (0.0, 2, "8MiB") if quick else (minutes, rounds, size)
    named = settings_of(minutes=minutes, rounds=rounds, size=size, folder=folder)
    with bench("soak", out, quick=quick, **named) as run:
        size_bytes = parse_size(size)
        if os.geteuid() != 0:
            run.note("not root: the disk is a file with direct I/O, no loop devices come and go")
        held = _held()
        with work_folder(folder, size_bytes * 4 + int(minutes * GIB / 8)) as place:
            soak = Soak(place, size_bytes, Settings())
            asyncio.run(soak.run(rounds, minutes * 60, run))
            left = loops_below(place)
        states = soak.watched.states
        growth = slope([state.seconds for state in states], [state.memory for state in states])
        problems = [*soak.failures, *broken(states, growth)]
        problems += [f"loop devices are left: {', '.join(left)}"] if left else []
        problems += [f"{count} {what} more than before all of it" for what, count in _more(held).items()]
        _add(run, soak, growth)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        run.note(f"{soak.watched.rounds} rounds; the highest resident memory was {format_size(peak)}")
        for problem in problems:
            run.note(f"BROKEN: {problem}")
    raise typer.Exit(1 if problems else 0)


if __name__ == "__main__":
    typer.run(main)
