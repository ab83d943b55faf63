"""Break the Nth external call of a backup and of a restore, for every N, and look what follows.

Whatever broke: running it again succeeds, reconcile leaves nothing of ours but the base, the
new point and all earlier ones hold exactly the bytes that were frozen. Faults: an error
before the effect, the effect and then an error; in the long run also time-outs, effects
that come late and bodies that break off. Devices fail at the Nth find and the Nth read.
"""

from __future__ import annotations

import copy
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mover.errors import DeviceAbsent, DeviceFault, MoverError
from mover.model.machine import Vm
from mover.operations.backup import backup_vm
from mover.operations.node import ReadingNode
from mover.operations.reconcile import INTENT_LIFE_S
from mover.operations.request import BackupRequest
from mover.operations.tofile import restore_to_file
from mover.storage.memory import MemoryStore
from tests.support.fakedevices import MemoryDevice
from tests.support.fakehypervisor import FakeHypervisor
from tests.support.faultystore import How as StoreHow
from tests.support.hypervisorfaults import How
from tests.support.world import BLOCK, World, world

SIZES = [2 * BLOCK, BLOCK + 4096]
SLOTS = ("scsi.0", "scsi.1")


@dataclass
class Baseline:
    """A cluster and repository with one committed point, and a VM that has changed since."""

    folder: Path
    state: object
    objects: dict[str, object]
    vm: Vm
    first: str
    frozen: dict[str, bytes]
    now: dict[str, bytes]
    elapsed: float
    runs: int = 0

    @asynccontextmanager
    async def again(self):
        """The same world, fresh."""
        self.runs += 1
        folder = self.folder.parent / f"run-{self.runs}"
        shutil.copytree(self.folder, folder)
        hypervisor = FakeHypervisor()
        hypervisor.state = copy.deepcopy(self.state)
        inner = MemoryStore()
        inner._objects.update(self.objects)
        async with world(folder, inner=inner, hypervisor=hypervisor, seed=self.runs) as w:
            w.jobs = 100
            w.clock.elapsed = self.elapsed + 60
            hypervisor._now = w.clock.now
            hypervisor.state.calls.clear()
            yield w
        shutil.rmtree(folder)


@pytest.fixture
async def baseline(tmp_path):
    async with world(tmp_path / "base") as w:
        vm = w.hypervisor.add_vm("web", SIZES, seed=5)
        frozen = {slot: w.hypervisor.bytes_of(vm, slot) for slot in SLOTS}
        first = (await w.backup(vm))["point"]
        w.hypervisor.write(vm, "scsi.0", 5000, b"changed after the first backup")
        w.hypervisor.write(vm, "scsi.1", BLOCK, b"changed too")
        now = {slot: w.hypervisor.bytes_of(vm, slot) for slot in SLOTS}
        state, objects, elapsed = copy.deepcopy(w.hypervisor.state), dict(w.store.inner._objects), w.clock.elapsed
    return Baseline(tmp_path / "base", state, objects, vm, first, frozen, now, elapsed)


async def held(w: World, point: str) -> dict[str, bytes]:
    """What the repository gives back of a point, into files."""
    node = ReadingNode(w.node.settings, w.clock, w.node.repository, w.node.workers)
    found = {}
    for slot in SLOTS:
        path = w.node.settings.state_dir / "out" / slot
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        await restore_to_file(node, point, slot, path)
        found[slot] = path.read_bytes()
    return found


async def settled(w: World) -> None:
    """Late effects happen, intents grow old, reconcile runs."""
    await w.hypervisor.ripen()
    await w.store.settle()
    await w.reconcile()
    w.clock.elapsed += INTENT_LIFE_S
    await w.reconcile()


async def back_up_twice(w: World, baseline: Baseline) -> bool:
    """Once under the fault, once more if that failed; the outcome is checked. Whether it failed first."""
    request: BackupRequest = w.request(baseline.vm)
    failed = False
    try:
        report = await backup_vm(w.node, request.values(), w.steps())
    except MoverError:
        failed = True
        await w.hypervisor.ripen()
        await w.store.settle()
        report = await backup_vm(w.node, request.values(), w.steps())
    await settled(w)
    w.assert_only_base()
    assert [point.id for point in await w.node.repository.points()] == [baseline.first, report["point"]]
    assert await held(w, baseline.first) == baseline.frozen
    assert await held(w, report["point"]) == baseline.now
    base = (await w.node.repository.load(report["point"])).snapshot_uuid
    assert list(w.hypervisor.state.snapshots) == [base]
    return failed


async def restore_twice(w: World, baseline: Baseline) -> bool:
    failed = False
    try:
        report = await w.restore(baseline.first, "web2", power_on=True)
    except MoverError:
        failed = True
        await w.hypervisor.ripen()
        await w.store.settle()
        report = await w.restore(baseline.first, "web2", power_on=True)
    await settled(w)
    new = w.hypervisor.state.vms[report["vm_uuid"]]
    assert {slot: w.hypervisor.bytes_of(new, slot) for slot in SLOTS} == baseline.frozen
    assert w.ours() == {"snapshots": 1, "attached": 0, "vms": 1}
    assert new.is_on or "could not be powered on" in report["warnings"][-1]
    assert await held(w, baseline.first) == baseline.frozen
    return failed


WORK = {"backup": back_up_twice, "restore": restore_twice}


async def calls_of(baseline: Baseline, work: str) -> tuple[int, int]:
    """How many calls to hypervisor and store a run without faults makes, cleaning included."""
    async with baseline.again() as w:
        if work == "backup":
            await w.backup(baseline.vm)
        else:
            await w.restore(baseline.first, "web2", power_on=True)
        return len(w.hypervisor.state.calls), len(w.store.calls)


async def sweep_hypervisor(baseline: Baseline, work: str, how: How) -> int:
    failures = 0
    calls, _ = await calls_of(baseline, work)
    for nth in range(1, calls + 1):
        async with baseline.again() as w:
            w.hypervisor.fail(None, nth, how)
            failures += await WORK[work](w, baseline)
            assert w.hypervisor.failed, f"call {nth} was never made"
    return failures


async def sweep_store(baseline: Baseline, work: str, how: StoreHow) -> int:
    failures = 0
    _, calls = await calls_of(baseline, work)
    for nth in range(1, calls + 1):
        async with baseline.again() as w:
            w.store.fail(nth, how)
            failures += await WORK[work](w, baseline)
    return failures


@pytest.mark.parametrize("how", [How.ERROR, How.EFFECT_THEN_ERROR], ids=lambda how: how.name.lower())
@pytest.mark.parametrize("work", WORK)
async def test_each_call_to_the_hypervisor(baseline, work, how):
    assert await sweep_hypervisor(baseline, work, how) > 0


@pytest.mark.parametrize("how", [StoreHow.ERROR, StoreHow.EFFECT_THEN_ERROR], ids=lambda how: how.name.lower())
@pytest.mark.parametrize("work", WORK)
async def test_each_call_to_the_store(baseline, work, how):
    assert await sweep_store(baseline, work, how) > 0


@pytest.mark.long
@pytest.mark.parametrize("how", [How.TIME_OUT, How.LATE_EFFECT], ids=lambda how: how.name.lower())
@pytest.mark.parametrize("work", WORK)
async def test_each_call_to_the_hypervisor_with_slow_faults(baseline, work, how):
    assert await sweep_hypervisor(baseline, work, how) > 0


@pytest.mark.long
@pytest.mark.parametrize(
    "how", [StoreHow.TIME_OUT, StoreHow.LATE_EFFECT, StoreHow.CUT_BODY], ids=lambda how: how.name.lower()
)
@pytest.mark.parametrize("work", WORK)
async def test_each_call_to_the_store_with_slow_faults(baseline, work, how):
    assert await sweep_store(baseline, work, how) > 0


class NthReadFails(MemoryDevice):
    """A device of a world whose Nth transfer fails."""

    left = 0

    def _count(self) -> None:
        NthReadFails.left -= 1
        if NthReadFails.left == 0:
            raise DeviceFault(f"Reading {self.name} failed at byte 0", remedy="See the node's kernel log.")

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        self._count()
        super().read_into(buffer, offset_bytes)

    def write_from(self, buffer: memoryview, offset_bytes: int) -> None:
        self._count()
        super().write_from(buffer, offset_bytes)


@pytest.mark.parametrize("work", WORK)
async def test_each_transfer_of_a_device(baseline, work):
    nth, failed = 0, True
    while failed:
        nth += 1
        async with baseline.again() as w:
            NthReadFails.left = nth
            w.devices.kind = NthReadFails
            failed = await WORK[work](w, baseline)
    assert nth > 4


@pytest.mark.parametrize("work", WORK)
async def test_each_find_of_a_device(baseline, work):
    for nth in (1, 2):
        async with baseline.again() as w:
            honest, seen = w.devices.locate, []

            async def locate(attachment, honest=honest, seen=seen, nth=nth, **facts):
                seen.append(attachment)
                if len(seen) == nth:
                    raise DeviceAbsent("The device did not appear", remedy="See the kernel log.")
                return await honest(attachment, **facts)

            w.devices.locate = locate
            assert await WORK[work](w, baseline)
