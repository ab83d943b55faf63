"""Full, unchanged full, incremental and restore of one disk: ours, peers', and the machine's limit.

Interleaved rounds on the same devices; caches evicted before each operation; the repository's
file system synced within each peer's time (ours is durable when it says so).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import beside, limit, peers, report
from bench.driver import Ours
from bench.kit import Bench, Out, Quick, bench, check_room, settings_of
from bench.measure import MIB, Run, folder_bytes, shell
from bench.results import Results, write
from bench.sample_disk import SampleDisk, attached, build, empty_target, evict, reflink_folder
from mover.config import DataSettings, Settings
from mover.errors import Damaged, UsageError

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
PARTS = ("mover", "restic", "borg", "benji", "zstd|dd", "qemu-img", "limit", "many", "s3", "attach")
QUICK = "mover,limit,zstd|dd"
GOAL_IN = {"ratio": "ratio", "share": "share", "bytes": "bytes", "s": "seconds"}
"""A name has one unit."""


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


def full_limit(device: Path, size: int, data: DataSettings, round_: int) -> Iterator[Run]:
    """What the machine allows a full: the disk's read alone, the computing alone."""
    computed, _ = _computed(device, data, "full")
    yield from _limit("full", {"fio read": limit.read_alone([device], size_bytes=size), "compute": computed}, round_)


def full_at_once(device: Path, size: int, stored_bytes: int, folder: Path, round_: int) -> Iterator[Run]:
    """The disk read while so many bytes are written beside it, as a full does where both lie on one: no limit, since
    a repository usually lies elsewhere, but part of what ours is beyond it here.
    """
    with empty_target(folder, size) as target:
        both = limit.read_and_write([device], target, read_bytes=size, written_bytes=stored_bytes)
    yield Run("limit", "fio read of disk, write of packs", round_, both.wall_s, both.cpu_s, 0)


def restore_limit(
    repository: Path, device: Path, size: int, data: DataSettings, folder: Path, round_: int
) -> Iterator[Run]:
    """What it allows a restore of that disk: opening blocks; reading packs and writing the disk at once, which share
    a disk here. What each of the two takes by itself is shown beside.
    """
    evict(repository)
    packs = sorted(path for path in (repository / "packs").rglob("*") if path.is_file())
    computed, written_bytes = _computed(device, data, "restore")
    with empty_target(folder, size) as target:
        written = limit.write_alone(target, size_bytes=written_bytes)
    read = limit.read_alone(packs)
    with empty_target(folder, size) as target:
        both = limit.read_and_write(packs, target, written_bytes=written_bytes)
    yield Run("limit", "fio read of packs", round_, read.wall_s, read.cpu_s, 0)
    yield Run("limit", "fio write", round_, written.wall_s, written.cpu_s, 0)
    yield from _limit("restore", {"open blocks": computed, "fio read and write": both}, round_)


def _computed(device: Path, data: DataSettings, operation: str) -> tuple[limit.Part, int]:
    command = [
        sys.executable,
        "-m",
        "bench.limit",
        str(device),
        str(data.level),
        str(data.first_block_bytes),
        operation,
    ]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    wall, cpu, size_bytes = json.loads(said)
    return limit.Part(wall, cpu), size_bytes


def _limit(operation: str, parts: dict[str, limit.Part], round_: int) -> Iterator[Run]:
    """Each part, then the largest: the others may hide behind it. Their CPU seconds are spent all the same."""
    for name, part in parts.items():
        yield Run("limit", name, round_, part.wall_s, part.cpu_s, 0)
    wall, cpu = max(part.wall_s for part in parts.values()), sum(part.cpu_s for part in parts.values())
    yield Run("limit", operation, round_, wall, cpu, 0)


def _compare(restored: Path, wanted: Path, who: str) -> None:
    if subprocess.run(["cmp", "-s", str(restored), str(wanted)]).returncode:
        raise Damaged(f"{who}: the restored disk differs from its source", remedy="Keep both, and report it.")


def _repository_settings() -> dict[str, object]:
    """What a repository is made and written with, as shipped."""
    shipped = Settings().repository
    return {"pack_size": shipped.pack_size, "uploads": shipped.uploads, "paranoid": shipped.paranoid}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of the bench is to do. wanted: names of parts, all if empty."""

    rounds: int
    size_bytes: int
    seed: int
    wanted: frozenset[str]
    data: dict[str, Any]
    tools: Path

    def wants(self, name: str) -> bool:
        return not self.wanted or name in self.wanted


def measured(plan: Plan, place: Path, disk: SampleDisk, here: Sequence[peers.Peer]) -> Iterator[Run]:
    """Rounds of everyone, interleaved; then what is measured once."""
    hints = place / "hints.json"
    hints.write_text(json.dumps([{"offset": o, "length": n, "exists": "true"} for o, n in disk.regions]))
    ours = Ours(place / "mover", place / "mover-cache", plan.data)
    size, data = plan.size_bytes, DataSettings().model_copy(update=plan.data)
    with attached(disk.first, read_only=True) as first, attached(disk.second, read_only=True) as second:
        disks = peers.Disks(first, second, hints)
        for round_ in range(1, plan.rounds + 1):
            if plan.wants("limit"):
                yield from full_limit(first, size, data, round_)
            if plan.wants("mover"):
                stored_bytes = 0
                for run in our_round(ours, disk, first, second, place, round_):
                    stored_bytes = stored_bytes or run.stored_bytes
                    yield run
            if plan.wants("limit") and plan.wants("mover"):
                yield from full_at_once(first, size, stored_bytes, place, round_)
                yield from restore_limit(place / "mover", second, size, data, place, round_)
            for peer in here:
                if plan.wants(peer.name):
                    yield from peer_round(peer, disks, size, place, round_)
        if plan.wants("many"):
            yield from beside.many_disks(ours, disk)
        if plan.wants("s3"):
            yield from beside.object_store(place, disk, first, second, plan.data)
        if plan.wants("attach"):
            yield from beside.first_read()


def keep(results: Results, run: Run) -> None:
    """One run as samples of the common form."""
    params = {"who": run.who, "operation": run.what}
    results.add("end_to_end.wall", run.wall_s, "s", "lower", **params)
    if run.cpu_s:
        results.add("end_to_end.cpu", run.cpu_s, "s", "lower", **params)
    if run.peak_mib:
        results.add("end_to_end.memory", run.peak_mib * MIB, "bytes", "lower", **params)
    if run.stored_bytes:
        results.add("end_to_end.stored", run.stored_bytes, "bytes", "lower", **params)


def _facts(plan: Plan, disk: SampleDisk, here: Sequence[peers.Peer], problems: list[str]) -> dict[str, Any]:
    """What the table of medians tells of the machine and the settings."""
    return {
        "devices": "loop on reflinked XFS, direct I/O" if os.geteuid() == 0 else "files, direct I/O",
        "versions": {peer.name: peer.version() for peer in here},
        "settings": {**Settings().data.model_dump(), **plan.data},
        "repository": {"encryption": "aes-256-gcm", **_repository_settings()},
        "size_bytes": plan.size_bytes,
        "changed_bytes": sum(length for _, length in disk.regions),
        "problems": problems,
    }


def _carry_out(run: Bench, plan: Plan, folder: Path, problems: list[str]) -> None:
    runs: list[Run] = []
    with reflink_folder(folder, size_bytes=max(40 * GIB, plan.size_bytes * 10)) as place:
        disk = build(place, size_bytes=plan.size_bytes, seed=plan.seed)
        everyone = peers.everyone(plan.tools, place)
        here = [peer for peer in everyone if peer.is_here()]
        problems += [f"{peer.name}: not installed" for peer in everyone if peer not in here and plan.wants(peer.name)]
        for one in measured(plan, place, disk, here):
            runs.append(one)
            keep(run.results, one)
            run.say(report.line(one))
        facts = _facts(plan, disk, here, problems)
    machine = {"processor": run.results.machine.processor, "cores": run.results.machine.cores, **facts}
    run.results.versions |= facts["versions"]
    run.results.settings |= {"data": facts["settings"], "repository": facts["repository"]}
    run.results.details = {"machine": machine, "runs": [one.as_dict() for one in runs]}
    for problem in problems:
        run.note(problem)
    for name, series in report.goals(runs).items():
        for sample in series.samples:
            kept = run.add(f"end_to_end.goal_{GOAL_IN[series.unit]}", sample, series.unit, series.better, of=name)
            kept.target = series.target
    typer.echo(report.table(runs, machine))


def main(
    folder: Annotated[Path, typer.Option(help="Where images, repositories and results go; 40 GiB.")] = Path(
        "bench-data"
    ),
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    size: Annotated[float, typer.Option(min=0.01, help="GiB of the disk.")] = 4.0,
    seed: int = 1,
    only: Annotated[str, typer.Option(help=f"Comma-separated: {','.join(PARTS)}.")] = "",
    data: Annotated[str, typer.Option(help="JSON of data settings that differ from the defaults.")] = "{}",
    install_peers: Annotated[
        bool, typer.Option(help="Install restic, borg, benji, qemu-img: apt, and environments in FOLDER.")
    ] = False,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Measure, print a table, and write results.json beside it."""
    rounds, size, only = (1, 1 / 16, only or QUICK) if quick else (rounds, size, only)
    named = settings_of(rounds=rounds, size_gib=size, seed=seed, only=only)
    with bench("end_to_end", out, quick=quick, shows=False, **named) as run:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        tools = folder / "peers"
        wanted = frozenset(only.split(",")) if only else frozenset()
        plan = Plan(rounds, int(size * GIB), seed, wanted, _given(data, wanted), tools)
        check_room(folder, plan.size_bytes * 6)
        _carry_out(run, plan, folder, peers.install(tools) if install_peers else [])
        write(folder / "results.json", run.results)


def _given(data: str, wanted: frozenset[str]) -> dict[str, Any]:
    """The data settings. Raises UsageError for what cannot be meant."""
    unknown = sorted(wanted - {*PARTS})
    if unknown:
        raise UsageError(f"--only does not know {unknown[0]}", remedy=f"Write some of {', '.join(PARTS)}.")
    try:
        settings: dict[str, Any] = json.loads(data)
        Settings.model_validate({"data": settings})
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"--data {data} cannot be used: {said}", remedy='Write JSON such as {"level": 3}.') from None
    return settings


if __name__ == "__main__":
    typer.run(main)
