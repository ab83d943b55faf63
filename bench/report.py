"""Runs as lines and as the table of medians, with the targets beside what was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from bench.measure import Run, median

OPERATIONS = ("full", "again", "incremental", "restore")


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
    lines += ["", "| what must hold (ratios within a round, median) | target | measured |", "| --- | --- | --- |"]
    lines += [f"| {name} | {target} | {value} |" for name, target, value in _targets(runs)]
    return "\n".join(lines)


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


def _targets(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    by_round: dict[int, dict[tuple[str, str], Run]] = defaultdict(dict)
    for run in runs:
        by_round[run.round][run.who, run.what] = run
    rounds = list(by_round.values())

    def ratio(above: list[tuple[str, str]], below: tuple[str, str]) -> str:
        """Fastest of ``above`` divided by ``below``, round by round."""
        found = [
            min(r[key].wall_s for key in above if key in r) / r[below].wall_s
            for r in rounds
            if below in r and any(key in r for key in above)
        ]
        return f"{median(found):.2f}" if found else "not measured"

    def both(what: str) -> list[tuple[str, str]]:
        return [("restic", what), ("borg", what)]

    mine = [run for run in runs if run.who == "mover" and not run.what.startswith("S3")]
    on_s3 = [run.peak_mib for run in runs if run.what.startswith("S3")]
    waits = [run.wall_s for run in runs if run.what == "attach to read"]
    lags = [run.more["lag_p99_ms"] for run in mine if run.what == "full"]
    return [
        ("full: fastest of restic and borg / ours", ">= 1.8", ratio(both("full"), ("mover", "full"))),
        ("full: limit / ours", ">= 0.65", ratio([("limit", "full")], ("mover", "full"))),
        ("full again: ours / fio's read", "<= 1.5", ratio([("mover", "again")], ("limit", "fio read"))),
        ("incremental: fastest of them / ours", ">= 5", ratio(both("incremental"), ("mover", "incremental"))),
        ("incremental: benji with hints / ours", "", ratio([("benji", "incremental")], ("mover", "incremental"))),
        ("restore: fastest of them / ours", ">= 3", ratio(both("restore"), ("mover", "restore"))),
        ("restore: zstd, dd / ours", ">= 1.2", ratio([("zstd|dd", "restore")], ("mover", "restore"))),
        ("memory, largest of ours, MiB", "<= 300", f"{max((run.peak_mib for run in mine), default=0):.0f}"),
        ("memory, largest to and from S3, MiB", "<= 400", f"{max(on_s3):.0f}" if on_s3 else "not measured"),
        ("attach answered to first read, s", "<= 1", f"{median(waits):.3f}" if waits else "not measured"),
        ("event-loop lag p99 in a full, ms", "<= 20", f"{median(lags):.1f}" if lags else "not measured"),
    ]
