"""Disks that answer late: how much of disks x depth / latency the pipeline keeps.

Each read sleeps 2 ms per MiB, outside the interpreter lock, and gives no data; blocks count as
known. Beside it the same threads with nothing but the reads: what this machine's timers allow.
"""

from __future__ import annotations

import asyncio
import threading
from time import sleep
from typing import Annotated

import typer

from bench import known
from bench.kit import Out, Quick, Samples, bench, settings_of
from mover.clock import stopwatch
from mover.config import DataSettings
from mover.units import MIB


class LateDisk:
    """A device without data whose every read takes its time."""

    sector_bytes = 4096

    def __init__(self, name: str, size_bytes: int, *, s_per_mib: float) -> None:
        self.name, self.size_bytes = name, size_bytes
        self._s_per_byte = s_per_mib / MIB

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:  # noqa: ARG002 - as devices have it
        sleep(len(buffer) * self._s_per_byte)

    def close(self) -> None:
        pass


def bare(disks: list[LateDisk], *, depth: int, read_bytes: int) -> float:
    """Bytes a second that as many threads reach which only read."""
    buffer = memoryview(bytearray(read_bytes))

    def read(disk: LateDisk) -> None:
        for offset in range(0, disk.size_bytes // depth, read_bytes):
            disk.read_into(buffer, offset)

    threads = [threading.Thread(target=read, args=(disk,)) for disk in disks for _ in range(depth)]
    started = stopwatch()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(disk.size_bytes for disk in disks) / (stopwatch() - started)


def main(
    disks: Annotated[int, typer.Option(min=1)] = 8,
    depth: Annotated[int, typer.Option(min=1, help="Reads in flight per disk (data.readers).")] = 4,
    late_ms: Annotated[float, typer.Option(min=0.1, help="Per MiB.")] = 2.0,
    budget: Annotated[int, typer.Option(min=64, help="MiB of data.budget.")] = 128,
    seconds: Annotated[float, typer.Option(min=0.01, help="That a round ought to take.")] = 4.0,
    hashed: Annotated[bool, typer.Option(help="Hash every block: bound by the cores at some depth.")] = False,
    samples: Samples = 3,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Interleaved rounds of bare threads and of the pipeline."""
    seconds, samples = (0.05, 1) if quick else (seconds, samples)
    allowed = depth * MIB / (late_ms / 1000)
    size_bytes = max(1, int(seconds * allowed) // (MIB * depth)) * MIB * depth
    late = [LateDisk(f"late-{n}", size_bytes, s_per_mib=late_ms / 1000) for n in range(disks)]
    data = DataSettings(readers=depth, budget=budget * MIB)
    given = settings_of(disks=disks, depth=depth, late_ms=late_ms, budget_mib=budget, hashed=hashed)
    with bench("latency", out, quick=quick, **given) as run:
        for _ in range(samples):
            reached = bare(late, depth=depth, read_bytes=MIB)
            run.add("latency.kept", reached / disks / allowed, "share", "neither", by="bare threads", depth=depth)
            spent = asyncio.run(known.copy(late, None, data, hashed=hashed))
            share = spent.size_bytes / spent.wall_s / disks / allowed
            run.add("latency.kept", share, "share", "higher", by="mover", depth=depth).target = 0.9
            run.add("latency.cpu", spent.cpu_s / spent.blocks * 1e6, "us", "lower", depth=depth)


if __name__ == "__main__":
    typer.run(main)
