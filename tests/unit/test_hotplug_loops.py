"""What only real block devices do: fail where told, vanish, have a sector size, outlive a process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mover.errors import LabError
from mover.lab import loops
from mover.lab.hotplug import Hotplug, PlugFaults
from tests.support.hotplugs import MIB, OTHER, SIZE, UUID, Bus, buses, needs_root, read


@pytest.fixture
def make_bus(tmp_path: Path) -> Iterator[Callable[[bool], Bus]]:
    with buses(tmp_path) as make:
        yield make


@pytest.fixture
def loop_bus(make_bus: Callable[[bool], Bus]) -> Bus:
    return make_bus(True)


def test_read_errors_need_real_devices(make_bus: Callable[[bool], Bus]) -> None:
    bus = make_bus(False)
    with pytest.raises(LabError, match="read errors need real devices"):
        bus.plug(bad_ranges=[(0, 4096)])
    assert bus.hotplug.plugs() == {}


@pytest.mark.root
@needs_root
def test_bad_range_fails_exactly(loop_bus: Bus) -> None:
    name = loop_bus.plug(bad_ranges=[(MIB, 65536)])
    assert loop_bus.read(name, 0, MIB) == loop_bus.wanted(0, MIB)
    assert loop_bus.read(name, MIB + 65536, MIB) == loop_bus.wanted(MIB + 65536, MIB)
    for offset, length in ((MIB, 4096), (MIB + 61440, 4096), (MIB + 61440, 8192)):
        with pytest.raises(OSError, match="Input/output error"):
            loop_bus.read(name, offset, length)
    descriptor = os.open(loop_bus.node(name), os.O_RDWR | os.O_DIRECT)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            os.pwritev(descriptor, [mmap.mmap(-1, 4096)], MIB)
        os.pwritev(descriptor, [mmap.mmap(-1, 4096)], 0)
    finally:
        os.close(descriptor)
    assert loop_bus.wanted(0, 4096) == bytes(4096)


@pytest.mark.root
@needs_root
def test_disk_that_is_bad_all_over_still_appears(loop_bus: Bus) -> None:
    name = loop_bus.plug(bad_ranges=[(0, SIZE)])
    with pytest.raises(OSError, match="Input/output error"):
        loop_bus.read(name, 4096, 4096)


@pytest.mark.root
@needs_root
def test_device_vanishes_in_the_middle(loop_bus: Bus) -> None:
    name = loop_bus.plug(vanish_after_bytes=2 * MIB)
    descriptor = os.open(loop_bus.node(name), os.O_RDONLY | os.O_DIRECT)
    try:
        assert read(descriptor, 0, MIB) == loop_bus.wanted(0, MIB)
        with pytest.raises(OSError, match="Input/output error"):
            [read(descriptor, at, 65536) for at in range(MIB, SIZE, 65536)]
        with pytest.raises(OSError, match="Input/output error"):
            read(descriptor, 0, 4096)
    finally:
        os.close(descriptor)


@pytest.mark.root
@needs_root
def test_pulled_device_is_gone(loop_bus: Bus) -> None:
    descriptor = os.open(loop_bus.node(loop_bus.plug()), os.O_RDONLY | os.O_DIRECT)
    try:
        loop_bus.hotplug.vanish(UUID)
        assert loop_bus.shown() == set()
        with pytest.raises(OSError, match="Input/output error"):
            read(descriptor, 0, 4096)
    finally:
        os.close(descriptor)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("sector", [512, 4096])
def test_sector_size_is_real_also_on_clones(loop_bus: Bus, sector: int) -> None:
    source = loop_bus.bank.create(OTHER, SIZE)
    source.write_bytes(os.urandom(SIZE))
    clone = loop_bus.bank.clone(source, UUID)
    faults = PlugFaults(sector_bytes=sector)
    name = loop_bus.hotplug.plug(clone, vmdisk_uuid=UUID, slot_index=1, faults=faults)
    assert loop_bus.read(name, sector, sector) == loop_bus.wanted(sector, sector, OTHER)
    assert loop_bus.sysfs(name, "queue/logical_block_size") == str(sector)
    number = loop_bus.hotplug.plugs()[UUID].loop_number
    assert number is not None
    assert number >= loops.FIRST_NUMBER
    assert Path(f"/sys/block/loop{number}/loop/dio").read_text() == "1\n"
    if sector == 4096:
        with pytest.raises(OSError, match="Invalid argument"):
            loop_bus.read(name, 512, 512)


@pytest.mark.root
@needs_root
def test_disk_of_odd_size_keeps_its_last_sector(loop_bus: Bus) -> None:
    name = loop_bus.plug(size=MIB + 512)
    assert loop_bus.read(name, MIB, 512) == loop_bus.wanted(MIB, 512)


@pytest.mark.root
@needs_root
def test_loops_survive_a_restart_of_the_lab_process(loop_bus: Bus) -> None:
    loop_bus.plug()
    before = loop_bus.hotplug.plugs()[UUID]
    again = Hotplug(loop_bus.folder / "kernel", loop_bus.bank, seed=7)
    assert again.plugs()[UUID] == before
    assert loop_bus.read(before.name, 0, 4096) == loop_bus.wanted(0, 4096)


@pytest.mark.root
@needs_root
def test_strange_loops_of_a_kill_are_freed_at_the_next_start(loop_bus: Bus) -> None:
    path = loop_bus.bank.create(UUID, SIZE)
    stray = loops.attach(path, loop_bus.folder / "stray", sector_bytes=4096)
    Hotplug(loop_bus.folder / "kernel", loop_bus.bank)
    assert loops.backing_of(stray.number) is None
