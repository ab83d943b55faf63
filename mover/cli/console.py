"""Where answers go: tables for people on standard output, JSON for programs with ``--json``.

One command prints one answer. Progress and remarks go to standard error, so that a pipe
gets the answer alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.text import Text

from mover.errors import MoverError

INTERNAL_EXIT = 70
"""EX_SOFTWARE: a defect of ours, not a failure that we foresaw."""
INTERRUPTED_EXIT = 130


class Console:
    """Answers, remarks and errors of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._has_answered = False
        self.out = RichConsole(highlight=False, soft_wrap=not sys.stdout.isatty(), width=_width(sys.stdout))
        self.err = RichConsole(highlight=False, stderr=True, width=_width(sys.stderr))

    def answer(self, value: Any, *shown: RenderableType | Callable[[], RenderableType]) -> None:
        """Print ``value`` as JSON, or for people what stands after it."""
        self._has_answered = True
        if self.as_json:
            sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
            return
        for item in shown:
            self.out.print(item() if callable(item) else item)

    def remark(self, text: str, style: str = "") -> None:
        """A line for people only."""
        if not self.as_json:
            self.err.print(Text(text, style))

    def fail(self, error: MoverError) -> None:
        """What happened, to what, why, and what to do. After a JSON answer nothing: it names its failures itself."""
        if self.as_json:
            if self._has_answered:
                return
            sys.stdout.write(orjson.dumps({"error": error.as_dict()}, option=orjson.OPT_INDENT_2, default=str).decode())
            sys.stdout.write("\n")
            return
        self.err.print(Text.assemble(("error: ", "bold red"), error.message, (f"  [{error.code}]", "dim")))
        self.err.print(Text.assemble(("  do:  ", "bold"), error.remedy))
        for line in _facts(error.facts):
            self.err.print(Text(f"       {line}", "dim"))


def _facts(facts: dict[str, Any]) -> Iterable[str]:
    for key, value in facts.items():
        if value not in (None, "", [], {}):
            yield f"{key.replace('_', ' ')}: {value}"


def _width(stream: Any) -> int | None:
    """Pipes get 80 columns; a terminal its own."""
    return None if stream.isatty() else 80


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
