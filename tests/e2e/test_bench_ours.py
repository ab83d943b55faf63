"""The process that benches measure, run as they run it."""

from __future__ import annotations

from random import Random

from bench.driver import Ours
from mover.units import MIB


def test_each_disk_of_a_point_has_its_own_size(tmp_path):
    disks = []
    for number, size in enumerate((3 * MIB, MIB)):
        disks.append(tmp_path / f"disk-{number}")
        disks[-1].write_bytes(Random(number).randbytes(size))
    ours = Ours(tmp_path / "repository", tmp_path / "cache", {})
    ours.prepare()
    ours.run("full", 0, point="p", devices=[str(disk) for disk in disks])
    assert ours.run("restore", 0, point="p", devices=[]).more["verified"] == 6
