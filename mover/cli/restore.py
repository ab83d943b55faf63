"""``restore`` and ``verify``: from a restore point to a VM, a disk, a file, or into nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mover import app
from mover.cli.ordering import Order, order_and_wait, raise_failures
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.cli.tables import grid
from mover.clock import SystemClock
from mover.errors import UsageError
from mover.hypervisor.protocol import Hypervisor
from mover.operations.request import RESTORE, RESTORE_DISK, RestoreDiskRequest, RestoreRequest
from mover.operations.select import find_vm
from mover.operations.tofile import restore_to_file
from mover.operations.verify import verify_point
from mover.units import format_duration, format_rate, format_size

NIC_MODES = ("auto", "keep", "new-mac", "disconnected")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line said."""

    point: str
    name: str | None
    disk: str | None
    to_vm: str | None
    slot: str | None
    to_file: Path | None
    nics: str
    networks: tuple[str, ...]
    containers: tuple[str, ...]
    power_on: bool


async def restore(session: Session, wish: Wish) -> None:
    """One of three: a new VM (--name), a disk into a VM (--to-vm), a disk to a file (--to-file)."""
    targets = [name for name in ("name", "to_vm", "to_file") if getattr(wish, name)]
    if len(targets) != 1:
        raise UsageError(
            "Say where to restore to, once",
            remedy="Give one of --name NAME (a new VM), --disk SLOT --to-vm VM, or --disk SLOT --to-file PATH.",
        )
    if wish.nics not in NIC_MODES:
        raise UsageError(f"--nics {wish.nics} is unknown", remedy=f"Choose one of: {', '.join(NIC_MODES)}.")
    if wish.to_file:
        await _to_file(session, wish, wish.to_file)
    else:
        await _to_cluster(session, wish)


async def _to_file(session: Session, wish: Wish, path: Path) -> None:
    console = session.console
    with watching(console.err, quiet=console.as_json) as progress:
        async with app.reading_node(session.settings, progress=progress) as node:
            point = await node.repository.find_point(wish.point)
            report = await restore_to_file(node, point.id, wish.disk, path)
    console.answer(report, _restored(report), Text(f"Written to {path}"))


async def _to_cluster(session: Session, wish: Wish) -> None:
    async with app.repository(session.settings, SystemClock()) as repository:
        point = await repository.find_point(wish.point)

    async def choose(hypervisor: Hypervisor, _proxy_uuid: str) -> list[Order]:
        if wish.name:
            request = RestoreRequest(
                point_id=point.id,
                name=wish.name,
                nic_mode=wish.nics,
                network_map=_pairs("--network", wish.networks),
                container_map=_pairs("--container", wish.containers),
                power_on=wish.power_on,
            )
            return [(RESTORE, request.values())]
        inventory = await hypervisor.inventory()
        target = find_vm(inventory.vms, wish.to_vm or "")
        container = next(iter(_pairs("--container", wish.containers).values()), None)
        disk = RestoreDiskRequest(point.id, wish.disk or "", target.uuid, wish.slot, container)
        return [(RESTORE_DISK, disk.values())]

    jobs = await order_and_wait(session, choose)
    raise_failures(jobs)
    report = jobs[0].result or {}
    notes = Text("\n".join(f"warning: {text}" for text in report.get("warnings", ())), "yellow")
    where = Text(f"VM {report.get('vm')}  {report.get('vm_uuid')}")
    session.console.answer(report, _restored(report), where, *([notes] if notes else []))


def _pairs(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """``OLD=NEW``; for containers a lone ``NEW`` stands for all."""
    found = {}
    for word in words:
        old, equals, new = word.partition("=")
        if not equals and option != "--container":
            raise UsageError(f"{option} {word}: no new name", remedy=f"Write {option} OLD=NEW.")
        found[old if equals else "*"] = new if equals else old
    return found


def _restored(report: Mapping[str, Any]) -> Table:
    table = grid("disk", "slot", "size", "written", "time", "rate", right=("size", "written", "time", "rate"))
    for row in report.get("disks", ()):
        seconds = sum(row.get("seconds", {}).values())
        written = row.get("bytes_written", 0)
        table.add_row(
            row["disk"],
            row.get("slot", ""),
            format_size(row["size_bytes"]),
            "empty" if row.get("is_empty") else format_size(written),
            format_duration(seconds),
            format_rate(row["size_bytes"] / seconds) if seconds else "",
        )
    return table


async def verify(session: Session, text: str) -> None:
    """Read everything that a restore would read; raises Damaged with every object that is not whole."""
    console = session.console
    with watching(console.err, quiet=console.as_json) as progress:
        async with app.reading_node(session.settings, progress=progress) as node:
            point = await node.repository.find_point(text)
            report = await verify_point(node, point.id)
    console.answer(report, Text(f"Point {point.id} of {point.vm_name} is whole: every block was read and verified."))
