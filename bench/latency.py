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
from mover.clock import stopwatch
from mover.config import DataSettings

MIB = 1 << 20


class LateDisk:
    """A device without data whose every read takes its time."""

    sector_bytes = 4096

    def __init__(self, name: str, size_bytes: int, *, s_per_mib: float) -> None:
        self.name, self.size_bytes = name, size_bytes
        self._s_per_byte = s_per_mib / MIB

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
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
    depth: Annotated[int, typer.Option(help="Reads in flight per disk (data.readers).")] = 4,
    block: Annotated[int, typer.Option(help="KiB of a block.")] = 1024,
    late_ms: Annotated[float, typer.Option(help="Per MiB.")] = 2.0,
    budget: Annotated[int, typer.Option(help="MiB of data.budget.")] = 128,
    seconds: Annotated[float, typer.Option(help="That a round ought to take.")] = 4.0,
    hashed: Annotated[bool, typer.Option(help="Hash every block: bound by the cores at some depth.")] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Interleaved rounds of bare threads and of the pipeline."""
    data = DataSettings(block_size=block << 10, readers=depth, budget=budget * MIB)
    ideal = depth * MIB / (late_ms / 1000)
    size_bytes = int(seconds * ideal) // (MIB * depth) * MIB * depth
    all_disks = [LateDisk(f"late-{n}", size_bytes, s_per_mib=late_ms / 1000) for n in range(disks)]
    for round_ in range(1, rounds + 1):
        threads = bare(all_disks, depth=depth, read_bytes=block << 10)
        spent = asyncio.run(known.copy(all_disks, None, data, hashed=hashed))
        reached = spent.size_bytes / spent.wall_s
        typer.echo(
            f"round {round_}  {disks} disks, depth {depth}: allowed {disks * ideal / MIB:7.0f} MiB/s  "
            f"bare threads {threads / MIB:7.0f} ({threads / disks / ideal:4.0%})  "
            f"pipeline {reached / MIB:7.0f} ({reached / disks / ideal:4.0%})  "
            f"CPU us a block {spent.cpu_s / spent.blocks * 1e6:5.1f}"
        )


if __name__ == "__main__":
    typer.run(main)
