"""What a scrape costs: ``mover serve``'s own server with the series of 1,000 VMs and 64 disks in flight.

The server runs in this process on an event loop of its kind. Measured are the CPU time of a scrape
(its client included), the time until its last byte, how late the loop woke up meanwhile, and the
bytes; beside them what the library's own writer takes for the same registry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated

import aiohttp
import typer
import uvloop
from prometheus_client.exposition import generate_latest

from bench import words
from bench.kit import Bench, Out, Quick, Samples, bench, settings_of
from bench.results import Param
from mover.api.server import Health, serving
from mover.clock import SystemClock
from mover.config import ServeSettings
from mover.metrics import AUDIT_MISMATCHES, REGISTRY, STORE_REQUESTS
from mover.model.machine import Consistency, DiskKind, Slot
from mover.model.point import DiskImage, OtherDevice, ReadMode, RestorePoint
from mover.operations.gauges import Standing
from mover.operations.series import DiskSeries
from mover.pipeline.flow import Count

CPU_S_MAX, BYTES_MAX, LAG_S_MAX = 0.05, 2 << 20, 0.02
_STAGES = ("read", "compute", "zero", "known", "new", "stored", "unchanged", "zeroed", "unlisted")
_PROBE_S = 0.001


@dataclass(frozen=True, slots=True)
class Scrape:
    """One of them."""

    cpu_s: float
    wall_s: float
    lag_s: float
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
        await standing.looked_for({point.vm_uuid: True})
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
    return Scrape(time.process_time() - cpu, time.perf_counter() - wall, lag.worst, len(body))


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
    samples: Samples = 40,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Measure what a scrape of so many VMs and disks costs. Ends with 1 if a bound of the design is broken."""
    if quick:
        vms, disks, samples = 10, 2, 2
    with bench("scrape", out, quick=quick, **settings_of(vms=vms, disks=disks, samples=samples)) as run:
        first, *rest = uvloop.run(measure(vms, disks, samples + 1))
        keep(run, first, rest, {"vms": vms, "disks": disks})
        broken = [series.name for series in run.results.series if words.is_met(series) is False]
    if broken and not quick:
        typer.echo(f"Beyond its bound: {', '.join(broken)}.", err=True)
        raise typer.Exit(1)


def keep(run: Bench, first: Scrape, rest: Sequence[Scrape], params: dict[str, Param]) -> None:
    """The first scrape builds what the others reuse: it stands by itself, and has no bound."""
    run.add("scrape.first.cpu", first.cpu_s, "s", "lower", **params)
    for one in rest:
        run.add("scrape.cpu", one.cpu_s, "s", "lower", **params).target = CPU_S_MAX
        run.add("scrape.wall", one.wall_s, "s", "lower", **params)
        run.add("scrape.lag", one.lag_s, "s", "lower", **params).target = LAG_S_MAX
        run.add("scrape.size", one.size_bytes, "bytes", "lower", **params).target = BYTES_MAX
        used = time.process_time()
        lines = len(generate_latest(REGISTRY).splitlines())
        run.add("scrape.library.cpu", time.process_time() - used, "s", "neither", **params)
        run.add("scrape.lines", lines, "count", "neither", **params)


if __name__ == "__main__":
    typer.run(main)
