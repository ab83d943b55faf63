"""How fast this node reads a disk, by request size and depth: fio, our reader threads, our pipeline.

threads: as many plain threads as reads in flight, each with a buffer of its own. pipeline: a copy
whose blocks count as known, so that nothing is hashed, compressed or stored.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import content, fio, known
from bench.kit import Bench, Folder, Out, Quick, Samples, Spent, bench, settings_of, work_folder
from bench.results import Param
from mover.config import DataSettings
from mover.device.buffers import BufferPool
from mover.device.direct import DirectDevice
from mover.errors import UsageError
from mover.units import KIB, MIB, parse_size

SIZES = (256 * KIB, MIB, 4 * MIB)
DEPTHS = (1, 4, 16)
SECTORS = (512, 4096)


def measure(
    run: Bench,
    device: Path,
    label: str,
    *,
    sizes: tuple[int, ...],
    depths: tuple[int, ...],
    samples: int,
    read_bytes: int,
    is_random: bool = False,
) -> None:
    """One device. read_bytes: how much each measurement reads of it. The ways alternate within a sample."""
    has_fio = fio.version() is not None
    with opened(device) as disk:
        if not disk.is_direct:
            run.note(f"{device}: no direct I/O there, so these are reads of the page cache")
            has_fio = False
    order = "random" if is_random else "sequential"
    for size in sizes:
        for depth in depths:
            params: dict[str, Param] = {"device": label, "size_bytes": size, "depth": depth, "order": order}
            volume = read_bytes // (size * depth) * size * depth
            if not volume:
                run.note(f"{label} is too small for {depth} reads of {size} bytes")
                continue
            for _ in range(samples):
                if has_fio:
                    rate = fio.read_rate(device, read_bytes=volume, size_bytes=size, depth=depth, is_random=is_random)
                    run.add("device.read.rate", rate, "B/s", "higher", **params, by="fio")
                _add_ours(
                    run,
                    by_threads(device, volume, size, depth, is_random=is_random),
                    volume,
                    size,
                    {**params, "by": "threads"},
                )
                if not is_random:
                    _add_ours(run, by_pipeline(device, volume, size, depth), volume, size, {**params, "by": "pipeline"})


def _add_ours(run: Bench, spent: Spent, volume: int, size: int, params: dict[str, Param]) -> None:
    run.add("device.read.rate", spent.rate(volume), "B/s", "higher", **params)
    run.add("device.read.cpu", spent.cpu_s / (volume / size) * 1e6, "us", "lower", **params)


def by_threads(device: Path, volume: int, size: int, depth: int, *, is_random: bool) -> Spent:
    """``depth`` threads read one after the other of the device's ranges."""
    offsets = list(range(0, volume, size))
    if is_random:
        random.Random(1).shuffle(offsets)
    todo = iter(offsets)
    taking, stopped = threading.Lock(), threading.Event()
    failures: list[BaseException] = []

    def work(disk: DirectDevice, pool: BufferPool) -> None:
        buffer = pool.lease()
        assert buffer is not None
        try:
            while not stopped.is_set():
                with taking:
                    offset = next(todo, None)
                if offset is None:
                    return
                disk.read_into(buffer.view, offset)
        except BaseException as error:  # noqa: BLE001, RUF100 - carried to the caller, who raises it
            failures.append(error)
            stopped.set()
        finally:
            buffer.give_back()

    with opened(device) as disk, BufferPool(size, depth) as pool:
        threads = [threading.Thread(target=work, args=(disk, pool)) for _ in range(depth)]
        with Spent() as spent:
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                stopped.set()
                for thread in threads:
                    thread.join()
    if failures:
        raise failures[0]
    return spent


def by_pipeline(device: Path, volume: int, size: int, depth: int) -> Spent:
    """The product's own way: plan, windows, readers, compute threads, map."""
    data = DataSettings(block_size=size, read_size=size, readers=depth, budget=max(128 * MIB, 4 * size * (depth + 8)))
    spent = Spent()
    with opened(device) as disk:
        shown = _Part(disk, volume)
        found = asyncio.run(known.copy([shown], None, data, hashed=False))
    spent.wall_s, spent.cpu_s = found.wall_s, found.cpu_s
    return spent


class _Part:
    """The beginning of a device."""

    def __init__(self, disk: DirectDevice, size_bytes: int) -> None:
        self.name, self.size_bytes, self.sector_bytes = disk.name, size_bytes, disk.sector_bytes
        self.read_into, self.close = disk.read_into, disk.close


@contextmanager
def opened(device: Path) -> Iterator[DirectDevice]:
    """For reading. Raises UsageError in words."""
    try:
        disk = DirectDevice.open_source(device)
    except OSError as error:
        raise UsageError(
            f"{device} cannot be read: {error.strerror}",
            remedy="Name a disk or a file that you may read and that nobody has mounted.",
        ) from None
    with disk:
        yield disk


def make_file(path: Path, size_bytes: int) -> None:
    """Durable, without holes, not zero."""
    block = content.blocks(MIB, 8)
    with path.open("wb") as file:
        for number in range(-(-size_bytes // MIB)):
            file.write(block[number % len(block)])
    with path.open("rb+") as file:
        file.truncate(size_bytes)
    subprocess.run(["sync", str(path)], check=True)


@contextmanager
def loop_of(path: Path, sector_bytes: int) -> Iterator[Path | None]:
    """A read-only loop device with direct I/O and these sectors; None where there is none to be had."""
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        yield None
        return
    command = ["losetup", "--find", "--show", "--read-only", "--direct-io=on", f"--sector-size={sector_bytes}"]
    done = subprocess.run([*command, str(path)], check=False, capture_output=True, text=True)
    device = Path(done.stdout.strip())
    if done.returncode:
        yield None
        return
    try:
        is_direct = Path(f"/sys/block/{device.name}/loop/dio").read_text().strip() == "1"
        yield device if is_direct else None
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def main(
    device: Annotated[Path | None, typer.Option(help="A disk or file to read; nothing is written to it.")] = None,
    folder: Folder = None,
    size: Annotated[str, typer.Option(help="How much is read each time; also the size of the file made.")] = "1GiB",
    is_random: Annotated[bool, typer.Option("--random", help="In random order.")] = False,
    samples: Samples = 5,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Read a disk, or a file made for it: by fio, by threads, by the pipeline."""
    samples = 2 if quick else samples
    settings = settings_of(device=device, folder=folder, size=size, samples=samples, order_random=is_random)
    with bench("device", out, quick=quick, **settings) as run:
        if quick:
            run.results.settings["size"] = size = min(size, "4MiB", key=parse_size)
        volume = parse_size(size)
        sizes, depths = ((256 * KIB,), (1, 4)) if quick else (SIZES, DEPTHS)
        what: dict[str, Any] = {
            "sizes": sizes,
            "depths": depths,
            "samples": samples,
            "is_random": is_random,
        }
        run.results.versions["fio"] = fio.version() or "none"
        if fio.version() is None:
            run.note("fio is not installed: ours stands alone (apt-get or dnf install fio)")
        if device is not None:
            with opened(device) as disk:
                volume = min(volume, disk.size_bytes)
            measure(run, device, str(device), read_bytes=volume, **what)
            return
        with work_folder(folder, volume) as place:
            path = place / "disk.raw"
            make_file(path, volume)
            measure(run, path, "file", read_bytes=volume, **what)
            _loops(run, path, volume, what)


def _loops(run: Bench, path: Path, volume: int, what: dict[str, Any]) -> None:
    for sector in SECTORS:
        with loop_of(path, sector) as device:
            if device is None:
                run.note(f"no loop device with sectors of {sector} bytes and direct I/O here (it takes root)")
                continue
            measure(run, device, f"loop, sectors of {sector}", read_bytes=volume, **what)


if __name__ == "__main__":
    typer.run(main)
