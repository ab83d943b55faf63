"""Live progress of every disk: bytes, rate, time left with its error. A line per phase where no terminal is."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.text import Text

from mover.clock import Clock, SystemClock
from mover.operations.progress import Progress as Event
from mover.operations.progress import ProgressSink
from mover.units import format_duration, format_rate, format_size

ENDED = "done"
_SAMPLES = 30
_NAME_COLUMNS = 20
_BAR_COLUMNS = 8
_PREPARING = "connect"


class Pace:
    """How fast a disk goes, and when it will be through: from its last half minute. Pure."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._first: tuple[float, int] | None = None

    def add(self, at_s: float, done_bytes: int) -> None:
        """A new sample; going backwards (another pass over the disk) begins anew."""
        if self._samples and done_bytes < self._samples[-1][1]:
            self._samples.clear()
            self._first = None
        self._first = self._first or (at_s, done_bytes)
        self._samples.append((at_s, done_bytes))

    @property
    def rate(self) -> float:
        """Bytes a second over the samples kept; 0 until there are two."""
        return _slope(self._samples[0], self._samples[-1]) if len(self._samples) > 1 else 0.0

    @property
    def mean_rate(self) -> float:
        """Bytes a second from the first sample to the last."""
        return _slope(self._first, self._samples[-1]) if self._first and len(self._samples) > 1 else 0.0

    def left_s(self, total_bytes: int) -> tuple[float, float] | None:
        """Seconds left and their standard error; None while nothing can be said."""
        rate = self.rate
        if rate <= 0 or len(self._samples) < 3:
            return None
        seconds = (total_bytes - self._samples[-1][1]) / rate
        points = list(self._samples)
        steps = [_slope(one, two) for one, two in itertools.pairwise(points)]
        spread = statistics.stdev(steps) / math.sqrt(len(steps)) / rate
        return seconds, seconds * spread


def _slope(one: tuple[float, int], two: tuple[float, int]) -> float:
    passed = two[0] - one[0]
    return (two[1] - one[1]) / passed if passed > 0 else 0.0


class LiveDisks:
    """Turns events into rows of a live display: a row per disk, and one per VM while it has no disk at work."""

    def __init__(self, display: Progress, clock: Clock) -> None:
        self._display = display
        self._clock = clock
        self._rows: dict[tuple[str, str, str | None], TaskID] = {}
        self._paces: dict[TaskID, Pace] = {}
        self._waiting: TaskID | None = display.add_task("mover", total=None, phase=_PREPARING)

    def __call__(self, event: Event) -> None:
        if self._waiting is not None:
            self._display.remove_task(self._waiting)
            self._waiting = None
        row = self._row(event.job, event.vm, event.disk)
        if event.disk is not None:
            self._hide(event.job, event.vm)
        pace = self._paces[row]
        if event.planned_bytes:
            pace.add(self._clock.monotonic(), event.done_bytes)
            self._display.update(row, total=event.planned_bytes, completed=event.done_bytes)
        self._display.update(row, phase=event.phase, visible=True, pace=_pace_words(event, pace))

    def _row(self, job: str, vm: str, disk: str | None) -> TaskID:
        key = (job, vm, disk)
        if key not in self._rows:
            row = self._rows[key] = self._display.add_task(label(vm, disk), total=None, phase="", pace=("", ""))
            self._paces[row] = Pace()
        return self._rows[key]

    def _hide(self, job: str, vm: str) -> None:
        row = self._rows.get((job, vm, None))
        if row is not None:
            self._display.update(row, visible=False)


def _pace_words(event: Event, pace: Pace) -> tuple[str, str]:
    """Rate, and time left with its error where that is a second or more."""
    if event.phase == ENDED:
        return (format_rate(pace.mean_rate) if pace.mean_rate else "", "")
    left = pace.left_s(event.planned_bytes) if event.planned_bytes else None
    if left is None:
        return (format_rate(pace.rate) if pace.rate else "", "")
    seconds, error = left
    about = f" ±{format_duration(error)}" if error >= 1 else ""
    return (format_rate(pace.rate), f"{format_duration(seconds)}{about}")


class PhaseLines:
    """One line per disk and phase, for logs and pipes."""

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._phases: dict[tuple[str, str, str | None], str] = {}
        self._reasons: dict[tuple[str, str, str | None], str] = {}

    def __call__(self, event: Event) -> None:
        key = (event.job, event.vm, event.disk)
        if self._phases.get(key) == event.phase:
            return
        self._phases[key] = event.phase
        amount = f"  {format_size(event.planned_bytes)}" if event.planned_bytes else ""
        is_news = event.reason and self._reasons.get(key) != event.reason
        why = f"  {event.reason}" if is_news else ""
        if is_news:
            self._reasons[key] = event.reason
        name = f"{event.vm} {event.disk}" if event.disk else event.vm
        self._console.print(f"{name}  {event.phase}{amount}{why}", markup=False)


def label(vm: str, disk: str | None) -> str:
    """VM and disk in a fixed width; a long VM name loses its middle, never the disk."""
    room = _NAME_COLUMNS - (len(disk) + 1 if disk else 0)
    if len(vm) > room:
        head = (room - 1) // 2
        vm = f"{vm[:head]}…{vm[len(vm) - (room - 1 - head) :]}"
    return f"{vm} {disk}" if disk else vm


class _Cell(ProgressColumn):
    """Text of a row at a fixed width, so that nothing jumps. words: a row's text."""

    max_refresh = None

    def __init__(self, columns: int, words: Callable[[Task], str], *, right: bool = False) -> None:
        super().__init__()
        self._columns = columns
        self._words = words
        self._is_right = right

    def render(self, task: Task) -> Text:
        text = self._words(task)[: self._columns]
        return Text(text.rjust(self._columns) if self._is_right else text.ljust(self._columns), no_wrap=True)


def _amount(task: Task) -> str:
    return f"{format_size(task.completed)}/{format_size(task.total)}" if task.total else ""


def _paced(part: int) -> Callable[[Task], str]:
    """Of what ``_pace_words`` gave: 0 the rate, 1 the time left."""
    return lambda task: str(task.fields.get("pace", ("", ""))[part])


class _Bar(ProgressColumn):
    """A bar only where there is something to fill."""

    def render(self, task: Task) -> RenderableType:
        if not task.total:
            return Text(" " * _BAR_COLUMNS)
        return ProgressBar(total=task.total, completed=task.completed, width=_BAR_COLUMNS)


@contextmanager
def watching(console: RichConsole, *, quiet: bool, clock: Clock | None = None) -> Iterator[ProgressSink]:
    """A sink for the length of the block: live on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with make_display(console) as display:
            yield LiveDisks(display, clock or SystemClock())
    else:
        yield PhaseLines(console)


def make_display(console: RichConsole) -> Progress:
    """Rows of 79 columns; it vanishes at its end, since an answer follows."""
    return Progress(
        _Cell(_NAME_COLUMNS, lambda task: task.description),
        _Cell(8, lambda task: str(task.fields.get("phase", ""))),
        _Bar(),
        _Cell(17, _amount, right=True),
        _Cell(9, _paced(0), right=True),
        _Cell(12, _paced(1)),
        console=console,
        refresh_per_second=4,
        transient=True,
    )
