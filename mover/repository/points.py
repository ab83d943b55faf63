"""The list of restore points, and what a user's words for one of them mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from mover.clock import Clock, iso
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


class Lines:
    """What manifests said, for a while: they never change, and a daemon lists all points every few minutes."""

    def __init__(self, clock: Clock, life_s: float, *, most: int = 20_000) -> None:
        """most: lines kept, each of less than a KiB; what is beyond is read each time."""
        self._clock, self._life_s, self._most = clock, life_s, most
        self._kept: dict[ObjectInfo, tuple[float, PointSummary]] = {}

    def known(self, infos: Iterable[ObjectInfo]) -> dict[ObjectInfo, PointSummary]:
        """Of objects that are as they were when they were read, not too long ago."""
        since = self._clock.monotonic() - self._life_s
        kept = {info: self._kept[info] for info in infos if info in self._kept}
        return {info: line for info, (read_at, line) in kept.items() if read_at > since}

    def learn(
        self, read: Mapping[ObjectInfo, PointSummary | None], *, prefix: str, there: Collection[ObjectInfo]
    ) -> None:
        """These were read just now; of objects below ``prefix`` those are there. What could not be read is not kept."""
        now = self._clock.monotonic()
        gone = {info for info in self._kept if info.name.startswith(prefix)}.difference(there)
        for info in gone | read.keys():
            self._kept.pop(info, None)
        room = max(0, self._most - len(self._kept))
        readable = [(info, (now, line)) for info, line in read.items() if line and not line.problem]
        self._kept.update(readable[:room])

    def forget(self, name: str) -> None:
        """This object turned out to be damaged."""
        for info in [info for info in self._kept if info.name == name]:
            del self._kept[info]


async def list_points(
    store: Store, secrets: Secrets, vm_uuid: str | None = None, *, lines: Lines | None = None
) -> list[PointSummary]:
    """Newest last. A manifest that cannot be read is listed with its ``problem``. lines: what was read before."""
    prefix = layout.POINTS if vm_uuid is None else layout.point_name(vm_uuid, "x")[:-1]
    infos = await _infos(store, prefix)
    known = lines.known(infos) if lines else {}
    read = await _read(store, secrets, [info for info in infos if info not in known])
    if lines:
        lines.learn(read, prefix=prefix, there=infos)
    return _in_order({**known, **read})


async def find_point(store: Store, secrets: Secrets, text: str) -> PointSummary:
    """What ``choose`` finds among all; by a full id, which jobs use, no other point's manifest is read."""
    infos = await _infos(store, layout.POINTS)
    named = [info for info in infos if (layout.point_of(info.name) or ("", ""))[1] == text]
    found = _in_order(await _read(store, secrets, named)) or _in_order(await _read(store, secrets, infos))
    return choose(found, text)


async def _infos(store: Store, prefix: str) -> list[ObjectInfo]:
    return [info async for info in store.list(prefix) if layout.point_of(info.name)]


async def _read(store: Store, secrets: Secrets, infos: Sequence[ObjectInfo]) -> dict[ObjectInfo, PointSummary | None]:
    lines = await side_by_side(partial(_line, store, secrets), infos, at_once=READS_IN_FLIGHT)
    return dict(zip(infos, lines, strict=True))


def _in_order(lines: Mapping[ObjectInfo, PointSummary | None]) -> list[PointSummary]:
    return sorted((line for line in lines.values() if line), key=lambda point: (point.created_at, point.id))


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
