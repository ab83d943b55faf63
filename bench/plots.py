"""Pictures of results: one per name, light or dark, as PNG.

What varies most becomes the axis, the rest the lines or bars. Points are medians; thin lines
reach from the smallest to the largest sample.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullLocator

from bench import words
from bench.results import Param, Results, Series

Theme = Literal["light", "dark"]

_INK = {"light": ("#1c2733", "#d9dee3", "#ffffff"), "dark": ("#e6e9ec", "#3d4852", "#161b20")}
"""Text, grid, ground. The ground is painted, so that a saved picture is readable anywhere."""
_COLOURS = {
    "light": ("#0b6bcb", "#c4500a", "#1a7f4b", "#8a3ffc", "#b0123b", "#00727f", "#6b5500", "#545f6b"),
    "dark": ("#5aa9ff", "#ff9b52", "#4fd18b", "#c39bff", "#ff7a93", "#43cfdc", "#e0c040", "#a9b4bf"),
}
_MARKS = "osD^vPX*"
LINES_MAX = 4
"""Of a panel: more are not told apart at a glance."""
_COLUMNS = 3
_TICKS = 6
_LEGEND_LETTERS = 84
"""Of a row of the legend, beside the title."""
_WIDTH = 8.6


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing: ``title`` and PNG bytes by theme; ``words`` says the same to who cannot see it."""

    title: str
    words: str
    png: dict[Theme, bytes]


def pictures(results: Results) -> Iterator[Picture]:
    """One for each name that has something to show: several circumstances, or an order."""
    for name in dict.fromkeys(series.name for series in results.series):
        same = [series for series in results.series if series.name == name]
        if len(same) == 1 and not same[0].in_order_of:
            continue
        png: dict[Theme, bytes] = {theme: _draw(name, same, theme) for theme in ("light", "dark")}
        yield Picture(name, _said(same), png)


def _said(same: Sequence[Series]) -> str:
    medians = [statistics.median(series.samples) for series in same]
    least, most = (words.value(pick(medians), same[0].unit) for pick in (min, max))
    return f"{same[0].name}: medians from {least} to {most} over {len(same)} circumstances"


def _draw(name: str, same: Sequence[Series], theme: Theme) -> bytes:
    ink, grid, ground = _INK[theme]
    style: dict[Any, Any] = {
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": grid,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.facecolor": ground,
        "figure.facecolor": ground,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": grid,
        "grid.linewidth": 0.6,
    }
    with mpl.rc_context(style):
        figure = _figure(same, theme)
        figure.suptitle(name, x=0.01, ha="left", fontweight="bold", fontsize=10)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=112, metadata={"Software": None})
    return content.getvalue()


def _figure(same: Sequence[Series], theme: Theme) -> Figure:
    axis = _axis(same)
    if same[0].in_order_of:
        figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
        _timeline(figure.add_subplot(), same, theme)
    elif axis is None:
        figure = Figure(figsize=(_WIDTH, max(1.5, 0.3 * len(same) + 1.0)), layout="constrained")
        _bars(figure.add_subplot(), same, theme)
    else:
        figure = _panels([series for series in same if axis in series.params], axis, theme)
    return figure


def _axis(same: Sequence[Series]) -> str | None:
    """The parameter of numbers with the most values, three at least; None: bars."""
    values: dict[str, set[Param]] = {}
    for series in same:
        for key, given in series.params.items():
            if isinstance(given, int | float) and not isinstance(given, bool):
                values.setdefault(key, set()).add(given)
    best = max(values, key=lambda key: len(values[key]), default=None)
    return best if best is not None and len(values[best]) >= 3 else None


def _constant(same: Sequence[Series]) -> set[str]:
    """Circumstances that are the same everywhere: said once, below."""
    return {key for key, given in same[0].params.items() if all(s.params.get(key) == given for s in same)}


def _label(series: Series, without: set[str]) -> str:
    return words.circumstances({key: given for key, given in series.params.items() if key not in without})


def _panels(same: Sequence[Series], axis: str, theme: Theme) -> Figure:
    """Lines over the axis; where they were too many, a panel for each value of the first circumstances."""
    common = _constant(same) | {axis}
    split: set[str] = set()
    for key in (key for key in same[0].params if key not in common):
        if len({_label(series, common | split) for series in same}) <= LINES_MAX:
            break
        split.add(key)
    titles = list(dict.fromkeys(words.circumstances(_only(series, split)) for series in same))
    columns = min(_COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(_WIDTH, 3.6 if rows == 1 else 2.4 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in grid[len(titles) :]:
        axes.set_axis_off()
    for axes, title in zip(grid, titles, strict=False):
        part = [series for series in same if words.circumstances(_only(series, split)) == title]
        _lines(axes, part, axis, common | split, theme)
        axes.set_title(title, loc="left", fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    if labels:
        columns = max(1, _LEGEND_LETTERS // (max(map(len, labels)) + 6))
        figure.legend(handles, labels, loc="outside upper right", ncols=columns, frameon=False, fontsize=9)
    said = [
        words.plain(axis) + (" (ms)" if axis.endswith("_ms") else ""),
        words.circumstances(_only(same[0], common - {axis})),
    ]
    figure.supxlabel("   |   ".join(text for text in said if text), fontsize=9)
    return figure


def _only(series: Series, keys: set[str]) -> dict[str, Param]:
    return {key: given for key, given in series.params.items() if key in keys}


def _lines(axes: Axes, same: Sequence[Series], axis: str, without: set[str], theme: Theme) -> None:
    groups: dict[str, list[Series]] = {}
    for series in same:
        groups.setdefault(_label(series, without), []).append(series)
    for number, (label, group) in enumerate(groups.items()):
        group.sort(key=lambda one: float(one.params[axis]))
        _points(axes, [float(one.params[axis]) for one in group], group, label, number % len(_MARKS), theme)
    _scale(axes, sorted({float(series.params[axis]) for series in same}), axis)
    _upright(axes, same)


def _points(
    axes: Axes, places: Sequence[float], group: Sequence[Series], label: str, number: int, theme: Theme
) -> None:
    colour = _COLOURS[theme][number]
    medians = [statistics.median(one.samples) for one in group]
    spreads = [words.spread(one) for one in group]
    below = [median - low for median, (low, _) in zip(medians, spreads, strict=True)]
    above = [high - median for median, (_, high) in zip(medians, spreads, strict=True)]
    axes.errorbar(
        places,
        medians,
        yerr=[[max(0.0, one) for one in below], [max(0.0, one) for one in above]],
        color=colour,
        marker=_MARKS[number],
        markersize=5,
        linewidth=1.6,
        elinewidth=0.8,
        capsize=2,
        label=label or None,
    )


def _scale(axes: Axes, places: Sequence[float], axis: str) -> None:
    """Ticks where something was measured; by powers where they lie so."""
    if places[0] > 0 and places[-1] / places[0] >= 8:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places)
    shown = words.size if axis.endswith("_bytes") else lambda place: f"{place:g}"
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: shown(place)))


def _bars(axes: Axes, same: Sequence[Series], theme: Theme) -> None:
    without = _constant(same)
    shown = list(reversed(same))
    medians = [statistics.median(series.samples) for series in shown]
    spreads = [words.spread(series) for series in shown]
    errors = [
        [max(0.0, median - low) for median, (low, _) in zip(medians, spreads, strict=True)],
        [max(0.0, high - median) for median, (_, high) in zip(medians, spreads, strict=True)],
    ]
    axes.barh(range(len(shown)), medians, color=_colours(shown, without, theme), height=0.62)
    if any(len(series.samples) > 1 for series in shown):
        style: dict[str, Any] = {"fmt": "none", "ecolor": _INK[theme][0], "elinewidth": 0.9, "capsize": 2}
        axes.errorbar(medians, range(len(shown)), xerr=errors, **style)
    axes.set_yticks(range(len(shown)), [_label(series, without) or series.name for series in shown])
    axes.grid(visible=False, axis="y")
    unit = same[0].unit
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: words.value(number, unit)))
    axes.xaxis.set_tick_params(labelsize=9)
    axes.set_xlim(left=min(0.0, *medians))
    axes.locator_params(axis="x", nbins=6)
    for place, series in enumerate(shown):
        if series.target is not None:
            axes.vlines(series.target, place - 0.45, place + 0.45, linestyles="--", linewidth=1.2, color=_INK[theme][0])
    if unit == "bytes":
        axes.xaxis.set_major_locator(_in_powers(axes.get_xlim()))
    _below(axes, same)


def _colours(shown: Sequence[Series], without: set[str], theme: Theme) -> list[str]:
    """One for each value of the first word that tells bars apart, where it is the same for some of them."""
    keys = [key for key, given in shown[0].params.items() if key not in without and isinstance(given, str)]
    values = [series.params.get(keys[0]) if keys else None for series in shown]
    names = sorted(set(values), key=str)
    if not 1 < len(names) < min(len(shown), len(_COLOURS[theme]) + 1):
        return [_COLOURS[theme][0]] * len(shown)
    return [_COLOURS[theme][names.index(value)] for value in values]


def _in_powers(limits: tuple[float, float]) -> MultipleLocator:
    """Ticks of bytes at round sizes."""
    return MultipleLocator(2.0 ** max(0, round(log2((limits[1] - limits[0]) / _TICKS))))


def _timeline(axes: Axes, same: Sequence[Series], theme: Theme) -> None:
    without = _constant(same)
    for number, series in enumerate(same[:LINES_MAX]):
        places = range(1, len(series.samples) + 1)
        axes.plot(
            places, series.samples, color=_COLOURS[theme][number], linewidth=1.3, label=_label(series, without) or None
        )
    axes.set_xlabel(same[0].in_order_of)
    if len(same) > 1:
        axes.legend(frameon=False, fontsize=9)
    _upright(axes, same, from_zero=False)
    _below(axes, same)


def _upright(axes: Axes, same: Sequence[Series], *, from_zero: bool = True) -> None:
    """The upright axis in words, from zero, with the target as a line."""
    unit = same[0].unit
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: words.value(number, unit)))
    if unit == "bytes":
        axes.yaxis.set_major_locator(_in_powers(axes.get_ylim()))
    target = next((series.target for series in same if series.target is not None), None)
    if target is not None:
        axes.axhline(target, linestyle="--", linewidth=1.2, color=axes.xaxis.label.get_color(), label="target")
    if from_zero and axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)


def _below(axes: Axes, same: Sequence[Series]) -> None:
    """What is the same for all stands once, after the axis' name."""
    texts = [text for text in (axes.get_xlabel(), words.circumstances(_only(same[0], _constant(same)))) if text]
    axes.set_xlabel("   |   ".join(texts), fontsize=9)
