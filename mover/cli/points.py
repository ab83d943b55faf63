"""``points``: list, show, forget. Needs repository and key only, and imports nothing heavier."""

from __future__ import annotations

from rich.text import Text

from mover.app import stores
from mover.cli.run import Session
from mover.cli.tables import backup_notes, disks_table, points_table
from mover.clock import SystemClock
from mover.operations.report import point_report, point_row


async def points(session: Session, vm: str | None) -> None:
    """Restore points, of one VM or all; those whose manifest cannot be read are named too."""
    async with stores.point_book(session.settings, SystemClock()) as book:
        found = await book.points()
    wanted = [point for point in found if vm in (None, point.vm_name, point.vm_uuid)]
    # Each point says that it was meant as a base; the next incremental stands on the newest one only.
    bases = {point.vm_uuid: point.id for point in found if point.is_base and not point.problem}
    rows = [
        {**point_row(point), "is_base": bases.get(point.vm_uuid) == point.id, "problem": point.problem}
        for point in wanted
    ]
    table = points_table(rows) if rows else Text("No restore points yet." if vm is None else f"None of {vm}.")
    problems = [Text(f"{row['point'][:8]}: {row['problem']}", "red") for row in rows if row["problem"]]
    session.console.answer({"points": rows}, table, *problems)


async def show_point(session: Session, text: str) -> None:
    """One restore point."""
    async with stores.point_book(session.settings, SystemClock()) as book:
        report = point_report(await book.load(await book.find_point(text)))
    session.console.answer(report, disks_table([report]), backup_notes([report]))


async def delete_point(session: Session, text: str, *, force: bool) -> None:
    """Forget one restore point."""
    async with stores.point_book(session.settings, SystemClock()) as book:
        point = await book.find_point(text)
        await book.delete_point(point.id, force=force)
    words = Text(f"Point {point.id} of {point.vm_name} is forgotten; a later collection frees its space.")
    session.console.answer({"deleted": point.id}, words)
