"""What a terminal shows by rich, loaded when there is something to show: its streams, and an error with its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mover.errors import MoverError

PIPE_COLUMNS = 10_000
"""So wide that nothing is folded: a line that is searched for or pasted stays one."""


def opened(stream: Any, *, stderr: bool = False) -> Console:
    """Pipes get whole lines; a terminal is folded at its own width."""
    is_terminal = stream.isatty()
    # Names of VMs are shown as they are: "[/x]" is no markup, ":red_heart:" no picture.
    return Console(
        highlight=False,
        markup=False,
        emoji=False,
        stderr=stderr,
        soft_wrap=not is_terminal,
        width=None if is_terminal else PIPE_COLUMNS,
    )


def explain(to: Console, error: MoverError) -> None:
    """What happened, to what, why, and what to do; so for each failure that it is made of."""
    _explain(to, error.message, error.remedy, error.code, error.facts)


def _explain(to: Console, message: str, remedy: str, code: str, facts: dict[str, Any]) -> None:
    failures = facts.get("failures", ())
    rows = [(Text("error:", "bold red"), Text.assemble(message, (f"  [{code}]", "dim")))]
    rows += [(Text(), Text(line, "dim")) for line in told(facts, message + remedy)]
    if not failures:
        rows.append((Text("do:", "bold"), Text(remedy)))
    _labelled(to, rows)
    for one in failures:
        about = one["facts"].get("about") or one["job"]
        _explain(to, f"{about}: {one['message']}", one["remedy"], one["code"], one["facts"])


def _labelled(to: Console, rows: Iterable[tuple[Text, Text]]) -> None:
    """Long texts hang below their own beginning; in a pipe each is one line."""
    if not to.is_terminal:
        for label, text in rows:
            to.print(Text.assemble(f"{label.plain:>6} ", text))
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", min_width=6)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    to.print(table)


def told(facts: dict[str, Any], said: str) -> Iterable[str]:
    """Facts that the sentence does not hold already, as lines."""
    said = said.lower()
    for key, value in facts.items():
        if key in ("failures", "about") or isinstance(value, bool) or value in (None, "", [], {}, ()):
            continue
        words = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        if not all(word.lower() in said for word in words):
            yield f"{key.replace('_', ' ')}: {', '.join(words)}"
