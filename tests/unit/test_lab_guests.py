"""The demo's guests in a lab: made by name, alive between snapshots, and clean in each of them."""

from __future__ import annotations

import pytest

from mover.lab.filesystems import fsck
from mover.lab.filling import change_mixed, demo_vms, fill, fill_mixed
from mover.lab.server import DiskSpec, VmSpec
from tests.support.programs import needs
from tests.support.rawprism import MIB, serving

needs_mkfs = needs("mkfs.ext4")


def test_the_demo_has_three_guests_with_a_cdrom_and_a_volume_group():
    web, database, files = demo_vms(0.01)
    assert [disk.kind for disk in web.disks] == ["DISK", "CDROM"]
    assert [disk.kind for disk in database.disks] == ["DISK", "VOLUME_GROUP"]
    assert [disk.content for disk in files.disks] == ["share", "areas"]


@needs_mkfs
async def test_a_guest_lives_and_its_frozen_file_system_is_clean(tmp_path):
    disk = DiskSpec(size_bytes=24 * MIB, content="web", content_bytes=2 * MIB)
    vms = (VmSpec(name="web01", disks=(disk,)),)
    async with serving(tmp_path, vms=vms) as (lab, prism):
        one = await prism.snapshot("web01")
        assert "pages rewritten" in (await lab.live("web01", 1))[0]
        two = await prism.snapshot("web01")
        regions = await prism.regions(prism.path_of(two, "web01"), prism.path_of(one, "web01"))
        frozen = lab.frozen_path(two["metadata"]["uuid"], lab.disk("web01").vmdisk_uuid)
        assert regions
        assert fsck(frozen)[0]


@pytest.mark.parametrize("content", ["mixed", "random", "empty", "areas"])
def test_contents_repeat_with_the_seed(tmp_path, content):
    spec = DiskSpec(size_bytes=4 * MIB, content=content)
    found = []
    for seed in (1, 1, 2):
        path = tmp_path / f"{len(found)}" / "disk.raw"
        path.parent.mkdir()
        path.touch()
        with path.open("r+b") as file:
            file.truncate(spec.size_bytes)
        fill(path, spec, seed, tmp_path / "scratch")
        found.append(path.read_bytes())
    assert len(found[0]) == spec.size_bytes
    assert found[0] == found[1]
    assert (found[0] == found[2]) == (content == "empty")


def test_each_turn_changes_a_little_and_sometimes_back_to_zero(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(16 * MIB))
    fill_mixed(path, 1)
    before = path.read_bytes()
    change_mixed(path, 1, 1)
    after = path.read_bytes()
    changed = [at for at in range(0, len(after), 65536) if before[at : at + 65536] != after[at : at + 65536]]
    assert 0 < len(changed) <= 16 * MIB // (4 * MIB)
    assert any(not any(after[at : at + 65536]) for at in changed)
