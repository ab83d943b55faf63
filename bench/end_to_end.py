"""Full, unchanged full, incremental and restore of one disk: ours, peers', and the machine's limit.

Interleaved rounds on the same devices; caches evicted before each operation; the repository's
file system synced within each peer's time (ours is durable when it says so).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from bench import beside, limit, peers, report
from bench.driver import Ours
from bench.measure import Run, folder_bytes, shell
from bench.sample_disk import SampleDisk, attached, build, empty_target, evict, reflink_folder
from mover.config import Settings

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30


def our_round(ours: Ours, disk: SampleDisk, first: Path, second: Path, folder: Path, round_: int) -> Iterator[Run]:
    ours.prepare()
    points = {"full": "0001", "again": "0002", "incremental": "0003"}
    yield ours.run("full", round_, devices=[str(first)], point=points["full"])
    evict(ours.repository)
    yield ours.run("again", round_, devices=[str(first)], point=points["again"])
    evict(ours.repository)
    changed = {"base": points["full"], "regions": disk.regions}
    yield ours.run("incremental", round_, devices=[str(second)], point=points["incremental"], **changed)
    evict(ours.repository)
    with empty_target(folder, disk.size_bytes) as target:
        yield ours.run("restore", round_, devices=[str(target)], point=points["incremental"])
        _compare(target, second, "mover")


def peer_round(peer: peers.Peer, disks: peers.Disks, size: int, folder: Path, round_: int) -> Iterator[Run]:
    shutil.rmtree(peer.repository, ignore_errors=True)
    shell(peer.prepare(), who=peer.name, what="prepare", round_=round_, env=peer.env)
    operations: list[tuple[str, Callable[[peers.Disks], str | None]]] = [
        ("full", peer.full),
        ("again", peer.again),
        ("incremental", peer.incremental),
    ]
    for what, operation in operations:
        command = operation(disks)
        if command is None:
            continue
        evict(peer.repository)
        run = shell(f"{command} && sync -f {peer.repository}", who=peer.name, what=what, round_=round_, env=peer.env)
        run.stored_bytes = folder_bytes(peer.repository)
        yield run
    evict(peer.repository)
    with empty_target(folder, size) as target:
        command = f"{peer.restore(target)} && sync {target}"
        yield shell(command, who=peer.name, what="restore", round_=round_, env=peer.env)
        _compare(target, disks.second, peer.name)


def limit_round(device: Path, size: int, level: int, round_: int) -> Iterator[Run]:
    """What the machine allows: the read alone, the computing alone."""
    read_s = limit.fio_read_s(device, read_bytes=size)
    yield Run("limit", "fio read", round_, read_s, 0, 0)
    command = [sys.executable, "-m", "bench.limit", str(device), str(level)]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    wall, cpu = json.loads(said)
    yield Run("limit", "compute", round_, wall, cpu, 0)
    yield Run("limit", "full", round_, max(read_s, wall), cpu, 0)


def _compare(restored: Path, wanted: Path, who: str) -> None:
    if subprocess.run(["cmp", "-s", str(restored), str(wanted)]).returncode:
        typer.echo(f"{who}: the restored disk differs", err=True)
        raise typer.Exit(1)


def _repository_settings() -> dict[str, object]:
    """What a repository is made and written with, as shipped."""
    shipped = Settings().repository
    return {"pack_size": shipped.pack_size, "uploads": shipped.uploads, "paranoid": shipped.paranoid}


def main(
    folder: Annotated[Path, typer.Option(help="Where images, repositories and results go; 40 GiB.")] = Path(
        "bench-data"
    ),
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    size: Annotated[float, typer.Option(help="GiB of the disk.")] = 4.0,
    seed: int = 1,
    only: Annotated[
        str, typer.Option(help="Comma-separated: mover,restic,borg,benji,zstd|dd,limit,many,s3,attach.")
    ] = "",
    data: Annotated[str, typer.Option(help="JSON of data settings that differ from the defaults.")] = "{}",
    install_peers: Annotated[
        bool, typer.Option(help="Install restic, borg, benji: apt, and environments in FOLDER.")
    ] = False,
) -> None:
    """Measure, print a table, and write results.json beside it."""
    tools = folder.resolve() / "peers"
    problems = peers.install(tools) if install_peers else []
    size_bytes = int(size * GIB)
    settings = json.loads(data)
    wanted = set(only.split(",")) if only else set()
    runs: list[Run] = []
    with reflink_folder(folder.resolve(), size_bytes=max(40, int(size * 10)) * GIB) as place:
        disk = build(place, size_bytes=size_bytes, seed=seed)
        hints = place / "hints.json"
        hints.write_text(json.dumps([{"offset": o, "length": n, "exists": "true"} for o, n in disk.regions]))
        ours = Ours(place / "mover", place / "mover-cache", settings)
        here = [peer for kind in peers.ALL if (peer := kind(tools, place)).is_here()]
        problems += [f"{kind.name}: not installed" for kind in peers.ALL if kind.name not in {p.name for p in here}]
        level = settings.get("level", Settings().data.level)
        with attached(disk.first, read_only=True) as first, attached(disk.second, read_only=True) as second:
            for round_ in range(1, rounds + 1):
                parts: list[tuple[str, Iterator[Run]]] = [
                    ("limit", limit_round(first, size_bytes, level, round_)),
                    ("mover", our_round(ours, disk, first, second, place, round_)),
                    *(
                        (p.name, peer_round(p, peers.Disks(first, second, hints), size_bytes, place, round_))
                        for p in here
                    ),
                ]
                for name, part in parts:
                    for run in part if not wanted or name in wanted else ():
                        runs.append(run)
                        typer.echo(report.line(run))
            once: list[tuple[str, Iterator[Run]]] = [
                ("many", beside.many_disks(ours, disk)),
                ("s3", beside.object_store(place, disk, first, second, settings)),
                ("attach", beside.first_read()),
            ]
            for name, part in once:
                for run in part if not wanted or name in wanted else ():
                    runs.append(run)
                    typer.echo(report.line(run))
    machine = {
        "processor": next(
            (r.split(":")[1].strip() for r in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in r), ""
        ),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "devices": "loop on reflinked XFS, direct I/O" if os.geteuid() == 0 else "files, direct I/O",
        "versions": {peer.name: peer.version() for peer in here},
        "settings": {**Settings().data.model_dump(), **settings},
        "repository": {"encryption": "aes-256-gcm", **_repository_settings()},
        "size_bytes": size_bytes,
        "changed_bytes": sum(length for _, length in disk.regions),
        "problems": problems,
    }
    results = {"machine": machine, "runs": [run.as_dict() for run in runs]}
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    typer.echo(report.table(runs, machine))


if __name__ == "__main__":
    typer.run(main)
