"""Results in words: values with their units, circumstances, one line a series."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from bench.results import Param, Results, Series, Unit
from mover.units import format_rate, format_size

SPEAKING = {"who", "operation", "of"}
"""Circumstances whose values need no name: ``mover, restore``."""
MANY = 20
"""From so many samples on, the spread is shown without its extremes."""


def value(number: float, unit: Unit) -> str:
    """``930 MB/s``, ``1.2 ms``, ``87 %``."""
    match unit:
        case "B/s":
            return format_rate(number) if number else "0"
        case "bytes":
            return format_size(number) if number else "0"
        case "bytes/h":
            return f"{format_size(number)}/h"
        case "s":
            return _seconds(number)
        case "us":
            return _seconds(number / 1e6)
        case "s/GiB":
            return f"{number:.2f} CPU s/GiB"
        case "share":
            return f"{number:.0%}" if abs(number) >= 0.1 or number == 0 else f"{number:.1%}"
        case "ratio":
            return f"{number:.2f} x"
        case "count":
            return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _seconds(number: float) -> str:
    if number == 0:
        return "0"
    for limit, factor, name in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if abs(number) < limit:
            shown = number * factor
            return f"{shown:.{0 if abs(shown) >= 100 else 1}f} {name}"
    return f"{number:.2f} s"


def circumstances(params: Mapping[str, Param]) -> str:
    """``by fio, depth 4, size 1.00 MiB``; empty for none."""
    return ", ".join(one(name, params[name]) for name in params)


def one(name: str, given: Param) -> str:
    """One of them: ``size_bytes`` → ``size 1 MiB``."""
    if name in SPEAKING:
        return str(given)
    if isinstance(given, bool):
        return name.replace("_", " ") if given else f"not {name.replace('_', ' ')}"
    if name.endswith("_bytes") and isinstance(given, int | float):
        return f"{plain(name)} {size(given)}"
    if name.endswith("_ms"):
        return f"{plain(name)} {given:g} ms" if isinstance(given, int | float) else f"{plain(name)} {given}"
    return f"{plain(name)} {given}"


def plain(name: str) -> str:
    """A parameter's name without its unit."""
    return name.removesuffix("_bytes").removesuffix("_ms").replace("_", " ")


def size(size_bytes: float) -> str:
    """``1 MiB``: without digits that say nothing."""
    return format_size(size_bytes).replace(".00 ", " ").replace(".0 ", " ")


def spread(series: Series) -> tuple[float, float]:
    """Smallest and largest sample; of many the 5th and 95th hundredth."""
    ordered = sorted(series.samples)
    if len(ordered) < MANY:
        return ordered[0], ordered[-1]
    hundredths = statistics.quantiles(ordered, n=100, method="inclusive")
    return hundredths[4], hundredths[94]


def is_met(series: Series) -> bool | None:
    """Whether the median reaches the target; None without one."""
    if series.target is None or series.better == "neither":
        return None
    median = statistics.median(series.samples)
    return median >= series.target if series.better == "higher" else median <= series.target


def measured(series: Series) -> str:
    """Median, and between which values it lay."""
    low, high = spread(series)
    text = value(statistics.median(series.samples), series.unit)
    if len(series.samples) > 1:
        text += f" ({value(low, series.unit)} to {value(high, series.unit)}, {len(series.samples)} samples)"
    return text


def goal(series: Series) -> str:
    """The target in words, and whether it is met."""
    if series.target is None:
        return ""
    least = "at least" if series.better == "higher" else "at most"
    return f"{least} {value(series.target, series.unit)}: {'met' if is_met(series) else 'MISSED'}"


def table(results: Results) -> str:
    """Every series on a line, then the notes."""
    rows = [(one.name, circumstances(one.params), measured(one), goal(one)) for one in results.series]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    ]
    return "\n".join([about(results), "", *lines, *(f"note: {note}" for note in results.notes)])


def about(results: Results) -> str:
    """The machine in one line."""
    machine = results.machine
    return (
        f"{results.bench} on {machine.processor}, {machine.cores} cores, {format_size(machine.memory_bytes)}, "
        f"Linux {machine.kernel}; load {machine.load_before:g} before, {machine.load_after:g} after"
    )
