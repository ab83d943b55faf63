"""Prism, our own VM there, and what on this node could touch an attached disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover.clock import Clock
from mover.config import Settings
from mover.device import guard
from mover.device.container import inspect_place
from mover.device.rights import NodeFinding
from mover.device.smbios import own_identity
from mover.errors import CertificateRejected, ConfigError
from mover.hypervisor.nutanix.ahv import Ahv, connect
from mover.hypervisor.protocol import Hypervisor
from mover.model.machine import Vm
from mover.storage.address import FolderAddress, parse_address

_GOODBYE_S = 0.25


@asynccontextmanager
async def prism(settings: Settings, clock: Clock) -> AsyncIterator[Ahv]:
    """A logged-in Prism. Raises ConfigError where settings are missing."""
    for name in ("url", "username"):
        if not getattr(settings.prism, name):
            raise ConfigError(
                f"prism.{name} is not set", remedy=f"Write it to mover.yaml, or set MOVER_PRISM__{name.upper()}."
            )
    try:
        hypervisor = await connect(settings.prism, clock=clock, state_dir=settings.state_dir)
    except CertificateRejected:
        # The refused TLS connection says goodbye in its own time; a loop that closes at once logs that as an error.
        await clock.sleep(_GOODBYE_S)
        raise
    try:
        yield hypervisor
    finally:
        await hypervisor.close()


async def proxy_of(hypervisor: Hypervisor, settings: Settings) -> Vm:
    """Our own VM: by the setting, else by SMBIOS UUID and MAC addresses. Raises ProxyUnfit."""
    own = own_identity(settings.node.device_root, proxy_uuid=settings.node.proxy_uuid)
    return await hypervisor.find_proxy(own.smbios_uuid, own.mac_addresses)


def inspect_guard(settings: Settings) -> list[guard.GuardFinding]:
    """What on this node would touch an attached disk."""
    root = settings.node.device_root
    return guard.inspect_node(root, guard.runner(root))


def inspect_own_place(settings: Settings) -> list[NodeFinding]:
    """What container, unit and kernel let this process do, and whether what it writes lasts. Raises UsageError."""
    folders = {"state": settings.state_dir}
    address = parse_address(settings.repository.url) if settings.repository.url else None
    if isinstance(address, FolderAddress):
        folders["repository"] = address.path
    return inspect_place(settings, folders)
