"""Small scattered regions: what each costs, beside fio reading as much at random.

A region of 64 KiB costs one block, since a block that a region touches is read whole. The
disk is one random file, reflinked as often as the regions need room, behind a loop device with
direct I/O. Blocks count as known: neither compression nor packs are part of it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from struct import pack
from typing import Annotated

import numpy as np
import typer

from bench import fio as tool
from bench import known
from bench.kit import Bench, Folder, Out, Quick, Samples, bench, said_in_words, settings_of, work_folder
from bench.known import Spent
from bench.sample_disk import attached, reflink_folder
from mover.config import DataSettings
from mover.device.direct import DirectDevice
from mover.errors import UsageError
from mover.model.region import RegionKind, Regions
from mover.units import GIB, KIB, MIB, align_up

REGION_BYTES = 64 * KIB
_FICLONERANGE = 0x4020940D
_STRIDE_BLOCKS = 2
"""A region in every second block: no two are neighbours, so each is a read of its own."""


def fio(device: Path, *, block_bytes: int, reads: int, depth: int) -> Spent:
    """The same number of reads of the same size, at random, by libaio."""
    options = [f"--filename={device}", "--readonly", f"--bs={block_bytes}", f"--iodepth={depth}"]
    options += [f"--number_ios={reads}", "--norandommap"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = tool.jobs(["--rw=randread", *options])[0]["read"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(
        wall_s=done["runtime"] / 1000,
        user_s=after.ru_utime - used.ru_utime,
        system_s=after.ru_stime - used.ru_stime,
        blocks=done["total_ios"],
        size_bytes=done["io_bytes"],
    )


def scattered(count: int, block_bytes: int, size_bytes: int) -> Regions:
    """A region at a random place within every second block."""
    dice = np.random.default_rng(1)
    blocks = np.arange(count, dtype=np.int64) * _STRIDE_BLOCKS
    within = dice.integers(0, (block_bytes - REGION_BYTES) // 4096 + 1, count) * 4096
    kinds = np.full(count, RegionKind.DATA, np.int64)
    rows = np.stack([blocks * block_bytes + within, np.full(count, REGION_BYTES), kinds], axis=1)
    return Regions.from_rows(rows, size_bytes=size_bytes)


@contextmanager
def disk(folder: Path, *, size_bytes: int, unique_bytes: int) -> Iterator[Path]:
    """A device of that size whose data are ``unique_bytes`` of random ones, over and over."""
    seed, image = folder / "seed.raw", folder / "scattered.raw"
    dice = Random(1)
    with seed.open("wb") as file:
        for _ in range(unique_bytes // MIB):
            file.write(dice.randbytes(MIB))
        os.fsync(file.fileno())
    try:
        with seed.open("rb") as source, image.open("wb") as target:
            for start in range(0, size_bytes, unique_bytes):
                length = min(unique_bytes, size_bytes - start)
                fcntl.ioctl(target.fileno(), _FICLONERANGE, pack("qQQQ", source.fileno(), 0, length, start))
    except OSError as error:
        raise UsageError(
            f"{folder} has no reflinks: {error.strerror}", remedy="Run as root, or name a --folder on XFS or Btrfs."
        ) from None
    with attached(image, read_only=True) as device:
        yield device


def main(
    folder: Folder = None,
    regions: Annotated[int, typer.Option(min=1)] = 100_000,
    block: Annotated[int, typer.Option(min=256, help="KiB of a block, and of each read.")] = 256,
    depth: Annotated[int, typer.Option(min=1, help="Reads in flight.")] = 4,
    samples: Samples = 3,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Interleaved rounds of fio, of our read path alone, and of it with the hash."""
    with said_in_words():
        if tool.version() is None:
            raise UsageError("fio is not installed", remedy="Install it: apt-get install fio, dnf install fio.")
    regions, samples, unique_bytes = (200, 1, 64 * MIB) if quick else (regions, samples, 4 * GIB)
    block_bytes = block * KIB
    size_bytes = align_up(regions * _STRIDE_BLOCKS * block_bytes, unique_bytes)
    data = DataSettings(block_size=block_bytes, readers=depth)
    where = scattered(regions, block_bytes, size_bytes)
    with (
        bench("extents", out, quick=quick, **settings_of(regions=regions, block_kib=block, depth=depth)) as run,
        work_folder(folder, unique_bytes + 512 * MIB) as work,
        reflink_folder(work, size_bytes=unique_bytes + 2 * GIB) as place,
        disk(place, size_bytes=size_bytes, unique_bytes=unique_bytes) as device,
        DirectDevice.open_source(device) as source,
    ):
        for _ in range(samples):
            peer = fio(device, block_bytes=block_bytes, reads=regions, depth=depth)
            _add(run, "fio", peer, peer)
            for name, hashed in (("read path", False), ("read and hash", True)):
                _add(run, name, asyncio.run(known.copy([source], where, data, hashed=hashed)), peer)


def _add(run: Bench, by: str, spent: Spent, peer: Spent) -> None:
    share = (spent.blocks / spent.wall_s) / (peer.blocks / peer.wall_s)
    each = 1e6 / spent.blocks
    better = "neither" if by == "fio" else "higher"
    run.add("extents.of_fio", share, "share", better, by=by).target = None if by == "fio" else 0.6
    cpu = run.add("extents.cpu", spent.cpu_s * each, "us", "lower", by=by)
    cpu.target = 60.0 if by == "read path" else None
    run.add("extents.cpu_system", spent.system_s * each, "us", "neither", by=by)
    run.add("extents.wall", spent.wall_s * each, "us", "lower", by=by)


if __name__ == "__main__":
    typer.run(main)
