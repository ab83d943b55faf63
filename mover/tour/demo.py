"""``demo``: the whole product once, against a lab of its own, with proof at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from mover.app import nodes, stores
from mover.cli.ordering import raise_failures
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.cli.tables import demo_table, vms_table
from mover.clock import Clock, SystemClock
from mover.config import Settings
from mover.errors import Damaged
from mover.lab import filesystems
from mover.lab.server import Lab
from mover.model.machine import Inventory
from mover.operations.node import ReadingNode
from mover.operations.request import BACKUP, RESTORE, RESTORE_DISK, BackupRequest, RestoreDiskRequest, RestoreRequest
from mover.operations.tofile import restore_to_file
from mover.operations.verify import verify_point
from mover.repository.repository import Repository
from mover.settings import load
from mover.tour.labs import options, write_settings
from mover.tour.proof import Proof, same_bytes
from mover.units import format_duration

GUESTS = ("web01", "db01", "files01")
RESTORED = "files01-restored"


@dataclass(slots=True)
class _Tour:
    """What the demo carries from one scene to the next."""

    session: Session
    lab: Lab
    executor: nodes.Executor
    folder: Path
    clock: Clock
    reports: list[Mapping[str, Any]] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    number: int = 0

    @property
    def reading(self) -> ReadingNode:
        node = self.executor.node
        return ReadingNode(node.settings, node.clock, node.repository, node.workers, node.progress)

    def scene(self, title: str) -> None:
        self.number += 1
        self.session.console.remark(f"\n{self.number}. {title}", "bold cyan")

    async def jobs(self, orders: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
        """Run jobs side by side; raise what failed, give the reports."""
        book = self.executor.book
        ids = [await book.submit(operation, request) for operation, request in orders]
        ended = [await book.wait(job_id) for job_id in ids]
        raise_failures(ended)
        return [job.result or {} for job in ended]


async def demo(session: Session, folder: Path | None, *, keep: bool) -> None:
    """Lab, repository, two rounds of backup, three restores, comparison, table."""
    clock = SystemClock()
    if folder is not None or keep:
        await _in_folder(session, folder or Path(tempfile.mkdtemp(prefix="mover-demo-")), clock)
        return
    with tempfile.TemporaryDirectory(prefix="mover-demo-") as name:
        await _in_folder(session, Path(name), clock)


async def _in_folder(session: Session, folder: Path, clock: Clock) -> None:
    console, began = session.console, clock.monotonic()
    console.remark("A lab is made: a Prism Element over HTTPS, a Proxy VM, three guests with real files …", "bold")
    async with await Lab.start(folder / "lab", options=options("demo")) as lab:
        file = write_settings(lab, folder / "lab")
        settings = read_settings(file)
        facts = lab.describe()
        console.remark(f"   {lab.element_url}; {facts['devices']}; {facts['disks']}")
        for note in facts["notes"]:
            console.remark(f"   note: {note}", "yellow")
        async with stores.store(settings, clock, create=True) as store:
            passphrase = settings.repository.passphrase.get_secret_value()
            repository_id = await Repository.init(store, passphrase=passphrase, clock=clock)
        console.remark(f"   repository {repository_id[:8]}, encrypted, in {settings.repository.url}")
        with watching(console.err, quiet=console.as_json) as progress:
            async with nodes.executor(settings, progress=progress, clock=clock) as executor:
                tour = _Tour(session, lab, executor, folder, clock)
                await _play(tour)
    _close(tour, file, clock.monotonic() - began)


def read_settings(file: Path) -> Settings:
    """The lab's. Of this machine's environment nothing: it may name a real cluster and a real repository."""
    return load(file, environment={}, flags={"node.check_guard": False})


async def _play(tour: _Tour) -> None:
    node, lab = tour.executor.node, tour.lab
    tour.scene("Inventory")
    inventory = await node.hypervisor.inventory()
    if not tour.session.console.as_json:
        tour.session.console.out.print(vms_table(inventory, proxy_uuid=node.proxy_uuid))
    tour.scene("Full backup of the three, side by side")
    await _backup(tour, inventory)
    tour.scene("The guests change files")
    for name in GUESTS:
        for line in await lab.live(name, 1):
            tour.session.console.remark(f"   {name}: {line}")
    tour.scene("Incremental backup: only what changed is read")
    await _backup(tour, inventory)
    await _restore_three_ways(tour, inventory)


async def _backup(tour: _Tour, inventory: Inventory) -> None:
    node = tour.executor.node
    vms = [vm for vm in inventory.vms if vm.name in GUESTS]
    requests = [BackupRequest.of(vm, node.settings.backup, tour.clock) for vm in vms]
    reports = await tour.jobs([(BACKUP, request.values()) for request in requests])
    for report in reports:
        await verify_point(tour.reading, report["point"])
    tour.reports += reports


async def _restore_three_ways(tour: _Tour, inventory: Inventory) -> None:
    node, lab = tour.executor.node, tour.lab
    points = {report["vm"]: report["point"] for report in tour.reports[-len(GUESTS) :]}
    target = next(vm for vm in inventory.vms if vm.name == "db01")
    tour.scene(f"Restore: files01 as the new VM {RESTORED}; web01's disk into db01; db01's disk to a file")
    file = tour.folder / "db01.raw"
    whole = RestoreRequest(point_id=points["files01"], name=RESTORED)
    single = RestoreDiskRequest(point_id=points["web01"], disk="scsi.0", vm_uuid=target.uuid)
    reports = await tour.jobs([(RESTORE, whole.values()), (RESTORE_DISK, single.values())])
    await restore_to_file(tour.reading, points["db01"], "scsi.0", file)
    tour.scene("Proof: byte for byte against the snapshots, and a file-system check of what came back")
    slot = reports[1]["disks"][0]["slot"]
    places = {
        ("files01", "scsi.0"): lab.disk_path(RESTORED, "scsi.0"),
        ("files01", "scsi.1"): lab.disk_path(RESTORED, "scsi.1"),
        ("web01", "scsi.0"): lab.disk_path("db01", slot),
        ("db01", "scsi.0"): file,
    }
    for (vm, disk), path in places.items():
        point = await node.repository.load(points[vm])
        image = next(image for image in point.disks if str(image.slot) == disk)
        frozen = lab.frozen_path(point.snapshot_uuid or "", image.vmdisk_uuid or "")
        is_same = await node.workers.blocking(lambda path=path, frozen=frozen: same_bytes(path, frozen))  # type: ignore[misc]
        checked = await node.workers.blocking(lambda path=path: _check(path))  # type: ignore[misc]
        tour.proofs.append(Proof(vm, disk, point.id, is_same, checked))
        tour.session.console.remark(f"   {vm} {disk}: {tour.proofs[-1].words()}", "" if is_same else "bold red")


def _check(path: Path) -> str | None:
    """``clean``, what the checker said, or None where there is no file system."""
    if filesystems.find(path) is None:
        return None
    clean, said = filesystems.fsck(path)
    return "clean" if clean else said


def _close(tour: _Tour, file: Path, seconds: float) -> None:
    console = tour.session.console
    rows = [row for report in tour.reports for row in _rows(tour, report)]
    console.remark("")
    console.answer(
        {"rows": rows, "proofs": [proof.as_dict() for proof in tour.proofs], "seconds": seconds},
        demo_table(rows),
        Text(f"\nAll of it in {format_duration(seconds)}. To look further:"),
        Text("\n".join(f"  {line}" for line in _further(file))),
    )
    wrong = [proof for proof in tour.proofs if not proof.is_good]
    if wrong:
        raise Damaged(
            "; ".join(f"{proof.vm} {proof.disk}: {proof.words()}" for proof in wrong),
            remedy="This is a defect of mover: please report it with the lines above.",
        )


def _further(file: Path) -> list[str]:
    return [
        f"export MOVER_CONFIG={file}",
        "mover points",
        "mover verify web01",
        f"mover lab {file.parent}    # then, in another terminal: mover backup web01",
    ]


def _rows(tour: _Tour, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    bad = {(proof.vm, proof.disk, proof.point) for proof in tour.proofs if not proof.is_good}
    return [
        {"vm": report["vm"], **disk, "verified": (report["vm"], disk["disk"], report["point"]) not in bad}
        for disk in report["disks"]
    ]
