"""``bench plan``: nodes, cores, network and repository for a daily backup, from figures measured here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from mover.cli.bench import measure
from mover.cli.run import Session
from mover.cli.tables import grid
from mover.errors import UsageError
from mover.operations.sizing import DAY_S, Figures, Plan, Wish, plan
from mover.units import format_duration, format_rate, format_size, parse_duration

_TB = 1e12
_HOUR_S = 3600.0


async def show_plan(session: Session, wish: Wish, *, figures: Path | None, folder: Path | None, size: str) -> None:
    """Measure, or read what was measured, and print what it means for the wish."""
    answer = read_figures(figures) if figures else await measure(session, folder, size)
    found = Figures.of(answer)
    planned = plan(found, wish)
    value = {"wish": asdict(wish), "figures": asdict(found), **asdict(planned)}
    lines = [Text(f"- {line}", "dim") for line in planned.assumptions]
    session.console.answer(value, _table(planned, wish), Text(f"Bottleneck: {planned.bottleneck}.", "bold"))
    session.console.show(Text("Assumed:"), *lines)


def read_figures(path: Path) -> dict[str, Any]:
    """What ``mover bench --json`` printed. Raises UsageError."""
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", remedy="Name a readable --figures.") from None
    except orjson.JSONDecodeError as error:
        raise UsageError(
            f"{path} is not JSON: {error}", remedy="Name a file that holds what 'mover bench --json' printed."
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no figures", remedy="Name a file that holds what 'mover bench --json' printed.")
    return found


def read_wish(
    session: Session, *, vms: int, tb: float, change: str, window: str, retention: str, per_vm: str, cores: int | None
) -> Wish:
    """As it was typed. Raises UsageError."""
    if cores is not None and cores < 1:
        raise UsageError("--cores must be 1 or more", remedy="Correct --cores, or leave it out.")
    return Wish(
        vms=vms,
        data_bytes=tb * _TB,
        change=_share("--change", change),
        window_s=_seconds(window, _HOUR_S),
        retention_days=_seconds(retention, DAY_S) / DAY_S,
        vms_together=session.settings.limits.vms,
        per_vm_s=parse_duration(per_vm),
        cores=cores or 0,
    )


def _seconds(text: str, unit_s: float) -> float:
    """``8`` in the unit of the option, or ``8h``, ``90m``."""
    try:
        return float(text) * unit_s
    except ValueError:
        return parse_duration(text)


def _share(name: str, text: str) -> float:
    """``3%`` or ``0.03``."""
    number = text.strip()
    try:
        return float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"{name} {text}: no share", remedy=f"Write {name} 3% or {name} 0.03.") from None


def _table(planned: Plan, wish: Wish) -> Table:
    table = grid("what", "how much")
    for name, words in _rows(planned, wish):
        table.add_row(name, words)
    return table


def _rows(planned: Plan, wish: Wish) -> list[tuple[str, str]]:
    return [
        ("nodes", f"{planned.nodes}, each {planned.cores} cores and {format_size(planned.memory_bytes)} for mover"),
        ("daily run", f"{format_duration(planned.run_s)} of {format_duration(wish.window_s)}"),
        ("read a day", f"{format_size(planned.new_bytes)} new, {format_size(planned.check_bytes)} to compare"),
        ("read rate", f"{format_rate(planned.read_rate)} over the window, all nodes"),
        ("to the store", f"{format_rate(planned.store_rate)} over the window, all nodes; {_bits(planned)} a node"),
        ("first full", f"{format_duration(planned.first_full_s)} of work: {planned.first_full_windows} windows"),
        (
            "repository",
            f"{format_size(planned.first_bytes)} at first, {format_size(planned.daily_bytes)} a day more, "
            f"{format_size(planned.kept_bytes)} with {wish.retention_days:g} days kept",
        ),
        ("restore of all", f"{format_duration(planned.restore_s)} with these nodes"),
    ]


def _bits(planned: Plan) -> str:
    return f"at most {planned.node_store_rate * 8 / 1e9:.2g} Gbit/s"
