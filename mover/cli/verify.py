"""``verify``: a restore into nothing. Needs repository and key only."""

from __future__ import annotations

from rich.text import Text

from mover.app import nodes
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.cli.tables import point_named
from mover.operations.verify import verify_point


async def verify(session: Session, text: str) -> None:
    """Read everything that a restore would read; raises Damaged with every object that is not whole."""
    console = session.console
    with watching(console.err, quiet=console.as_json) as progress:
        async with nodes.reading_node(session.settings, progress=progress) as node:
            point = await node.repository.find_point(text)
            report = await verify_point(node, point.id)
    words = f"{point_named(report)} is whole: every block was read and verified."
    console.answer(report, Text(words[0].upper() + words[1:]))
