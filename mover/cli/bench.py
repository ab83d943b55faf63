"""``bench``: what this machine and folder give, with the settings as they are.

One process, as the daemon: repository, pipeline and device, encrypted and durable, from the
start of a copy to its commit. Prism has no part in it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from mover import __version__
from mover.app import nodes, stores
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.cli.sample import Sample
from mover.cli.tables import grid
from mover.clock import Clock, SystemClock, secret_bytes, stopwatch
from mover.config import Settings
from mover.device.files import open_file_source
from mover.errors import SpaceShort, UsageError
from mover.model.machine import Consistency, Slot
from mover.model.point import DiskImage, ReadMode, RestorePoint
from mover.model.region import Regions
from mover.operations.node import ReadingNode
from mover.operations.progress import DiskWatch
from mover.operations.tofile import restore_to_file
from mover.operations.writing import writing
from mover.pipeline.disk_to_repository import DiskCopy, DiskResult, copy_disk
from mover.pipeline.flow import Meter
from mover.pipeline.plan import Audit
from mover.repository.layout import FAN_OUT
from mover.repository.repository import Repository
from mover.units import MIB, format_rate, format_size, parse_size

VM_NAME = "sample"
_SLOT = Slot("scsi", 0)
_LEAST_BYTES = 64 * MIB
_ROOM = 2.0
"""Room wanted, in sizes of the sample: itself, what is stored of it, and the restored copy."""
_LOOK_S = 0.05


@dataclass(slots=True)
class Load:
    """What a run cost this process. Memory: anonymous and shared, the highest seen."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


async def bench(session: Session, folder: Path | None, size: str) -> None:
    """Make a sample, measure four runs over it, print them; everything made is removed."""
    size_bytes = parse_size(size) // MIB * MIB
    place = _checked(folder or Path(tempfile.gettempdir()), size_bytes)
    console = session.console
    with tempfile.TemporaryDirectory(prefix="mover-bench-", dir=place) as name:
        console.remark(f"A sample disk of {format_size(size_bytes)} is made in {name} …")
        work, clock = Path(name), SystemClock()
        sample = Sample(work / "sample.raw", size_bytes=size_bytes)
        settings = _settings(session.settings, work)
        await _init(settings, clock)
        with watching(console.err, quiet=console.as_json) as progress:
            async with nodes.reading_node(settings, progress=progress, clock=clock) as node:
                rows = await _Bench(node, sample, work).run()
    answer = {"size_bytes": size_bytes, "folder": str(place), "settings": _shown(settings), "runs": rows}
    console.answer(answer, _table(rows), Text(_words(settings), "dim"))


def _checked(folder: Path, size_bytes: int) -> Path:
    if size_bytes < _LEAST_BYTES:
        raise UsageError(
            f"A sample of {format_size(size_bytes)} says nothing",
            remedy=f"Use --size {format_size(_LEAST_BYTES)} or more.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}", remedy="Name another --folder.") from None
    wanted = int(size_bytes * _ROOM)
    if free < wanted:
        raise SpaceShort(
            f"{folder} has {format_size(free)} free, a sample of {format_size(size_bytes)} needs {format_size(wanted)}",
            remedy="Name another --folder, or a smaller --size.",
        )
    return folder


def _settings(settings: Settings, work: Path) -> Settings:
    """The user's data settings, over a repository of our own."""
    repository = settings.repository.model_copy(
        update={
            "url": str(work / "repository"),
            "passphrase": SecretStr(secret_bytes(16).hex()),
            "cache_dir": work / "cache",
            "store": {},
        }
    )
    return settings.model_copy(update={"repository": repository, "state_dir": work / "state"})


async def _init(settings: Settings, clock: Clock) -> None:
    async with stores.store(settings, clock, create=True) as store:
        await Repository.init(store, passphrase=settings.repository.passphrase.get_secret_value(), clock=clock)


class _Bench:
    """Four runs, in the order in which they build on each other."""

    def __init__(self, node: ReadingNode, sample: Sample, work: Path) -> None:
        self._node = node
        self._sample = sample
        self._work = work
        self._vm_uuid = node.clock.new_uuid()

    async def run(self) -> list[dict[str, Any]]:
        loads = {}
        async with _measured(self._node.clock) as loads["full"]:
            _, loads["full"].facts = await self._back_up(self._sample.allocated, None)
        async with _measured(self._node.clock) as loads["full again"]:
            point, loads["full again"].facts = await self._back_up(self._sample.allocated, None)
        changed = await self._node.workers.blocking(self._sample.change)
        async with _measured(self._node.clock) as loads["incremental"]:
            point, loads["incremental"].facts = await self._back_up(changed, point)
        async with _measured(self._node.clock) as loads["restore"]:
            loads["restore"].facts = await self._restore(point)
        return [_row(name, load) for name, load in loads.items()]

    async def _back_up(self, regions: Regions, base: RestorePoint | None) -> tuple[RestorePoint, dict[str, Any]]:
        """From opening the session to the durable commit."""
        node, point_id = self._node, self._node.clock.new_uuid()
        watch = DiskWatch(node.progress, node.clock, job=point_id, vm=VM_NAME, disk=str(_SLOT))
        async with writing(node.repository, (self._vm_uuid, point_id)) as holder:
            session = await holder.get()
            old = base.disks[0] if base else None
            data = node.settings.data
            copy = DiskCopy(
                size_bytes=self._sample.size_bytes,
                block_bytes=data.block_size,
                regions=regions,
                mode=ReadMode.INCREMENTAL if old else ReadMode.FULL,
                unlisted="unchanged" if old else "zero",
                audit=Audit(data.audit_blocks, node.clock.random(), is_full=data.audit_full),
                base_map=await session.open_map(old) if old else None,
                base_size_bytes=old.size_bytes if old else None,
            )
            with open_file_source(self._sample.path) as device:
                meter = Meter()
                work = copy_disk(copy, workers=node.workers, session=session, device=device, meter=meter)
                result = await watch.during("copy", meter, work)
            point = self._point(point_id, session.id, result)
            await session.commit(point)
        watch.close()
        figures = {key: getattr(result, key) for key in ("bytes_read", "bytes_new", "bytes_stored")}
        return point, {**figures, "bytes_moved": result.bytes_read, "phases": result.seconds}

    def _point(self, point_id: str, session_id: str, result: DiskResult) -> RestorePoint:
        now = self._node.clock.now()
        image = DiskImage(
            device_uuid=self._vm_uuid,
            slot=_SLOT,
            size_bytes=self._sample.size_bytes,
            mode=result.mode,
            reason=result.reason,
            block_bytes=self._node.settings.data.block_size,
            fan_out=FAN_OUT,
            node_ids=result.node_ids,
            bytes_read=result.bytes_read,
        )
        return RestorePoint(
            id=point_id,
            vm_uuid=self._vm_uuid,
            vm_name=VM_NAME,
            cluster_uuid=self._vm_uuid,
            created_at=now,
            committed_at=now,
            consistency_asked=Consistency.CRASH,
            consistency=Consistency.CRASH,
            disks=(image,),
            session_id=session_id,
            job_id="bench",
            software_version=__version__,
        )

    async def _restore(self, point: RestorePoint) -> dict[str, Any]:
        report = await restore_to_file(self._node, point.id, None, self._work / "restored.raw")
        disk = report["disks"][0]
        return {"bytes_read": disk["bytes_fetched"], "bytes_moved": disk["bytes_written"], "phases": disk["seconds"]}


@asynccontextmanager
async def _measured(clock: Clock) -> AsyncIterator[Load]:
    """Seconds, CPU and the highest memory of the block."""
    load = Load()
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(_watch_memory(load, clock))
        used, began = _cpu_s(), stopwatch()
        yield load
        load.seconds, load.cpu_s = stopwatch() - began, _cpu_s() - used
        looking.cancel()


async def _watch_memory(load: Load, clock: Clock) -> None:
    while True:
        load.peak_bytes = max(load.peak_bytes, memory_bytes())
        await clock.sleep(_LOOK_S)


def memory_bytes() -> int:
    """Anonymous and shared memory of this process; the page cache behind mapped files is not counted."""
    with open("/proc/self/status", encoding="ascii") as lines:
        found = [line.split() for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(int(words[1]) * 1024 for words in found)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _row(name: str, load: Load) -> dict[str, Any]:
    rate = load.facts["bytes_moved"] / load.seconds
    return {
        "run": name,
        "seconds": load.seconds,
        "rate": rate,
        "cpu_s": load.cpu_s,
        "peak_bytes": load.peak_bytes,
        **load.facts,
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = ("run", "seconds", "rate", "moved", "new", "stored", "CPU s", "memory")
    table = grid(*names, right=names[1:], whole=("run",))
    for row in rows:
        table.add_row(
            row["run"],
            f"{row['seconds']:.2f}",
            format_rate(row["rate"]),
            format_size(row["bytes_moved"]),
            *(format_size(row[key]) if key in row else "" for key in ("bytes_new", "bytes_stored")),
            f"{row['cpu_s']:.2f}",
            format_size(row["peak_bytes"]),
        )
    return table


def _shown(settings: Settings) -> dict[str, Any]:
    data, repository = settings.data, settings.repository
    return {
        "cores": os.cpu_count(),
        "block_size": data.block_size,
        "level": data.level,
        "budget": data.budget,
        "audit_blocks": data.audit_blocks,
        "pack_size": repository.pack_size,
        "encrypted": True,
        "paranoid": repository.paranoid,
    }


def _words(settings: Settings) -> str:
    data = settings.data
    return (
        f"{os.cpu_count()} cores; blocks of {format_size(data.block_size)}, zstd level {data.level}, encrypted, "
        f"durable; {data.audit_blocks} blocks a class compared. moved: read from the disk, or written to it."
    )
