"""``bench``: what this machine and folder give, with the settings as they are.

One process, as the daemon: repository, pipeline and device, encrypted and durable, from the
start of a copy to its commit. Prism has no part in it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from mover.app import nodes, stores
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.cli.sample import Sample
from mover.cli.tables import grid
from mover.cli.trial import Load, Trial, measured
from mover.clock import Clock, SystemClock, secret_bytes
from mover.config import Settings
from mover.device.files import open_file_source
from mover.errors import SpaceShort, UsageError
from mover.model.point import RestorePoint
from mover.model.region import RegionKind, Regions
from mover.operations.node import ReadingNode
from mover.repository.repository import Repository
from mover.units import MIB, format_rate, format_size, parse_size

_LEAST_BYTES = 64 * MIB
_ROOM = 2.0
"""Room wanted, in sizes of the sample: itself, what is stored of it, and the restored copy."""


async def bench(session: Session, folder: Path | None, size: str) -> None:
    """Make a sample, measure four runs over it, print them; everything made is removed."""
    answer = await measure(session, folder, size)
    session.console.answer(answer, _table(answer["runs"]), Text(_words(session.settings), "dim"))


async def measure(session: Session, folder: Path | None, size: str) -> dict[str, Any]:
    """The four runs and under which circumstances. Raises UsageError, SpaceShort."""
    size_bytes = sample_size(size)
    place = checked(folder or Path(tempfile.gettempdir()), int(size_bytes * _ROOM))
    console = session.console
    with tempfile.TemporaryDirectory(prefix="mover-bench-", dir=place) as name:
        console.remark(f"A sample disk of {format_size(size_bytes)} is made in {name} …")
        work, clock = Path(name), SystemClock()
        settings = own_settings(session.settings, work)
        sample = make_sample(work, size_bytes)
        await init(settings, clock)
        with watching(console.err, quiet=console.as_json) as progress:
            async with nodes.reading_node(settings, progress=progress, clock=clock) as node:
                rows = await _Bench(node, sample, work).run()
    return {"size_bytes": size_bytes, "folder": str(place), "settings": _shown(settings), "runs": rows}


def sample_size(size: str) -> int:
    """Whole mebibytes. Raises UsageError where they are too few."""
    size_bytes = parse_size(size) // MIB * MIB
    if size_bytes < _LEAST_BYTES:
        raise UsageError(
            f"A sample of {format_size(size_bytes)} says nothing",
            remedy=f"Use --size {format_size(_LEAST_BYTES)} or more.",
        )
    return size_bytes


def checked(folder: Path, wanted_bytes: int) -> Path:
    """The folder, made if absent, with that much room. Raises UsageError, SpaceShort."""
    try:
        new = list(itertools.takewhile(lambda path: not path.exists(), (folder, *folder.absolute().parents)))
        folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}", remedy="Name another --folder.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written", remedy="Name another --folder.")
    if free_bytes < wanted_bytes:
        for path in new:
            path.rmdir()
        raise SpaceShort(
            f"{folder} has {format_size(free_bytes)} free; this needs {format_size(wanted_bytes)}",
            remedy="Name another --folder, or a smaller --size.",
        )
    return folder


def make_sample(work: Path, size_bytes: int) -> Sample:
    """In the folder. Raises SpaceShort where it filled up meanwhile."""
    try:
        return Sample(work / "sample.raw", size_bytes=size_bytes)
    except OSError as error:
        raise SpaceShort(
            f"The sample disk could not be written to {work.parent}: {error.strerror}",
            remedy="Name another --folder, or a smaller --size.",
        ) from None


def own_settings(settings: Settings, work: Path) -> Settings:
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


async def init(settings: Settings, clock: Clock) -> None:
    """Make the repository of those settings."""
    async with stores.store(settings, clock, create=True) as store:
        await Repository.init(store, passphrase=settings.repository.passphrase.get_secret_value(), clock=clock)


class _Bench:
    """Four runs, in the order in which they build on each other."""

    def __init__(self, node: ReadingNode, sample: Sample, work: Path) -> None:
        self._node = node
        self._sample = sample
        self._work = work
        self._trial = Trial(node)

    async def run(self) -> list[dict[str, Any]]:
        loads = {}
        sample, clock = self._sample, self._node.clock
        async with measured(clock) as loads["full"]:
            _, loads["full"].facts = await self._back_up(sample.allocated, None)
        async with measured(clock) as loads["full again"]:
            point, loads["full again"].facts = await self._back_up(sample.allocated, None)
        changed = await self._node.workers.blocking(sample.change)
        async with measured(clock) as loads["incremental"]:
            point, loads["incremental"].facts = await self._back_up(changed, point)
        loads["incremental"].facts["bytes_changed"] = changed.bytes_of(RegionKind.DATA)
        async with measured(clock) as loads["restore"]:
            loads["restore"].facts = await self._trial.restore(point, self._work / "restored.raw")
        return [_row(name, load) for name, load in loads.items()]

    async def _back_up(self, regions: Regions, base: RestorePoint | None) -> tuple[RestorePoint, dict[str, Any]]:
        with open_file_source(self._sample.path) as device:
            return await self._trial.back_up(device, regions, base)


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
        "block_size": data.first_block_bytes,
        "level": data.level,
        "budget": data.budget,
        "audit_blocks": data.audit_blocks,
        "compare_within": data.compare_within,
        "pack_size": repository.pack_size,
        "encrypted": True,
        "paranoid": repository.paranoid,
    }


def _words(settings: Settings) -> str:
    data = settings.data
    return (
        f"{os.cpu_count()} cores; blocks of {format_size(data.first_block_bytes)}, zstd level {data.level}, encrypted, "
        f"durable; {data.audit_blocks} blocks a class compared. moved: read from the disk, or written to it."
    )
