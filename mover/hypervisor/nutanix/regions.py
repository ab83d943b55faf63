"""Changed regions of one frozen file, page by page, each page checked by the interface's own rules.

A list is a hint to be checked: what can be seen to be wrong is refused here; what cannot
(a list cut short looks like a quiet disk) is found by comparing blocks, elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mover.errors import (
    BaseGone,
    ChangedRegionsInvalid,
    HypervisorError,
    HypervisorUnreachable,
    NotFound,
    RequestRefused,
)
from mover.hypervisor.nutanix.reading import Json, dig, text
from mover.hypervisor.nutanix.session import Session
from mover.hypervisor.protocol import ChangedRegions
from mover.model.region import RegionError, RegionKind, Regions

_INT64_MAX = (1 << 63) - 1
# Each page must advance, so a list ends; this many pages is more than 60 TB in 600 MB steps.
_PAGES_MAX = 100_000
# A query looks through the map of a whole disk, of many TB, before its first region.
_TIMES_THE_TIMEOUT = 4

Rows = NDArray[np.int64]


async def fetch(session: Session, path: str, base_path: str | None, *, size_bytes: int) -> ChangedRegions:
    """All regions of ``path`` against ``base_path`` (None: what is allocated), of a disk of ``size_bytes``.

    Only reads. Raises BaseGone, NotFound, ChangedRegionsInvalid.
    """
    try:
        return await _all_pages(session, path, base_path, size_bytes)
    except (NotFound, RequestRefused, HypervisorUnreachable) as refused:
        if not _is_about_the_files(refused, base_path):
            raise
        if base_path is None:
            raise _path_gone(refused, path) from None
        await _look_for(session, path)
        problem = "cannot be compared with" if isinstance(refused, HypervisorUnreachable) else "does not exist any more"
        raise BaseGone(
            f"The base snapshot's file {base_path} {problem}: {refused.message}",
            remedy="Nothing to do: this disk is read in full. Raise prism.snapshot_life if it expires between backups.",
            path=path,
            base_path=base_path,
            said=refused.message,
        ) from None


def _is_about_the_files(refused: HypervisorError, base_path: str | None) -> bool:
    """Not our own mistake (422), nor a Prism that is silent; a lasting 500 only where there is a base to blame."""
    status = refused.facts.get("status")
    return (status == 500 and base_path is not None) if isinstance(refused, HypervisorUnreachable) else status != 422


async def _look_for(session: Session, path: str) -> None:
    """Ask without the base: tells a missing path (NotFound) from a missing base."""
    try:
        await _asked(session, path, None, 0)
    except (NotFound, RequestRefused) as refused:
        raise _path_gone(refused, path) from None


def _path_gone(refused: HypervisorError, path: str) -> HypervisorError:
    if isinstance(refused, RequestRefused) and refused.facts.get("reason") not in ("ENTITY_NOT_FOUND", ""):
        return refused
    return NotFound(
        f"The snapshot's file {path} does not exist: {refused.message}",
        remedy="The snapshot was deleted meanwhile: run the backup again.",
        path=path,
    )


async def _all_pages(session: Session, path: str, base_path: str | None, size_bytes: int) -> ChangedRegions:
    start, pages = 0, 0
    rows: list[Rows] = []
    while True:
        page = await _asked(session, path, base_path, start)
        pages += 1
        _check_size(page, path, size_bytes)
        rows.append(read_rows(page, path))
        following = next_start(page, start=start, size_bytes=size_bytes, path=path)
        if following is None:
            return ChangedRegions(_joined(rows, path, size_bytes), size_bytes, pages)
        if pages >= _PAGES_MAX:
            raise invalid(path, f"it does not end: {pages} pages, and now at {following}")
        start = following


async def _asked(session: Session, path: str, base_path: str | None, start: int) -> Any:
    timeout_s = session.call_timeout_s * _TIMES_THE_TIMEOUT
    return await session.post("v3", "data/changed_regions", query_of(path, base_path, start), timeout_s=timeout_s)


def query_of(path: str, base_path: str | None, start: int) -> dict[str, Any]:
    """Request body. The reference is left out when there is none: null would be refused with 422."""
    query: dict[str, Any] = {"snapshot_file_path": path, "start_offset": start}
    if base_path is not None:
        query["reference_snapshot_file_path"] = base_path
    return query


def next_start(page: Json, *, start: int, size_bytes: int, path: str) -> int | None:
    """Where to go on, or None at the end. Absent, null, 0, no advance, or beyond the file: the end.

    Raises ChangedRegionsInvalid when it goes back or is not a whole number.
    """
    following = dig(page, "next_offset")
    if following is None:
        return None
    following = _whole_number(following, "next_offset", path)
    if following in (0, start) or following >= size_bytes:
        return None
    if following < start:
        raise invalid(path, f"next_offset goes back from {start} to {following}")
    return following


def read_rows(page: Json, path: str) -> Rows:
    """``region_list`` → rows of (offset, length, kind). An unknown type counts as data: it is read.

    Raises ChangedRegionsInvalid for anything but whole, non-negative numbers within int64.
    """
    listed = dig(page, "region_list")
    if listed is None:
        return np.empty((0, 3), np.int64)
    if not isinstance(listed, list):
        raise invalid(path, "region_list is not a list")
    if not all(isinstance(entry, dict) for entry in listed):
        raise invalid(path, "region_list holds something that is not a region")
    rows = np.empty((len(listed), 3), np.int64)
    rows[:, 0] = _column(listed, "offset", path)
    rows[:, 1] = _column(listed, "length", path)
    rows[:, 2] = [RegionKind.ZERO if _is_zeroed(entry) else RegionKind.DATA for entry in listed]
    for offset, length, _ in rows[rows[:, 0] > _INT64_MAX - rows[:, 1]][:1]:
        raise invalid(path, f"the region at {offset} of {length} bytes overflows")
    return rows


def _column(listed: list[dict[str, Any]], member: str, path: str) -> list[int]:
    """One member of all regions, checked at once: a page may hold ten thousand, and the event loop waits."""
    values: list[Any] = [entry.get(member) for entry in listed]
    is_sound = all(type(value) is int for value in values)
    if is_sound and min(values, default=0) >= 0 and max(values, default=0) <= _INT64_MAX:
        return values
    return [_whole_number(value, member, path) for value in values]


def _is_zeroed(entry: dict[str, Any]) -> bool:
    kind = entry.get("type")
    return kind == "ZEROED" or (kind != "REGULAR" and text(entry, "type").upper() == "ZEROED")


def _whole_number(value: Any, member: str, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT64_MAX:
        raise invalid(path, f"{member} is {value!r}")
    return value


def _check_size(page: Json, path: str, size_bytes: int) -> None:
    size = _whole_number(dig(page, "file_size"), "file_size", path)
    if size != size_bytes:
        raise invalid(path, f"file_size is {size}, the disk has {size_bytes} bytes", file_size_bytes=size)


def _joined(rows: list[Rows], path: str, size_bytes: int) -> Regions:
    try:
        return Regions.from_rows(np.concatenate(rows), size_bytes=size_bytes)
    except RegionError as error:
        raise invalid(path, str(error)) from None


def invalid(path: str, why: str, **facts: Any) -> ChangedRegionsInvalid:
    return ChangedRegionsInvalid(
        f"The list of changed regions of {path} breaks its own rules: {why}",
        remedy="The disk can be read in full instead (--full); report this to Nutanix with the log.",
        path=path,
        why=why,
        **facts,
    )
