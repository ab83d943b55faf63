"""CPU seconds of ours per GiB that goes to S3 instead of a folder, and memory by number of uploads.

A full backup of a disk of random bytes, so that all of it is uploaded and little is compressed,
to a folder and to SeaweedFS on this machine, in turns. The server's CPU is counted apart.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.driver import Ours
from bench.kit import Bench, Folder, Out, Quick, Samples, bench, settings_of, work_folder
from bench.measure import Run
from mover.device.container import BASE_BYTES
from mover.units import GIB, MIB
from tests.support.servers import BUCKET, seaweed_in


def random_disk(path: Path, size_bytes: int) -> Path:
    """A file of random bytes."""
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())
    return path


def process_cpu_s(pid: int) -> float:
    """User and system seconds of a living process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(
    folder: Folder = None,
    size: Annotated[int, typer.Option(min=1, help="MiB of the disk.")] = 2048,
    uploads: Annotated[str, typer.Option(help="Numbers of repository.uploads to try.")] = "1,2,16",
    budget: Annotated[int, typer.Option(min=64, help="MiB of data.budget.")] = 128,
    samples: Samples = 3,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Interleaved rounds: CPU seconds a GiB, ours and the server's, and the peak of our memory."""
    size, uploads, samples = (64, "2", 1) if quick else (size, uploads, samples)
    given = settings_of(size_mib=size, uploads=uploads, budget_mib=budget)
    with (
        bench("object_cost", out, quick=quick, **given) as run,
        work_folder(folder, 3 * size * MIB) as work,
    ):
        disk = random_disk(work / "random.raw", size * MIB)
        for _ in range(samples):
            for number in (int(text) for text in uploads.split(",")):
                _round(run, work, disk, {"budget": budget * MIB}, number)


def _round(run: Bench, work: Path, disk: Path, data: dict[str, int], uploads: int) -> None:
    gib = disk.stat().st_size / GIB
    local = _full(Ours(work / "folder", work / "folder-cache", data), disk, "full", uploads)
    far, server_s = _on_seaweed(work, disk, data, uploads)
    run.add("object_cost.folder.cpu", local.cpu_s / gib, "s/GiB", "lower", uploads=uploads)
    run.add("object_cost.s3.cpu", far.cpu_s / gib, "s/GiB", "lower", uploads=uploads)
    beyond = run.add("object_cost.beyond", (far.cpu_s - local.cpu_s) / gib, "s/GiB", "lower", uploads=uploads)
    beyond.target = 0.75
    run.add("object_cost.server.cpu", server_s / gib, "s/GiB", "neither", uploads=uploads)
    peak = run.add("object_cost.s3.peak", far.peak_mib * MIB, "bytes", "lower", uploads=uploads)
    peak.target = data["budget"] + BASE_BYTES


def _full(ours: Ours, disk: Path, what: str, uploads: int) -> Run:
    ours.prepare()
    return ours.run(what, 0, devices=[str(disk)], point="0001", uploads=uploads)


def _on_seaweed(work: Path, disk: Path, data: dict[str, int], uploads: int) -> tuple[Run, float]:
    """Also the server's CPU seconds meanwhile."""
    place = work / "s3"
    place.mkdir()
    with seaweed_in(place) as server:
        ours = Ours(f"s3://{BUCKET}/bench", work / "s3-cache", data, server.options())
        before = process_cpu_s(server.pid)
        run = _full(ours, disk, "S3 full", uploads)
        return run, process_cpu_s(server.pid) - before


if __name__ == "__main__":
    typer.run(main)
