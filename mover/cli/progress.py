"""Live progress of every disk: bytes, rate, time left. A line per phase where no terminal is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mover.operations.progress import Progress as Event
from mover.operations.progress import ProgressSink
from mover.units import format_size


class LiveDisks:
    """Turns events into rows of a live display."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._rows: dict[tuple[str, str | None], TaskID] = {}

    def __call__(self, event: Event) -> None:
        key = (event.vm, event.disk)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._display.add_task(_label(event), total=None, phase=event.phase)
        if event.planned_bytes:
            self._display.update(row, total=event.planned_bytes, completed=event.done_bytes)
        self._display.update(row, phase=event.phase, visible=event.disk is not None or not self._has_disks(event.vm))

    def _has_disks(self, vm: str) -> bool:
        return any(name == vm and disk is not None for name, disk in self._rows)


class PhaseLines:
    """One line per disk and phase, for logs and pipes."""

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._phases: dict[tuple[str, str | None], str] = {}

    def __call__(self, event: Event) -> None:
        key = (event.vm, event.disk)
        if self._phases.get(key) == event.phase:
            return
        self._phases[key] = event.phase
        amount = f"  {format_size(event.planned_bytes)}" if event.planned_bytes else ""
        self._console.print(f"{_label(event)}  {event.phase}{amount}", markup=False)


def _label(event: Event) -> str:
    return f"{event.vm} {event.disk}" if event.disk else event.vm


@contextmanager
def watching(console: RichConsole, *, quiet: bool) -> Iterator[ProgressSink]:
    """A sink for the length of the block: live on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _display(console) as display:
            yield LiveDisks(display)
    else:
        yield PhaseLines(console)


def _display(console: RichConsole) -> Progress:
    return Progress(
        TextColumn("{task.description:<16.16}"),
        TextColumn("{task.fields[phase]:<9.9}"),
        BarColumn(bar_width=14),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        refresh_per_second=4,
        transient=False,
    )
