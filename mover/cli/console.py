"""Where answers go: tables for people on standard output, JSON for programs with ``--json``.

One command prints one answer. Progress and remarks go to standard error, so that a pipe
gets the answer alone. On a terminal lines are wrapped; in a pipe they are left whole.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mover.errors import MoverError

INTERNAL_EXIT = 70
"""EX_SOFTWARE: a defect of ours, not a failure that we foresaw."""
INTERRUPTED_EXIT = 130
"""128 + SIGINT, as shells have it."""
STOPPED_EXIT = 143
"""128 + SIGTERM."""
PIPE_COLUMNS = 80
Shown = RenderableType | Callable[[], RenderableType]


class Console:
    """Answers, remarks and errors of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._has_answered = False
        self.out = _rich(sys.stdout)
        self.err = _rich(sys.stderr, stderr=True)

    @property
    def can_ask(self) -> bool:
        """A person sits there."""
        return sys.stdin.isatty()

    def answer(self, value: Any, *shown: Shown) -> None:
        """Print ``value`` as JSON, or for people what stands after it."""
        self._has_answered = True
        if self.as_json:
            _print_json(value)
        else:
            self.show(*shown)

    def show(self, *shown: Shown) -> None:
        """More of the answer, for people only."""
        if not self.as_json:
            for item in shown:
                self.out.print(item() if callable(item) else item)

    def remark(self, text: str, style: str = "") -> None:
        """A line for people only."""
        if not self.as_json:
            self.err.print(Text(text, style))

    def fail(self, error: MoverError) -> None:
        """What happened, to what, why, and what to do. After a JSON answer nothing: it names its failures itself."""
        if not self.as_json:
            self._explain(error.message, error.remedy, error.code, error.facts)
        elif not self._has_answered:
            _print_json({"error": error.as_dict()})

    def _explain(self, message: str, remedy: str, code: str, facts: dict[str, Any]) -> None:
        failures = facts.get("failures", ())
        rows = [(Text("error:", "bold red"), Text.assemble(message, (f"  [{code}]", "dim")))]
        rows += [(Text(), Text(line, "dim")) for line in told(facts, message + remedy)]
        if not failures:
            rows.append((Text("do:", "bold"), Text(remedy)))
        self._labelled(rows)
        for one in failures:
            about = one["facts"].get("about") or one["job"]
            self._explain(f"{about}: {one['message']}", one["remedy"], one["code"], one["facts"])

    def _labelled(self, rows: Iterable[tuple[Text, Text]]) -> None:
        """Long texts hang below their own beginning; in a pipe each is one line."""
        if not self.err.is_terminal:
            for label, text in rows:
                self.err.print(Text.assemble(f"{label.plain:>6} ", text))
            return
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(justify="right", min_width=6)
        table.add_column(overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.err.print(table)


def told(facts: dict[str, Any], said: str) -> Iterable[str]:
    """Facts that the sentence does not hold already, as lines."""
    for key, value in facts.items():
        if key in ("failures", "about") or isinstance(value, bool) or value in (None, "", [], {}, ()):
            continue
        words = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        if not all(word in said for word in words):
            yield f"{key.replace('_', ' ')}: {', '.join(words)}"


def _rich(stream: Any, *, stderr: bool = False) -> RichConsole:
    """Pipes get 80 columns and whole lines; a terminal its own."""
    is_terminal = stream.isatty()
    return RichConsole(
        highlight=False, stderr=stderr, soft_wrap=not is_terminal, width=None if is_terminal else PIPE_COLUMNS
    )


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")


class LiveStderr(io.TextIOBase):
    """Standard error as it is now: a live display puts itself there, and log lines must go above it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def first_error(error: BaseException) -> BaseException:
    """The first foreseen error inside nested groups, else the first leaf."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, MoverError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for item in group.exceptions:
        if isinstance(item, BaseExceptionGroup):
            yield from _leaves(item)
        else:
            yield item
