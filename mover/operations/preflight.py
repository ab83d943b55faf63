"""``mover check``: what must be right before a backup, a line each: ok, note or problem with its remedy.

A line that fails does not keep the others from being looked at, unless they stand on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mover.clock import Clock
from mover.config import Settings
from mover.errors import MoverError, RepositoryMissing, StoreUnreachable
from mover.hypervisor.protocol import About, Hypervisor
from mover.model.machine import Vm
from mover.operations.attach import free_slots
from mover.operations.ports import Repository
from mover.repository import layout
from mover.room import STATE_LEAST_BYTES, trouble_of
from mover.storage.protocol import Store, StoreTraits
from mover.units import GIB, format_size

_CLOCK_NOTE_S, _CLOCK_PROBLEM_S = 5.0, 300.0
"""Beyond the first, logs are hard to compare; beyond the second, expiries of snapshots are wrong."""

_SCRATCH_LINE_BYTES, _SCRATCH_DISK_BYTES = 37, 1024 * GIB
"""Of a disk while it is copied: a line a block, here of 1 TiB that changed all over."""

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the check."""

    subject: str
    state: State
    what: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


class Finding(Protocol):
    """A line about this node: of its rights and limits, or of the device guard."""

    @property
    def subject(self) -> str: ...
    @property
    def state(self) -> State: ...
    @property
    def what(self) -> str: ...
    @property
    def remedy(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PreflightPorts:
    """How each part is reached; all may raise MoverError, which becomes a line."""

    settings: Settings
    clock: Clock
    prism: Callable[[], AbstractAsyncContextManager[Hypervisor]]
    proxy: Callable[[Hypervisor], Awaitable[Vm]]
    place: Callable[[], Sequence[Finding]]
    guard: Callable[[], Sequence[Finding]]
    store: Callable[[], AbstractAsyncContextManager[Store]]
    probe: Callable[[Store, Clock], Awaitable[StoreTraits]]
    repository: Callable[[], AbstractAsyncContextManager[Repository]]


async def preflight(ports: PreflightPorts) -> list[Line]:
    """All lines, in the order in which a backup needs them."""
    lines = [_state_folder(ports.settings), *_found("place", ports.place)]
    lines += await _prism(ports)
    lines += _found("guard", ports.guard)
    lines += await _store(ports)
    return lines


def _state_folder(settings: Settings) -> Line:
    folder = settings.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        remedy = "Set state_dir (or MOVER_STATE_DIR) to a folder that this user may write."
        return Line("state folder", "problem", f"{folder} cannot be written: {error.strerror}", remedy)
    if trouble := trouble_of(folder):
        return _problem("state folder", trouble)
    return Line("state folder", "ok", str(folder))


async def _state_space(settings: Settings, store: Store) -> list[Line]:
    """Databases in the state folder; index and scratch beside them, or where ``cache_dir`` says."""
    state = settings.state_dir
    cache = settings.repository.cache_dir or state / "cache"
    scratch_bytes = _SCRATCH_DISK_BYTES // settings.data.first_block_bytes * _SCRATCH_LINE_BYTES
    cache_bytes = await _index_bytes(store) + settings.limits.disks * scratch_bytes
    if settings.repository.cache_dir is None:
        return [_room("state space", state, cache, STATE_LEAST_BYTES + cache_bytes, "state_dir")]
    return [
        _room("state space", state, None, STATE_LEAST_BYTES, "state_dir"),
        _room("cache space", cache, cache, cache_bytes, "repository.cache_dir"),
    ]


async def _index_bytes(store: Store) -> int:
    """What the local index may take: as much as the store's, and twice that while files are merged."""
    return 2 * sum([info.size_bytes async for info in store.list(layout.INDEX)])


def _used_bytes(cache: Path) -> int:
    """Of the local index; a daemon that is at work may remove files meanwhile."""
    used = 0
    for file in cache.rglob("*.segment"):
        with suppress(FileNotFoundError):
            used += file.stat().st_size
    return used


def _room(subject: str, folder: Path, cache: Path | None, need: int, setting: str) -> Line:
    try:
        place = next(one for one in (folder, *folder.parents) if one.is_dir())
        free, used = shutil.disk_usage(place).free, _used_bytes(cache) if cache else 0
    except OSError as error:
        return Line(subject, "note", f"{folder} cannot be looked at: {error.strerror}", f"Give this user {folder}.")
    wanted = max(STATE_LEAST_BYTES, need - used)
    if free >= wanted:
        return Line(subject, "ok", f"{format_size(free)} free, {format_size(wanted)} may be needed")
    what = f"{format_size(free)} free in {folder}, {format_size(wanted)} may be needed: jobs stop when it is full"
    return Line(subject, "note", what, f"Make room there, or set {setting} to a folder that has it.")


async def _prism(ports: PreflightPorts) -> list[Line]:
    lines: list[Line] = []
    try:
        async with ports.prism() as hypervisor:
            about = await hypervisor.about()
            what = f"{about.kind} {about.version}, cluster {about.cluster.name}, user {about.user}"
            lines.append(Line("Prism", "ok", what))
            lines += [_tls(ports.settings), _rights(about), _clock(about)]
            lines += await _proxy(ports, hypervisor, about)
            lines += await _containers(ports, hypervisor)
    except MoverError as error:
        lines.append(_problem("Prism", error))
    return lines


def _tls(settings: Settings) -> Line:
    prism = settings.prism
    if prism.verify != "yes":
        remedy = "Set prism.fingerprint or prism.ca_file, and prism.verify to yes."
        return Line("TLS", "note", "certificates are not checked: the password can be stolen on the way", remedy)
    how = "pinned fingerprint" if prism.fingerprint else "CA file" if prism.ca_file else "system's CAs"
    return Line("TLS", "ok", f"certificate checked by {how}")


def _rights(about: About) -> Line:
    if about.is_admin:
        return Line("rights", "ok", f"{about.user} may snapshot, attach and create")
    remedy = "Give the user the role Cluster Admin (on the Element too, where a Central stands before it)."
    return Line("rights", "problem", f"{about.user} may only look", remedy)


def _clock(about: About) -> Line:
    off = about.clock_offset_s
    what = f"Prism's clock is {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} ours"
    state: State = "ok" if abs(off) <= _CLOCK_NOTE_S else "note" if abs(off) <= _CLOCK_PROBLEM_S else "problem"
    return Line("clock", state, what, "" if state == "ok" else "Run an NTP client here and on the cluster.")


async def _proxy(ports: PreflightPorts, hypervisor: Hypervisor, about: About) -> list[Line]:
    try:
        vm = await ports.proxy(hypervisor)
    except MoverError as error:
        return [_problem("own VM", error)]
    if vm.cluster_uuid != about.cluster.uuid:
        remedy = "Run mover in a VM of the cluster that it backs up, or correct node.proxy_uuid."
        return [Line("own VM", "problem", f"{vm.name} is in another cluster than {about.cluster.name}", remedy)]
    if not vm.is_on:
        remedy = "Correct node.proxy_uuid: the VM that this runs in cannot be off."
        return [Line("own VM", "problem", f"{vm.name} is powered off", remedy)]
    return [Line("own VM", "ok", f"{vm.name} ({vm.uuid})"), _slots(ports.settings, vm)]


def _slots(settings: Settings, vm: Vm) -> Line:
    free, limits = len(free_slots(vm.disks, first=settings.node.first_slot)), settings.limits
    what = f"{free} free SCSI slots from {settings.node.first_slot} on"
    if free == 0:
        return Line("SCSI slots", "problem", what, "Detach disks that are not needed; see: mover orphans")
    wanted = min(limits.disks, limits.attached)
    if free < wanted:
        remedy = "Free slots, or lower limits.disks or limits.attached: a disk without a slot fails its job."
        return Line("SCSI slots", "note", f"{what}, {wanted} disks may be attached at a time", remedy)
    return Line("SCSI slots", "ok", what)


async def _containers(ports: PreflightPorts, hypervisor: Hypervisor) -> list[Line]:
    keep = ports.settings.limits.container_free
    lines = []
    for container in await hypervisor.containers():
        what = f"{container.name}: {format_size(container.free_bytes)} free"
        if container.free_bytes >= keep:
            lines.append(Line("container", "ok", what))
        else:
            remedy = "Free space there, or lower limits.container_free knowingly: VMs in it are not backed up."
            lines.append(Line("container", "note", f"{what}, {format_size(keep)} are to be kept", remedy))
    return lines


def _found(subject: str, look: Callable[[], Sequence[Finding]]) -> list[Line]:
    try:
        return [Line(f.subject, f.state, f.what, f.remedy) for f in look()]
    except MoverError as error:
        return [_problem(subject, error)]


async def _store(ports: PreflightPorts) -> list[Line]:
    lines: list[Line] = []
    try:
        async with ports.store() as store:
            traits = await ports.probe(store, ports.clock)
            state: State = "ok" if traits.has_create_only else "note"
            remedy = "" if traits.has_create_only else "Let only one mover write to it at a time."
            lines.append(Line("store", state, traits.description, remedy))
            lines.append(await _store_space(ports.settings, store))
            lines += await _state_space(ports.settings, store)
        async with ports.repository() as repository:
            points = await repository.points()
            damaged = [point.id for point in points if point.problem]
            lines.append(Line("repository", "ok", f"{repository.id[:8]}, {len(points)} restore points"))
            if damaged:
                what = f"{len(damaged)} manifests cannot be read, the first is {damaged[0]}"
                lines.append(Line("manifests", "problem", what, "Repair the store from a copy of it."))
    except RepositoryMissing as error:
        lines.append(Line("repository", "note", error.message, "Make one with: mover init"))
    except StoreUnreachable as error:
        # A folder that is not there is the usual state before the first ``mover init``, which makes it.
        is_absent = not lines and "folder" in error.facts and not error.retryable
        lines.append(Line("store", "note", error.message, error.remedy) if is_absent else _problem("store", error))
    except MoverError as error:
        lines.append(_problem("repository" if lines else "store", error))
    return lines


async def _store_space(settings: Settings, store: Store) -> Line:
    free, keep = await store.free_bytes(), settings.limits.store_free
    if free is None:
        return Line("store space", "ok", "the store does not say how much is free")
    if free < keep:
        remedy = "Free space there, or lower limits.store_free knowingly."
        return Line("store space", "problem", f"{format_size(free)} free, {format_size(keep)} wanted", remedy)
    return Line("store space", "ok", f"{format_size(free)} free")


def _problem(subject: str, error: MoverError) -> Line:
    return Line(subject, "problem", error.message, error.remedy)
