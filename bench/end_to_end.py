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
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import limit, peers, report
from bench.measure import MIB, MemoryWatch, Run, folder_bytes, shell
from bench.sample_disk import SampleDisk, attached, build, empty_target, evict, reflink_folder
from mover.config import Settings

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
MANY_SHIFT = (128 << 20) + (96 << 10)


class Ours:
    """Our operations, each in a fresh process that has started before it is measured."""

    name = "mover"

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.repository, self.cache, self.data = folder / "mover", folder / "mover-cache", data

    def prepare(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        self._process({"operation": "init"}, is_measured=False)

    def run(self, what: str, round_: int, **request: Any) -> Run:
        found, peak = self._process({"operation": "restore" if what == "restore" else "backup", **request})
        wall, cpu = found.pop("wall_s"), found.pop("cpu_s")
        return Run(self.name, what, round_, wall, cpu, peak, folder_bytes(self.repository), found)

    def _process(self, request: dict[str, Any], *, is_measured: bool = True) -> tuple[dict[str, Any], float]:
        request |= {"repository": str(self.repository), "cache": str(self.cache), "data": self.data}
        command = [sys.executable, "-m", "bench.ours", json.dumps(request)]
        with (
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
            MemoryWatch(process.pid) as memory,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            if is_measured:
                process.stdout.readline()
                process.stdin.write("go\n")
                process.stdin.flush()
            said = process.stdout.read()
        if process.returncode:
            raise typer.Exit(1)
        return json.loads(said), memory.peak_bytes / MIB


def our_round(ours: Ours, disk: SampleDisk, first: Path, second: Path, folder: Path, round_: int) -> Iterator[Run]:
    shutil.rmtree(ours.repository, ignore_errors=True)
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


def many_disks(ours: Ours, disk: SampleDisk) -> Run:
    """Eight disks at once into one point, shifted against each other so that no block is known: for the memory."""
    shutil.rmtree(ours.repository, ignore_errors=True)
    ours.prepare()
    with ExitStack() as stack:
        devices = [
            stack.enter_context(
                attached(disk.first, read_only=True, offset=number * MANY_SHIFT, size=disk.size_bytes // 5 // MIB * MIB)
            )
            for number in range(8)
        ]
        return ours.run("8 disks at once", 0, devices=[str(device) for device in devices], point="0008")


def _compare(restored: Path, wanted: Path, who: str) -> None:
    if subprocess.run(["cmp", "-s", str(restored), str(wanted)]).returncode:
        typer.echo(f"{who}: the restored disk differs", err=True)
        raise typer.Exit(1)


def main(
    folder: Annotated[Path, typer.Option(help="Where images, repositories and results go; 40 GiB.")] = Path(
        "bench-data"
    ),
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    size: Annotated[float, typer.Option(help="GiB of the disk.")] = 4.0,
    seed: int = 1,
    only: Annotated[str, typer.Option(help="Comma-separated: mover,restic,borg,benji,zstd|dd,limit,many.")] = "",
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
        ours = Ours(place, settings)
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
            if not wanted or "many" in wanted:
                runs.append(many_disks(ours, disk))
                typer.echo(report.line(runs[-1]))
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
        "size_bytes": size_bytes,
        "changed_bytes": sum(length for _, length in disk.regions),
        "problems": problems,
    }
    results = {"machine": machine, "runs": [run.as_dict() for run in runs]}
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    typer.echo(report.table(runs, machine))


if __name__ == "__main__":
    typer.run(main)
