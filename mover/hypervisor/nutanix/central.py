"""What only a Central knows (categories): asked beside the Element, and not depended on.

Snapshots, changed regions and disks are the Element's. A Central that goes away in the midst of
them costs a note, unless the operator wants no point without categories.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from mover import logs
from mover.errors import HypervisorError, NotFound, StateDamaged, StateFull
from mover.hypervisor.nutanix import v3
from mover.hypervisor.nutanix.paging import list_v3
from mover.hypervisor.nutanix.reading import Json, uuid
from mover.hypervisor.nutanix.session import Session

log = logs.get(__name__)

_PATIENCE_S = 10.0
# Asked again after this: each backup of a night must not wait for a Central that is down.
_SILENCE_S = 60.0

T = TypeVar("T")
Categories = dict[str, tuple[str, ...]]


class Central:
    """A logged-in Central. Each answer comes with a note, empty where there is nothing to be said."""

    def __init__(self, session: Session, *, is_needed: bool) -> None:
        self.session = session
        self._is_needed = is_needed
        self._silent_until = 0.0
        self._problem = ""

    async def vm(self, vm_uuid: str) -> tuple[Json | None, str]:
        """Its view of a VM; None where it does not know it (it lags) or does not answer."""

        async def ask(patience_s: float | None) -> Json | None:
            found = await self.session.get("v3", f"vms/{vm_uuid}", patience_s=patience_s)
            return found if isinstance(found, Mapping) else None

        return await self._asked(ask)

    async def categories(self) -> tuple[dict[str, Categories], str]:
        """VM UUID → its categories."""

        async def ask(patience_s: float | None) -> dict[str, Categories]:
            pairs = await list_v3(
                self.session,
                "vm",
                lambda vm: (uuid(vm, "metadata", "uuid"), v3.read_categories(vm)),
                patience_s=patience_s,
            )
            return dict(pairs)

        found, note = await self._asked(ask)
        return found or {}, note

    async def _asked(self, ask: Callable[[float | None], Awaitable[T]]) -> tuple[T | None, str]:
        clock = self.session.clock
        if self._is_needed or clock.monotonic() >= self._silent_until:
            try:
                return await ask(None if self._is_needed else _PATIENCE_S), ""
            except NotFound:
                return None, ""
            except (HypervisorError, StateDamaged, StateFull) as error:
                if self._is_needed:
                    raise
                self._silent_until = clock.monotonic() + _SILENCE_S
                self._problem = error.message
                log.warning("prism.without-central", host=str(self.session.address), said=error.message)
        return None, f"Prism Central could not be asked, so categories are not known: {self._problem}"
