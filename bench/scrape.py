"""What a scrape costs: ``mover serve``'s own server with the series of 1,000 VMs and 64 disks in flight.

usage: python -m bench.scrape [--vms 1000] [--disks 64] [--rounds 40]

The server runs in this process on an event loop of its kind. Printed are the CPU time of a scrape,
the time until its last byte, how late the loop woke up meanwhile, and the bytes; beside them what
the library's own writer takes for the same registry. Exit code 1 if a bound of the design is broken.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Annotated

import aiohttp
import typer
import uvloop
from prometheus_client.exposition import generate_latest

from mover.api.server import Health, serving
from mover.clock import SystemClock
from mover.config import ServeSettings
from mover.metrics import AUDIT_MISMATCHES, REGISTRY, STORE_REQUESTS
from mover.model.machine import Consistency, DiskKind, Slot
from mover.model.point import DiskImage, OtherDevice, ReadMode, RestorePoint
from mover.operations.gauges import Standing
from mover.operations.series import DiskSeries
from mover.pipeline.flow import Count

CPU_MS_MAX, BYTES_MAX, LAG_MS_MAX = 50.0, 2 << 20, 20.0
_STAGES = ("read", "compute", "zero", "known", "new", "stored", "unchanged", "zeroed", "unlisted")
_PROBE_S = 0.001


@dataclass(frozen=True, slots=True)
class Scrape:
    """One of them."""

    cpu_ms: float
    wall_ms: float
    lag_ms: float
    size_bytes: int


async def fill(vms: int, disks: int) -> DiskSeries:
    """The registry as a busy node has it: each VM with every gauge, each disk with every stage."""
    clock = SystemClock()
    standing = Standing(clock)
    for number in range(vms):
        point = _point(number, clock.now())
        await standing.committed(point)
        await standing.verified(point)
        AUDIT_MISMATCHES.labels(point.vm_name).inc()
        if number % 10 == 0:
            await standing.failed(point.vm_uuid, point.vm_name)
    for verb in ("create", "get_range", "list", "info", "delete", "replace", "get"):
        STORE_REQUESTS.labels(verb, "ok").inc()
    series = DiskSeries(clock, most=max(1, disks), grace_s=300)
    for number in range(disks):
        share = series.begin(_name(number // 4), f"scsi.{number % 4}", _STAGES)
        grown = {stage: Count(9, 123_456_789 + number, 1.25) for stage in _STAGES}
        series.feed(share, grown, passed_s=1.0, done_ratio=0.375)
    return series


def _name(number: int) -> str:
    return f"production-application-server-{number:04}"


def _point(number: int, now: float) -> RestorePoint:
    image = DiskImage(f"disk-{number}", Slot("scsi", 0), 1 << 40, ReadMode.FULL, "no base")
    return RestorePoint(
        id=f"point-{number}",
        vm_uuid=f"{number:08x}-0000-4000-8000-000000000000",
        vm_name=_name(number),
        cluster_uuid="cluster",
        created_at=now - number,
        committed_at=now,
        consistency_asked=Consistency.APPLICATION,
        consistency=Consistency.CRASH,
        disks=(image,),
        session_id="session",
        job_id="job",
        is_base=True,
        others=(OtherDevice(Slot("scsi", 9), DiskKind.VOLUME_GROUP, ""),),
    )


async def scrape(client: aiohttp.ClientSession, url: str, lag: SimpleNamespace) -> Scrape:
    lag.worst = 0.0
    cpu, wall = time.process_time(), time.perf_counter()
    async with client.get(f"{url}/metrics") as answer:
        body = await answer.read()
    return Scrape((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3, lag.worst * 1e3, len(body))


async def probe(lag: SimpleNamespace) -> None:
    """Sleep a little, again and again; note how late it became."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(_PROBE_S)
        lag.worst = max(lag.worst, time.perf_counter() - asked - _PROBE_S)


async def measure(vms: int, disks: int, rounds: int) -> list[Scrape]:
    series = await fill(vms, disks)
    lag = SimpleNamespace(worst=0.0)
    settings = ServeSettings(port=0)
    async with (
        serving(settings, lambda: Health(True, {})) as url,
        aiohttp.ClientSession() as client,
        asyncio.TaskGroup() as group,
    ):
        probing = group.create_task(probe(lag))
        found = [await scrape(client, url, lag) for _ in range(rounds)]
        probing.cancel()
    series.expire()
    return found


def main(
    vms: Annotated[int, typer.Option(min=0)] = 1000,
    disks: Annotated[int, typer.Option(min=0)] = 64,
    rounds: Annotated[int, typer.Option(min=2)] = 40,
) -> None:
    first, *rest = uvloop.run(measure(vms, disks, rounds))
    cpu = time.process_time()
    library = generate_latest(REGISTRY)
    library_ms = (time.process_time() - cpu) * 1e3
    half = median(one.cpu_ms for one in rest)
    lag_ms = median(one.lag_ms for one in rest)
    lines = len(library.splitlines())
    print(f"{vms} VMs, {disks} disks: {lines} lines, {rest[-1].size_bytes / 1e6:.2f} MB")
    print(f"a scrape, client included   {half:6.1f} ms CPU (the first one {first.cpu_ms:.1f}, worst {worst(rest):.1f})")
    print(f"until its last byte         {median(one.wall_ms for one in rest):6.1f} ms")
    print(f"the event loop was late by  {lag_ms:6.1f} ms (worst {max(one.lag_ms for one in rest):.1f})")
    print(f"the library's writer alone  {library_ms:6.1f} ms CPU")
    if half > CPU_MS_MAX or rest[-1].size_bytes > BYTES_MAX or lag_ms > LAG_MS_MAX:
        raise SystemExit(f"beyond {CPU_MS_MAX:.0f} ms of CPU, {BYTES_MAX} bytes or {LAG_MS_MAX:.0f} ms of lag")


def worst(scrapes: list[Scrape]) -> float:
    return max(one.cpu_ms for one in scrapes)


if __name__ == "__main__":
    typer.run(main)
