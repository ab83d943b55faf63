"""VMs made, finished, switched and deleted. A v3 PUT of a VM does not exist here, on purpose:

it deletes every disk that it does not list. Categories are given at creation, the boot disk
by v2, which leaves alone what it is not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mover import logs
from mover.errors import (
    Conflict,
    EffectUnknown,
    HypervisorError,
    HypervisorUnreachable,
    NotFound,
    RequestRefused,
    RightsMissing,
    TaskFailed,
)
from mover.hypervisor.nutanix import losses, rebuild, v2, v3
from mover.hypervisor.nutanix.answers import is_unsupported, message_of
from mover.hypervisor.nutanix.endpoints import Endpoints
from mover.hypervisor.nutanix.inventory import read_networks
from mover.hypervisor.nutanix.paging import list_v3
from mover.hypervisor.nutanix.patience import past_conflicts
from mover.hypervisor.nutanix.reading import Json, text, uuid, word
from mover.hypervisor.nutanix.session import Session
from mover.hypervisor.nutanix.snapshots import reserve
from mover.hypervisor.nutanix.tasks import wait_for_v2, wait_for_v3
from mover.hypervisor.protocol import VmRequest
from mover.model.machine import MarkedVm

log = logs.get(__name__)

_FIRST_LOOK_S = 0.1
_LONGEST_LOOK_S = 5.0
_SHOWN_WITHIN_S = 120.0
_FAILED_LOOK_S = 5.0
_POWER_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to ask for the VM: by whom, and with what that a Prism may refuse."""

    session: Session
    vm_uuid: str
    categories: Mapping[str, list[str]]
    with_vtpm: bool
    by_v2: bool = False
    """Only where v3 says that it makes no VMs here."""


async def create_vm(at: Endpoints, request: VmRequest, *, key: str) -> str:
    """Make the VM, off, without data disks; returns its UUID.

    Idempotent under ``key``: its UUID is reserved first, and a VM that exists under it is the
    answer. A Prism that refuses vTPM or categories gets the same without them: ``finish_vm``
    warns. Raises RequestRefused (network, MAC, or what Prism refuses), TaskFailed.
    """
    ways = await _ways(at, request, key)
    for vm_uuid in {way.vm_uuid: None for way in ways}:
        if await _find(at.element, vm_uuid) is not None:
            return await _until_complete(at.element, vm_uuid)
    networks = {network.uuid: network.name for network in await read_networks(at.element)}
    macs = await _macs_in_use(at.element)
    refusal: HypervisorError | None = None
    element_makes_none = False
    for way in ways:
        if way.by_v2 and not element_makes_none:
            continue
        try:
            if way.by_v2:
                body = rebuild.create_body_by_v2(request, vm_uuid=way.vm_uuid, networks=networks, macs_in_use=macs)
                await _create_by_v2(way.session, body)
            else:
                await _create(way.session, _body_of(way, request, at.cluster.uuid, networks, macs), at.element)
        except (RequestRefused, NotFound, RightsMissing) as refused:
            log.info("prism.create-refused", host=str(way.session.address), said=refused.message)
            element_makes_none |= way.session is at.element and is_unsupported(refused)
            refusal = refused if refusal is None or is_unsupported(refusal) else refusal
            continue
        return await _until_complete(at.element, way.vm_uuid)
    raise refusal or RequestRefused("There is no way to make this VM", remedy="Report this with the log.")


def _body_of(
    way: _Way, request: VmRequest, cluster_uuid: str, networks: Mapping[str, str], macs: Mapping[str, str]
) -> Json:
    return rebuild.create_body(
        request,
        vm_uuid=way.vm_uuid,
        cluster_uuid=cluster_uuid,
        networks=networks,
        macs_in_use=macs,
        with_vtpm=way.with_vtpm,
        categories=way.categories,
    )


async def _ways(at: Endpoints, request: VmRequest, key: str) -> list[_Way]:
    """Best first. Categories exist on Central alone, so it makes the VM where there are some."""
    identifier = f"{key}-vm"
    vtpm = [True, False] if rebuild.has_saved_vtpm(request.spec) else [False]
    categories = rebuild.saved_categories(request.spec)
    ways = []
    if at.central is not None and categories:
        try:
            reserved = await reserve(at.central.session, identifier)
        except (NotFound, RightsMissing) as refused:
            log.info("prism.no-create-by-central", host=str(at.central.session.address), said=refused.message)
        except HypervisorUnreachable as error:
            # Never made by the Element instead: an earlier try may have made it here, under this key.
            remedy = "Wait for the Central. To restore without categories, set prism.url to the Element itself."
            raise HypervisorUnreachable(error.message, remedy=remedy, **error.facts) from None
        else:
            ways += [_Way(at.central.session, reserved, categories, with_vtpm) for with_vtpm in vtpm]
    reserved = await reserve(at.element, identifier)
    ways += [_Way(at.element, reserved, {}, with_vtpm) for with_vtpm in vtpm]
    return [*ways, _Way(at.element, reserved, {}, with_vtpm=False, by_v2=True)]


async def _create(session: Session, body: Json, element: Session) -> None:
    """POST under a reserved UUID; 202 and "exists" mean the same. Idempotent."""
    vm_uuid = uuid(body, "metadata", "uuid")
    what = f"create VM {text(body, 'spec', 'name')}"

    async def post() -> Any:
        try:
            return await session.post("v3", "vms", body)
        except Conflict:
            if await _find(element, vm_uuid) is None:
                raise
            return None  # it exists: there is no task to wait for

    answer = await past_conflicts(session.clock, post)
    try:
        await wait_for_v3(session, answer, what=what)
    except EffectUnknown as unknown:
        # The VM itself says what its task does not: the caller looks for it.
        log.info("prism.create-unclear", said=unknown.message)


async def _create_by_v2(session: Session, body: Json) -> None:
    """POST under our UUID, by which v2 is idempotent; a refusal of what exists already is success."""
    try:
        answer = await session.post("v2", "vms/", body)
        await wait_for_v2(session, answer, what=f"create VM {text(body, 'name')}")
    except EffectUnknown as unknown:
        log.info("prism.create-unclear", said=unknown.message)
    except (RequestRefused, Conflict, TaskFailed):
        if await _find(session, uuid(body, "uuid")) is None:
            raise


async def _until_complete(element: Session, vm_uuid: str) -> str:
    """Wait until the Element shows the VM whole: it may lag behind a Central."""
    pause_s = _FIRST_LOOK_S
    deadline = element.clock.monotonic() + _SHOWN_WITHIN_S
    while True:
        found = await _find(element, vm_uuid)
        state = word(found, "status", "state")
        if state == "ERROR":
            raise TaskFailed(
                f"Prism could not make VM {v3.name_of(found or {})}: {message_of(found) or 'no explanation'}",
                remedy="Delete the half-made VM in Prism (or by `mover orphans --apply`), then restore again.",
                vm_uuid=vm_uuid,
            )
        if found is not None and state in ("COMPLETE", ""):
            return vm_uuid
        if element.clock.monotonic() >= deadline:
            raise EffectUnknown(
                f"The new VM {vm_uuid} is not shown complete after {_SHOWN_WITHIN_S:.0f} s",
                remedy="Nothing is sent twice: `mover orphans` looks what became of it.",
                vm_uuid=vm_uuid,
            )
        await element.clock.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_LOOK_S)


async def finish_vm(at: Endpoints, vm_uuid: str, request: VmRequest) -> tuple[str, ...]:
    """Set what v2 alone takes (boot disk, HA priority); say in words what the VM lacks. Idempotent.

    What cannot be set is a warning, whatever the reason: the disks are in place. Raises NotFound, and what a first
    look raises.
    """
    element_view = await at.element.get("v3", f"vms/{vm_uuid}")
    warnings = [*losses.lost(element_view, request)]
    warnings += await _lost_categories(at, vm_uuid, request)
    for later in rebuild.later_bodies(request.spec):
        warnings += await _set_later(at.element, vm_uuid, later)
    return tuple(warnings)


async def _set_later(session: Session, vm_uuid: str, later: rebuild.Later) -> list[str]:
    """Whole, else, where Prism refused that, at least what it is about; what is missing then, in words."""
    why = ""
    for body in later.bodies():
        try:
            answer = await session.call("PUT", "v2", f"vms/{vm_uuid}/", body=body)
            await wait_for_v2(session, answer, what=f"set the {later.words} of VM {vm_uuid}")
        except HypervisorError as refused:
            why = refused.message
            if not _is_refused(refused):
                break
        else:
            return [f"Its {later.words} is set, but not {later.left()} ({why}): look at it in Prism."] if why else []
    return [f"Its {later.words} could not be set ({why}): set it in Prism."]


def _is_refused(error: HypervisorError) -> bool:
    """Prism looked at the change and does not make it: one without what it may not know could be taken. An outage, or
    somebody else's change, says nothing of the kind."""
    is_answered = error.facts.get("trouble") == "500" and error.facts["operation"].startswith("PUT ")
    return is_answered or isinstance(error, RequestRefused | RightsMissing | TaskFailed)


async def _lost_categories(at: Endpoints, vm_uuid: str, request: VmRequest) -> list[str]:
    wanted = rebuild.saved_categories(request.spec)
    if not wanted:
        return []
    try:
        shown, note = await at.central.vm(vm_uuid) if at.central else (None, "")
    except HypervisorError as error:
        shown, note = None, error.message
    if note:
        return [f"Whether it has its categories again is not known. {note}"]
    has = v3.read_categories(shown) if shown is not None else {}
    missing = sorted(
        f"{key}:{value}" for key, values in wanted.items() for value in values if value not in has.get(key, ())
    )
    return [f"Its categories are not set: {', '.join(missing)}. Assign them in Prism Central."] if missing else []


async def set_power(session: Session, vm_uuid: str, *, on: bool) -> None:
    """Hard power on or off. Idempotent by the state it asks for; proven by a GET. Raises NotFound, TaskFailed."""
    failure: HypervisorError | None = None
    for attempt in range(_POWER_TRIES + 1):
        state = await _settled_power(session, vm_uuid)
        if state is on:
            return
        # The last look; or asked for, awaited, and still in no state that is known: no request will change that.
        if attempt == _POWER_TRIES or (attempt and state is None):
            break
        try:
            answer = await session.post("v2", f"vms/{vm_uuid}/set_power_state/", v2.power_body(on=on))
            await wait_for_v2(session, answer, what=f"power VM {vm_uuid} {'on' if on else 'off'}")
        except (Conflict, TaskFailed, RequestRefused, EffectUnknown) as error:
            failure = error
        if failure is not None or attempt:
            await session.clock.sleep(_FIRST_LOOK_S * 2**attempt)
    raise failure or EffectUnknown(
        f"VM {vm_uuid} does not turn {'on' if on else 'off'}, although Prism reports success",
        remedy="Look at the VM in Prism.",
        vm_uuid=vm_uuid,
    )


async def _settled_power(session: Session, vm_uuid: str) -> bool | None:
    """On or off, once the VM is no more on its way there; None: neither within the time."""
    pause_s = _FIRST_LOOK_S
    deadline = session.clock.monotonic() + _SHOWN_WITHIN_S
    while True:
        is_on = v2.read_settled_power(await session.get("v2", f"vms/{vm_uuid}"))
        if is_on is not None or session.clock.monotonic() >= deadline:
            return is_on
        await session.clock.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_LOOK_S)


async def delete_vm(session: Session, vm_uuid: str) -> None:
    """Delete a VM, by UUID only. Idempotent: gone already is success; proven by a GET.

    Raises Conflict, TaskFailed or EffectUnknown when it is still there.
    """
    failure: HypervisorError | None = None
    try:
        await past_conflicts(session.clock, lambda: _delete(session, vm_uuid))
    except NotFound:
        return
    except (TaskFailed, EffectUnknown) as error:
        failure = error
    if not await _is_gone(session, vm_uuid, within_s=_FAILED_LOOK_S if failure else _SHOWN_WITHIN_S):
        raise failure or EffectUnknown(
            f"VM {vm_uuid} is still shown {_SHOWN_WITHIN_S:.0f} s after Prism deleted it",
            remedy="Look at the VM in Prism; `mover orphans --apply` deletes it if it is ours.",
            vm_uuid=vm_uuid,
        )


async def _delete(session: Session, vm_uuid: str) -> None:
    what = f"delete VM {vm_uuid}"
    try:
        answer = await session.call("DELETE", "v3", f"vms/{vm_uuid}")
    except RequestRefused as refused:
        if not is_unsupported(refused):
            raise
        await wait_for_v2(session, await session.call("DELETE", "v2", f"vms/{vm_uuid}/"), what=what)
    else:
        await wait_for_v3(session, answer, what=what)


async def _is_gone(session: Session, vm_uuid: str, *, within_s: float) -> bool:
    pause_s = _FIRST_LOOK_S
    deadline = session.clock.monotonic() + within_s
    while await _find(session, vm_uuid) is not None:
        if session.clock.monotonic() >= deadline:
            return False
        await session.clock.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_LOOK_S)
    return True


async def list_vms(session: Session, name_prefix: str) -> tuple[MarkedVm, ...]:
    """VMs whose description begins so. Only reads."""

    def read(entity: Json) -> MarkedVm | None:
        mark = text(entity, "status", "description") or text(entity, "spec", "description")
        is_ours = mark.startswith(name_prefix)
        return MarkedVm(uuid(entity, "metadata", "uuid"), v3.name_of(entity), mark) if is_ours else None

    return tuple(filter(None, await list_v3(session, "vm", read)))


async def _macs_in_use(session: Session) -> dict[str, str]:
    """MAC address → name of the VM that has it."""

    def read(entity: Json) -> dict[str, str]:
        return {nic.mac_address: v3.name_of(entity) for nic in v3.read_nics(entity) if nic.mac_address}

    return {mac: name for macs in await list_v3(session, "vm", read) for mac, name in macs.items()}


async def _find(session: Session, vm_uuid: str) -> Json | None:
    try:
        found = await session.get("v3", f"vms/{vm_uuid}")
    except NotFound:
        return None
    return found if isinstance(found, dict) else None
