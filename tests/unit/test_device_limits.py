"""The limits of control groups, of both versions, told from trees that look like theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.config import Settings
from mover.device.cgroup import allows_blocks_of, limits
from mover.device.container import BASE_BYTES, BASE_TASKS
from mover.units import MIB
from tests.support.places import HOST, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("a *:* rwm", True),
        ("c 1:3 rwm\nb 8:* rw", True),
        ("b *:* rwm", True),
        ("b *:* m\nc *:* m", False),
        ("b 8:0 rwm", False),
        ("b 8:* r", False),
        ("b 65:* rw", False),
        ("c 8:* rwm", False),
        ("", False),
    ],
)
def test_white_lists_of_version_one(rules: str, allowed: bool):
    assert allows_blocks_of(rules.splitlines(), 8) is allowed


def test_memory_below_the_budget_is_a_problem(place: Place):
    wanted = Settings().data.budget + BASE_BYTES
    place.group("/system.slice/mover.service", memory_max=f"{wanted - 1}\n")
    assert place.look()["memory"].state == "problem"
    place.group("/system.slice/mover.service", memory_max=f"{wanted}\n")
    assert place.look()["memory"].state == "ok"
    place.group("/system.slice", memory_max=f"{64 * MIB}\n")
    assert "64.0 MiB allowed" in place.look()["memory"].what


def test_no_limit_is_none(place: Place):
    place.group("/system.slice/mover.service", memory_max="max\n", cpu_max="max 100000\n", pids_max="max\n")
    found = limits(place.root)
    assert (found.memory_bytes, found.cores, found.tasks, found.throttles) == (None, None, None, ())
    assert found.device_rules is None


def test_a_quota_below_the_compute_threads_is_noted(place: Place):
    settings = Settings.model_validate({"data": {"compute_threads": 4}})
    place.group("/system.slice/mover.service", cpu_max="150000 100000\n")
    found = place.look(settings)["processors"]
    assert (found.state, found.what) == ("note", "a quota of 1.5 processors for 4 compute threads")
    assert "data.compute_threads to 1" in found.remedy
    place.group("/system.slice/mover.service", cpu_max="400000 100000\n")
    assert place.look(settings)["processors"].state == "ok"


def test_too_few_threads_are_a_problem(place: Place):
    place.group("/system.slice/mover.service", pids_max=f"{BASE_TASKS}\n")
    assert place.look()["threads"].state == "problem"
    place.group("/system.slice/mover.service", pids_max="2048\n")
    assert place.look()["threads"].state == "ok"


def test_limits_of_io_are_named(place: Place):
    place.group("/system.slice/mover.service", io_max="8:0 rbps=104857600 wbps=max riops=max wiops=200\n")
    found = place.look()["io limits"]
    assert found.state == "note"
    assert found.what == "The control group limits io: 8:0 reads 105 MB/s; 8:0 writes 200/s."


def test_limits_of_version_one(place: Place):
    """As a container sees them: its own group is the top of each mount, under another name outside."""
    lines = "".join(
        f"{number} 31 0:{number} /docker/ab /sys/fs/cgroup/{names} ro - cgroup cgroup rw,{names}\n"
        for number, names in enumerate(("memory", "cpu,cpuacct", "pids", "blkio", "devices"), start=40)
    )
    place.mounts(HOST + lines)
    place.file(
        "proc/self/cgroup",
        "5:devices:/docker/ab\n4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n2:pids:/docker/ab\n1:blkio:/docker/ab\n",
    )
    top = "sys/fs/cgroup"
    place.file(f"{top}/memory/memory.limit_in_bytes", "67108864\n")
    place.file(f"{top}/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
    place.file(f"{top}/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    place.file(f"{top}/pids/pids.max", "20\n")
    place.file(f"{top}/blkio/blkio.throttle.write_iops_device", "8:16 50\n")
    place.file(f"{top}/devices/devices.list", "b *:* m\nb 8:* rwm\n")
    found = limits(place.root)
    assert found.memory_bytes == 64 * MIB
    assert (found.cores, found.tasks, found.throttles) == (0.5, 20, ("8:16 writes 50/s",))
    assert found.device_rules == ("b *:* m", "b 8:* rwm")


def test_version_one_writes_no_limit_as_a_large_number(place: Place):
    place.mounts(HOST + "40 31 0:40 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    place.file("proc/self/cgroup", "4:memory:/a\n")
    place.file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n")
    assert limits(place.root).memory_bytes is None
