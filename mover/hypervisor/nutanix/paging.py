"""All pages of a list, by v2's rules and by v3's. A list that was cut short is an error, never an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mover.errors import HypervisorUnreachable
from mover.hypervisor.nutanix.reading import Json, dig, items, number, uuid
from mover.hypervisor.nutanix.session import Session

_V3_PAGE = 100
_V2_PAGE = 100
# Entities that come and go shift the pages; a list that changes during each of these tries is
# taken as it was seen, since a busy Prism never holds still.
_TRIES = 4
_PAGES_MAX = 10_000

Key = Callable[[Json], str]


class _Shifted(Exception):
    """The list changed under us, or an answer was short."""


async def list_v3(session: Session, kind: str, *, path: str | None = None, filter_: str | None = None) -> list[Json]:
    """``POST <kind>s/list`` to the end; entities by ``metadata.uuid``, none twice.

    Raises HypervisorUnreachable when the list never becomes whole.
    """

    async def page(offset: int) -> tuple[list[Json], int | None]:
        body: dict[str, Any] = {"kind": kind, "length": _V3_PAGE, "offset": offset}
        if filter_:
            body["filter"] = filter_
        answer = await session.post("v3", path or f"{kind}s/list", body)
        return list(items(answer, "entities")), _total(answer, "total_matches")

    return await _whole(page, lambda entity: uuid(entity, "metadata", "uuid"), what=f"v3 {kind}s", session=session)


async def list_v2_by_offset(session: Session, path: str, *, key: str, query: Mapping[str, str]) -> list[Json]:
    """v2 lists with ``offset`` and ``length`` (vms)."""

    async def page(offset: int) -> tuple[list[Json], int | None]:
        asked = {**query, "offset": str(offset), "length": str(_V2_PAGE)}
        answer = await session.get("v2", path, query=asked)
        return list(items(answer, "entities")), _total(answer, "grand_total_entities")

    return await _whole(page, lambda entity: uuid(entity, key), what=f"v2 {path}", session=session)


async def list_v2_by_page(session: Session, path: str, *, key: str) -> list[Json]:
    """v2 lists with a 1-based ``page`` and ``count`` (containers).

    A server may clip ``count``, so the page number is counted, never computed from an offset.
    """
    pages = 0

    async def page(offset: int) -> tuple[list[Json], int | None]:
        nonlocal pages
        pages = pages + 1 if offset else 1
        answer = await session.get("v2", path, query={"page": str(pages), "count": str(_V2_PAGE)})
        return list(items(answer, "entities")), _total(answer, "grand_total_entities")

    return await _whole(page, lambda entity: uuid(entity, key), what=f"v2 {path}", session=session)


async def _whole(page: Callable[[int], Any], key: Key, *, what: str, session: Session) -> list[Json]:
    seen: dict[str, Json] = {}
    last_problem = ""
    for attempt in range(_TRIES):
        try:
            return list((await _once(page, key, seen)).values())
        except _Shifted as shifted:
            last_problem = str(shifted)
            if attempt < _TRIES - 1:
                await session.clock.sleep(0.2 * (attempt + 1))
    if last_problem.startswith("changed"):
        return list(seen.values())
    raise HypervisorUnreachable(
        f"{session.address} gave an incomplete list of {what}: {last_problem}",
        remedy="Try again; if it stays, restart Prism's gateway or report this with the log.",
        list=what,
    )


async def _once(page: Callable[[int], Any], key: Key, everything: dict[str, Json]) -> dict[str, Json]:
    """One run through all pages; what was seen is also kept in ``everything``."""
    found: dict[str, Json] = {}
    offset, first_total = 0, None
    for _ in range(_PAGES_MAX):
        entities, total = await page(offset)
        fresh = {key(entity): entity for entity in entities}
        is_new = any(name not in found for name in fresh)
        found.update(fresh)
        everything.update(fresh)
        offset += len(entities)
        first_total = total if first_total is None else first_total
        if total != first_total:
            raise _Shifted(f"changed from {first_total} to {total} entries while it was read")
        if total is None and not entities:
            return found
        if total is not None and offset >= total:
            if len(found) < total:
                raise _Shifted(f"changed: {len(found)} distinct entries of {total}")
            return found
        if not entities:
            raise _Shifted(f"{offset} of {total} entries, then an empty page")
        if not is_new:
            raise _Shifted(f"the same page again at {offset} of {total}")
    raise _Shifted("it does not end")


def _total(answer: Any, name: str) -> int | None:
    """The number of all entries; None where the answer does not say."""
    for member in (name, "total_entities"):
        if isinstance(dig(answer, "metadata", member), int):
            return number(answer, "metadata", member)
    return None
