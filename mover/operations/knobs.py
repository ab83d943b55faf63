"""Which settings a search may turn, and to what.

Only those that can be changed from one backup to the next. ``data.block_size`` is not among them:
another size makes the next backup of every disk a full one and stores all of it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from mover.config import Settings
from mover.errors import UsageError
from mover.operations.tuning import BACKUP, PHASES, RESTORE, Knob
from mover.units import KIB, MIB

_SIZES = {"data.read_size", "data.budget", "repository.pack_size"}
_OF_STORE = {"repository.uploads", "repository.pack_size"}


def knobs(settings: Settings, *, cores: int, only: Sequence[str], is_folder: bool) -> list[Knob]:
    """All of them, or the named ones. Raises UsageError for a name that is none.

    is_folder: the repository lies in a folder, as the trial's does. What a distant store likes cannot be
    measured with one, so its settings are then left alone.
    """
    every = _all(settings, cores)
    unknown = sorted(set(only) - {knob.name for knob in every})
    if unknown:
        names = ", ".join(knob.name for knob in every)
        raise UsageError(f"{unknown[0]} is no setting that can be tuned", remedy=f"Use one of {names}.")
    found = [knob for knob in every if (is_folder or knob.name not in _OF_STORE) and (not only or knob.name in only)]
    if not found:
        raise UsageError(
            "Uploads and packs can be tuned for a folder only; this repository is in another store",
            remedy="Try values with 'mover backup -s repository.uploads=8'.",
        )
    return found


def _all(settings: Settings, cores: int) -> list[Knob]:
    data, repository = settings.data, settings.repository
    threads = {max(1, cores - 1), cores + 1}
    return [
        _knob("data.readers", data.readers, (1, 2, 4, 8, 16), BACKUP),
        _knob("data.compute_threads", data.compute_threads, sorted(threads), BACKUP),
        _knob("data.read_size", data.read_size, (MIB, 4 * MIB, 8 * MIB), BACKUP),
        _knob("data.level", data.level, (-1, 1), BACKUP),
        _knob("data.budget", data.budget, (64 * MIB, 128 * MIB, 256 * MIB), *PHASES),
        _knob("data.restore_threads", data.restore_threads, (2, 4, 6, 12), RESTORE),
        _knob("repository.uploads", repository.uploads, (1, 2, 4), BACKUP),
        _knob("repository.pack_size", repository.pack_size, (16 * MIB, 32 * MIB, 64 * MIB), *PHASES),
    ]


def _knob(name: str, present: int, values: Sequence[int], *phases: str) -> Knob:
    return Knob(name, present, tuple(value for value in values if value != present), phases)


def with_change(settings: Settings, change: Sequence[tuple[str, int]]) -> Settings:
    """The settings with these values instead."""
    for name, value in change:
        section, key = name.split(".")
        changed = getattr(settings, section).model_copy(update={key: value})
        settings = settings.model_copy(update={section: changed})
    return settings


def written(name: str, value: int) -> int | str:
    """As a person writes it in a settings file: sizes with their unit."""
    if name in _SIZES and value % KIB == 0:
        return f"{value // MIB}MiB" if value % MIB == 0 else f"{value // KIB}KiB"
    return value
