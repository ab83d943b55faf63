"""A whole lab: Element, Central and control port in a thread of their own, over one folder.

The thread has its own event loop, so that a test or a product that blocks cannot stop
Prism, as in life. Stopping and starting again on the same folder loses nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from mover.clock import Clock, SystemClock
from mover.lab.certificate import fingerprint
from mover.lab.disks import DiskBank, folder_unusable
from mover.lab.engine import Engine
from mover.lab.faults import Fault, Faults
from mover.lab.gateway import Logged
from mover.lab.hotplug import Hotplug
from mover.lab.options import DiskSpec, LabOptions, NicSpec, VmSpec
from mover.lab.state import DiskRecord, SnapshotRecord, State, VmRecord

__all__ = ["DiskSpec", "Fault", "Faults", "Lab", "LabOptions", "NicSpec", "VmSpec", "serve"]

T = TypeVar("T")

LOG_LINES = 20_000


class Lab:
    """Start with ``await Lab.start(folder, options=…)``, end with ``await lab.stop()``."""

    def __init__(self, folder: Path, options: LabOptions, clock: Clock) -> None:
        self.folder = folder.absolute()
        self.options = options
        self.faults = Faults(options.seed)
        self.username, self.password = options.username, options.password
        self.viewer_username, self.viewer_password = options.viewer_username, options.viewer_password
        self._clock = clock
        self._calls: deque[Logged] = deque(maxlen=LOG_LINES)
        self._thread: threading.Thread | None = None

    @classmethod
    async def start(cls, folder: Path, *, options: LabOptions | None = None, clock: Clock | None = None) -> Lab:
        """Serve a folder: a new cluster, or the one that is there. Raises LabError."""
        lab = cls(folder, options or LabOptions(), clock or SystemClock())
        await lab._launch()
        return lab

    async def stop(self) -> None:
        """End the servers and free the devices; the folder keeps everything. Idempotent."""
        if self._thread is not None:
            self._engine.loop.call_soon_threadsafe(self._engine.stop)
            await asyncio.wrap_future(self._ended)
            self._thread.join()
            self._thread = None

    async def restart(self) -> None:
        """As after a reboot of Prism: sessions are forgotten, the cluster is what it was."""
        await self.stop()
        await self._launch()

    async def __aenter__(self) -> Lab:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def state(self) -> State:
        """The cluster itself: look, do not touch."""
        return self._engine.state

    @property
    def bank(self) -> DiskBank:
        return self._engine.bank

    @property
    def hotplug(self) -> Hotplug:
        return self._engine.hotplug

    # --- what a client needs to know ----------------------------------------------------------

    @property
    def element_url(self) -> str:
        return f"https://{self.state.address}:{self.options.port}"

    @property
    def central_url(self) -> str:
        return f"https://{self.state.central_address}:{self.options.port}"

    @property
    def control_url(self) -> str:
        return f"http://{self.state.address}:{self.options.port + 1}"

    @property
    def ca_file(self) -> Path:
        """Both certificates."""
        return self.folder / "ca.pem"

    @property
    def fingerprint(self) -> str:
        """Of the Element's certificate; ``fingerprints`` names both, as the settings take them."""
        return fingerprint(self._engine.certificates[0])

    @property
    def fingerprints(self) -> str:
        return ",".join(fingerprint(path) for path in self._engine.certificates)

    @property
    def device_root(self) -> Path:
        """What is "/" to the Proxy VM's kernel."""
        return self.folder / "node"

    @property
    def proxy_uuid(self) -> str:
        return self.state.proxy_uuid

    @property
    def has_real_devices(self) -> bool:
        """Loop devices; otherwise direct-I/O files, for which node.allow_regular_files is needed."""
        return self.hotplug.how.startswith("loop")

    def describe(self) -> dict[str, Any]:
        """All of it, for people and for the control port."""
        return {
            "element_url": self.element_url,
            "central_url": self.central_url if self.options.has_central else None,
            "control_url": self.control_url,
            "ca_file": str(self.ca_file),
            "fingerprints": self.fingerprints,
            "username": self.username,
            "password": self.password,
            "viewer_username": self.viewer_username,
            "viewer_password": self.viewer_password,
            "device_root": str(self.device_root),
            "has_real_devices": self.has_real_devices,
            "devices": self.hotplug.how,
            "disks": self.bank.how,
            "proxy_uuid": self.proxy_uuid,
            "notes": self.state.notes,
            "vms": {vm.name: vm.uuid for vm in self.state.vms.values() if not vm.is_controller},
        }

    # --- looking behind the scenes --------------------------------------------------------------

    @property
    def calls(self) -> list[Logged]:
        """Every call so far, the oldest first."""
        return list(self._calls)

    def forget_calls(self) -> None:
        self._calls.clear()

    @property
    def vms(self) -> dict[str, VmRecord]:
        """Copies, by name, as things are now; CVMs too."""
        return {vm.name: vm.model_copy(deep=True) for vm in list(self.state.vms.values())}

    def snapshots(self, vm_name: str | None = None) -> list[SnapshotRecord]:
        """v3 snapshots that exist, oldest first."""
        wanted = self.vms[vm_name].uuid if vm_name else None
        known = [one.model_copy(deep=True) for one in list(self.state.snapshots.values())]
        return [one for one in known if wanted in (None, one.vm_uuid)]

    def disk(self, vm_name: str, slot: str = "scsi.0") -> DiskRecord:
        """Raises KeyError."""
        found = next((one for one in self.vms[vm_name].disks if one.label == slot), None)
        if found is None:
            raise KeyError(f"{vm_name} {slot}")
        return found

    def disk_path(self, vm_name: str, slot: str = "scsi.0") -> Path:
        """The live file of a disk: what the guest would see."""
        return self.bank.path(str(self.disk(vm_name, slot).vmdisk_uuid))

    def frozen_path(self, snapshot_uuid: str, vmdisk_uuid: str) -> Path:
        """The file that a snapshot froze of a disk, to compare a restore with."""
        return self.bank.frozen_path(vmdisk_uuid, snapshot_uuid)

    def plugged(self) -> dict[str, str]:
        """Device names of the Proxy VM by vmdisk UUID."""
        return {uuid: plug.name for uuid, plug in self.hotplug.plugs().items()}

    # --- acting -----------------------------------------------------------------------------------

    async def administrator(self, action: str, **args: Any) -> None:
        """Do what administrators do, now. Raises UsageError."""
        await self._inside(self._engine.administrator.act({"action": action, **args}))

    async def live(self, vm_name: str, turn: int) -> list[str]:
        """Let a guest change its files as in an ordinary day; says in words what changed."""
        return await self._inside(self._engine.let_live({"vm": vm_name, "round": turn}))

    async def settle(self) -> None:
        """Return when no task is running or queued, except such as a fault lets never end."""
        await self._inside(self._engine.settle())

    async def _inside(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._engine.loop))

    # --- the thread -------------------------------------------------------------------------------

    async def _launch(self) -> None:
        self._ready: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="lab", daemon=True)
        self._thread.start()
        try:
            await asyncio.wrap_future(self._ready)
        except Exception:
            self._thread.join()
            self._thread = None
            raise

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            failure = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            if self._ready.done():
                self._ended.set_exception(failure)
            else:
                self._ready.set_exception(failure)
                self._ended.set_result(None)
        else:
            self._ended.set_result(None)

    async def _main(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise folder_unusable(self.folder, failure) from failure
        self._engine = Engine(
            self.folder,
            self.options,
            clock=self._clock,
            faults=self.faults,
            log=self._calls.append,
            calls=lambda: self.calls,
            describe=self.describe,
        )
        await self._engine.run(lambda: self._ready.set_result(None))


async def serve(folder: Path, options: LabOptions, on_ready: Callable[[Lab], Awaitable[None] | None]) -> None:
    """Run a lab until cancelled; on_ready is told once it answers."""
    lab = await Lab.start(folder, options=options)
    try:
        told = on_ready(lab)
        if told is not None:
            await told
        await asyncio.get_running_loop().create_future()
    finally:
        await lab.stop()
