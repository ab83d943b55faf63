"""Where answers go: tables for people on standard output, JSON for programs with ``--json``.

One command prints one answer. Progress and remarks go to standard error, so that a pipe
gets the answer alone. On a terminal lines are wrapped; in a pipe they are left whole.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from mover.errors import MoverError

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType

    Shown = RenderableType | Callable[[], RenderableType]

INTERNAL_EXIT = 70
"""EX_SOFTWARE: a defect of ours, not a failure that we foresaw."""
INTERRUPTED_EXIT = 130
"""128 + SIGINT, as shells have it."""
STOPPED_EXIT = 143
"""128 + SIGTERM."""


class Console:
    """Answers, remarks and errors of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._has_answered = False

    # Opened when something is first shown: to load what shows it takes a tenth of a second.

    @cached_property
    def out(self) -> RichConsole:
        """Standard output."""
        from mover.cli.terminal import opened

        return opened(sys.stdout)

    @cached_property
    def err(self) -> RichConsole:
        """Standard error."""
        from mover.cli.terminal import opened

        return opened(sys.stderr, stderr=True)

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
                self._print(item() if callable(item) else item)

    def _print(self, item: RenderableType) -> None:
        if self.out.is_terminal:
            self.out.print(item)
            return
        with self.out.capture() as held:
            self.out.print(item)
        # A table fills its last column with spaces.
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in held.get().splitlines()))

    def remark(self, text: str, style: str = "") -> None:
        """A line for people only."""
        if not self.as_json:
            self.err.print(text, style=style)

    def fail(self, error: MoverError) -> None:
        """What happened, to what, why, and what to do. After a JSON answer nothing: it names its failures itself."""
        if not self.as_json:
            from mover.cli.terminal import explain

            explain(self.err, error)
        elif not self._has_answered:
            _print_json({"error": error.as_dict()})


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
