"""This machine's limits, before any backup: memory, hash, zstd, AES, reading and writing a disk.

The libraries alone, on as many threads as named, over seeded blocks of 1 MiB from memory; the disk
as ``device`` and ``store`` measure it, with less of each. At the end: what a full backup can reach.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from zstandard import ZstdCompressor, ZstdDecompressor

from bench import content, device, fio, store
from bench.kit import Bench, Folder, Out, Quick, Samples, bench, settings_of, thread_counts, work_folder
from bench.seal import Work, bare, spread
from mover.repository.zero import is_zero
from mover.units import KIB, MIB, format_rate, parse_size

LEVELS = (1, 3, 6, -1, -5)
SIZES, DEPTHS = (256 * KIB, MIB, 4 * MIB), (1, 4, 16)
Make = Callable[[], Work]


def copying(size: int) -> Make:
    def make() -> Work:
        target = np.empty(size, np.uint8)
        return lambda block: np.copyto(target, np.frombuffer(block, np.uint8))

    return make


def compressing(level: int) -> Make:
    def make() -> Work:
        return ZstdCompressor(level=level).compress

    return make


def unpacking(level: int, blocks: Sequence[memoryview]) -> Make:
    compressor = ZstdCompressor(level=level)
    packed = {id(block): compressor.compress(block) for block in blocks}

    def make() -> Work:
        opener = ZstdDecompressor()
        return lambda block: opener.decompress(packed[id(block)])

    return make


def encrypting() -> Work:
    cipher = AESGCM(bytes(32))
    return lambda block: cipher.encrypt(bytes(12), block, None)


def hashing() -> Work:
    return lambda block: blake3(block, key=bytes(32)).digest()


def works(blocks: Sequence[memoryview], levels: Sequence[int]) -> Iterator[tuple[str, dict[str, int], Make]]:
    """(name, its circumstances, what a thread does to a block)."""
    yield "memory.copy", {}, copying(len(blocks[0]))
    yield "zero_test", {}, lambda: is_zero
    yield "hash", {}, lambda: hashing()
    yield "aes_gcm", {}, lambda: encrypting()
    for level in levels:
        yield "zstd", {"level": level}, compressing(level)
    yield "unzstd", {"level": 1}, unpacking(1, blocks)
    yield "hash_zstd_aes", {"level": 1}, lambda: bare(1)


def compute(run: Bench, *, counts: Sequence[int], levels: Sequence[int], samples: int, blocks: int, size: int) -> None:
    """Bytes a second of each library, by threads. A zero test of blocks that are zero, else it ends at once."""
    full = content.blocks(size, blocks)
    zeroes = [memoryview(bytes(size))] * blocks
    for level in levels:
        packed = len(ZstdCompressor(level=level).compress(b"".join(full[: min(blocks, 8)])))
        run.add("zstd.ratio", min(blocks, 8) * size / packed, "ratio", "neither", level=level)
    for _ in range(samples):
        for name, params, make in works(full, levels):
            for count in counts:
                given = zeroes if name == "zero_test" else full
                with ThreadPoolExecutor(count) as threads:
                    spent = spread(threads, count, make, given)
                run.add(f"{name}.rate", spent.rate(blocks * size), "B/s", "higher", **params, threads=count)
                run.add(f"{name}.cpu", spent.cpu_s_per_gib(blocks * size), "s/GiB", "lower", **params, threads=count)


def disk(run: Bench, path: Path | None, folder: Path | None, *, volume: int, samples: int, quick: bool) -> None:
    """Reads of the device, or of a file in the folder; puts and gets of a store in the folder."""
    sizes, depths = (SIZES[:2], DEPTHS[:2]) if quick else (SIZES, DEPTHS)
    with work_folder(folder, volume + store.Load().volume_bytes * 2) as place:
        source = path or place / "disk.raw"
        if path is None:
            device.make_file(source, volume)
        else:
            with device.opened(path) as opened:
                volume = min(volume, opened.size_bytes)
        label = str(path) if path else "file"
        device.measure(run, source, label, sizes=sizes, depths=depths, samples=samples, read_bytes=volume)
        load = store.QUICK if quick else store.Load(at_once=(2,), range_depths=(8,))
        target = place / "store"
        asyncio.run(store.measure(run, str(target), {}, label="folder", load=load, samples=samples, folder=target))


def sketch(run: Bench, cores: int) -> Iterator[str]:
    """What follows for a full backup of a disk without zeroes, at level 1: the smallest of the limits."""
    rates = {
        "reading the disk": _best(run, "device.read.rate"),
        "hash, zstd 1 and AES on all cores": _median(run, "hash_zstd_aes.rate", threads=cores, level=1),
    }
    ratio = _median(run, "zstd.ratio", level=1)
    rates["writing what is left of it"] = _best(run, "store.put.rate") * ratio
    slowest = min(rates, key=lambda name: rates[name])
    for name, rate in rates.items():
        yield f"{name}: {format_rate(rate)} of disk"
    yield f"so a full backup here cannot go beyond {format_rate(rates[slowest])}: {slowest} bounds it"


def _median(run: Bench, name: str, **params: int) -> float:
    found = next(s for s in run.results.series if s.name == name and params.items() <= s.params.items())
    return statistics.median(found.samples)


def _best(run: Bench, name: str) -> float:
    return max(statistics.median(s.samples) for s in run.results.series if s.name == name)


def main(
    device_path: Annotated[Path | None, typer.Option("--device", help="A disk to read; never written.")] = None,
    folder: Folder = None,
    size: Annotated[str, typer.Option(help="How much of the disk is read each time.")] = "1GiB",
    samples: Samples = 3,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Measure this machine's limits and say what follows."""
    size, samples = ("1MiB", 1) if quick else (size, samples)
    settings = settings_of(device=device_path, folder=folder, size=size, samples=samples)
    with bench("sketch", out, quick=quick, **settings) as run:
        run.results.versions["fio"] = fio.version() or "none"
        cores = len(os.sched_getaffinity(0))
        how = {"blocks": 4, "size": 64 * KIB} if quick else {"blocks": 64, "size": MIB}
        levels = LEVELS[:2] if quick else LEVELS
        run.say("memory, hash, zstd, AES")
        compute(run, counts=thread_counts(cores), levels=levels, samples=samples, **how)
        run.say("disk and store")
        disk(run, device_path, folder, volume=parse_size(size), samples=samples, quick=quick)
        for line in sketch(run, cores):
            run.note(line)


if __name__ == "__main__":
    typer.run(main)
