"""Our side: one operation in a process of its own that has started before the watch does.

The data plane as the daemon drives it: repository, pipeline and device with shipped
defaults, encrypted, durable, audit on. Reads a request (JSON) from argv, waits for a line on
stdin, works, prints figures (JSON).
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mover import __version__
from mover.clock import SystemClock, stopwatch
from mover.config import Settings
from mover.device.direct import DirectDevice
from mover.heap import prepare_heap
from mover.model.machine import Consistency, Slot
from mover.model.point import DiskImage, ReadMode, RestorePoint
from mover.model.region import RegionKind, Regions
from mover.pipeline.disk_to_repository import DiskCopy, DiskResult, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit
from mover.pipeline.repository_to_disk import restore_disk
from mover.pipeline.workers import Workers
from mover.repository.layout import FAN_OUT
from mover.repository.repository import Repository
from mover.storage.health import StoreMetrics
from mover.storage.stack import open_store

PASSPHRASE = "bench"
VM = "00000000-0000-4000-8000-00000000be0c"


class LoopLag:
    """How late the event loop wakes up, sampled every 5 ms."""

    def __init__(self) -> None:
        self.late_s: list[float] = []

    async def watch(self) -> None:
        while True:
            due = stopwatch() + 0.005
            await asyncio.sleep(0.005)
            self.late_s.append(stopwatch() - due)

    def p99_ms(self) -> float:
        return float(np.percentile(self.late_s, 99)) * 1000 if self.late_s else 0.0


async def backup(
    repository: Repository, workers: Workers, settings: Settings, request: dict[str, Any]
) -> dict[str, Any]:
    """Copy the devices into one point: from opening the session to the durable commit."""
    clock, point_id = SystemClock(), request["point"]
    session = await repository.open_session(points=[(VM, point_id)])
    base = (await repository.load(request["base"])).disks[0] if request.get("base") else None
    meters = [Meter() for _ in request["devices"]]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(session.run())
        base_map = await session.open_map(base) if base else None
        jobs, copies = [], []
        for path, meter in zip(request["devices"], meters, strict=True):
            device = DirectDevice.open_source(Path(path))
            job = _job(device.size_bytes, settings, base, base_map, request.get("regions"))
            jobs.append(job)
            copies.append(group.create_task(_copy(job, workers, session, device, meter)))
        results = [await copy for copy in copies]
        images = [_image(number, *done) for number, done in enumerate(zip(jobs, results, strict=True))]
        await session.commit(_point(point_id, session.id, images, clock.now()))
        session.stop()
        await running
    await session.end()
    return {
        "bytes_read": sum(result.bytes_read for result in results),
        "bytes_new": sum(result.bytes_new for result in results),
        "bytes_stored": sum(result.bytes_stored for result in results),
        "mismatch": any(result.mismatch for result in results),
        "audited": results[0].audited,
        "phases": results[0].seconds,
        "stages": {name: round(count.seconds, 3) for name, count in meters[0].read().items()},
    }


async def _copy(job: DiskCopy, workers: Workers, session: Any, device: DirectDevice, meter: Meter) -> DiskResult:
    with device:
        return await copy_disk(job, workers=workers, session=session, device=device, meter=meter)


def _job(size: int, settings: Settings, base: DiskImage | None, base_map: Any, listed: Any) -> DiskCopy:
    audit = Audit(settings.data.audit_blocks, Random(1))
    if base is None:
        return DiskCopy(
            size_bytes=size,
            block_bytes=settings.data.block_size,
            regions=Regions.whole(size),
            mode=ReadMode.FULL,
            unlisted="read",
            audit=audit,
        )
    rows = np.array([(offset, length, RegionKind.DATA) for offset, length in listed], np.int64)
    return DiskCopy(
        size_bytes=size,
        block_bytes=settings.data.block_size,
        regions=Regions.from_rows(rows.reshape(-1, 3), size_bytes=size),
        mode=ReadMode.INCREMENTAL,
        unlisted="unchanged",
        audit=audit,
        base_map=base_map,
        base_size_bytes=base.size_bytes,
    )


def _image(number: int, job: DiskCopy, result: DiskResult) -> DiskImage:
    return DiskImage(
        device_uuid=f"{VM}-{number}",
        slot=Slot("scsi", number),
        size_bytes=job.size_bytes,
        mode=result.mode,
        reason=result.reason,
        block_bytes=job.block_bytes,
        fan_out=FAN_OUT,
        node_ids=result.node_ids,
        bytes_read=result.bytes_read,
    )


def _point(point_id: str, session_id: str, images: list[DiskImage], now: float) -> RestorePoint:
    return RestorePoint(
        id=point_id,
        vm_uuid=VM,
        vm_name="bench",
        cluster_uuid=VM,
        created_at=now,
        committed_at=now,
        consistency_asked=Consistency.CRASH,
        consistency=Consistency.CRASH,
        disks=tuple(images),
        session_id=session_id,
        job_id="bench",
        software_version=__version__,
    )


async def restore(
    repository: Repository, workers: Workers, settings: Settings, request: dict[str, Any]
) -> dict[str, Any]:
    """Write the point's first disk to a device, or verify it without one; from loading the point to read-back."""
    point = await repository.load(request["point"])
    reader, meter = await repository.open_reader(), Meter()
    with DirectDevice.open_target(Path(request["devices"][0])) if request["devices"] else nullcontext() as target:
        result = await restore_disk(
            point.disks[0],
            reader=reader,
            workers=workers,
            target=target,
            meter=meter,
            skip_zero=True,
            readback_blocks=settings.data.readback_blocks,
            dice=Random(1),
        )
    await reader.end()
    stages = {name: round(count.seconds, 3) for name, count in meter.read().items()}
    figures = {"bytes_written": result.bytes_written, "phases": result.seconds, "stages": stages}
    return {**figures, "damaged": len(result.damage), "verified": result.blocks_verified}


async def main(request: dict[str, Any]) -> dict[str, Any]:
    prepare_heap()
    settings = Settings()
    data = settings.data.model_copy(update=request.get("data", {}))
    settings = replace_data(settings, data)
    clock = SystemClock()
    store = await open_store(
        request["repository"],
        request["options"],
        clock=clock,
        create=request["operation"] == "init",
        watch=StoreMetrics(),
    )
    if request["operation"] == "init":
        await Repository.init(store, passphrase=PASSPHRASE, clock=clock)
        return {}
    budget = Budget(data.budget)
    repository = await Repository.open(
        store,
        passphrase=PASSPHRASE,
        cache_dir=Path(request["cache"]),
        clock=clock,
        pack_bytes=settings.repository.pack_size,
        uploads=request.get("uploads", settings.repository.uploads),
        paranoid=settings.repository.paranoid,
        level=data.level,
        reserve=budget.reserve_pack,
        release=budget.release_pack,
    )
    operation = {"backup": backup, "restore": restore}[request["operation"]]
    lag = LoopLag()
    with Workers(data, budget) as workers:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(lag.watch())
            used, started = resource.getrusage(resource.RUSAGE_SELF), stopwatch()
            figures = await operation(repository, workers, settings, request)
            wall, after = stopwatch() - started, resource.getrusage(resource.RUSAGE_SELF)
            watching.cancel()
    await repository.close()
    await store.close()
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {**figures, "wall_s": wall, "cpu_s": cpu, "lag_p99_ms": lag.p99_ms(), "budget_left": budget.used_bytes}


def replace_data(settings: Settings, data: Any) -> Settings:
    return settings.model_copy(update={"data": data})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))), flush=True)
