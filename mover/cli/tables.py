"""Answers as tables that fit 80 columns. Pure: values in, renderables out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mover.clock import from_iso, local, local_zone
from mover.model.machine import DiskKind, Inventory, Vm
from mover.units import MIB, format_duration, format_rate, format_size

if TYPE_CHECKING:
    # Tables of points are printed by commands that must start without the engine of jobs.
    from mover.jobs.book import Job

Values = Mapping[str, Any]
SIGNS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "bold red")}

UNREADABLE = "Bring such an object back from a copy of the repository, or: mover points delete POINT"
"""What to do about manifests that cannot be read."""


def grid(*columns: str, right: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """A table without lines. right: columns of numbers. whole: more that are never folded, whatever else must."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    numbers, unfolded = set(right), {*right, *whole}
    for column in columns:
        is_whole = column in unfolded
        justify: Literal["left", "right"] = "right" if column in numbers else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=is_whole)
    return table


def point_named(report: Values) -> str:
    """``point 3f2a81c0-… of web01, frozen 2026-01-31 13:00:00 CET``."""
    when = f"{local(from_iso(report['frozen_at']))} {local_zone()}"
    return f"point {report['point']} of {report['point_vm']}, frozen {when}"


def disks_table(reports: Sequence[Values]) -> Table:
    """What a backup did, a row per disk."""
    names = ("VM", "disk", "size", "read", "new", "stored", "time", "rate", "changed")
    table = grid(*names, right=names[2:], whole=("disk",))
    for report in reports:
        for disk in report["disks"]:
            table.add_row(
                report["vm"],
                disk["disk"],
                format_size(disk["size_bytes"]),
                *(format_size(disk[key]) for key in ("bytes_read", "bytes_new", "bytes_stored")),
                format_duration(sum(disk["seconds"].values())),
                format_rate(disk["rate"]) if disk["rate"] else "",
                _changed(disk, ".1%"),
            )
    return table


def _changed(disk: Values, form: str) -> str:
    """Share of an incremental; a full compared nothing with a former point."""
    return format(disk["changed_ratio"], form) if disk["mode"] == "incremental" else ""


def backup_notes(reports: Sequence[Values]) -> RenderableType:
    """Point ids, how each disk was read and why, and what is missing from the points."""
    parts: list[RenderableType] = []
    for report in reports:
        parts.append(Text(f"{report['vm']}  point {report['point']}  {report['consistency']}-consistent"))
        notes = Table.grid(padding=(0, 1, 0, 0))
        for disk in report["disks"]:
            how = disk["reason"] if disk["mode"] == "excluded" else f"{disk['mode']}: {disk['reason']}"
            notes.add_row("", Text(disk["disk"], "dim"), Text(how, "dim"))
        for warning in report["warnings"]:
            notes.add_row("", Text("warning", "yellow"), Text(warning, "yellow"))
        parts.append(notes)
    return Group(*parts)


def points_table(points: Sequence[Values]) -> Table:
    """Newest last; ``base``: the next incremental stands on it. A manifest that cannot be read is a line too."""
    names = ("point", "VM", f"frozen ({local_zone()})", "size", "read", "stored", "how")
    table = grid(*names, right=names[3:6], whole=(names[0], names[2]))
    for point in points:
        if point.get("problem"):
            table.add_row(point["point"][:8], "", "", "", "", "", Text("UNREADABLE", "bold red"))
            continue
        how = "incr" if point["mode"] == "incremental" else point["mode"]
        table.add_row(
            point["point"][:8],
            point["vm"],
            local(from_iso(point["frozen_at"])),
            *(format_size(point[key]) for key in ("size_bytes", "bytes_read", "bytes_stored")),
            f"{how} base" if point["is_base"] else how,
        )
    return table


def vms_table(inventory: Inventory, *, proxy_uuid: str | None) -> Table:
    hosts = {host.uuid: host.name for host in inventory.hosts}
    table = grid("VM", "power", "host", "disks", "size", "notes", right=("disks", "size"))
    for vm in sorted(inventory.vms, key=lambda vm: vm.name):
        disks = vm.data_disks()
        table.add_row(
            vm.name,
            vm.power or ("on" if vm.is_on else "off"),
            hosts.get(vm.host_uuid or "", ""),
            str(len(disks)),
            format_size(sum(disk.size_bytes for disk in disks)),
            ", ".join(vm_notes(vm, proxy_uuid=proxy_uuid)),
        )
    return table


def vm_notes(vm: Vm, *, proxy_uuid: str | None) -> list[str]:
    """What an operator should know of a VM before it is backed up."""
    groups = sum(disk.kind is DiskKind.VOLUME_GROUP for disk in vm.disks)
    notes = [
        "Proxy VM" if vm.uuid == proxy_uuid else "",
        f"{groups} volume group{'s' if groups > 1 else ''}" if groups else "",
        "UEFI" if vm.boot_type != "legacy" else "",
        "vTPM" if vm.has_vtpm else "",
        "also protected elsewhere" if vm.is_protected_elsewhere else "",
        "not to be backed up" if vm.refusal else "",
    ]
    return [note for note in notes if note]


def places_table(inventory: Inventory) -> Table:
    """Clusters, hosts, containers, networks in one list."""
    table = grid("kind", "name", "UUID", "about", whole=("kind", "UUID"))
    for cluster in inventory.clusters:
        table.add_row("cluster", cluster.name, cluster.uuid, f"AOS {cluster.version}")
    for host in inventory.hosts:
        table.add_row("host", host.name, host.uuid, host.address or "")
    for container in inventory.containers:
        table.add_row("container", container.name, container.uuid, f"{format_size(container.free_bytes)} free")
    for network in inventory.networks:
        table.add_row("network", network.name, network.uuid, f"VLAN {network.vlan_id}" if network.vlan_id else "")
    return table


def checks_table(lines: Sequence[Values]) -> RenderableType:
    """Lines of a preflight: state, subject, what. The remedy below, by the width of the screen: it is to be pasted."""
    widths = [
        max(map(len, column)) for column in zip(*((SIGNS[x["state"]][0], x["subject"]) for x in lines), strict=True)
    ]
    parts: list[RenderableType] = [_check_row(widths, Text(), Text("check", "bold"), Text("found", "bold"))]
    for line in lines:
        sign, style = SIGNS[line["state"]]
        parts.append(_check_row(widths, Text(sign, style), Text(line["subject"]), Text(line["what"])))
        if line["remedy"]:
            parts.append(Padding(Text(f"→ {line['remedy']}", "bold", overflow="fold"), (0, 0, 0, 4)))
    return Group(*parts)


def _check_row(widths: Sequence[int], *cells: Text) -> Table:
    row = Table.grid(padding=(0, 1, 0, 0))
    for width in widths:
        row.add_column(width=width, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(*cells)
    return row


def orphans_table(actions: Sequence[Values]) -> Table:
    table = grid("action", "object", "job", "why")
    for action in actions:
        why = Text(action["reason"])
        if action["error"]:
            why.append(f"\nfailed: {action['error']['message']}", "red")
        table.add_row(action["action"], action["identity"] or "-", action["job"][:8], why)
    return table


def jobs_table(jobs: Sequence[Job]) -> Table:
    """Newest first; since when it is in its state, in this machine's zone."""
    names = ("job", "what", "of", "state", f"since ({local_zone()})", "error")
    table = grid(*names, whole=("job", "what", *names[3:5]))
    for job in jobs:
        request = job.request
        of = request.get("vm_name") or request.get("name") or request.get("point_id", "")[:8]
        since = local(job.changed_at)[5:16]
        state = "ending" if job.is_ending else str(job.state)
        table.add_row(job.id[:8], job.operation, of, state, since, job.error.code if job.error else "")
    return table


_PREPARING = ("ask", "attach", "find", "plan")
_COPYING = ("copy", "copy_again")


def demo_table(rows: Sequence[Values]) -> Table:
    """A row per disk and run: sizes in MiB, seconds before, during and after the copy."""
    names = ("VM", "disk", "how", "MiB", "read", "new", "stored", "prep", "copy", "end", "MB/s", "chg", "verified")
    table = grid(*names, right=names[3:12])
    for row in rows:
        seconds = row["seconds"]
        before = sum(seconds.get(phase, 0.0) for phase in _PREPARING)
        during = sum(seconds.get(phase, 0.0) for phase in _COPYING)
        table.add_row(
            row["vm"],
            row["disk"],
            "incr" if row["mode"] == "incremental" else row["mode"],
            *(f"{row[key] / MIB:.0f}" for key in ("size_bytes", "bytes_read", "bytes_new", "bytes_stored")),
            *(f"{value:.1f}" for value in (before, during, sum(seconds.values()) - before - during)),
            f"{row['rate'] / 1e6:.0f}",
            _changed(row, ".0%"),
            Text("yes", "green") if row["verified"] else Text("NO", "bold red"),
        )
    return table
