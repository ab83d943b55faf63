"""CPU seconds of ours per GiB that goes to S3 instead of a folder, and memory by number of uploads.

A full backup of a disk of random bytes, so that all of it is uploaded and little is compressed,
to a folder and to SeaweedFS on this machine, in turns. The server's CPU is counted apart.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from bench.driver import Ours
from bench.measure import MIB, Run, median
from bench.sample_disk import attached, reflink_folder
from tests.support.servers import BUCKET, seaweed_in

GIB = 1 << 30


def random_disk(path: Path, size_bytes: int) -> Path:
    """A file of random bytes, made once."""
    if not path.exists() or path.stat().st_size != size_bytes:
        dice = Random(1)
        with path.open("wb") as file:
            for _ in range(size_bytes // MIB):
                file.write(dice.randbytes(MIB))
            os.fsync(file.fileno())
    return path


def process_cpu_s(pid: int) -> float:
    """User and system seconds of a living process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def full(ours: Ours, device: Path, name: str, round_: int, uploads: int) -> Run:
    ours.prepare()
    return ours.run(name, round_, devices=[str(device)], point="0001", uploads=uploads)


def main(
    folder: Annotated[Path, typer.Option(help="Where disk and repositories go; about 8 times the size.")] = Path(
        "bench-data"
    ),
    size: Annotated[float, typer.Option(help="GiB of the disk.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    uploads: Annotated[str, typer.Option(help="Numbers of repository.uploads to try.")] = "2",
    data: Annotated[str, typer.Option(help="MiB of data.budget.")] = "128",
) -> None:
    """Interleaved rounds; prints CPU seconds a GiB, the difference, and the peak of memory."""
    settings = {"budget": int(data) * MIB}
    with reflink_folder(folder.resolve(), size_bytes=40 * GIB) as place:
        disk = random_disk(place / "random.raw", int(size * GIB))
        with attached(disk, read_only=True) as device:
            for number in (int(text) for text in uploads.split(",")):
                differences = []
                for round_ in range(1, rounds + 1):
                    here = Ours(place / "cost-folder", place / "cost-cache", settings)
                    local = full(here, device, "folder", round_, number)
                    far, server_s = _on_seaweed(place, device, settings, round_, number)
                    differences.append((far.cpu_s - local.cpu_s) / size)
                    typer.echo(
                        f"round {round_}  {number:2} uploads: "
                        f"CPU s/GiB folder {local.cpu_s / size:5.2f}, S3 {far.cpu_s / size:5.2f}, "
                        f"server {server_s / size:5.2f}; wall {local.wall_s:5.1f}, {far.wall_s:5.1f} s; "
                        f"peak {local.peak_mib:4.0f}, {far.peak_mib:4.0f} MiB"
                    )
                typer.echo(f"median    {number:2} uploads: S3 beyond the folder {median(differences):+5.2f} CPU s/GiB")


def _on_seaweed(place: Path, device: Path, data: dict[str, int], round_: int, uploads: int) -> tuple[Run, float]:
    server_folder = place / "cost-s3"
    server_folder.mkdir(exist_ok=True)
    with seaweed_in(server_folder) as server:
        there = Ours(f"s3://{BUCKET}/bench", place / "cost-s3-cache", data, server.options())
        before = process_cpu_s(server.pid)
        run = full(there, device, "S3 full", round_, uploads)
        return run, process_cpu_s(server.pid) - before


if __name__ == "__main__":
    typer.run(main)
