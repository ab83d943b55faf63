"""All pages of a list, by v2's rules and by v3's. A list that was cut short is an error, never an answer.

Each entity is read into a small value as its page comes: a big cluster's JSON is never held whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from mover.errors import HypervisorUnreachable
from mover.hypervisor.nutanix.reading import Json, dig, items, number, uuid
from mover.hypervisor.nutanix.session import Session

_V3_PAGE = 100
_V2_PAGE = 100
# Entities that come and go shift the pages; a list that changes during each of these tries is
# taken as it was seen, since a busy Prism never holds still.
_TRIES = 4
_PAGES_MAX = 10_000
# A hundred VMs with all their disks are work for Prism; its own documents call them expensive.
_TIMES_THE_TIMEOUT = 4

T = TypeVar("T")
Page = tuple[list[Json] | None, int | None]
"""Its entries, None where it has no list of them; the number of all entries, None where it does not say."""


class _Shifted(Exception):
    """The list changed under us, or an answer was short."""


async def list_v3(
    session: Session,
    kind: str,
    read: Callable[[Json], T],
    *,
    filter_: str | None = None,
    patience_s: float | None = None,
) -> list[T]:
    """``POST <kind>s/list`` to the end, none twice. Raises HypervisorUnreachable when it never becomes whole."""

    async def page(offset: int) -> Page:
        body: dict[str, Any] = {"kind": kind, "length": _V3_PAGE, "offset": offset}
        if filter_:
            body["filter"] = filter_
        timeout_s = _timeout_s(session) if patience_s is None else None
        answer = await session.post("v3", f"{kind}s/list", body, timeout_s=timeout_s, patience_s=patience_s)
        return _page_of(answer, "total_matches")

    lister = _Lister(page, lambda entity: uuid(entity, "metadata", "uuid"), read)
    return await lister.whole(session, f"v3 {kind}s")


async def list_v2_by_offset(
    session: Session, path: str, read: Callable[[Json], T], *, key: str, query: Mapping[str, str]
) -> list[T]:
    """v2 lists with ``offset`` and ``length`` (vms)."""

    async def page(offset: int) -> Page:
        asked = {**query, "offset": str(offset), "length": str(_V2_PAGE)}
        answer = await session.call("GET", "v2", path, query=asked, timeout_s=_timeout_s(session))
        return _page_of(answer, "grand_total_entities")

    return await _Lister(page, lambda entity: uuid(entity, key), read).whole(session, f"v2 {path}")


async def list_v2_by_page(session: Session, path: str, read: Callable[[Json], T], *, key: str) -> list[T]:
    """v2 lists with a 1-based ``page`` and ``count`` (containers).

    A server may clip ``count``, so the page number is counted, never computed from an offset.
    """
    pages = 0

    async def page(offset: int) -> Page:
        nonlocal pages
        pages = pages + 1 if offset else 1
        answer = await session.get("v2", path, query={"page": str(pages), "count": str(_V2_PAGE)})
        return _page_of(answer, "grand_total_entities")

    return await _Lister(page, lambda entity: uuid(entity, key), read).whole(session, f"v2 {path}")


def _timeout_s(session: Session) -> float:
    return session.call_timeout_s * _TIMES_THE_TIMEOUT


class _Lister(Generic[T]):
    """Runs through the pages until they agree with themselves."""

    def __init__(
        self, page: Callable[[int], Awaitable[Page]], key: Callable[[Json], str], read: Callable[[Json], T]
    ) -> None:
        self._page, self._key, self._read = page, key, read
        self._everything: dict[str, T] = {}

    async def whole(self, session: Session, what: str) -> list[T]:
        problem = ""
        for attempt in range(_TRIES):
            try:
                return list((await self._once()).values())
            except _Shifted as shifted:
                problem = str(shifted)
            if attempt < _TRIES - 1:
                await session.clock.sleep(0.2 * (attempt + 1))
        if problem.startswith("changed"):
            return list(self._everything.values())
        raise HypervisorUnreachable(
            f"{session.address} gave an incomplete list of {what}: {problem}",
            remedy="Try again; if it stays, restart Prism's gateway or report this with the log.",
            list=what,
        )

    async def _once(self) -> dict[str, T]:
        """One run through all pages; what was seen is also kept in ``_everything``."""
        found: dict[str, T] = {}
        offset, first_total = 0, None
        for _ in range(_PAGES_MAX):
            entities, total = await self._page(offset)
            if entities is None:
                if offset and first_total is None and total is None:
                    # Past its end a build that tells no totals may leave the list away.
                    return found
                raise _Shifted("an answer without entries")
            fresh = {self._key(entity): self._read(entity) for entity in entities}
            is_new = any(name not in found for name in fresh)
            found.update(fresh)
            self._everything.update(fresh)
            offset += len(entities)
            first_total = total if first_total is None else first_total
            if total != first_total:
                raise _Shifted(f"changed from {first_total} to {total} entries while it was read")
            if _is_end(offset, total, len(entities), len(found)):
                return found
            if not is_new:
                raise _Shifted(f"the same page again at {offset} of {total}")
        raise _Shifted("it does not end")


def _is_end(offset: int, total: int | None, came: int, distinct: int) -> bool:
    """Raises _Shifted where the list ends too early."""
    if total is None:
        return came == 0
    if offset < total and came == 0:
        raise _Shifted(f"{offset} of {total} entries, then an empty page")
    if offset >= total and distinct < total:
        raise _Shifted(f"changed: {distinct} distinct entries of {total}")
    return offset >= total


def _page_of(answer: Any, total_name: str) -> Page:
    """Raises _Shifted for no answer at all: "nothing" is said in so many words, by an empty list or a total of 0."""
    if not isinstance(answer, Mapping):
        raise _Shifted("an answer without entries")
    total = _total(answer, total_name)
    if total != 0 and not isinstance(dig(answer, "entities"), list):
        return None, total
    return list(items(answer, "entities")), total


def _total(answer: Any, name: str) -> int | None:
    """The number of all entries; None where the answer does not say."""
    for member in (name, "total_entities"):
        if isinstance(dig(answer, "metadata", member), int):
            return number(answer, "metadata", member)
    return None
