"""Answers of ``points``: values for programs, tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from mover.cli.console import Console
from mover.cli.tables import UNREADABLE, backup_notes, disks_table, point_named, points_table
from mover.model.point import PointSummary, RestorePoint
from mover.operations.report import point_report, point_row, point_words


def listed(console: Console, found: Sequence[PointSummary], vm: str | None) -> None:
    """All of them, or those of one VM (name or UUID)."""
    wanted = [point for point in found if vm in (None, point.vm_name, point.vm_uuid)]
    # Each point says that it was meant as a base; the next incremental stands on the newest one only.
    bases = {point.vm_uuid: point.id for point in found if point.is_base and not point.problem}
    rows = [point_row(point, is_base=bases.get(point.vm_uuid) == point.id) for point in wanted]
    none = "No restore points yet." if vm is None else f"No restore point is of a VM {vm}. All there are: mover points"
    problems = [Text(f"{row['point'][:8]}: {row['problem']}", "red") for row in rows if row["problem"]]
    if problems:
        problems.append(Text(UNREADABLE))
    console.answer({"points": rows}, points_table(rows) if rows else Text(none), *problems)


def shown(console: Console, point: RestorePoint) -> None:
    """One, with its disks."""
    report = point_report(point)
    whose = Text(f"{point_named(point_words(point))}, VM {point.vm_uuid}")
    console.answer(report, whose, disks_table([report]), backup_notes([report]))


def deleted(console: Console, point: PointSummary) -> None:
    """That it is forgotten."""
    whose = f" of {point.vm_name}" if point.vm_name else ""
    words = Text(f"Point {point.id}{whose} is forgotten. Its space is not freed: this version collects nothing yet.")
    console.answer({"deleted": point.id}, words)
