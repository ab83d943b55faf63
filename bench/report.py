"""Runs of the end-to-end bench as lines and as the table of medians, and what must hold beside what was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from bench import words
from bench.measure import MIB, Run, median
from bench.results import Better, Series, Unit

DEDUPLICATING = ("restic", "borg", "benji")


def line(run: Run) -> str:
    """One run as it ends."""
    return (
        f"round {run.round}  {run.who:8} {run.what:16} {run.wall_s:7.2f} s  {run.cpu_s:7.2f} CPU s  "
        f"{run.peak_mib:5.0f} MiB  {run.stored_bytes / 1e6:7.0f} MB stored"
    )


def table(runs: Sequence[Run], machine: dict[str, Any]) -> str:
    """Medians by who and what, then the ratios that count."""
    rows = defaultdict(list)
    for run in runs:
        rows[run.who, run.what].append(run)
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['devices']}",
        _settings(machine),
        "",
        "| who | operation | runs | wall s (min-max) | disk MB/s | CPU s | peak MiB | stored MB | whole process s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (who, what), same in rows.items():
        walls = [run.wall_s for run in same]
        lines.append(
            f"| {who} | {what} | {len(same)} | {median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f}) "
            f"| {machine['size_bytes'] / 1e6 / median(walls):.0f} | {median([r.cpu_s for r in same]):.2f} "
            f"| {max(r.peak_mib for r in same):.0f} | {median([r.stored_bytes for r in same]) / 1e6:.0f} "
            f"| {_whole_process(same)} |"
        )
    lines += ["", "| what must hold (within a round, median) | target | measured |", "| --- | --- | --- |"]
    for name, goal in goals(runs).items():
        lines.append(f"| {name} | {_target(goal)} | {words.value(median(goal.samples), goal.unit)} |")
    return "\n".join([*lines, *where_it_goes(runs)])


PARTS = {"full": ("fio read", "compute"), "restore": ("open blocks", "fio read and write")}
"""What the limit of an operation is made of."""
_BESIDE = {"full": ("fio read of disk, write of packs",), "restore": ("fio read of packs", "fio write")}
"""What explains one of them, or the rest."""
_AT_ONCE = {"fio read of disk, write of packs", "fio read and write"}


def where_it_goes(runs: Sequence[Run]) -> list[str]:
    """Beside each other, medians: the parts alone, ours, and what its threads were busy with."""
    lines = []
    for what, parts in PARTS.items():
        ours = [run for run in runs if (run.who, run.what) == ("mover", what)]
        shown = (*_BESIDE.get(what, ()), *parts)
        alone = {part: [run for run in runs if (run.who, run.what) == ("limit", part)] for part in shown}
        if not ours or not all(alone[part] for part in parts):
            continue
        lines += ["", f"| where a {what} goes | wall s | CPU s |", "| --- | --- | --- |"]
        for part, same in alone.items():
            if same:
                how = "at once" if part in _AT_ONCE else "alone"
                lines.append(f"| {part}, {how} | {_wall(same):.2f} | {_cpu(same):.2f} |")
        beyond = _cpu(ours) - sum(_cpu(alone[part]) for part in parts)
        lines.append(f"| ours | {_wall(ours):.2f} | {_cpu(ours):.2f} |")
        lines.append(f"| ours beyond the parts: Python, self-checks, index, manifest | | {beyond:.2f} |")
        for stage in dict.fromkeys(stage for run in ours for stage in run.more.get("stages", {})):
            seconds = median([run.more["stages"].get(stage, 0.0) for run in ours])
            if seconds:
                lines.append(f"| threads' seconds in {stage} | {seconds:.2f} | |")
    return lines


def _wall(runs: Sequence[Run]) -> float:
    return median([run.wall_s for run in runs])


def _cpu(runs: Sequence[Run]) -> float:
    return median([run.cpu_s for run in runs])


def _target(goal: Series) -> str:
    if goal.target is None:
        return ""
    return f"{'>=' if goal.better == 'higher' else '<='} {words.value(goal.target, goal.unit)}"


def _settings(machine: dict[str, Any]) -> str:
    data, repository = machine["settings"], machine["repository"]
    return (
        f"ours: {repository['encryption']}, durable, zstd {data['level']}, blocks of {data['block_size'] >> 10} KiB, "
        f"packs of {repository['pack_size'] >> 20} MiB, {repository['uploads']} uploads, "
        f"{'every record' if repository['paranoid'] else 'one record in 16'} opened again, "
        f"{data['audit_blocks']} audit samples a class, {data['readback_blocks']} blocks read back, "
        f"{data['readers']} readers, {data['restore_threads']} restore threads, budget {data['budget'] >> 20} MiB; "
        f"the change is {machine['changed_bytes'] / 1e6:.1f} MB of {machine['size_bytes'] / 1e6:.0f} MB"
    )


def _whole_process(same: Sequence[Run]) -> str:
    """Start-up included. Peers are whole commands anyway."""
    found = [run.more["process_s"] for run in same if "process_s" in run.more]
    return f"{median(found):.2f}" if found else ""


class _Rounds:
    """Runs by round, to be divided within it."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._rounds: dict[int, dict[tuple[str, str], Run]] = defaultdict(dict)
        for run in runs:
            self._rounds[run.round][run.who, run.what] = run

    def cpu(self, what: str) -> list[float]:
        """CPU seconds of the limit's parts, divided by ours."""
        pairs = [(runs.get(("limit", what)), runs.get(("mover", what))) for runs in self._rounds.values()]
        return [limit.cpu_s / ours.cpu_s for limit, ours in pairs if limit and ours and ours.cpu_s]

    def fastest(self, who: Sequence[str], what: str, *, by: tuple[str, str]) -> list[float]:
        """Wall seconds of the fastest of them, divided by those of ``by``."""
        found = []
        for runs in self._rounds.values():
            walls = [runs[name, what].wall_s for name in who if (name, what) in runs]
            if walls and by in runs:
                found.append(min(walls) / runs[by].wall_s)
        return found


def goals(runs: Sequence[Run]) -> dict[str, Series]:
    """What must hold and what was measured of it, sample by sample; what was not measured is left out."""
    rounds = _Rounds(runs)

    def over(who: Sequence[str], what: str) -> list[float]:
        return rounds.fastest(who, what, by=("mover", what))

    mine = [run for run in runs if run.who == "mover" and not run.what.startswith("S3")]
    on_s3 = [run.peak_mib * MIB for run in runs if run.what.startswith("S3")]
    again = rounds.fastest(["mover"], "again", by=("limit", "fio read"))
    peak = [max((run.peak_mib * MIB for run in mine), default=0.0)] if mine else []
    found: list[tuple[str, Unit, Better, float | None, list[float]]] = [
        ("full: fastest deduplicating / ours", "ratio", "higher", 2.5, over(DEDUPLICATING, "full")),
        ("full: limit / ours", "share", "higher", 0.7, over(["limit"], "full")),
        ("full: CPU of the limit's parts / ours", "share", "neither", None, rounds.cpu("full")),
        ("full: qemu-img / ours", "ratio", "neither", None, over(["qemu-img"], "full")),
        ("full again: ours / fio's read", "ratio", "lower", 1.5, again),
        ("incremental: borg / ours", "ratio", "higher", 8.0, over(["borg"], "incremental")),
        ("incremental: benji with hints / ours", "ratio", "higher", 5.0, over(["benji"], "incremental")),
        ("restore: fastest deduplicating / ours", "ratio", "higher", 4.0, over(DEDUPLICATING, "restore")),
        ("restore: limit / ours", "share", "higher", 0.8, over(["limit"], "restore")),
        ("restore: CPU of the limit's parts / ours", "share", "neither", None, rounds.cpu("restore")),
        ("restore: zstd, dd / ours", "ratio", "higher", 1.5, over(["zstd|dd"], "restore")),
        ("restore: qemu-img / ours", "ratio", "neither", None, over(["qemu-img"], "restore")),
        ("memory, largest of ours", "bytes", "lower", 300 * MIB, peak),
        ("memory, largest to and from S3", "bytes", "lower", 400 * MIB, [max(on_s3)] if on_s3 else []),
        ("attach answered to first read", "s", "lower", 1.0, [r.wall_s for r in runs if r.what == "attach to read"]),
        ("event-loop lag p99 in a full", "s", "lower", 0.02, _lags(mine)),
    ]
    return {
        name: Series(name="goal", unit=unit, better=better, samples=samples, target=target)
        for name, unit, better, target, samples in found
        if samples
    }


def _lags(mine: Sequence[Run]) -> list[float]:
    return [run.more["lag_p99_ms"] / 1000 for run in mine if run.what == "full"]
