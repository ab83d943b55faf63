"""``bench tune``: the search for better settings, on a sample or a disk of the user's, with what it found."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mover.app import nodes
from mover.cli import settings_file
from mover.cli.bench import checked, init, make_sample, own_settings, sample_size
from mover.cli.console import Console
from mover.cli.run import Session
from mover.cli.tables import grid
from mover.cli.trial import Trial, measured
from mover.clock import Clock, SystemClock
from mover.config import Settings
from mover.device.direct import DirectDevice
from mover.device.protocol import ReadableDevice
from mover.errors import DeviceRefused, UsageError
from mover.model.region import Regions
from mover.operations.knobs import knobs, with_change, written
from mover.operations.tuning import BACKUP, PRESENT, RESTORE, Change, Cost, Finding, Search, Verdict
from mover.settings import check_file
from mover.units import MIB, format_duration, format_size, parse_duration

_LEAST_S = 10.0
_ROOM = 3.0
"""In sizes of what is read: sample, what is stored of it, restored copy."""
_STRIDE_BYTES = 64 * MIB
_WORDS = {"screen": "looking at each value", "confirm": "confirming the best", "together": "trying all of it at once"}


@dataclass(frozen=True, slots=True)
class Wish:
    """As it was typed."""

    folder: Path | None
    size: str
    device: Path | None
    time: str
    only: tuple[str, ...]
    write: Path | None


async def tune(session: Session, wish: Wish) -> None:
    """Search, print, and write where that was asked. Interrupted, it prints what it has and writes nothing."""
    before = _read(wish.write) if wish.write else ""
    seconds, size_bytes = parse_duration(wish.time), sample_size(wish.size)
    if seconds < _LEAST_S:
        raise UsageError(f"In {format_duration(seconds)} nothing can be found", remedy="Use --time 5m or more.")
    url = session.settings.repository.url
    turned = knobs(session.settings, cores=_cores(), only=wish.only, is_folder="://" not in url)
    if wish.write:
        settings_file.require_editable(wish.write, before, [knob.name for knob in turned])
    place = checked(wish.folder or Path(tempfile.gettempdir()), int(size_bytes * _ROOM))
    clock = SystemClock()
    until = clock.monotonic() + seconds
    search: Search | None = None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mover-tune-", dir=place) as name,
            _source(Path(name), wish.device, size_bytes, session.console) as (device, regions),
        ):
            runs = await Runs.prepared(session.settings, Path(name), device, regions, clock)
            search = Search(
                knobs=turned,
                measure=runs.measure,
                left=lambda: (until - clock.monotonic()) / seconds,
                dice=clock.random(),
                tell=_teller(session.console, clock, until),
            )
            await search.run()
    except asyncio.CancelledError:
        if search:
            _answer(session, search.finding(), "Interrupted: what was found until then. Nothing was written.")
        raise
    finding = search.finding()
    _answer(session, finding, "" if finding.is_complete else "The time was over before all was measured.")
    if wish.write:
        _write(session, wish.write, before, finding)


def _read(path: Path) -> str:
    """The settings file that is to be changed. Raises UsageError for one that mover would not take."""
    text = settings_file.read_text(path)
    if text:
        check_file(path)
    return text


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _source(
    work: Path, device: Path | None, size_bytes: int, console: Console
) -> Iterator[tuple[ReadableDevice, Regions]]:
    """What is backed up: a sample made here, or parts from all over a disk."""
    if device is None:
        console.remark(f"A sample disk of {format_size(size_bytes)} is made in {work} …")
        sample = make_sample(work, size_bytes)
        with _opened(sample.path) as opened:
            yield opened, sample.allocated
        return
    with _opened(device) as opened:
        excerpt = Excerpt(opened, size_bytes)
        console.remark(f"{format_size(excerpt.size_bytes)} of {device} are read, from all over it; it is not written.")
        yield excerpt, Regions.whole(excerpt.size_bytes)


def _opened(path: Path) -> DirectDevice:
    try:
        return DirectDevice.open_source(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}",
            remedy="Name a raw image or a disk that nobody has mounted; disks need root. Without --device a sample "
            "is made.",
        ) from None
    except DeviceRefused as error:
        raise UsageError(f"{path} cannot be used: {error}", remedy=error.remedy) from None


class Excerpt:
    """Parts of a device at even distances, as one smaller device; read only."""

    def __init__(self, device: ReadableDevice, size_bytes: int) -> None:
        self._device = device
        self.size_bytes = min(size_bytes, device.size_bytes // MIB * MIB)
        if self.size_bytes == 0:
            raise UsageError(f"{device.name} is smaller than 1 MiB", remedy="Name a larger --device.")
        parts = -(-self.size_bytes // _STRIDE_BYTES)
        self._step_bytes = device.size_bytes // parts // MIB * MIB if parts > 1 else 0

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def sector_bytes(self) -> int:
        return self._device.sector_bytes

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        """Fill the buffer, across parts where it must."""
        done = 0
        while done < len(buffer):
            part, within = divmod(offset_bytes + done, _STRIDE_BYTES)
            length = min(len(buffer) - done, _STRIDE_BYTES - within)
            self._device.read_into(buffer[done : done + length], part * self._step_bytes + within)
            done += length

    def close(self) -> None:
        self._device.close()


@dataclass(slots=True)
class Runs:
    """Backups, and restores of them, each into a repository of its own that is gone afterwards."""

    settings: Settings
    work: Path
    device: ReadableDevice
    regions: Regions
    clock: Clock

    @classmethod
    async def prepared(
        cls, settings: Settings, work: Path, device: ReadableDevice, regions: Regions, clock: Clock
    ) -> Runs:
        """With an empty repository to copy for each run, and one run behind: the first pays for what libraries load."""
        own = own_settings(settings, work)
        await init(own, clock)
        shutil.move(own.repository.url, work / "empty")
        runs = cls(own, work, device, regions, clock)
        await runs.measure(PRESENT, (BACKUP, RESTORE))
        return runs

    async def measure(self, change: Change, phases: tuple[str, ...]) -> Cost:
        """Seconds of each phase, from opening a session to what is durable."""
        settings = with_change(self.settings, change)
        repository = Path(settings.repository.url)
        try:
            shutil.copytree(self.work / "empty", repository)
            async with nodes.reading_node(settings, clock=self.clock) as node:
                trial, seconds = Trial(node), {}
                async with measured(self.clock) as load:
                    point, facts = await trial.back_up(self.device, self.regions)
                seconds[BACKUP] = load.seconds
                if RESTORE in phases:
                    async with measured(self.clock) as load:
                        await trial.restore(point, self.work / "restored.raw")
                    seconds[RESTORE] = load.seconds
            return Cost(seconds, facts["bytes_stored"])
        finally:
            (self.work / "restored.raw").unlink(missing_ok=True)
            for folder in (repository, self.work / "cache", self.work / "state"):
                shutil.rmtree(folder, ignore_errors=True)


def _teller(console: Console, clock: Clock, until: float) -> Any:
    def tell(stage: str, number: int, runs: int) -> None:
        left_s = max(0.0, until - clock.monotonic())
        console.remark(f"{_WORDS[stage]}, round {number}: {runs} runs; at most {format_duration(left_s)} left")

    return tell


def _write(session: Session, path: Path, before: str, finding: Finding) -> None:
    """Show what changes, then change it."""
    values = _values(finding.change)
    if not values:
        session.console.remark(f"{path} stays as it is.")
        return
    after = settings_file.edited(path, before, values)
    session.console.remark(settings_file.difference(path, before, after))
    settings_file.replace(path, after)
    for name in values:
        variable = f"MOVER_{name.replace('.', '__').upper()}"
        if variable in os.environ:
            session.console.remark(f"{variable} is set, and wins over the file.", "yellow")


def _values(change: Change) -> dict[str, int | str]:
    return {name: written(name, value) for name, value in change}


def _answer(session: Session, finding: Finding, remark: str) -> None:
    shown: list[RenderableType] = []
    if finding.looked_at:
        shown.append(_table(finding))
    if finding.verdict is None:
        shown.append(Text(f"The settings stay as they are: {_why_none(finding)}.", "bold"))
    else:
        shown.append(Text(f"All of it together: {_gain(finding.verdict)}.", "bold"))
        shown.append(Text(settings_file.lines_of(_values(finding.change))))
    shown += [Text(line, "dim") for line in _notes(finding)]
    if remark:
        shown.append(Text(remark, "yellow"))
    session.console.answer(_as_json(finding, remark), *shown)


def _why_none(finding: Finding) -> str:
    """A search that was cut short has shown nothing, also not that nothing is better."""
    return "nothing was faster beyond the noise" if finding.is_complete else "too little was measured to propose others"


def _gain(verdict: Verdict) -> str:
    return (
        f"{verdict.gain:.0%} less time ({verdict.low:.0%} to {verdict.high:.0%}), confidence {verdict.confidence:.0%}"
    )


def _table(finding: Finding) -> Table:
    names = ("setting", "value", "saves", "90 %", "confidence", "noise", "")
    table = grid(*names, right=names[1:6], whole=("setting",))
    for one in finding.looked_at:
        name, value = one.change[0]
        is_kept = (name, value) in finding.change
        table.add_row(
            name,
            str(written(name, value)),
            f"{one.gain:.1%}",
            f"{one.low:.0%} … {one.high:.0%}",
            f"{one.confidence:.0%}",
            f"{one.noise:.1%}",
            "taken" if is_kept else "not proven",
        )
    return table


def _notes(finding: Finding) -> Iterator[str]:
    for one in finding.bargains:
        name, value = one.change[0]
        yield (
            f"{name}: {written(name, value)} looked {one.gain:.0%} faster and stored {one.stored_ratio - 1:.0%} more: "
            "yours to decide."
        )
    for change, why in finding.failed.items():
        yield f"{', '.join(f'{name}: {written(name, value)}' for name, value in change)} cannot be: {why}"
    yield (
        "Measured: full backup and restore of one disk, to a folder. data.block_size is not searched: "
        "another one makes the next backup of every disk a full one."
    )


def _as_json(finding: Finding, remark: str) -> dict[str, Any]:
    return {
        "settings": _values(finding.change),
        "together": _shown(finding.verdict) if finding.verdict else None,
        "looked_at": [_shown(one) for one in finding.looked_at],
        "bargains": [_shown(one) for one in finding.bargains],
        "failed": [{"settings": _values(change), "why": why} for change, why in finding.failed.items()],
        "is_complete": finding.is_complete,
        "remark": remark,
    }


def _shown(verdict: Verdict) -> Mapping[str, Any]:
    return {
        "settings": _values(verdict.change),
        "gain": verdict.gain,
        "interval": [verdict.low, verdict.high],
        "confidence": verdict.confidence,
        "noise": verdict.noise,
        "stored_ratio": verdict.stored_ratio,
        "rounds": verdict.rounds,
    }
