"""``points``: list, show, forget. Needs repository and key only, and imports nothing heavier.

What shows the answer is loaded while another thread derives the key.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib import import_module

from mover.app import stores
from mover.cli.run import Session
from mover.clock import SystemClock
from mover.repository.pointbook import PointBook


async def points(session: Session, vm: str | None) -> None:
    """Restore points, of one VM or all; those whose manifest cannot be read are named too."""
    async with _book(session) as book:
        found = await book.points()
    from mover.cli.point_views import listed

    listed(session.console, found, vm)


async def show_point(session: Session, text: str) -> None:
    """One restore point."""
    async with _book(session) as book:
        point = await book.load(await book.find_point(text))
    from mover.cli.point_views import shown

    shown(session.console, point)


async def delete_point(session: Session, text: str, *, force: bool) -> None:
    """Forget one restore point."""
    async with _book(session) as book:
        point = await book.find_point(text)
        await book.delete_point(point.id, force=force)
    from mover.cli.point_views import deleted

    deleted(session.console, point)


def _book(session: Session) -> AbstractAsyncContextManager[PointBook]:
    views = partial(import_module, "mover.cli.point_views")
    return stores.point_book(session.settings, SystemClock(), meanwhile=views)
