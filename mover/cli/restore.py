"""``restore``: from a restore point to a new VM, a disk of a VM, or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mover.app import nodes, stores
from mover.cli.ordering import Choose, InTheWay, Order, order_and_wait, raise_failures, same_order
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.cli.tables import grid, point_named
from mover.clock import SystemClock
from mover.errors import TargetExists, UsageError
from mover.hypervisor.protocol import Hypervisor
from mover.jobs.book import Job
from mover.model.machine import Vm
from mover.operations.request import RESTORE, RESTORE_DISK, RestoreDiskRequest, RestoreRequest
from mover.operations.select import find_vm
from mover.operations.tofile import restore_to_file
from mover.units import format_duration, format_rate, format_size

NICS = {
    "keep": "as they were, MAC addresses too",
    "new-mac": "connected, with new MAC addresses",
    "disconnected": "disconnected, since the original lives; MAC addresses that it has are new",
}
NIC_MODES = ("auto", *NICS)
_GOES_WITH = {
    "--name": ("--nics", "--network", "--container", "--power-on"),
    "--to-vm": ("--disk", "--slot", "--container"),
    "--to-file": ("--disk",),
}
"""Where to → the options that it takes."""
_OPTIONS = {
    "--name": "name",
    "--to-vm": "to_vm",
    "--to-file": "to_file",
    "--disk": "disk",
    "--slot": "slot",
    "--nics": "nics",
    "--network": "networks",
    "--container": "containers",
    "--power-on": "power_on",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line said."""

    point: str
    name: str | None
    disk: str | None
    to_vm: str | None
    slot: str | None
    to_file: Path | None
    nics: str | None
    networks: tuple[str, ...]
    containers: tuple[str, ...]
    power_on: bool

    def value(self, option: str) -> Any:
        """What was given for an option, falsy where nothing was."""
        return getattr(self, _OPTIONS[option])


async def restore(session: Session, wish: Wish) -> None:
    """One of three: a new VM (--name), a disk into a VM (--to-vm), a disk to a file (--to-file)."""
    _check(wish)
    if wish.to_file:
        await _to_file(session, wish, wish.to_file)
    elif wish.name:
        await _to_new_vm(session, wish, wish.name)
    else:
        await _to_vm(session, wish)


def _check(wish: Wish) -> None:
    targets = [option for option in _GOES_WITH if wish.value(option)]
    if len(targets) != 1:
        raise UsageError(
            "Say where to restore to, once",
            remedy="Give one of --name NAME (a new VM), --disk SLOT --to-vm VM, or --disk SLOT --to-file PATH.",
        )
    target = targets[0]
    strange = [option for option in _OPTIONS if wish.value(option) and option not in (target, *_GOES_WITH[target])]
    if strange:
        meant = [other for other, options in _GOES_WITH.items() if strange[0] in options]
        raise UsageError(f"{strange[0]} does not go with {target}", remedy=f"It goes with: {', '.join(meant)}.")
    if wish.name is not None and not wish.name.strip():
        raise UsageError("--name is blank", remedy="Give the new VM a name.")
    if wish.name is not None and not wish.name.isprintable():
        raise UsageError("--name has characters that cannot be shown", remedy="Write the name without line breaks.")
    if target == "--to-vm" and not wish.disk:
        raise UsageError(
            "--to-vm without --disk: which disk?",
            remedy="Name one by its slot, e.g. --disk scsi.0; mover points show lists them.",
        )
    if wish.nics not in (None, *NIC_MODES):
        raise UsageError(f"--nics {wish.nics} is unknown", remedy=f"Choose one of: {', '.join(NIC_MODES)}.")


async def _to_file(session: Session, wish: Wish, path: Path) -> None:
    console = session.console
    with watching(console.err, quiet=console.as_json) as progress:
        async with nodes.reading_node(session.settings, progress=progress) as node:
            point = await node.repository.find_point(wish.point)
            report = await restore_to_file(node, point.id, wish.disk, path)
    console.answer(report, restored(report), about_restored(report))


async def _to_new_vm(session: Session, wish: Wish, name: str) -> None:
    request = RestoreRequest(
        point_id=await _point_id(session, wish),
        name=name,
        nic_mode=wish.nics or "auto",
        network_map=_pairs("--network", wish.networks),
        container_map=_pairs("--container", wish.containers),
        power_on=wish.power_on,
    )

    async def choose(hypervisor: Hypervisor, _proxy_uuid: str, earlier: Sequence[Job]) -> list[Order]:
        order = (RESTORE, request.values())
        # The VM of an unfinished job of the same is its own.
        if same_order(session, order, earlier) is None:
            _check_name(name, (await hypervisor.inventory()).vms, [job for job in earlier if _makes(job, name)])
        return [order]

    await _order(session, choose, in_the_way=lambda job: _makes(job, name))


def _makes(job: Job, name: str) -> bool:
    return job.is_active and job.operation == RESTORE and job.request.get("name") == name


def _check_name(name: str, vms: Sequence[Vm], makers: Sequence[Job]) -> None:
    """Raises TargetExists where a VM has that name, or one of these unfinished jobs is to make it."""
    other = f"choose another --name, such as {name}-restored"
    for job in makers:
        if job.is_ending:
            raise TargetExists(
                f"Job {job.id}, which made a VM named {name}, is being ended",
                remedy=f"Run this again; mover job show {job.id} tells whether it has ended. Or {other}.",
            )
        raise TargetExists(
            f"Job {job.id} makes a VM named {name} in another way, and has not ended",
            remedy=f"Type its own command again, or start mover serve, to finish it; or end it with "
            f"mover job cancel {job.id} and run this again; or {other}.",
        )
    if any(vm.name == name for vm in vms):
        raise TargetExists(
            f"A VM named {name} exists already",
            remedy=f"{other[0].upper()}{other[1:]}, or rename or delete that VM first.",
        )


async def _to_vm(session: Session, wish: Wish) -> None:
    point_id = await _point_id(session, wish)
    container = next(iter(_pairs("--container", wish.containers).values()), None)

    async def choose(hypervisor: Hypervisor, _proxy_uuid: str, _earlier: Sequence[Job]) -> list[Order]:
        target = find_vm((await hypervisor.inventory()).vms, wish.to_vm or "")
        request = RestoreDiskRequest(point_id, wish.disk or "", target.uuid, wish.slot, container)
        return [(RESTORE_DISK, request.values())]

    # What an ending one still has at the slot would be in the way, too.
    await _order(session, choose, in_the_way=lambda job: job.operation == RESTORE_DISK)


async def _point_id(session: Session, wish: Wish) -> str:
    async with stores.point_book(session.settings, SystemClock()) as book:
        return (await book.find_point(wish.point)).id


async def _order(session: Session, choose: Choose, *, in_the_way: InTheWay = lambda _: False) -> None:
    jobs = await order_and_wait(session, choose, in_the_way=in_the_way)
    raise_failures(jobs)
    report = jobs[0].result or {}
    session.console.answer(report, restored(report), about_restored(report))


def about_restored(report: Mapping[str, Any]) -> Text:
    """From which point, to where, in which state, and what is not as it was."""
    text = Text(f"from {point_named(report)}\n" if "frozen_at" in report else "")
    text.append(f"to {report['path']}" if "path" in report else f"VM {report.get('vm')}  {report.get('vm_uuid')}")
    if "nic_mode" in report:
        text.append(f"\npowered {'on' if report['is_on'] else 'off'}; network cards: {NICS[report['nic_mode']]}")
    for warning in report.get("warnings", ()):
        text.append(f"\nwarning: {warning}", "yellow")
    return text


def _pairs(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """``OLD=NEW``; for containers a lone ``NEW`` stands for all."""
    found = {}
    for word in words:
        old, equals, new = word.partition("=")
        if not equals and option != "--container":
            raise UsageError(f"{option} {word}: no new name", remedy=f"Write {option} OLD=NEW.")
        found[old if equals else "*"] = new if equals else old
    return found


def restored(report: Mapping[str, Any]) -> Table:
    """A row per disk."""
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
