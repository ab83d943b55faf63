"""What the relaxed mode, by slot alone, takes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.device.locate import Locator, census
from mover.errors import DeviceAbsent, DeviceRefused
from mover.metrics import REGISTRY
from tests.support.devicebench import OTHER, SIZE, Bench, attachment, first_bytes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_without_a_serial_nothing_is_taken_by_default(bench: Bench):
    before = census(bench.kernel.root)
    bench.plug(serial="")
    await bench.refusal(DeviceAbsent, before=before)


async def test_one_new_disk_in_the_right_slot_is_taken_where_the_operator_said_so(bench: Bench):
    bench.plug("sda", OTHER)
    before = census(bench.kernel.root)
    bench.plug(serial="", target=3)
    with await bench.locate(before=before, trust_slot=True) as device:
        assert first_bytes(device) == b"sdbsdbsd"


async def test_the_relaxed_mode_needs_to_know_what_was_there_before(bench: Bench):
    bench.plug(serial="", target=3)
    await bench.refusal(DeviceAbsent, trust_slot=True)


async def test_of_two_new_disks_none_is_taken(bench: Bench):
    before = census(bench.kernel.root)
    bench.plug("sdb", serial="", target=3)
    bench.plug("sdc", serial="", target=3)
    assert (await bench.refusal(DeviceRefused, before=before, trust_slot=True)).facts["reason"] == "slot"


async def test_a_new_disk_that_we_read_already_is_not_the_other_one(bench: Bench):
    locator = Locator(bench.settings.model_copy(update={"trust_slot": True}), bench.clock)
    before = locator.census()
    bench.plug("sdb", OTHER, target=2)
    first = await locator.locate(attachment(OTHER), writable=False, before=before)
    bench.plug("sdc", serial="", target=3)
    second = await locator.locate(attachment(), writable=False, before=before)
    assert first_bytes(second) == b"sdcsdcsd"
    first.close()
    second.close()
    locator.close()


async def test_a_new_disk_in_another_slot_is_refused(bench: Bench):
    before = census(bench.kernel.root)
    bench.plug(serial="", target=4)
    assert (await bench.refusal(DeviceRefused, before=before, trust_slot=True)).facts["reason"] == "slot"


async def test_a_new_disk_that_says_it_is_another_is_refused(bench: Bench):
    before = census(bench.kernel.root)
    bench.plug("sdb", OTHER, target=3)
    assert (await bench.refusal(DeviceRefused, before=before, trust_slot=True)).facts["reason"] == "contradiction"


async def test_a_new_disk_of_another_size_is_refused(bench: Bench):
    before = census(bench.kernel.root)
    bench.plug(serial="", target=3, size_bytes=SIZE * 2)
    assert (await bench.refusal(DeviceRefused, before=before, trust_slot=True)).facts["reason"] == "size"


async def test_refusals_are_counted_by_reason(bench: Bench):
    def count() -> float:
        return REGISTRY.get_sample_value("mover_device_refused_total", {"reason": "size"}) or 0.0

    before = count()
    bench.plug(size_bytes=512)
    await bench.refusal(DeviceRefused)
    assert count() == before + 1
    assert not (bench.kernel.root / "sys/block/sdb/device/delete").read_text()
