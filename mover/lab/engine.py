"""The parts of a lab put together and served, inside one event loop, until told to stop."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from aiohttp import web

from mover.clock import Clock
from mover.errors import LabError
from mover.lab.administrator import Administrator
from mover.lab.answers import Answer
from mover.lab.auth import Gate
from mover.lab.certificate import certificate_pem, ensure_certificate, server_context
from mover.lab.cluster import Cluster
from mover.lab.control import control_application
from mover.lab.disks import DiskBank
from mover.lab.faults import Faults
from mover.lab.filling import change, fill
from mover.lab.founding import Founder, some_address
from mover.lab.freezing import Freezer
from mover.lab.gateway import Gateway, Logged
from mover.lab.hotplug import Hotplug
from mover.lab.operations import CENTRAL, ELEMENT, Call
from mover.lab.options import AUTO, LabOptions
from mover.lab.orders import Orders
from mover.lab.prism_v2 import PrismV2
from mover.lab.prism_v3 import PrismV3
from mover.lab.prism_v3_inventory import InventoryV3
from mover.lab.state import State, StateFile
from mover.lab.tasks import TaskBook

_ADDRESS_TRIES = 20


class _Stop(Exception):
    """Ends the task group."""


class Engine:
    """One life of a lab, from opening its folder to closing it. Used by one loop only."""

    state: State
    bank: DiskBank
    hotplug: Hotplug
    certificates: list[Path]
    administrator: Administrator

    def __init__(
        self,
        folder: Path,
        options: LabOptions,
        *,
        clock: Clock,
        faults: Faults,
        log: Callable[[Logged], None],
        calls: Callable[[], list[Logged]],
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        self.folder = folder
        self._options = options
        self._clock = clock
        self._faults = faults
        self._log = log
        self._calls = calls
        self._describe = describe
        self._file = StateFile(folder)
        self._runners: list[web.AppRunner] = []
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """From within the loop."""
        self._stopping.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until stopped. Raises LabError before ``ready`` when that cannot be."""
        self.bank = DiskBank(self.folder, use_loop=self._options.use_loop)
        try:
            self.hotplug = Hotplug(
                self.folder / "node", self.bank, seed=self._options.seed, use_loop=self._options.use_loop
            )
            try:
                known = self._file.load()
                self.state = (
                    known or Founder(self._options, self._clock, self.bank, fill, self.folder / "scratch").found()
                )
                async with asyncio.TaskGroup() as group:
                    await self._serve(group, ready)
                    raise _Stop
            except* _Stop:
                pass
            finally:
                self.hotplug.close()
        finally:
            self.bank.close()

    async def _serve(self, group: asyncio.TaskGroup, ready: Callable[[], None]) -> None:
        def spawn(work: Coroutine[Any, Any, None]) -> None:
            group.create_task(work)

        self._tasks = TaskBook(self.state, self._options, self._faults, self._clock, self._save, spawn)
        self._cluster = Cluster(
            self.state,
            self._options,
            clock=self._clock,
            faults=self._faults,
            tasks=self._tasks,
            bank=self.bank,
            hotplug=self.hotplug,
            save=self._save,
        )
        try:
            await self._listen(self._wire(self._cluster, spawn))
            proxy = self.state.vms.get(self.state.proxy_uuid)
            if proxy is not None:
                self.hotplug.set_node(product_uuid=proxy.uuid, mac_addresses=[nic.mac_address for nic in proxy.nics])
            await self._cluster.replug()
            self._tasks.resume()
            self._save()
            ready()
            await self._stopping.wait()
        finally:
            await self._hang_up()
            self._cluster.close()

    def _wire(self, cluster: Cluster, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> dict[str, Gateway]:
        """The gateways by side."""
        orders, freezer = Orders(cluster), Freezer(cluster)
        cluster.tasks.register(orders.effects | freezer.effects)
        gates = {side: Gate(self._options, self.state, self._clock) for side in (ELEMENT, CENTRAL)}
        self.administrator = Administrator(cluster, orders, freezer, list(gates.values()))
        handlers = {
            **PrismV2(cluster).handlers,
            **PrismV3(cluster, freezer).handlers,
            **InventoryV3(cluster).handlers,
        }

        def gateway(side: str) -> Gateway:
            async def log_out(call: Call) -> Answer:
                gates[side].end(call.cookie)
                return Answer({"external_logout_url_list": []})

            return Gateway(
                side,
                cluster,
                gates[side],
                {**handlers, "v3.logout": log_out},
                log=self._log,
                administer=self.administrator.act,
                spawn=spawn,
            )

        return {side: gateway(side) for side in ((ELEMENT, CENTRAL) if self._options.has_central else (ELEMENT,))}

    # --- ports ------------------------------------------------------------------------------------

    async def _listen(self, gateways: dict[str, Gateway]) -> None:
        """Bind all ports. Automatic addresses of a new lab are drawn again when they are taken."""
        is_new = not self._file.path.exists()
        for attempt in range(1, _ADDRESS_TRIES + 1):
            try:
                await self._bind(gateways)
                return
            except OSError as error:
                await self._hang_up()
                if error.errno != errno.EADDRINUSE or not is_new or attempt == _ADDRESS_TRIES:
                    raise LabError(
                        f"The lab cannot listen on {self.state.address}:{self._options.port}: {error.strerror}",
                        remedy="End the other lab, or give this one other addresses.",
                    ) from error
                if self._options.address == AUTO:
                    self.state.address = some_address()
                if self._options.central_address == AUTO:
                    self.state.central_address = some_address()

    async def _bind(self, gateways: dict[str, Gateway]) -> None:
        port = self._options.port
        addresses = {ELEMENT: self.state.address, CENTRAL: self.state.central_address}
        folder = self._options.certificate_dir or self.folder / "certificates"
        self.certificates = [ensure_certificate(folder, addresses[side]) for side in gateways]
        (self.folder / "ca.pem").write_bytes(b"".join(certificate_pem(path) for path in self.certificates))
        for (side, gateway), certificate in zip(gateways.items(), self.certificates, strict=True):
            if side == ELEMENT and not self._options.has_element:
                continue
            await self._open_port(gateway.application(), addresses[side], port, certificate)
        control = control_application(self._faults, self._calls, self.administrator.act, self.let_live, self._describe)
        await self._open_port(control, self.state.address, port + 1, None)

    async def _open_port(self, application: web.Application, address: str, port: int, certificate: Path | None) -> None:
        # A handler that hangs by a fault must not hold up the end of the lab.
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.05)
        self._runners.append(runner)
        await runner.setup()
        context = server_context(certificate) if certificate else None
        await web.TCPSite(runner, address, port, ssl_context=context).start()

    async def _hang_up(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    # --- what the lab does besides answering --------------------------------------------------------

    def _save(self) -> None:
        self._file.save(self.state)

    async def let_live(self, args: dict[str, Any]) -> list[str]:
        """args: vm (name), round. Raises UsageError through the administrator's look-up."""
        vm = self.administrator.find_vm(args)
        disks = [
            (self.bank.path(disk.vmdisk_uuid), disk.content)
            for disk in vm.disks
            if disk.kind == "DISK" and disk.vmdisk_uuid
        ]
        async with self._tasks.turn(vm.uuid):
            scratch = self.folder / "scratch" / vm.uuid
            return await self._cluster.blocking(change, disks, self._options.seed, int(args.get("round", 1)), scratch)

    async def settle(self) -> None:
        """Return when no task is queued or running, except such as never end."""
        while self._tasks.is_busy():
            await self._clock.sleep(0.005)
