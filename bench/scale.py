"""One disk to 64 on disks that answer late: how far the rate grows with them, and what ends it.

The disks are shims in this process: each read sleeps its milliseconds per MiB outside the
interpreter lock, then copies seeded blocks from memory. (A delayed block device needs
device-mapper's delay target, which many kernels of Proxy VMs and containers lack; and what is in
question lies above the device.) known: blocks that the repository has, so they are hashed only.
new: blocks compressed, sealed, packed and written to a folder.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer

from bench import content
from bench.kit import Bench, Folder, Out, Quick, Samples, Spent, bench, settings_of, work_folder
from bench.known import KnownBlocks
from bench.latency import LateDisk
from bench.results import Param
from bench.sessions import CHEAP, running
from mover.clock import SystemClock
from mover.config import DataSettings
from mover.errors import UsageError
from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.pipeline.disk_to_repository import DiskCopy, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit
from mover.pipeline.ports import BlockWriter
from mover.pipeline.workers import Workers
from mover.repository.repository import Repository
from mover.repository.session import Session
from mover.storage.health import StoreMetrics
from mover.storage.stack import open_store
from mover.units import GIB, MIB, format_rate, parse_size

COUNTS = (1, 2, 4, 8, 16, 32, 64)
LATENCIES_MS = (2.0, 20.0)
KINDS = ("known", "new")
VOLUME = {"known": 3 * GIB, "new": GIB // 2}
"""Most that one run reads: a second or two of a fast machine."""
_FULL = 0.8
"""From this share on, a stage counts as busy all the time."""
_NEAR = 0.9
"""The rate is flat from where it is this near to its highest."""
_STAMP = 16


class PoolDisk(LateDisk):
    """A late disk with data: blocks from a pool, each stamped so that no two of a run are alike."""

    def __init__(self, number: int, size_bytes: int, pool: Sequence[memoryview], *, s_per_mib: float) -> None:
        super().__init__(f"late-{number}", size_bytes, s_per_mib=s_per_mib)
        self._number, self._pool = number, pool

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        super().read_into(buffer, offset_bytes)
        target = np.frombuffer(buffer, np.uint8)
        for start in range(0, len(buffer), MIB):
            block = (offset_bytes + start) // MIB
            part = target[start : start + MIB]
            np.copyto(part, np.frombuffer(self._pool[block % len(self._pool)], np.uint8)[: len(part)])
            part[:_STAMP] = np.frombuffer(block.to_bytes(8, "big") + self._number.to_bytes(8, "big"), np.uint8)


@dataclass(frozen=True, slots=True)
class Shape:
    """The circumstances of one run."""

    disks: int
    latency_ms: float
    kind: str
    data: DataSettings

    @property
    def ideal(self) -> float:
        """Bytes a second that the disks allow."""
        return self.disks * self.data.readers * MIB / (self.latency_ms / 1000)

    def disk_bytes(self, seconds: float) -> int:
        step = MIB * self.data.readers
        most = min(self.ideal * seconds, VOLUME[self.kind])
        return max(1, int(most / self.disks) // step) * step


async def copy(shape: Shape, place: Path, pool: Sequence[memoryview], seconds: float) -> dict[str, float]:
    """One run: its rate, and shares of the time that stages were busy or waited."""
    size, data = shape.disk_bytes(seconds), shape.data
    budget, meters = Budget(data.budget), [Meter() for _ in range(shape.disks)]
    disks = [PoolDisk(n, size, pool, s_per_mib=shape.latency_ms / 1000) for n in range(shape.disks)]
    async with _session(place, budget) as session:
        blocks: BlockWriter = KnownBlocks(session, hashed=True) if shape.kind == "known" else session
        with Workers(data, budget) as workers:
            with Spent() as spent:
                async with asyncio.TaskGroup() as group:
                    for disk, meter in zip(disks, meters, strict=True):
                        job = copy_disk(_job(size, data), workers=workers, session=blocks, device=disk, meter=meter)
                        group.create_task(job)
                await session.flush()
            threads = workers.compute_threads
    return _figures(shape, size * shape.disks, spent, budget, meters, threads)


def _figures(
    shape: Shape, volume: int, spent: Spent, budget: Budget, meters: Sequence[Meter], threads: int
) -> dict[str, float]:
    stages = [meter.read() for meter in meters]
    readers = shape.disks * shape.data.readers * spent.wall_s
    return {
        "rate": spent.rate(volume),
        "kept": spent.rate(volume) / shape.ideal,
        "reading": sum(stage["read"].seconds for stage in stages) / readers,
        "computing": sum(stage["compute"].seconds for stage in stages) / (threads * spent.wall_s),
        "cores": spent.cpu_s / (len(os.sched_getaffinity(0)) * spent.wall_s),
        "budget_wait": budget.waited_s()["buffers"] / readers,
    }


@asynccontextmanager
async def _session(place: Path, budget: Budget) -> AsyncIterator[Session]:
    """A session of a new repository in a folder, gone at the end."""
    clock, folder = SystemClock(), place / "repository"
    store = await open_store(str(folder), {}, clock=clock, create=True, watch=StoreMetrics())
    try:
        await Repository.init(store, passphrase="bench", clock=clock, cost=CHEAP)
        repository = await Repository.open(
            store,
            passphrase="bench",
            cache_dir=place / "cache",
            clock=clock,
            reserve=budget.reserve_pack,
            release=budget.release_pack,
        )
        async with running(await repository.open_session(points=[])) as session:
            yield session
        await repository.close()
    finally:
        await store.close()
        for gone in (folder, place / "cache"):
            shutil.rmtree(gone, ignore_errors=True)


def _job(size: int, data: DataSettings) -> DiskCopy:
    return DiskCopy(
        size_bytes=size,
        block_bytes=data.block_size,
        regions=Regions.whole(size),
        mode=ReadMode.FULL,
        unlisted="read",
        audit=Audit(0, Random(1)),
    )


def add(run: Bench, shape: Shape, found: dict[str, float]) -> None:
    """One sample of each figure."""
    params: dict[str, Param] = {"disks": shape.disks, "latency_ms": shape.latency_ms, "blocks": shape.kind}
    run.add("scale.rate", found["rate"], "B/s", "higher", **params)
    run.add("scale.kept", found["kept"], "share", "higher", **params)
    for name in ("reading", "computing", "cores", "budget_wait"):
        run.add(f"scale.{name}", found[name], "share", "neither", **params)


def reasons(run: Bench, counts: Sequence[int], latencies: Sequence[float], kinds: Sequence[str]) -> Iterator[str]:
    """For each row of disks: from where on it is flat, at what rate, and why."""
    medians = {series.key: statistics.median(series.samples) for series in run.results.series}

    def figure(name: str, disks: int, latency: float, kind: str) -> float:
        return medians[f"scale.{name}", (("blocks", kind), ("disks", disks), ("latency_ms", latency))]

    for kind in kinds:
        for latency in latencies:
            rates = {disks: figure("rate", disks, latency, kind) for disks in counts}
            top = max(rates.values())
            flat = next(disks for disks in counts if rates[disks] >= _NEAR * top)
            parts = ("kept", "reading", "computing", "cores", "budget_wait")
            why = reason({name: figure(name, flat, latency, kind) for name in parts})
            disks = f"{flat} disk{'s' if flat > 1 else ''}"
            where = f"flat from {disks} on" if flat < counts[-1] else f"still growing at {disks}"
            yield f"{kind} blocks, {latency:g} ms per MiB: {where}, at {format_rate(rates[flat])}: {why}"


def reason(shares: dict[str, float]) -> str:
    """What holds the rate where it is, from the shares of one run."""
    if shares["kept"] >= _NEAR:
        return f"the disks give no more ({shares['kept']:.0%} of what their latency allows)"
    if shares["cores"] >= _FULL:
        return f"the cores are busy ({shares['cores']:.0%} of their time)"
    if shares["computing"] >= _FULL:
        return (
            f"the compute threads are busy ({shares['computing']:.0%}) and get {shares['cores']:.0%} of the cores: "
            "other work has the rest, or they wait for the store"
        )
    if shares["reading"] >= _NEAR:
        return f"the readers read {shares['reading']:.0%} of their time, and are woken late"
    if shares["budget_wait"] >= 1 - _FULL:
        return f"readers wait for the budget ({shares['budget_wait']:.0%} of their time): raise data.budget"
    return (
        f"nothing alone: reading {shares['reading']:.0%}, computing {shares['computing']:.0%}, "
        f"cores {shares['cores']:.0%}; the rest is handing over"
    )


def main(
    folder: Folder = None,
    disks: Annotated[str, typer.Option(help="How many, comma-separated.")] = ",".join(map(str, COUNTS)),
    latencies: Annotated[str, typer.Option(help="Milliseconds per MiB, comma-separated.")] = "2,20",
    depth: Annotated[int, typer.Option(min=1, help="Reads in flight per disk (data.readers).")] = 4,
    budget: Annotated[str, typer.Option(help="data.budget.")] = "128MiB",
    seconds: Annotated[float, typer.Option(min=0.01, help="That a run takes at most, where the disks bound it.")] = 2.0,
    samples: Samples = 3,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Copy more and more disks at once; say where the rate flattens and why."""
    samples, seconds = (1, 0.02) if quick else (samples, seconds)
    named = settings_of(folder=folder, depth=depth, budget=budget, seconds=seconds, samples=samples)
    with bench("scale", out, quick=quick, **named) as run:
        counts, late = _numbers("--disks", disks), _numbers("--latencies", latencies)
        data = DataSettings(readers=depth, budget=parse_size(budget))
        pool = content.blocks(MIB, 2 if quick else 32)
        with work_folder(folder, VOLUME["new"]) as place:
            for number in range(samples):
                for kind in KINDS:
                    for latency in late:
                        run.say(f"sample {number + 1}: {kind} blocks, {latency:g} ms per MiB")
                        for count in counts:
                            shape = Shape(int(count), latency, kind, data)
                            add(run, shape, asyncio.run(copy(shape, place, pool, seconds)))
        for line in reasons(run, [int(count) for count in counts], late, KINDS):
            run.note(line)


def _numbers(option: str, text: str) -> list[float]:
    """Ascending. Raises UsageError."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] <= 0 or (option == "--disks" and any(one % 1 for one in found)):
        raise UsageError(f"{option} {text} is not a list of numbers", remedy="Write them as 1,2,4.")
    return found


if __name__ == "__main__":
    typer.run(main)
