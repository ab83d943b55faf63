"""The one form in which every bench keeps what it measured, and how it is read and written.

README.md describes it. A file is whole or not there; a reader refuses what it does not know.
"""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from mover import __version__
from mover.clock import SystemClock, iso
from mover.errors import UsageError
from mover.files import write_whole

FORMAT = "mover-bench/1"
Param = str | int | float | bool
Unit = Literal["B/s", "s", "s/GiB", "us", "bytes", "bytes/h", "share", "ratio", "count"]
"""us: microseconds. share: 1 is all of it. ratio: so many times. s/GiB: CPU seconds."""
Better = Literal["higher", "lower", "neither"]
Key = tuple[str, tuple[tuple[str, Param], ...]]

_LIBRARIES = ("blake3", "zstandard", "cryptography", "numpy", "obstore")


class Record(BaseModel):
    """Part of a result file."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Series(Record):
    """One quantity under one set of circumstances, measured some times."""

    name: str = Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$")
    """What was measured: ``store.put.rate``."""
    params: dict[str, Param] = {}
    """Under which circumstances. Sizes in bytes end in ``_bytes``."""
    unit: Unit
    better: Better
    """neither: it explains others, nothing is won by it."""
    samples: list[FiniteFloat] = Field(min_length=1)
    """In the order in which they were taken."""
    in_order_of: str = ""
    """What the samples follow each other by (``round``), where their order is the matter."""
    target: float | None = None
    """What the median ought to reach: at least if higher is better, at most if lower."""

    @property
    def key(self) -> Key:
        """By what two runs are compared."""
        return self.name, tuple(sorted(self.params.items()))


class Machine(Record):
    processor: str
    cores: int
    memory_bytes: int
    kernel: str
    load_before: float
    """Average of the minute before: other work that went on."""
    load_after: float = 0.0


class Results(Record):
    """One run of one bench."""

    format: Literal["mover-bench/1"] = "mover-bench/1"
    bench: str
    """The script: ``store``."""
    command: str
    started_at: str
    """UTC, RFC 3339."""
    seconds: float = 0.0
    machine: Machine
    versions: dict[str, str]
    """mover, python, libraries, programs."""
    settings: dict[str, Any] = {}
    """What the bench was told, and the product's settings that matter."""
    notes: list[str] = []
    """What a reader must know: a program that was missing, a quick run."""
    series: list[Series] = []
    details: dict[str, Any] = {}
    """The bench's own; no tool reads it."""

    @classmethod
    def begin(cls, bench: str, command: str, **settings: Any) -> Self:
        """An empty one of this machine, now."""
        return cls(
            bench=bench,
            command=command,
            started_at=iso(SystemClock().now()),
            machine=machine(),
            versions=versions(),
            settings=settings,
        )

    def add(self, name: str, sample: float, unit: Unit, better: Better, **params: Param) -> Series:
        """One more sample of a series, which is made when it is the first."""
        wanted = name, tuple(sorted(params.items()))
        found = next((one for one in self.series if one.key == wanted), None)
        if found is None:
            found = Series(name=name, params=params, unit=unit, better=better, samples=[sample])
            self.series.append(found)
        else:
            found.samples.append(sample)
        return found

    def note(self, text: str) -> None:
        """Once each."""
        if text not in self.notes:
            self.notes.append(text)


def machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        load_before=round(os.getloadavg()[0], 2),
    )


def versions() -> dict[str, str]:
    found = {"mover": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        found[name] = metadata.version(name)
    return found


def _processor() -> str:
    rows = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((row.split(":", 1)[1].strip() for row in rows if row.startswith("model name")), platform.machine())


def read(path: Path) -> Results:
    """One file. Raises UsageError when it is none of ours."""
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", remedy="Name a file made with --out.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"{path} is no result of a bench: {place}: {first['msg']}",
            remedy=f"Name a file in the form {FORMAT}, made with --out.",
        ) from None


def read_all(path: Path) -> list[Results]:
    """One file, or every ``*.json`` of a folder: runs of the same benches. Raises UsageError."""
    if not path.is_dir():
        return [read(path)]
    found = [read(one) for one in sorted(path.glob("*.json"))]
    if not found:
        raise UsageError(f"There is no *.json in {path}", remedy="Name a folder with results, or one file.")
    return found


def write(path: Path, results: Results) -> None:
    """Whole or not at all. Raises UsageError when there is no place for it."""
    text = json.dumps(results.model_dump(mode="json"), indent=1, allow_nan=False)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", remedy="Name another --out.") from None
