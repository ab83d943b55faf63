"""Two runs side by side: faster, slower or noise, by name, with what the statistics can carry.

Two-sided Mann-Whitney test of each series, exact for few samples; the chance of a false alarm
over all series together is held by Benjamini and Hochberg's method; a difference must also be
large enough to matter. Where the samples are too few to prove anything, it says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from scipy import stats

from bench import words
from bench.kit import said_in_words
from bench.results import Key, Results, Series, read_all
from mover.errors import UsageError

Verdict = Literal["faster", "slower", "noise", "too few"]
FOR_A_RANGE = 5
"""Samples a side from which a bootstrap is worth its name."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series, compared."""

    name: str
    circumstances: str
    before: Series
    after: Series
    change: float
    """Of the median: 0.1 is a tenth more. Better or worse, as the series has it."""
    low: float
    high: float
    """Where the change lies with 95 %; without enough samples, between the extremes."""
    p: float
    """After the correction for their number."""
    verdict: Verdict
    why: str


def compare(before: Sequence[Results], after: Sequence[Results], *, alpha: float, least: float) -> list[Line]:
    """Every series that both have and that has a better side. least: smallest change that matters."""
    old, new = pooled(before), pooled(after)
    keys = [key for key in old if key in new and old[key].better != "neither"]
    pairs = [(old[key], new[key]) for key in keys]
    raw = [p_value(a.samples, b.samples) for a, b in pairs]
    held = [float(p) for p in stats.false_discovery_control(raw)] if raw else []
    return [_line(a, b, p, q, alpha, least) for (a, b), p, q in zip(pairs, raw, held, strict=True)]


def pooled(runs: Sequence[Results]) -> dict[Key, Series]:
    """Samples of the same series from several runs, together."""
    found: dict[Key, Series] = {}
    for run in runs:
        for series in run.series:
            if series.key in found:
                former = found[series.key]
                if (former.unit, former.better) != (series.unit, series.better):
                    raise UsageError(
                        f"{series.name} has two units or sides in one set of results",
                        remedy="Compare files of the same version of the bench.",
                    )
                found[series.key] = former.model_copy(update={"samples": [*former.samples, *series.samples]})
            else:
                found[series.key] = series
    return found


def p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """How likely samples that far apart are if nothing has changed."""
    if len(set(before) | set(after)) == 1:
        return 1.0
    return float(stats.mannwhitneyu(before, after, alternative="two-sided").pvalue)


def least_p(before: int, after: int) -> float:
    """What the test can say at best with so many samples: all of one side beyond all of the other."""
    return min(1.0, 2 / comb(before + after, before))


def are_apart(before: Sequence[float], after: Sequence[float]) -> bool:
    """All of one side beyond all of the other."""
    return max(before) < min(after) or max(after) < min(before)


def _line(a: Series, b: Series, raw: float, p: float, alpha: float, least: float) -> Line:
    change = _change(statistics.median(a.samples), statistics.median(b.samples))
    low, high = _range(a.samples, b.samples)
    verdict, why = _judge(a, b, change, raw, p, alpha, least)
    return Line(a.name, words.circumstances(a.params), a, b, change, low, high, p, verdict, why)


def _judge(
    a: Series, b: Series, change: float, raw: float, p: float, alpha: float, least: float
) -> tuple[Verdict, str]:
    is_better = (change > 0) == (a.better == "higher")
    bound = least_p(len(a.samples), len(b.samples))
    if bound > alpha:
        if are_apart(a.samples, b.samples) and abs(change) >= least:
            side = "better" if is_better else "worse"
            return "too few", f"all of B {side} than all of A, which {_counts(a, b)} cannot prove"
        return "too few", f"{_counts(a, b)} cannot prove a difference"
    if p > alpha:
        return "noise", "one of many: by chance some look so" if raw <= alpha else ""
    if abs(change) < least:
        return "noise", f"real, and below {least:.0%}"
    return ("faster" if is_better else "slower"), ""


def _counts(a: Series, b: Series) -> str:
    return f"{len(a.samples)} and {len(b.samples)} samples"


def _change(before: float, after: float) -> float:
    if before == 0:
        return 0.0 if after == 0 else float("inf") if after > 0 else float("-inf")
    return after / before - 1 if before > 0 else 0.0


def _range(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Of the change of medians."""
    if min(*before, *after) <= 0 or min(len(before), len(after)) < FOR_A_RANGE:
        return _change(max(before), min(after)), _change(min(before), max(after))
    found = stats.bootstrap(
        (np.array(before), np.array(after)),
        lambda a, b, axis: np.median(b, axis=axis) / np.median(a, axis=axis) - 1,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(1),
        vectorized=True,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def differences(before: Sequence[Results], after: Sequence[Results]) -> list[str]:
    """What else differs between the two: a comparison of two machines says nothing of the code."""
    a, b = before[0], after[0]
    found = []
    for what in ("processor", "cores", "memory_bytes", "kernel"):
        old, new = getattr(a.machine, what), getattr(b.machine, what)
        if old != new:
            found.append(f"{what.replace('_', ' ')}: {old} and {new}")
    for group, old_values, new_values in (("", a.versions, b.versions), ("setting ", a.settings, b.settings)):
        for key in sorted({*old_values, *new_values} - {"mover"}):
            if old_values.get(key) != new_values.get(key):
                found.append(f"{group}{key}: {old_values.get(key)} and {new_values.get(key)}")
    loads = [run.machine.load_before for run in (*before, *after)]
    if max(loads) > a.machine.cores / 2:
        found.append(f"other work went on: loads of {min(loads):g} to {max(loads):g} on {a.machine.cores} cores")
    return found


def lost(before: Sequence[Results], after: Sequence[Results]) -> list[str]:
    """Series of A that B has not."""
    new = pooled(after)
    return [
        f"{series.name} {words.circumstances(series.params)}".strip()
        for key, series in pooled(before).items()
        if key not in new
    ]


def table(lines: Sequence[Line]) -> str:
    """One line a series; the verdict first."""
    rows = [
        (
            line.verdict,
            line.name,
            line.circumstances,
            words.value(statistics.median(line.before.samples), line.before.unit),
            words.value(statistics.median(line.after.samples), line.after.unit),
            f"{line.change:+.1%}",
            f"{line.low:+.1%} to {line.high:+.1%}",
            f"p {line.p:.3f}",
            line.why,
        )
        for line in lines
    ]
    head = ("verdict", "name", "", "A", "B", "change", "range", "", "")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    shown = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in shown)


def summary(lines: Sequence[Line]) -> str:
    counts = {name: sum(line.verdict == name for line in lines) for name in ("faster", "slower", "noise", "too few")}
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def main(
    before: Annotated[Path, typer.Argument(metavar="A", help="A result, or a folder of them: before.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The same of after.")],
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Chance of a false alarm.")] = 0.05,
    least: Annotated[float, typer.Option(min=0.0, help="Smallest change that matters, as a share.")] = 0.05,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail on too few samples and on lost series.")] = False,
) -> None:
    """Compare B with A. Ends with 0, with 1 if something is slower, with 2 if nothing can be compared."""
    with said_in_words():
        old, new = read_all(before), read_all(after)
        lines = compare(old, new, alpha=alpha, least=least)
        if not lines:
            raise UsageError(
                f"{before} and {after} have no series in common", remedy="Name two results of the same bench."
            )
        gone = lost(old, new)
        typer.echo(table(lines))
        typer.echo(f"\n{summary(lines)}")
        for text in differences(old, new):
            typer.echo(f"note: not alike: {text}")
        for text in gone:
            typer.echo(f"note: only A has {text}")
        failed = any(line.verdict == "slower" for line in lines)
        unproven = strict and (bool(gone) or any(line.verdict == "too few" for line in lines))
    raise typer.Exit(1 if failed or unproven else 0)


if __name__ == "__main__":
    typer.run(main)
