"""Faults by name: armed from tests or over HTTP, matched, counted, and taken where they bite.

On a call (``nth`` counts the calls that match operation, side, vm and disk, from arming on):
  latency             answers later                                     seconds
  status              an error instead of the effect                    status html reason retry_after
  effect_then_status  the effect, then an error                         status html
  drop                connection cut, no effect
  lost_answer         the effect, then the connection cut
  late_effect         an error (0: cut) now, the effect later           seconds status html
  hang                no effect; nothing is answered for so long        seconds
  effect_then_hang    the effect; nothing is answered for so long       seconds
  cut_body            the effect, half of the answer, then a cut
  logged_out          all session cookies are stale
  administrator       somebody acts before (after) the call             action after (and the action's own)
On a task (operation: the call that made it):
  task_fails, task_fails_after_effect, task_aborts                      detail
  task_slow                                                             seconds
  task_stuck          stays RUNNING, no effect
  task_lost           its record is gone; the effect happens
On an answer of changed regions:
  regions_cut_short   half of this page, and nothing says so
  regions_overlapping, regions_unsorted, regions_unaligned              (legal: a client copes)
  regions_beyond_end  one crosses the end, or begins beyond it          begins_beyond
  regions_negative
  regions_looping     next_offset does not advance                      back_bytes
  regions_omit        LIE: changed or allocated data is not listed      share (0: one region)
  regions_say_zero    LIE: data is called ZEROED                        share (0: one region)
  regions_text        numbers as strings
  regions_wrong_size  file_size is wrong                                by_bytes
  base_gone           the reference does not exist
On a snapshot (operation v3.vm_snapshots.create):
  snapshot_downgraded     crash-consistent whatever was asked
  snapshot_misses_file    the file of one disk is not in the list
  snapshot_no_files       COMPLETE with an empty list
  snapshot_never_complete, snapshot_error                               detail
On a device that is being plugged into the Proxy VM (parameters of hotplug.PlugFaults):
  device_late late_s · device_never · device_wrong_serial · device_wrong_size missing_bytes
  device_decoy (a stranger of the same size appears too) · device_eio bad_ranges
  device_vanishes vanish_after_bytes · device_sectors sector_bytes · device_spelling spelling
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mover.errors import UsageError

STAGES: dict[str, dict[str, dict[str, Any]]] = {
    "call": {
        "latency": {"seconds": 1.0},
        "status": {"status": 503, "html": False, "reason": "", "retry_after": 0},
        "effect_then_status": {"status": 500, "html": False},
        "drop": {},
        "lost_answer": {},
        "late_effect": {"seconds": 0.2, "status": 504, "html": False},
        "hang": {"seconds": 3600.0},
        "effect_then_hang": {"seconds": 3600.0},
        "cut_body": {},
        "logged_out": {},
        "administrator": {"action": "", "after": False},
    },
    "task": {
        "task_fails": {"detail": "INTERNAL_ERROR: the lab was told so"},
        "task_fails_after_effect": {"detail": "INTERNAL_ERROR: the lab was told so, after the effect"},
        "task_aborts": {"detail": "aborted by the lab"},
        "task_slow": {"seconds": 1.0},
        "task_stuck": {},
        "task_lost": {},
    },
    "regions": {
        "regions_cut_short": {},
        "regions_overlapping": {},
        "regions_unsorted": {},
        "regions_unaligned": {},
        "regions_beyond_end": {"begins_beyond": False},
        "regions_negative": {},
        "regions_looping": {"back_bytes": 0},
        "regions_omit": {"share": 0.0},
        "regions_say_zero": {"share": 0.0},
        "regions_text": {},
        "regions_wrong_size": {"by_bytes": 1 << 20},
        "base_gone": {},
    },
    "snapshot": {
        "snapshot_downgraded": {},
        "snapshot_misses_file": {},
        "snapshot_no_files": {},
        "snapshot_never_complete": {},
        "snapshot_error": {"detail": "the lab was told so"},
    },
    "device": {
        "device_late": {"late_s": 1.0},
        "device_never": {"never": True},
        "device_wrong_serial": {"wrong_serial": True},
        "device_wrong_size": {"missing_bytes": 1 << 20},
        "device_decoy": {"decoy": True},
        "device_eio": {"bad_ranges": [[0, 4096]]},
        "device_vanishes": {"vanish_after_bytes": 1 << 20},
        "device_sectors": {"sector_bytes": 512},
        "device_spelling": {"spelling": "dash"},
    },
}
"""Stage → fault → its parameters with their defaults."""

_OPEN = {"administrator"}
"""Faults that take further parameters (the action's own)."""


class Fault(BaseModel):
    """An armed fault. vm: name or uuid. disk: vmdisk or device uuid, or slot such as scsi.0.

    side: pe or pc, where a call came in.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    operation: str = "*"
    """Pattern of operation names."""
    vm: str | None = None
    disk: str | None = None
    side: str | None = None
    nth: int = Field(default=1, ge=1)
    """The first match that it bites."""
    count: int = Field(default=1, ge=0)
    """How often; 0: until disarmed."""
    args: dict[str, Any] = Field(default_factory=dict)
    number: int = 0
    seen: int = 0
    fired: int = 0

    @property
    def stage(self) -> str:
        return next(stage for stage, kinds in STAGES.items() if self.name in kinds)

    def matches(self, operation: str, about: Collection[str], side: str) -> bool:
        return (
            fnmatchcase(operation, self.operation)
            and self.side in (None, side)
            and (self.vm is None or self.vm in about)
            and (self.disk is None or self.disk in about)
        )


class Faults:
    """All armed faults of a lab. Safe from any thread. seed makes the lies repeat."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self._armed: list[Fault] = []
        self._made = 0

    def arm(
        self,
        name: str,
        *,
        operation: str = "*",
        vm: str | None = None,
        disk: str | None = None,
        side: str | None = None,
        nth: int = 1,
        count: int = 1,
        **args: Any,
    ) -> Fault:
        """Returns the armed fault; its ``fired`` tells whether it bit. Raises UsageError."""
        return self.add(
            Fault(name=name, operation=operation, vm=vm, disk=disk, side=side, nth=nth, count=count, args=args)
        )

    def add(self, fault: Fault) -> Fault:
        known = {kind: args for kinds in STAGES.values() for kind, args in kinds.items()}
        if fault.name not in known:
            raise UsageError(f"There is no fault {fault.name!r}", remedy=f"Use one of {', '.join(sorted(known))}.")
        strange = set() if fault.name in _OPEN else fault.args.keys() - known[fault.name].keys()
        if strange:
            raise UsageError(
                f"Fault {fault.name} has no parameter {', '.join(sorted(strange))}",
                remedy=f"It has {', '.join(known[fault.name]) or 'none'}.",
            )
        with self._lock:
            self._made += 1
            fault.number = self._made
            fault.args = {**known[fault.name], **fault.args}
            self._armed.append(fault)
        return fault

    def disarm(self, number: int | None = None) -> None:
        """One of them, or all."""
        with self._lock:
            self._armed = [fault for fault in self._armed if number is not None and fault.number != number]

    def armed(self) -> list[Fault]:
        with self._lock:
            return list(self._armed)

    def take(
        self, stage: str, operation: str, about: Collection[str] = (), *, side: str = ""
    ) -> dict[str, dict[str, Any]]:
        """What bites now: fault name → parameters. Counts every match."""
        bites: dict[str, dict[str, Any]] = {}
        with self._lock:
            for fault in self._armed:
                if fault.stage != stage or not fault.matches(operation, about, side):
                    continue
                fault.seen += 1
                spent = fault.count and fault.fired >= fault.count
                if fault.seen >= fault.nth and not spent and fault.name not in bites:
                    fault.fired += 1
                    bites[fault.name] = fault.args
        return bites
