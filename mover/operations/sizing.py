"""How many nodes a daily backup needs, and how the repository grows: arithmetic over figures measured here.

Pure. Every assumption that is no measurement is said in ``Plan.assumptions``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mover.errors import UsageError
from mover.units import format_duration, format_rate, format_size

DAY_S = 86400.0
_CLASSES = 3
"""Of blocks that are compared: unchanged, zeroed, unlisted."""
_MOST = 1e18
"""Beyond any figure of a machine: more is a slip, and would end in infinities."""
_BUSY = 0.75
"""Share of all cores from which on a run counts as bound by them."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one node gives. Rates in bytes a second."""

    cores: int
    block_bytes: int
    audit_blocks: int
    compare_within_s: float
    new_rate: float
    """Data that the repository does not know: read, hashed, compressed, encrypted, durable."""
    check_rate: float
    """Data that is read and compared only."""
    restore_rate: float
    stored_share: float
    """Bytes stored per byte of new data."""
    spread: float
    """Bytes of new blocks per byte that changed: a block that a change touches is new as a whole."""
    core_share: float
    """Of the cores, while new data is backed up."""
    peak_bytes: int

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Figures:
        """Of what ``mover bench --json`` printed. Raises UsageError where it is something else."""
        try:
            runs = {run["run"]: run for run in answer["runs"]}
            settings, full, changed = answer["settings"], runs["full"], runs["incremental"]
            figures = cls(
                cores=int(settings["cores"]),
                block_bytes=int(settings["block_size"]),
                audit_blocks=int(settings["audit_blocks"]),
                compare_within_s=float(settings["compare_within"]),
                new_rate=full["bytes_new"] / full["seconds"],
                check_rate=runs["full again"]["bytes_moved"] / runs["full again"]["seconds"],
                restore_rate=runs["restore"]["bytes_moved"] / runs["restore"]["seconds"],
                stored_share=full["bytes_stored"] / full["bytes_new"],
                spread=max(1.0, changed["bytes_new"] / changed["bytes_changed"]),
                core_share=full["cpu_s"] / full["seconds"] / settings["cores"],
                peak_bytes=max(int(run["peak_bytes"]) for run in answer["runs"]),
            )
        except KeyError as error:
            raise _no_figures(f"{error.args[0]} is missing") from None
        except (TypeError, ValueError, ArithmeticError):
            raise _no_figures("where a number belongs is none, or one that cannot be") from None
        figures.check()
        return figures

    def check(self) -> None:
        """Raises UsageError where a figure cannot be one."""
        for name, value in asdict(self).items():
            may_be_none = name in ("audit_blocks", "compare_within_s")
            if not (1 / _MOST < value < _MOST or (may_be_none and value == 0)):
                raise _no_figures(f"{name} is {value:g}")


def _no_figures(why: str) -> UsageError:
    return UsageError(
        f"These are no figures of a bench: {why}",
        remedy="Name a file that holds what 'mover bench --json' printed with this version.",
    )


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be protected, and how. change: share of the data that changes in a day."""

    vms: int
    data_bytes: float
    change: float
    window_s: float
    retention_days: float
    vms_together: int
    per_vm_s: float = 60.0
    """Snapshot, attach, detach, clean up: what a VM costs beside its bytes."""
    spare: float = 0.2
    """Of the window, kept for retries, a node that is away, a day that is worse."""
    cores: int = 0
    """Of a node; 0: as many as were measured."""

    def __post_init__(self) -> None:
        for what, is_right, form in (
            ("--vms", 1 <= self.vms < _MOST, "1 or more, and a number of VMs that can be"),
            ("--tb", 0 < self.data_bytes < _MOST * 1e6, "more than 0 and less than 10^12"),
            ("--change", 0 < self.change <= 1, "more than 0 and at most 100%"),
            ("--window", 0 < self.window_s <= DAY_S, "more than 0 and at most 24 hours"),
            ("--retention", 1 <= self.retention_days < math.inf, "1 day or more"),
            ("--spare", 0 <= self.spare < 1, "0 or more and less than 100%"),
            ("--per-vm", 0 <= self.per_vm_s < math.inf, "0 seconds or more"),
            ("--cores", self.cores >= 0, "1 or more"),
        ):
            if not is_right:
                raise UsageError(f"{what} must be {form}", remedy=f"Correct {what}.")

    @property
    def usable_s(self) -> float:
        return self.window_s * (1 - self.spare)


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. Bytes a day, seconds, bytes a second."""

    nodes: int
    cores: int
    memory_bytes: int
    bottleneck: str
    run_s: float
    """The daily run with these nodes."""
    new_bytes: float
    check_bytes: float
    read_rate: float
    store_rate: float
    """Both over the usable window, of all nodes together."""
    node_store_rate: float
    """The most that one node sends while it works."""
    first_full_s: float
    first_full_windows: int
    first_bytes: float
    daily_bytes: float
    kept_bytes: float
    restore_s: float
    """Everything back, on all nodes."""
    assumptions: tuple[str, ...]


def plan(figures: Figures, wish: Wish) -> Plan:
    """Nodes like the measured one (or with other cores), so that the daily run ends in the usable window."""
    scale = (wish.cores or figures.cores) / figures.cores
    new_rate, check_rate = figures.new_rate * scale, figures.check_rate * scale
    new_bytes = min(wish.data_bytes, wish.data_bytes * wish.change * figures.spread)
    check_bytes = _compared(figures, wish)
    data_s = new_bytes / new_rate + check_bytes / check_rate
    vms_s = wish.vms * wish.per_vm_s / wish.vms_together
    nodes = max(1, math.ceil(max(data_s, vms_s) / wish.usable_s))
    full_s = wish.data_bytes / new_rate / nodes
    daily_bytes = new_bytes * figures.stored_share
    first_bytes = wish.data_bytes * figures.stored_share
    return Plan(
        nodes=nodes,
        cores=wish.cores or figures.cores,
        memory_bytes=figures.peak_bytes,
        bottleneck=_bottleneck(figures, data_s, vms_s),
        run_s=max(data_s, vms_s) / nodes,
        new_bytes=new_bytes,
        check_bytes=check_bytes,
        read_rate=(new_bytes + check_bytes) / wish.usable_s,
        store_rate=daily_bytes / wish.usable_s,
        node_store_rate=new_rate * figures.stored_share,
        first_full_s=full_s,
        first_full_windows=math.ceil(full_s / wish.usable_s),
        first_bytes=first_bytes,
        daily_bytes=daily_bytes,
        kept_bytes=first_bytes + daily_bytes * (wish.retention_days - 1),
        restore_s=wish.data_bytes / (figures.restore_rate * scale) / nodes,
        assumptions=tuple(_assumptions(figures, wish)),
    )


def _compared(figures: Figures, wish: Wish) -> float:
    """Bytes that a day reads beside the changed ones: samples of every VM, and the rolling slice of all data."""
    samples = wish.vms * _CLASSES * figures.audit_blocks * figures.block_bytes
    rolling = wish.data_bytes * min(0.5, DAY_S / figures.compare_within_s) if figures.compare_within_s else 0.0
    return min(wish.data_bytes, samples + rolling)


def _bottleneck(figures: Figures, data_s: float, vms_s: float) -> str:
    if vms_s > data_s:
        return "the VMs' snapshots and attachments: their number, not their bytes"
    if figures.core_share >= _BUSY:
        return "the nodes' cores: compression"
    return "the disks or the store: the cores were waiting for them while it was measured"


def _assumptions(figures: Figures, wish: Wish) -> list[str]:
    said = [
        f"One node gives {format_rate(figures.new_rate)} of new data and compares {format_rate(figures.check_rate)} "
        f"on {figures.cores} cores, as measured; several nodes do not slow each other down.",
        f"The data compresses as the measured sample did: {figures.stored_share:.2f} bytes stored per byte.",
        f"Each changed byte makes {figures.spread:.1f} bytes of new blocks ({format_size(figures.block_bytes)} "
        "blocks, changes of 64 KiB to 1 MiB); smaller, scattered ones make more.",
        f"A VM costs {format_duration(wish.per_vm_s)} beside its bytes, {wish.vms_together} VMs at a time on a node; "
        "it has one disk.",
        f"{wish.spare:.0%} of the window stay free.",
        "The repository's size counts no change twice and holds the daily points of the retention; space of points "
        "that are forgotten comes back only by a collection.",
        "A disk is read by one node: the largest must fit into the window by itself.",
    ]
    if wish.cores and wish.cores != figures.cores:
        said.insert(1, f"A node of {wish.cores} cores is {wish.cores / figures.cores:.2g} times as fast: not measured.")
    return said
