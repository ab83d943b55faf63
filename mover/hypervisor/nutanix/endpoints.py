"""Which Prism the address is, and which Element does the data work.

Snapshots and changed regions exist on Prism Element only; a Central is asked for its
Elements and for categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mover import logs
from mover.clock import Clock
from mover.config import PrismSettings
from mover.errors import ConfigError, HypervisorUnreachable, LoginRefused, NotFound, RightsMissing, UnsupportedEndpoint
from mover.hypervisor.nutanix import v3
from mover.hypervisor.nutanix.address import PrismAddress, parse_address
from mover.hypervisor.nutanix.central import Central
from mover.hypervisor.nutanix.paging import list_v3
from mover.hypervisor.nutanix.reading import text, uuid
from mover.hypervisor.nutanix.session import Session
from mover.model.machine import Cluster

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Logged-in sessions and what they lead to."""

    element: Session
    central: Central | None
    cluster: Cluster
    """The Element's own."""
    clusters: tuple[Cluster, ...]
    """All that the given address knows, Centrals left out."""
    user: str

    async def close(self) -> None:
        await self.element.close()
        if self.central is not None:
            await self.central.session.close()


async def find_endpoints(settings: PrismSettings, *, clock: Clock, state_dir: Path) -> Endpoints:
    """Log in at ``settings.url``; behind a Central find the Element and log in there too.

    Raises ConfigError, CertificateRejected, LoginRefused, HypervisorUnreachable,
    UnsupportedEndpoint (no Element can be found).
    """
    first = Session(parse_address(settings.url), settings, clock=clock, state_dir=state_dir)
    try:
        user = text(await first.log_in(), "status", "name") or settings.username
        found = await _clusters(first)
        clusters = tuple(cluster for cluster in found if cluster is not None)
        if _is_element(first, found):
            log.info("prism.element", host=str(first.address), why="the address is an Element")
            own = _own(await _itself(first, clusters), settings, first)
            return Endpoints(first, None, own, (own,), user)
        chosen = choose_cluster(clusters, settings.cluster, host=str(first.address))
        element = await _element_of(chosen, settings, first, clock=clock, state_dir=state_dir)
    except BaseException:
        await first.close()
        raise
    log.info("prism.element", host=str(element.address), why=f"{first.address} is a Central", cluster=chosen.name)
    central = Central(first, is_needed=settings.on_central_down == "fail")
    return Endpoints(element, central, chosen, clusters, user)


def _is_element(session: Session, found: list[Cluster | None]) -> bool:
    """As Prism says of itself; else by what it lists: only a Central lists a Central."""
    return session.environment == "pe" or (session.environment != "pc" and None not in found)


async def _itself(session: Session, clusters: tuple[Cluster, ...]) -> tuple[Cluster, ...]:
    """Of the clusters that an Element lists, its own: v2 knows no other."""
    if len(clusters) < 2:
        return clusters
    own = uuid(await session.get("v2", "cluster/"), "uuid")
    return tuple(cluster for cluster in clusters if cluster.uuid == own)


async def _clusters(session: Session) -> list[Cluster | None]:
    """All that the address lists; None stands for a Central."""
    try:
        return await list_v3(session, "cluster", lambda it: None if v3.is_central(it) else v3.read_cluster(it))
    except NotFound:
        raise UnsupportedEndpoint(
            f"{session.address} does not list its clusters by v3",
            remedy="Set prism.url to the address of a Prism Element or Prism Central (port 9440).",
        ) from None


def choose_cluster(clusters: tuple[Cluster, ...], wanted: str | None, *, host: str) -> Cluster:
    """The cluster behind a Central by name or UUID, or its only one.

    Raises UnsupportedEndpoint when there is none, ConfigError when the choice is open or matches none.
    """
    names = ", ".join(sorted(cluster.name for cluster in clusters))
    if not clusters:
        raise UnsupportedEndpoint(
            f"The Central {host} knows no cluster",
            remedy="Register the cluster at this Central, or set prism.url to the Element itself.",
        )
    if wanted:
        matching = [cluster for cluster in clusters if wanted.lower() in (cluster.uuid, cluster.name.lower())]
        if len(matching) == 1:
            return matching[0]
        problem = f"prism.cluster is {wanted!r}; the Central {host} knows {names}"
        raise ConfigError(problem, remedy="Write the name or UUID of one of these clusters.")
    if len(clusters) > 1:
        problem = f"The Central {host} has several clusters: {names}"
        raise ConfigError(problem, remedy="Set prism.cluster to the name or UUID of one of them.")
    return clusters[0]


def _own(clusters: tuple[Cluster, ...], settings: PrismSettings, session: Session) -> Cluster:
    if not clusters:
        raise UnsupportedEndpoint(
            f"{session.address} names no cluster of its own",
            remedy="Set prism.url to the address of a Prism Element or Prism Central (port 9440).",
        )
    own, wanted = clusters[0], settings.cluster
    if wanted and wanted.lower() not in (own.uuid, own.name.lower()):
        raise ConfigError(
            f"prism.cluster is {wanted!r}; the Element {session.address} knows {own.name} alone",
            remedy="Remove prism.cluster, or set prism.url to the Element of that cluster, or to its Central.",
        )
    return own


async def _element_of(
    cluster: Cluster, settings: PrismSettings, central: Session, *, clock: Clock, state_dir: Path
) -> Session:
    address = _address_of(cluster, settings, central)
    session = Session(address, settings, clock=clock, state_dir=state_dir)
    try:
        await session.log_in()
        found = await _clusters(session)
        own = await _itself(session, tuple(one for one in found if one is not None))
    except HypervisorUnreachable as error:
        await session.close()
        raise HypervisorUnreachable(
            f"The Element of cluster {cluster.name}, behind {central.address}, is not reached: {error.message}",
            remedy=f"{error.remedy} If another of its addresses is meant, set prism.element_url.",
            cluster=cluster.name,
            central=str(central.address),
        ) from None
    except LoginRefused as error:
        await session.close()
        remedy = f"The user of prism.username must exist on the Element too, with the same password. {error.remedy}"
        raise LoginRefused(error.message, remedy=remedy, **error.facts) from None
    except BaseException:
        await session.close()
        raise
    if not _is_element(session, found) or [one.uuid for one in own] != [cluster.uuid]:
        await session.close()
        raise _not_reached(cluster, address, central, "another Prism answers there")
    return session


def _address_of(cluster: Cluster, settings: PrismSettings, central: Session) -> PrismAddress:
    if settings.element_url:
        return parse_address(settings.element_url, setting="prism.element_url")
    if not cluster.address:
        raise _not_reached(cluster, None, central, "the Central knows no address of it")
    # All Prisms of an installation answer at the same port.
    return PrismAddress(cluster.address, central.address.port)


def _not_reached(cluster: Cluster, address: PrismAddress | None, central: Session, why: str) -> UnsupportedEndpoint:
    place = f" at {address}" if address else ""
    return UnsupportedEndpoint(
        f"The Element of cluster {cluster.name}{place}, behind the Central {central.address}, cannot be used: {why}",
        remedy="Set prism.element_url to an address of that cluster's Element that this node reaches.",
        cluster=cluster.name,
        central=str(central.address),
    )


async def may_change(session: Session) -> bool:
    """Whether the user may do more than look: reserves one idempotence identifier for a minute.

    Idempotent: always the same identifier. The first call of every snapshot, harmless by itself.
    """
    body = {"client_identifier": "mover-rights", "count": 1, "valid_duration_in_minutes": 1}
    try:
        await session.post("v3", "idempotence_identifiers", body)
    except RightsMissing:
        return False
    return True
