"""The list of restore points, and what a user's words for one of them mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mover.clock import iso
from mover.errors import AmbiguousName, Damaged, NoSuchPoint, ObjectMissing, PointConflict
from mover.model.machine import Consistency
from mover.model.point import PointSummary, ReadMode
from mover.repository import layout
from mover.repository.hold import voided
from mover.repository.keys import Secrets
from mover.repository.manifest import HEAD_READ_BYTES, open_header, summary
from mover.repository.together import side_by_side
from mover.storage.protocol import ObjectInfo, Store

READS_IN_FLIGHT = 8


async def list_points(store: Store, secrets: Secrets, vm_uuid: str | None = None) -> list[PointSummary]:
    """Newest last. A manifest that cannot be read is listed with its ``problem``."""
    return await _lines(store, secrets, await _infos(store, vm_uuid))


async def find_point(store: Store, secrets: Secrets, text: str) -> PointSummary:
    """What ``choose`` finds among all; by a full id, which jobs use, no other point's manifest is read."""
    infos = await _infos(store)
    named = [info for info in infos if (layout.point_of(info.name) or ("", ""))[1] == text]
    return choose(await _lines(store, secrets, named) or await _lines(store, secrets, infos), text)


async def _infos(store: Store, vm_uuid: str | None = None) -> list[ObjectInfo]:
    prefix = layout.POINTS if vm_uuid is None else layout.point_name(vm_uuid, "x")[:-1]
    return [info async for info in store.list(prefix) if layout.point_of(info.name)]


async def _lines(store: Store, secrets: Secrets, infos: Sequence[ObjectInfo]) -> list[PointSummary]:
    lines = await side_by_side(partial(_line, store, secrets), infos, at_once=READS_IN_FLIGHT)
    found = [line for line in lines if line is not None]
    return sorted(found, key=lambda point: (point.created_at, point.id))


async def _line(store: Store, secrets: Secrets, info: ObjectInfo) -> PointSummary | None:
    """None for a void, and for a point that was deleted meanwhile."""
    try:
        reach = min(info.size_bytes, HEAD_READ_BYTES)
        header = open_header(secrets, info.name, bytes(await store.get_range(info.name, 0, reach)))
        if header is None:
            header = open_header(secrets, info.name, await store.get(info.name))
        if header is None:
            return _unreadable(info, f"{info.name} is damaged: it is cut off")
        return None if "void" in header else summary(info.name, header)
    except ObjectMissing:
        return None
    except Damaged as error:
        return _unreadable(info, error.message)


def _unreadable(info: ObjectInfo, problem: str) -> PointSummary:
    vm_uuid, point_id = layout.point_of(info.name) or ("", "")
    return PointSummary(
        id=point_id,
        vm_uuid=vm_uuid,
        vm_name="",
        created_at=info.modified_at,
        committed_at=info.modified_at,
        size_bytes=0,
        bytes_read=0,
        bytes_stored=0,
        mode=ReadMode.FULL,
        consistency=Consistency.CRASH,
        is_base=False,
        disks=0,
        problem=problem,
    )


def choose(points: Sequence[PointSummary], text: str) -> PointSummary:
    """A full id, the beginning of one, ``name`` or ``name@latest``. Raises NoSuchPoint, AmbiguousName."""
    exact = [point for point in points if point.id == text]
    if exact:
        return exact[0]
    for name in (text, text.removesuffix("@latest")):
        of_vm = [point for point in points if name and name in (point.vm_name, point.vm_uuid)]
        if of_vm:
            return _latest(points, of_vm, text)
    return _by_prefix(points, text)


def _by_prefix(points: Sequence[PointSummary], text: str) -> PointSummary:
    found = [point for point in points if text and point.id.startswith(text)]
    if not found:
        raise NoSuchPoint(f"No restore point is called {text!r}", remedy="List them with mover points.", text=text)
    if len(found) > 1:
        raise AmbiguousName(
            f"{text!r} begins the ids of {len(found)} restore points",
            remedy="Write more of the id.",
            points=[point.id for point in found],
        )
    return found[0]


def _latest(points: Sequence[PointSummary], of_vm: Sequence[PointSummary], text: str) -> PointSummary:
    vms = sorted({point.vm_uuid for point in of_vm})
    if len(vms) > 1:
        raise AmbiguousName(
            f"{text!r} is the name of {len(vms)} VMs", remedy="Use a point's id, or the VM's UUID.", vms=vms
        )
    newest = [point for point in points if point.vm_uuid == vms[0]][-1]
    if newest.problem:
        readable = next((point.id for point in reversed(of_vm) if not point.problem), "none")
        raise Damaged(
            f"The newest point of {text!r} ({newest.id}, {iso(newest.created_at)}) cannot be read: {newest.problem}",
            remedy=f"Choose an older one by its id: {readable}.",
            object=layout.point_name(newest.vm_uuid, newest.id),
        )
    return newest


def judge(name: str, stored: bytes, secrets: Secrets, session_id: str) -> None:
    """What stands at the name of a point is this session's manifest, or SessionVoided, PointConflict is raised."""
    header = open_header(secrets, name, stored) or {}
    if "void" in header:
        raise voided(session_id)
    if header.get("session_id") != session_id:
        raise PointConflict(
            f"{name} was committed by session {header.get('session_id')}",
            remedy="Nothing is to be done: the job has its point. Look at it with mover points.",
            object=name,
        )
