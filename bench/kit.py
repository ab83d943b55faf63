"""The frame around every script of the kit: its options, its room on disk, its end.

Whatever ends it (an error, a full disk, Ctrl-C, SIGTERM), its folders and devices are removed, a
result file is whole or not there, and the user is told in words.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bench import words
from bench.results import Better, Param, Results, Series, Unit, write
from mover.clock import stopwatch
from mover.errors import MoverError, SpaceShort, UsageError
from mover.units import GIB, format_size

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE.json", help="Write the results there.")]
Quick = Annotated[bool, typer.Option("--quick", help="Tiny sizes: shows that it works, measures nothing.")]
Folder = Annotated[Path | None, typer.Option("--folder", help="Where it works; default: the temporary folder.")]
Samples = Annotated[int, typer.Option("--samples", min=1, help="How often each thing is measured.")]

ROOT = Path(__file__).resolve().parent.parent
_ROOM = 64 << 20
"""Left free beside what a bench asks for: nobody else's disk is filled up."""


class Bench:
    """One run: collects samples and says each series as it is complete."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def add(self, name: str, sample: float, unit: Unit, better: Better, **params: Param) -> Series:
        return self.results.add(name, sample, unit, better, **params)

    def say(self, text: str) -> None:
        """Progress, for a person."""
        typer.echo(text, err=True)

    def note(self, text: str) -> None:
        """What a reader of the results must know; said at once too."""
        if text not in self.results.notes:
            self.say(f"note: {text}")
        self.results.note(text)


@contextmanager
def bench(name: str, out: Path | None, *, quick: bool, shows: bool = True, **settings: Any) -> Iterator[Bench]:
    """Everything that a script does: its results are printed (if it shows them), and written if ``out`` is given."""
    with said_in_words(), ended_by_sigterm():
        if out is not None:
            check_place(out)
        run = Bench(Results.begin(name, f"python -m bench.{name} {' '.join(sys.argv[1:])}".strip(), **settings))
        if quick:
            run.note("a quick run: the sizes are too small for figures")
        machine = run.results.machine
        if machine.load_before > machine.cores / 2:
            run.note(
                f"other work goes on, a load of {machine.load_before:g} on {machine.cores} cores: wall seconds, "
                "rates and shares of a limit say little; CPU seconds say more"
            )
        started = stopwatch()
        yield run
        results = run.results
        results.seconds = round(stopwatch() - started, 3)
        results.machine.load_after = round(os.getloadavg()[0], 2)
        if shows:
            typer.echo(words.table(results))
        if out is not None:
            write(out, results)


@contextmanager
def said_in_words() -> Iterator[None]:
    """What a user can meet ends with a sentence and an exit code, never with a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        _end("Stopped before the end: nothing was written.", 130)
    except MoverError as error:
        _end(f"{error.message}\n{error.remedy}", error.exit_code)
    except subprocess.CalledProcessError as error:
        words_of_it = (error.stderr or "").strip().splitlines()[-3:]
        shown = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd))
        _end("\n".join([f"This failed with exit code {error.returncode}: {shown}", *words_of_it]), 1)
    except OSError as error:
        _end_by(error)
    except BaseExceptionGroup as group:
        cause = _first(group)
        if isinstance(cause, MoverError):
            _end(f"{cause.message}\n{cause.remedy}", cause.exit_code)
        if isinstance(cause, OSError):
            _end_by(cause)
        raise


def _end(text: str, code: int) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(code) from None


def _end_by(error: OSError) -> NoReturn:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
        raise error
    place = f" ({error.filename})" if error.filename else ""
    _end(f"{error.strerror}{place}: nothing was written.\nName another --folder or --out, or make room.", 1)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM as Ctrl-C: devices and folders are let go of."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def check_place(out: Path) -> None:
    """Before anything is measured. Raises UsageError."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder", remedy="Name a file.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out.absolute().parent} does not exist", remedy="Make the folder, or name another --out.")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UsageError(f"{out.absolute().parent} cannot be written", remedy="Name another --out.")


@contextmanager
def work_folder(folder: Path | None, need_bytes: int) -> Iterator[Path]:
    """A folder of our own, removed at the end. Raises SpaceShort, UsageError before anything is written."""
    place = folder or Path(tempfile.gettempdir())
    try:
        place.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="mover-bench-", dir=place, ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError(f"{place} cannot be used: {error.strerror}", remedy="Name another --folder.") from None
    with made as name:
        check_room(place, need_bytes)
        yield Path(name)


def check_room(place: Path, need_bytes: int) -> None:
    """Before anything is written. Raises SpaceShort."""
    free = shutil.disk_usage(place).free
    if free < need_bytes + _ROOM:
        raise SpaceShort(
            f"{place} has {format_size(free)} free, this needs {format_size(need_bytes + _ROOM)}",
            remedy="Name another --folder, or smaller sizes.",
        )


class Spent:
    """Wall and CPU seconds of this process within the block; all its threads."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def __enter__(self) -> Spent:
        self._cpu, self._began = process_cpu_s(), stopwatch()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s, self.cpu_s = stopwatch() - self._began, process_cpu_s() - self._cpu

    def rate(self, size_bytes: int) -> float:
        return size_bytes / self.wall_s

    def cpu_s_per_gib(self, size_bytes: int) -> float:
        return self.cpu_s / (size_bytes / GIB)


def process_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def thread_counts(cores: int) -> list[int]:
    """1, 2, 4 … up to the cores, and these."""
    return sorted({1 << n for n in range(cores.bit_length()) if 1 << n <= cores} | {cores})


def settings_of(**given: Any) -> dict[str, Any]:
    """For ``settings`` of the results: paths as text, the rest as it is."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
