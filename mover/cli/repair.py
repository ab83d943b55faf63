"""``repair``: what is damaged is marked, so that it is stored again. Needs repository and key only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from rich.text import Text

from mover.app import nodes
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.cli.tables import UNREADABLE
from mover.errors import Damaged
from mover.operations.repair import repair_repository
from mover.units import format_size

_NAMED = 20


async def repair(session: Session, text: str | None, *, read_data: bool) -> None:
    """Look at all packs, or at those of one point; mark the damaged ones and mend the index.

    Exit with the code of damage where a point is not whole still.
    """
    console = session.console
    with watching(console.err, quiet=console.as_json) as progress:
        async with nodes.reading_node(session.settings, progress=progress) as node:
            report = await repair_repository(node, text, read_data=read_data)
    console.answer(report, *(Text(line, style) for line, style in told(report)))
    if report["leaning"] or report["unreadable_points"]:
        raise typer.Exit(Damaged.exit_code)


def told(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The report in lines, each with its style."""
    depth = f"every record read ({format_size(report['bytes_read'])})" if report["read_data"] else "headers and tables"
    yield f"{report['packs']} packs looked at: {depth}.", ""
    yield from ((one["what"], "red") for one in report["damaged"][:_NAMED])
    if len(report["damaged"]) > _NAMED:
        yield f"… and {len(report['damaged']) - _NAMED} more: see --json.", "red"
    if report["marked"]:
        yield f"{len(report['marked'])} marked: no backup relies on them any more, what it meets is stored again.", ""
    if report["index_objects"]:
        count = len(report["index_objects"])
        yield f"{count} index object{'s' if count > 1 else ''} written anew from the packs.", ""
    yield from (
        (f"{name} is damaged: that point is lost, others are not.", "red") for name in report["unreadable_points"]
    )
    if report["unreadable_points"]:
        yield UNREADABLE, ""
    for one in report["leaning"]:
        words = f"Point {one['point'][:8]} of {one['vm']} needs marked packs ({', '.join(one['disks'])})."
        yield words, "yellow"
    if report["leaning"]:
        vms = ", ".join(sorted({one["vm"] for one in report["leaning"]}))
        yield f"Next: mover backup {vms.replace(', ', ' ')}; then mover verify says which points came back whole.", ""
    if not report["damaged"] and not report["index_objects"] and not report["unreadable_points"]:
        found = "Nothing else is damaged." if report["leaning"] else "Nothing is damaged."
        yield found + ("" if report["read_data"] else " With --read-data the blocks are read too."), ""
