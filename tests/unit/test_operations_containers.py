"""Where the disks of a restore go: each decision from what is there, what was saved and what was typed."""

from __future__ import annotations

import re

import pytest

from mover.cli.restore import _pairs
from mover.errors import RequestRefused
from mover.model.machine import Slot, StorageContainer
from mover.model.point import ID_BYTES, ZERO_ID, DiskImage, ReadMode
from mover.operations.containers import bytes_needed, choose_containers, idle_containers
from mover.units import MIB

SAVED = "11111111-0000-4000-8000-000000000001"
THERE = [
    StorageContainer("22222222-0000-4000-8000-000000000001", "fast", "cluster", 1 << 40, 1 << 40),
    StorageContainer("22222222-0000-4000-8000-000000000002", "default", "cluster", 1 << 40, 1 << 40),
]


def image(index: int = 0, *, container: str | None = SAVED, ids: bytes = ZERO_ID, blocks: int = 1024) -> DiskImage:
    size = len(ids) // ID_BYTES * blocks * MIB
    return DiskImage(f"d{index}", Slot("scsi", index), size, ReadMode.FULL, "no base", "v", container, MIB, blocks, ids)


@pytest.mark.parametrize("typed", [(), ("default=fast",)])
def test_a_container_of_another_cluster_is_mapped_by_what_the_remedy_says(typed):
    """Its name is not saved, so ``default=fast`` speaks of the one that is called so here."""
    with pytest.raises(RequestRefused, match=f"no storage container {SAVED} ") as caught:
        choose_containers(THERE, [image()], _pairs("--container", typed))
    remedy = caught.value.remedy
    assert "UUID alone" in remedy
    assert remedy.endswith("here are: default, fast.")
    told = re.findall(r"--container (\S*NAME)", remedy)
    assert told == [f"{SAVED}=NAME", "NAME"]
    for form in told:
        mapped = _pairs("--container", (form.replace("NAME", "fast"),))
        assert choose_containers(THERE, [image()], mapped) == {"d0": THERE[0].uuid}


def test_a_disk_whose_container_was_not_saved_needs_one_for_all():
    with pytest.raises(RequestRefused, match=r"container \(unknown\)") as caught:
        choose_containers(THERE, [image(container=None)], {})
    assert caught.value.remedy == "Write --container NAME for all; here are: default, fast."


def test_a_name_that_is_not_here_is_told_with_those_that_are():
    with pytest.raises(RequestRefused, match="no storage container fats ") as caught:
        choose_containers(THERE, [image()], {SAVED: "fats"})
    assert caught.value.remedy == "Choose one with --container: default, fast."


def test_what_was_mapped_and_no_disk_lay_in_is_told():
    images = [image(), image(1, container=THERE[1].uuid)]
    mapped = {"*": "fast", SAVED: "fast", "default": "fast", "fast": "default", "slip": "fast"}
    lay = f"(they lay in: {SAVED}, default)."
    assert idle_containers(THERE, images, mapped) == [
        f"--container fast=default changed nothing: no disk lay in fast {lay}",
        f"--container slip=fast changed nothing: no disk lay in slip {lay}",
    ]


def test_a_thin_disk_needs_room_for_what_it_holds():
    """Two of its twelve map nodes hold something; disks of one container are summed."""
    images = [image(ids=(ZERO_ID * 5 + bytes([1]) * ID_BYTES) * 2), image(1, ids=bytes([1]) * ID_BYTES), image(2)]
    chosen = {"d0": "a", "d1": "a", "d2": "b"}
    assert bytes_needed(images, chosen) == {"a": 3 * 1024 * MIB, "b": 0}
