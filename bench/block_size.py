"""What the size of blocks costs and saves: days of a file server and of databases, at each size.

The same disk, day by day, into one repository a size: a full backup, an incremental a day
from the exact list of what was written, a restore of the last day. Audit samples are off: they read a
constant number of blocks a disk and run, which on a disk this small would hide everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.driver import Ours
from bench.kit import Bench, Folder, Out, Quick, bench, settings_of, work_folder
from bench.measure import Run, folder_bytes
from bench.patterns import Content, Database, FileServer, Pattern, files_content, pages_content
from bench.sample_disk import attached, empty_target, evict
from mover.errors import Damaged
from mover.units import KIB, MIB

SIZES = (256 * KIB, 512 * KIB, MIB, 4 * MIB)
Maker = Callable[[int], tuple[Pattern, bytes]]
PATTERNS: dict[str, Maker] = {
    "file server, 2 %": lambda size: (FileServer(size, share=0.02, seed=1), files_content(1)),
    "database, 0.1 %": lambda size: (Database(size, share=0.001, seed=2), pages_content(2)),
    "database, 1 %": lambda size: (Database(size, share=0.01, seed=3), pages_content(3)),
}
"""The share of the disk that a day writes (of a database: as pages)."""


@dataclass
class Side:
    """One block size, with a repository of its own."""

    block_bytes: int
    ours: Ours
    repository: Path
    last: str = ""
    points: int = 0

    def backup(self, what: str, disk: Path, **request: Any) -> tuple[Run, int]:
        """A new point; the run, and by how much the repository grew."""
        evict(self.repository, disk)
        before = folder_bytes(self.repository)
        self.points += 1
        self.last = f"{self.points:04}"
        with attached(disk, read_only=True) as device:
            done = self.ours.run(what, self.points, devices=[str(device)], point=self.last, **request)
        if done.more["mismatch"]:
            raise Damaged("The list of what was written did not hold", remedy="Report this: the bench is wrong.")
        return done, folder_bytes(self.repository) - before


def measure(run: Bench, name: str, folder: Path, *, size_bytes: int, days: int, repeats: int) -> None:
    """One pattern at all sizes; each day is backed up at each size before the next one is written."""
    (pattern, pool), disk = PATTERNS[name](size_bytes), folder / "disk.raw"
    content = Content(pool, seed=9)
    with disk.open("wb") as file:
        file.truncate(size_bytes)
    content.write(disk, pattern.fill())
    sides = [_side(folder, size) for size in SIZES]
    for _ in range(repeats):
        for side in sides:
            side.ours.prepare()
            _add(run, "full", name, side, *side.backup("full", disk))
    # What a run costs that finds nothing: it is part of each of the days.
    for side in sides:
        base = side.last
        _add(run, "nothing", name, side, *side.backup("incremental", disk, base=base, regions=[]))
    for day in range(1, days + 1):
        runs = pattern.day()
        content.write(disk, runs)
        written = sum(length for _, length in runs)
        run.say(f"{name}: day {day}, {written >> 10} KiB in {len(runs)} runs")
        run.add("block_size.day.written", written, "bytes", "neither", pattern=name)
        run.add("block_size.day.runs", len(runs), "count", "neither", pattern=name)
        for side in sides:
            base = side.last
            _add(run, "day", name, side, *side.backup("incremental", disk, base=base, regions=runs))
    for _ in range(repeats):
        for side in sides:
            _restore(run, name, side, disk, folder, size_bytes)
    for side in sides:
        index = folder_bytes(side.repository / "index")
        run.add("block_size.index", index, "bytes", "lower", pattern=name, block_bytes=side.block_bytes)


def _side(folder: Path, block_bytes: int) -> Side:
    repository = folder / f"repository-{block_bytes}"
    data = {"block_size": block_bytes, "audit_blocks": 0}
    return Side(block_bytes, Ours(repository, folder / f"cache-{block_bytes}", data), repository)


def _add(run: Bench, what: str, pattern: str, side: Side, done: Run, grown: int) -> None:
    params: dict[str, str | int] = {"pattern": pattern, "block_bytes": side.block_bytes}
    name = f"block_size.{what}"
    run.add(f"{name}.read", done.more["bytes_read"], "bytes", "lower", **params)
    run.add(f"{name}.stored", grown, "bytes", "lower", **params)
    # Map nodes, tables of packs, index, manifest: what is not a sealed block.
    run.add(f"{name}.beside", grown - done.more["bytes_stored"], "bytes", "lower", **params)
    run.add(f"{name}.cpu", done.cpu_s, "s", "lower", **params)
    run.add(f"{name}.wall", done.wall_s, "s", "lower", **params)


def _restore(run: Bench, pattern: str, side: Side, disk: Path, folder: Path, size_bytes: int) -> None:
    evict(side.repository)
    with empty_target(folder, size_bytes) as target:
        done = side.ours.run("restore", 1, devices=[str(target)], point=side.last)
        evict(disk)
        if not _equal(target, disk):
            raise Damaged("The restored disk differs from the source", remedy="Report this with the command.")
    params: dict[str, str | int] = {"pattern": pattern, "block_bytes": side.block_bytes}
    run.add("block_size.restore.cpu", done.cpu_s, "s", "lower", **params)
    run.add("block_size.restore.wall", done.wall_s, "s", "lower", **params)


def _equal(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            ours, theirs = left.read(4 * MIB), right.read(4 * MIB)
            if ours != theirs:
                return False
            if not ours:
                return True


def _chosen(only: Sequence[str]) -> list[str]:
    return [name for name in PATTERNS if not only or any(word in name for word in only)]


def main(
    folder: Folder = None,
    size: Annotated[int, typer.Option(min=64, max=4096, help="MiB of the disk.")] = 2048,
    days: Annotated[int, typer.Option(min=1)] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Fulls, and restores of the last day, at each size.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Patterns whose name has this word.")] = None,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Back up the days of a file server and of databases at 256 KiB to 4 MiB."""
    size_bytes, days, repeats = (64 * MIB, 1, 1) if quick else (size * MIB, days, repeats)
    said = settings_of(size_bytes=size_bytes, days=days, repeats=repeats)
    with bench("block_size", out, quick=quick, **said) as run:
        for name in _chosen(only or []):
            # The disk, a restored one, and three repositories with what it holds once and its days.
            with work_folder(folder, 6 * size_bytes) as work:
                measure(run, name, work, size_bytes=size_bytes, days=days, repeats=repeats)


if __name__ == "__main__":
    typer.run(main)
