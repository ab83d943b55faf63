"""What the metrics say of each VM: from its newest readable point, from the catalog's memory, from nothing else.

A VM is shown by its name, with the beginning of its UUID where several VMs have the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mover import logs
from mover.catalog.history import Fact, History, What
from mover.clock import Clock
from mover.errors import Damaged, NoSuchPoint
from mover.metrics import (
    AUDIT_MISMATCHES,
    VM_BASE,
    VM_CONSISTENCY,
    VM_DAMAGED,
    VM_DOWNGRADED,
    VM_FULL_REASON,
    VM_LAST_FAILURE,
    VM_LAST_SUCCESS,
    VM_LAST_VERIFIED,
    VM_PRESENT,
    VM_UNPROTECTED_VGS,
    Instrument,
)
from mover.model.machine import Consistency, DiskKind
from mover.model.point import PointSummary, RestorePoint
from mover.operations.decide import newest_base
from mover.operations.ports import Repository
from mover.operations.report import classes_of_full

_LOG = logs.get(__name__)

_AHEAD_S = 300.0
"""A point frozen further in the future than this was made by a clock that was wrong."""
_FORGET_S = 7 * 86400.0
"""After this nobody tries any more to back up a VM that has no point."""

Series = tuple[Instrument, tuple[str, ...]]
"""An instrument, and its labels after the VM's."""


@dataclass(eq=False, slots=True)
class _Vm:
    """What is known of one VM. Times are Unix seconds."""

    name: str
    label: str = ""
    cluster_uuid: str = ""
    """Where its newest point was made; "" without one."""
    is_present: bool | None = None
    """On that cluster; None: not known."""
    newest: str = ""
    """Id of the newest point that can be read."""
    frozen_at: float = 0.0
    """Of that point; 0 where there is none."""
    committed_at: float = 0.0
    of_point: dict[Series, float] = field(default_factory=dict)
    base: PointSummary | RestorePoint | None = None
    failed_at: float = 0.0
    verified_at: float = 0.0
    damaged: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    published_at: float = float("-inf")
    """Monotonic: when this process committed ``newest``."""
    shown: dict[Series, float] = field(default_factory=dict)


class Standing:
    """How each VM stands. Without a history it knows what this process saw, and the repository."""

    def __init__(self, clock: Clock, history: History | None = None) -> None:
        self._clock, self._history = clock, history
        self._vms: dict[str, _Vm] = {}
        self._points: dict[str, set[str]] = {}
        """VM → its points, as they were listed last."""
        self._lost_bases: set[str] = set()

    async def committed(self, point: RestorePoint) -> None:
        """This is from now on the newest point of its VM; an earlier failure is made good."""
        vm = self._known(point.vm_uuid, point.vm_name)
        self._points.setdefault(point.vm_uuid, set()).add(point.id)
        vm.failed_at, vm.published_at = 0.0, self._clock.monotonic()
        if point.is_base:
            vm.base = point
        _take(vm, point)
        self._show()
        if self._history is not None:
            await self._history.forget(point.vm_uuid, What.FAILED)
        if vm.is_present is False:
            await self.looked_for({point.vm_uuid: True})

    async def failed(self, vm_uuid: str, vm_name: str) -> None:
        """A backup of the VM ended without a point."""
        now = self._known(vm_uuid, vm_name).failed_at = self._clock.now()
        self._show()
        if self._history is not None:
            await self._history.note(Fact(vm_uuid, vm_name, What.FAILED, "", now))

    async def verified(self, point: RestorePoint) -> None:
        """Every byte that a restore of the point needs is there and whole."""
        vm = self._known(point.vm_uuid, point.vm_name)
        now = vm.verified_at = self._clock.now()
        vm.damaged.discard(point.id)
        self._show()
        if self._history is not None:
            await self._history.note(Fact(point.vm_uuid, point.vm_name, What.VERIFIED, "", now))
            await self._history.forget(point.vm_uuid, What.DAMAGED, subjects=[point.id])

    async def damaged(self, point: RestorePoint) -> None:
        """A verification found that something of the point is not whole."""
        self._known(point.vm_uuid, point.vm_name).damaged.add(point.id)
        self._show()
        if self._history is not None:
            now = self._clock.now()
            await self._history.note(Fact(point.vm_uuid, point.vm_name, What.DAMAGED, point.id, now))

    def of_cluster(self, cluster_uuid: str) -> set[str]:
        """The VMs that are, or were, on this cluster, by their newest point. One without a point is ours."""
        return {uuid for uuid, vm in self._vms.items() if vm.cluster_uuid in ("", cluster_uuid)}

    async def looked_for(self, present: Mapping[str, bool]) -> None:
        """VM → whether its cluster still has it."""
        known = {uuid: vm for uuid, vm in self._vms.items() if uuid in present}
        changed = [(uuid, vm) for uuid, vm in known.items() if vm.is_present is not present[uuid]]
        for uuid, vm in changed:
            vm.is_present = present[uuid]
        self._show()
        if self._history is None:
            return
        for uuid, vm in changed:
            if present[uuid]:
                await self._history.forget(uuid, What.GONE)
            else:
                await self._history.note(Fact(uuid, vm.name, What.GONE, "", self._clock.now()))

    async def recall(self, repository: Repository) -> None:
        """All VMs as the repository and the history have them; those that left both are shown no more.

        Raises StorageError; then what was known stays.
        """
        began = self._clock.monotonic()
        by_vm: dict[str, list[PointSummary]] = {}
        for point in await repository.points():
            by_vm.setdefault(point.vm_uuid, []).append(point)
        for uuid, points in by_vm.items():
            vm = self._known(uuid, next((point.vm_name for point in reversed(points) if point.vm_name), uuid))
            if not self._is_fresh(vm, began, repository):
                await self._reread(vm, points, repository)
        self._points = {uuid: {point.id for point in points} for uuid, points in by_vm.items()}
        await self.remember()
        forgotten_at = max(0.0, self._clock.now() - _FORGET_S)
        for uuid, vm in list(self._vms.items()):
            if uuid in by_vm or self._is_fresh(vm, began, repository):
                continue
            if vm.failed_at > forgotten_at:
                _take_none(vm)
            else:
                self._drop(uuid)
        self._show()

    async def remember(self) -> None:
        """Take in what the history says, which other commands write too."""
        facts = await self._history.all() if self._history is not None else None
        if facts is not None:
            self._take_in(facts)
            self._show()

    def lose_bases(self, point_ids: Collection[str]) -> None:
        """The snapshots of these points are not on the cluster any more."""
        self._lost_bases = set(point_ids)
        self._show()

    def close(self) -> None:
        """Nothing is known any more, and nothing shown."""
        for uuid in list(self._vms):
            self._drop(uuid)

    def _is_fresh(self, vm: _Vm, began: float, repository: Repository) -> bool:
        """It was published since, or so lately that a list which lags may not have it yet."""
        return vm.published_at >= began - repository.store.traits.list_lag_s

    async def _reread(self, vm: _Vm, points: Sequence[PointSummary], repository: Repository) -> None:
        """points: newest last. The newest that loads is shown, though never one from the future."""
        vm.unreadable = {point.id for point in points if point.problem}
        readable = [point for point in points if not point.problem]
        vm.base = newest_base(readable)
        latest = self._clock.now() + _AHEAD_S
        for point in sorted(readable, key=lambda point: (point.created_at <= latest, point.created_at), reverse=True):
            if point.id != vm.newest:
                try:
                    _take(vm, await repository.load(point))
                except (Damaged, NoSuchPoint) as error:
                    _LOG.warning("no metrics of a point", point=point.id, error=error.message)
                    vm.unreadable.add(point.id)
                    continue
            is_ahead = point.created_at > latest
            if is_ahead:
                _LOG.warning("a point is from the future, so its age is not known", point=point.id)
            vm.frozen_at = 0.0 if is_ahead else point.created_at
            return
        _take_none(vm)

    def _take_in(self, facts: Iterable[Fact]) -> None:
        for vm in self._vms.values():
            vm.damaged.clear()
        now = self._clock.now()
        for fact in facts:
            points = self._points.get(fact.vm_uuid, set())
            if fact.at > now + _AHEAD_S or (not points and now - fact.at > _FORGET_S):
                continue
            vm = self._known(fact.vm_uuid, fact.vm_name)
            if fact.what is What.FAILED:
                vm.failed_at = max(vm.failed_at, fact.at)
            elif fact.what is What.GONE and fact.at > vm.committed_at:  # else a later point says that it was there
                vm.is_present = False
            elif fact.what is What.VERIFIED and points:
                vm.verified_at = fact.at
            elif fact.what is What.DAMAGED and fact.subject in points:
                vm.damaged.add(fact.subject)

    def _known(self, uuid: str, name: str) -> _Vm:
        """Its counters begin now, so that no first increment is missed."""
        AUDIT_MISMATCHES.labels(name)
        return self._vms.setdefault(uuid, _Vm(name))

    def _drop(self, uuid: str) -> None:
        gone = self._vms.pop(uuid)
        self._end(gone)
        if all(vm.name != gone.name for vm in self._vms.values()):
            AUDIT_MISMATCHES.remove(gone.name)

    def _show(self) -> None:
        """Set what changed, remove what holds no more."""
        names = Counter(vm.name for vm in self._vms.values())
        labels = {uuid: vm.name if names[vm.name] == 1 else f"{vm.name} ({uuid[:8]})" for uuid, vm in self._vms.items()}
        for uuid, vm in self._vms.items():
            if vm.label != labels[uuid]:
                self._end(vm)
                vm.label = labels[uuid]
        for vm in self._vms.values():
            wanted = self._wanted(vm)
            for gauge, more in vm.shown.keys() - wanted.keys():
                gauge.remove(vm.label, *more)
            for (gauge, more), value in wanted.items() - vm.shown.items():
                gauge.labels(vm.label, *more).set(value)
            vm.shown = wanted

    def _end(self, vm: _Vm) -> None:
        for gauge, more in vm.shown:
            gauge.remove(vm.label, *more)
        vm.shown = {}

    def _wanted(self, vm: _Vm) -> dict[Series, float]:
        wanted = {
            **vm.of_point,
            (VM_LAST_SUCCESS, ()): vm.frozen_at,
            (VM_DAMAGED, ()): float(len(vm.damaged | vm.unreadable)),
        }
        if vm.failed_at > vm.committed_at:
            wanted[VM_LAST_FAILURE, ()] = vm.failed_at
        if vm.verified_at:
            wanted[VM_LAST_VERIFIED, ()] = vm.verified_at
        if vm.is_present is not None:
            wanted[VM_PRESENT, ()] = float(vm.is_present)
        if vm.base is not None and vm.base.id not in self._lost_bases:
            wanted[VM_BASE, ()] = vm.base.created_at
        return wanted


def _take(vm: _Vm, point: RestorePoint) -> None:
    """This is the newest point of its VM."""
    if vm.cluster_uuid not in ("", point.cluster_uuid):
        vm.is_present = None
    vm.name, vm.newest, vm.cluster_uuid = point.vm_name, point.id, point.cluster_uuid
    vm.frozen_at, vm.committed_at = point.created_at, point.committed_at
    is_application = point.consistency is Consistency.APPLICATION
    was_asked = point.consistency_asked is Consistency.APPLICATION
    groups = sum(other.kind is DiskKind.VOLUME_GROUP for other in point.others)
    vm.of_point = {
        (VM_CONSISTENCY, ()): float(is_application),
        (VM_DOWNGRADED, ()): float(was_asked and not is_application),
        (VM_UNPROTECTED_VGS, ()): float(groups),
        **{(VM_FULL_REASON, (reason,)): 1.0 for reason, holds in classes_of_full(point.disks).items() if holds},
    }


def _take_none(vm: _Vm) -> None:
    """It has no point that can be read."""
    vm.newest, vm.frozen_at, vm.committed_at, vm.of_point, vm.base = "", 0.0, 0.0, {}, None
